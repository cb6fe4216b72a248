// SPDX-License-Identifier: Apache-2.0

package kbuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/kvmrun/kvmrun/internal/kfetch"
)

const (
	stateDir     = ".ktree"         // below the cache's root; not a kind, the cache leaves it alone
	filesKind    = "kernel-files-2" // its entries' format; change it with that
	identityName = "identity"
	filesName    = "files" // of such an entry: the sums of a fetched source's files
)

// source is a kernel tree of known content.
type source struct {
	Spec    string `json:"spec"`    // as given
	Version string `json:"version"` // of the Makefile: "6.12.117"
	// Identity is a hash over every file's path, mode and content.
	Identity string `json:"identity"`
	// Package is the distribution's package and its version, "" for a directory.
	Package string `json:"package,omitempty"`
	// Commit is what git describe says of a work tree, for the reader only.
	Commit string `json:"commit,omitempty"`

	dir       string
	files     fileSet // nil until load
	list      string  // file that load reads
	immutable bool    // a cache entry: files may be hard-linked
	// lineage names what successive states of one source have in common: the
	// directory, or the package.
	lineage string
}

// findSource resolves and reads the request's source.
func (r *request) findSource(ctx context.Context) (*source, error) {
	if r.Source == "" {
		return nil, requestErr(errors.New("no kernel source given (a directory with a kernel tree, or debian:6.12)"))
	}
	if kfetch.IsRef(r.Source) {
		return r.fetchedSource(ctx)
	}
	dir, err := r.absSource()
	if err != nil {
		return nil, err
	}
	s := &source{Spec: r.Source, dir: dir, lineage: dir}
	if s.Version, err = checkTree(dir); err != nil {
		return nil, requestErr(err)
	}
	memoFile := filepath.Join(r.Cache.Root(), stateDir, ".memo-"+sum([]byte(dir))[:16])
	if err := os.MkdirAll(filepath.Dir(memoFile), 0o700); err != nil {
		return nil, fmt.Errorf("make directory for build trees: %w", err)
	}
	old := readMemo(memoFile)
	if len(old) == 0 {
		r.say("reading %s for the first time", dir)
	}
	files, m, err := scan(dir, old, nil)
	if err != nil {
		return nil, fmt.Errorf("read kernel source: %w", err)
	}
	_ = m.write(memoFile) // only a courtesy to the next build
	s.files, s.Identity = files, files.identity()
	s.Commit = describe(ctx, r.env, dir)
	return s, nil
}

// describe asks git what a work tree holds. "" when it is none.
func describe(ctx context.Context, env []string, dir string) string {
	if _, err := os.Lstat(filepath.Join(dir, ".git")); err != nil {
		return ""
	}
	cmd := exec.CommandContext(ctx, "git", "-C", dir, "rev-parse", "HEAD")
	cmd.Env = env
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

var versionRE = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?m)^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)[ \t]*=[ \t]*(.*)$`)
})

// checkTree says which version a kernel tree has, or why it cannot be used.
func checkTree(dir string) (string, error) {
	fi, err := os.Stat(dir)
	if err != nil {
		return "", fmt.Errorf("find kernel source: %w", err)
	}
	if !fi.IsDir() {
		return "", fmt.Errorf("%s is not a directory with a kernel tree (unpack it first, or name debian:6.12)", dir)
	}
	makefile, err := os.ReadFile(filepath.Join(dir, "Makefile"))
	v := map[string]string{}
	for _, m := range versionRE().FindAllSubmatch(makefile, -1) {
		v[string(m[1])] = strings.TrimSpace(string(m[2]))
	}
	missing := ""
	switch {
	case err != nil || v["VERSION"] == "" || v["PATCHLEVEL"] == "":
		missing = "a Makefile with VERSION and PATCHLEVEL"
	case !exists(dir, "Kconfig"):
		missing = "Kconfig"
	case !exists(dir, "scripts", "kconfig"):
		missing = "scripts/kconfig"
	}
	if missing != "" {
		return "", fmt.Errorf("%s is not a kernel tree: it has no %s (name the directory that holds the kernel's MAINTAINERS file, or debian:6.12)", dir, missing)
	}
	// The kernel's own check for O= (Makefile, outputmakefile) is the same.
	for _, left := range []string{".config", "include/config", "arch/x86/include/generated"} {
		if exists(dir, filepath.FromSlash(left)) {
			return "", fmt.Errorf("%s was built in place (%s is there), so it cannot be built out of tree: run `make mrproper` in it, or build from a clean work tree (git worktree add)", dir, left)
		}
	}
	version := v["VERSION"] + "." + v["PATCHLEVEL"]
	if v["SUBLEVEL"] != "" {
		version += "." + v["SUBLEVEL"]
	}
	return version + v["EXTRAVERSION"], nil
}

func exists(elem ...string) bool {
	_, err := os.Lstat(filepath.Join(elem...))
	return err == nil
}

// resolveAge is how long the answer to "which version is newest" is believed:
// asking the archive takes longer than a cached build may.
const resolveAge = 24 * time.Hour

// fetchedSource finds the tree that a distribution's reference names.
func (r *request) fetchedSource(ctx context.Context) (*source, error) {
	if r.Fetch == nil {
		return nil, errors.New("fetch kernel source: no way to fetch given")
	}
	// The series is resolved to a version once a day; a reference with a
	// version is answered without asking the archive.
	dir := filepath.Join(r.Cache.Root(), stateDir)
	answer := filepath.Join(dir, ".ref-"+sum([]byte(r.Source))[:16])
	ref := r.Source
	if fi, err := os.Stat(answer); err == nil && time.Since(fi.ModTime()) < resolveAge {
		if exact, err := os.ReadFile(answer); err == nil && len(exact) > 0 {
			ref = string(exact)
		}
	}
	got, err := r.Fetch(ctx, ref)
	if err != nil && ref != r.Source && ctx.Err() == nil {
		ref = r.Source
		got, err = r.Fetch(ctx, ref) // the version has gone from the cache and the archive
	}
	if err != nil {
		return nil, err
	}
	if got.Note != "" {
		r.say("%s", got.Note)
	}
	if ref == r.Source && got.Note == "" {
		distro, _, _ := strings.Cut(ref, ":")
		if err := os.MkdirAll(dir, 0o700); err == nil {
			_ = os.WriteFile(answer, []byte(distro+":"+got.Version), 0o600)
		}
	}
	// The entry of a version never changes: its files are read once.
	key := got.Package + "-" + sum([]byte(got.Version))[:16]
	list, _, err := r.Cache.Get(ctx, filesKind, key, func(_ context.Context, tmp string) error {
		r.say("reading %s %s for the first time", got.Package, got.Version)
		files, _, err := scan(got.Dir, nil, nil)
		if err != nil {
			return err
		}
		m := memo{}
		for p, s := range files {
			m[p] = memoEntry{stat: "-", sum: s}
		}
		return errors.Join(m.write(filepath.Join(tmp, filesName)),
			os.WriteFile(filepath.Join(tmp, identityName), []byte(files.identity()), 0o600))
	})
	if err != nil {
		return nil, fmt.Errorf("read kernel source: %w", err)
	}
	identity, err := os.ReadFile(filepath.Join(list, identityName))
	if err != nil {
		return nil, fmt.Errorf("read kernel source: %w", err)
	}
	s := &source{
		Spec: r.Source, Package: got.Package + " " + got.Version, dir: got.Dir,
		immutable: true, lineage: got.Package, list: filepath.Join(list, filesName), Identity: string(identity),
	}
	if s.Version, err = checkTree(s.dir); err != nil {
		return nil, err
	}
	return s, nil
}

// load reads the list of files where that was put off: an answer from the cache
// does not need it.
func (s *source) load() error {
	if s.files != nil {
		return nil
	}
	s.files = fileSet{}
	for p, e := range readMemo(s.list) {
		s.files[p] = e.sum
	}
	if s.files.identity() != s.Identity {
		return fmt.Errorf("read kernel source: the list of its files, %s, is damaged (delete it)", filepath.Dir(s.list))
	}
	return nil
}

// run runs a short command in dir and returns what it printed.
func (r *request) run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, r.env
	if dir == "" {
		cmd.Dir = os.TempDir()
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return out.Bytes(), fmt.Errorf("%s: %w", name, err)
	}
	return out.Bytes(), nil
}
