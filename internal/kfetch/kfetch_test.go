// SPDX-License-Identifier: Apache-2.0

package kfetch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/cache"
)

var ctx = context.Background()

// The tests use the real apt and dpkg-deb with a private configuration, against
// an archive of tiny packages that is served on the loopback interface.

// archive is such an archive and the apt configuration for it.
type archive struct {
	t        *testing.T
	dir      string // of the files served
	conf     string // apt.conf
	packages strings.Builder
	url      string

	mu       sync.Mutex
	requests []string
	fail     bool              // answer 503 to requests for packages
	onDeb    func(path string) // called for each request for a package
	server   *httptest.Server
}

// testPkg is a package to be made.
type testPkg struct {
	name, version, depends string
	files                  map[string]string // nil: what a kernel image has
}

func newArchive(t *testing.T, trusted string, pkgs ...testPkg) *archive {
	t.Helper()
	for _, tool := range []string{"apt-get", "apt-cache", "dpkg-deb", "tar", "xz"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed; kernel fetch only works on Debian and Ubuntu (try: apt-get install apt dpkg tar xz-utils)", tool)
		}
	}
	a := &archive{t: t, dir: t.TempDir()}
	for _, p := range pkgs {
		a.add(p)
	}
	assert.NilError(t, os.WriteFile(filepath.Join(a.dir, "Packages"), []byte(a.packages.String()), 0o600))
	files := http.FileServer(http.Dir(a.dir))
	a.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.requests = append(a.requests, r.URL.Path)
		fail, onDeb := a.fail, a.onDeb
		a.mu.Unlock()
		if strings.HasSuffix(r.URL.Path, ".deb") {
			if onDeb != nil {
				onDeb(r.URL.Path)
			}
			if fail {
				http.Error(w, "out of order", http.StatusServiceUnavailable)
				return
			}
		}
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(a.server.Close)
	a.url = a.server.URL
	a.configure(trusted)
	return a
}

// configure writes apt's configuration and reads the lists.
func (a *archive) configure(options string) {
	a.t.Helper()
	root := a.t.TempDir()
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "etc/trusted.gpg.d"} {
		assert.NilError(a.t, os.MkdirAll(filepath.Join(root, d), 0o700))
	}
	assert.NilError(a.t, os.WriteFile(filepath.Join(root, "status"), nil, 0o600))
	a.conf = filepath.Join(root, "apt.conf")
	conf := fmt.Sprintf(`Dir %q; Dir::State %q; Dir::State::status %q; Dir::Cache %q; Dir::Etc %q;
APT::Architecture "amd64"; APT::Architectures { "amd64"; }; APT::Sandbox::User "";
APT::Get::AllowUnauthenticated "true";
`, root, root+"/state", root+"/status", root+"/cache", root+"/etc")
	assert.NilError(a.t, os.WriteFile(a.conf, []byte(conf), 0o600))
	assert.NilError(a.t, os.WriteFile(filepath.Join(root, "etc/sources.list"), []byte("deb "+options+" "+a.url+" ./\n"), 0o600))
	cmd := exec.Command("apt-get", "update", "-q")
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.conf, "http_proxy=")
	out, err := cmd.CombinedOutput()
	assert.NilError(a.t, err, string(out))
	a.mu.Lock()
	a.requests = nil
	a.mu.Unlock()
}

func (a *archive) add(p testPkg) {
	a.t.Helper()
	root := a.t.TempDir()
	files := p.files
	if files == nil {
		release, ok := strings.CutPrefix(p.name, "linux-image-")
		assert.Assert(a.t, ok, p.name)
		release = strings.TrimPrefix(release, "unsigned-")
		files = map[string]string{
			"boot/vmlinuz-" + release:                   "kernel " + p.version,
			"boot/config-" + release:                    "CONFIG_A=y\n",
			"lib/modules/" + release + "/modules.order": "",
		}
	}
	for name, text := range files {
		path := filepath.Join(root, name)
		assert.NilError(a.t, os.MkdirAll(filepath.Dir(path), 0o755))
		assert.NilError(a.t, os.WriteFile(path, []byte(text), 0o644))
	}
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: x <x@example.org>\nDescription: x\n", p.name, p.version)
	if p.depends != "" {
		control += "Depends: " + p.depends + "\n"
	}
	assert.NilError(a.t, os.MkdirAll(filepath.Join(root, "DEBIAN"), 0o755))
	assert.NilError(a.t, os.WriteFile(filepath.Join(root, "DEBIAN", "control"), []byte(control), 0o644))
	assert.NilError(a.t, os.Chmod(root, 0o755))
	deb := filepath.Join(a.dir, p.name+"_"+p.version+".deb")
	out, err := exec.Command("dpkg-deb", "-b", root, deb).CombinedOutput()
	assert.NilError(a.t, err, string(out))
	data, err := os.ReadFile(deb)
	assert.NilError(a.t, err)
	fmt.Fprintf(&a.packages, "%sFilename: ./%s\nSize: %d\nSHA256: %x\n\n", control, filepath.Base(deb), len(data), sha256.Sum256(data))
}

// asked returns the requests since the last call.
func (a *archive) asked() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.requests
	a.requests = nil
	return r
}

func (a *archive) fetcher(c *cache.Cache) *Fetcher {
	return New(Config{Cache: c, AptConfig: a.conf})
}

// offline is a Fetcher whose apt cannot work.
func offline(t *testing.T, c *cache.Cache) *Fetcher {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "apt.conf")
	assert.NilError(t, os.WriteFile(conf, []byte("this is { not an apt.conf"), 0o600))
	return New(Config{Cache: c, AptConfig: conf})
}

func openCache(t *testing.T) *cache.Cache {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	return c
}

const trusted = "[trusted=yes]"

// debianLike has what Debian 12's archive has, in miniature.
func debianLike(t *testing.T) *archive {
	return newArchive(t, trusted,
		testPkg{name: "linux-image-6.12.9+deb12-cloud-amd64", version: "6.12.9-1~deb12u1"},
		testPkg{name: "linux-image-6.12.117+deb12-cloud-amd64", version: "6.12.117-1~deb12u1"},
		testPkg{name: "linux-image-6.12.117+deb12-cloud-amd64-unsigned", version: "6.12.117-1~deb12u1", files: map[string]string{"x": ""}},
		testPkg{name: "linux-image-6.12.117+deb12-amd64", version: "6.12.117-1~deb12u1", files: map[string]string{"x": ""}},
		testPkg{name: "linux-image-6.12.117+deb12-cloud-amd64-dbg", version: "6.12.117-1~deb12u1",
			files: map[string]string{"usr/lib/debug/boot/vmlinux-6.12.117+deb12-cloud-amd64": "debug"}},
		testPkg{name: "linux-image-6.12.115+deb12-cloud-amd64", version: "6.12.115-2~deb12u1"},
		testPkg{name: "linux-image-6.12-cloud-amd64", version: "6.12.117-1~deb12u1", depends: "linux-image-6.12.200+deb12-cloud-amd64", files: map[string]string{"x": ""}},
		testPkg{name: "linux-image-6.1.0-56-cloud-amd64", version: "6.1.192-2"},
		testPkg{name: "linux-image-6.1.0-9-cloud-amd64", version: "6.1.27-1"},
	)
}

func TestFetch(t *testing.T) {
	a := debianLike(t)
	c := openCache(t)
	var steps []string
	f := New(Config{Cache: c, AptConfig: a.conf, Progress: func(p Progress) {
		if !slices.Contains(steps, p.Step) {
			steps = append(steps, p.Step)
		}
		if p.Step == "download" {
			assert.Check(t, p.Total > 0 && p.Done <= p.Total)
		}
	}})
	for _, tc := range []struct{ ref, release string }{
		{"debian:6.12", "6.12.117+deb12-cloud-amd64"},
		{"debian:6.1", "6.1.0-56-cloud-amd64"},
		{"debian:6", "6.12.117+deb12-cloud-amd64"},
		{"debian:6.12.115", "6.12.115+deb12-cloud-amd64"},
		{"debian:6.12.115-2~deb12u1", "6.12.115+deb12-cloud-amd64"},
		{"debian:6.12.115+deb12-cloud-amd64", "6.12.115+deb12-cloud-amd64"},
		{"debian:6.1.0-9", "6.1.0-9-cloud-amd64"},
		{"debian:6.1.27", "6.1.0-9-cloud-amd64"},
	} {
		k, err := f.Fetch(ctx, tc.ref)
		assert.NilError(t, err, tc.ref)
		assert.Equal(t, k.Release, tc.release, tc.ref)
		assert.Equal(t, k.Path, filepath.Join(k.Dir, "boot", "vmlinuz-"+tc.release))
		data, err := os.ReadFile(k.Path)
		assert.NilError(t, err)
		assert.Equal(t, string(data), "kernel "+k.Version)
		for _, name := range []string{"boot/config-" + tc.release, "lib/modules/" + tc.release + "/modules.order"} {
			_, err = os.Stat(filepath.Join(k.Dir, name))
			assert.NilError(t, err)
		}
		assert.Equal(t, k.Note, "")

		// Again: nothing is downloaded; a certain version does not even call
		// apt.
		a.asked()
		again, err := f.Fetch(ctx, tc.ref)
		assert.NilError(t, err)
		assert.Assert(t, again.Hit)
		assert.Equal(t, again.Path, k.Path)
		assert.Assert(t, is.Len(a.asked(), 0))
		again, err = offline(t, c).Fetch(ctx, k.Ref())
		assert.NilError(t, err)
		assert.Equal(t, again.Path, k.Path)
	}
	assert.DeepEqual(t, steps, []string{"look up", "download", "unpack"})
	left, err := filepath.Glob(filepath.Join(c.Root(), kindKernel, "*", ".download"))
	assert.NilError(t, err)
	assert.Assert(t, is.Len(left, 0))
}

func TestFetchSplitPackages(t *testing.T) {
	const rel = "6.8.0-31-generic"
	a := newArchive(t, trusted,
		testPkg{name: "linux-image-unsigned-" + rel, version: "6.8.0-31.31"},
		testPkg{name: "linux-image-" + rel, version: "6.8.0-31.31", depends: "kmod, linux-modules-" + rel + " | other, linux-base (>= 4.5)",
			files: map[string]string{"boot/vmlinuz-" + rel: "signed"}},
		testPkg{name: "linux-modules-" + rel, version: "6.8.0-31.31",
			files: map[string]string{"boot/config-" + rel: "", "lib/modules/" + rel + "/modules.order": ""}},
		testPkg{name: "linux-base", version: "6.8.0-31.31", files: map[string]string{"must-not-be-here": ""}},
		testPkg{name: "linux-image-unsigned-6.8.0-40-generic", version: "6.8.0-40.40"},
		testPkg{name: "linux-image-6.8.0-31-lowlatency", version: "6.8.0-31.31", files: map[string]string{"x": ""}},
	)
	f := a.fetcher(openCache(t))
	k, err := f.Fetch(ctx, "ubuntu:6.8.0-31")
	assert.NilError(t, err)
	data, err := os.ReadFile(k.Path)
	assert.NilError(t, err)
	assert.Equal(t, string(data), "signed")
	_, err = os.Stat(filepath.Join(k.Dir, "lib/modules", rel, "modules.order"))
	assert.NilError(t, err)
	_, err = os.Stat(filepath.Join(k.Dir, "must-not-be-here"))
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.Assert(t, is.Contains(k.Note, "untested"))

	// The newest only exists unsigned.
	k, err = f.Fetch(ctx, "ubuntu:6.8")
	assert.NilError(t, err)
	assert.Equal(t, k.Release, "6.8.0-40-generic")
}

// TestFetchDebian7: what Debian's packages of Linux 7 are: all in the directory of the
// modules, in three packages that a fourth one, without files of its own, depends on.
func TestFetchDebian7(t *testing.T) {
	const rel, version = "7.2.13+deb14-cloud-amd64", "7.2.13-1"
	dir := "usr/lib/modules/" + rel + "/"
	a := newArchive(t, trusted,
		testPkg{name: "linux-image-" + rel, version: version, files: map[string]string{"usr/share/doc/x": ""},
			depends: "dracut | linux-initramfs-tool, linux-base-" + rel + " (= 7.2.13-1), linux-binary-" + rel + " (= 7.2.13-1), linux-modules-" + rel + " (= 7.2.13-1)"},
		testPkg{name: "linux-base-" + rel, version: version, files: map[string]string{dir + "config": "CONFIG_A=y\n"}},
		testPkg{name: "linux-binary-" + rel, version: version, files: map[string]string{dir + "vmlinuz": "kernel"}},
		testPkg{name: "linux-modules-" + rel, version: version, files: map[string]string{dir + "modules.order": ""}},
	)
	f := a.fetcher(openCache(t))
	for _, hit := range []bool{false, true} {
		k, err := f.Fetch(ctx, "debian:7.2")
		assert.NilError(t, err)
		assert.Equal(t, k.Path, filepath.Join(k.Dir, dir, "vmlinuz"))
		assert.Equal(t, k.Hit, hit)
	}
}

func TestVersions(t *testing.T) {
	a := debianLike(t)
	c := openCache(t)
	f := a.fetcher(c)
	_, err := f.Fetch(ctx, "debian:6.12.115")
	assert.NilError(t, err)
	show := func(list []Candidate) []string {
		var s []string
		for _, v := range list {
			s = append(s, fmt.Sprintf("%s %s %v %v", v.Upstream, v.Release, v.Available, v.Cached))
		}
		return s
	}
	list, err := f.Versions(ctx, "debian")
	assert.NilError(t, err)
	assert.DeepEqual(t, show(list), []string{
		"6.1.27 6.1.0-9-cloud-amd64 true false",
		"6.1.192 6.1.0-56-cloud-amd64 true false",
		"6.12.9 6.12.9+deb12-cloud-amd64 true false",
		"6.12.115 6.12.115+deb12-cloud-amd64 true true",
		"6.12.117 6.12.117+deb12-cloud-amd64 true false",
	})
	list, err = f.Versions(ctx, "debian:6.1")
	assert.NilError(t, err)
	assert.Assert(t, is.Len(list, 2))

	// Without apt: what is there, and the error.
	list, err = offline(t, c).Versions(ctx, "debian")
	assert.Assert(t, err != nil)
	assert.DeepEqual(t, show(list), []string{"6.12.115 6.12.115+deb12-cloud-amd64 false true"})
}

func TestFetchDebug(t *testing.T) {
	f := debianLike(t).fetcher(openCache(t))
	k, err := f.Fetch(ctx, "debian:6.12")
	assert.NilError(t, err)
	path, err := f.FetchDebug(ctx, k)
	assert.NilError(t, err)
	data, err := os.ReadFile(path)
	assert.NilError(t, err)
	assert.Equal(t, string(data), "debug")

	k, err = f.Fetch(ctx, "debian:6.1")
	assert.NilError(t, err)
	_, err = f.FetchDebug(ctx, k)
	assert.ErrorIs(t, err, ErrDownload)
	assert.ErrorContains(t, err, "linux-image-6.1.0-56-cloud-amd64-dbg")
}

// sourcePkg makes a linux-source package with a small tree.
func sourcePkg(t *testing.T, version string) testPkg {
	t.Helper()
	dir := t.TempDir()
	tree := filepath.Join(dir, "linux-source-6.12")
	assert.NilError(t, os.MkdirAll(filepath.Join(tree, "kernel"), 0o755))
	assert.NilError(t, os.WriteFile(filepath.Join(tree, "Kconfig"), []byte(version), 0o600))
	out, err := exec.Command("tar", "-C", dir, "-cJf", filepath.Join(dir, "t.tar.xz"), "linux-source-6.12").CombinedOutput()
	assert.NilError(t, err, string(out))
	data, err := os.ReadFile(filepath.Join(dir, "t.tar.xz"))
	assert.NilError(t, err)
	return testPkg{name: "linux-source-6.12", version: version, files: map[string]string{"usr/src/linux-source-6.12.tar.xz": string(data)}}
}

func TestFetchSource(t *testing.T) {
	a := newArchive(t, trusted,
		sourcePkg(t, "6.12.115-2~deb12u1"), sourcePkg(t, "6.12.117-1~deb12u1"),
		testPkg{name: "linux-source-6.1", version: "6.1.192-2", files: map[string]string{"usr/share/doc/x": ""}},
		testPkg{name: "linux-source", version: "6.1.192-2", files: map[string]string{"x": ""}},
	)
	c := openCache(t)
	f := a.fetcher(c)
	for ref, version := range map[string]string{"debian:6.12": "6.12.117-1~deb12u1", "debian:6.12.115": "6.12.115-2~deb12u1"} {
		s, err := f.FetchSource(ctx, ref)
		assert.NilError(t, err)
		assert.Equal(t, s.Version, version)
		data, err := os.ReadFile(filepath.Join(s.Dir, "Kconfig"))
		assert.NilError(t, err)
		assert.Equal(t, string(data), version)
		assert.Assert(t, !s.Hit)
		entries, err := os.ReadDir(filepath.Dir(s.Dir))
		assert.NilError(t, err)
		for _, e := range entries {
			assert.Assert(t, e.Name() != ".package" && e.Name() != ".download")
		}
	}
	s, err := offline(t, c).FetchSource(ctx, "debian:6.12")
	assert.NilError(t, err)
	assert.Assert(t, s.Hit)
	assert.Assert(t, is.Contains(s.Note, "using the fetched 6.12.117-1~deb12u1"))

	_, err = f.FetchSource(ctx, "debian:6.1")
	assert.ErrorIs(t, err, ErrPackage)
	_, err = f.FetchSource(ctx, "debian:5.10")
	assert.ErrorIs(t, err, ErrNotFound)
}

func TestBadReferences(t *testing.T) {
	f := New(Config{Cache: openCache(t)})
	for _, ref := range []string{"", "debian", "debian:", "fedora:41", "debian:-o", "debian:$(x)", "debian:a", "debian:6.12 x", "debian:*", "6.12"} {
		_, err := f.Fetch(ctx, ref)
		assert.ErrorIs(t, err, ErrBadRef, ref)
		_, err = f.FetchSource(ctx, ref)
		assert.ErrorIs(t, err, ErrBadRef, ref)
	}
	_, err := f.Fetch(ctx, "fedora:41")
	assert.ErrorContains(t, err, "-kernel FILE")
	assert.Assert(t, IsRef("debian:6.12") && IsRef("ubuntu:x") && !IsRef("debian") && !IsRef("./debian:6.12") && !IsRef("a:b"))
}

func TestNotFound(t *testing.T) {
	f := debianLike(t).fetcher(openCache(t))
	_, err := f.Fetch(ctx, "debian:6.13")
	assert.ErrorIs(t, err, ErrNotFound)
	assert.ErrorContains(t, err, "they have 6.1.27, 6.1.192, 6.12.9, 6.12.115, 6.12.117")
	assert.ErrorContains(t, err, "apt-get update")
	_, err = f.Fetch(ctx, "debian:6.12.200") // only a name in a dependency
	assert.ErrorIs(t, err, ErrNotFound)
	_, err = f.Fetch(ctx, "ubuntu:6.8")
	assert.ErrorIs(t, err, ErrNotFound)
	assert.ErrorContains(t, err, "no ubuntu kernels at all")
	assert.ErrorContains(t, err, "kvmrun kernel fetch debian:6.12;")
	assert.ErrorContains(t, err, "-kernel")

	// Only a name, nothing behind it.
	a := newArchive(t, trusted, testPkg{name: "linux-image-6.12-cloud-amd64", version: "1", depends: "linux-image-6.12.1-cloud-amd64", files: map[string]string{"x": ""}})
	_, err = a.fetcher(openCache(t)).Fetch(ctx, "debian:6.12")
	assert.ErrorIs(t, err, ErrNotFound)
}

// apt without any lists, as in a fresh container.
func TestNoLists(t *testing.T) {
	a := newArchive(t, trusted)
	assert.NilError(t, os.RemoveAll(filepath.Join(filepath.Dir(a.conf), "state/lists")))
	_, err := a.fetcher(openCache(t)).Fetch(ctx, "debian:6.12")
	assert.ErrorIs(t, err, ErrNotFound)
	assert.ErrorContains(t, err, "sudo apt-get update")
}

func TestNoTools(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := New(Config{Cache: openCache(t)}).Fetch(ctx, "debian:6.12")
	assert.ErrorIs(t, err, ErrNoTools)
	assert.ErrorContains(t, err, "apt-cache, apt-get, dpkg-deb")
	assert.ErrorContains(t, err, "-kernel FILE")
}

// An archive without a signature: apt knows the packages (the machine's
// configuration allows it), and nothing is fetched all the same.
func TestUnauthenticated(t *testing.T) {
	a := newArchive(t, "[allow-insecure=yes]", testPkg{name: "linux-image-6.12.9+deb12-cloud-amd64", version: "6.12.9-1"})
	c := openCache(t)
	_, err := a.fetcher(c).Fetch(ctx, "debian:6.12")
	assert.ErrorIs(t, err, ErrUnauthenticated)
	assert.ErrorContains(t, err, "not signed by a key of this machine")
	for _, path := range a.asked() {
		assert.Assert(t, !strings.HasSuffix(path, ".deb"), "downloaded %s", path)
	}
	list, err := c.List()
	assert.NilError(t, err)
	assert.Assert(t, is.Len(list, 0))
}

// The package was changed after the lists were signed.
func TestTampered(t *testing.T) {
	a := newArchive(t, trusted, testPkg{name: "linux-image-6.12.9+deb12-cloud-amd64", version: "6.12.9-1"})
	deb := filepath.Join(a.dir, "linux-image-6.12.9+deb12-cloud-amd64_6.12.9-1.deb")
	data, err := os.ReadFile(deb)
	assert.NilError(t, err)
	data[len(data)/2] ^= 1
	assert.NilError(t, os.WriteFile(deb, data, 0o600))
	c := openCache(t)
	_, err = a.fetcher(c).Fetch(ctx, "debian:6.12")
	assert.ErrorIs(t, err, ErrUnauthenticated)
	assert.ErrorContains(t, err, "is not the file that the archive's signature covers")
	list, err := c.List()
	assert.NilError(t, err)
	assert.Assert(t, is.Len(list, 0))
}

// The archive is down: an older kernel of the series is used, and said.
func TestArchiveDown(t *testing.T) {
	a := debianLike(t)
	c := openCache(t)
	f := a.fetcher(c)
	_, err := f.Fetch(ctx, "debian:6.12.115")
	assert.NilError(t, err)
	a.mu.Lock()
	a.fail = true
	a.mu.Unlock()
	k, err := f.Fetch(ctx, "debian:6.12")
	assert.NilError(t, err)
	assert.Equal(t, k.Release, "6.12.115+deb12-cloud-amd64")
	assert.Assert(t, k.Hit)
	assert.Assert(t, is.Contains(k.Note, "using the fetched 6.12.115+deb12-cloud-amd64, because"))
	_, err = f.Fetch(ctx, "debian:6.12.117")
	assert.ErrorIs(t, err, ErrDownload)
	_, err = f.Fetch(ctx, "debian:6.1")
	assert.ErrorIs(t, err, ErrDownload)

	// apt itself does not work.
	k, err = offline(t, c).Fetch(ctx, "debian:6.12")
	assert.NilError(t, err)
	assert.Equal(t, k.Release, "6.12.115+deb12-cloud-amd64")
	assert.Assert(t, is.Contains(k.Note, "using the fetched"))
	_, err = offline(t, c).Fetch(ctx, "debian:6.1")
	assert.ErrorIs(t, err, ErrNoTools)
}

// A package without a kernel, or with a link in its place.
func TestWrongPackage(t *testing.T) {
	a := newArchive(t, trusted, testPkg{name: "linux-image-6.12.9+deb12-cloud-amd64", version: "6.12.9-1", files: map[string]string{"boot/other": ""}})
	_, err := a.fetcher(openCache(t)).Fetch(ctx, "debian:6.12")
	assert.ErrorIs(t, err, ErrPackage)
	assert.ErrorContains(t, err, "has no boot/vmlinuz-6.12.9+deb12-cloud-amd64")
}

// The context ends during the download: apt and its helpers end, nothing is
// left, and the next attempt works.
func TestCancel(t *testing.T) {
	a := debianLike(t)
	c := openCache(t)
	cctx, cancel := context.WithCancelCause(ctx)
	reason := errors.New("the user pressed Ctrl-C")
	release := make(chan struct{})
	a.mu.Lock()
	a.onDeb = func(string) { cancel(reason); <-release }
	a.mu.Unlock()
	_, err := a.fetcher(c).Fetch(cctx, "debian:6.12")
	close(release)
	assert.ErrorIs(t, err, reason)
	left, err := filepath.Glob(filepath.Join(c.Root(), kindKernel, "*"))
	assert.NilError(t, err)
	assert.Assert(t, is.Len(left, 0))
	hidden, err := filepath.Glob(filepath.Join(c.Root(), kindKernel, ".*"))
	assert.NilError(t, err)
	assert.Assert(t, is.Len(hidden, 0))
	a.mu.Lock()
	a.onDeb = nil
	a.mu.Unlock()
	_, err = a.fetcher(c).Fetch(ctx, "debian:6.12")
	assert.NilError(t, err)
}

// Two at once share one download.
func TestConcurrent(t *testing.T) {
	a := debianLike(t)
	f := a.fetcher(openCache(t))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := f.Fetch(ctx, "debian:6.1"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	debs := 0
	for _, path := range a.asked() {
		if strings.HasSuffix(path, ".deb") {
			debs++
		}
	}
	assert.Equal(t, debs, 1)
}

func TestNoSpaceIsFound(t *testing.T) {
	e := &toolError{name: "dpkg-deb", stderr: "dpkg-deb: error: failed to write (No space left on device)", err: errors.New("exit status 2")}
	assert.ErrorIs(t, e, syscall.ENOSPC)
	assert.ErrorContains(t, e, "failed to write")
	e = &toolError{name: "apt-get", stderr: "W: x\nE: one\nE: two\n", err: errors.New("exit status 100")}
	assert.Equal(t, e.Error(), "apt-get: exit status 100: one; two")
}
