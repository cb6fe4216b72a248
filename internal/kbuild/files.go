// SPDX-License-Identifier: Apache-2.0

package kbuild

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// A fileSet is the content of a directory tree: for each file, by slash path,
// what distinguishes its content. Directories count by their files only.
type fileSet map[string]fileSum

// fileSum is "x" or "-" for executable or not and the SHA-256 in hex, or "l"
// and the target of a symbolic link.
type fileSum string

// identity is one hash over the whole set.
func (s fileSet) identity() string {
	h := sha256.New()
	for _, p := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(h, "%s\x00%s\n", p, s[p])
	}
	return hex.EncodeToString(h.Sum(nil))
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// memo remembers the sum of a file under what stat(2) says of it, so that an
// unchanged tree of 90000 files is looked at but not read.
type memo map[string]memoEntry

type memoEntry struct {
	stat string
	sum  fileSum
}

func statKey(fi fs.FileInfo) string {
	st := fi.Sys().(*syscall.Stat_t) //nolint:forcetypeassert // what os.Lstat returns on Linux
	return fmt.Sprintf("%d.%d.%d.%d.%o", st.Size, st.Mtim.Nano(), st.Ctim.Nano(), st.Ino, st.Mode)
}

// changed is when a file's content or inode last changed.
func changed(fi fs.FileInfo) time.Time {
	st := fi.Sys().(*syscall.Stat_t) //nolint:forcetypeassert // what os.Lstat returns on Linux
	return time.Unix(0, max(st.Mtim.Nano(), st.Ctim.Nano()))
}

// readMemo reads a memo file; a damaged or missing one is empty.
func readMemo(path string) memo {
	m := memo{}
	f, err := os.Open(path)
	if err != nil {
		return m
	}
	defer f.Close() //nolint:errcheck // opened for reading
	r := bufio.NewReaderSize(f, 1<<16)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return m // a line without end is one cut short
		}
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\x00")
		if len(fields) == 3 {
			m[fields[0]] = memoEntry{stat: fields[1], sum: fileSum(fields[2])}
		}
	}
}

// write replaces the memo file. Failing costs time later, nothing else.
func (m memo) write(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-memo-")
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<16)
	for _, p := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(w, "%s\x00%s\x00%s\n", p, m[p].stat, m[p].sum)
	}
	err = errors.Join(w.Flush(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// racyWindow is how old a change must be before a file's sum is remembered: see
// package cache, which has the same problem.
const racyWindow = 2 * time.Second

// scan returns the content of the tree at root. Sums are taken from old where
// stat(2) agrees, from trust where the caller has just written the file, and
// computed otherwise. The new memo holds everything that does not race with its
// own reading; trusted entries, which only this program writes, are never racy.
func scan(root string, old memo, trust fileSet) (fileSet, memo, error) {
	type item struct {
		path string
		fi   fs.FileInfo
	}
	var items []item
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == ".git" && p != root {
				return filepath.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if rel == ".git" || strings.ContainsAny(rel, "\x00\n") {
			return nil // a git worktree's pointer; a name no kernel file has
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if !fi.Mode().IsRegular() && fi.Mode()&fs.ModeSymlink == 0 {
			return nil
		}
		items = append(items, item{rel, fi})
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	sums := make([]fileSum, len(items))
	var g errgroup.Group
	g.SetLimit(8)
	for i, it := range items {
		if e, ok := old[it.path]; ok && e.stat == statKey(it.fi) {
			sums[i] = e.sum
			continue
		}
		if s, ok := trust[it.path]; ok {
			sums[i] = s
			continue
		}
		g.Go(func() (err error) {
			sums[i], err = sumFile(filepath.Join(root, it.path), it.fi)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	set, m := make(fileSet, len(items)), make(memo, len(items))
	now := time.Now()
	for i, it := range items {
		set[it.path] = sums[i]
		_, trusted := trust[it.path]
		if trusted || now.Sub(changed(it.fi)) > racyWindow {
			m[it.path] = memoEntry{stat: statKey(it.fi), sum: sums[i]}
		}
	}
	return set, m, nil
}

func sumFile(path string, fi fs.FileInfo) (fileSum, error) {
	if fi.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(path)
		return fileSum("l" + strconv.Quote(target)), err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // opened for reading
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return regularSum(fi.Mode(), h.Sum(nil)), nil
}

func regularSum(mode fs.FileMode, hash []byte) fileSum {
	prefix := "-"
	if mode&0o100 != 0 {
		prefix = "x"
	}
	return fileSum(prefix + hex.EncodeToString(hash))
}

// place makes dst the same as src, whose sum must be want. link allows a hard
// link, which keeps the times; a copy has them of src when keepTime, and of now
// otherwise.
func place(src, dst string, want fileSum, link, keepTime bool) error {
	if strings.HasPrefix(string(want), "l") {
		target, err := strconv.Unquote(string(want[1:]))
		if err != nil {
			return err
		}
		_ = os.Remove(dst)
		return os.Symlink(target, dst)
	}
	if link {
		if err := os.Link(src, dst); err == nil {
			return nil
		} // another file system, or too many links: copy
	}
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // opened for reading
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.CreateTemp(filepath.Dir(dst), ".kvmrun-")
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, h), in)
	err = errors.Join(err, out.Chmod(fi.Mode().Perm()|0o600), out.Close())
	if err == nil && keepTime {
		err = os.Chtimes(out.Name(), fi.ModTime(), fi.ModTime())
	}
	if err == nil && regularSum(fi.Mode(), h.Sum(nil)) != want {
		err = fmt.Errorf("%s changed while it was read; run again", src)
	}
	if err == nil {
		err = os.Rename(out.Name(), dst)
	}
	if err != nil {
		_ = os.Remove(out.Name())
	}
	return err
}

// links is the number of names a file has.
func links(fi fs.FileInfo) uint64 {
	return uint64(fi.Sys().(*syscall.Stat_t).Nlink) //nolint:forcetypeassert,unconvert // what os.Lstat returns on Linux
}
