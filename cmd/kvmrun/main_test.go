// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/initramfs/busybox"
	"github.com/kvmrun/kvmrun/initramfs/guest"
	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/kimage"
)

// TestMain lets the test binary be kvmrun, and the guest's init.
func TestMain(m *testing.M) {
	if guest.IsInit() {
		guest.Main()
	}
	testscript.Main(tests{m}, map[string]func(){
		"kvmrun":    main,
		"withtmpfs": withTmpfs,
	})
}

// tests are the tests within a directory of their own.
type tests struct{ *testing.M }

func (m tests) Run() int {
	dir, err := os.MkdirTemp("", "kvmrun-test-")
	if err == nil {
		shared.dir = dir
		err = os.Mkdir(filepath.Join(dir, "tmp"), 0o777)
	}
	if err == nil {
		shared.kvmrun, err = exec.LookPath("kvmrun")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	code := m.M.Run()
	if left := leftovers(dir); len(left) > 0 && code == 0 {
		fmt.Fprintln(os.Stderr, "the tests left behind:", strings.Join(left, ", "))
		return 1
	}
	return code
}

// leftovers are the processes that were given something in dir, by their
// environment, and temporary files.
func leftovers(dir string) (out []string) {
	envs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, e := range envs {
		if b, err := os.ReadFile(e); err == nil && bytes.Contains(b, []byte(dir)) {
			args, _ := os.ReadFile(filepath.Join(filepath.Dir(e), "cmdline"))
			out = append(out, fmt.Sprintf("%q", bytes.ReplaceAll(args, []byte{0}, []byte(" "))))
		}
	}
	tmp, _ := os.ReadDir(filepath.Join(dir, "tmp"))
	for _, f := range tmp {
		out = append(out, f.Name())
	}
	return out
}

// shared is what the tests have in common.
var shared struct {
	dir    string // gone after the tests
	kvmrun string
}

// userCache is the cache outside the tests: what takes long to make or fetch is
// kept there, all else in the tests' own.
func userCache() (*cache.Cache, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	return cache.Open(filepath.Join(dir, "kvmrun"))
}

// kernel returns the kernel to test with.
func kernel(t testing.TB) string {
	t.Helper()
	k := os.Getenv("KVMRUN_KERNEL")
	if k == "" {
		t.Skip("KVMRUN_KERNEL is not set: name a kernel, as make test does")
	}
	return k
}

// kernelRelease is what uname -r says on the kernel to test with.
var kernelRelease = sync.OnceValues(func() (string, error) {
	img, err := kimage.Open(os.Getenv("KVMRUN_KERNEL"))
	if err != nil {
		return "", err
	}
	c, err := userCache()
	if err != nil {
		return "", err
	}
	return img.Release(context.Background(), c)
})

// cacheHome returns the tests' XDG_CACHE_HOME, whose cache has the guest's
// tools and the uncompressed kernel.
var cacheHome = sync.OnceValues(func() (string, error) {
	home := filepath.Join(shared.dir, "cache")
	return home, seed(home, true)
})

// seed makes a cache below home with the guest's tools and, on demand, the
// uncompressed kernel in it.
func seed(home string, withKernel bool) error {
	ctx := context.Background()
	user, err := userCache()
	if err != nil {
		return err
	}
	paths := []string{}
	bb, err := busybox.Build(ctx, initramfs.Options{CacheDir: user.Root()})
	if err != nil {
		return err
	}
	paths = append(paths, bb)
	if k := os.Getenv("KVMRUN_KERNEL"); k != "" && withKernel {
		img, err := kimage.Open(k)
		if err != nil {
			return err
		}
		vmlinux, err := img.Vmlinux(ctx, user)
		if err != nil {
			return err
		}
		if filepath.Dir(vmlinux) != filepath.Dir(k) {
			paths = append(paths, filepath.Dir(vmlinux))
		}
	}
	for _, p := range paths {
		rel, err := filepath.Rel(user.Root(), p)
		if err != nil || strings.HasPrefix(rel, "..") {
			return fmt.Errorf("%s is not in the cache %s", p, user.Root())
		}
		if err := os.CopyFS(filepath.Join(home, "kvmrun", rel), os.DirFS(p)); err != nil {
			return err
		}
	}
	return nil
}

// goBuild builds a program once.
func goBuild(name string, args ...string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		bin := filepath.Join(shared.dir, name)
		cmd := exec.Command("go", append(args[:len(args)-1:len(args)-1], "-o", bin, args[len(args)-1])...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
		return bin, nil
	})
}

var (
	// prog runs in the guest.
	prog = goBuild("prog", "build", "-ldflags=-s -w", "./testdata/prog")
	// sample is a suite's test binary.
	sample = goBuild("sample.test", "test", "-c", "-ldflags=-s -w", "github.com/kvmrun/kvmrun/suites/testmain/testdata/sample")
)

func must[T any](t testing.TB, f func() (T, error)) T {
	t.Helper()
	v, err := f()
	assert.NilError(t, err)
	return v
}

// command is kvmrun with the tests' cache and kernel, in a directory of its own.
func command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	kernel(t)
	cmd := exec.Command(shared.kvmrun, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+must(t, cacheHome), "TMPDIR="+filepath.Join(shared.dir, "tmp"), "GITHUB_STEP_SUMMARY=", "KVMRUN_ACCEL=")
	return cmd
}

// result is a process's.
type outcome struct {
	stdout, stderr string
	code           int
}

// finish runs a command to its end.
func finish(t testing.TB, cmd *exec.Cmd) outcome {
	t.Helper()
	var o, e bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &o
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &e
	}
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{o.String(), e.String(), code(cmd.ProcessState)}
}

// code is the exit status as a shell gives it.
func code(s *os.ProcessState) int {
	if w := s.Sys().(syscall.WaitStatus); w.Signaled() {
		return 128 + int(w.Signal())
	}
	return s.ExitCode()
}

// stream collects output and can be waited for.
type stream struct {
	mu     sync.Mutex
	text   []byte
	change chan struct{}
	ended  bool
}

// follow collects what r gives.
func follow(r io.Reader) *stream {
	s := &stream{change: make(chan struct{})}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			s.mu.Lock()
			s.text = append(s.text, buf[:n]...)
			s.ended = err != nil
			close(s.change)
			s.change = make(chan struct{})
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

// soon tells when the time for all tests is nearly over: an error then says more
// than the panic that follows.
func soon(t *testing.T) <-chan time.Time {
	d, ok := t.Deadline()
	if !ok {
		return nil
	}
	return time.After(time.Until(d) - 5*time.Second)
}

func (s *stream) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.text)
}

// await waits until the output after the first from bytes has what, and returns
// the position behind it.
func (s *stream) await(t *testing.T, from int, what string) int {
	t.Helper()
	late := soon(t)
	for {
		s.mu.Lock()
		i, change, ended, text := bytes.Index(s.text[from:], []byte(what)), s.change, s.ended, string(s.text)
		s.mu.Unlock()
		if i >= 0 {
			return from + i + len(what)
		}
		if ended {
			t.Fatalf("the output ended without %q: %q", what, text)
		}
		select {
		case <-change:
		case <-late:
			t.Fatalf("no %q after byte %d of %q", what, from, text)
		}
	}
}

// awaitEnd waits until the output has ended.
func (s *stream) awaitEnd(t *testing.T) {
	t.Helper()
	late := soon(t)
	for {
		s.mu.Lock()
		change, ended := s.change, s.ended
		s.mu.Unlock()
		if ended {
			return
		}
		select {
		case <-change:
		case <-late:
			t.Fatalf("no end of the output %q", s)
		}
	}
}

// children returns a process's children.
func children(t testing.TB, pid int) (out []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	assert.NilError(t, err)
	for _, s := range stats {
		b, err := os.ReadFile(s)
		if err != nil {
			continue // gone meanwhile
		}
		var id, parent int
		var state string
		_, err = fmt.Sscanf(string(b[:bytes.IndexByte(b, ' ')]), "%d", &id)
		assert.NilError(t, err)
		// The name, in parentheses, can have blanks (proc(5)).
		_, err = fmt.Sscan(string(b[bytes.LastIndexByte(b, ')')+1:]), &state, &parent)
		assert.NilError(t, err)
		if parent == pid && state != "Z" {
			out = append(out, id)
		}
	}
	return out
}

// process is one that is watched beyond its parent's death.
type process struct{ pid, fd int }

// qemu finds the VM of a running kvmrun.
func qemu(t testing.TB, cmd *exec.Cmd) process {
	t.Helper()
	for _, pid := range children(t, cmd.Process.Pid) {
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || !bytes.Contains(args, []byte("qemu")) {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		assert.NilError(t, err)
		t.Cleanup(func() { _ = unix.Close(fd) })
		return process{pid, fd}
	}
	t.Fatal("kvmrun has no QEMU among its children")
	return process{}
}

// awaitEnd waits until the process is gone.
func (p process) awaitEnd(t testing.TB) {
	t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		assert.NilError(t, err)
		assert.Equal(t, n, 1)
		return
	}
}

// gone says that no process is left; without waiting, because kvmrun must have
// waited itself.
func (p process) gone(t testing.TB) {
	t.Helper()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, 0)
	assert.NilError(t, err)
	assert.Equal(t, n, 1, "QEMU (process %d) outlived kvmrun", p.pid)
}
