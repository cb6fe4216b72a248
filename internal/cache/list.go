// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
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
// that are locked because they are being built. It returns what it removed,
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
// Entries used within the duration keep stay, as do locked ones. What cannot be
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

// evict removes an entry unless it is locked or was used after List saw it.
func (c *Cache) evict(e Entry) (gone bool, err error) {
	dir := filepath.Join(c.root, e.Kind)
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
