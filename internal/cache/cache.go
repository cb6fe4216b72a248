// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	recordName = ".entry.json"
	lockPrefix = ".lock-"
	tmpPrefix  = ".tmp-"
	memoDir    = ".memo"

	// maxName bounds kind and key so that the longest name made of them
	// (".tmp-" + key + "-" + random digits) stays below NAME_MAX, 255
	// (limits.h(0p)).
	maxName = 200

	// maxRecorded bounds how many files of an entry are recorded and
	// compared on every hit. A stat costs about a microsecond, so that a hit
	// stays well below a millisecond, and no entry that is read on the way to
	// a boot has more files. Of larger trees the lexically first ones are
	// recorded.
	maxRecorded = 256
)

// tagText is the content that marks a cache directory for backup programs
// (https://bford.info/cachedir/).
const tagText = "Signature: 8a477f597d28d172789f06886806bc55\n" +
	"# This directory was made by kvmrun. It may be deleted at any time.\n"

// Cache is one cache directory. Its methods are safe for concurrent use. It
// holds no resources and needs no closing.
type Cache struct {
	root string
	// OnDamage, when set before the first use, is told of an entry that is not
	// what was stored: its kind and key, and the file. It will be made anew. It
	// may be called concurrently.
	OnDamage func(kind, key, file string)
	told     sync.Map // entries that it was told of, by path and time of creation
}

// Open returns the cache in the directory root, which is made (mode 0700, as
// the XDG base directory specification asks) when it is missing. The caller
// chooses root, by convention $XDG_CACHE_HOME/kvmrun. A relative root is
// resolved at once, so that a later chdir does not matter.
//
// A directory that exists but cannot be written is no error: it serves hits.
func Open(root string) (*Cache, error) {
	if root == "" {
		return nil, errors.New("open cache: no directory given (set XDG_CACHE_HOME or HOME)")
	}
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open cache %s: %w", root, err)
	}
	c := &Cache{root: abs}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, c.explain("open cache", err)
	}
	tag := filepath.Join(abs, "CACHEDIR.TAG")
	if _, err := os.Lstat(tag); errors.Is(err, fs.ErrNotExist) {
		// Only a courtesy to backup programs; a full or read-only disk is
		// reported by whoever needs to write.
		_ = os.WriteFile(tag, []byte(tagText), 0o600)
	}
	return c, nil
}

// Root returns the cache's directory, absolute.
func (c *Cache) Root() string { return c.root }

// record describes a complete entry. It is written into the entry's directory
// before that is renamed to its final name, so that a half-deleted entry, or
// one whose data a crash of the machine lost (the rename may reach the disk
// before the data does), is noticed.
type record struct {
	Created time.Time        `json:"created"`
	Bytes   int64            `json:"bytes"`
	Count   int              `json:"count"`
	Files   map[string]int64 `json:"files"`
	// Sums are the CRC-32C of the files; see verify.
	Sums map[string]uint32 `json:"sums,omitempty"`
}

// Get returns the directory of the entry (kind, key), building it when it is
// missing. hit says that nothing was built by this call; another process, or
// another goroutine, may have built it while this call waited.
//
// build is called with an empty directory to fill. It must derive everything
// from what key stands for, must not remember tmpDir (the directory is renamed
// afterwards) and must stop when its context ends. When it fails or panics, the
// directory is removed and nothing is cached.
//
// kind and key consist of ASCII letters, digits and "._+~-", at most 200 of
// them, and begin with a letter or digit.
//
// Errors of build are returned wrapped; for a full, read-only or forbidden
// cache directory the error says so and names the cure, and errors.Is still
// finds ENOSPC, EROFS and so on.
func (c *Cache) Get(ctx context.Context, kind, key string, build func(ctx context.Context, tmpDir string) error) (path string, hit bool, err error) {
	if err := checkName(kind); err != nil {
		return "", false, fmt.Errorf("cache kind: %w", err)
	}
	if err := checkName(key); err != nil {
		return "", false, fmt.Errorf("cache key: %w", err)
	}
	for attempt := 1; ; attempt++ {
		if path, ok := c.Lookup(kind, key); ok {
			return path, true, nil
		}
		path, hit, err = c.build(ctx, kind, key, build)
		// The user may delete the cache at any time, also while something is
		// built in it.
		if !errors.Is(err, errVanished) || attempt == maxAttempts || ctx.Err() != nil {
			return path, hit, err
		}
	}
}

// maxAttempts is how often a build is started whose directory is deleted under
// it. More than one deletion during one command is not an accident.
const maxAttempts = 3

// errVanished says that the directory of a build was deleted from outside.
var errVanished = errors.New("the cache was deleted during the build")

func (c *Cache) build(ctx context.Context, kind, key string, build func(ctx context.Context, tmpDir string) error) (path string, hit bool, err error) {
	dir := filepath.Join(c.root, kind)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", false, c.explain("make cache directory", err)
	}
	lock, err := lockFile(ctx, filepath.Join(dir, lockPrefix+key))
	if err != nil {
		return "", false, c.explain(fmt.Sprintf("lock cache entry %s/%s", kind, key), vanished(dir, err))
	}
	defer lock.unlock()

	if path, ok := c.Lookup(kind, key); ok { // built while we waited
		return path, true, nil
	}
	c.sweep(dir, key)

	tmp, err := os.MkdirTemp(dir, tmpPrefix+key+"-")
	if err != nil {
		return "", false, c.explain("make cache entry", vanished(dir, err))
	}
	// After the rename this removes nothing.
	defer func() { _ = removeAll(tmp) }()

	if err := build(ctx, tmp); err != nil {
		return "", false, c.explain(fmt.Sprintf("build cache entry %s/%s", kind, key), vanished(tmp, err))
	}
	if err := writeRecord(tmp); err != nil {
		return "", false, c.explain("record cache entry", vanished(tmp, err))
	}
	path = filepath.Join(dir, key)
	if err := c.discard(dir, key); err != nil { // a damaged one is in the way
		return "", false, c.explain("remove damaged cache entry", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return "", false, c.explain("finish cache entry", vanished(tmp, err))
	}
	return path, false, nil
}

// vanished adds errVanished to err when dir does not exist any more.
func vanished(dir string, err error) error {
	if _, statErr := os.Lstat(dir); errors.Is(statErr, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", errVanished, err)
	}
	return err
}

// Lookup returns the directory of a complete entry without ever building it,
// and notes the use for [Cache.Prune]. Damaged entries count as missing: those
// that lack a file, and those of which a checksum is wrong, which is looked at
// once for each boot of the host and whenever a file has changed.
func (c *Cache) Lookup(kind, key string) (path string, ok bool) {
	if checkName(kind) != nil || checkName(key) != nil {
		return "", false
	}
	path = filepath.Join(c.root, kind, key)
	rec, err := readRecord(path)
	if err != nil || !rec.matches(path) {
		return "", false
	}
	if file := c.verify(path, rec); file != "" {
		if _, again := c.told.LoadOrStore(path+rec.Created.String(), true); !again && c.OnDamage != nil {
			c.OnDamage(kind, key, file)
		}
		return "", false
	}
	// The directory's modification time is the time of last use. The files
	// inside keep theirs, so that hashes of them stay memoized. A cache that
	// cannot be written still serves.
	now := time.Now()
	_ = os.Chtimes(path, now, now)
	return path, true
}

// Remove deletes the entry (kind, key), waiting for a build of it that is under
// way. Removing what does not exist is no error.
func (c *Cache) Remove(ctx context.Context, kind, key string) error {
	if err := errors.Join(checkName(kind), checkName(key)); err != nil {
		return fmt.Errorf("remove cache entry: %w", err)
	}
	dir := filepath.Join(c.root, kind)
	if _, err := os.Lstat(filepath.Join(dir, key)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := lockFile(ctx, filepath.Join(dir, lockPrefix+key))
	if err != nil {
		return c.explain(fmt.Sprintf("lock cache entry %s/%s", kind, key), err)
	}
	defer lock.unlock()
	if err := c.discard(dir, key); err != nil {
		return c.explain(fmt.Sprintf("remove cache entry %s/%s", kind, key), err)
	}
	return nil
}

// discard removes dir/key, whose lock the caller holds. The rename comes first
// so that nobody sees a half-removed entry.
func (c *Cache) discard(dir, key string) error {
	path := filepath.Join(dir, key)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	tmp, err := os.MkdirTemp(dir, tmpPrefix+key+"-")
	if err != nil {
		return err
	}
	if err := os.Rename(path, filepath.Join(tmp, "removed")); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return removeAll(tmp)
}

// sweep removes what killed builders left in dir. held is the key whose lock
// the caller holds; all others are only touched when their lock is free.
// Failures are ignored: leftovers cost space, not correctness.
func (c *Cache) sweep(dir, held string) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range names {
		rest, isTmp := strings.CutPrefix(e.Name(), tmpPrefix)
		if !isTmp {
			continue
		}
		i := strings.LastIndexByte(rest, '-')
		if i < 0 {
			continue
		}
		key, path := rest[:i], filepath.Join(dir, e.Name())
		if key == held {
			_ = removeAll(path)
			continue
		}
		lock, err := tryLockFile(filepath.Join(dir, lockPrefix+key))
		if err != nil {
			continue
		}
		_ = removeAll(path)
		lock.unlock()
	}
}

// removeAll is os.RemoveAll for trees that may hold directories without write
// permission, as unpacked packages do.
func removeAll(path string) error {
	err := os.RemoveAll(path)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(p, 0o700)
		}
		return nil
	})
	return os.RemoveAll(path)
}

func writeRecord(dir string) error {
	rec := record{Created: time.Now(), Files: map[string]int64{}}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return nil
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		rec.Count++
		rec.Bytes += fi.Size()
		if len(rec.Files) < maxRecorded {
			rel, err := filepath.Rel(dir, p)
			if err != nil {
				return err
			}
			rec.Files[rel] = fi.Size()
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := rec.addSums(dir); err != nil {
		return err
	}
	return rec.write(dir)
}

func (r *record) write(dir string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeAside(filepath.Join(dir, recordName), data)
}

func readRecord(dir string) (*record, error) {
	data, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		return nil, err
	}
	var rec record
	if err := json.Unmarshal(data, &rec); err != nil {
		return nil, err
	}
	return &rec, nil
}

// matches says whether the recorded files are there with their sizes.
func (r *record) matches(dir string) bool {
	for name, size := range r.Files {
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || fi.Size() != size {
			return false
		}
	}
	return true
}

func checkName(s string) error {
	if s == "" || len(s) > maxName {
		return fmt.Errorf("%q: must have 1 to %d characters", s, maxName)
	}
	for i := range len(s) {
		b := s[i]
		switch {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9':
		case i > 0 && strings.IndexByte("._+~-", b) >= 0:
		default:
			return fmt.Errorf("%q: character %q is not allowed here", s, b)
		}
	}
	return nil
}

// explain wraps an error and adds the cure where the cause is the state of the
// cache's disk or directory.
func (c *Cache) explain(doing string, err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%s: no space left for the cache in %s (free some: kvmrun kernel prune, or rm -r %s; or point XDG_CACHE_HOME to a larger disk): %w",
			doing, c.root, c.root, err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%s: the cache %s is on a read-only file system (point XDG_CACHE_HOME to a directory that can be written): %w",
			doing, c.root, err)
	case errors.Is(err, fs.ErrPermission) && c.forbidden():
		return fmt.Errorf("%s: no permission to write to the cache %s (chown it, or point XDG_CACHE_HOME to a directory of your own): %w",
			doing, c.root, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// forbidden says whether the cache's directory, or the nearest parent that
// exists, refuses writing. A build can fail with EACCES for reasons of its
// own, which must not be blamed on the cache.
func (c *Cache) forbidden() bool {
	for dir := c.root; ; dir = filepath.Dir(dir) {
		err := unix.Access(dir, unix.W_OK)
		if errors.Is(err, unix.ENOENT) && dir != filepath.Dir(dir) {
			continue
		}
		return err != nil
	}
}
