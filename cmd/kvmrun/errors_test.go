// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// TestErrors: what a user can get wrong is refused with status 2, before
// anything boots, in at most five lines that name what was tried, what is wrong
// with it and the cure.
func TestErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, f := range []string{"empty", "vmlinuz-1", "vmlinuz-2", "boot/vmlinuz-1", "boot/vmlinuz-2", "x.ko", "none.txt"} {
		assert.NilError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, f)), 0o755))
		assert.NilError(t, os.WriteFile(filepath.Join(dir, f), nil, 0o600))
	}
	run := func(args ...string) []string { return append([]string{"run", "-kernel", "none"}, args...) }
	exe := func(args ...string) []string {
		return append(append([]string{"exec", "-kernel", "none"}, args...), "--", "true")
	}
	kernel := func(k string) []string { return []string{"exec", "-kernel", k, "--", "true"} }
	for _, c := range []struct {
		args []string
		want []string
	}{
		{run("-j", "-1"), []string{`"-1" for flag -j: must not be negative`, "kvmrun help run"}},
		{run("-j", "some"), []string{`"some" for flag -j: want a whole number`}},
		{run("-count", "-3"), []string{"-count: must not be negative"}},
		{run("-timeout", "-1s"), []string{"-timeout: must not be negative"}},
		{run("-timeout", "5"), []string{`"5" for flag -timeout: give a unit, as 5s or 5m`}},
		{run("-hang", "soon"), []string{"-hang: want a time, as 90s, 5m or 1h30m"}},
		{run("-hang", "-2m"), []string{"-hang: must not be negative"}},
		{exe("-timeout", "-1s"), []string{"-timeout: must not be negative", "kvmrun help exec"}},
		{exe("-timeout", "5"), []string{"give a unit, as 5s or 5m"}},
		{exe("-env", "FOO"), []string{"-env FOO: want NAME=VALUE", `-env FOO="$FOO"`}},
		{exe("-env", "=x"), []string{"-env =x: want NAME=VALUE"}},
		{append([]string{"sweep", "-kernel", "none", "-env", "FOO"}, "--", "true"), []string{"-env FOO: want NAME=VALUE"}},
		{run("-cpus", "300"), []string{"-cpus 300: a VM has 255 at most", "leave -cpus out"}},
		{run("-cpus", "-1"), []string{"-cpus: must not be negative"}},
		{exe("-cpus", "300"), []string{"-cpus 300: a VM has 255 at most"}},
		{run("-memory", "900000000"), []string{"-memory 900000000: this host has ", "give less"}},
		{exe("-memory", "800000G"), []string{"-memory 819200000: this host has "}},
		{run("-memory", "2K"), []string{"-memory: want a number of MiB, or a size as 512M or 2G"}},
		{run("-memory", "G"), []string{"-memory: want a number of MiB"}},
		{run("-memory", "-5"), []string{"-memory: must not be negative"}},
		{run("-memory", "99999999999999999999"), []string{"-memory: want a number of MiB"}},
		{run("-memory", "2G"), []string{"/none: no such file or directory; name a bzImage or vmlinux file"}}, // a size, so that the kernel is what is wrong
		{run("-memory", "512MiB"), []string{"/none: no such file or directory"}},
		{run("-nosuchflag"), []string{"flag provided but not defined: -nosuchflag", "kvmrun help run"}},
		{run("-kernl", "x"), []string{"-kernl; nearest: kernel"}},
		{[]string{"bisect", "-timeout", "5"}, []string{"give a unit", "kvmrun help bisect"}},
		{[]string{"kernel", "prune", "-keep", "5"}, []string{"give a unit", "kvmrun help kernel prune"}},

		{kernel(""), []string{"kernel: the name is empty; name a bzImage or vmlinux file"}},
		{kernel("https://example.com/bzImage"), []string{"an address, and kernels are not downloaded from one", "download it yourself"}},
		{kernel("fedora:40"), []string{`"fedora" is no distribution whose kernels can be fetched`, "debian:VERSION and ubuntu:VERSION", "name its vmlinuz"}},
		{kernel("debian:"), []string{"debian:: names no version (for example debian:6.12)"}},
		{kernel("none"), []string{"/none: no such file or directory; name a bzImage or vmlinux file, the directory of a build, or debian:6.12"}},
		{kernel("boot"), []string{"kernel boot: is a directory, and not that of a build", "boot/vmlinuz-1, ", "boot/vmlinuz-2"}},
		{kernel("."), []string{"kernel .: is a directory"}},
		{kernel("empty"), []string{"empty"}},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			cmd := exec.Command(shared.kvmrun, c.args...)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+filepath.Join(dir, "cache"), "KVMRUN_KERNEL=")
			refused(t, cmd, c.want...)
		})
	}
}

// refused runs a command that must be refused so.
func refused(t *testing.T, cmd *exec.Cmd, want ...string) outcome {
	t.Helper()
	got := finish(t, cmd)
	assert.Check(t, is.Equal(got.code, 2), "%s", got.stderr)
	assert.Check(t, is.Equal(got.stdout, ""))
	for _, w := range want {
		assert.Check(t, is.Contains(got.stderr, w))
	}
	assert.Check(t, strings.HasPrefix(got.stderr, "kvmrun: ") && strings.HasSuffix(got.stderr, "\n"), "%q", got.stderr)
	assert.Check(t, strings.Count(got.stderr, "\n") <= 5, "%s", got.stderr)
	return got
}

// TestDeniedKernel: a kernel in a directory of somebody else's.
func TestDeniedKernel(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("this user cannot become another one: run the tests as root")
	}
	// Below TMPDIR everything is root's alone, the test binary included.
	dir, err := os.MkdirTemp("", "kvmrun-denied-")
	assert.NilError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	assert.NilError(t, os.Chmod(dir, 0o755))
	self, err := exec.LookPath(shared.kvmrun)
	assert.NilError(t, err)
	bin := filepath.Join(dir, "kvmrun")
	// By another process: a child that this one forks meanwhile would hold the
	// file open for writing, and nothing could execute it.
	out, err := exec.Command("cp", self, bin).CombinedOutput()
	assert.NilError(t, err, "%s", out)
	assert.NilError(t, os.Chmod(bin, 0o755))
	secret := filepath.Join(dir, "secret")
	assert.NilError(t, os.MkdirAll(filepath.Join(secret, "deep"), 0o700))
	k := filepath.Join(secret, "deep", "bzImage")
	assert.NilError(t, os.WriteFile(k, []byte("x"), 0o644))
	mine := filepath.Join(dir, "bzImage")
	assert.NilError(t, os.WriteFile(mine, []byte("x"), 0o600))
	for path, want := range map[string]string{
		k:    "the directory " + secret + " (drwx------) does not let user 65534 in",
		mine: mine + " (-rw-------) is not to be read by user 65534",
	} {
		cmd := exec.Command(bin, "exec", "-kernel", path, "--", "true")
		cmd.Dir = "/"
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "XDG_CACHE_HOME=" + filepath.Join("/tmp", "kvmrun-nobody-"+filepath.Base(dir))}
		t.Cleanup(func() { _ = os.RemoveAll("/tmp/kvmrun-nobody-" + filepath.Base(dir)) })
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		refused(t, cmd, "permission denied", want, "copy")
	}
}

// elfFor is an object file for a machine that is not this one.
func elfFor(machine uint16) []byte {
	h := make([]byte, 64)
	copy(h, "\x7fELF\x02\x01\x01")
	binary.LittleEndian.PutUint16(h[16:], 1) // ET_REL
	binary.LittleEndian.PutUint16(h[18:], machine)
	binary.LittleEndian.PutUint32(h[20:], 1)
	binary.LittleEndian.PutUint16(h[52:], 64)
	return h
}

// aModule is the file of a module that belongs to the kernel to test with, and
// that nothing has loaded.
func aModule(t *testing.T) string {
	t.Helper()
	var found string
	root := filepath.Dir(filepath.Dir(kernel(t)))
	assert.NilError(t, filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err == nil && regexp.MustCompile(`/dummy\.ko(\.\w+)?$`).MatchString(p) {
			found = p
			return fs.SkipAll
		}
		return err
	}))
	if found == "" {
		t.Skip("no module dummy.ko in " + root + ": make test fetches a kernel that has it")
	}
	return found
}

// TestFilesTakenAlong: object files of any machine are data, and a module can be
// named by its file.
func TestFilesTakenAlong(t *testing.T) {
	t.Parallel()
	module := aModule(t)
	cmd := command(t, "exec", "-file", "x.bpf.o", "-file", "arm.o", "-file", "cut.o", "-module", "./"+filepath.Base(module), "--",
		"sh", "-c", "echo *.o; test -d /sys/module/dummy && echo loaded")
	for name, text := range map[string][]byte{"x.bpf.o": elfFor(247), "arm.o": elfFor(183), "cut.o": elfFor(62)[:40]} {
		assert.NilError(t, os.WriteFile(filepath.Join(cmd.Dir, name), text, 0o600))
	}
	text, err := os.ReadFile(module)
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(filepath.Join(cmd.Dir, filepath.Base(module)), text, 0o600))
	got := finish(t, cmd)
	assert.Equal(t, got.stdout, "arm.o cut.o x.bpf.o\nloaded\n", "%s", got.stderr)
	assert.Equal(t, got.code, 0)
}

// TestScriptBeside: a script that lies beside is not in the guest by itself, and
// that is said.
func TestScriptBeside(t *testing.T) {
	t.Parallel()
	cmd := command(t, "exec", "--", "sh", "probe.sh")
	assert.NilError(t, os.WriteFile(filepath.Join(cmd.Dir, "probe.sh"), []byte("echo probe\n"), 0o600))
	got := finish(t, cmd)
	assert.Check(t, got.code != 0)
	assert.Check(t, is.Contains(got.stderr, "probe.sh is a file of this host and was not in the guest; take it along: kvmrun exec -file probe.sh"))
}

// TestBadModules: a module's file that the kernel would not load is refused
// before the boot.
func TestBadModules(t *testing.T) {
	t.Parallel()
	k := kernel(t)
	for name, want := range map[string][]string{
		"./text.ko":  {"-module: module ", "text.ko: "},
		"./none.ko":  {"none.ko", "no such file"},
		"./other.ko": {"other.ko: was built for kernel 1.2.3 (its vermagic), and this kernel is ", "build it against"},
	} {
		cmd := command(t, "exec", "-kernel", k, "-module", name, "--", "true")
		assert.NilError(t, os.WriteFile(filepath.Join(cmd.Dir, "text.ko"), []byte("text"), 0o600))
		assert.NilError(t, os.WriteFile(filepath.Join(cmd.Dir, "other.ko"), moduleFor(t, "1.2.3"), 0o600))
		refused(t, cmd, want...)
	}
}

// TestBadPrograms: a program that the guest cannot execute is refused before the
// boot.
func TestBadPrograms(t *testing.T) {
	t.Parallel()
	k := kernel(t)
	for name, c := range map[string]struct {
		text []byte
		want string
	}{
		"./arm": {elfFor(183), "arm: is an ELF file for arm64, but the guest is amd64"},
		"./bpf": {elfFor(247), "bpf: is an ELF file for EM_BPF"},
		"./cut": {elfFor(62)[:40], "cut: "},
	} {
		cmd := command(t, "exec", "-kernel", k, "--", name)
		assert.NilError(t, os.WriteFile(filepath.Join(cmd.Dir, name), c.text, 0o755))
		refused(t, cmd, "program "+name+": ", c.want)
	}
}

// moduleFor is a module for a kernel of that release, as far as its vermagic says.
func moduleFor(t *testing.T, release string) []byte {
	t.Helper()
	dir := t.TempDir()
	c := filepath.Join(dir, "m.c")
	assert.NilError(t, os.WriteFile(c, []byte(`__attribute__((section(".modinfo"), used)) static const char v[] = "vermagic=`+release+` SMP";`), 0o600))
	out, err := exec.Command("gcc", "-c", "-o", filepath.Join(dir, "m.o"), c).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("no gcc: install it, as .ci/setup test does")
	}
	assert.NilError(t, err, "%s", out)
	text, err := os.ReadFile(filepath.Join(dir, "m.o"))
	assert.NilError(t, err)
	return text
}
