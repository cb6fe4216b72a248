// SPDX-License-Identifier: Apache-2.0

package gotest

import (
	"bytes"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// marker begins every line of package testing's own (testing.marker).
const marker = 0x16

const (
	// maxLine is the longest line, in bytes, that is looked at as a whole.
	// Longer ones are passed on as output, piece by piece. It has to hold
	// the longest test name that shall be recognised; cmd/internal/test2json
	// is content with 4096.
	maxLine = 64 << 10

	// maxDepth is the deepest nesting of indented result lines. Package
	// testing indents none of them in test2json mode, so this only bounds
	// what a hostile guest can make the parser remember.
	maxDepth = 32
)

// An Action says what an [Event] is about.
type Action uint8

// The actions, named after those of "go doc test2json". The zero value is
// never emitted.
const (
	ActionInvalid Action = iota
	ActionRun
	ActionPause
	ActionCont
	ActionPass
	ActionFail
	ActionSkip
	ActionBench
	ActionOutput
	ActionAttr
	ActionArtifacts
)

var actionNames = [...]string{
	"invalid", "run", "pause", "cont", "pass", "fail", "skip", "bench", "output", "attr", "artifacts",
}

// String returns the action's name as test2json writes it.
func (a Action) String() string {
	if int(a) >= len(actionNames) {
		return actionNames[0]
	}
	return actionNames[a]
}

// An Event is one thing that happened in the test binary.
type Event struct {
	Action Action
	// Test is the full name of the test. A pass or fail without a name is
	// the verdict of the whole binary; output without a name belongs to no
	// test. The name is the guest's: any bytes but newlines.
	Test string
	// Elapsed is the test's time as its result line gives it.
	Elapsed time.Duration
	// Output is, for ActionOutput, the line with its newline, or a piece of
	// a line. It may be overwritten once the callback returns.
	Output []byte
	// Framing is whether Output is a line of package testing itself, such as
	// "=== RUN   TestX".
	Framing bool
	// Partial is whether Output does not begin a line: it goes on with a
	// line too long to be passed on at once.
	Partial bool
	// Key and Value are the attribute of ActionAttr; Value is the directory
	// of ActionArtifacts.
	Key, Value string
}

// A Parser splits the standard output of a test binary into events, as it
// arrives. Its memory is bounded. Make one with [NewParser].
type Parser struct {
	emit func(Event)
	buf  []byte // the line in progress, at most maxLine
	long bool   // the beginning of the line in progress has been emitted
	test string // whose output it is
	// pending are results whose events wait for the next line of package
	// testing: until then, output may still belong to them.
	pending []Event
}

// NewParser returns a parser that calls emit for every event, from within
// Write and Close.
func NewParser(emit func(Event)) *Parser { return &Parser{emit: emit} }

// Write parses b. It takes all of it and returns no error.
func (p *Parser) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		i, done := p.lineEnd(b)
		p.add(b[:i], done)
		b = b[i:]
	}
	return n, nil
}

// Close ends the input: what remains of an unfinished line is output, and
// results that waited for further output are emitted. What is written afterwards
// is the output of another process.
func (p *Parser) Close() error {
	p.output(p.buf, false)
	p.buf, p.long = nil, false
	p.flush(0)
	return nil
}

// lineEnd returns how many bytes of b belong to the line in progress and
// whether the line ends there. A line ends after a newline, and before a marker
// that does not begin it.
func (p *Parser) lineEnd(b []byte) (int, bool) {
	for i, c := range b {
		if c == '\n' {
			return i + 1, true
		}
		if c == marker && (i > 0 || len(p.buf) > 0 || p.long) {
			return i, true
		}
	}
	return len(b), false
}

// add appends b to the line in progress; done is whether that completes it.
func (p *Parser) add(b []byte, done bool) {
	for len(p.buf)+len(b) > maxLine {
		n := maxLine - len(p.buf)
		p.buf = append(p.buf, b[:n]...)
		b = b[n:]
		cut := wholeRunes(p.buf)
		p.output(p.buf[:cut], false)
		p.buf = p.buf[:copy(p.buf, p.buf[cut:])]
		p.long = true
	}
	if !done {
		p.buf = append(p.buf, b...)
		return
	}
	line := b
	if len(p.buf) > 0 {
		p.buf = append(p.buf, b...)
		line = p.buf
	}
	if p.long {
		p.output(line, false)
	} else {
		p.line(line)
	}
	p.buf, p.long = p.buf[:0], false
}

// line handles a whole line, with its newline if it has one.
func (p *Parser) line(line []byte) {
	if len(line) == 0 {
		return
	}
	if line[0] != marker {
		p.attribute(line)
		p.output(line, false)
		return
	}
	line = line[1:]
	text := strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r")
	// A line counts as package testing's only when it is complete: it ends in
	// a newline, or another marked line was printed right behind it.
	switch {
	case text == "PASS" || text == "FAIL" || strings.HasPrefix(text, "FAIL\t"):
		p.flush(0)
		p.output(line, true)
		action := ActionFail
		if text == "PASS" {
			action = ActionPass
		}
		p.emit(Event{Action: action})
	case strings.HasPrefix(text, "=== ") && p.update(text[len("=== "):], line):
	case p.result(text, line):
	default:
		p.attribute(line)
		p.output(line, false)
	}
}

// attribute makes indented output after a result line belong to the test of
// that indentation: package testing prints a failed test's log below its
// result there.
func (p *Parser) attribute(line []byte) {
	depth := 0
	for bytes.HasPrefix(line, []byte("    ")) {
		line = line[4:]
		depth++
	}
	if depth > 0 && depth <= len(p.pending) {
		p.test = p.pending[depth-1].Test
	}
}

// updates are the words after "=== " with which package testing announces
// something. NAME only says whose output comes next.
var updates = []struct {
	word   string
	action Action
}{
	{"RUN   ", ActionRun},
	{"PAUSE ", ActionPause},
	{"CONT  ", ActionCont},
	{"NAME  ", ActionInvalid},
	{"ATTR  ", ActionAttr},
	{"ARTIFACTS ", ActionArtifacts},
}

// update handles the text after "=== " and reports whether it is an update.
func (p *Parser) update(text string, line []byte) bool {
	if text == "NAME" { // of no test, and the trailing blanks got lost
		text = "NAME  "
	}
	for _, u := range updates {
		rest, ok := strings.CutPrefix(text, u.word)
		if !ok {
			continue
		}
		e := Event{Action: u.action, Test: strings.TrimSpace(rest)}
		switch u.action {
		case ActionAttr:
			e.Test, rest, _ = strings.Cut(e.Test, " ")
			e.Key, e.Value, _ = strings.Cut(rest, " ")
		case ActionArtifacts:
			e.Test, e.Value, _ = strings.Cut(e.Test, " ")
		}
		p.flush(0)
		p.test = e.Test
		switch u.action {
		case ActionInvalid: // prints as nothing
		case ActionPause: // the test's last word before it is paused
			p.output(line, true)
			p.emit(e)
		default:
			p.emit(e)
			p.output(line, true)
		}
		return true
	}
	return false
}

var results = []struct {
	word   string
	action Action
}{
	{"--- PASS: ", ActionPass},
	{"--- FAIL: ", ActionFail},
	{"--- SKIP: ", ActionSkip},
	{"--- BENCH: ", ActionBench},
}

// result handles a result line and reports whether text is one.
func (p *Parser) result(text string, line []byte) bool {
	depth := 0
	for strings.HasPrefix(text, "    ") {
		text = text[4:]
		depth++
	}
	for _, r := range results {
		rest, ok := strings.CutPrefix(text, r.word)
		if !ok {
			continue
		}
		if depth > len(p.pending) || depth >= maxDepth {
			return false // nested in nothing: output that looks like a result
		}
		e := Event{Action: r.action, Test: strings.TrimSpace(rest)}
		if i := strings.Index(e.Test, " ("); i >= 0 {
			e.Elapsed = elapsed(e.Test[i+2:])
			e.Test = e.Test[:i]
		}
		p.flush(depth)
		p.pending = append(p.pending, e)
		p.test = e.Test
		p.output(line, true)
		return true
	}
	return false
}

// elapsed parses "1.25s)". Anything else is no time at all.
func elapsed(s string) time.Duration {
	s, ok := strings.CutSuffix(s, "s)")
	if !ok {
		return 0
	}
	sec, err := strconv.ParseFloat(s, 64)
	// The bound (31 years) keeps the conversion below within range, and NaN
	// fails it as well.
	if err != nil || !(sec >= 0 && sec < 1e9) {
		return 0
	}
	return time.Duration(sec * float64(time.Second)).Round(time.Microsecond)
}

// flush emits the pending results at depth and deeper, inner ones first.
func (p *Parser) flush(depth int) {
	for len(p.pending) > depth {
		last := len(p.pending) - 1
		e := p.pending[last]
		p.pending = p.pending[:last]
		p.emit(e)
	}
	p.test = ""
}

// output emits b as output of the current test.
func (p *Parser) output(b []byte, framing bool) {
	if len(b) > 0 {
		p.emit(Event{Action: ActionOutput, Test: p.test, Output: b, Framing: framing, Partial: p.long})
	}
}

// wholeRunes returns the length of the longest prefix of b that does not end
// in the middle of what may be a UTF-8 sequence.
func wholeRunes(b []byte) int {
	for i := 1; i < utf8.UTFMax && i < len(b); i++ {
		if utf8.RuneStart(b[len(b)-i]) {
			if !utf8.FullRune(b[len(b)-i:]) {
				return len(b) - i
			}
			break
		}
	}
	return len(b)
}
