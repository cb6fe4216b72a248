// SPDX-License-Identifier: Apache-2.0

package symbolize

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const (
	// maxModule bounds a compressed module; amdgpu.ko with debug information has
	// some 400 MiB.
	maxModule = 1 << 30
	// maxModuleFiles bounds the walk through the modules' directories; a
	// distribution has some 5000 modules.
	maxModuleFiles = 1 << 18
	// maxModuleImages bounds the modules a log can make us try.
	maxModuleImages = 1 << 10
)

// module returns what is known about a module; its err is set when it cannot be
// used.
func (s *Symbolizer) module(name, id string) *moduleImage {
	key := moduleKey{canonical(name), id}
	if m := s.modules[key]; m != nil {
		return m
	}
	m := s.findModule(key)
	if len(s.modules) >= maxModuleImages {
		clear(s.modules)
	}
	s.modules[key] = m
	return m
}

// canonical is the name as the kernel prints it: in file names "-" and "_" are
// the same (scripts/Makefile.lib, name-fix).
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

func (s *Symbolizer) findModule(key moduleKey) *moduleImage {
	if s.files == nil {
		s.files = moduleFiles(s.dirs)
	}
	if len(s.dirs) == 0 {
		return &moduleImage{err: fmt.Errorf("module %s: %w: no directory of modules was given", clip(key.name), ErrNoModule)}
	}
	var firstErr error
	var plain *image // fits, but has no DWARF
	for _, p := range s.files[key.name] {
		img, err := readImage(p, openModule(p))
		if err == nil && key.buildID != "" && img.buildID != "" && img.buildID != key.buildID {
			err = &Error{Path: p, Kind: ErrOtherBuild,
				Detail: fmt.Sprintf("is of another build: its build-id is %s, the module that ran has %s", img.buildID, key.buildID),
				Cure:   "give the modules of the kernel that ran"}
		}
		if err != nil {
			if firstErr == nil {
				firstErr = err
			}
			continue
		}
		if img.hasDWARF {
			return &moduleImage{symbols: img, debug: img}
		}
		if plain == nil {
			plain = img
		}
	}
	id := key.buildID
	if plain != nil && id == "" {
		id = plain.buildID
	}
	if dbg := s.separate(id); dbg != nil {
		// The debug file has sections of the same sizes, so its symbols and DWARF
		// agree with each other; the plain file is not needed.
		return &moduleImage{symbols: dbg, debug: dbg}
	}
	switch {
	case plain != nil:
		return &moduleImage{err: &Error{Path: plain.path, Kind: ErrNoDebugInfo, Detail: "has no debug information", Cure: "give a directory with the modules as they were linked, or with the debug package's files"}}
	case firstErr != nil:
		return &moduleImage{err: firstErr}
	}
	return &moduleImage{err: fmt.Errorf("module %s: %w in %s", clip(key.name), ErrNoModule, strings.Join(s.dirs, ", "))}
}

// moduleFiles maps modules to their files.
func moduleFiles(dirs []string) map[string][]string {
	out := map[string][]string{}
	n := 0
	for _, dir := range dirs {
		// What cannot be read is left out: the module is then reported missing.
		_ = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
			if n++; n > maxModuleFiles {
				return fs.SkipAll
			}
			if err != nil {
				return nil //nolint:nilerr // see above
			}
			if e.IsDir() {
				if e.Name() == ".build-id" || e.Name() == ".git" {
					return fs.SkipDir
				}
				return nil
			}
			name, rest, ok := strings.Cut(e.Name(), ".ko")
			if !ok || name == "" {
				return nil
			}
			switch rest {
			case "", ".debug", ".gz", ".xz", ".zst":
				out[canonical(name)] = append(out[canonical(name)], p)
			}
			return nil
		})
	}
	return out
}

// openModule opens a module, unpacked into memory if it is compressed.
func openModule(name string) func() (file, error) {
	return func() (file, error) {
		ext := filepath.Ext(name)
		if ext != ".gz" && ext != ".xz" && ext != ".zst" {
			return os.Open(name)
		}
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close() //nolint:errcheck // only read
		b, err := unpack(f, ext)
		if err != nil {
			return nil, &Error{Path: name, Kind: ErrDamaged, Detail: "cannot unpack it", Err: err, Cure: "copy or build it again"}
		}
		return memory{bytes.NewReader(b)}, nil
	}
}

func unpack(r io.Reader, ext string) ([]byte, error) {
	var z io.Reader
	var err error
	switch ext {
	case ".gz":
		z, err = gzip.NewReader(r)
	case ".xz":
		z, err = xz.NewReader(r)
	default:
		var d *zstd.Decoder
		if d, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1)); err == nil {
			defer d.Close()
			z = d
		}
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(z, maxModule+1))
	if err == nil && len(b) > maxModule {
		err = errors.New("it is too large")
	}
	return b, err
}

// memory is a file in memory.
type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }
