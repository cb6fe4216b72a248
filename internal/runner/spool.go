// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/kvmrun/kvmrun/internal/klog"
)

// LogLimit bounds a file of what a guest's program printed, in bytes.
const LogLimit = 64 << 20

// Bounds of what is kept of what is printed before it is its turn, in bytes: of
// what is beyond SpoolLimit, the end, and package testing's own lines, which have the
// results.
const (
	spoolMemory = 1 << 20
	SpoolLimit  = LogLimit
	spoolTail   = 256 << 10
	spoolOwn    = 4 << 20
)

// Spool keeps what is written to it until it is told where it goes: in memory at
// first, then in a file without a name in dir.
type Spool struct {
	dir string

	mu   sync.Mutex
	w    io.Writer // not nil: nothing is kept any more
	buf  []byte
	f    *os.File
	n    int64 // bytes in f
	tail []byte
	ours []byte // of what was dropped before tail
	left int64  // bytes dropped, those in ours among them
}

// Write implements io.Writer.
func (s *Spool) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.w != nil {
		return s.w.Write(p)
	}
	if s.tail != nil || s.n+int64(len(s.buf)+len(p)) > SpoolLimit {
		s.drop(p)
		return len(p), nil
	}
	if len(s.buf)+len(p) > spoolMemory {
		if err := s.spill(); err != nil {
			return 0, fmt.Errorf("keep the output until it is its turn: %w", err)
		}
	}
	s.buf = append(s.buf, p...)
	return len(p), nil
}

// drop keeps the end of what does not fit, and the lines that matter.
func (s *Spool) drop(p []byte) {
	if s.tail = append(s.tail, p...); len(s.tail) <= 2*spoolTail {
		return
	}
	// At the beginning of a line, so that none is both dropped and kept. One that is
	// too long for that is no line of package testing's.
	gone := len(s.tail) - spoolTail
	if i := bytes.LastIndexByte(s.tail[:gone], '\n'); i >= 0 {
		gone = i + 1
	}
	for l := range bytes.Lines(s.tail[:gone]) {
		i := bytes.Index(l, []byte(Marker))
		if i >= 0 && len(l)-i <= klog.MaxLine && len(s.ours)+len(l)-i <= spoolOwn {
			s.ours = append(s.ours, l[i:]...)
		}
	}
	s.left += int64(gone)
	s.tail = append([]byte{}, s.tail[gone:]...)
}

// Marker begins package testing's own lines where test2json is to read them
// (internal/gotest). Elsewhere nobody reads results from the output.
const Marker = "\x16"

func (s *Spool) spill() (err error) {
	if s.f == nil {
		if s.f, err = os.CreateTemp(s.dir, ".output-*"); err != nil {
			return err
		}
		_ = os.Remove(s.f.Name())
	}
	n, err := s.f.Write(s.buf)
	s.n += int64(n)
	s.buf = s.buf[:0]
	return err
}

// Live passes on what was kept, and everything else at once. Errors of w are
// those of the next Write.
func (s *Spool) Live(w io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.w = w; s.f != nil {
		_, _ = io.Copy(w, io.NewSectionReader(s.f, 0, s.n))
		_ = s.f.Close()
		s.f = nil
	}
	_, _ = w.Write(s.buf)
	if s.left > 0 {
		_, _ = fmt.Fprintf(w, "\n[kvmrun: %d bytes were not kept here: more than %d MiB while it had to wait]\n", s.left, SpoolLimit>>20)
		_, _ = w.Write(s.ours)
	}
	_, _ = w.Write(s.tail)
	s.buf, s.ours, s.tail = nil, nil, nil
}

// Close drops what was kept.
func (s *Spool) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.w == nil {
		s.w = io.Discard
	}
	if s.f != nil {
		_ = s.f.Close()
	}
	s.f, s.buf, s.ours, s.tail = nil, nil, nil, nil
}

// NewSpool makes one whose file is in dir.
func NewSpool(dir string) *Spool { return &Spool{dir: dir} }

// Lost is how many bytes were not kept.
func (s *Spool) Lost() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left
}
