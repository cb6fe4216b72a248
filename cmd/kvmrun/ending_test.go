// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/result"
)

// watcher waits for changes of files.
type watcher struct {
	fd int
	f  *os.File
}

// watch begins to watch an existing directory.
func watch(t *testing.T, dir string) *watcher {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	assert.NilError(t, err)
	w := &watcher{fd, os.NewFile(uintptr(fd), "inotify")}
	t.Cleanup(func() { _ = w.f.Close() })
	if d, ok := t.Deadline(); ok {
		assert.NilError(t, w.f.SetReadDeadline(d.Add(-5*time.Second)))
	}
	_, err = unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MODIFY|unix.IN_MOVED_TO)
	assert.NilError(t, err)
	return w
}

// until returns when done does, which is asked again after every change.
func (w *watcher) until(t *testing.T, what string, done func() bool) {
	t.Helper()
	buf := make([]byte, 64<<10)
	for !done() {
		_, err := w.f.Read(buf)
		assert.NilError(t, err, "waiting for %s", what)
	}
}

func contains(path, text string) bool {
	b, err := os.ReadFile(path)
	return err == nil && strings.Contains(string(b), text)
}

// names are the names of all files below a directory.
func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	assert.NilError(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			p, err = filepath.Rel(dir, p)
			out = append(out, p)
		}
		return err
	}))
	return out
}

// hanging starts kvmrun run with a test that never ends, and returns when it
// runs.
func hanging(t *testing.T, args ...string) (cmd *exec.Cmd, q process, dir string) {
	t.Helper()
	dir = t.TempDir()
	cmd = command(t, append([]string{"run", "-suite", must(t, sample), "-run", "TestPass|TestZHang", "-o", dir}, args...)...)
	job := filepath.Join(dir, must(t, kernelRelease)+"-sample")
	assert.NilError(t, os.Mkdir(job, 0o755))
	w := watch(t, job)
	var out, msgs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &msgs
	assert.NilError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(out.String(), msgs.String())
		}
	})
	w.until(t, "the test's start", func() bool { return contains(filepath.Join(job, "stdout.log"), "it hangs") })
	return cmd, qemu(t, cmd), dir
}

// TestRunInterrupted: what was found out until Ctrl-C is kept and reported.
func TestRunInterrupted(t *testing.T) {
	t.Parallel()
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			cmd, q, dir := hanging(t, "-tap", filepath.Join(t.TempDir(), "out.tap"))
			assert.NilError(t, cmd.Process.Signal(sig))
			_ = cmd.Wait()
			q.gone(t)
			assert.Equal(t, code(cmd.ProcessState), 3)
			assert.Check(t, is.Contains(fmt.Sprint(cmd.Stdout), "infra"))
			assert.Check(t, is.Contains(fmt.Sprint(cmd.Stdout), "logs: "+dir))
			assert.Check(t, is.Contains(fmt.Sprint(cmd.Stderr), "interrupted"))

			b, err := os.ReadFile(filepath.Join(dir, "result.json"))
			assert.NilError(t, err)
			var run result.Run
			assert.NilError(t, json.Unmarshal(b, &run))
			assert.Assert(t, is.Len(run.Jobs, 1))
			job := run.Jobs[0]
			assert.Equal(t, job.Verdict, result.VerdictInfra)
			assert.Assert(t, is.Len(job.Cases, 2))
			assert.Equal(t, job.Cases[0].Status, result.StatusPass)
			assert.Equal(t, job.Cases[1].Status, result.StatusFail)
			assert.Check(t, is.Contains(job.Cases[1].Name, "TestZHang"))
			id := must(t, kernelRelease) + "-sample/"
			assert.DeepEqual(t, names(t, dir), []string{id + "console.log", id + "replay.json", id + "stderr.log", id + "stdout.log", "result.json"})
			assert.Check(t, contains(filepath.Join(dir, id, "console.log"), " TestZHang")) // in a mark
		})
	}
}

// TestRunKilled: nobody can clean up after SIGKILL, and nothing needs to be.
func TestRunKilled(t *testing.T) {
	t.Parallel()
	cmd, q, dir := hanging(t)
	// The guest would switch itself off when its host is gone; a QEMU that does
	// nothing any more must go too.
	assert.NilError(t, unix.Kill(q.pid, unix.SIGSTOP))
	assert.NilError(t, cmd.Process.Kill())
	q.awaitEnd(t)
	_ = cmd.Wait()
	id := must(t, kernelRelease) + "-sample/"
	assert.DeepEqual(t, names(t, dir), []string{id + "console.log", id + "replay.json", id + "stderr.log", id + "stdout.log"})
}

// TestForksAreKilled is the same for machines that were forked.
func TestForksAreKilled(t *testing.T) {
	t.Parallel()
	cmd, q, dir := hanging(t, "-isolate", "test", "-j", "1")
	assert.NilError(t, unix.Kill(q.pid, unix.SIGSTOP))
	assert.NilError(t, cmd.Process.Kill())
	q.awaitEnd(t)
	_ = cmd.Wait()
	id := must(t, kernelRelease) + "-sample/"
	assert.DeepEqual(t, names(t, dir), []string{id + "console-2.log", id + "console.log", id + "replay.json", id + "stderr.log", id + "stdout.log"})
}

// TestExecTerminated: SIGTERM is for kvmrun itself, not for the program.
func TestExecTerminated(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := command(t, "exec", "-o", dir, "--", must(t, prog), "signals")
	out, msgs := running(t, cmd)
	out.await(t, 0, "ready\n")
	q := qemu(t, cmd)
	assert.NilError(t, cmd.Process.Signal(unix.SIGTERM))
	assert.Equal(t, end(t, cmd, out, msgs), 3)
	q.gone(t)
	assert.Check(t, is.Contains(msgs.String(), "interrupted"))
	assert.Equal(t, out.String(), "ready\n")
	assert.DeepEqual(t, names(t, dir), []string{"console.log", "result.json"})
}

// TestExecReaderGone: as a program here, kvmrun ends when nobody reads its
// output.
func TestExecReaderGone(t *testing.T) {
	t.Parallel()
	cmd := command(t, "exec", "--", must(t, prog), "flood", fmt.Sprint(int64(1)<<40))
	r, err := cmd.StdoutPipe()
	assert.NilError(t, err)
	assert.NilError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	_, err = r.Read(make([]byte, 1))
	assert.NilError(t, err)
	q := qemu(t, cmd)
	assert.NilError(t, r.Close())
	q.awaitEnd(t)
	_ = cmd.Wait()
	assert.Equal(t, code(cmd.ProcessState), 128+int(unix.SIGPIPE))
}

// withTmpfs is a command of the test binary: DIR SIZE PROGRAM ARGUMENTS. In the
// mount namespace it was started in it mounts a file system of that size, runs
// the program, and lists what is left there on standard error.
func withTmpfs() {
	dir, size, argv := os.Args[1], os.Args[2], os.Args[3:]
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mount a small file system:", err)
		os.Exit(98)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err = cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(98)
	}
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			fmt.Fprintln(os.Stderr, "left:", p)
		}
		return nil
	})
	os.Exit(code(cmd.ProcessState))
}

// small runs kvmrun with a small file system on a directory.
func small(t *testing.T, dir, size string, args ...string) outcome {
	t.Helper()
	cmd := command(t, args...)
	cmd.Path = filepath.Join(filepath.Dir(shared.kvmrun), "withtmpfs")
	cmd.Args = append([]string{"withtmpfs", dir, size, shared.kvmrun}, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	const cure = "run the tests as root, or allow user namespaces (sysctl kernel.apparmor_restrict_unprivileged_userns=0)"
	try := exec.Command("/bin/true")
	try.SysProcAttr = cmd.SysProcAttr
	if err := try.Run(); err != nil {
		t.Skipf("make a mount namespace: %v: %s", err, cure)
	}
	out := finish(t, cmd)
	if out.code == 98 {
		t.Skipf("%s: %s", out.stderr, cure)
	}
	return out
}

// TestFullLogDisk: a kernel log that could not be kept is no basis for a
// verdict; the beginning stays.
func TestFullLogDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	got := small(t, dir, "16k", "exec", "-o", dir, "--", "echo", "all is well")
	assert.Equal(t, got.code, 3, "%s", got.stderr)
	assert.Equal(t, got.stdout, "all is well\n")
	assert.Check(t, is.Contains(got.stderr, "the kernel log was not kept: write "+dir+"/console.log"))
	assert.Check(t, is.Contains(got.stderr, "no space left on device"))
	assert.Check(t, is.Contains(got.stderr, "left: "+dir+"/console.log\n"))
}

// TestFullResultsDisk: the table is printed although no file can be.
func TestFullResultsDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	got := small(t, dir, "16k", "run", "-suite", must(t, sample), "-run", "TestPass", "-o", dir)
	assert.Equal(t, got.code, 3, "%s", got.stderr)
	assert.Check(t, is.Contains(got.stdout, "TESTS"))
	assert.Check(t, is.Contains(got.stdout, "infra"))
	assert.Check(t, is.Contains(got.stderr, "no space left on device"))
	assert.Check(t, is.Contains(got.stderr, "write the results: write "+dir+"/result.json: "))
	assert.Check(t, !strings.Contains(got.stderr, "left: "+dir+"/result.json"), "half a file is left: %s", got.stderr)
	assert.Check(t, !regexp.MustCompile(`left: .*/\.kvmrun-`).MatchString(got.stderr), "a temporary file is left: %s", got.stderr)
}

// TestFullCacheDisk: nothing boots from a cache that is full, the error says
// where and what to do, and the half-written entry is removed.
func TestFullCacheDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	got := small(t, dir, "8m", "exec", "-cache", dir, "--", "true")
	assert.Equal(t, got.code, 3, "%s", got.stderr)
	assert.Check(t, is.Contains(got.stderr, "no space left for the cache in "+dir))
	assert.Check(t, !regexp.MustCompile(`left: .*/\.tmp-`).MatchString(got.stderr), "%s", got.stderr)
}

// TestFullDiskWhileCompiling: that the go command has no space is no mistake of
// the user's, whatever is being asked.
func TestFullDiskWhileCompiling(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	script := "#!/bin/sh\necho 'link: write /tmp/b001/landlock.test: no space left on device' >&2\nexit 1\n"
	assert.NilError(t, os.WriteFile(filepath.Join(bin, "go"), []byte(script), 0o755))
	cmd := command(t, "bisect", "-cache", t.TempDir(), "-kernels", kernel(t)+","+kernel(t), "-good", "auto", "-suite", "landlock", "-run", "TestX")
	cmd.Env = append(cmd.Env, "PATH="+bin+":"+os.Getenv("PATH"))
	cmd.Dir = "../.."
	got := finish(t, cmd)
	assert.Equal(t, got.code, 3, "%s", got.stderr)
	assert.Check(t, is.Contains(got.stderr, "b001/landlock.test: no space left on device"))
	assert.Check(t, is.Contains(got.stderr, "no space left for the cache in "))
}

// entries are the complete entries of a cache, and its leftovers.
func entries(t *testing.T, home, kind string) (complete, left []string) {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(home, "kvmrun", kind))
	assert.NilError(t, err)
	for _, e := range list {
		if strings.HasPrefix(e.Name(), ".") {
			left = append(left, e.Name())
		} else {
			complete = append(complete, e.Name())
		}
	}
	return complete, left
}

// TestSharedCache: two runs at once, on a cache that has nothing of what both
// need.
func TestSharedCache(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	kernel(t)
	assert.NilError(t, seed(home, false))
	var cmds []*exec.Cmd
	for range 2 {
		cmd := command(t, "exec", "--", "echo", "hello")
		cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+home)
		var out, msgs strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &msgs
		assert.NilError(t, cmd.Start())
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		_ = cmd.Wait()
		assert.Check(t, is.Equal(code(cmd.ProcessState), 0), "%s", cmd.Stderr)
		assert.Check(t, is.Equal(fmt.Sprint(cmd.Stdout), "hello\n"))
	}
	for _, kind := range []string{"initramfs", "kernel-image"} {
		complete, left := entries(t, home, kind)
		assert.Check(t, is.Len(complete, 1), "%s", kind)
		assert.Check(t, is.Len(left, 0), "%s", kind)
	}
}

// TestKilledWhilePreparing: a run that was killed while it wrote into the cache
// does not disturb the next one, which cleans up.
func TestKilledWhilePreparing(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	kernel(t)
	assert.NilError(t, seed(home, true))
	dir := filepath.Join(home, "kvmrun", "initramfs")
	assert.NilError(t, os.Mkdir(dir, 0o700))
	start := func() *exec.Cmd {
		cmd := command(t, "exec", "--", "echo", "hello")
		cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+home)
		return cmd
	}
	// Killed the moment its unfinished entry appears; should the machine be so
	// fast that the entry is complete by then, again without it.
	for {
		w := watch(t, dir)
		cmd := start()
		assert.NilError(t, cmd.Start())
		w.until(t, "an unfinished entry", func() bool {
			complete, left := entries(t, home, "initramfs")
			return len(complete) > 0 || strings.Contains(strings.Join(left, " "), ".tmp-")
		})
		assert.NilError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		complete, left := entries(t, home, "initramfs")
		if len(complete) == 0 {
			assert.Assert(t, is.Contains(strings.Join(left, " "), ".tmp-"))
			break
		}
		c, err := cache.Open(filepath.Join(home, "kvmrun"))
		assert.NilError(t, err)
		assert.NilError(t, c.Remove(context.Background(), "initramfs", complete[0]))
	}
	got := finish(t, start())
	assert.Equal(t, got.code, 0, "%s", got.stderr)
	assert.Equal(t, got.stdout, "hello\n")
	complete, left := entries(t, home, "initramfs")
	assert.Check(t, is.Len(complete, 1))
	assert.Check(t, is.Len(left, 0))
}
