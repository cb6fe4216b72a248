// SPDX-License-Identifier: Apache-2.0

package ktap

import (
	"fmt"
	"strings"
)

// A Doc is a TAP document or a group of subtests.
type Doc struct {
	// Version is the version line's content, such as "TAP 14" or "KTAP 1".
	// Empty if there was none.
	Version string
	// Planned is the number of tests that the plan promises. It is the sum
	// of all plans if there are several documents in a row, and -1 without a
	// plan.
	Planned int
	// SkipAll is why a plan of no tests ("1..0 # SKIP reason") skips
	// everything; "skipped" if it does not say why.
	SkipAll string
	// Tests are the results in the order of their appearance.
	Tests []*Test
	// Missing is how many tests were planned, or skipped over by the
	// numbering, and have no result. They are failures without a name.
	Missing int
	// Bailed is whether "Bail out!" was printed; BailOut says why.
	Bailed  bool
	BailOut string
	// Totals is the last "# Totals:" line's content, as kselftest.h prints
	// it. Nil if there was none.
	Totals *Totals
	// Problems are defects that make the document fail, a line each.
	Problems []string
	// Notes are oddities that do not.
	Notes []string
	// Output is what was printed after the last result, bounded.
	Output string
	// Refused is not nil if the input holds results in a form that is not
	// counted. Nothing else is in the document then but what the kernel said.
	Refused *Refusal
}

// A Refusal says why results are not counted.
type Refusal struct {
	// Format names the form, such as "LTP's kirk".
	Format string
	// Line is the first line that says so, and Advice what to do about it.
	Line, Advice string
	// Failed is whether it says of a test that it failed.
	Failed bool
}

// String returns the refusal in one line.
func (r *Refusal) String() string {
	return fmt.Sprintf("%s is not counted (%s); its line: %s", r.Format, r.Advice, r.Line)
}

// A Test is one result line and what belongs to it.
type Test struct {
	// Number is the result's number, 0 if it has none.
	Number int
	// Name is the description without the leading dash. It may be empty, see
	// [Test.Label].
	Name string
	// OK is whether the line said "ok". Use [Test.Status] to learn what it
	// means together with the directive.
	OK bool
	// Directive is the word after "#", and Reason the text after that, or
	// after the "#" if the directive is none.
	Directive Directive
	Reason    string
	// YAML is the diagnostic block below the result, without its markers and
	// indentation, bounded.
	YAML string
	// Output are the lines printed since the result before this one,
	// comments without their "# ", bounded.
	Output string
	// Sub is the group of subtests whose result this is. Nil if there are
	// none.
	Sub *Doc
}

// A Directive modifies the meaning of a result.
type Directive uint8

// The directives. Skip and Todo are TAP's, the others are of KTAP and
// kselftest.h.
const (
	None Directive = iota
	Skip
	Todo
	XFail
	XPass
	Timeout
	Error
)

var directiveNames = [...]string{"", "SKIP", "TODO", "XFAIL", "XPASS", "TIMEOUT", "ERROR"}

// String returns the directive as it is written, "" for None.
func (d Directive) String() string {
	if int(d) >= len(directiveNames) {
		return ""
	}
	return directiveNames[d]
}

// A Status is what a result means.
type Status uint8

// The statuses.
const (
	// StatusFail: the test failed. It is the zero value.
	StatusFail Status = iota
	// StatusPass: the test passed.
	StatusPass
	// StatusSkip: the test did not run.
	StatusSkip
	// StatusXFail: the test failed, or may have, and was expected to.
	StatusXFail
)

// String returns "fail", "pass", "skip" or "xfail".
func (s Status) String() string {
	switch s {
	case StatusPass:
		return "pass"
	case StatusSkip:
		return "skip"
	case StatusXFail:
		return "xfail"
	}
	return "fail"
}

// Status returns what the test's own result line means, whatever is below it.
func (t *Test) Status() Status {
	switch t.Directive {
	case Skip:
		// "not ok # SKIP" is how kselftest's runner wrote it before Linux 5.2.
		return StatusSkip
	case XFail:
		return StatusXFail
	case Todo:
		if !t.OK {
			return StatusXFail
		}
	case XPass, Timeout, Error:
		// An unexpected pass fails in kselftest.h's ksft_finished.
		return StatusFail
	}
	if t.OK {
		return StatusPass
	}
	return StatusFail
}

// Label returns the name of the test, or what stands in for it: kselftest.h
// prints some results as "ok 3 # SKIP name".
func (t *Test) Label() string {
	if t.Name != "" {
		return t.Name
	}
	return t.Reason
}

// Why says in one line why the test did not pass: its reason, or else what is
// wrong below it, or else the message in its diagnostics, or else the first line
// of its output that is not framing.
func (t *Test) Why() string {
	if t.Reason != "" && (t.Directive != None || !strings.HasPrefix(t.Reason, "time=")) || t.Status() == StatusPass {
		return t.Reason
	}
	if t.Sub != nil && len(t.Sub.Problems) > 0 {
		return t.Sub.Problems[0]
	}
	if t.Sub != nil && t.Sub.Failed() {
		return "a subtest failed"
	}
	if m := message(t.YAML); m != "" {
		return m
	}
	for line := range strings.Lines(t.Output) {
		if line = strings.Trim(line, " \t\n#"); line != "" && line != t.Name && !isFraming(line) {
			return line
		}
	}
	return ""
}

// message returns the first line of a diagnostic block's "message" or "error", by
// which TAP's producers say what went wrong.
func message(yaml string) string {
	open := false
	for line := range strings.Lines(yaml) {
		line = strings.TrimSpace(line)
		if open && line != "" && !strings.HasPrefix(line, "name:") && !strings.HasPrefix(line, "message:") {
			return line
		}
		for _, key := range []string{"message:", "error:"} {
			if v, ok := strings.CutPrefix(line, key); ok {
				v = strings.Trim(strings.TrimSpace(v), `"'`)
				if v != "" && !strings.HasPrefix(v, "|") && !strings.HasPrefix(v, ">") {
					return v
				}
				open = true
			}
		}
	}
	return ""
}

// isFraming reports whether line is one of those with which kselftest_harness.h or
// GLib's g_test accompanies a result, without its "#".
func isFraming(line string) bool {
	for _, word := range []string{"RUN ", "OK ", "FAIL ", "Starting ", "Start of ", "End of "} {
		if strings.HasPrefix(line, word) {
			return true
		}
	}
	return false
}

// Counts are the numbers of tests by outcome.
type Counts struct {
	Pass, Fail, Skip, XFail int
	// Missing counts the planned tests without a result; they are not part
	// of Fail.
	Missing int
}

// Total returns the number of all tests.
func (c Counts) Total() int { return c.Pass + c.Fail + c.Skip + c.XFail + c.Missing }

// Count counts the tests that have no subtests, at all levels. A test with
// subtests counts only if it failed and nothing below it says why.
func (d *Doc) Count() Counts {
	var c Counts
	d.count(&c)
	return c
}

func (d *Doc) count(c *Counts) {
	c.Missing += d.Missing
	for _, t := range d.Tests {
		s := t.Status()
		if t.Sub != nil && len(t.Sub.Tests)+t.Sub.Missing > 0 {
			before := c.Fail + c.Missing
			if s == StatusXFail {
				// What may fail below it, may.
				var below Counts
				t.Sub.count(&below)
				c.Pass, c.Skip, c.XFail = c.Pass+below.Pass, c.Skip+below.Skip, c.XFail+below.XFail+below.Fail+below.Missing
				continue
			}
			t.Sub.count(c)
			if s != StatusFail || c.Fail+c.Missing > before {
				continue
			}
		}
		if s != StatusXFail && t.Sub != nil && t.Sub.Failed() {
			s = StatusFail // what was below it is lost
		}
		switch s {
		case StatusPass:
			c.Pass++
		case StatusSkip:
			c.Skip++
		case StatusXFail:
			c.XFail++
		default:
			c.Fail++
		}
	}
}

// Failed reports whether anything in the document is a failure. What is below
// a test that may fail (TODO, XFAIL) may fail too.
func (d *Doc) Failed() bool {
	if d.Bailed || d.Missing > 0 || len(d.Problems) > 0 || d.Refused != nil {
		return true
	}
	for _, t := range d.Tests {
		s := t.Status()
		if s == StatusFail || s != StatusXFail && t.Sub != nil && t.Sub.Failed() {
			return true
		}
	}
	return false
}

// Failures returns how many failures to count the document for: the tests that
// failed or are missing, and one if it failed for another reason.
func (d *Doc) Failures() int {
	c := d.Count()
	if c.Fail+c.Missing == 0 && d.Failed() {
		return 1
	}
	return c.Fail + c.Missing
}

// AllProblems returns the problems of all levels, those of a group with its
// name in front, and the bail-outs.
func (d *Doc) AllProblems() []string { return d.appendProblems(nil, "") }

func (d *Doc) appendProblems(list []string, prefix string) []string {
	if d.Bailed {
		list = append(list, strings.TrimSpace(prefix+"bailed out: "+d.BailOut))
	}
	if d.Refused != nil {
		list = append(list, prefix+d.Refused.String())
	}
	for _, p := range d.Problems {
		list = append(list, prefix+p)
	}
	for _, t := range d.Tests {
		if t.Sub != nil {
			list = t.Sub.appendProblems(list, prefix+clip(t.Label())+": ")
		}
	}
	return list
}

// Empty reports whether the document says nothing about tests: what was
// parsed was not TAP.
func (d *Doc) Empty() bool {
	return d.Version == "" && d.Planned < 0 && len(d.Tests) == 0 && !d.Bailed
}

// justVersion reports whether there is nothing but a version line.
func (d *Doc) justVersion() bool { return d.Planned < 0 && len(d.Tests) == 0 && !d.Bailed }

// join appends another document, as several are read in a row.
func (d *Doc) join(o *Doc) {
	if d.Version == "" {
		d.Version = o.Version
	}
	if o.Planned >= 0 {
		d.Planned = max(d.Planned, 0) + o.Planned
	}
	if d.SkipAll == "" {
		d.SkipAll = o.SkipAll
	}
	d.Tests = append(d.Tests, o.Tests...)
	d.Missing = min(d.Missing+o.Missing, maxNumber)
	if o.Bailed && !d.Bailed {
		d.Bailed, d.BailOut = true, o.BailOut
	}
	d.Problems = append(d.Problems, o.Problems...)
	d.Notes = append(d.Notes, o.Notes...)
	d.Output += o.Output
	if o.Totals != nil {
		d.Totals = o.Totals
	}
}

// Totals are the counts that kselftest.h's ksft_print_cnts prints at the end
// of a program. They are about the result lines of one level.
type Totals struct {
	Pass, Fail, XFail, XPass, Skip, Error int
}
