// SPDX-License-Identifier: Apache-2.0

package gotest

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/kvmrun/kvmrun/internal/visible"
)

// Joiner joins the output of test binaries that ran one suite by turns, each in a VM
// of its own, so that it reads, and parses, as that of one: each test is begun once and
// ends once. It passes on everything at once but two kinds of line, whose meaning
// depends on what follows: "=== RUN" of a test that a poisoned VM leaves to the next
// one, and the final "PASS" of a run in which an earlier VM failed.
//
// What the host knows of a test comes in by methods, and becomes text here only. They
// may be called from several goroutines.
type Joiner struct {
	w    io.Writer
	mark string // what begins package testing's own lines: ^V or nothing
	// verbose says that tests are said to begin.
	verbose bool
	// lines begin those that are held back, without the mark.
	lines []string

	mu sync.Mutex // of all below
	// begun are the tests that did begin, by the kernel log: their "=== RUN"
	// need not wait for what follows.
	begun map[string]bool
	// shown are the tests that were said to begin, told the top-level ones whose
	// result was, line the beginning of the line that is being written.
	shown, told map[string]bool
	line        []byte
	// again are the top-level tests that run once more, because their result
	// died with their VM: what began there has begun.
	again map[string]bool
	// held is what of the current line was held back while it may still
	// become one of those.
	held []byte
	pass bool // the rest of the current line passes
	// end of the current line, and the line with which the VM's test binary ended:
	// "PASS", "FAIL", "" if there is none so far.
	tail  []byte
	final string
	err   error
}

// maxJoined bounds how much of a line, in bytes, is looked at; maxTests bounds how many
// tests are remembered. What is longer or more is passed on all the same.
const (
	maxJoined = 4096
	maxTests  = 8192
)

var heldLines = []string{runLine, "PASS\n"}

// NewJoiner returns a joiner that writes to w, nil for nowhere, what binaries print
// that are run with args. It holds nothing back when whole says that each of them is
// only written when it has come to its end.
func NewJoiner(w io.Writer, args Args, whole bool) *Joiner {
	if w == nil {
		w = io.Discard
	}
	s := &Joiner{w: w, begun: map[string]bool{}, shown: map[string]bool{}, told: map[string]bool{}, again: map[string]bool{}}
	s.verbose, s.mark = args.Verbose()
	if !whole {
		s.lines = heldLines
	}
	return s
}

// Finals are the lines of which one is a binary's last word.
func (s *Joiner) Finals() []string { return []string{s.mark + "PASS\n", s.mark + "FAIL\n"} }

// candidate says whether line may be, or become, one that is held back.
func (s *Joiner) candidate(line []byte) bool {
	for _, h := range s.lines {
		h = s.mark + h
		n := min(len(h), len(line))
		if string(line[:n]) == h[:n] {
			return true
		}
	}
	return false
}

// runLine is what begins the line that says that a test begins.
const runLine = "=== RUN   "

// Began says that a test has begun. It does not wait for a writer that is busy.
func (s *Joiner) Began(test string) {
	go func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.begun[test] = true; s.sure() {
			s.flush()
		}
	}()
}

// begins returns the test whose beginning the line held back is, "" if it is
// none.
func (s *Joiner) begins() string {
	name, ok := strings.CutPrefix(string(s.held), s.mark+runLine)
	name, whole := strings.CutSuffix(name, "\n")
	if !ok || !whole {
		return ""
	}
	return name
}

// sure says whether the line held back is the beginning of a test that did
// begin. Subtests have no mark of their own, and need none: the kernel's state
// is looked at before the test above them.
func (s *Joiner) sure() bool {
	name := s.begins()
	return name != "" && (s.begun[name] || strings.Contains(name, "/"))
}

// said says whether the line held back is the beginning of a test that an
// earlier VM began and could not tell the end of.
func (s *Joiner) said() bool {
	name := s.begins()
	top, _, _ := strings.Cut(name, "/")
	return s.again[top] && s.shown[name]
}

// Write implements io.Writer; its error is that of the underlying writer.
func (s *Joiner) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(p)
	for len(p) > 0 && s.err == nil {
		if len(s.held) > 0 && s.held[len(s.held)-1] == '\n' {
			s.flush() // a line came after it
		}
		i := bytes.IndexByte(p, '\n') + 1
		if i == 0 {
			i = len(p)
		}
		part := p[:i]
		p = p[i:]
		ends := part[len(part)-1] == '\n'
		if s.pass {
			s.put(part)
			s.pass = !ends
			continue
		}
		s.held = append(s.held, part...)
		switch {
		case !s.candidate(s.held) || len(s.held) > maxJoined:
			s.flush()
			s.pass = !ends
		case s.said():
			s.held = s.held[:0]
		case s.sure():
			s.flush()
		}
	}
	return n, s.err
}

func (s *Joiner) put(b []byte) {
	for rest := b; len(rest) > 0; {
		part, after, ends := bytes.Cut(rest, []byte("\n"))
		s.line = append(s.line, part[:min(len(part), maxJoined-len(s.line))]...)
		if s.tail = append(s.tail, part...); len(s.tail) > 2*len(s.mark+"PASS") {
			s.tail = append(s.tail[:0], s.tail[len(s.tail)-len(s.mark+"PASS"):]...)
		}
		if rest = after; ends {
			// Without a mark, what a test has printed last may stand before it.
			for _, word := range []string{"PASS", "FAIL"} {
				if strings.HasSuffix(string(s.tail), s.mark+word) {
					s.final = word
				}
			}
			s.tail = s.tail[:0]
			if name, ok := strings.CutPrefix(string(s.line), s.mark+runLine); ok && len(s.shown) < maxTests {
				s.shown[name] = true
			}
			if name := s.ends(string(s.line)); name != "" && len(s.told) < maxTests {
				s.told[name] = true
			}
			s.line = s.line[:0]
		}
	}
	if s.err == nil && len(b) > 0 {
		_, s.err = s.w.Write(b)
	}
}

// ends returns the top-level test whose result the line is, "" if it is none.
// Where there is no mark, the line may begin with what the test has printed.
func (s *Joiner) ends(line string) string {
	begin := s.mark + "--- "
	_, result, _ := strings.Cut(line[max(0, strings.LastIndex(line, begin)):], begin)
	status, rest, _ := strings.Cut(result, ": ")
	name, took, ok := strings.Cut(rest, " (")
	if !ok || !strings.HasSuffix(took, "s)") || strings.Contains(name, "/") || !slices.Contains([]string{"PASS", "FAIL", "SKIP"}, status) {
		return ""
	}
	return name
}

// Untold returns the tests that ended in a VM without a word of how: each says
// so, or, unless -v is given, each that failed does.
func (s *Joiner) Untold(ended, failed []string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	said := failed
	if s.verbose {
		said = ended
	}
	var lost []string
	for _, t := range said {
		if !s.told[t] {
			lost = append(lost, t)
		}
	}
	return lost
}

// Told says whether a test's result was told.
func (s *Joiner) Told(test string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told[test]
}

// Again says that the tests may run again.
func (s *Joiner) Again(tests []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range tests {
		s.again[t] = true
	}
}

func (s *Joiner) flush() {
	s.put(s.held)
	s.held = s.held[:0]
}

// End ends the output of one VM: poisoned drops the beginning of a test that
// the next VM runs, failed turns a final PASS into FAIL. It returns the word with
// which the test binary had ended, "" if it had not said any.
func (s *Joiner) End(poisoned, failed bool) (final string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	turned := false
	switch held := string(s.held); {
	case poisoned && strings.HasPrefix(held, s.mark+runLine):
		s.held = s.held[:0]
	case failed && held == s.mark+"PASS\n":
		s.held, turned = append(s.held[:0], s.mark+"FAIL\n"...), true
	}
	s.flush()
	if s.pass { // the last line had no end
		s.put([]byte("\n"))
		s.pass = false
	}
	if final, s.final = s.final, ""; turned {
		final = "PASS"
	}
	return final
}

// Fail says, as package testing would have, that a test failed, why, and what text
// shows it: one that was
// running, or one that never will. That it had begun may have died with its VM.
func (s *Joiner) Fail(test, why, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	if s.verbose && !s.shown[test] {
		fmt.Fprintf(&b, "%s%s%s\n", s.mark, runLine, test)
	}
	if s.mark != "" {
		fmt.Fprintf(&b, "%s=== NAME  %s\n", s.mark, test)
	} else {
		fmt.Fprintf(&b, "--- FAIL: %s (0.00s)\n", test)
	}
	fmt.Fprintf(&b, "    kvmrun: %s\n", why)
	for _, l := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if l = strings.TrimRight(l, "\r"); l != "" {
			fmt.Fprintf(&b, "        %s\n", visible.Short(l))
		}
	}
	if s.mark != "" {
		fmt.Fprintf(&b, "%s--- FAIL: %s (0.00s)\n", s.mark, test)
	}
	s.put([]byte(b.String()))
}

// Say adds a line of the host's own.
func (s *Joiner) Say(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put([]byte(line + "\n"))
}
