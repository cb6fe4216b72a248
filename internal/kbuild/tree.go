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
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// tree is a locked build tree.
//
//	ROOT/.ktree/KEY/src       the private copy of the source
//	ROOT/.ktree/KEY/obj       make's output
//	ROOT/.ktree/KEY/memo      sums of the files in src
//	ROOT/.ktree/KEY/building  is there while make runs
//	ROOT/.ktree/KEY/state.json
//	ROOT/.ktree/KEY/build.log of the last build
//	ROOT/.ktree/.lock-KEY     flock(2)ed while the tree is in use
type tree struct {
	dir   string
	lock  *os.File
	state treeState
}

// treeState is what is remembered of a tree, for lists and for progress.
type treeState struct {
	Lineage string `json:"lineage"`
	Profile string `json:"profile"`
	// Objects is how many objects a build from nothing makes, 0 if unknown.
	Objects int `json:"objects,omitempty"`
	// Built says that a build ended well, so that the next is incremental.
	Built bool `json:"built,omitempty"`
}

func (t *tree) src() string  { return filepath.Join(t.dir, "src") }
func (t *tree) obj() string  { return filepath.Join(t.dir, "obj") }
func (t *tree) log() string  { return filepath.Join(t.dir, "build.log") }
func (t *tree) mark() string { return filepath.Join(t.dir, "building") }

// openTree locks the tree of key, making it if need be, and waits for whoever
// uses it.
func (r *request) openTree(ctx context.Context, key string) (*tree, error) {
	root := filepath.Join(r.Cache.Root(), stateDir)
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("make directory for build trees: %w", err)
	}
	lock, err := lockTree(ctx, filepath.Join(root, ".lock-"+key), func() {
		r.say("waiting for another build that uses the same tree")
	})
	if err != nil {
		return nil, fmt.Errorf("lock build tree: %w", err)
	}
	t := &tree{dir: filepath.Join(root, key), lock: lock}
	if err := os.MkdirAll(t.obj(), 0o700); err != nil {
		t.close()
		return nil, fmt.Errorf("make build tree: %w", err)
	}
	if text, err := os.ReadFile(filepath.Join(t.dir, "state.json")); err == nil {
		_ = json.Unmarshal(text, &t.state) // what cannot be read is unknown
	}
	if exists(t.mark()) {
		// make was killed: a half-written object would look newer than its
		// source for ever after.
		r.say("the last build in this tree was killed: beginning anew")
		if err := t.reset(); err != nil {
			t.close()
			return nil, err
		}
	}
	return t, nil
}

// lockTree takes the lock on a file, calling wait once if it has to. The file
// is never removed while locked, and nobody but [Prune] removes it.
func lockTree(ctx context.Context, path string, wait func()) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		for {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
			if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
				break
			}
			if wait != nil {
				wait()
				wait = nil
			}
			// flock(2) cannot be interrupted by a context, and its holder is
			// busy for minutes.
			select {
			case <-ctx.Done():
				_ = f.Close()
				return nil, ctx.Err()
			case <-time.After(200 * time.Millisecond):
			}
		}
		if err != nil {
			_ = f.Close()
			return nil, os.NewSyscallError("flock", err)
		}
		have, err1 := f.Stat()
		named, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(have, named) {
			return f, nil
		}
		_ = f.Close() // pruned meanwhile: lock the new file
	}
}

func (t *tree) close() { _ = t.lock.Close() }

func (t *tree) save() error {
	text, err := json.Marshal(t.state)
	if err != nil {
		return err
	}
	tmp := filepath.Join(t.dir, ".state.json")
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return fmt.Errorf("save state of build tree: %w", err)
	}
	return os.Rename(tmp, filepath.Join(t.dir, "state.json"))
}

// reset removes make's output, and the mark last.
func (t *tree) reset() error {
	t.state.Built = false
	err := errors.Join(t.save(), os.RemoveAll(t.obj()), os.Mkdir(t.obj(), 0o700))
	if err == nil {
		err = os.Remove(t.mark())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clean build tree: %w", err)
	}
	return nil
}

// sync makes the tree's copy equal to the source with the overlay over it. It
// returns how many files were touched in a tree that was there before.
func (r *request) sync(ctx context.Context, t *tree, src *source, over *overlay) (int, error) {
	want := make(fileSet, len(src.files))
	for p, s := range src.files {
		want[p] = s
	}
	if over != nil {
		for p, s := range over.files {
			want[p] = s
		}
		for _, p := range over.gone {
			delete(want, p)
		}
	}
	memoFile := filepath.Join(t.dir, "memo")
	fresh := !exists(t.src())
	if err := os.MkdirAll(t.src(), 0o700); err != nil {
		return 0, fmt.Errorf("make build tree: %w", err)
	}
	if fresh {
		r.say("copying the source (%d files)", len(want))
	}
	have, old, err := scan(t.src(), readMemo(memoFile), nil)
	if err != nil {
		return 0, fmt.Errorf("read build tree: %w", err)
	}
	// A tree whose population was interrupted is not worth patching up.
	fresh = fresh || len(have) < len(want)/2
	touched := 0
	for p := range have {
		if _, ok := want[p]; !ok {
			if err := os.Remove(filepath.Join(t.src(), filepath.FromSlash(p))); err != nil {
				return 0, fmt.Errorf("update build tree: %w", err)
			}
			touched++
		}
	}
	trust := fileSet{}
	dirs := map[string]bool{}
	var g errgroup.Group
	g.SetLimit(8)
	for p, s := range want {
		if have[p] == s {
			continue
		}
		trust[p] = s
		touched++
		dst := filepath.Join(t.src(), filepath.FromSlash(p))
		if d := filepath.Dir(dst); !dirs[d] {
			dirs[d] = true
			if err := os.MkdirAll(d, 0o700); err != nil {
				return 0, errors.Join(fmt.Errorf("update build tree: %w", err), g.Wait())
			}
		}
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if over != nil {
				if _, ok := over.files[p]; ok {
					// Newer than every object: that is what make looks at.
					return place(filepath.Join(over.dir, filepath.FromSlash(p)), dst, s, false, false)
				}
			}
			from := filepath.Join(src.dir, filepath.FromSlash(p))
			if _, replaces := have[p]; replaces || !fresh {
				return place(from, dst, s, false, false)
			}
			return place(from, dst, s, src.immutable, true)
		})
	}
	if err := g.Wait(); err != nil {
		return 0, fmt.Errorf("update build tree: %w", err)
	}
	if _, m, err := scan(t.src(), old, trust); err == nil {
		_ = m.write(memoFile) // only a courtesy to the next build
	}
	if fresh {
		return 0, nil
	}
	return touched, nil
}
