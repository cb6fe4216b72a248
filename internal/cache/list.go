// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// memoAge is how long the hash of a file outside is remembered after it was
// taken. It only bounds the number of small files.
const memoAge = 30 * 24 * time.Hour

// Entry describes one complete entry.
type Entry struct {
	Kind, Key string
	Path      string    // the entry's directory
	Bytes     int64     // sum of its files' sizes
	Created   time.Time // when its build ended
	LastUse   time.Time // when Get or Lookup last returned it
}

// List returns all complete entries, least recently used first, without
// counting as a use. Entries that disappear meanwhile are left out.
func (c *Cache) List() ([]Entry, error) {
	kinds, err := os.ReadDir(c.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, c.explain("list cache", err)
	}
	var list []Entry
	for _, k := range kinds {
		if !k.IsDir() || checkName(k.Name()) != nil {
			continue
		}
		keys, err := os.ReadDir(filepath.Join(c.root, k.Name()))
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return nil, c.explain("list cache", err)
		}
		for _, e := range keys {
			if !e.IsDir() || checkName(e.Name()) != nil {
				continue
			}
			path := filepath.Join(c.root, k.Name(), e.Name())
			rec, err := readRecord(path)
			if err != nil {
				continue
			}
			fi, err := os.Lstat(path)
			if err != nil {
				continue
			}
			list = append(list, Entry{
				Kind: k.Name(), Key: e.Name(), Path: path,
				Bytes: rec.Bytes, Created: rec.Created, LastUse: fi.ModTime(),
			})
		}
	}
	slices.SortFunc(list, func(a, b Entry) int {
		if n := a.LastUse.Compare(b.LastUse); n != 0 {
			return n
		}
		return strings.Compare(a.Path, b.Path)
	})
	return list, nil
}

// Prune removes the least recently used entries until the rest takes at most
// maxBytes, and everything that is half-written, damaged or left over. Entries
// used within the duration keep stay whatever they take, and so do entries
// that are locked because they are being built, or held. It returns what it removed,
// also together with an error.
func (c *Cache) Prune(maxBytes int64, keep time.Duration) (removed []Entry, err error) {
	c.sweepAll()
	list, err := c.List()
	if err != nil {
		return nil, err
	}
	var total int64
	for _, e := range list {
		total += e.Bytes
	}
	var errs []error
	for _, e := range list {
		if total <= maxBytes {
			break
		}
		if time.Since(e.LastUse) < keep {
			continue
		}
		gone, err := c.evict(e)
		switch {
		case err != nil:
			errs = append(errs, err)
		case gone:
			total -= e.Bytes
			removed = append(removed, e)
		}
	}
	if len(errs) > 0 {
		return removed, c.explain(fmt.Sprintf("prune cache (%d entries could not be removed)", len(errs)), errors.Join(errs...))
	}
	return removed, nil
}

// Trim removes the least recently used entries of one kind until max are left,
// for kinds of which every change of a source leaves another one behind.
// Entries used within the duration keep stay, as do locked and held ones. What cannot be
// removed is left to Prune, which says why.
func (c *Cache) Trim(kind string, max int, keep time.Duration) {
	list, err := c.List()
	if err != nil {
		return
	}
	list = slices.DeleteFunc(list, func(e Entry) bool { return e.Kind != kind })
	for _, e := range list[:len(list)-min(max, len(list))] {
		if time.Since(e.LastUse) >= keep {
			_, _ = c.evict(e)
		}
	}
}

// TrimBytes is Trim for kinds whose entries are large: the least recently used
// go until the rest takes at most maxBytes, the newest least of them excepted.
func (c *Cache) TrimBytes(kind string, maxBytes int64, least int, keep time.Duration) {
	list, err := c.List()
	if err != nil {
		return
	}
	list = slices.DeleteFunc(list, func(e Entry) bool { return e.Kind != kind })
	var total int64
	for _, e := range list {
		total += e.Bytes
	}
	for _, e := range list[:len(list)-min(least, len(list))] {
		if total <= maxBytes {
			return
		}
		if time.Since(e.LastUse) >= keep {
			if gone, _ := c.evict(e); gone {
				total -= e.Bytes
			}
		}
	}
}

// Hold notes a use of the entry that a file lies in and keeps it from being
// pruned or trimmed until the result is closed, or the process has ended,
// however it does. For a file outside, or when the entry is gone, it returns nil
// and does nothing.
func (c *Cache) Hold(file string) io.Closer {
	rel, err := filepath.Rel(c.root, file)
	if err != nil {
		return nil
	}
	part := strings.Split(rel, string(filepath.Separator))
	if len(part) < 3 || checkName(part[0]) != nil || checkName(part[1]) != nil {
		return nil
	}
	path := filepath.Join(c.root, part[0], part[1])
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	// evict has the other lock while it removes the entry.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil || !current(f, path) {
		_ = f.Close()
		return nil
	}
	now := time.Now()
	_ = os.Chtimes(path, now, now)
	return f
}

// evict removes an entry unless it is locked, held or was used after List saw it.
func (c *Cache) evict(e Entry) (gone bool, err error) {
	dir := filepath.Join(c.root, e.Kind)
	held, err := os.Open(e.Path)
	if err != nil {
		return false, nil //nolint:nilerr // gone already
	}
	defer held.Close() //nolint:errcheck // gives the lock back
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return false, nil //nolint:nilerr // somebody uses it
	}
	lock, err := tryLockFile(filepath.Join(dir, lockPrefix+e.Key))
	if err != nil {
		return false, nil //nolint:nilerr // somebody builds it
	}
	defer lock.unlock()
	if fi, err := os.Lstat(e.Path); err != nil || !fi.ModTime().Equal(e.LastUse) {
		return false, nil //nolint:nilerr // gone already, or in use
	}
	if err := c.discard(dir, e.Key); err != nil {
		return false, err
	}
	return true, nil
}

// sweepAll removes leftovers, damaged entries and old memos.
func (c *Cache) sweepAll() {
	kinds, err := os.ReadDir(c.root)
	if err != nil {
		return
	}
	for _, k := range kinds {
		if !k.IsDir() || checkName(k.Name()) != nil {
			continue
		}
		dir := filepath.Join(c.root, k.Name())
		c.sweep(dir, "")
		keys, _ := os.ReadDir(dir)
		for _, e := range keys {
			if checkName(e.Name()) != nil {
				continue
			}
			path := filepath.Join(dir, e.Name())
			if rec, err := readRecord(path); err == nil && rec.matches(path) {
				continue
			}
			lock, err := tryLockFile(filepath.Join(dir, lockPrefix+e.Name()))
			if err != nil {
				continue
			}
			if rec, err := readRecord(path); err != nil || !rec.matches(path) {
				_ = c.discard(dir, e.Name())
			}
			lock.unlock()
		}
	}
	memos, _ := os.ReadDir(filepath.Join(c.root, memoDir))
	for _, m := range memos {
		fi, err := m.Info()
		if err == nil && time.Since(fi.ModTime()) > memoAge {
			_ = os.Remove(filepath.Join(c.root, memoDir, m.Name()))
		}
	}
}
