// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/output"
)

func hello(w io.Writer) error { _, err := io.WriteString(w, "hello\n"); return err }

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	assert.NilError(t, err)
	return string(b)
}

// left are the names in a directory.
func left(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	assert.NilError(t, err)
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func TestRegular(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "new")
	f, err := output.Open(path)
	assert.NilError(t, err)
	assert.Equal(t, len(left(t, dir)), 0) // nothing is there before it is written
	assert.NilError(t, f.Write(hello))
	assert.Equal(t, read(t, path), "hello\n")

	// A failure leaves what was there, and a success its mode.
	assert.NilError(t, os.WriteFile(path, []byte("old"), 0o644))
	assert.NilError(t, os.Chmod(path, 0o600))
	broken := errors.New("broken")
	assert.ErrorIs(t, output.WriteFile(path, func(w io.Writer) error { _ = hello(w); return broken }), broken)
	assert.Equal(t, read(t, path), "old")
	assert.NilError(t, output.WriteFile(path, hello))
	st, err := os.Stat(path)
	assert.NilError(t, err)
	assert.Equal(t, st.Mode().Perm(), os.FileMode(0o600))
	assert.DeepEqual(t, left(t, dir), []string{"new"})

	// No name at all.
	f, err = output.Open("")
	assert.NilError(t, err)
	assert.NilError(t, f.Write(hello))
}

func TestLinks(t *testing.T) {
	dir, far := t.TempDir(), t.TempDir()
	target := filepath.Join(far, "target")
	for _, l := range [][2]string{{"abs", target}, {"chain", "abs"}, {"dangling", "../" + filepath.Base(far) + "/other"}} {
		link := filepath.Join(dir, l[0])
		assert.NilError(t, os.Symlink(l[1], link))
		assert.NilError(t, output.WriteFile(link, hello))
		st, err := os.Lstat(link)
		assert.NilError(t, err)
		assert.Equal(t, st.Mode().Type(), os.ModeSymlink)
		assert.Equal(t, read(t, link), "hello\n")
	}
	assert.DeepEqual(t, left(t, far), []string{"other", "target"})
	assert.NilError(t, os.Symlink("loop", filepath.Join(dir, "loop")))
	_, err := output.Open(filepath.Join(dir, "loop"))
	assert.ErrorIs(t, err, unix.ELOOP)
}

// TestDevices has nodes of its own: nothing here may touch the host's /dev.
func TestDevices(t *testing.T) {
	dir := t.TempDir()
	for name, minor := range map[string]uint32{"null": 3, "full": 7} {
		path := filepath.Join(dir, name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			t.Skipf("cannot make a device node: %v: run the tests as root", err)
		}
		link := path + "-link"
		assert.NilError(t, os.Symlink(name, link))
		for _, p := range []string{path, link} {
			err := output.WriteFile(p, hello)
			if errors.Is(err, unix.EACCES) {
				t.Skip("device nodes are forbidden on the file system of TMPDIR (nodev): set TMPDIR to one that has them")
			}
			if name == "full" {
				assert.ErrorIs(t, err, unix.ENOSPC)
			} else {
				assert.NilError(t, err)
			}
			st, err := os.Stat(path)
			assert.NilError(t, err)
			assert.Equal(t, st.Mode().Type(), os.ModeDevice|os.ModeCharDevice)
			assert.Equal(t, st.Sys().(*syscall.Stat_t).Rdev, unix.Mkdev(1, minor))
		}
	}
	assert.Equal(t, len(left(t, dir)), 4)
}

func TestPipes(t *testing.T) {
	// As >(cat) in a shell: a descriptor.
	r, w, err := os.Pipe()
	assert.NilError(t, err)
	defer r.Close()
	f, err := output.Open(fmt.Sprintf("/dev/fd/%d", w.Fd()))
	assert.NilError(t, err)
	assert.NilError(t, w.Close()) // it has a duplicate
	assert.NilError(t, f.Write(hello))
	b, err := io.ReadAll(r)
	assert.NilError(t, err)
	assert.Equal(t, string(b), "hello\n")

	// A FIFO, with and without somebody who reads it by then.
	for _, early := range []bool{true, false} {
		fifo := filepath.Join(t.TempDir(), "fifo")
		assert.NilError(t, unix.Mkfifo(fifo, 0o600))
		var reader *os.File
		if early {
			reader, err = os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
			assert.NilError(t, err)
		}
		f, err := output.Open(fifo)
		assert.NilError(t, err)
		done := make(chan error, 1)
		go func() { done <- f.Write(hello) }()
		if !early {
			reader, err = os.Open(fifo)
			assert.NilError(t, err)
		}
		assert.NilError(t, <-done)
		b, err := io.ReadAll(reader)
		assert.NilError(t, err)
		assert.Equal(t, string(b), "hello\n")
		assert.NilError(t, reader.Close())
		st, err := os.Lstat(fifo)
		assert.NilError(t, err)
		assert.Equal(t, st.Mode().Type(), os.ModeNamedPipe)
	}

	// A redirected standard output keeps what it has.
	log := filepath.Join(t.TempDir(), "log")
	file, err := os.Create(log)
	assert.NilError(t, err)
	_, err = file.WriteString("before\n")
	assert.NilError(t, err)
	assert.NilError(t, output.WriteFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), hello))
	_, err = file.WriteString("after\n")
	assert.NilError(t, err)
	assert.Equal(t, read(t, log), "before\nhello\nafter\n")
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	for name, want := range map[string]string{
		filepath.Join(dir, "none", "x.xml"): "no such file or directory: there is no directory " + filepath.Join(dir, "none"),
		dir:                                 "is a directory",
		"/dev/fd/9999":                      "bad file descriptor",
	} {
		_, err := output.Open(name)
		assert.ErrorContains(t, err, "write "+name+": ")
		assert.ErrorContains(t, err, want)
		assert.Assert(t, !strings.Contains(err.Error(), ".kvmrun-"), err)
	}
}

// TestAsUser is about permissions, which root has all of.
func TestAsUser(t *testing.T) {
	if os.Getenv("OUTPUT_TEST_DIR") == "" && os.Geteuid() == 0 {
		dir := t.TempDir()
		for p := dir; p != "/" && p != os.TempDir(); p = filepath.Dir(p) {
			assert.NilError(t, os.Chmod(p, 0o755))
		}
		assert.NilError(t, os.WriteFile(filepath.Join(dir, "mine"), []byte("a long old text\n"), 0o666))
		assert.NilError(t, os.Chmod(filepath.Join(dir, "mine"), 0o666))
		assert.NilError(t, os.WriteFile(filepath.Join(dir, "theirs"), []byte("old"), 0o644))
		bin := filepath.Join(dir, "test")
		self, err := os.ReadFile("/proc/self/exe")
		assert.NilError(t, err)
		assert.NilError(t, os.WriteFile(bin, self, 0o755))
		cmd := exec.Command(bin, "-test.run=^TestAsUser$", "-test.v")
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "OUTPUT_TEST_DIR="+dir, "GOCOVERDIR=/tmp")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65530, Gid: 65530}}
		out, err := cmd.CombinedOutput()
		assert.NilError(t, err, "%s", out)
		assert.Assert(t, strings.Contains(string(out), "--- PASS: TestAsUser"), "%s", out)
		assert.Equal(t, read(t, filepath.Join(dir, "mine")), "hello\n")
		return
	}
	dir := os.Getenv("OUTPUT_TEST_DIR")
	if dir == "" {
		t.Skip("who is not root cannot make files of another user: run the tests as root")
	}
	// The directory is closed, the file is not.
	assert.NilError(t, output.WriteFile(filepath.Join(dir, "mine"), hello))
	for _, name := range []string{"theirs", "new"} {
		_, err := output.Open(filepath.Join(dir, name))
		assert.ErrorContains(t, err, "write "+filepath.Join(dir, name)+": permission denied")
	}
}

func TestBelowDirectory(t *testing.T) {
	dir, far := t.TempDir(), t.TempDir()
	victim := filepath.Join(far, "victim")
	assert.NilError(t, os.WriteFile(victim, []byte("precious"), 0o644))
	assert.NilError(t, os.Symlink(victim, filepath.Join(dir, "console.log")))
	_, err := output.Create(filepath.Join(dir, "console.log"))
	assert.ErrorContains(t, err, "console.log is a symbolic link")
	_, err = output.Append(filepath.Join(dir, "console.log"))
	assert.ErrorContains(t, err, "console.log is a symbolic link")
	assert.ErrorContains(t, output.Save(filepath.Join(dir, "console.log"), nil), "is a symbolic link")
	assert.Equal(t, read(t, victim), "precious")
	assert.NilError(t, output.Replace(filepath.Join(dir, "console.log"), hello))
	assert.Equal(t, read(t, filepath.Join(dir, "console.log")), "hello\n")
	assert.Equal(t, read(t, victim), "precious")
	assert.NilError(t, output.Save(filepath.Join(dir, "ok"), []byte("text")))
	assert.Equal(t, read(t, filepath.Join(dir, "ok")), "text")

	assert.NilError(t, os.Symlink(far, filepath.Join(dir, "out")))
	assert.NilError(t, os.Symlink("inside", filepath.Join(dir, "in")))
	assert.NilError(t, os.Mkdir(filepath.Join(dir, "inside"), 0o755))
	for _, sub := range []string{"out/sub", "out", "in", "in/sub", "../x"} {
		assert.Check(t, output.MkdirAll(dir, dir+"/"+sub) != nil, sub)
	}
	assert.DeepEqual(t, left(t, far), []string{"victim"})
	assert.NilError(t, output.MkdirAll(dir, filepath.Join(dir, "a", "b")))
	assert.NilError(t, output.MkdirAll(dir, filepath.Join(dir, "a", "b")))
	assert.NilError(t, output.MkdirAll(dir, dir))
	// The user's own way there may be a link.
	assert.NilError(t, output.MkdirAll(filepath.Join(dir, "out"), filepath.Join(dir, "out", "new")))
	assert.DeepEqual(t, left(t, far), []string{"new", "victim"})
}
