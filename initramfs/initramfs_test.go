// SPDX-License-Identifier: Apache-2.0

package initramfs_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/mkuimage/cpio"
	"github.com/ulikunitz/xz"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/golden"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/internal/cache"
)

func newCache(t testing.TB) *cache.Cache {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	return c
}

// self is a program for /init: this test binary.
func self(t testing.TB) string {
	t.Helper()
	exe, err := os.Executable()
	assert.NilError(t, err)
	return exe
}

func build(t testing.TB, s initramfs.Spec) map[string]cpio.Record {
	t.Helper()
	if s.Init == "" {
		s.Init = self(t)
	}
	path, err := initramfs.Build(context.Background(), s, initramfs.Options{CacheDir: t.TempDir()})
	assert.NilError(t, err)
	return read(t, path)
}

func read(t testing.TB, path string) map[string]cpio.Record {
	t.Helper()
	f, err := os.Open(path)
	assert.NilError(t, err)
	t.Cleanup(func() { assert.NilError(t, f.Close()) })
	list, err := cpio.ReadAllRecords(cpio.Newc.Reader(f))
	assert.NilError(t, err)
	records := map[string]cpio.Record{}
	for _, r := range list {
		parent := filepath.Dir(r.Name)
		_, seen := records[parent]
		assert.Assert(t, parent == "." || seen, "%s comes before its directory", r.Name)
		_, twice := records[r.Name]
		assert.Assert(t, !twice, "%s is there twice", r.Name)
		records[r.Name] = r
	}
	return records
}

func content(t testing.TB, r cpio.Record) string {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
	assert.NilError(t, err)
	return string(b)
}

func write(t testing.TB, name, text string, mode fs.FileMode) string {
	t.Helper()
	assert.NilError(t, os.MkdirAll(filepath.Dir(name), 0o755))
	assert.NilError(t, os.WriteFile(name, []byte(text), 0o600))
	assert.NilError(t, os.Chmod(name, mode))
	return name
}

// fakeELF is a static program for no machine in particular.
func fakeELF(machine byte) string {
	h := make([]byte, 64)
	copy(h, "\x7fELF\x02\x01\x01")
	h[16], h[18], h[20] = 2, machine, 1
	h[52], h[54], h[58] = 64, 56, 64
	return string(h)
}

const (
	x86 = 62  // EM_X86_64
	arm = 183 // EM_AARCH64
)

// TestListing shows a whole archive, with everything that a Spec can say but
// shared libraries and modules.
func TestListing(t *testing.T) {
	dir := t.TempDir()
	init := write(t, filepath.Join(dir, "init"), fakeELF(x86), 0o755)
	hosts := write(t, filepath.Join(dir, "hosts"), "own hosts\n", 0o640)
	assert.NilError(t, os.Symlink(hosts, filepath.Join(dir, "link")))
	bb := filepath.Join(dir, "bb")
	write(t, filepath.Join(bb, initramfs.BusyboxBinary), fakeELF(x86), 0o700)
	write(t, filepath.Join(bb, initramfs.BusyboxList), "cat\nls\ngosh\n", 0o600)
	path, err := initramfs.Build(context.Background(), initramfs.Spec{
		Init: init, Arch: "amd64",
		Files: []initramfs.File{
			{Host: filepath.Join(dir, "link"), Guest: "/etc/hosts"},
			{Data: []byte("data\n"), Guest: "/deep/below/data"},
			{Data: []byte("secret\n"), Guest: "/etc/shadow", Mode: 0o600},
			{Host: hosts, Guest: "/bin/ls", Mode: 0o755 | fs.ModeSetuid}, // replaces busybox's
			{Data: nil, Guest: "/empty"},
		},
		Dirs:     []string{"/tmp", "/a/b"},
		Symlinks: map[string]string{"/lib64/x": "../y", "/var/tmp": "/elsewhere"},
		Busybox:  bb,
		Config:   []byte("CONFIG_X=y\n"),
	}, initramfs.Options{CacheDir: t.TempDir()})
	assert.NilError(t, err)
	f, err := os.Open(path)
	assert.NilError(t, err)
	defer f.Close()
	var b strings.Builder
	err = cpio.ForEachRecord(cpio.Newc.Reader(f), func(r cpio.Record) error {
		fmt.Fprintf(&b, "%d %o %d:%d %d links %d, %d,%d %d bytes at %d /%s", r.Ino, r.Mode, r.UID, r.GID, r.NLink, r.Major, r.Rmajor, r.Rminor, r.FileSize, r.MTime, r.Name)
		switch {
		case r.Mode&cpio.S_IFMT == cpio.S_IFLNK:
			fmt.Fprintf(&b, " -> %s", content(t, r))
		case r.FileSize > 0 && r.FileSize != 64:
			fmt.Fprintf(&b, " %q", content(t, r))
		}
		b.WriteByte('\n')
		return nil
	})
	assert.NilError(t, err)
	golden.Assert(t, b.String(), "listing.golden")
}

// TestOverlay: an archive's entries that another one has as well are left out.
func TestOverlay(t *testing.T) {
	dir := t.TempDir()
	base := initramfs.Spec{
		Init: write(t, filepath.Join(dir, "init"), fakeELF(x86), 0o755), Arch: "amd64",
		Files: []initramfs.File{
			{Data: []byte("same"), Guest: "/etc/same"}, {Data: []byte("content"), Guest: "/etc/content"}, {Data: []byte("mode"), Guest: "/etc/mode"},
			{Data: []byte("only the base's"), Guest: "/etc/base"},
		},
	}
	s := base
	s.Files = []initramfs.File{
		{Data: []byte("same"), Guest: "/etc/same"}, {Data: []byte("changed"), Guest: "/etc/content"}, {Data: []byte("mode"), Guest: "/etc/mode", Mode: 0o600},
		{Data: []byte("new"), Guest: "/tmp/below/new"}, {Data: []byte("own hosts"), Guest: "/etc/hosts"},
	}
	overlay := func(s initramfs.Spec) map[string]string {
		f, err := os.Create(filepath.Join(t.TempDir(), "overlay"))
		assert.NilError(t, err)
		defer f.Close()
		n, err := initramfs.Overlay(context.Background(), f, s, base, initramfs.Options{CacheDir: filepath.Join(dir, "cache")})
		assert.NilError(t, err)
		st, err := f.Stat()
		assert.NilError(t, err)
		assert.Equal(t, st.Size(), n)
		_, err = f.Seek(0, io.SeekStart)
		assert.NilError(t, err)
		got := map[string]string{}
		list, err := cpio.ReadAllRecords(cpio.Newc.Reader(f))
		assert.NilError(t, err)
		for _, r := range list {
			got[r.Name] = fmt.Sprintf("%o %s", r.Mode, content(t, r))
		}
		return got
	}
	assert.DeepEqual(t, overlay(base), map[string]string{})
	assert.DeepEqual(t, overlay(s), map[string]string{
		"etc/content": "100644 changed", "etc/mode": "100600 mode", "etc/hosts": "100644 own hosts", "tmp/below": "40755 ", "tmp/below/new": "100644 new",
	})
	// The init of a machine that is already there stays, or is another one.
	init, keeps := base.Init, base
	keeps.Init = ""
	assert.DeepEqual(t, overlay(keeps), map[string]string{})
	base.Init, keeps.Init = "", init
	assert.DeepEqual(t, slices.Sorted(maps.Keys(overlay(keeps))), []string{"init"})

	o := initramfs.Options{CacheDir: filepath.Join(dir, "cache")}
	_, err := initramfs.Overlay(context.Background(), io.Discard, s, initramfs.Spec{Arch: "vax"}, o)
	assert.ErrorContains(t, err, "its base")
}

// TestHash: what is only there because of a program does not count without it.
func TestHash(t *testing.T) {
	dir := t.TempDir()
	hash := func(s initramfs.Spec) string {
		h, err := initramfs.Hash(context.Background(), s, initramfs.Options{CacheDir: filepath.Join(dir, "cache")})
		assert.NilError(t, err)
		return h
	}
	s := initramfs.Spec{Arch: "amd64", Files: []initramfs.File{{Data: []byte("x"), Guest: "/x"}}}
	without := hash(s)
	seen := map[string]bool{without: true}
	for i := range 2 {
		s.Init = write(t, filepath.Join(dir, "init"), fakeELF(x86)+strings.Repeat("x", i), 0o755)
		h := hash(s)
		assert.Assert(t, !seen[h] && hash(s) == h)
		seen[h] = true
	}
	s.Init = ""
	assert.Equal(t, hash(s), without)
	s.Files[0].Data = []byte("y")
	assert.Assert(t, !seen[hash(s)])
}

// TestReproducible: only contents and modes count.
func TestReproducible(t *testing.T) {
	var sums []string
	for i := range 2 {
		dir := t.TempDir()
		init := write(t, filepath.Join(dir, "a/init"), fakeELF(x86), 0o755)
		one := write(t, filepath.Join(dir, fmt.Sprint("one", i)), "one", 0o644)
		two := write(t, filepath.Join(dir, fmt.Sprint("two", i)), "two", 0o644)
		then := time.Unix(int64(1000*i), 0)
		for _, f := range []string{init, one, two} {
			assert.NilError(t, os.Chtimes(f, then, then))
		}
		files := []initramfs.File{{Host: one, Guest: "/one"}, {Host: two, Guest: "/two"}}
		if i == 1 {
			files[0], files[1] = files[1], files[0]
		}
		path, err := initramfs.Build(context.Background(), initramfs.Spec{Arch: "amd64", Init: init, Files: files,
			Symlinks: map[string]string{"/l1": "a", "/l2": "b", "/l3": "c"}}, initramfs.Options{CacheDir: t.TempDir()})
		assert.NilError(t, err)
		b, err := os.ReadFile(path)
		assert.NilError(t, err)
		sums = append(sums, fmt.Sprintf("%x %s", sha256.Sum256(b), filepath.Base(filepath.Dir(path))))
	}
	assert.Equal(t, sums[0], sums[1])
}

// TestChangesCount: everything that must lead to another archive.
func TestChangesCount(t *testing.T) {
	dir, c := t.TempDir(), newCache(t)
	init := write(t, filepath.Join(dir, "init"), fakeELF(x86), 0o755)
	file := write(t, filepath.Join(dir, "file"), "one", 0o644)
	spec := initramfs.Spec{Arch: "amd64", Init: init, Files: []initramfs.File{{Host: file}}}
	seen := map[string]string{}
	try := func(what string) {
		t.Helper()
		path, err := initramfs.Build(context.Background(), spec, initramfs.Options{CacheDir: c.Root()})
		assert.NilError(t, err)
		again, err := initramfs.Build(context.Background(), spec, initramfs.Options{CacheDir: c.Root()})
		assert.NilError(t, err)
		assert.Equal(t, path, again)
		assert.Equal(t, seen[path], "", "%s and %s give the same archive", what, seen[path])
		seen[path] = what
	}
	try("nothing")
	write(t, file, "two", 0o644)
	try("content")
	assert.NilError(t, os.Chmod(file, 0o600))
	try("mode")
	spec.Files[0].Guest = "/elsewhere"
	try("path")
	spec.Config = []byte{}
	try("empty configuration")
	spec.Config = []byte("x")
	try("configuration")
	spec.Symlinks = map[string]string{"/l": "a"}
	try("link")
	spec.Symlinks["/l"] = "b"
	try("link's target")
	spec.Dirs = []string{"/d"}
	try("directory")
	write(t, init, fakeELF(x86)+"x", 0o755)
	try("init")
}

func TestConcurrentBuilds(t *testing.T) {
	dir, c := t.TempDir(), newCache(t)
	file := write(t, filepath.Join(dir, "file"), strings.Repeat("x", 1<<20), 0o644)
	var wg sync.WaitGroup
	paths := make([]string, 8)
	for i := range paths {
		wg.Go(func() {
			var err error
			paths[i], err = initramfs.Build(context.Background(), initramfs.Spec{Init: self(t), Files: []initramfs.File{{Host: file}}}, initramfs.Options{CacheDir: c.Root()})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, p := range paths {
		assert.Equal(t, p, paths[0])
	}
	read(t, paths[0])
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c := newCache(t)
	_, err := initramfs.Build(ctx, initramfs.Spec{Init: self(t)}, initramfs.Options{CacheDir: c.Root()})
	assert.Assert(t, errors.Is(err, context.Canceled), err)
	list, err := c.List()
	assert.NilError(t, err)
	assert.Equal(t, len(list), 0)
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	static := write(t, filepath.Join(dir, "static"), fakeELF(x86), 0o755)
	text := write(t, filepath.Join(dir, "text"), "text", 0o644)
	foreign := write(t, filepath.Join(dir, "foreign"), fakeELF(arm), 0o755)
	cut := write(t, filepath.Join(dir, "cut"), "\x7fELF\x02", 0o755)
	assert.NilError(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	huge := write(t, filepath.Join(dir, "huge"), "", 0o644)
	assert.NilError(t, os.Truncate(huge, 5<<30))
	mods := filepath.Join(dir, "lib/modules/6.1-other")
	write(t, filepath.Join(mods, "modules.builtin"), "kernel/fs/ext4/ext4.ko\n", 0o644)
	write(t, filepath.Join(mods, "kernel/dm-verity.ko"), "not a module", 0o644)
	file := func(f ...initramfs.File) initramfs.Spec { return initramfs.Spec{Init: static, Files: f} }
	for _, test := range []struct {
		name string
		spec initramfs.Spec
		want []string
	}{
		{"no init", initramfs.Spec{}, []string{"no init program given"}},
		{"missing init", initramfs.Spec{Init: dir + "/none"}, []string{"init: ", dir + "/none", "no such file"}},
		{"init is text", initramfs.Spec{Init: text}, []string{"init " + text, "not an ELF program"}},
		{"init for another machine", initramfs.Spec{Init: foreign}, []string{"init " + foreign, "for arm64, but the guest is amd64"}},
		{"init is cut off", initramfs.Spec{Init: cut}, []string{cut, "read ELF file"}},
		{"unknown architecture", initramfs.Spec{Init: static, Arch: "vax"}, []string{`"vax" is not supported`}},
		{"missing file", file(initramfs.File{Host: dir + "/none"}), []string{dir + "/none", "no such file"}},
		{"dangling link", file(initramfs.File{Host: dir + "/dangling"}), []string{dir + "/dangling", "no such file"}},
		{"directory", file(initramfs.File{Host: dir}), []string{dir + ": is a directory"}},
		{"device", file(initramfs.File{Host: "/dev/null"}), []string{"/dev/null: is not a regular file"}},
		{"too large", file(initramfs.File{Host: huge}), []string{huge, "do not fit"}},
		{"file for another machine", file(initramfs.File{Host: foreign, Runs: true}), []string{"guest file " + foreign, "for arm64, but the guest is amd64"}},
		{"no path", file(initramfs.File{Data: []byte("x")}), []string{"without host and guest path"}},
		{"relative", file(initramfs.File{Host: text, Guest: "etc/x"}), []string{`"etc/x": want an absolute path`}},
		{"root", file(initramfs.File{Host: text, Guest: "/x/.."}), []string{"is the root directory"}},
		{"NUL", file(initramfs.File{Host: text, Guest: "/a\x00b"}), []string{"NUL"}},
		{"long", file(initramfs.File{Host: text, Guest: "/" + strings.Repeat("x", 5000)}), []string{"too long"}},
		{"collision", file(initramfs.File{Host: text, Guest: "/lib/x"}, initramfs.File{Data: []byte("x"), Guest: "/usr/lib/../lib/x"}),
			[]string{"two different things for the guest's /usr/lib/x: " + text + " and given content"}},
		{"below a file", file(initramfs.File{Host: text, Guest: "/x"}, initramfs.File{Host: text, Guest: "/x/y"}), []string{"/x/y: /x is no directory"}},
		{"two mistakes", file(initramfs.File{Host: dir + "/none"}, initramfs.File{Host: dir}), []string{"no such file", "is a directory"}},
		{"empty link", initramfs.Spec{Init: static, Symlinks: map[string]string{"/l": ""}}, []string{"symlink /l"}},
		{"no modules directory", initramfs.Spec{Init: static, ModulesDir: dir + "/none", Modules: []string{"x"}}, []string{"modules directory", "no such file"}},
		{"modules directory is a file", initramfs.Spec{Init: static, ModulesDir: text}, []string{text, "is not a directory"}},
		{"not a modules directory", initramfs.Spec{Init: static, ModulesDir: t.TempDir()}, []string{"holds no modules"}},
		{"modules of another kernel", initramfs.Spec{Init: static, ModulesDir: mods, Release: "6.12"},
			[]string{"is for kernel 6.1-other, but the kernel is 6.12"}},
		{"unknown module", initramfs.Spec{Init: static, ModulesDir: mods, Modules: []string{"dm_verty"}},
			[]string{"kernel module dm_verty", "did you mean dm_verity?"}},
		{"unknown module, nothing near", initramfs.Spec{Init: static, ModulesDir: mods, Modules: []string{"zzzzzz"}},
			[]string{"kernel module zzzzzz", "built without it)"}},
		{"damaged module", initramfs.Spec{Init: static, ModulesDir: mods, Modules: []string{"dm-verity"}}, []string{"module dm_verity", "read module"}},
		{"no busybox", initramfs.Spec{Init: static, Busybox: dir}, []string{"busybox", "no such file"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.spec.Arch == "" {
				test.spec.Arch = "amd64"
			}
			c := newCache(t)
			_, err := initramfs.Build(context.Background(), test.spec, initramfs.Options{CacheDir: c.Root()})
			for _, w := range test.want {
				assert.ErrorContains(t, err, w)
			}
			list, lerr := c.List()
			assert.NilError(t, lerr)
			for _, e := range list {
				assert.Assert(t, e.Kind != "initramfs", "%v", e)
			}
		})
	}
}

func TestUnreadable(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("needs a user for whom permissions count: run the tests as another user than root")
	}
	f := write(t, filepath.Join(t.TempDir(), "f"), "x", 0)
	_, err := initramfs.Build(context.Background(), initramfs.Spec{Init: self(t), Files: []initramfs.File{{Host: f}}}, initramfs.Options{CacheDir: t.TempDir()})
	assert.ErrorContains(t, err, f)
	assert.Assert(t, errors.Is(err, fs.ErrPermission))
}

// ldd asks the real loader.
func ldd(t *testing.T, prog string) []string {
	t.Helper()
	out, err := exec.Command("ldd", prog).Output()
	assert.NilError(t, err)
	var libs []string
	for _, l := range strings.Split(string(out), "\n") {
		for _, w := range strings.Fields(l) {
			if strings.HasPrefix(w, "/") {
				libs = append(libs, w)
			}
		}
	}
	return libs
}

// TestLibraries compares with the loader for real programs.
func TestLibraries(t *testing.T) {
	pam, err := filepath.Glob("/lib/*/security/pam_cap.so")
	assert.NilError(t, err)
	progs := append([]string{"/bin/ls", "/usr/bin/apt", "/bin/bash"}, pam...)
	for _, prog := range progs {
		t.Run(filepath.Base(prog), func(t *testing.T) {
			if _, err := os.Stat(prog); err != nil {
				t.Skipf("needs %s (install its package: apt-get install coreutils apt bash libpam-cap)", prog)
			}
			records := build(t, initramfs.Spec{Files: []initramfs.File{{Host: prog}}})
			libs := ldd(t, prog)
			assert.Assert(t, len(libs) > 1)
			for _, lib := range libs {
				guest := strings.TrimPrefix(lib, "/")
				if !strings.HasPrefix(guest, "usr/") {
					guest = "usr/" + guest
				}
				r, ok := records[guest]
				assert.Assert(t, ok, "%s is missing", lib)
				want, err := os.ReadFile(lib)
				assert.NilError(t, err)
				assert.Assert(t, content(t, r) == string(want), lib)
			}
		})
	}
}

// TestSearchPaths builds libraries that only RUNPATH, RPATH or $ORIGIN lead to.
func TestSearchPaths(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("needs gcc to make shared libraries (apt-get install gcc libc6-dev)")
	}
	dir := t.TempDir()
	src := write(t, filepath.Join(dir, "x.c"), "int f(void) { return 0; }\nint main(void) { return f(); }\n", 0o644)
	gcc := func(args ...string) {
		t.Helper()
		out, err := exec.Command("gcc", append(args, src)...).CombinedOutput()
		assert.NilError(t, err, "%s", out)
	}
	for _, d := range []string{"app/bin", "app/lib", "abs", "gone"} {
		assert.NilError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	p := func(s string) string { return filepath.Join(dir, s) }
	link := func(flags, out string, libs ...string) {
		t.Helper()
		args := []string{"-o", p(out), "-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined"}
		if strings.HasSuffix(out, ".so") {
			args = append(args, "-shared", "-fPIC")
		}
		if flags != "" {
			args = append(args, strings.Fields(flags)...)
		}
		for _, l := range libs {
			args = append(args, "-L"+filepath.Dir(p(l)), "-l:"+filepath.Base(l))
		}
		gcc(args...)
	}
	link("", "abs/libc1.so")
	// Found only by the RPATH that it inherits from the program.
	link("", "app/lib/libb.so", "abs/libc1.so")
	link("-Wl,-rpath,$ORIGIN", "app/lib/liba.so", "app/lib/libb.so")
	link("-Wl,--disable-new-dtags,-rpath,$ORIGIN/../lib:"+p("abs"), "app/bin/rpath", "app/lib/libb.so")
	link("-Wl,--enable-new-dtags,-rpath,${ORIGIN}/../lib", "app/bin/runpath", "app/lib/libb.so")
	link("", "gone/libgone.so")
	link("", "app/bin/lost", "gone/libgone.so")
	assert.NilError(t, os.RemoveAll(p("gone")))

	// In another place in the guest, $ORIGIN is that place.
	records := build(t, initramfs.Spec{Files: []initramfs.File{{Host: p("app/bin/rpath"), Guest: "/opt/bin/prog"}}})
	for _, want := range []string{"opt/bin/prog", "opt/lib/libb.so", p("abs/libc1.so")[1:]} {
		_, ok := records[want]
		assert.Assert(t, ok, want)
	}

	// RUNPATH is not inherited: libb's own needs are not found, as ldd agrees.
	_, err := initramfs.Build(context.Background(), initramfs.Spec{Init: self(t), Files: []initramfs.File{
		{Host: p("app/bin/runpath"), Guest: "/opt/bin/prog"}, {Host: p("app/bin/lost"), Guest: "/opt/bin/lost"}}}, initramfs.Options{CacheDir: t.TempDir()})
	assert.ErrorContains(t, err, "shared library libc1.so, needed by "+p("app/lib/libb.so"))
	assert.ErrorContains(t, err, "shared library libgone.so, needed by "+p("app/bin/lost")+", not found in ")
	out, _ := exec.Command("ldd", p("app/bin/runpath")).CombinedOutput()
	assert.Assert(t, cmp.Contains(string(out), "libc1.so => not found"))
}

// release is the kernel of the made-up modules.
const release = "6.99-test"

// module makes a file that is a module as far as its .modinfo goes.
func module(t *testing.T, info ...string) string {
	t.Helper()
	if _, err := exec.LookPath("objcopy"); err != nil {
		t.Skip("needs objcopy to make modules (apt-get install binutils)")
	}
	dir := t.TempDir()
	empty := filepath.Join(dir, "m.o")
	text := write(t, filepath.Join(dir, "info"), strings.Join(append(info, "vermagic="+release+" SMP"), "\x00")+"\x00", 0o644)
	out, err := exec.Command("objcopy", "-I", "binary", "-O", "elf64-x86-64", "--rename-section", ".data=.modinfo", text, empty).CombinedOutput()
	assert.NilError(t, err, "%s", out)
	b, err := os.ReadFile(empty)
	assert.NilError(t, err)
	return string(b)
}

func compressed(t *testing.T, how, text string) string {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch how {
	case ".xz":
		w, err = xz.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b)
	case ".gz":
		w = gzip.NewWriter(&b)
	default:
		return text
	}
	assert.NilError(t, err)
	_, err = io.WriteString(w, text)
	assert.NilError(t, err)
	assert.NilError(t, w.Close())
	return b.String()
}

// modulesTree makes a modules directory with dependencies of all sorts.
func modulesTree(t *testing.T, depmod bool) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), release)
	list := map[string][]string{
		"kernel/a/top-one.ko.xz":   {"depends=mid,built_in", "softdep=pre: helper missing_one post: after"},
		"kernel/a/mid.ko.zst":      {"depends=base", "alias=fs-mid"},
		"kernel/b/base.ko.gz":      {"depends="},
		"kernel/b/helper.ko":       {"depends=base2"},
		"kernel/b/base2.ko":        {"depends="},
		"kernel/b/after.ko":        {"depends=top_one"},
		"kernel/b/virtio_pci.ko":   {"depends="},
		"kernel/b/unrelated.ko":    {"depends=nowhere"},
		"kernel/b/alias_user.ko":   {"depends="},
		"kernel/b/wants-soft.ko":   {"softdep=pre: base"},
		"kernel/b/wants-hard.ko":   {"depends=base"},
		"kernel/b/other_kernel.ko": nil,
	}
	var dep strings.Builder
	for name, info := range list {
		text := module(t, info...)
		if info == nil {
			text = strings.ReplaceAll(text, release, "6.98-test")
		}
		write(t, filepath.Join(dir, name), compressed(t, filepath.Ext(name), text), 0o644)
		fmt.Fprintf(&dep, "%s:\n", name)
	}
	write(t, filepath.Join(dir, "modules.builtin"), "kernel/x/built-in.ko\n", 0o644)
	if depmod {
		write(t, filepath.Join(dir, "modules.dep"), dep.String(), 0o644)
		write(t, filepath.Join(dir, "modules.alias"), "# comment\nalias fs-mid mid\nalias pci:v00001AF4d*sv* virtio_pci\n", 0o644)
	}
	return dir
}

func TestModules(t *testing.T) {
	for _, depmod := range []bool{false, true} {
		t.Run(fmt.Sprintf("depmod=%v", depmod), func(t *testing.T) {
			dir := modulesTree(t, depmod)
			load := func(names ...string) string {
				t.Helper()
				records := build(t, initramfs.Spec{Init: self(t), ModulesDir: dir, Release: release, Modules: names})
				list := content(t, records[initramfs.ModulesFile[1:]])
				var short []string
				for _, l := range strings.Fields(list) {
					file := strings.TrimPrefix(l, "?")
					r, ok := records[file[1:]]
					assert.Assert(t, ok, l)
					assert.Assert(t, strings.HasPrefix(content(t, r), "\x7fELF"), l)
					short = append(short, strings.Replace(strings.TrimSuffix(l, ".ko"), "/usr/lib/modules/"+release+"/kernel/", "", 1))
				}
				return strings.Join(short, " ")
			}
			assert.Equal(t, load("top_one"), "b/virtio_pci ?b/base2 ?b/helper b/base a/mid a/top-one ?b/after")
			assert.Equal(t, load("top-one", "helper", "built-in", "top_one"), "b/virtio_pci b/base2 b/helper b/base a/mid a/top-one ?b/after")
			assert.Equal(t, load("wants-soft"), "b/virtio_pci ?b/base b/wants-soft")
			assert.Equal(t, load("wants-soft", "wants-hard"), "b/virtio_pci b/base b/wants-soft b/wants-hard")
			assert.Equal(t, load(), "b/virtio_pci")
			if depmod {
				assert.Equal(t, load("fs-mid", "pci:v00001AF4d00001000sv0"), "b/virtio_pci b/base a/mid")
			}
			for name, want := range map[string]string{
				"unrelated":    "depends on nowhere, which is not in",
				"other-kernel": "was built for kernel 6.98-test, not for 6.99-test",
				"fs-nothing":   "neither in",
			} {
				_, err := initramfs.Build(context.Background(), initramfs.Spec{Init: self(t), ModulesDir: dir, Modules: []string{name}}, initramfs.Options{CacheDir: t.TempDir()})
				assert.ErrorContains(t, err, want)
			}
		})
	}
}

func TestModulesTakenAsBuiltIn(t *testing.T) {
	var said []string
	_, err := initramfs.Build(context.Background(), initramfs.Spec{Init: self(t), Modules: []string{"loop", "ext4"}}, initramfs.Options{CacheDir: t.TempDir(), Progress: func(s string) { said = append(said, s) }})
	assert.NilError(t, err)
	assert.DeepEqual(t, said, []string{"no modules directory: taking loop, ext4 as built into the kernel"})
}

// TestRealModules: the closure of a distribution's modules. That they load is
// tested in package guest.
func TestRealModules(t *testing.T) {
	k := os.Getenv("KVMRUN_KERNEL")
	dirs, err := filepath.Glob(filepath.Join(filepath.Dir(k), "../lib/modules/*"))
	assert.NilError(t, err)
	if k == "" || len(dirs) != 1 {
		t.Skip("needs a kernel with its modules: set KVMRUN_KERNEL to the path of a vmlinuz with ../lib/modules/RELEASE (make test does)")
	}
	records := build(t, initramfs.Spec{ModulesDir: dirs[0], Modules: []string{"virtio_blk", "loop", "dm-verity", "ext4"}})
	list := content(t, records[initramfs.ModulesFile[1:]])
	last := -1
	for _, want := range []string{"/virtio_blk.ko\n", "/loop.ko\n", "/dm-mod.ko\n", "/dm-bufio.ko\n", "/dm-verity.ko\n"} {
		i := strings.Index(list, want)
		assert.Assert(t, i >= 0, "%s is not in\n%s", want, list)
		if want == "/dm-verity.ko\n" {
			assert.Assert(t, i > last, list)
		}
		last = max(last, i)
	}
}

// BenchmarkWarm is what every run pays: nothing has changed.
func BenchmarkWarm(b *testing.B) {
	c := newCache(b)
	init := write(b, filepath.Join(b.TempDir(), "init"), fakeELF(x86)+strings.Repeat("x", 15<<20), 0o755)
	then := time.Now().Add(-time.Hour)
	assert.NilError(b, os.Chtimes(init, then, then))
	time.Sleep(2100 * time.Millisecond) // the cache does not trust younger files
	spec := initramfs.Spec{Arch: "amd64", Init: init, Files: []initramfs.File{{Host: "/bin/ls"}}}
	if dirs, _ := filepath.Glob(filepath.Join(filepath.Dir(os.Getenv("KVMRUN_KERNEL")), "../lib/modules/*")); len(dirs) == 1 {
		spec.ModulesDir, spec.Modules = dirs[0], []string{"virtio_blk", "loop", "dm-verity"}
	}
	build := func() {
		_, err := initramfs.Build(context.Background(), spec, initramfs.Options{CacheDir: c.Root()})
		assert.NilError(b, err)
	}
	build()
	for b.Loop() {
		build()
	}
}

// BenchmarkNewInit is what a run pays after the tests were compiled again.
func BenchmarkNewInit(b *testing.B) {
	c := newCache(b)
	dir := b.TempDir()
	text := strings.Repeat("x", 15<<20)
	i := 0
	for b.Loop() {
		b.StopTimer()
		init := write(b, filepath.Join(dir, "init"), fakeELF(x86)+text+fmt.Sprint(i), 0o755)
		i++
		b.StartTimer()
		_, err := initramfs.Build(context.Background(), initramfs.Spec{Arch: "amd64", Init: init}, initramfs.Options{CacheDir: c.Root()})
		assert.NilError(b, err)
	}
}
