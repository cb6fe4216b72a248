// SPDX-License-Identifier: Apache-2.0

package kbuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	debianPrefix = "debian:"
	sourceKind   = "kernel-src"
	stateDir     = ".ktree" // below the cache's root; not a kind, the cache leaves it alone
	filesName    = "files"  // of a source entry: its memo
)

// source is a kernel tree of known content.
type source struct {
	Spec    string `json:"spec"`    // as given
	Version string `json:"version"` // of the Makefile: "6.12.117"
	// Identity is a hash over every file's path, mode and content.
	Identity string `json:"identity"`
	// Package is the Debian package's version, "" for a directory.
	Package string `json:"package,omitempty"`
	// Commit is what git describe says of a work tree, for the reader only.
	Commit string `json:"commit,omitempty"`

	dir       string
	files     fileSet
	immutable bool // a cache entry: files may be hard-linked
	// lineage names what successive states of one source have in common: the
	// directory, or the package.
	lineage string
}

// findSource resolves and reads the request's source.
func (r *request) findSource(ctx context.Context) (*source, error) {
	if r.Source == "" {
		return nil, requestErr(errors.New("no kernel source given (a directory with a kernel tree, or debian:6.12)"))
	}
	if version, ok := strings.CutPrefix(r.Source, debianPrefix); ok {
		return r.debianSource(ctx, version)
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

var versionRE = regexp.MustCompile(`(?m)^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)[ \t]*=[ \t]*(.*)$`)

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
	for _, m := range versionRE.FindAllSubmatch(makefile, -1) {
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

var (
	debianRE   = regexp.MustCompile(`^(\d+\.\d+)(?:=([A-Za-z0-9.+~:-]+))?$`)
	filenameRE = regexp.MustCompile(`linux-source-\d+\.\d+_([^_ ]+)_all\.deb`)
)

// resolveAge is how long the archive's answer to "which version is newest" is
// believed: asking takes longer than a cached build may.
const resolveAge = 24 * time.Hour

// debianSource fetches and unpacks Debian's package linux-source-X.Y.
func (r *request) debianSource(ctx context.Context, spec string) (*source, error) {
	m := debianRE.FindStringSubmatch(spec)
	if m == nil {
		return nil, requestErr(fmt.Errorf("bad kernel source %q: want debian:X.Y, for example debian:6.12, or debian:X.Y=VERSION", r.Source))
	}
	series, version := m[1], m[2]
	if version == "" {
		var err error
		if version, err = r.newestDebian(ctx, series); err != nil {
			return nil, err
		}
	}
	key := "debian-" + series + "-" + strings.ReplaceAll(version, ":", "+")
	entry, _, err := r.Cache.Get(ctx, sourceKind, key, func(ctx context.Context, tmp string) error {
		return r.unpackDebian(ctx, series, version, tmp)
	})
	if err != nil {
		return nil, err
	}
	s := &source{
		Spec: r.Source, Package: version, dir: filepath.Join(entry, "tree"),
		immutable: true, lineage: debianPrefix + series, files: fileSet{},
	}
	for p, e := range readMemo(filepath.Join(entry, filesName)) {
		s.files[p] = e.sum
	}
	if s.Version, err = checkTree(s.dir); err != nil {
		return nil, err
	}
	s.Identity = s.files.identity()
	return s, nil
}

// newestDebian asks apt which version of the package it would install.
func (r *request) newestDebian(ctx context.Context, series string) (string, error) {
	dir := filepath.Join(r.Cache.Root(), stateDir)
	answer := filepath.Join(dir, ".debian-"+series)
	known, readErr := os.ReadFile(answer)
	if fi, err := os.Stat(answer); err == nil && readErr == nil && time.Since(fi.ModTime()) < resolveAge {
		return string(known), nil
	}
	if missing := findTools(ctx, r.env, []tool{aptTool}); len(missing) > 0 {
		return "", hostErr(&ToolsError{Missing: missing})
	}
	pkg := "linux-source-" + series
	out, err := r.run(ctx, "", "apt-get", "download", "--print-uris", pkg)
	if m := filenameRE.FindSubmatch(out); err == nil && m != nil {
		version, uerr := url.PathUnescape(string(m[1]))
		if uerr != nil {
			return "", fmt.Errorf("read apt-get's answer %q: %w", m[0], uerr)
		}
		if err := os.MkdirAll(dir, 0o700); err == nil {
			_ = os.WriteFile(answer, []byte(version), 0o600)
		}
		return version, nil
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if readErr == nil && len(known) > 0 {
		r.say("apt does not answer, so %s is taken at version %s, the newest one known before", pkg, known)
		return string(known), nil
	}
	if err == nil {
		err = fmt.Errorf("apt-get said %q", bytes.TrimSpace(out))
	}
	return "", requestErr(fmt.Errorf("find package %s: %w (is there a deb line for it in /etc/apt/sources.list, and was apt-get update run? `apt-cache search linux-source` lists what there is)", pkg, err))
}

// unpackDebian downloads the package, without installing it, and unpacks the
// tree to tmp/tree.
func (r *request) unpackDebian(ctx context.Context, series, version, tmp string) error {
	if missing := findTools(ctx, r.env, debianTools); len(missing) > 0 {
		return hostErr(&ToolsError{Missing: missing})
	}
	if err := r.space(sourceBytes); err != nil {
		return err
	}
	pkg := "linux-source-" + series
	r.say("downloading %s %s", pkg, version)
	if out, err := r.run(ctx, tmp, "apt-get", "download", pkg+"="+version); err != nil {
		return fmt.Errorf("download %s=%s: %w: %s", pkg, version, err, lastLine(out))
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("download %s=%s: found %d packages instead of one: %w", pkg, version, len(debs), errors.Join(err, os.ErrNotExist))
	}
	r.say("unpacking %s", filepath.Base(debs[0]))
	outer, tree := filepath.Join(tmp, "deb"), filepath.Join(tmp, "tree")
	if out, err := r.run(ctx, tmp, "dpkg-deb", "-x", debs[0], outer); err != nil {
		return fmt.Errorf("unpack %s: %w: %s", debs[0], err, lastLine(out))
	}
	tarball := filepath.Join(outer, "usr", "src", pkg+".tar.xz")
	if err := os.Mkdir(tree, 0o700); err != nil {
		return err
	}
	if out, err := r.run(ctx, tmp, "tar", "-x", "-f", tarball, "-C", tree, "--strip-components=1", "--no-same-owner"); err != nil {
		return fmt.Errorf("unpack %s: %w: %s", tarball, err, lastLine(out))
	}
	if err := errors.Join(os.RemoveAll(outer), os.Remove(debs[0])); err != nil {
		return err
	}
	if _, err := checkTree(tree); err != nil {
		return err
	}
	files, _, err := scan(tree, nil, nil)
	if err != nil {
		return err
	}
	m := memo{}
	for p, s := range files {
		m[p] = memoEntry{stat: "-", sum: s}
	}
	return m.write(filepath.Join(tmp, filesName))
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

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}
