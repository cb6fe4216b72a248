// SPDX-License-Identifier: Apache-2.0

package sweep

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Header begins a sweep's file.
type Header struct {
	Format int `json:"format"`
	// Key names all that the points depend on: kernel, test, fault.
	Key      string         `json:"key"`
	Listing  Listing        `json:"listing"`
	Points   []Point        `json:"points"`
	Baseline map[string]int `json:"baseline,omitempty"`
	// Spread is how far the counts of two undisturbed runs were apart.
	Spread uint64 `json:"spread,omitempty"`
}

const stateFormat = 1

// State is the file by which an interrupted sweep is continued: a header and
// one result a line, each written at once. It is not safe for concurrent use.
type State struct{ f *os.File }

// Create begins a file.
func Create(path string, h Header) (*State, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o644)
	if err == nil {
		if err = lock(f); err == nil {
			err = f.Truncate(0)
		}
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("keep the state of the sweep: %w", err)
	}
	h.Format = stateFormat
	s := &State{f}
	if err := s.put(h); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

// Resume opens a file to continue it. A last line that was cut short is
// dropped. The error wraps [ErrChanged] when key is not the one it was begun
// with, and fs.ErrNotExist when there is none.
func Resume(path, key string) (*State, Header, []Result, error) {
	var h Header
	fail := func(err error) (*State, Header, []Result, error) {
		return nil, h, nil, fmt.Errorf("continue the sweep in %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fail(err)
	}
	fail = func(err error) (*State, Header, []Result, error) {
		_ = f.Close()
		return nil, h, nil, fmt.Errorf("continue the sweep in %s: %w", path, err)
	}
	if err := lock(f); err != nil {
		return fail(err)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return fail(err)
	}
	whole := text[:bytes.LastIndexByte(text, '\n')+1]
	dec := json.NewDecoder(bytes.NewReader(whole))
	if err := dec.Decode(&h); err != nil || h.Format != stateFormat {
		return fail(errors.New("it is no sweep's state, or of another version"))
	}
	if h.Key != key {
		return fail(ErrChanged)
	}
	var done []Result
	for {
		var r Result
		err := dec.Decode(&r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fail(err)
		}
		done = append(done, r)
	}
	if err := f.Truncate(int64(len(whole))); err != nil {
		return fail(err)
	}
	return &State{f}, h, done, nil
}

// lock keeps a second sweep away until the file is closed, or its process gone
// (flock(2)).
func lock(f *os.File) error {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("%s: another sweep is writing it", f.Name())
		}
		return err
	}
	return nil
}

// Add writes a result.
func (s *State) Add(r Result) error { return s.put(r) }

func (s *State) put(v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = s.f.Write(append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("keep the state of the sweep: %w", err)
	}
	return nil
}

// Close closes the file, which stays.
func (s *State) Close() error { return s.f.Close() }
