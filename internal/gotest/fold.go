// SPDX-License-Identifier: Apache-2.0

package gotest

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/kvmrun/kvmrun/internal/result"
)

// FoldConfig bounds the memory of a [Folder]. A zero field means the default,
// which fits a host that runs several VMs within 60 MiB: the logs are in
// files anyway.
type FoldConfig struct {
	// MaxOutput is how many bytes of one test's output are kept, half from
	// the beginning and half from the end. Default 64 KiB.
	MaxOutput int
	// MaxPassed replaces MaxOutput once the test has passed or was skipped.
	// Default 4 KiB.
	MaxPassed int
	// Log names the file that has all of the output, for whom a part of it is
	// not enough; "" for none.
	Log string
	// MaxTotal is how many bytes of output are kept of all tests together.
	// When they are used up, the output of tests that passed goes first, the
	// oldest before the others. Default 4 MiB.
	MaxTotal int
	// MaxCases is how many tests are remembered, and MaxNames how many bytes
	// their names may take together. Tests beyond either are counted as one
	// failure. Defaults 20000 and 2 MiB.
	MaxCases int
	MaxNames int
}

func (c *FoldConfig) setDefaults() {
	for _, d := range []struct {
		field *int
		value int
	}{
		{&c.MaxOutput, 64 << 10},
		{&c.MaxPassed, 4 << 10},
		{&c.MaxTotal, 4 << 20},
		{&c.MaxCases, 20000},
		{&c.MaxNames, 2 << 20},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
}

// A Folder folds the events of one test binary into cases. Make one with
// [NewFolder]; it may be used by several goroutines at once.
type Folder struct {
	mu    sync.Mutex
	cfg   FoldConfig
	cases []*foldCase
	open  map[string]*foldCase // the latest case of each name
	names int                  // bytes of names in cases
	total int                  // bytes of output in cases
	// passed are the cases whose output is given up first, oldest first.
	passed []*foldCase
	// benches are the benchmarks that run, each one the parent of the next.
	benches []*foldCase

	lost      int // tests refused for want of room
	ghosts    int // results of tests that never began
	conflicts int // results of tests that had ended already, and differed
	final     result.Status
	lastEnded *foldCase
	crash     crash
	panicked  string // the title of the first crash that Cut has seen
}

type foldCase struct {
	result.Case
	out     output
	running bool // began, and has not ended
	paused  bool
	log     string // the first line of the last log entry, or the last line
	logged  bool   // log is a log entry, not just a line
}

// maxReason bounds a reason in bytes.
const maxReason = 400

// NewFolder returns a Folder with no cases.
func NewFolder(cfg FoldConfig) *Folder {
	cfg.setDefaults()
	return &Folder{cfg: cfg, open: make(map[string]*foldCase)}
}

// Event folds one event in. It keeps nothing of e.Output.
func (f *Folder) Event(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch e.Action {
	case ActionRun:
		f.begin(e.Test)
	case ActionPause, ActionCont:
		if c := f.open[e.Test]; c != nil {
			c.paused = e.Action == ActionPause
		}
	case ActionOutput:
		f.output(e)
	case ActionPass, ActionFail, ActionSkip:
		f.end(e)
	case ActionBench, ActionAttr, ActionArtifacts, ActionInvalid:
		// A BENCH line gives a benchmark's log, and is not how it ends.
	}
}

func (f *Folder) begin(name string) {
	f.endBenchmarks(name)
	if c := f.open[name]; c != nil && c.running {
		return // said twice: it is still the same test
	}
	c := f.add(name)
	if c != nil && strings.HasPrefix(name, "Benchmark") {
		f.benches = append(f.benches, c)
	}
}

func (f *Folder) room(name string) bool {
	return len(f.cases) < f.cfg.MaxCases && f.names+len(name) <= f.cfg.MaxNames
}

// endBenchmarks ends the benchmarks that cannot be running when the test next
// begins ("" for the end of the binary). Benchmarks print no result line when
// they pass, but they run one after the other.
func (f *Folder) endBenchmarks(next string) {
	for len(f.benches) > 0 {
		last := len(f.benches) - 1
		c := f.benches[last]
		if strings.HasPrefix(next, c.Name+"/") || c.Name == next {
			return
		}
		if c.running {
			f.settle(c, result.StatusPass)
		}
		f.benches = f.benches[:last]
	}
}

// add appends a case, or returns nil when there is no room for it.
func (f *Folder) add(name string) *foldCase {
	if !f.room(name) {
		f.lost++
		return nil
	}
	c := &foldCase{running: true}
	c.Name = name
	c.out.max = f.cfg.MaxOutput
	f.names += len(name)
	f.cases = append(f.cases, c)
	f.open[name] = c
	return c
}

func (f *Folder) output(e Event) {
	if e.Framing {
		return
	}
	if !e.Partial {
		f.crash.line(e.Output)
	}
	c := f.open[e.Test]
	if c == nil {
		return // of no test: the log file has it
	}
	if !e.Partial {
		c.note(e.Output)
	}
	f.total += c.out.write(e.Output)
	f.reclaim()
}

// reclaim takes output away until the limit over all cases holds.
func (f *Folder) reclaim() {
	for f.total > f.cfg.MaxTotal && len(f.passed) > 0 {
		f.total -= f.passed[0].out.drop()
		f.passed = f.passed[1:]
	}
	// Nothing harmless is left to give up: keep less of every case, and of
	// those to come. As the limit never rises again, all of this costs little
	// even when a guest keeps asking for it.
	for f.total > f.cfg.MaxTotal {
		f.cfg.MaxOutput /= 2
		for _, c := range f.cases {
			f.total -= c.out.shrink(f.cfg.MaxOutput)
		}
	}
}

func (f *Folder) end(e Event) {
	status := result.StatusPass
	switch e.Action {
	case ActionFail:
		status = result.StatusFail
	case ActionSkip:
		status = result.StatusSkip
	}
	if e.Test == "" {
		if f.final != result.StatusFail {
			f.final = status
		}
		f.endBenchmarks("")
		return
	}
	c := f.open[e.Test]
	switch {
	case c == nil:
		if f.lost > 0 && !f.room(e.Test) {
			return // one of those that were counted as lost
		}
		f.ghosts++
		if c = f.add(e.Test); c == nil {
			return
		}
		c.Reason = "reported a result without having begun"
		status = result.StatusFail
	case !c.running:
		if c.Status == status {
			return
		}
		f.conflicts++
		c.Reason = fmt.Sprintf("reported two results: %s, then %s", c.Status, status)
		c.Unearned = false
		status = result.StatusFail
	}
	c.Elapsed = max(c.Elapsed, e.Elapsed)
	f.settle(c, status)
}

// settle gives c its status.
func (f *Folder) settle(c *foldCase, status result.Status) {
	c.running, c.Status = false, status
	f.lastEnded = c
	if c.Reason == "" {
		switch status {
		case result.StatusFail:
			c.Reason = c.log
			if strings.HasPrefix(c.Name, "Example") && !c.logged {
				c.Reason = "the example's output differs from its comment"
			}
		case result.StatusSkip:
			c.Reason = c.log
			if _, text, ok := logEntry(c.log); ok {
				c.Reason = text
			}
			c.Unearned = strings.TrimSpace(c.Reason) == ""
		}
	}
	if status != result.StatusFail {
		f.total -= c.out.shrink(f.cfg.MaxPassed)
		if c.out.size() > 0 {
			f.passed = append(f.passed, c)
		}
	}
}

// note remembers line as the case's last word, should it be one.
func (c *foldCase) note(line []byte) {
	text := firstBytes(bytes.TrimSpace(line), maxReason)
	if len(text) == 0 {
		return
	}
	_, _, entry := logEntry(string(text))
	if entry || !c.logged {
		c.log, c.logged = string(text), entry
	}
}

// logEntry splits "file.go:12: text", the beginning of an entry that t.Log
// and its like print. Further lines of the entry carry no position.
func logEntry(line string) (position, text string, ok bool) {
	i := strings.Index(line, ".go:")
	if i <= 0 || strings.ContainsAny(line[:i], " \t") {
		return "", "", false
	}
	n := i + len(".go:")
	digits := 0
	for n+digits < len(line) && line[n+digits] >= '0' && line[n+digits] <= '9' {
		digits++
	}
	rest, ok := strings.CutPrefix(line[n+digits:], ":")
	if digits == 0 || !ok {
		return "", "", false
	}
	return line[:n+digits], strings.TrimSpace(rest), true
}

// Stderr returns a writer for the test binary's standard error. The runtime
// writes there what a panic was about, and nothing else is looked for. It
// takes everything and keeps a line or two. It may be written to at any time,
// by one goroutine.
func (f *Folder) Stderr() io.Writer { return &stderrWriter{f: f} }

type stderrWriter struct {
	f    *Folder
	line []byte // of the line in progress, at most maxReason bytes
}

func (w *stderrWriter) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		piece := b
		i := bytes.IndexByte(b, '\n')
		if i >= 0 {
			piece = b[:i]
		}
		w.line = append(w.line, firstBytes(piece, maxReason-len(w.line))...)
		if i < 0 {
			break
		}
		w.f.mu.Lock()
		w.f.crash.line(w.line)
		w.f.mu.Unlock()
		w.line, b = w.line[:0], b[i+1:]
	}
	return n, nil
}

// Running returns the names of the tests that have begun, have not ended and
// are not paused, in the order of their start. Those whose subtest runs are
// left out.
func (f *Folder) Running() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for _, c := range f.cases {
		if c.running && !c.paused {
			names = append(names, c.Name)
		}
	}
	return slices.DeleteFunc(names, func(name string) bool {
		return slices.ContainsFunc(names, func(other string) bool {
			return strings.HasPrefix(other, name+"/")
		})
	})
}

// Counts returns the counts of the tests that have ended.
func (f *Folder) Counts() result.Counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	var n result.Counts
	for _, c := range f.cases {
		if !c.running {
			n.Add(&c.Case)
		}
	}
	return n
}

// A Summary is what a [Folder] has gathered of one test binary.
type Summary struct {
	// Cases are the tests in the order of their start. None has an invalid
	// status.
	Cases []result.Case
	// Final is the verdict that the binary printed at its end:
	// StatusInvalid if it printed none.
	Final result.Status
	// Panic is the first line of the panic or of the runtime's fatal error
	// that ended the binary, "" if there was none.
	Panic string
	// Notes say in a line each what was odd about the events, such as tests
	// that reported two results.
	Notes []string
}

// Finish returns what was gathered. Tests that have begun and not ended have
// failed, because they "did not finish". The Folder must not be used
// afterwards.
func (f *Folder) Finish() Summary {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := Summary{Final: f.final}
	if f.final == result.StatusInvalid {
		// The line that ends a binary comes after all panics are over:
		// whatever looked like one before was only printed.
		s.Panic = f.crash.title
		f.blame()
	}
	if f.panicked != "" {
		s.Panic = f.panicked
	}
	failed := make(map[string]bool) // parents of tests that failed
	for _, c := range slices.Backward(f.cases) {
		if c.running {
			c.running, c.Status, c.Reason = false, result.StatusFail, "did not finish"
			if s.Panic != "" {
				c.Reason += ": the test binary ended with " + s.Panic
			}
		}
		if c.Status == result.StatusFail {
			if c.Reason == "" && failed[c.Name] {
				c.Reason = "a subtest failed"
			}
			if i := strings.LastIndexByte(c.Name, '/'); i > 0 {
				failed[c.Name[:i]] = true
			}
		}
	}
	for _, c := range f.cases {
		c.Output = c.out.text(f.cfg.Log)
		s.Cases = append(s.Cases, c.Case)
	}
	if f.lost > 0 {
		reason := fmt.Sprintf("%d more tests than can be remembered (%d)", f.lost, len(f.cases))
		s.Cases = append(s.Cases, result.Case{Name: "(further tests)", Status: result.StatusFail, Reason: reason})
		s.Notes = append(s.Notes, reason)
	}
	if f.ghosts > 0 {
		s.Notes = append(s.Notes, fmt.Sprintf("%d results of tests that never began", f.ghosts))
	}
	if f.conflicts > 0 {
		s.Notes = append(s.Notes, fmt.Sprintf("%d tests reported two results", f.conflicts))
	}
	return s
}

// Cut says that the binary has ended without the line that ends one, and that what
// comes is of another start of it, with other tests. Those that are running did not
// finish.
func (f *Folder) Cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	title := f.crash.title
	f.blame()
	for _, c := range f.cases {
		if c.running {
			f.settle(c, result.StatusFail)
			c.Reason = "did not finish"
			if title != "" {
				c.Reason += ": the test binary ended with " + title
			}
		}
	}
	if f.panicked == "" {
		f.panicked = title
	}
	f.crash, f.lastEnded, f.benches = crash{}, nil, nil
}

// blame says which test a panic belongs to. Package testing prints the
// panicking test's failure and then lets the panic end the program, so it is
// the one whose failure was reported last. A panic over the time limit names
// the tests itself, and they have not ended.
func (f *Folder) blame() {
	if f.crash.title == "" {
		return
	}
	for _, name := range f.crash.tests {
		if c := f.open[name]; c != nil && c.running {
			f.settle(c, result.StatusFail)
			c.Reason = "did not finish: " + f.crash.title
		}
	}
	last := f.lastEnded
	if len(f.crash.tests) > 0 || last == nil || last.Status != result.StatusFail {
		return
	}
	last.Reason = f.crash.title
	for _, c := range f.cases {
		// The failures of its parents are reported after its own.
		if c.Status == result.StatusFail && c.Reason == "" && strings.HasPrefix(c.Name, last.Name+"/") {
			c.Reason = f.crash.title
		}
	}
}

// crash finds the runtime's last words.
type crash struct {
	title string
	tests []string // running tests that the title's details name
	list  bool     // the list of running tests is being read
}

// maxListed bounds crash.tests.
const maxListed = 1000

// line looks at a line of output. The forms are those of printpanics, throw
// and fatal in Go's runtime/panic.go and of testing.(*M).startAlarm.
func (c *crash) line(line []byte) {
	line = firstBytes(line, maxReason)
	switch {
	case bytes.HasPrefix(line, []byte("panic: ")), bytes.HasPrefix(line, []byte("fatal error: ")):
		title := strings.TrimRight(string(line), "\r\n")
		title = strings.TrimSuffix(title, " [recovered, repanicked]")
		*c = crash{title: strings.TrimSuffix(title, " [recovered]")}
	case c.title == "":
	case string(bytes.TrimSpace(line)) == "running tests:":
		c.list = len(c.tests) == 0
	case c.list && bytes.HasPrefix(line, []byte{'\t'}):
		name, _, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		if len(c.tests) < maxListed {
			c.tests = append(c.tests, name)
		}
	default:
		c.list = false
	}
}

// output keeps the beginning and the end of what is written to it.
type output struct {
	max        int
	head, tail []byte
	left       int64 // bytes left out between head and tail
}

// write adds b and returns by how much it grew.
func (o *output) write(b []byte) int {
	before := o.size()
	if o.left == 0 && len(o.tail) == 0 {
		piece := firstBytes(b, o.max/2-len(o.head))
		o.head = append(o.head, piece...)
		b = b[len(piece):]
	}
	o.tail = append(o.tail, b...)
	// Cutting only at twice the size makes the cost of it constant per byte.
	if keep := o.max / 2; len(o.tail) > 2*keep {
		o.cut(keep)
	}
	return o.size() - before
}

// cut shortens the tail to at most keep bytes.
func (o *output) cut(keep int) {
	if n := len(o.tail) - keep; n > 0 {
		o.left += int64(n)
		o.tail = append([]byte(nil), o.tail[n:]...)
	}
}

// shrink lowers the limit to limit and returns by how much that shrank what
// is kept.
func (o *output) shrink(limit int) int {
	if limit >= o.max {
		return 0
	}
	before := o.size()
	o.max = limit
	if half := limit / 2; before > limit && len(o.head) > half {
		excess := o.head[half:]
		if o.left == 0 {
			o.tail = append(append([]byte(nil), excess...), o.tail...)
		} else {
			o.left += int64(len(excess))
		}
		o.head = append([]byte(nil), o.head[:half]...)
	}
	if before > limit {
		o.cut(limit / 2)
	}
	return before - o.size()
}

// drop gives everything up and returns how much that was.
func (o *output) drop() int {
	n := o.size()
	o.left += int64(n)
	o.head, o.tail, o.max = nil, nil, 0
	return n
}

func (o *output) size() int { return len(o.head) + len(o.tail) }

// text returns what was kept, with a mark where bytes were left out, which names
// the file that has them, unless that is "".
func (o *output) text(log string) string {
	tail := o.tail
	left := o.left
	if keep := o.max / 2; len(tail) > keep {
		left += int64(len(tail) - keep)
		tail = tail[len(tail)-keep:]
	}
	if left == 0 {
		return string(o.head) + string(tail)
	}
	sep := ""
	if len(o.head) > 0 && o.head[len(o.head)-1] != '\n' {
		sep = "\n"
	}
	where := ""
	if log != "" {
		where = "; all of them: " + log
	}
	return fmt.Sprintf("%s%s[... %d bytes left out%s ...]\n%s", o.head, sep, left, where, tail)
}

// firstBytes returns the first n bytes of b, all of them if there are fewer,
// none if n is negative.
func firstBytes(b []byte, n int) []byte { return b[:min(max(n, 0), len(b))] }
