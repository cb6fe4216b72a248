// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// TestUnwritableResults: a file that cannot be written is found before anything
// runs, and it is the user's mistake.
func TestUnwritableResults(t *testing.T) {
	t.Parallel()
	none := filepath.Join(t.TempDir(), "none", "x.xml")
	for _, args := range [][]string{
		{"run", "-kernel", kernel(t), "-junit", none},
		{"run", "-kernel", kernel(t), "-json", none},
		{"run", "-kernel", kernel(t), "-tap", none},
		{"exec", "-kernel", kernel(t), "-tap", none, "--", "true"},
		{"sweep", "-kernel", kernel(t), "-fault", "failslab", "-json", none, "--", "true"},
		{"mutants", "-json", none},
	} {
		cmd := command(t, args...)
		cmd.Dir = "../.."
		got := finish(t, cmd)
		assert.Check(t, is.Equal(got.code, 2), "%q: %s", args, got.stderr)
		assert.Check(t, is.Equal(got.stderr, "kvmrun: write "+none+": no such file or directory: there is no directory "+filepath.Dir(none)+"\n"), "%q", args)
	}
}

// TestResultFiles writes results to a device, a pipe and a symbolic link, none of
// which is replaced, and not through a link in the directory of the logs.
func TestResultFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	node := filepath.Join(dir, "null")
	if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Skipf("cannot make a device node: %v: run the tests as root", err)
	}
	link, target := filepath.Join(dir, "link"), filepath.Join(dir, "target")
	assert.NilError(t, os.Symlink("target", link))
	logs, victim := filepath.Join(dir, "logs"), filepath.Join(dir, "victim")
	assert.NilError(t, os.Mkdir(logs, 0o755))
	assert.NilError(t, os.WriteFile(victim, []byte("precious"), 0o644))
	assert.NilError(t, os.Symlink(victim, filepath.Join(logs, "result.json")))

	r, w, err := os.Pipe()
	assert.NilError(t, err)
	defer r.Close()
	cmd := command(t, "run", "-kernel", kernel(t), "-suite", must(t, sample), "-run", "^TestPass$",
		"-tap", node, "-json", "/dev/fd/3", "-junit", link, "-o", logs)
	cmd.ExtraFiles = []*os.File{w}
	text := make(chan string)
	go func() {
		b, _ := io.ReadAll(r)
		text <- string(b)
	}()
	got := finish(t, cmd)
	assert.NilError(t, w.Close())
	assert.Assert(t, strings.HasPrefix(<-text, "{\n  \"format\": \"kvmrun-run/1\""))
	junit, err := os.ReadFile(target)
	assert.NilError(t, err)
	assert.Assert(t, strings.Contains(string(junit), "<testsuites"))
	st, err := os.Lstat(link)
	assert.NilError(t, err)
	assert.Equal(t, st.Mode().Type(), os.ModeSymlink)
	st, err = os.Lstat(node)
	assert.NilError(t, err)
	assert.Equal(t, st.Mode().Type(), os.ModeDevice|os.ModeCharDevice)

	assert.Equal(t, got.code, 3, "%s", got.stderr)
	assert.Assert(t, is.Contains(got.stderr, "result.json is a symbolic link, which is not followed here: remove it"))
	b, err := os.ReadFile(victim)
	assert.NilError(t, err)
	assert.Equal(t, string(b), "precious")
}
