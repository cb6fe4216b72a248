// SPDX-License-Identifier: Apache-2.0

package bisect

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// The files of a bisection's directory.
const (
	setupFile   = "setup.json"
	savedFile   = "history.json"
	journalFile = "observations.jsonl"
	// journalLimit bounds what is read back, in bytes.
	journalLimit = 1 << 30
)

// Journal keeps a bisection in a directory: what was asked, written once, and
// every observation, a line each. A line that a killed process left half
// written is dropped. One process at a time may hold it.
type Journal struct {
	dir  string
	f    *os.File
	seen []Observation
}

// ErrBusy is returned for the directory of a bisection that runs.
var ErrBusy = errors.New("another bisection uses this directory")

// Create begins a bisection in a directory, which is made. One that already has
// a bisection is an error.
func Create(dir string, setup any) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the bisection's directory: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, setupFile)); err == nil {
		return nil, fmt.Errorf("%s has a bisection already: go on with it by -resume %s, or name another directory", dir, dir)
	}
	text, err := json.MarshalIndent(setup, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("keep the bisection's setup: %w", err)
	}
	j, err := open(dir)
	if err != nil {
		return nil, err
	}
	// Last, and at once: a directory without it is none of a bisection.
	if err := writeWhole(filepath.Join(dir, setupFile), append(text, '\n')); err != nil {
		return nil, errors.Join(fmt.Errorf("keep the bisection's setup: %w", err), j.Close())
	}
	return j, nil
}

// Resume opens a bisection that was begun, and reads what was asked into setup.
// Tries that failed for the machine's own reasons are forgotten: it may be well
// now.
func Resume(dir string, setup any) (*Journal, error) {
	text, err := os.ReadFile(filepath.Join(dir, setupFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has no bisection to go on with (there is no %s in it)", dir, setupFile)
	}
	if err != nil {
		return nil, fmt.Errorf("read the bisection's setup: %w", err)
	}
	if err := json.Unmarshal(text, setup); err != nil {
		return nil, fmt.Errorf("read the bisection's setup: %s: %w", filepath.Join(dir, setupFile), err)
	}
	return open(dir)
}

func open(dir string) (*Journal, error) {
	path := filepath.Join(dir, journalFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the bisection's observations: %w", err)
	}
	j := &Journal{dir: dir, f: f}
	if err := lock(f); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s", ErrBusy, dir)
		}
		return nil, fmt.Errorf("lock the bisection's observations: %w", err)
	}
	if err := j.load(path); err != nil {
		_ = f.Close()
		return nil, err
	}
	return j, nil
}

// lock takes the lock, or fails with EWOULDBLOCK after a while: a process that is
// just being started from one that closed the file has it open until its exec.
func lock(f *os.File) error {
	for tries := 0; ; tries++ {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || tries == 100 {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (j *Journal) load(path string) error {
	if fi, err := j.f.Stat(); err != nil || fi.Size() > journalLimit {
		return fmt.Errorf("read the bisection's observations: %s is too long (or: %w)", path, err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the bisection's observations: %w", err)
	}
	var end int
	if j.seen, end, err = parse(path, text); err != nil {
		return err
	}
	if err := j.f.Truncate(int64(end)); err != nil {
		return fmt.Errorf("repair the bisection's observations: %w", err)
	}
	if _, err := j.f.Seek(int64(end), 0); err != nil {
		return fmt.Errorf("read the bisection's observations: %w", err)
	}
	return nil
}

// parse reads the lines that are whole, and says where they end.
func parse(path string, text []byte) (seen []Observation, end int, err error) {
	end = bytes.LastIndexByte(text, '\n') + 1
	for i, line := range bytes.Split(bytes.TrimSuffix(text[:end], []byte("\n")), []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		var o Observation
		if err := json.Unmarshal(line, &o); err != nil {
			return nil, 0, fmt.Errorf("read the bisection's observations: %s:%d: %w", path, i+1, err)
		}
		if o.Word != Infra {
			seen = append(seen, o)
		}
	}
	return seen, end, nil
}

// Seen are the observations of earlier sessions, and what this one recorded.
func (j *Journal) Seen() []Observation { return j.seen }

// Saved is what is searched, kept once it is known.
type Saved struct {
	History History `json:"history"`
	Config  Config  `json:"config"`
	Git     bool    `json:"git"`
	Good    string  `json:"good"`
	Bad     string  `json:"bad"`
}

// Save keeps the history, so that a bisection goes on with the same whatever
// became of the repository or the archive.
func (j *Journal) Save(s Saved) error {
	text, err := json.Marshal(s)
	if err == nil {
		err = writeWhole(filepath.Join(j.dir, savedFile), append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("keep the history: %w", err)
	}
	return nil
}

// Load reads what Save kept; the error is fs.ErrNotExist before that.
func (j *Journal) Load(s *Saved) error { return loadSaved(j.dir, s) }

func loadSaved(dir string, s *Saved) error {
	text, err := os.ReadFile(filepath.Join(dir, savedFile))
	if err == nil {
		err = json.Unmarshal(text, s)
	}
	if err != nil {
		return fmt.Errorf("read the history: %w", err)
	}
	return nil
}

// ReadReport reads the state of a bisection, also of one that runs.
func ReadReport(dir string) (Report, error) {
	var s Saved
	if err := loadSaved(dir, &s); err != nil {
		return Report{}, fmt.Errorf("%s has no bisection whose range is known: %w", dir, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, journalFile))
	if err != nil {
		return Report{}, fmt.Errorf("read the bisection's observations: %w", err)
	}
	seen, _, err := parse(journalFile, text)
	if err != nil {
		return Report{}, err
	}
	search, err := New(s.History, s.Config)
	if err != nil {
		return Report{}, err
	}
	for _, o := range seen {
		search.Observe(o)
	}
	r := search.NewReport()
	r.Git, r.GoodName, r.BadName = s.Git, s.Good, s.Bad
	return r, nil
}

// Dir is the bisection's directory.
func (j *Journal) Dir() string { return j.dir }

// Record keeps an observation: when it returns, the disk has it.
func (j *Journal) Record(o Observation) error {
	line, err := json.Marshal(o)
	if err == nil {
		_, err = j.f.Write(append(line, '\n'))
	}
	if err == nil {
		err = j.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("keep an observation in %s: %w; the bisection can be resumed", j.f.Name(), err)
	}
	j.seen = append(j.seen, o)
	return nil
}

// Close releases the directory.
func (j *Journal) Close() error { return j.f.Close() }

func writeWhole(path string, text []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, text, 0o644); err != nil { //nolint:gosec // nothing secret in it
		return err
	}
	return os.Rename(tmp, path)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
