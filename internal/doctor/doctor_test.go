// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/golden"

	"github.com/kvmrun/kvmrun/internal/catalog"
)

// fakeHost is a machine as data. The zero value has nothing at all.
type fakeHost struct {
	tools  []string
	output map[string]string // by base name; "!" for a failure
	files  map[string]string
	kvm    error
	// compiles: the suites' C programs were not installed with kvmrun.
	compiles bool
	denied   string // directory that cannot be written
	space    map[string]uint64
	accel    []string // accel, reason, error
	walls    Confinement
	broken   error // of Confine
}

// good is a machine where everything is right.
func good() *fakeHost {
	return &fakeHost{
		tools: []string{"qemu-system-x86_64", "mkfs.ext4", "e2fsck", "go", "apt-get", "apt-cache", "dpkg-deb"},
		output: map[string]string{
			"qemu-system-x86_64": "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c) 2003-2022\n",
			"go":                 "go version go1.26.8 linux/amd64\n",
		},
		files: map[string]string{
			"/proc/cpuinfo":                                "processor\t: 0\nflags\t\t: fpu vme vmx sse\n",
			"/proc/meminfo":                                "MemTotal:       24684084 kB\nMemFree:        21945400 kB\nMemAvailable:   23754956 kB\n",
			"/lib/x86_64-linux-gnu/libpam.so.0":            "",
			"/lib/x86_64-linux-gnu/security/pam_cap.so":    "",
			"/lib/x86_64-linux-gnu/security/pam_permit.so": "",
			"/lib/x86_64-linux-gnu/security/pam_deny.so":   "",
			"/lib/x86_64-linux-gnu/security/pam_debug.so":  "",
		},
		space: map[string]uint64{"/": 78 << 30, "/home/me": 100 << 30},
		accel: []string{"kvm", "", ""},
		walls: Confinement{Sandbox: true, UID: 65530, Limited: true},
	}
}

func (f *fakeHost) host() Host {
	return Host{
		CacheDir: "/home/me/.cache/kvmrun",
		Compiled: !f.compiles,
		LookPath: func(name string) (string, error) {
			for _, t := range f.tools {
				if t == name {
					return "/usr/bin/" + name, nil
				}
			}
			return "", errors.New("not found")
		},
		Output: func(_ context.Context, name string, _ ...string) (string, error) {
			out := f.output[filepath.Base(name)]
			if out == "!" {
				return "", errors.New("exit status 127")
			}
			return out, nil
		},
		ReadFile: func(path string) ([]byte, error) {
			if text, ok := f.files[path]; ok {
				return []byte(text), nil
			}
			return nil, fs.ErrNotExist
		},
		Glob: func(pattern string) []string {
			var found []string
			for path := range f.files {
				if ok, _ := filepath.Match(pattern, path); ok {
					found = append(found, path)
				}
			}
			return found
		},
		OpenRW: func(string) error { return f.kvm },
		Writable: func(dir string) error {
			if dir == f.denied {
				return unix.EACCES
			}
			return nil
		},
		Space: func(path string) (size, free uint64, err error) {
			if free, ok := f.space[path]; ok {
				return 2 * free, free, nil
			}
			return 0, 0, unix.ENOENT
		},
		Confine: func(context.Context) (Confinement, error) { return f.walls, f.broken },
		Accel: func(context.Context) (accel, reason string, err error) {
			if f.accel[2] != "" {
				err = errors.New(f.accel[2])
			}
			return f.accel[0], f.accel[1], err
		},
	}
}

func TestGood(t *testing.T) {
	r := Run(context.Background(), good().host(), catalog.Specs())
	assert.NilError(t, r.Err())
	for _, c := range r.Checks {
		assert.Equal(t, c.Status, OK, "%+v", c)
		assert.Equal(t, c.Cure, "")
	}
	var b strings.Builder
	assert.NilError(t, r.WriteText(&b))
	golden.Assert(t, b.String(), "good.golden")
}

func TestChecks(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*fakeHost)
		check  string
		status Status
		detail string
		cure   string
	}{
		{"no qemu", func(f *fakeHost) { f.tools = f.tools[1:] }, "QEMU", Fail, "qemu-system-x86_64 is not installed", "sudo apt-get install qemu-system-x86"},
		{"no qemu on fedora", func(f *fakeHost) { f.tools = []string{"dnf"} }, "QEMU", Fail, "not installed", "sudo dnf install qemu-system-x86-core"},
		{"old qemu", func(f *fakeHost) { f.output["qemu-system-x86_64"] = "QEMU emulator version 6.2.0 (Debian)\n" }, "QEMU", Fail, "version 6.2.0, too old (need 7.2)", "Debian 12"},
		{"just too old", func(f *fakeHost) { f.output["qemu-system-x86_64"] = "QEMU emulator version 7.1.99\n" }, "QEMU", Fail, "too old", "Debian 12"},
		{"new qemu", func(f *fakeHost) { f.output["qemu-system-x86_64"] = "QEMU emulator version 10.0.2\n" }, "QEMU", OK, "version 10.0.2", ""},
		{"broken qemu", func(f *fakeHost) { f.output["qemu-system-x86_64"] = "!" }, "QEMU", Fail, "--version fails: exit status 127", "reinstall it"},
		{"not qemu", func(f *fakeHost) { f.output["qemu-system-x86_64"] = "hello 9.9" }, "QEMU", Fail, `is not QEMU: it prints "hello 9.9"`, "apt-get"},
		{"silent qemu", func(f *fakeHost) { f.output["qemu-system-x86_64"] = "" }, "QEMU", Fail, "is not QEMU", "apt-get"},

		{"no vmx", func(f *fakeHost) { f.files["/proc/cpuinfo"] = "flags : fpu\n" }, "KVM", Warn, "neither vmx nor svm", "firmware"},
		{"no vmx in a VM", func(f *fakeHost) { f.files["/proc/cpuinfo"] = "flags : fpu hypervisor\n" }, "KVM", Warn, "neither vmx nor svm", "nested virtualization"},
		{"svm", func(f *fakeHost) { f.files["/proc/cpuinfo"] = "flags : svm\n" }, "KVM", OK, "usable", ""},
		{"no flags, as on arm64", func(f *fakeHost) { f.files["/proc/cpuinfo"] = "Features : fp\n" }, "KVM", OK, "usable", ""},
		{"no device", func(f *fakeHost) { f.kvm = unix.ENOENT }, "KVM", Warn, "there is no /dev/kvm", "modprobe"},
		{"no permission", func(f *fakeHost) { f.kvm = unix.EACCES }, "KVM", Warn, "no permission to open /dev/kvm", "usermod -aG kvm"},
		{"other device error", func(f *fakeHost) { f.kvm = unix.ENODEV }, "KVM", Warn, "no such device", "modprobe"},
		{"does not boot", func(f *fakeHost) { f.accel = []string{"tcg", "no sign of life within 5s", ""} }, "KVM", Warn, "no sign of life within 5s", "nested"},
		{"cannot be tried", func(f *fakeHost) { f.accel = []string{"", "", "no QEMU"} }, "KVM", Warn, "cannot be tried: no QEMU", "see the QEMU check"},

		{"as another user", func(f *fakeHost) { f.walls.UID = 1000 }, "confinement", OK, "QEMU runs as user 1000, its system calls are filtered", ""},
		{"no seccomp", func(f *fakeHost) { f.walls.Sandbox, f.walls.Why = false, "QEMU says: x" }, "confinement", Warn, "are not filtered, its memory is limited (QEMU says: x)", "built with seccomp"},
		{"as root", func(f *fakeHost) { f.walls.UID, f.walls.Why = 0, "no setgroups" }, "confinement", Warn, "as user 0, its system calls are filtered, its memory is limited (no setgroups)", "ordinary user"},
		{"no confinement", func(f *fakeHost) { f.broken = errors.New("no QEMU") }, "confinement", Warn, "cannot be tried: no QEMU", "see the QEMU check"},

		{"little memory", func(f *fakeHost) { f.files["/proc/meminfo"] = "MemTotal: 1000000 kB\nMemAvailable: 900000 kB\n" }, "memory", Warn, "878 MiB available of 976 MiB", "memory"},
		{"too little memory", func(f *fakeHost) { f.files["/proc/meminfo"] = "MemTotal: 1000000 kB\nMemAvailable: 100000 kB\n" }, "memory", Fail, "one VM needs 640 MiB", "memory"},
		{"container", func(f *fakeHost) { f.files["/sys/fs/cgroup/memory.max"] = "536870912\n" }, "memory", Fail, "this container may use 512 MiB", "container"},
		{"container without limit", func(f *fakeHost) { f.files["/sys/fs/cgroup/memory.max"] = "max\n" }, "memory", OK, "23198 MiB available", ""},
		{"no meminfo", func(f *fakeHost) { delete(f.files, "/proc/meminfo") }, "memory", Warn, "unknown", "/proc"},
		{"strange meminfo", func(f *fakeHost) { f.files["/proc/meminfo"] = "MemTotal:\nMemAvailable: x kB\n" }, "memory", Warn, "unknown", "Linux"},

		{"small disk", func(f *fakeHost) { f.space["/home/me"] = 1 << 30 }, "cache", Warn, "1024 MiB free for /home/me/.cache/kvmrun; not enough to build", "kernel prune"},
		{"full disk", func(f *fakeHost) { f.space["/home/me"] = 1 << 20 }, "cache", Fail, "1 MiB free", "XDG_CACHE_HOME"},
		{"own file system", func(f *fakeHost) { f.space["/home/me/.cache/kvmrun"] = 1 << 20 }, "cache", Fail, "1 MiB free", "XDG_CACHE_HOME"},
		{"not writable", func(f *fakeHost) { f.denied = "/home/me" }, "cache", Fail, "/home/me cannot be written: permission denied", "XDG_CACHE_HOME"},
		{"nothing exists", func(f *fakeHost) { f.space = nil }, "cache", Fail, "is not usable", "XDG_CACHE_HOME"},

		{"no mkfs", func(f *fakeHost) { f.tools = []string{"e2fsck"} }, "suite ext4", Fail, "mkfs.ext4: not installed", "sudo apt-get install e2fsprogs"},
		{"no e2fsprogs", func(f *fakeHost) { f.tools = nil }, "suite uffdwp", Fail, "mkfs.ext4 and e2fsck: not installed", "sudo apt-get install e2fsprogs"},
		{"no pam", func(f *fakeHost) { f.files = nil }, "suite pamcap", Fail, "pam_cap.so, pam_permit.so, pam_deny.so, pam_debug.so and libpam.so.0: not installed", "sudo apt-get install libpam-cap libpam-modules libpam0g"},
		{"no pam on fedora", func(f *fakeHost) { f.files, f.tools = nil, []string{"dnf"} }, "suite pamcap", Fail, "not installed", "sudo dnf install libcap pam pam-libs"},
		{"no pam_cap", func(f *fakeHost) { delete(f.files, "/lib/x86_64-linux-gnu/security/pam_cap.so") }, "suite pamcap", Fail, "pam_cap.so: not installed", "sudo apt-get install libpam-cap"},
		{"no compiler", func(f *fakeHost) { f.compiles = true }, "suite pamcap", Fail, "cc, stdio.h, pam_modules.h, capability.h and libc.a: not installed", "sudo apt-get install gcc libc6-dev libpam0g-dev libcap-dev"},
		{"pam on fedora", func(f *fakeHost) {
			f.files = map[string]string{}
			for _, name := range []string{"libpam.so.0", "security/pam_cap.so", "security/pam_permit.so", "security/pam_deny.so", "security/pam_debug.so"} {
				f.files["/usr/lib64/"+name] = ""
			}
		}, "suite pamcap", OK, "pam_cap.so, pam_permit.so, pam_deny.so, pam_debug.so and libpam.so.0: installed", ""},

		{"no go", func(f *fakeHost) { f.tools = nil }, "Go", Warn, "not installed", "https://go.dev/dl"},
		{"older go", func(f *fakeHost) { f.output["go"] = "go version go1.22.2 linux/amd64" }, "Go", Warn, "version 1.22.2", "go downloads the newer toolchain"},
		{"old go", func(f *fakeHost) { f.output["go"] = "go version go1.19.8 linux/amd64" }, "Go", Warn, "version 1.19.8", "install Go from"},
		{"broken go", func(f *fakeHost) { f.output["go"] = "!" }, "Go", Warn, "fails: exit status 127", "https://go.dev/dl"},
		{"strange go", func(f *fakeHost) { f.output["go"] = "go version devel" }, "Go", Warn, `prints "go version devel"`, "https://go.dev/dl"},
		{"no apt", func(f *fakeHost) { f.tools = []string{"dpkg-deb"} }, "kernel fetch", Warn, "apt-get, apt-cache not installed", "-kernel FILE"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := good()
			tc.change(f)
			r := Run(context.Background(), f.host(), catalog.Specs())
			for _, c := range r.Checks {
				assert.Equal(t, c.Status == OK, c.Cure == "", "%+v", c)
				if c.Name != tc.check {
					continue
				}
				assert.Equal(t, c.Status, tc.status, c.Detail)
				assert.Assert(t, is.Contains(c.Detail, tc.detail))
				assert.Assert(t, is.Contains(c.Cure, tc.cure))
				assert.Assert(t, !strings.Contains(c.Detail+c.Cure, "\n"))
				return
			}
			t.Fatalf("no check %s", tc.check)
		})
	}
}

// All failures are said, not the first only.
func TestErr(t *testing.T) {
	f := &fakeHost{accel: []string{"", "", "x"}, kvm: unix.ENOENT, broken: errors.New("no QEMU")}
	r := Run(context.Background(), f.host(), catalog.Specs())
	err := r.Err()
	var all *multierror.Error
	assert.Assert(t, errors.As(err, &all))
	assert.Assert(t, is.Len(all.Errors, 5))
	golden.Assert(t, err.Error()+"\n", "nothing.err.golden")
	var b strings.Builder
	assert.NilError(t, r.WriteText(&b))
	golden.Assert(t, b.String(), "nothing.golden")

	// A check that was forgotten to end is not a success.
	assert.Assert(t, (&Report{Checks: []Check{{Name: "x"}}}).Err() != nil)
}

func TestWriteTextFails(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	assert.NilError(t, err)
	defer full.Close()
	assert.ErrorIs(t, Run(context.Background(), good().host(), catalog.Specs()).WriteText(full), unix.ENOSPC)
}

// The real machine: no check may be undecided, and what is needed to run the
// tests that got here is there.
func TestLocalHost(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "yet", "there")
	h := LocalHost(dir, func(context.Context) (string, string, error) { return "tcg", "not tried", nil })
	r := Run(context.Background(), h, catalog.Specs())
	for _, c := range r.Checks {
		assert.Assert(t, c.Status == OK || c.Status == Warn || c.Status == Fail, "%+v", c)
		assert.Assert(t, c.Detail != "")
		t.Logf("%s %s: %s %s", c.Status, c.Name, c.Detail, c.Cure)
		if c.Name == "Go" || c.Name == "cache" || c.Name == "memory" {
			assert.Assert(t, c.Status != Fail, "%+v", c)
		}
	}
	_, err := os.Stat(dir)
	assert.ErrorIs(t, err, fs.ErrNotExist)

	// Without sbin in PATH, as for ordinary users on Debian.
	if path, err := h.LookPath("mkfs.ext4"); err == nil && strings.Contains(path, "sbin") {
		t.Setenv("PATH", "/usr/bin:/bin")
		again, err := h.LookPath("mkfs.ext4")
		assert.NilError(t, err)
		assert.Equal(t, filepath.Base(again), "mkfs.ext4")
	}
	_, err = h.LookPath("there-is-no-such-program")
	assert.ErrorContains(t, err, "not found")
	_, _, err = h.Space(dir)
	assert.ErrorIs(t, err, fs.ErrNotExist)
}
