// SPDX-License-Identifier: Apache-2.0

package gitrepo

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// repo makes a repository and returns a function that runs git in it.
func repo(t *testing.T) (string, func(args ...string) string) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed: apt install git")
	}
	dir := t.TempDir()
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "HOME="+dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@b")
		out, err := cmd.CombinedOutput()
		assert.NilError(t, err, "git %v: %s", args, out)
		return strings.TrimSpace(string(out))
	}
	git("init", "-q", "-b", "main")
	return dir, git
}

func open(t *testing.T, dir string) *Repo {
	t.Helper()
	r, err := Open(t.Context(), dir, append(os.Environ(), "GIT_DIR=/nowhere"))
	assert.NilError(t, err)
	return r
}

// files are the names and contents below a directory, without .git.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	assert.NilError(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return nil
		}
		text, err := os.ReadFile(p)
		out[strings.TrimPrefix(p, dir+"/")] = string(text)
		return err
	}))
	return out
}

func write(t *testing.T, path, text string) {
	t.Helper()
	assert.NilError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	assert.NilError(t, os.WriteFile(path, []byte(text), 0o644))
}

func TestRange(t *testing.T) {
	t.Parallel()
	dir, git := repo(t)
	id := map[string]string{}
	commit := func(name, file string) {
		write(t, filepath.Join(dir, file), name)
		git("add", ".")
		git("commit", "-q", "-m", name+": a \"subject\" | x")
		id[name] = git("rev-parse", "HEAD")
	}
	commit("a", "mm/a")
	commit("b", "mm/a")
	git("tag", "v1")
	git("checkout", "-q", "-b", "side", "main~1")
	commit("s1", "fs/s")
	commit("s2", "fs/s")
	git("checkout", "-q", "main")
	commit("c", "mm/a")
	git("merge", "-q", "--no-ff", "-m", "merge", "side")
	id["m"] = git("rev-parse", "HEAD")
	commit("d", "mm/d")
	r := open(t, filepath.Join(dir, "mm"))
	ctx := t.Context()
	names := func(cs []Commit, err error) string {
		assert.NilError(t, err)
		byID := map[string]string{}
		for n, i := range id {
			byID[i] = n
		}
		var out []string
		for _, c := range cs {
			s := byID[c.ID] + ":"
			for _, p := range c.Parents {
				s += byID[p]
			}
			out = append(out, s)
		}
		return strings.Join(out, " ")
	}
	v1, err := r.Resolve(ctx, "v1")
	assert.NilError(t, err)
	assert.Equal(t, v1, id["b"])
	all := names(r.Range(ctx, v1, id["d"], false, nil))
	assert.Assert(t, all == "c:b s1:a s2:s1 m:cs2 d:m" || all == "s1:a s2:s1 c:b m:cs2 d:m", all)
	assert.Equal(t, names(r.Range(ctx, v1, id["d"], true, nil)), "c:b m:c d:m")
	assert.Equal(t, names(r.Range(ctx, v1, id["d"], false, []string{"fs"})), "s1:a s2:s1")
	assert.Equal(t, names(r.MainLine(ctx, id["d"], 3)), "c:b m:cs2 d:m")
	cs, err := r.Range(ctx, id["m"], id["d"], false, nil)
	assert.NilError(t, err)
	assert.Equal(t, cs[0].Subject, `d: a "subject" | x`)
	assert.Equal(t, cs[0].Author, "A <a@b>")

	assert.NilError(t, r.CheckAncestor(ctx, "v1", "main"))
	err = r.CheckAncestor(ctx, "main", "v1")
	assert.ErrorContains(t, err, "the other way round")
	err = r.CheckAncestor(ctx, "side", id["c"])
	assert.ErrorContains(t, err, "forked at "+id["a"][:12])
	_, err = r.Resolve(ctx, "v9")
	assert.ErrorIs(t, err, ErrRevision)
	_, err = r.Resolve(ctx, "--all")
	assert.ErrorIs(t, err, ErrRevision)
	diff, err := r.Diff(ctx, id["d"], id["m"])
	assert.NilError(t, err)
	assert.Assert(t, strings.Contains(string(diff), "--- a/mm/d\n+++ /dev/null\n"), "%s", diff)

	_, err = Open(ctx, t.TempDir(), os.Environ())
	assert.ErrorIs(t, err, ErrNoRepo)
	_, err = Open(ctx, filepath.Join(dir, "mm", "a"), os.Environ())
	assert.ErrorIs(t, err, ErrNoRepo)
	_, err = Open(ctx, filepath.Join(dir, "none"), os.Environ())
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// TestWorktree checks commits out without a trace in the user's repository and
// work tree, which is dirty.
func TestWorktree(t *testing.T) {
	t.Parallel()
	dir, git := repo(t)
	want := map[string]map[string]string{}
	for n := range 4 {
		write(t, filepath.Join(dir, "always"), fmt.Sprint(n))
		write(t, filepath.Join(dir, fmt.Sprintf("d%d/f", n)), "x")
		if n == 2 {
			assert.NilError(t, os.RemoveAll(filepath.Join(dir, "d1")))
		}
		git("add", "-A")
		git("commit", "-q", "-m", fmt.Sprint(n))
		f := files(t, dir)
		for name := range f {
			if strings.HasPrefix(name, ".git/") {
				delete(f, name)
			}
		}
		want[git("rev-parse", "HEAD")] = f
	}
	git("config", "core.autocrlf", "true")
	git("config", "core.sparseCheckout", "true")
	write(t, filepath.Join(dir, ".git/info/sparse-checkout"), "d0\n")
	write(t, filepath.Join(dir, "always"), "dirty")
	write(t, filepath.Join(dir, "untracked"), "mine")
	before := files(t, dir)
	r := open(t, dir)
	at := filepath.Join(t.TempDir(), "wt")
	w, err := r.Worktree(at)
	assert.NilError(t, err)
	_, err = r.Worktree(at)
	assert.ErrorIs(t, err, ErrBusy)
	check := func(id string) {
		t.Helper()
		assert.NilError(t, w.Checkout(t.Context(), id))
		assert.DeepEqual(t, files(t, w.Path()), want[id])
	}
	for id := range want {
		check(id)
	}
	// Killed in the middle: some files written, some not, the index locked.
	write(t, filepath.Join(at, "incomplete"), "")
	write(t, filepath.Join(at, "index.lock"), "")
	write(t, filepath.Join(w.Path(), "always"), "half")
	write(t, filepath.Join(w.Path(), "d7/left"), "over")
	for id := range want {
		check(id)
	}
	assert.NilError(t, w.Close())
	assert.DeepEqual(t, files(t, dir), before)
	err = w.Checkout(t.Context(), "0123456789012345678901234567890123456789")
	assert.ErrorContains(t, err, "check out 0123456789")
}
