// SPDX-License-Identifier: Apache-2.0

package gitrepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Repo is a git repository.
type Repo struct {
	dir string // absolute path of the git directory
	env []string
}

// The classes of errors, for errors.Is.
var (
	ErrNoRepo   = errors.New("not a git repository")
	ErrRevision = errors.New("no such revision")
	ErrBusy     = errors.New("another process uses the work tree")
	ErrNoGit    = errors.New("git is not installed")
)

// Open finds the repository of a directory: a work tree, anything in one, or a
// bare repository. Env is the environment of git, as os.Environ returns it.
func Open(ctx context.Context, dir string, env []string) (*Repo, error) {
	r := &Repo{}
	for _, kv := range env {
		// GIT_DIR and the like would lead elsewhere.
		if !strings.HasPrefix(kv, "GIT_") && !strings.HasPrefix(kv, "LC_") && !strings.HasPrefix(kv, "LANG") {
			r.env = append(r.env, kv)
		}
	}
	r.env = append(r.env, "LC_ALL=C", "GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0", "GIT_NO_REPLACE_OBJECTS=1")
	if _, err := exec.LookPath("git"); err != nil {
		return nil, fmt.Errorf("open repository %s: %w: install the package git", dir, ErrNoGit)
	}
	if fi, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	} else if !fi.IsDir() {
		return nil, fmt.Errorf("open repository: %s is not a directory: %w", dir, ErrNoRepo)
	}
	out, err := r.git(ctx, nil, "-C", dir, "rev-parse", "--absolute-git-dir")
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, fmt.Errorf("open repository %s: %w: %w (bisecting commits needs the history: git clone it; kernels that exist go with -kernels)", dir, ErrNoRepo, err)
	}
	r.dir = strings.TrimSpace(string(out))
	return r, nil
}

// GitError is a git command that failed.
type GitError struct {
	Args []string
	Text string // what it said
	Err  error
}

func (e *GitError) Error() string {
	text := strings.TrimSpace(e.Text)
	if text == "" {
		text = e.Err.Error()
	}
	return "git " + strings.Join(e.Args, " ") + ": " + strings.ReplaceAll(text, "\n", "; ")
}

func (e *GitError) Unwrap() error { return e.Err }

// git runs a command. extra is added to its environment.
func (r *Repo) git(ctx context.Context, extra []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Env = append(append([]string{}, r.env...), extra...)
	if r.dir != "" {
		cmd.Env = append(cmd.Env, "GIT_DIR="+r.dir)
		cmd.Dir = r.dir
	}
	var out, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &msg
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		shown := args
		if len(shown) > 6 {
			shown = shown[:6]
		}
		return nil, &GitError{Args: shown, Text: msg.String(), Err: err}
	}
	return out.Bytes(), nil
}

// Resolve returns the commit that a revision means.
func (r *Repo) Resolve(ctx context.Context, rev string) (string, error) {
	if strings.HasPrefix(rev, "-") || rev == "" {
		return "", fmt.Errorf("find %q: %w", rev, ErrRevision)
	}
	out, err := r.git(ctx, nil, "rev-parse", "--verify", "--quiet", "--end-of-options", rev+"^{commit}")
	if err != nil {
		if ctx.Err() != nil {
			return "", err
		}
		return "", fmt.Errorf("find %s: %w (see git log, git tag; a shallow clone has few: git fetch --unshallow)", rev, ErrRevision)
	}
	return strings.TrimSpace(string(out)), nil
}

// NotAncestorError says that one commit is not an ancestor of another.
type NotAncestorError struct {
	Good, Bad string // as given
	// Base is their merge base, "" if they have none.
	Base string
	// Reverse says that it is the other way round.
	Reverse bool
}

func (e *NotAncestorError) Error() string {
	text := fmt.Sprintf("%s, said to be good, is not an ancestor of %s, said to be bad", e.Good, e.Bad)
	switch {
	case e.Reverse:
		return text + ": it is the other way round. To find what mended something, swap the two, with a test that fails where it is mended"
	case e.Base == "":
		return text + ": they have no common history"
	}
	return fmt.Sprintf("%s: they forked at %s. If that is good, the bug came in after it: give -good %s; if it is bad, the bug was fixed on the way to %s, and the fix is what to look for",
		text, e.Base, e.Base, e.Good)
}

// CheckAncestor returns a *NotAncestorError if good is not an ancestor of bad.
func (r *Repo) CheckAncestor(ctx context.Context, good, bad string) error {
	is := func(a, b string) (bool, error) {
		_, err := r.git(ctx, nil, "merge-base", "--is-ancestor", a, b)
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 1 {
			return false, nil
		}
		return err == nil, err
	}
	ok, err := is(good, bad)
	if ok || err != nil {
		return err
	}
	e := &NotAncestorError{Good: good, Bad: bad}
	if e.Reverse, err = is(bad, good); err != nil {
		return err
	}
	if base, err := r.git(ctx, nil, "merge-base", good, bad); err == nil {
		e.Base = strings.TrimSpace(string(base))[:12]
	}
	return e
}

// Commit is one commit.
type Commit struct {
	ID      string
	Parents []string
	Subject string
	Author  string
	Date    string // YYYY-MM-DD
}

// format is read by parse; subjects have no newline, and NUL is in no field.
const format = "--format=%H%x00%P%x00%s%x00%an <%ae>%x00%as"

func parse(out []byte) ([]Commit, error) {
	var commits []Commit
	for _, l := range strings.Split(strings.TrimSuffix(string(out), "\n"), "\n") {
		if l == "" {
			continue
		}
		f := strings.Split(l, "\x00")
		if len(f) != 5 {
			return nil, fmt.Errorf("read the history: unexpected line %q", l)
		}
		commits = append(commits, Commit{ID: f[0], Parents: strings.Fields(f[1]), Subject: f[2], Author: f[3], Date: f[4]})
	}
	return commits, nil
}

// Range returns the ancestors of bad that are not ancestors of good, parents
// before children. With firstParent, only those on the main line; with paths,
// only those that touch one of them, with parents rewritten to match
// (git-log(1), History Simplification).
func (r *Repo) Range(ctx context.Context, good, bad string, firstParent bool, paths []string) ([]Commit, error) {
	args := []string{"log", "--topo-order", "--reverse", "--parents", "--no-show-signature", "--no-color", format}
	if firstParent {
		args = append(args, "--first-parent")
	}
	args = append(args, "^"+good, bad, "--")
	out, err := r.git(ctx, nil, append(args, paths...)...)
	if err != nil {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	commits, err := parse(out)
	if firstParent {
		for i := range commits {
			commits[i].Parents = commits[i].Parents[:min(1, len(commits[i].Parents))]
		}
	}
	return commits, err
}

// MainLine returns the last n commits of the main line up to a commit, oldest
// first.
func (r *Repo) MainLine(ctx context.Context, rev string, n int) ([]Commit, error) {
	out, err := r.git(ctx, nil, "log", "--first-parent", "--reverse", "--no-show-signature", "--no-color", fmt.Sprintf("--max-count=%d", n), format, rev, "--")
	if err != nil {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	return parse(out)
}

// Diff returns the patch that leads from one commit to another.
func (r *Repo) Diff(ctx context.Context, from, to string) ([]byte, error) {
	out, err := r.git(ctx, nil, "diff", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/", from, to, "--")
	if err != nil {
		return nil, fmt.Errorf("read the change: %w", err)
	}
	return out, nil
}

// Dir is the git directory.
func (r *Repo) Dir() string { return r.dir }

// Worktree is a directory with one commit's files at a time.
type Worktree struct {
	r    *Repo
	dir  string
	lock *os.File
}

// Worktree opens a work tree in a directory of its own, which is made. Beside it
// is a file .lock-NAME, locked with flock(2) while the tree is in use: whoever
// holds the lock may remove both. It fails with ErrBusy when another process has
// it.
func (r *Repo) Worktree(dir string) (*Worktree, error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, fmt.Errorf("make a work tree: %w", err)
	}
	path := filepath.Join(filepath.Dir(dir), ".lock-"+filepath.Base(dir))
	lock, err := lockFile(path)
	if err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s: wait for the other bisection of this repository, or give this one another -cache", ErrBusy, dir)
		}
		return nil, fmt.Errorf("lock the work tree: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "src"), 0o755); err != nil {
		return nil, errors.Join(fmt.Errorf("make a work tree: %w", err), lock.Close())
	}
	return &Worktree{r: r, dir: dir, lock: lock}, nil
}

// lockFile locks a file that others may remove, or fails with EWOULDBLOCK after a
// while: a process that is just being started from one that closed the file has
// it open until its exec.
func lockFile(path string) (*os.File, error) {
	for tries := 0; ; tries++ {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			have, err1 := f.Stat()
			named, err2 := os.Stat(path)
			if err1 == nil && err2 == nil && os.SameFile(have, named) {
				return f, nil
			}
			err = unix.EWOULDBLOCK // removed meanwhile
		}
		_ = f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || tries == 100 {
			return nil, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Path is where the files are.
func (w *Worktree) Path() string { return filepath.Join(w.dir, "src") }

// Close gives the work tree up; its files stay.
func (w *Worktree) Close() error { return w.lock.Close() }

// Checkout makes the work tree hold a commit's files and nothing else.
func (w *Worktree) Checkout(ctx context.Context, commit string) error {
	index, mark := filepath.Join(w.dir, "index"), filepath.Join(w.dir, "incomplete")
	env := []string{"GIT_WORK_TREE=" + w.Path(), "GIT_INDEX_FILE=" + index}
	_, err := os.Stat(mark)
	unclean := err == nil
	if unclean {
		// Killed in the middle: which files were written is not known.
		for _, f := range []string{index, index + ".lock"} {
			if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("clean the work tree: %w", err)
			}
		}
	}
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return fmt.Errorf("check out %s: %w", commit, err)
	}
	// What the user configured for their own work tree is not meant here.
	plain := []string{"-c", "core.bare=false", "-c", "core.sparseCheckout=false", "-c", "core.autocrlf=false", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"}
	if _, err := w.r.git(ctx, env, append(plain, "read-tree", "--reset", "-u", commit)...); err != nil {
		return fmt.Errorf("check out %s: %w", commit, err)
	}
	if unclean {
		if _, err := w.r.git(ctx, env, append(plain, "clean", "-ffdxq")...); err != nil {
			return fmt.Errorf("clean the work tree: %w", err)
		}
	}
	if err := os.Remove(mark); err != nil {
		return fmt.Errorf("check out %s: %w", commit, err)
	}
	return nil
}
