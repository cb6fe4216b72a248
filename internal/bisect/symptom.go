// SPDX-License-Identifier: Apache-2.0

package bisect

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/kvmrun/kvmrun/internal/result"
)

// Symptom is what is looked for: exactly one of a failing test, a test that
// fails in a certain way, and a kernel splat. Everything else that goes wrong is
// something else.
type Symptom struct {
	// Suite and Run say which tests are run; Run is as go test -run's.
	Suite string `json:"suite"`
	Run   string `json:"run,omitempty"`
	// Output, when set, is a regular expression that the output of the failing
	// test, or the reason of its failure, must match.
	Output string `json:"output,omitempty"`
	// Splat, when set, is the title or the fingerprint of the kernel splat that
	// is looked for; a failing test without it is another bug then.
	Splat string `json:"splat,omitempty"`
}

// ErrNoSymptom is returned when neither a test nor a splat was named.
var ErrNoSymptom = errors.New("nothing says what is bad: name the test by -run, or the kernel splat by -symptom")

// Check refuses a symptom that says too little or contradicts itself.
func (s Symptom) Check() error {
	if s.Suite == "" {
		return errors.New("no suite: name by -suite what is to be run")
	}
	if s.Run == "" && s.Splat == "" {
		return ErrNoSymptom
	}
	if s.Splat != "" && s.Output != "" {
		return errors.New("-symptom and -output exclude each other: a splat is known by its title alone")
	}
	if _, err := regexp.Compile(s.Output); err != nil {
		return fmt.Errorf("bad -output: %w", err)
	}
	return nil
}

// String says in a few words what is bad.
func (s Symptom) String() string {
	what := "a test of suite " + s.Suite + " fails"
	if s.Run != "" {
		what = s.Suite + ": " + s.Run + " fails"
	}
	switch {
	case s.Splat != "":
		what = "the kernel says " + quoted(s.Splat)
		if s.Run != "" {
			what += " in " + s.Suite + ": " + s.Run
		}
	case s.Output != "":
		what += " saying " + quoted(s.Output)
	}
	return what
}

func quoted(s string) string { return "\"" + s + "\"" }

// evidenceLimit bounds what is kept of a run, in bytes.
const evidenceLimit = 8 << 10

// Judge says what a job showed of the symptom. Only Word, Reason, Evidence, Log,
// Repro, Run and Started of the observation are set.
func (s Symptom) Judge(j result.Job) Observation {
	o := Observation{Log: j.Dir, Repro: j.Repro, Run: j.Elapsed, Started: j.Started}
	o.Word, o.Reason, o.Evidence = s.judge(j)
	o.Reason = clean(strings.ReplaceAll(o.Reason, "\n", " "), 500)
	o.Evidence = clean(o.Evidence, evidenceLimit)
	return o
}

func (s Symptom) judge(j result.Job) (w Word, reason, evidence string) {
	if s.Splat != "" {
		for _, sp := range j.Splats {
			if sp.Title == s.Splat || sp.Fingerprint == s.Splat {
				return Bad, sp.Title, sp.Raw
			}
		}
	}
	if j.BootFailed {
		return BootFailed, j.Reason, splats(j)
	}
	if j.Verdict == result.VerdictInfra || j.Verdict == result.VerdictInvalid {
		return Infra, j.Reason, ""
	}
	for i := range j.Splats {
		sp := &j.Splats[i]
		if sp.Excused() {
			continue // the test wants it, or it is tolerated
		}
		hint := ""
		if s.Splat == "" {
			hint = " (to look for it, give it as -symptom)"
		}
		return Other, "kernel splat: " + sp.Title + hint, sp.Raw
	}
	if j.Verdict == result.VerdictKernelFailed || j.Verdict == result.VerdictHung || j.Verdict == result.VerdictNoEndMarker {
		return Other, j.Verdict.String() + ": " + j.Reason, strings.Join(j.Notes, "\n")
	}
	var failed, otherwise *result.Case
	output := regexp.MustCompile(s.Output) // Check compiled it
	for i := range j.Cases {
		c := &j.Cases[i]
		switch {
		case c.Status == result.StatusPass || c.Status == result.StatusSkip || c.Status == result.StatusNotRun:
		case s.Splat == "" && output.MatchString(c.Reason+"\n"+c.Output):
			failed = deeper(failed, c)
		default:
			otherwise = deeper(otherwise, c)
		}
	}
	switch {
	case failed != nil:
		return Bad, failed.Name + ": " + failed.Reason, failed.Output
	case otherwise != nil:
		return Other, otherwise.Name + " failed in another way: " + otherwise.Reason, otherwise.Output
	}
	passed := 0
	for i := range j.Cases {
		c := &j.Cases[i]
		if c.Status == result.StatusSkip && strings.Count(c.Name, "/") <= s.depth() {
			return Other, c.Name + " was skipped, which says nothing: " + c.Reason, ""
		}
		if c.Status == result.StatusNotRun {
			return Other, c.Name + " did not run: " + c.Reason, ""
		}
		if c.Status == result.StatusPass {
			passed++
		}
	}
	if passed == 0 || j.Verdict != result.VerdictPass {
		return Other, "nothing was tested: " + j.Reason, ""
	}
	return Good, j.Reason, ""
}

// depth is how many levels of subtests the expression names.
func (s Symptom) depth() int { return strings.Count(s.Run, "/") }

// deeper returns the test that says more: a subtest rather than its parent.
func deeper(have, c *result.Case) *result.Case {
	if have == nil || strings.HasPrefix(c.Name, have.Name+"/") {
		return c
	}
	return have
}

func splats(j result.Job) string {
	if len(j.Splats) == 0 {
		return strings.Join(j.Notes, "\n")
	}
	return j.Splats[0].Raw
}

// clean makes a guest's text fit to be kept and printed anywhere: printable
// characters, newlines and tabs, at most limit bytes of its beginning.
func clean(s string, limit int) string {
	cut := len(s) > limit
	if cut {
		s = s[:limit]
	}
	s = strings.Map(func(r rune) rune {
		if r == '\r' {
			return -1 // the serial console's
		}
		if r == '\n' || r == '\t' || unicode.IsGraphic(r) && r != '\u2028' && r != '\u2029' {
			return r
		}
		return '?'
	}, strings.ToValidUTF8(s, "?"))
	if cut {
		s += "..."
	}
	return strings.TrimRight(s, "\n ")
}
