// SPDX-License-Identifier: Apache-2.0

package suiterun

import (
	"fmt"
	"slices"
	"strings"

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
func (j *SuiteJob) after(s *gotest.Joiner, out *runner.Outcome, r *relayed, last bool) (more []string) {
	e := endingOf(out)
	r.bad = r.bad || e.hung || e.lost || out.Exited != nil && out.Exited.Code == wire.ExitPoisoned ||
		slices.ContainsFunc(out.Splats, func(s klog.Splat) bool { return !s.Excused() })
	r.tested = r.tested || slices.ContainsFunc(out.Ended, func(t string) bool { return !slices.Contains(out.Skipped, t) })
	final := s.End(e.poisoned, r.bad && out.Exited != nil)
	if e.cut = e.ours && j.cutShort(out, final, r.done); e.cut {
		r.bad = true
		if j.onCut != nil {
			j.onCut()
		}
	}
	var untold []string
	if e.hung || e.lost {
		untold = failUntold(s, out)
		s.Again(untold)
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
			s.Fail(t, why, text)
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
		s.Say("kvmrun: the test binary ended without a final PASS: " + exitOf(out.Exited))
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
func failUntold(s *gotest.Joiner, out *runner.Outcome) (untold []string) {
	for _, t := range s.Untold(out.Ended, out.Failed) {
		if slices.Contains(out.Failed, t) {
			s.Fail(t, "it failed, and the VM ended before what it said had left it", "")
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
func (j *SuiteJob) giveUp(s *gotest.Joiner, r *relayed, tests, untold []string, stop string) {
	const gone = "the VM ended before this test's result had left it"
	for _, t := range tests {
		switch {
		case !slices.Contains(untold, t):
			s.Fail(t, "not run: "+stop, "")
			r.unrun = append(r.unrun, missing{t, stop})
		case j.oneVM():
			s.Fail(t, gone, "")
		default:
			s.Fail(t, gone+", and it was not run again: "+stop, "")
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
