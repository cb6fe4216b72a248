// SPDX-License-Identifier: Apache-2.0

package klog

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/kvmrun/kvmrun/internal/ktap"
	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/wire"
)

const (
	// MaxLine bounds what of a console line is looked at for marks, in bytes.
	// Marks are far shorter; printk's own limit is 1024 (PRINTKRB_RECORD_MAX,
	// kernel/printk/internal.h).
	MaxLine = 4096
	// tailLines is how many of the last lines are kept for error messages.
	tailLines = 40
	// maxSplats bounds how many reports of one VM are kept; a kernel that
	// prints more has said enough.
	maxSplats = 200
	// MaxMarks bounds how many test marks are remembered for attribution.
	MaxMarks = 8192
)

// startsInit is what the kernel says when it has booted (init/main.c,
// run_init_process).
const startsInit = "Run /init as init process"

// Log reads the kernel log of one VM as it comes: it feeds the splat scanner, finds
// the agent's marks and keeps the last lines. Write is called by one
// goroutine, the getters by any.
type Log struct {
	scanner *oops.Scanner
	// results reads what tests in the kernel say.
	results *ktap.Parser

	// tests is what the marks of this run's test binary carry, "" for a program
	// that is none: there are no marks of tests then.
	tests string
	// nonce is this run's, which only the agent has.
	nonce string

	mu     sync.Mutex
	offset int64
	line   []byte
	tail   []string
	// fatal are the agent's last words under this run's nonce. early are such
	// without one, which count only before there was a job.
	fatal, early string
	lost         int      // messages that the console says it dropped
	lostEarly    int      // those of them before init was started
	acks         []string // see wire.AckMark
	reports      []*oops.Report
	dropped      int // reports over maxSplats
	marks        []mark
	copied       []mark // those that the agent has read, when the console has lost some
	tally        tally  // of all marks
	expects      []expectation
	init         int64             // where the kernel says that it starts init; 0 before that, negative: before the log
	onTest       func(test string) // see Tell
	end          string            // what the end mark looks like, "" before it is known
	ended        chan struct{}
	err          error // of the scanner
	// autopsy is where the log's part begins that the host provoked itself,
	// negative before there is one: its reports are no findings. post keeps
	// what came since, bounded.
	autopsy int64
	post    []byte
}

// maxPost bounds what is kept of an autopsy's kernel log, in bytes.
const maxPost = 1 << 20

// progress is what the marks say of a top-level test. It is kept apart from them,
// which are bounded: with -count they are many more than there are tests.
type progress struct {
	test                            string
	running, ended, failed, skipped bool
}

// tally is the progress of tests in the order of their beginnings.
type tally struct {
	tests []*progress
	named map[string]*progress
}

// note takes a mark into account.
func (l *tally) note(test string, at wire.TestMoment) {
	p := l.named[test]
	if p == nil {
		if len(l.tests) == MaxMarks {
			return
		}
		p = &progress{test: test}
		if l.named == nil {
			l.named = map[string]*progress{}
		}
		l.tests, l.named[test] = append(l.tests, p), p
	}
	p.running = at == wire.TestBegins
	p.ended = p.ended || at != wire.TestBegins
	p.failed = p.failed || at == wire.TestFails
	p.skipped = at == wire.TestSkips
}

// Progress returns the top-level tests that ended, those of them that failed
// and those that tested nothing, and those that began and did not end, by the
// marks in the kernel log; of the last, the one that began last comes first.
func (c *Log) Progress() (ended, failed, skipped, running []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.tally
	if c.copied != nil {
		all = tally{}
		for _, m := range c.copied {
			all.note(m.test, m.at)
		}
	}
	for _, p := range all.tests {
		for _, l := range []struct {
			is   bool
			list *[]string
		}{{p.ended && !p.running, &ended}, {p.failed, &failed}, {p.skipped, &skipped}, {p.running, &running}} {
			if l.is {
				*l.list = append(*l.list, p.test)
			}
		}
	}
	slices.Reverse(running)
	return ended, failed, skipped, running
}

// mark is a test's begin or end in the kernel log.
type mark struct {
	offset int64
	test   string
	at     wire.TestMoment
	taint  uint64 // the kernel's at that moment
}

// expectation is what a test said at offset that it would provoke.
type expectation struct {
	offset      int64
	test, title string
}

// New makes a log in which the agent's words count that carry this run's nonce.
func New(nonce string) *Log {
	c := &Log{nonce: nonce, end: wire.EndMark(nonce), ended: make(chan struct{}), autopsy: -1, results: ktap.NewParser(ktap.Config{Kernel: true})}
	c.scanner = oops.NewScanner(func(r *oops.Report) {
		if c.autopsy >= 0 && r.Start >= c.autopsy {
			return
		}
		if len(c.reports) == maxSplats {
			c.dropped++
			return
		}
		c.reports = append(c.reports, r)
	})
	c.scanner.Own = true
	return c
}

// Write implements io.Writer. It never fails: what goes wrong is kept for the
// verdict, because the log must go on being drained.
func (c *Log) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.scanner.Write(p); err != nil && c.err == nil {
		c.err = err
	}
	if c.autopsy < 0 {
		_, _ = c.results.Write(p) // never fails
	}
	if room := maxPost - len(c.post); c.autopsy >= 0 && room > 0 {
		c.post = append(c.post, p[:min(room, len(p))]...)
	}
	rest := p
	for len(rest) > 0 {
		i := bytes.IndexByte(rest, '\n')
		part := rest
		if i >= 0 {
			part = rest[:i]
		}
		if room := MaxLine - len(c.line); room > 0 {
			c.line = append(c.line, part[:min(room, len(part))]...)
		}
		if i < 0 {
			c.offset += int64(len(rest))
			break
		}
		c.offset += int64(i + 1)
		rest = rest[i+1:]
		c.endLine()
	}
	return len(p), nil
}

func (c *Log) endLine() {
	line := strings.TrimRight(string(c.line), "\r")
	c.line = c.line[:0]
	c.tail = append(c.tail, line)
	if len(c.tail) > tailLines {
		c.tail = append(c.tail[:0], c.tail[len(c.tail)-tailLines:]...)
	}
	if c.init == 0 && strings.Contains(line, startsInit) {
		c.init = c.offset
	}
	if n, ok := droppedMessages(line); ok {
		if c.lost += n; c.init == 0 {
			c.lostEarly += n
		}
	}
	i := strings.Index(line, "kvmrun: ")
	if i < 0 {
		return
	}
	say := line[i:]
	ack, isAck := wire.ParseAckMark(c.tests, say)
	switch {
	case strings.HasPrefix(say, wire.FatalMark):
		if why, ok := strings.CutPrefix(say, wire.Fatal(c.nonce, "")); ok {
			c.fatal = why
			break
		}
		c.early = strings.TrimPrefix(say, wire.FatalMark)
	case say == wire.AckVoid(c.tests):
		c.acks = nil
	case isAck:
		if len(c.acks) < wire.MaxAcks && len(ack) <= wire.MaxAck && !strings.Contains(ack, "\x00") {
			c.acks = append(c.acks, ack)
		}
	case say == c.end:
		select {
		case <-c.ended:
		default:
			close(c.ended)
		}
	default:
		if test, at, taint, ok := wire.ParseTestMark(c.tests, say); ok {
			c.tally.note(test, at)
			if len(c.marks) < MaxMarks {
				c.marks = append(c.marks, mark{offset: c.offset, test: test, at: at, taint: taint})
			}
			if at == wire.TestBegins && c.onTest != nil {
				c.onTest(test)
			}
		}
		if test, title, ok := wire.ParseExpectMark(c.tests, say); ok && len(c.expects) < MaxMarks {
			c.expects = append(c.expects, expectation{offset: c.offset, test: test, title: title})
		}
	}
}

// droppedMessages returns how many messages a line says were dropped: a console
// that is slower than what the kernel says, with the kernel's buffer full
// (kernel/printk/printk.c: console_prepend_dropped). It has no time stamp.
func droppedMessages(line string) (n int, ok bool) {
	rest, ok := strings.CutPrefix(line, "** ")
	if !ok {
		return 0, false
	}
	number, _, ok := strings.Cut(rest, " printk messages dropped **")
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(number)
	return n, err == nil && n > 0
}

// Tell names who is told that a test has begun, which must not block, and what the
// test binary's marks carry. To be called before the program begins.
func (c *Log) Tell(tests string, onTest func(test string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tests, c.onTest = tests, onTest
}

// BeginAutopsy marks the point from which on the kernel talks because the host
// asked it to.
func (c *Log) BeginAutopsy() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.autopsy = c.offset + int64(len(c.line))
}

// PostMortem returns what the kernel has said since BeginAutopsy.
func (c *Log) PostMortem() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.post)
}

// Close ends the log: pending reports are finished, the last line looked at.
func (c *Log) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.line) > 0 {
		c.endLine()
	}
	if err := c.scanner.Close(); err != nil && c.err == nil {
		c.err = err
	}
}

// LastWords returns the end of the log for an error message.
func (c *Log) LastWords() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := append([]string{}, c.tail...)
	if len(c.line) > 0 {
		out = append(out, string(c.line))
	}
	return out
}

// testsAt returns the tests running when the log was offset bytes long, the
// one that began last first.
func (c *Log) testsAt(offset int64) []string { return testsAt(c.marks, offset) }

func testsAt(marks []mark, offset int64) []string {
	var running []string
	for _, m := range marks {
		if m.offset > offset {
			break
		}
		if m.at == wire.TestBegins {
			running = append([]string{m.test}, running...)
			continue
		}
		for i, r := range running {
			if r == m.test {
				running = append(running[:i:i], running[i+1:]...)
				break
			}
		}
	}
	return running
}

// Splat is a report and what is known of where it belongs.
type Splat struct {
	*oops.Report
	Test     string // the test it fell into, "" outside all tests
	Phase    string // when it came, if in no test
	Log      string // the name of the file it is in
	Expected bool   // the test had said that it would come
	Allowed  string // why it is tolerated all the same
}

// Excused says whether the splat fails nothing.
func (s Splat) Excused() bool { return s.Expected || s.Allowed != "" }

// Announced says whether a test had announced the splat before it came.
func (c *Log) Announced(s Splat) bool {
	for _, e := range c.expects {
		mine := e.test == s.Test || strings.HasPrefix(e.test, s.Test+"/")
		if s.Test != "" && mine && e.offset <= s.Start && s.Titled(e.title) {
			return true
		}
	}
	return false
}

// Splats returns the attributed reports, without a file. To be called after Close.
func (c *Log) Splats() []Splat {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Splat
	for _, r := range c.reports {
		s := Splat{Report: r}
		if t := c.testsAt(r.Start); len(t) > 0 {
			s.Test = t[0]
		}
		if s.Test == "" {
			s.Phase = c.phase(r.Start)
		}
		s.Expected = c.Announced(s)
		out = append(out, s)
	}
	return out
}

// phase names the part of the VM's life when the log was offset bytes long and
// no test ran.
func (c *Log) phase(offset int64) string {
	before := slices.IndexFunc(c.marks, func(m mark) bool { return m.offset > offset })
	switch {
	case c.init == 0 || offset < c.init:
		return "boot"
	case len(c.marks) == 0 || before == 0:
		return "setup"
	case before < 0:
		return "shutdown"
	}
	return "between tests"
}

// Results are what tests in the kernel say, as KUnit writes it. To be called once,
// after Close.
func (c *Log) Results() *ktap.Doc {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.results.Finish()
}

// Problem says why reports may be missing that the log had, "" if none are.
func (c *Log) Problem() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return c.err.Error()
	case c.dropped > 0:
		return fmt.Sprintf("%d kernel reports beyond the first %d were dropped", c.dropped, maxSplats)
	}
	return ""
}

// Resumed says that the machine has booted before this log begins. To be called
// before Write.
func (c *Log) Resumed() { c.init = -1 }

// Ended is closed when the agent's end mark has come.
func (c *Log) Ended() <-chan struct{} { return c.ended }

// Fatal are the agent's last words under this run's nonce, Early those without one,
// which count only before there was a job. Each is "" if there are none.
func (c *Log) Fatal() (fatal, early string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fatal, c.early
}

// Acks is what the program has acknowledged, see wire.AckMark.
func (c *Log) Acks() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.acks)
}
