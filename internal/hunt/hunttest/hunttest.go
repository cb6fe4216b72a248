// SPDX-License-Identifier: Apache-2.0

// Package hunttest has a git repository whose commits build in a second, and what
// tells from their kernels what a VM would show, for tests of hunts and of their
// front end. It knows neither.
//
// It must not know how a hunt goes on.
package hunttest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/bisect"
	"github.com/kvmrun/kvmrun/internal/kbuild/fake"
)

// Tree is a repository whose commits build in a second, with a culprit and
// everything else that lies on the way.
type Tree struct {
	Dir     string
	ID      map[string]string // by subject
	Subject map[string]string

	t *testing.T
}

// Git runs git in the tree and returns what it printed, without the last newline.
func (g *Tree) Git(args ...string) string {
	g.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = g.Dir
	cmd.Env = append(os.Environ(), "HOME="+g.Dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@b")
	out, err := cmd.CombinedOutput()
	assert.NilError(g.t, err, "git %v: %s", args, out)
	return strings.TrimSpace(string(out))
}

// Commit writes files (name, text, name, text ...) and commits them.
func (g *Tree) Commit(subject string, files ...string) {
	g.t.Helper()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(g.Dir, files[i])
		assert.NilError(g.t, os.MkdirAll(filepath.Dir(path), 0o755))
		assert.NilError(g.t, os.WriteFile(path, []byte(files[i+1]), 0o644))
	}
	g.Git("add", "-A")
	g.Git("commit", "-q", "--allow-empty", "-m", subject)
	g.note(subject)
}

func (g *Tree) note(subject string) {
	id := g.Git("rev-parse", "HEAD")
	g.ID[subject], g.Subject[id] = id, subject
}

// Code is the text of a C file that leaves the mark in the kernel.
func Code(n int, mark string) string {
	return fmt.Sprintf("const char mark%d[] = \"%s\";\nint f%d(void) { return %d; }\n", n, mark, n, n)
}

// NewTree makes the repository, whose tags v1 and v2 are good and bad. It skips the
// test where a tool is missing.
func NewTree(t *testing.T) *Tree {
	t.Helper()
	for _, tool := range []string{"git", "make", "gcc", "patch", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: apt install %s", tool, tool)
		}
	}
	g := &Tree{Dir: t.TempDir(), t: t, ID: map[string]string{}, Subject: map[string]string{}}
	assert.NilError(t, fake.Write(g.Dir, "lean"))
	g.Git("init", "-q", "-b", "main")
	var all []string // this Makefile does not notice files that go
	for i, name := range []string{"one", "two", "three", "four", "boot", "bug", "other", "last"} {
		all = append(all, "mm/"+name+".c", Code(i+1, "base"))
	}
	g.Commit("base", append(all, "mm/side.c", Code(10, "base"))...)
	g.Git("tag", "v1")
	g.Commit("one", "mm/one.c", Code(1, "x"))
	g.Commit("two", "mm/two.c", Code(2, "x"))
	g.Commit("documentation", "Documentation/a.rst", "text")
	g.Commit("breaks the build", "mm/three.c", "int f(void) { return }\n")
	g.Commit("still broken", "mm/four.c", Code(4, "x"))
	g.Commit("builds again", "mm/three.c", Code(3, "x"))
	g.Git("checkout", "-q", "-b", "side", "v1")
	g.Commit("side one", "fs/one", "1")
	g.Commit("side two", "mm/side.c", Code(10, "x"))
	g.Git("checkout", "-q", "main")
	g.Git("merge", "-q", "--no-ff", "-m", "merge", "side")
	g.note("merge")
	g.Commit("does not boot", "mm/boot.c", Code(5, "BOOT"))
	g.Commit("boots again", "mm/boot.c", Code(5, "x"))
	g.Commit("comment before", "mm/two.c", Code(2, "x")+"/* a comment */\n")
	g.Commit("culprit", "mm/bug.c", Code(6, "BUG"))
	g.Commit("comment after", "mm/one.c", Code(1, "x")+"/* a comment */\n")
	g.Commit("another bug", "mm/other.c", Code(7, "OTHER"))
	g.Commit("no other bug", "mm/other.c", Code(7, "x"))
	g.Commit("last", "mm/last.c", Code(8, "x"))
	g.Git("tag", "v2")
	return g
}

// Reader tells from a kernel's bytes what a VM would show, and counts.
type Reader struct{ Runs int }

// Test implements bisect.Tester.
func (r *Reader) Test(_ context.Context, _ string, b bisect.Build) (bisect.Observation, error) {
	r.Runs++
	text, err := os.ReadFile(b.Path)
	for _, w := range []struct {
		mark string
		word bisect.Word
	}{{"BOOT", bisect.BootFailed}, {"OTHER", bisect.Other}, {"BUG", bisect.Bad}} {
		if bytes.Contains(text, []byte(w.mark+"\x00")) {
			return bisect.Observation{Word: w.word, Reason: w.mark}, err
		}
	}
	return bisect.Observation{Word: bisect.Good}, err
}

// TesterFunc is a function as a bisect.Tester.
type TesterFunc func(ctx context.Context, point string, b bisect.Build) (bisect.Observation, error)

// Test implements bisect.Tester.
func (f TesterFunc) Test(ctx context.Context, point string, b bisect.Build) (bisect.Observation, error) {
	return f(ctx, point, b)
}
