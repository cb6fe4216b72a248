// SPDX-License-Identifier: Apache-2.0

package kbuild

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/internal/cache"
)

// Kind says what an item of the cache is.
type Kind string

// The kinds of items.
const (
	KindKernel Kind = "kernel" // an artifact
	KindSource Kind = "source" // a fetched source tree
	KindTree   Kind = "tree"   // a build tree: only speeds up the next build
	// KindTemplate is a VM that was booted and frozen, to be forked. The runner
	// makes them; it keeps eight at most.
	KindTemplate Kind = "template"
)

// fetchedKind is package kfetch's kind of cache entry for a source tree.
const fetchedKind = "deb-source"

// Item is something that kernels take space for in the cache.
type Item struct {
	Kind    Kind      `json:"kind"`
	Name    string    `json:"name"` // its key
	Path    string    `json:"path"`
	Bytes   int64     `json:"bytes"`
	LastUse time.Time `json:"lastUse"`
	// Manifest is set for an artifact.
	Manifest *Manifest `json:"manifest,omitempty"`
	// Text describes the item in a few words.
	Text string `json:"text,omitempty"`
}

// List returns everything that kernels take space for, the most recently used
// first. A file that several items link to counts for each.
func List(c *cache.Cache) ([]Item, error) {
	entries, err := c.List()
	if err != nil {
		return nil, err
	}
	var items []Item
	for _, e := range entries {
		it := Item{Name: e.Key, Path: e.Path, Bytes: e.Bytes, LastUse: e.LastUse}
		switch e.Kind {
		case artifactKind:
			a, err := Open(e.Path)
			if err != nil {
				continue // deleted meanwhile
			}
			it.Kind, it.Manifest = KindKernel, &a.Manifest
			it.Text = fmt.Sprintf("%s, %s, from %s", a.Manifest.Release, a.Manifest.Profile, a.Manifest.Source.Spec)
			for _, p := range a.Manifest.Patches {
				it.Text += " + " + p.Name
			}
		case fetchedKind:
			it.Kind = KindSource
		case string(KindTemplate):
			it.Kind = KindTemplate
			text, _ := os.ReadFile(filepath.Join(e.Path, "about"))
			it.Text = strings.TrimSpace(string(text))
		default:
			continue
		}
		items = append(items, it)
	}
	trees, err := listTrees(c)
	if err != nil {
		return nil, err
	}
	items = append(items, trees...)
	slices.SortStableFunc(items, func(a, b Item) int { return b.LastUse.Compare(a.LastUse) })
	return items, nil
}

func listTrees(c *cache.Cache) ([]Item, error) {
	root := filepath.Join(c.Root(), stateDir)
	names, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list build trees: %w", err)
	}
	var items []Item
	for _, n := range names {
		if !n.IsDir() || strings.HasPrefix(n.Name(), ".") {
			continue
		}
		it := Item{Kind: KindTree, Name: n.Name(), Path: filepath.Join(root, n.Name())}
		state := filepath.Join(it.Path, "state.json")
		if fi, err := os.Stat(state); err == nil {
			it.LastUse = fi.ModTime()
		}
		if text, err := os.ReadFile(state); err == nil {
			var s treeState
			if json.Unmarshal(text, &s) == nil {
				it.Text = fmt.Sprintf("build tree of %s, %s", s.Lineage, s.Profile)
			}
		}
		// Only what the tree alone takes: its output, and files of the source
		// that no cache entry shares.
		_ = filepath.WalkDir(it.Path, func(_ string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil //nolint:nilerr // vanished meanwhile
			}
			if fi, err := d.Info(); err == nil && links(fi) == 1 {
				it.Bytes += fi.Size()
			}
			return nil
		})
		items = append(items, it)
	}
	return items, nil
}

// Prune removes build trees and cache entries, of whatever kind, until the
// cache takes at most maxBytes: trees first, because they only save time, and
// of each the least recently used first. What was used within keep stays, and
// so does what is in use. It returns what it removed, also with an error.
func Prune(ctx context.Context, c *cache.Cache, maxBytes int64, keep time.Duration) ([]Item, error) {
	trees, err := listTrees(c)
	if err != nil {
		return nil, err
	}
	entries, err := c.List()
	if err != nil {
		return nil, err
	}
	var total int64
	for _, e := range entries {
		total += e.Bytes
	}
	var treeBytes int64
	for _, t := range trees {
		treeBytes += t.Bytes
	}
	slices.SortFunc(trees, func(a, b Item) int { return a.LastUse.Compare(b.LastUse) })
	var removed []Item
	for _, t := range trees {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		if total+treeBytes <= maxBytes || time.Since(t.LastUse) < keep {
			continue
		}
		ok, err := removeTree(t.Path)
		if err != nil {
			return removed, fmt.Errorf("prune build tree: %w", err)
		}
		if ok {
			treeBytes -= t.Bytes
			removed = append(removed, t)
		}
	}
	sweepState(filepath.Join(c.Root(), stateDir), keep)
	gone, err := c.Prune(max(0, maxBytes-treeBytes), keep)
	for _, e := range gone {
		it := Item{Name: e.Key, Path: e.Path, Bytes: e.Bytes, LastUse: e.LastUse, Kind: Kind(e.Kind)}
		if e.Kind == fetchedKind {
			it.Kind = KindSource
		}
		removed = append(removed, it)
	}
	return removed, err
}

// What the kernels of every patch and commit that was ever asked for would take
// is bounded by each build: a lean kernel takes 75 MiB, one with KASAN 120, a
// tree 1 to 3 GiB.
const (
	maxKernelBytes = 8 << 30
	maxTrees       = 12
	// leastKernels stay however large they are: a kernel and the one it is
	// compared with.
	leastKernels = 2
	// boundKeep is for who has built something and not yet begun to use it.
	boundKeep = time.Hour
)

// bound removes the least recently used kernels and build trees beyond the
// bounds, without what is in use.
func bound(c *cache.Cache) {
	c.TrimBytes(artifactKind, maxKernelBytes, leastKernels, boundKeep)
	boundTrees(filepath.Join(c.Root(), stateDir), maxTrees, boundKeep)
}

// boundTrees keeps the most recently used trees. Failures are left to Prune,
// which says why.
func boundTrees(root string, most int, keep time.Duration) {
	names, err := os.ReadDir(root)
	if err != nil {
		return
	}
	type tree struct {
		path string
		used time.Time
	}
	var trees []tree
	for _, n := range names {
		if n.IsDir() && !strings.HasPrefix(n.Name(), ".") {
			t := tree{path: filepath.Join(root, n.Name())}
			if fi, err := os.Stat(filepath.Join(t.path, "state.json")); err == nil {
				t.used = fi.ModTime()
			}
			trees = append(trees, t)
		}
	}
	slices.SortFunc(trees, func(a, b tree) int { return b.used.Compare(a.used) })
	for _, t := range trees[min(most, len(trees)):] {
		if time.Since(t.used) >= keep {
			_, _ = removeTree(t.path)
		}
	}
}

// sweepState removes what only saves time, when it was not used for a while,
// and what a killed process left. Failures cost space, not correctness.
func sweepState(root string, keep time.Duration) {
	names, err := os.ReadDir(root)
	if err != nil {
		return
	}
	for _, n := range names {
		switch {
		case strings.HasPrefix(n.Name(), ".memo-"), strings.HasPrefix(n.Name(), ".tmp-memo-"), strings.HasPrefix(n.Name(), ".ref-"):
			if fi, err := n.Info(); err == nil && time.Since(fi.ModTime()) >= keep {
				_ = os.Remove(filepath.Join(root, n.Name()))
			}
		case strings.HasPrefix(n.Name(), ".gone-"):
			_ = os.RemoveAll(filepath.Join(root, n.Name()))
		}
	}
}

// removeTree removes a tree unless it is in use.
func removeTree(dir string) (bool, error) {
	path := filepath.Join(filepath.Dir(dir), ".lock-"+filepath.Base(dir))
	lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, err
	}
	defer lock.Close() //nolint:errcheck // gives the lock back
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return false, os.NewSyscallError("flock", err)
	}
	// Out of the way first, so that nobody sees half a tree.
	doomed := filepath.Join(filepath.Dir(dir), ".gone-"+filepath.Base(dir))
	if err := errors.Join(os.RemoveAll(doomed), os.Rename(dir, doomed), os.RemoveAll(doomed)); err != nil {
		return false, err
	}
	return true, os.Remove(path)
}
