// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/internal/wire"
)

// fetcher writes the files that a guest sends back. The guest names an index
// and, below a directory, a plain base name; everything else is ours.
type fetcher struct {
	want []Fetch
	open map[string]*os.File // by final host path
	size map[string]int64
}

// Fetch is a guest file wanted after the program has ended.
type Fetch struct {
	Guest string // absolute path in the guest
	Host  string // where it goes; only the host chooses it
	// Dir says that Guest and Host are directories whose files are wanted.
	Dir bool
}

// maxFetch bounds the bytes taken from one guest file, so that a guest cannot
// fill the host's disk.
const maxFetch = 256 << 20

// maxFiles bounds how many files may come out of fetched directories.
const maxFiles = 10000

func newFetcher(want []Fetch) *fetcher {
	return &fetcher{want: want, open: map[string]*os.File{}, size: map[string]int64{}}
}

func (f *fetcher) add(msg wire.File) error {
	if msg.Index < 0 || msg.Index >= len(f.want) {
		return fmt.Errorf("fetch a file from the guest: index %d was not asked for", msg.Index)
	}
	w := f.want[msg.Index]
	if msg.Err != "" {
		return fmt.Errorf("fetch %s from the guest: %s", w.Guest, visible.Short(msg.Err))
	}
	path := w.Host
	if w.Dir {
		if msg.Name == "" && msg.EOF && len(msg.Data) == 0 {
			return nil // an empty directory
		}
		if msg.Name == "" || msg.Name == "." || msg.Name == ".." || strings.ContainsAny(msg.Name, "/\x00") {
			return fmt.Errorf("fetch %s from the guest: bad file name %q", w.Guest, msg.Name)
		}
		path = filepath.Join(w.Host, msg.Name)
	}
	out := f.open[path]
	if out == nil {
		if _, again := f.size[path]; again || len(f.size) >= maxFiles {
			return fmt.Errorf("fetch %s from the guest: too many files, or one twice", w.Guest)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("fetch %s from the guest: %w", w.Guest, err)
		}
		// Renamed when complete: a half-written profile is worse than none.
		var err error
		if out, err = os.CreateTemp(filepath.Dir(path), ".kvmrun-*"); err != nil {
			return fmt.Errorf("fetch %s from the guest: %w", w.Guest, err)
		}
		f.open[path], f.size[path] = out, 0
	}
	if f.size[path] += int64(len(msg.Data)); f.size[path] > maxFetch {
		return fmt.Errorf("fetch %s from the guest: larger than %d MiB", w.Guest, maxFetch>>20)
	}
	if _, err := out.Write(msg.Data); err != nil {
		return fmt.Errorf("fetch %s from the guest: %w", w.Guest, err)
	}
	if !msg.EOF {
		return nil
	}
	delete(f.open, path)
	err := out.Chmod(0o644)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(out.Name(), path)
	}
	if err != nil {
		_ = os.Remove(out.Name())
		return fmt.Errorf("fetch %s from the guest: %w", w.Guest, err)
	}
	return nil
}

// finish reports files that began and never ended.
func (f *fetcher) finish() error {
	for path := range f.open {
		return fmt.Errorf("fetch %s from the guest: it was cut short", path)
	}
	return nil
}

// abandon removes what is unfinished.
func (f *fetcher) abandon() {
	for _, o := range f.open {
		_ = o.Close()
		_ = os.Remove(o.Name())
	}
	clear(f.open)
}
