// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// TestExecLargeStreams passes 50 MB through each of the streams.
func TestExecLargeStreams(t *testing.T) {
	t.Parallel()
	const size = 50_000_000
	data := func() (io.Reader, string) {
		h := sha256.New()
		_, err := io.CopyN(h, rand.NewChaCha8([32]byte{}), size)
		assert.NilError(t, err)
		return io.LimitReader(rand.NewChaCha8([32]byte{}), size), fmt.Sprintf("%x", h.Sum(nil))
	}
	in, sum := data()
	bin := must(t, prog)
	t.Run("out", func(t *testing.T) {
		t.Parallel()
		cmd := command(t, "exec", "--", bin, "flood", fmt.Sprint(size))
		h := sha256.New()
		n := counter{w: h}
		cmd.Stdout = &n
		got := finish(t, cmd)
		assert.Equal(t, got.code, 0, "%s", got.stderr)
		assert.Equal(t, n.n, int64(size))
		assert.Equal(t, fmt.Sprintf("%x", h.Sum(nil)), sum)
		assert.Check(t, is.Contains(got.stderr, sum), "what the program wrote")
	})
	t.Run("in", func(t *testing.T) {
		t.Parallel()
		cmd := command(t, "exec", "--", bin, "sum")
		cmd.Stdin = in
		got := finish(t, cmd)
		assert.Equal(t, got.code, 0, "%s", got.stderr)
		assert.Equal(t, got.stdout, fmt.Sprintf("%d %s\n", size, sum))
	})
}

// counter counts what goes through it.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.w.Write(p)
}

// TestExecSlowReader: output that nobody has read yet when the guest is done is
// not lost.
func TestExecSlowReader(t *testing.T) {
	t.Parallel()
	const size = 150_000 // more than the pipe to the reader takes, less than the guest must wait for
	dir := t.TempDir()
	cmd := command(t, "exec", "-o", dir, "--", must(t, prog), "flood", fmt.Sprint(size))
	out, err := cmd.StdoutPipe()
	assert.NilError(t, err)
	w := watch(t, dir)
	assert.NilError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	w.until(t, "the guest's end", func() bool { return contains(filepath.Join(dir, "console.log"), "kvmrun: end ") })
	// Nothing is to happen now, which no event can tell.
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(qemu(t, cmd).fd), Events: unix.POLLIN}}, 2000)
	assert.NilError(t, err)
	assert.Equal(t, n, 0, "the VM ended before its output was read")
	b, err := io.ReadAll(out)
	assert.NilError(t, err)
	_ = cmd.Wait()
	assert.Equal(t, code(cmd.ProcessState), 0)
	assert.Equal(t, len(b), size)
}

// TestExecBinary: no byte is changed on the way, in or out.
func TestExecBinary(t *testing.T) {
	t.Parallel()
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	cmd := command(t, "exec", "--", "cat")
	cmd.Stdin = bytes.NewReader(all)
	got := finish(t, cmd)
	assert.Equal(t, got.code, 0, "%s", got.stderr)
	assert.DeepEqual(t, []byte(got.stdout), all)
}

// TestExecOrder: where both streams go to one file, what a program writes in
// turn arrives in turn.
func TestExecOrder(t *testing.T) {
	t.Parallel()
	cmd := command(t, "exec", "--", must(t, prog), "turns", "2000")
	f, err := os.Create(filepath.Join(t.TempDir(), "both"))
	assert.NilError(t, err)
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	got := finish(t, cmd)
	assert.Equal(t, got.code, 0)
	var want strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&want, "out %d\nerr %d\n", i, i)
	}
	b, err := os.ReadFile(f.Name())
	assert.NilError(t, err)
	// kvmrun's own remarks come before and after.
	assert.Assert(t, is.Contains(string(b), want.String()))
}

// running starts a command and follows its output.
func running(t *testing.T, cmd *exec.Cmd) (stdout, stderr *stream) {
	t.Helper()
	o, err := cmd.StdoutPipe()
	assert.NilError(t, err)
	e, err := cmd.StderrPipe()
	assert.NilError(t, err)
	assert.NilError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return follow(o), follow(e)
}

// end waits for the process and all its output.
func end(t *testing.T, cmd *exec.Cmd, streams ...*stream) int {
	t.Helper()
	for _, s := range streams {
		s.awaitEnd(t)
	}
	_ = cmd.Wait()
	return code(cmd.ProcessState)
}

// TestExecInteractive: input goes to the program as it comes, the answers come
// back as they are given, and the end of the input is passed on.
func TestExecInteractive(t *testing.T) {
	t.Parallel()
	cmd := command(t, "exec", "--", must(t, prog), "lines")
	in, err := cmd.StdinPipe()
	assert.NilError(t, err)
	out, msgs := running(t, cmd)
	at := 0
	for _, l := range []string{"one", "two"} {
		_, err := io.WriteString(in, l+"\n")
		assert.NilError(t, err)
		at = out.await(t, at, "line: "+l+"\n")
	}
	assert.NilError(t, in.Close())
	out.await(t, at, "end of input\n")
	assert.Equal(t, end(t, cmd, out, msgs), 0, "%s", msgs)
}

// TestExecPanic: when the kernel dies under the program, what it had written is
// there, and so is the kernel's report.
func TestExecPanic(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := command(t, "exec", "-o", dir, "--", "sh", "-c", "echo still here; read line; echo c > /proc/sysrq-trigger")
	in, err := cmd.StdinPipe()
	assert.NilError(t, err)
	out, msgs := running(t, cmd)
	out.await(t, 0, "still here\n")
	q := qemu(t, cmd)
	_, err = io.WriteString(in, "now\n")
	assert.NilError(t, err)
	assert.Equal(t, end(t, cmd, out, msgs), 1, "%s", msgs)
	q.gone(t)
	for _, want := range []string{
		"kernel splat: kernel panic: sysrq triggered crash", "Kernel panic - not syncing: sysrq triggered crash",
		"kernel-failed: kernel panic: sysrq triggered crash; kernel log: " + dir + "/console.log",
	} {
		assert.Check(t, is.Contains(msgs.String(), want))
	}
}

// TestExecInterrupt: the program decides what Ctrl-C means.
func TestExecInterrupt(t *testing.T) {
	t.Parallel()
	t.Run("handled", func(t *testing.T) {
		t.Parallel()
		cmd := command(t, "exec", "--", must(t, prog), "signals")
		out, msgs := running(t, cmd)
		at := out.await(t, 0, "ready\n")
		q := qemu(t, cmd)
		assert.NilError(t, cmd.Process.Signal(unix.SIGINT))
		at = out.await(t, at, "got interrupt\n")
		assert.NilError(t, cmd.Process.Signal(unix.SIGINT))
		out.await(t, at, "got interrupt\n")
		assert.Equal(t, end(t, cmd, out, msgs), 42, "%s", msgs)
		q.gone(t)
	})
	t.Run("fatal", func(t *testing.T) {
		t.Parallel()
		cmd := command(t, "exec", "--", "sh", "-c", "echo ready; exec sleep 1000")
		out, msgs := running(t, cmd)
		out.await(t, 0, "ready\n")
		assert.NilError(t, cmd.Process.Signal(unix.SIGINT))
		assert.Equal(t, end(t, cmd, out, msgs), 130, "%s", msgs)
	})
}

// TestExecPython runs a program with many shared libraries and files.
func TestExecPython(t *testing.T) {
	t.Parallel()
	kernel(t)
	const python = "/usr/bin/python3"
	if _, err := os.Stat(python); err != nil {
		t.Skipf("%v; apt-get install python3-minimal", err)
	}
	out, err := exec.Command(python, "-c", `import sys; print(sys.version_info[0], sys.version_info[1])`).Output()
	assert.NilError(t, err)
	var major, minor int
	_, err = fmt.Sscan(string(out), &major, &minor)
	assert.NilError(t, err)
	// Its library is no ELF dependency: it is taken along by name.
	lib := fmt.Sprintf("/usr/lib/python%d.%d", major, minor)
	if _, err := os.Stat(filepath.Join(lib, "encodings")); err != nil {
		t.Skipf("python3's library is not where Debian has it: %v; apt-get install python3-minimal", err)
	}
	got := finish(t, command(t, "exec", "-memory", "512", "-file", filepath.Join(lib, "encodings"), "-file", filepath.Join(lib, "codecs.py"),
		"-file", filepath.Join(lib, "io.py"), "-file", filepath.Join(lib, "abc.py"),
		"--", python, "-S", "-I", "-c", "print(6*7)"))
	assert.Equal(t, got.code, 0, "%s", got.stderr)
	assert.Equal(t, got.stdout, "42\n")
}

// TestExecVMCore: the memory of a kernel that panicked, and of one whose program
// hangs, is in a file that is named.
func TestExecVMCore(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		flags   []string
		program string
		magic   string
	}{
		{[]string{"-vmcore"}, "echo c > /proc/sysrq-trigger", "\x7fELF"},
		{[]string{"-vmcore=kdump-zlib", "-timeout", "2s"}, "sleep 1000", "makedumpfile\x00"}, // in its flattened form
	} {
		dir := t.TempDir()
		args := append([]string{"exec", "-o", dir, "-memory", "256"}, c.flags...)
		got := finish(t, command(t, append(args, "--", "sh", "-c", c.program)...))
		assert.Equal(t, got.code, 1, "%s", got.stderr)
		path := filepath.Join(dir, "vmcore")
		assert.Check(t, is.Contains(got.stderr, "for crash and drgn): "+path))
		core, err := os.ReadFile(path)
		assert.NilError(t, err)
		assert.Check(t, bytes.HasPrefix(core, []byte(c.magic)))
		assert.Check(t, bytes.Contains(core[:1<<20], []byte("VMCOREINFO\x00")))
		assert.Check(t, bytes.Contains(core[:1<<20], []byte("OSRELEASE=")))
	}
	got := finish(t, command(t, "exec", "-vmcore=zip", "--", "true"))
	assert.Equal(t, got.code, 2)
	assert.Check(t, is.Contains(got.stderr, "want elf or kdump-zlib"))
}
