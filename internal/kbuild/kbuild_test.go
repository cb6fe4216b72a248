// SPDX-License-Identifier: Apache-2.0

package kbuild_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/kbuild"
	"github.com/kvmrun/kvmrun/internal/kbuild/fake"
	"github.com/kvmrun/kvmrun/internal/kconfig"
	"github.com/kvmrun/kvmrun/internal/kfetch"
	"github.com/kvmrun/kvmrun/kconfigs"
	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/ext4"
	"github.com/kvmrun/kvmrun/suites/ipe"
	"github.com/kvmrun/kvmrun/suites/landlock"
	"github.com/kvmrun/kvmrun/suites/pamcap"
	"github.com/kvmrun/kvmrun/suites/uffdwp"
)

const fakeMakefile = fake.Makefile

// fakeTree makes a source tree whose Kconfig knows what the lean profile asks
// for, DROPPED, and nothing else.
func fakeTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	assert.NilError(t, fake.Write(dir, "lean"))
	return dir
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	assert.NilError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	assert.NilError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

func config(t *testing.T, src string) kbuild.Config {
	t.Helper()
	c, err := cache.Open(filepath.Join(t.TempDir(), "cache"))
	assert.NilError(t, err)
	return kbuild.Config{Cache: c, Source: src, Env: os.Environ(), NoCcache: true, Progress: testLog{t}}
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// snapshot is everything about a tree that a build must not change.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	assert.NilError(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		out[p] = fmt.Sprint(fi.Mode(), fi.Size(), fi.ModTime().UnixNano())
		return nil
	}))
	return out
}

const patchA = `A patch.
---
--- a/a.c
+++ b/a.c
@@ -1,4 +1,4 @@
 int a(void)
 {
-	return 1;
+	return 11;
 }
`

func TestBuild(t *testing.T) {
	src := fakeTree(t)
	before := snapshot(t, src)
	c := config(t, src)
	ctx := context.Background()
	a, err := kbuild.Build(ctx, c)
	assert.NilError(t, err)
	assert.Assert(t, !a.Cached)
	m := a.Manifest
	assert.Equal(t, m.Release, "6.12.1-kvmrun")
	assert.Equal(t, m.Objects, 3)
	assert.Equal(t, m.Source.Version, "6.12.1")
	assert.Equal(t, m.Profile, "lean")
	assert.Assert(t, len(m.BuildID) == 40, m.BuildID)
	assert.Assert(t, strings.Contains(m.Compiler, "gcc"), m.Compiler)
	for _, f := range []string{a.Vmlinux, a.Image, a.Config, a.SystemMap, a.Key, filepath.Join(a.ModulesDir, "modules.dep")} {
		_, err := os.Stat(f)
		assert.NilError(t, err)
	}
	_, err = os.Lstat(filepath.Join(a.ModulesDir, "build"))
	assert.ErrorIs(t, err, fs.ErrNotExist)

	fi, err := os.Stat(a.Key)
	assert.NilError(t, err)
	assert.Equal(t, fi.Mode().Perm(), fs.FileMode(0o600))
	text, err := os.ReadFile(a.Key)
	assert.NilError(t, err)
	block, rest := pem.Decode(text)
	assert.Equal(t, block.Type, "PRIVATE KEY")
	block, _ = pem.Decode(rest)
	cert, err := x509.ParseCertificate(block.Bytes)
	assert.NilError(t, err)
	assert.Assert(t, len(cert.SubjectKeyId) > 0)

	again, err := kbuild.Build(ctx, c)
	assert.NilError(t, err)
	assert.Assert(t, again.Cached)
	assert.Equal(t, again.Dir, a.Dir)
	assert.DeepEqual(t, snapshot(t, src), before)

	c.OutDir = filepath.Join(t.TempDir(), "out")
	out, err := kbuild.Build(ctx, c)
	assert.NilError(t, err)
	assert.Assert(t, out.Cached)
	assert.Equal(t, out.Dir, c.OutDir)
	fi, err = os.Stat(out.Key)
	assert.NilError(t, err)
	assert.Equal(t, fi.Mode().Perm(), fs.FileMode(0o600))
	assert.Equal(t, out.Manifest.BuildID, a.Manifest.BuildID)
}

// A distribution's source is resolved once, its tree linked and never written.
func TestFetchedSource(t *testing.T) {
	src := fakeTree(t)
	before := snapshot(t, src)
	c := config(t, "debian:6.12")
	var refs []string
	c.Fetch = func(_ context.Context, ref string) (*kfetch.Source, error) {
		refs = append(refs, ref)
		return &kfetch.Source{Package: "linux-source-6.12", Version: "6.12.1-1", Dir: src}, nil
	}
	ctx := context.Background()
	a, err := kbuild.Build(ctx, c)
	assert.NilError(t, err)
	assert.Equal(t, a.Manifest.Source.Package, "linux-source-6.12 6.12.1-1")
	c.Patches = []string{write(t, filepath.Join(t.TempDir(), "a.patch"), patchA)}
	b, err := kbuild.Build(ctx, c)
	assert.NilError(t, err)
	assert.Equal(t, b.Manifest.Objects, 1)
	assert.DeepEqual(t, refs, []string{"debian:6.12", "debian:6.12.1-1"})
	assert.DeepEqual(t, snapshot(t, src), before)

	gone := errors.New("no such version")
	c.Fetch = func(_ context.Context, ref string) (*kfetch.Source, error) { return nil, gone }
	_, err = kbuild.Build(ctx, c)
	assert.ErrorIs(t, err, gone)
}

// A patch compiles what it touches, and nothing of it is left afterwards.
func TestPatchIsIncremental(t *testing.T) {
	src := fakeTree(t)
	before := snapshot(t, src)
	c := config(t, src)
	ctx := context.Background()
	plain, err := kbuild.Build(ctx, c)
	assert.NilError(t, err)

	c.Patches = []string{write(t, filepath.Join(t.TempDir(), "a.patch"), patchA)}
	patched, err := kbuild.Build(ctx, c)
	assert.NilError(t, err)
	assert.Equal(t, patched.Manifest.Objects, 1)
	assert.Assert(t, patched.Manifest.Incremental)
	assert.Assert(t, patched.Dir != plain.Dir)
	assert.Assert(t, patched.Manifest.BuildID != plain.Manifest.BuildID)
	assert.Equal(t, patched.Manifest.Patches[0].Name, "a.patch")

	// Another patch: a.c is taken back, and a file comes and one goes.
	c.Patches = []string{write(t, filepath.Join(t.TempDir(), "b.patch"), `--- /dev/null
+++ b/e.c
@@ -0,0 +1 @@
+int e;
--- a/b.c
+++ /dev/null
@@ -1,4 +0,0 @@
-int b(void)
-{
-	return 2;
-}
`)}
	other, err := kbuild.Build(ctx, c)
	assert.NilError(t, err)
	assert.Equal(t, other.Manifest.Objects, 2)
	symbols, err := os.ReadFile(other.SystemMap)
	assert.NilError(t, err)
	assert.Assert(t, bytes.Contains(symbols, []byte(" e\n")) && !bytes.Contains(symbols, []byte(" b\n")), "%s", symbols)

	// The plain kernel once more, without its cache entry.
	assert.NilError(t, c.Cache.Remove(ctx, "kernel", filepath.Base(plain.Dir)))
	c.Patches = nil
	again, err := kbuild.Build(ctx, c)
	assert.NilError(t, err)
	assert.Equal(t, again.Manifest.Objects, 1, "b.c came back")

	// The user edits a file.
	assert.DeepEqual(t, snapshot(t, src), before)
	write(t, filepath.Join(src, "mm", "c.c"), "int changed;\n")
	edited, err := kbuild.Build(ctx, c)
	assert.NilError(t, err)
	assert.Equal(t, edited.Manifest.Objects, 1)
	assert.Assert(t, edited.Manifest.Source.Identity != plain.Manifest.Source.Identity)
}

func TestCompilerError(t *testing.T) {
	src := fakeTree(t)
	c := config(t, src)
	ctx := context.Background()
	bad := write(t, filepath.Join(t.TempDir(), "bad.patch"), strings.ReplaceAll(patchA, "return 11;", "return nonsense;"))
	c.Patches = []string{bad}
	_, err := kbuild.Build(ctx, c)
	assert.ErrorIs(t, err, kbuild.ErrBuild)
	var be *kbuild.BuildError
	assert.Assert(t, errors.As(err, &be))
	assert.Assert(t, strings.HasPrefix(be.First, "a.c:3:"), be.First)
	assert.Assert(t, strings.Contains(be.First, "nonsense"), be.First)
	log, rerr := os.ReadFile(be.Log)
	assert.NilError(t, rerr)
	assert.Assert(t, bytes.Contains(log, []byte("nonsense")))
	assert.ErrorContains(t, err, be.Log)

	kernels, err := kbuild.List(c.Cache)
	assert.NilError(t, err)
	for _, k := range kernels {
		assert.Equal(t, k.Kind, kbuild.KindTree, "no half artifact")
	}
	c.Patches = nil
	_, err = kbuild.Build(ctx, c)
	assert.NilError(t, err)
}

func TestPatchErrors(t *testing.T) {
	src := fakeTree(t)
	for name, test := range map[string]struct{ patch, want string }{
		"context": {strings.ReplaceAll(patchA, "return 1;", "return 9;"), "does not apply to a.c: hunk #1 (line 5 of the patch, @@ -1,4 +1,4 @@) does not match"},
		// One context line is wrong: GNU patch would apply this with fuzz 1.
		"fuzz":      {"--- a/mm/c.c\n+++ b/mm/c.c\n@@ -1,3 +1,3 @@\n int wrong;\n \n-int d;\n+int e;\n", "hunk #1"},
		"no file":   {strings.ReplaceAll(patchA, "a.c", "none.c"), "the tree has no such file: none.c"},
		"twice":     {strings.NewReplacer("-\treturn 1;", "-\treturn 7;", "+\treturn 11;", "+\treturn 1;").Replace(patchA), "already applied"},
		"outside":   {strings.ReplaceAll(patchA, "b/a.c", "b/../../a.c"), "leads out of the tree"},
		"empty":     {"", "there is no unified diff in it"},
		"malformed": {strings.ReplaceAll(patchA, "-1,4 +1,4", "-1,9 +1,9"), "unexpected end of file in patch"},
		"header":    {strings.ReplaceAll(patchA, "-1,4 +1,4", "-x +y"), ":5: bad hunk header"},
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t, src)
			c.Patches = []string{write(t, filepath.Join(t.TempDir(), "x.patch"), test.patch)}
			_, err := kbuild.Build(context.Background(), c)
			assert.ErrorIs(t, err, kbuild.ErrRequest)
			assert.ErrorContains(t, err, "x.patch")
			assert.ErrorContains(t, err, test.want)
			err = kbuild.CheckPatches(context.Background(), src, c.Patches, os.Environ())
			assert.ErrorContains(t, err, test.want)
		})
	}
	c := config(t, src)
	c.Patches = []string{filepath.Join(src, "none.patch")}
	_, err := kbuild.Build(context.Background(), c)
	assert.ErrorIs(t, err, fs.ErrNotExist)
}

func TestBadRequests(t *testing.T) {
	src := fakeTree(t)
	frag := func(text string) string { return write(t, filepath.Join(t.TempDir(), "my.config"), text) }
	empty := t.TempDir()
	dirty := fakeTree(t)
	write(t, filepath.Join(dirty, ".config"), "")
	for name, test := range map[string]struct {
		change func(*kbuild.Config)
		want   string
	}{
		"no source":      {func(c *kbuild.Config) { c.Source = "" }, "no kernel source given"},
		"missing":        {func(c *kbuild.Config) { c.Source = filepath.Join(empty, "none") }, "no such file"},
		"no tree":        {func(c *kbuild.Config) { c.Source = empty }, "is not a kernel tree: it has no a Makefile"},
		"a file":         {func(c *kbuild.Config) { c.Source = filepath.Join(src, "a.c") }, "not a directory"},
		"dirty":          {func(c *kbuild.Config) { c.Source = dirty }, "make mrproper"},
		"profile":        {func(c *kbuild.Config) { c.Profile = "fat" }, `unknown profile "fat": want one of lean,`},
		"fragment":       {func(c *kbuild.Config) { c.Builtin = []string{"none"} }, `unknown fragment "none"`},
		"arch":           {func(c *kbuild.Config) { c.Arch = "vax" }, `unknown architecture "vax": want x86_64`},
		"jobs":           {func(c *kbuild.Config) { c.Jobs = -1 }, "bad number of jobs"},
		"no fragment":    {func(c *kbuild.Config) { c.Fragments = []string{"/none"} }, "no such file"},
		"syntax":         {func(c *kbuild.Config) { c.Fragments = []string{frag("\nCONFIG_X=yes\n")} }, "my.config:2: CONFIG_X: "},
		"contradiction":  {func(c *kbuild.Config) { c.Fragments = []string{frag("CONFIG_PRINTK=n\n")} }, "contradicts kconfigs/base.config:"},
		"unknown symbol": {func(c *kbuild.Config) { c.Fragments = []string{frag("CONFIG_PRINTKK=y\n")} }, "no Kconfig file of this tree defines PRINTKK; is PRINTK meant?"},
		"dropped":        {func(c *kbuild.Config) { c.Fragments = []string{frag("CONFIG_DROPPED=y\n")} }, "my.config:1: asked for CONFIG_DROPPED=y, got not set\n    Kconfig:"},
		"no initramfs": {func(c *kbuild.Config) {
			c.Fragments = []string{frag("# override: test\nCONFIG_BLK_DEV_INITRD=n\n")}
		}, "CONFIG_BLK_DEV_INITRD is not set, must be y"},
		"no console": {func(c *kbuild.Config) {
			c.Fragments = []string{frag("# override: test\nCONFIG_VIRTIO_CONSOLE=m\n")}
		}, "CONFIG_VIRTIO_CONSOLE is m, must be y"},
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t, src)
			test.change(&c)
			_, err := kbuild.Build(context.Background(), c)
			assert.ErrorContains(t, err, test.want)
			assert.ErrorIs(t, err, kbuild.ErrRequest)
			if name != "no initramfs" {
				_, err = kbuild.Configure(context.Background(), c)
				assert.ErrorContains(t, err, test.want)
			}
		})
	}
}

func TestMissingTools(t *testing.T) {
	c := config(t, fakeTree(t))
	bin := t.TempDir()
	for _, have := range []string{"make", "bc"} {
		assert.NilError(t, os.Symlink("/usr/bin/"+have, filepath.Join(bin, have)))
	}
	c.Env = []string{"PATH=" + bin}
	_, err := kbuild.Build(context.Background(), c)
	assert.ErrorIs(t, err, kbuild.ErrHost)
	var te *kbuild.ToolsError
	assert.Assert(t, errors.As(err, &te))
	var got []string
	for _, m := range te.Missing {
		got = append(got, m.Name)
	}
	assert.DeepEqual(t, got, []string{"gcc", "ld", "flex", "bison", "perl", "gelf.h", "openssl/opensslv.h", "lz4"})
	assert.ErrorContains(t, err, "apt-get install binutils bison flex gcc libelf-dev libssl-dev lz4 perl")
}

func TestNoSpace(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("kvmrun-test", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("cannot mount a small tmpfs (%v); run the test as root", err)
	}
	defer func() { assert.NilError(t, unix.Unmount(dir, unix.MNT_DETACH)) }()
	c := config(t, fakeTree(t))
	var err error
	c.Cache, err = cache.Open(filepath.Join(dir, "cache"))
	assert.NilError(t, err)
	_, err = kbuild.Build(context.Background(), c)
	assert.ErrorIs(t, err, kbuild.ErrHost)
	assert.ErrorIs(t, err, unix.ENOSPC)
	assert.ErrorContains(t, err, "kvmrun kernel prune")
}

// slow makes the next build wait; the returned function blocks until it does,
// and lets it go on.
func slow(t *testing.T, src string) (waits func() (release func())) {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "fifo")
	assert.NilError(t, unix.Mkfifo(fifo, 0o600))
	write(t, filepath.Join(src, "slow.fifo"), fifo)
	return func() func() {
		f, err := os.OpenFile(fifo, os.O_WRONLY, 0) // opens when cat does
		assert.NilError(t, err)
		return func() { assert.NilError(t, f.Close()) }
	}
}

func TestCancel(t *testing.T) {
	src := fakeTree(t)
	waits := slow(t, src)
	c := config(t, src)
	c.Jobs = 1
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := kbuild.Build(ctx, c)
		done <- err
	}()
	release := waits()
	cancel()
	assert.ErrorIs(t, <-done, context.Canceled)
	release()

	marks, err := filepath.Glob(filepath.Join(c.Cache.Root(), ".ktree", "*", "building"))
	assert.NilError(t, err)
	assert.Equal(t, len(marks), 0, "make stopped by itself")
	left, err := filepath.Glob(filepath.Join(c.Cache.Root(), "kernel", "*"))
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0, "%v", left)
	write(t, filepath.Join(src, "slow.fifo"), "")
	a, err := kbuild.Build(context.Background(), c)
	assert.NilError(t, err)
	assert.Assert(t, !a.Cached)
}

// What a killed build left is not believed.
func TestKilled(t *testing.T) {
	src := fakeTree(t)
	c := config(t, src)
	a, err := kbuild.Build(context.Background(), c)
	assert.NilError(t, err)
	trees, err := filepath.Glob(filepath.Join(c.Cache.Root(), ".ktree", "lean-*"))
	assert.NilError(t, err)
	assert.Equal(t, len(trees), 1)
	write(t, filepath.Join(trees[0], "building"), "")
	write(t, filepath.Join(trees[0], "obj", "a.o"), "half an object")
	assert.NilError(t, c.Cache.Remove(context.Background(), "kernel", filepath.Base(a.Dir)))
	a, err = kbuild.Build(context.Background(), c)
	assert.NilError(t, err)
	assert.Equal(t, a.Manifest.Objects, 3)
	assert.Assert(t, !a.Manifest.Incremental)
}

func TestTwoAtOnceShareOneBuild(t *testing.T) {
	src := fakeTree(t)
	waits := slow(t, src)
	c := config(t, src)
	c.Jobs, c.Progress = 1, nil
	var wg sync.WaitGroup
	built := make(chan *kbuild.Artifact, 2)
	for range 2 {
		wg.Go(func() {
			a, err := kbuild.Build(context.Background(), c)
			if err != nil {
				t.Error(err)
				return
			}
			built <- a
		})
	}
	waits()() // a second build would wait again, until the test times out
	wg.Wait()
	close(built)
	cached := 0
	var dirs []string
	for a := range built {
		dirs = append(dirs, a.Dir)
		if a.Cached {
			cached++
		}
	}
	assert.Equal(t, cached, 1)
	assert.Equal(t, dirs[0], dirs[1])
}

func TestListAndPrune(t *testing.T) {
	c := config(t, fakeTree(t))
	ctx := context.Background()
	a, err := kbuild.Build(ctx, c)
	assert.NilError(t, err)
	items, err := kbuild.List(c.Cache)
	assert.NilError(t, err)
	kinds := map[kbuild.Kind]int64{}
	for _, it := range items {
		assert.Assert(t, it.Bytes > 0, it.Name)
		kinds[it.Kind] += it.Bytes
	}
	assert.Equal(t, len(kinds), 2)

	kept, err := kbuild.Prune(ctx, c.Cache, 0, time.Hour)
	assert.NilError(t, err)
	assert.Equal(t, len(kept), 0, "all was just used")

	removed, err := kbuild.Prune(ctx, c.Cache, kinds[kbuild.KindKernel], 0)
	assert.NilError(t, err)
	assert.Equal(t, len(removed), 1)
	assert.Equal(t, removed[0].Kind, kbuild.KindTree, "trees go first")
	again, err := kbuild.Build(ctx, c)
	assert.NilError(t, err)
	assert.Assert(t, again.Cached)

	removed, err = kbuild.Prune(ctx, c.Cache, 0, 0)
	assert.NilError(t, err)
	assert.Equal(t, len(removed), 1)
	_, err = os.Stat(a.Dir)
	assert.ErrorIs(t, err, fs.ErrNotExist)
	items, err = kbuild.List(c.Cache)
	assert.NilError(t, err)
	assert.Equal(t, len(items), 0)
}

// A build bounds what earlier ones left, and takes nothing away from who uses it.
func TestBuildBoundsTheCache(t *testing.T) {
	c := config(t, fakeTree(t))
	ctx := context.Background()
	path := map[string]string{}
	old := func(name string, i int) {
		at := time.Now().Add(time.Duration(i-100) * time.Hour)
		assert.NilError(t, os.Chtimes(name, at, at))
	}
	for _, key := range []string{"used", "oldest", "older", "newer"} {
		dir, _, err := c.Cache.Get(ctx, "kernel", key, func(_ context.Context, tmp string) error {
			name := filepath.Join(tmp, "vmlinux") // with nothing in it
			return errors.Join(os.WriteFile(name, nil, 0o600), os.Truncate(name, 3<<30))
		})
		assert.NilError(t, err)
		path[key] = dir
	}
	held := c.Cache.Hold(filepath.Join(path["used"], "vmlinux"))
	defer held.Close()
	for i, key := range []string{"used", "oldest", "older", "newer"} {
		old(path[key], i)
	}
	trees := filepath.Join(c.Cache.Root(), ".ktree")
	for i := range 13 {
		dir := filepath.Join(trees, fmt.Sprint("tree-", i))
		assert.NilError(t, os.MkdirAll(dir, 0o700))
		assert.NilError(t, os.WriteFile(filepath.Join(dir, "state.json"), []byte("{}"), 0o600))
		old(filepath.Join(dir, "state.json"), i)
	}
	lock, err := os.OpenFile(filepath.Join(trees, ".lock-tree-0"), os.O_CREATE|os.O_RDWR, 0o600)
	assert.NilError(t, err)
	defer lock.Close()
	assert.NilError(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	a, err := kbuild.Build(ctx, c)
	assert.NilError(t, err)
	for name, stays := range map[string]bool{
		path["used"]: true, path["oldest"]: false, path["older"]: false, path["newer"]: true, a.Dir: true,
		filepath.Join(trees, "tree-0"): true, filepath.Join(trees, "tree-1"): false, filepath.Join(trees, "tree-2"): true,
	} {
		_, err := os.Stat(name)
		assert.Equal(t, err == nil, stays, "%s: %v", name, err)
	}
}

// Everything may be deleted between two builds.
func TestDeletedCache(t *testing.T) {
	c := config(t, fakeTree(t))
	_, err := kbuild.Build(context.Background(), c)
	assert.NilError(t, err)
	assert.NilError(t, os.RemoveAll(c.Cache.Root()))
	a, err := kbuild.Build(context.Background(), c)
	assert.NilError(t, err)
	assert.Assert(t, !a.Cached)
}

func kernelSource(t *testing.T) string {
	t.Helper()
	src := os.Getenv("KVMRUN_KERNEL_SRC")
	if src == "" {
		t.Skip("KVMRUN_KERNEL_SRC is not set; set it to an unpacked kernel source tree (apt-get download linux-source-6.12)")
	}
	return src
}

// Every profile's request survives a real kernel's configuration system.
func TestRealProfiles(t *testing.T) {
	src := kernelSource(t)
	c := config(t, "debian:6.12")
	// As a fetched source it is linked, not copied, into each profile's tree.
	c.Fetch = func(context.Context, string) (*kfetch.Source, error) {
		return &kfetch.Source{Package: "linux-source", Version: "1", Dir: src}, nil
	}
	for _, p := range kconfigs.Profiles() {
		c.Profile = p.Name
		r, err := kbuild.Configure(context.Background(), c)
		assert.NilError(t, err, p.Name)
		assert.Equal(t, len(r.Absent), 0, "%s: %v", p.Name, r.Absent)
		if p.Name != "kasan" {
			continue
		}
		for _, s := range []suites.Spec{pamcap.Spec, landlock.Spec, ipe.Spec, uffdwp.Spec, ext4.Spec} {
			for _, f := range kconfig.Check(r.Config, append(s.Kconfig, s.OptionalKconfig...)) {
				assert.Check(t, f.Met, "suite %s needs CONFIG_%s, profile kasan has it %s", s.Name, f.Need, f.Value)
			}
		}
	}
}

// The known trap: an option that takes KASAN away without a word.
func TestRealContract(t *testing.T) {
	c := config(t, kernelSource(t))
	c.Profile = "kasan"
	c.Fragments = []string{write(t, filepath.Join(t.TempDir(), "tiny.config"), "# override: the trap\nCONFIG_SLUB_TINY=y\n")}
	_, err := kbuild.Configure(context.Background(), c)
	assert.ErrorIs(t, err, kbuild.ErrRequest)
	assert.ErrorContains(t, err, "asked for CONFIG_KASAN=y, got not set")
	assert.ErrorContains(t, err, "needs !SLUB_TINY, where SLUB_TINY=y")
}

// A real kernel is built, and one patch on top of it compiles one file.
func TestRealBuild(t *testing.T) {
	src := kernelSource(t)
	if testing.Short() {
		t.Skip("builds a kernel; run without -short")
	}
	c := config(t, src)
	c.NoCcache = false
	a, err := kbuild.Build(context.Background(), c)
	assert.NilError(t, err)
	assert.Assert(t, a.ModulesDir != "")
	assert.Assert(t, len(a.Manifest.BuildID) == 40)
	c.Patches = []string{filepath.Join("..", "..", "suites", "landlock", "mutants", "L1-port-byte-order.patch")}
	b, err := kbuild.Build(context.Background(), c)
	assert.NilError(t, err)
	assert.Assert(t, b.Manifest.Incremental)
	assert.Assert(t, b.Manifest.Objects < 20, "%d objects", b.Manifest.Objects)
}
