// SPDX-License-Identifier: Apache-2.0

package suiterun

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/kvmrun/kvmrun/internal/gotest"
	"github.com/kvmrun/kvmrun/internal/klog"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/vmtest"
)

// A kernel that has printed a splat cannot be trusted any more, one that has
// panicked or hangs is gone. The rest of the suite goes on in a fresh VM, and its output
// is joined so that it reads, and parses, as that of one run: each test is
// begun once and ends once.

const (
	// maxVMs bounds how many VMs one suite may use up, and maxHangs how many of
	// them may hang: each takes all of its time.
	maxVMs   = 25
	maxHangs = 3
)

func poisonedExit(code int) bool { return code == wire.ExitPoisoned || code == wire.ExitPoisonedWell }

// untested says why a suite without a failure tested nothing, "" if it did.
func untested(args gotest.Args, cases []result.Case) string {
	above := map[string]bool{} // has subtests that ran and were not all skipped: true, or were: false
	skips, matches := 0, false
	for _, c := range slices.Backward(cases) {
		some, parent := above[c.Name]
		tested := c.Status != result.StatusSkip && (!parent || some)
		if args.Selects(c.Name) {
			if matches = true; tested {
				return ""
			}
		}
		if c.Status == result.StatusSkip {
			skips++
		}
		if i := strings.LastIndexByte(c.Name, '/'); i > 0 {
			above[c.Name[:i]] = above[c.Name[:i]] || tested
		}
	}
	switch {
	case len(cases) == 0:
		return ""
	case !matches:
		return "no subtest matches -run " + visible.Short(args.Flag("test.run"))
	case skips == 1:
		return "1 test skipped"
	}
	return fmt.Sprintf("%d tests skipped", skips)
}

// missing is a test without a result of its own, and why.
type missing struct{ test, why string }

// stream joins the output of a suite's VMs. It passes on everything at once but
// two kinds of line, whose meaning depends on what follows: "=== RUN" of a test
// that a poisoned VM leaves to the next one, and the final "PASS" of a run in
// which an earlier VM failed.
type stream struct {
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
	// start is what of the current line was held back while it may still
	// become one of those; line says that the current line is none of them.
	held []byte
	pass bool // the rest of the current line passes
	// end of the current line, and the line with which the VM's test binary ended:
	// "PASS", "FAIL", "" if there is none so far.
	tail  []byte
	final string
	err   error
}

var heldLines = []string{runLine, "PASS\n"}

// newStream returns a stream to w for a binary run with args.
func newStream(w io.Writer, args gotest.Args) *stream {
	if w == nil {
		w = io.Discard
	}
	s := &stream{w: w, lines: heldLines, begun: map[string]bool{}, shown: map[string]bool{}, told: map[string]bool{}, again: map[string]bool{}}
	s.verbose, s.mark = args.Verbose()
	return s
}

// candidate says whether line may be, or become, one that is held back.
func (s *stream) candidate(line []byte) bool {
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

// began tells the stream that a test has begun. It does not wait for a stream
// that is busy.
func (s *stream) began(test string) {
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
func (s *stream) begins() string {
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
func (s *stream) sure() bool {
	name := s.begins()
	return name != "" && (s.begun[name] || strings.Contains(name, "/"))
}

// said says whether the line held back is the beginning of a test that an
// earlier VM began and could not tell the end of.
func (s *stream) said() bool {
	name := s.begins()
	top, _, _ := strings.Cut(name, "/")
	return s.again[top] && s.shown[name]
}

// Write implements io.Writer; its error is that of the underlying writer.
func (s *stream) Write(p []byte) (int, error) {
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
		case !s.candidate(s.held) || len(s.held) > klog.MaxLine:
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

func (s *stream) put(b []byte) {
	for rest := b; len(rest) > 0; {
		part, after, ends := bytes.Cut(rest, []byte("\n"))
		s.line = append(s.line, part[:min(len(part), klog.MaxLine-len(s.line))]...)
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
			if name, ok := strings.CutPrefix(string(s.line), s.mark+runLine); ok && len(s.shown) < klog.MaxMarks {
				s.shown[name] = true
			}
			if name := s.ends(string(s.line)); name != "" && len(s.told) < klog.MaxMarks {
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
func (s *stream) ends(line string) string {
	begin := s.mark + "--- "
	_, result, _ := strings.Cut(line[max(0, strings.LastIndex(line, begin)):], begin)
	status, rest, _ := strings.Cut(result, ": ")
	name, took, ok := strings.Cut(rest, " (")
	if !ok || !strings.HasSuffix(took, "s)") || strings.Contains(name, "/") || !slices.Contains([]string{"PASS", "FAIL", "SKIP"}, status) {
		return ""
	}
	return name
}

// untold returns the tests that ended in a VM without a word of how: each says
// so, or, unless -v is given, each that failed does.
func (s *stream) untold(out *runner.Outcome) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	said := out.Failed
	if s.verbose {
		said = out.Ended
	}
	var lost []string
	for _, t := range said {
		if !s.told[t] {
			lost = append(lost, t)
		}
	}
	return lost
}

// heard says whether a test's result was told.
func (s *stream) heard(test string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told[test]
}

// repeat tells the stream that the tests may run again.
func (s *stream) repeat(tests []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range tests {
		s.again[t] = true
	}
}

func (s *stream) flush() {
	s.put(s.held)
	s.held = s.held[:0]
}

// end ends the output of one VM: poisoned drops the beginning of a test that
// the next VM runs, failed turns a final PASS into FAIL. It returns the word with
// which the test binary had ended, "" if it had not said any.
func (s *stream) end(poisoned, failed bool) (final string) {
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

// fail says, as package testing would have, that a test failed: one that was
// running, or one that never will. That it had begun may have died with its VM.
func (s *stream) fail(test, why, text string) {
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

// say adds a line of the host's own.
func (s *stream) say(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put([]byte(line + "\n"))
}

// relayed is what is known of a job's VMs so far.
type relayed struct {
	done  []string // tests that have had their verdict
	hangs int
	// bad is whether one of the VMs before failed the run.
	bad bool
	// timedOut says that the last VM's test binary ended because of its own time
	// limit.
	timedOut bool
	gaps
}

// gaps are the tests of a suite that began and did not end, and those that were
// selected and did not begin, with the reasons. Tested says that one ended that tested
// something.
type gaps struct {
	unended, unrun []missing
	tested         bool
}

// exitOf says how the test binary ended.
func exitOf(e *wire.Exited) string {
	if e.Signal != 0 {
		return fmt.Sprintf("signal %d", e.Signal)
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

// ending is how a VM of a suite ended, as far as that decides what follows.
type ending struct {
	// ours says that the guest is to blame for it, and neither this host nor the user.
	ours bool
	// poisoned is when the test binary ended itself, because the kernel had failed.
	poisoned bool
	// hung is when the VM was given up, lost when it ended itself, and cut when only
	// the test binary ended before it had come to its end.
	hung, lost, cut bool
}

func endingOf(out *runner.Outcome) (e ending) {
	e.ours = out.Infra == nil && out.GuestFault == "" && out.Ready != nil && out.Exit.Cause != vmtest.Cancelled
	e.poisoned = out.Exited != nil && poisonedExit(out.Exited.Code) && out.EndMarker
	e.hung = e.ours && out.Exited == nil && (out.Deadline != "" || out.Hung != "")
	e.lost = e.ours && out.Exited == nil && !e.hung && out.Exit.Cause != vmtest.Killed
	return e
}

// after ends a VM's output and decides what follows it: the tests that the next
// one has to run, or none. Whatever kept a test from its verdict, it gets one
// here.
func (j *SuiteJob) after(s *stream, out *runner.Outcome, r *relayed, last bool) (more []string) {
	e := endingOf(out)
	r.bad = r.bad || e.hung || e.lost || out.Exited != nil && out.Exited.Code == wire.ExitPoisoned ||
		slices.ContainsFunc(out.Splats, func(s klog.Splat) bool { return !s.Excused() })
	r.tested = r.tested || slices.ContainsFunc(out.Ended, func(t string) bool { return !slices.Contains(out.Skipped, t) })
	final := s.end(e.poisoned, r.bad && out.Exited != nil)
	if e.cut = e.ours && j.cutShort(out, final, r.done); e.cut {
		r.bad = true
		if j.onCut != nil {
			j.onCut()
		}
	}
	var untold []string
	if e.hung || e.lost {
		untold = failUntold(s, out)
		s.repeat(untold)
	}
	for _, t := range out.Ended {
		if !slices.Contains(untold, t) {
			r.done = append(r.done, t)
		}
	}
	if e.hung || e.cut && r.timedOut {
		r.hangs++
	}
	if e.hung || e.lost || e.cut {
		why, text := e.why(out, r.timedOut)
		for _, t := range out.Running {
			s.fail(t, why, text)
			text = "" // once is enough
			r.done = append(r.done, t)
			r.unended = append(r.unended, missing{t, why})
		}
	}
	if !e.poisoned && !e.lost && !e.hung && !e.cut {
		return nil
	}
	more = j.Args.Remaining(j.Suite.Tests, r.done)
	if e.cut && len(out.Running)+len(more) == 0 { // in no test that has a name
		s.say("kvmrun: the test binary ended without a final PASS: " + exitOf(out.Exited))
	}
	stop := j.stop(e, out, r, more, last)
	if stop == "" {
		return more
	}
	if len(j.Suite.Tests) == 0 { // nobody knows what was selected
		more = untold
	}
	j.giveUp(s, r, more, untold, stop)
	return nil
}

// failUntold fails the tests whose failure may not have left a VM that is gone, and
// returns those of which nobody knows how they ended: they have no verdict yet. One
// that failed has, which running it again must not turn.
func failUntold(s *stream, out *runner.Outcome) (untold []string) {
	for _, t := range s.untold(out) {
		if slices.Contains(out.Failed, t) {
			s.fail(t, "it failed, and the VM ended before what it said had left it", "")
			continue
		}
		untold = append(untold, t)
	}
	return untold
}

// why is what ended the tests that were running, and a text that shows it.
func (e ending) why(out *runner.Outcome, timedOut bool) (why, text string) {
	switch {
	case e.hung:
		return "the VM was given up during this test: " + out.Deadline + out.Hung, ""
	case e.lost:
		for _, sp := range out.Splats {
			if sp.Test != "" || sp.Panicked {
				return "the kernel died during this test: " + sp.Title, string(sp.Raw)
			}
		}
		return "the VM ended during this test: " + out.Exit.String(), ""
	case timedOut:
		return "the test binary ran out of its time during this test", ""
	}
	return "the test binary ended during this test: " + exitOf(out.Exited), ""
}

// oneVM says whether all tests are kept in one VM.
func (j *SuiteJob) oneVM() bool {
	return j.KeepGoing || !j.Args.Resumable() || len(j.Suite.Tests) == 0
}

// stop says why no further VM runs the tests that are left, "" if one does.
func (j *SuiteJob) stop(e ending, out *runner.Outcome, r *relayed, more []string, last bool) string {
	switch {
	case len(more) == 0 && len(j.Suite.Tests) > 0:
	case j.oneVM():
		return "the run ended before, and its arguments keep all tests in one VM"
	case !e.poisoned && len(out.Running) == 0 && (!e.cut || len(out.Ended) == 0): // starting again would not help
		if e.cut {
			return "the test binary ended outside all tests: " + exitOf(out.Exited)
		}
		return "the VM ended outside all tests"
	case e.hung && j.NoLimit && out.Deadline != "":
		return "the time was used up before"
	case r.hangs == maxHangs:
		return fmt.Sprintf("%d VMs hung before", maxHangs)
	case last:
		return fmt.Sprintf("%d VMs ended with a kernel splat or without a word before", maxVMs)
	}
	return ""
}

// giveUp fails the tests that no VM will run, and those that ran and whose result
// nobody knows.
func (j *SuiteJob) giveUp(s *stream, r *relayed, tests, untold []string, stop string) {
	const gone = "the VM ended before this test's result had left it"
	for _, t := range tests {
		switch {
		case !slices.Contains(untold, t):
			s.fail(t, "not run: "+stop, "")
			r.unrun = append(r.unrun, missing{t, stop})
		case j.oneVM():
			s.fail(t, gone, "")
		default:
			s.fail(t, gone+", and it was not run again: "+stop, "")
		}
	}
	r.done, r.bad = append(r.done, tests...), true
}

// cutShort says whether the test binary ended without having come to its end: a
// test was still running, or there is no final PASS or FAIL, or it said that all is
// well and there are tests without a result. With Raw, a status other than 0 is left
// to speak for itself, as go test does.
func (j *SuiteJob) cutShort(out *runner.Outcome, final string, done []string) bool {
	e := out.Exited
	if e == nil || !out.EndMarker || poisonedExit(e.Code) || e.Err != "" {
		return false
	}
	well := e.Code == 0 && e.Signal == 0
	if j.Raw != nil && !well {
		return false
	}
	return len(out.Running) > 0 || final == "" ||
		well && (final != "PASS" || len(out.Failed) > 0 || len(j.Args.Remaining(j.Suite.Tests, slices.Concat(done, out.Ended))) > 0)
}
