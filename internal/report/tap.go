// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/kvmrun/kvmrun/internal/ktap"
	"github.com/kvmrun/kvmrun/internal/result"
)

// TAP writes run as TAP 14: a test for each job, with the job's tests as
// subtests, and theirs below them. Reasons, splats, times and the output of
// failed tests stand in YAML blocks.
func TAP(w io.Writer, run result.Run) error {
	doc := &ktap.Doc{}
	if len(run.Jobs) == 0 {
		// A document without tests would read as skipped, which is a pass.
		doc.Tests = []*ktap.Test{{Name: "nothing was run"}}
	}
	names := labels(run.Jobs)
	for i := range run.Jobs {
		doc.Tests = append(doc.Tests, jobTest(run, &run.Jobs[i], names[i]))
	}
	return ktap.Emit(w, doc)
}

func jobTest(run result.Run, j *result.Job, kernel string) *ktap.Test {
	t := &ktap.Test{
		Name: line(j.Suite) + " on " + kernel,
		OK:   !bad(run, j),
		Sub:  caseDoc(j.Cases),
	}
	y := yaml{}
	y.add("verdict", j.Verdict.String())
	y.add("reason", line(j.Reason))
	y.add("kernel", line(j.Kernel))
	y.add("accel", line(j.Accel))
	if j.BootTime > 0 {
		y.add("boot", j.BootTime.String())
	}
	if j.Elapsed > 0 {
		y.add("elapsed", j.Elapsed.String())
	}
	y.add("logs", line(j.Dir))
	y.add("again", line(j.Repro))
	for i, n := range j.Notes {
		y.add(fmt.Sprintf("note_%d", i+1), line(n))
	}
	y.splats(j.Splats)
	t.YAML = ktap.YAML(y)
	return t
}

// caseDoc returns cases as a tree: "TestX/sub" goes below "TestX".
func caseDoc(cases []result.Case) *ktap.Doc {
	if len(cases) == 0 {
		return nil
	}
	root := &ktap.Doc{}
	known := make(map[string]*ktap.Test)
	for i := range cases {
		c := &cases[i]
		parent, name := findParent(known, c.Name)
		t := caseTest(c, name)
		known[c.Name] = t
		if parent == nil {
			root.Tests = append(root.Tests, t)
			continue
		}
		if parent.Sub == nil {
			parent.Sub = &ktap.Doc{}
		}
		parent.Sub.Tests = append(parent.Sub.Tests, t)
	}
	return root
}

// findParent returns the test whose subtest name is, nil if there is none, and
// the name without the parent's.
func findParent(known map[string]*ktap.Test, name string) (*ktap.Test, string) {
	// The names of subtests may contain slashes. A guest may make up a name
	// of nothing else, so the search goes up only so far.
	const maxSlashes = 64
	i := len(name)
	for range maxSlashes {
		if i = strings.LastIndexByte(name[:i], '/'); i <= 0 {
			break
		}
		if t := known[name[:i]]; t != nil {
			return t, name[i+1:]
		}
	}
	return nil, name
}

func caseTest(c *result.Case, name string) *ktap.Test {
	t := &ktap.Test{Name: line(name), OK: !failed(c)}
	y := yaml{}
	switch {
	case c.Status == result.StatusSkip && !c.Unearned:
		t.Directive, t.Reason = ktap.Skip, reason(c)
	case c.Status == result.StatusNotRun:
		t.Reason = reason(c)
	default:
		y.add("reason", reason(c))
	}
	if c.Elapsed > 0 {
		y.add("elapsed", c.Elapsed.String())
	}
	y.splats(c.Splats)
	if failed(c) {
		y.add("output", dedent(block(c.Output)))
	}
	t.YAML = ktap.YAML(y)
	return t
}

// yaml collects the fields of a diagnostic block.
type yaml []ktap.Field

// add adds a field unless it is empty.
func (y *yaml) add(key, value string) {
	if value != "" {
		*y = append(*y, ktap.Field{Key: key, Value: value})
	}
}

func (y *yaml) splats(splats []result.Splat) {
	for i := range splats {
		s := &splats[i]
		y.add(fmt.Sprintf("splat_%d", i+1), splatTitle(s))
		if s.Repro != "" {
			y.add(fmt.Sprintf("splat_%d_again", i+1), line(s.Repro))
		}
		y.add(fmt.Sprintf("splat_%d_text", i+1), block(s.Raw))
	}
}

// FromTAP turns a parsed TAP document into cases, subtests named after their
// parents with a slash. What is wrong with a document besides its tests - a
// plan not kept, a bail-out, totals that do not add up - becomes a failed
// case, and a plan that skips everything a skipped one. An expected failure
// becomes a skip that says so.
func FromTAP(doc *ktap.Doc) []result.Case {
	return appendCases(nil, doc, "")
}

func appendCases(cases []result.Case, doc *ktap.Doc, prefix string) []result.Case {
	for i, t := range doc.Tests {
		c := result.Case{Name: prefix + t.Label(), Output: t.Output}
		if t.Label() == "" {
			c.Name = fmt.Sprintf("%stest %d", prefix, i+1)
			if t.Number > 0 {
				c.Name = fmt.Sprintf("%stest %d", prefix, t.Number)
			}
		}
		if t.YAML != "" {
			c.Output += t.YAML
		}
		switch t.Status() {
		case ktap.StatusPass:
			c.Status = result.StatusPass
		case ktap.StatusSkip:
			c.Status, c.Reason = result.StatusSkip, t.Reason
			c.Unearned = c.Reason == ""
		case ktap.StatusXFail:
			c.Status, c.Reason = result.StatusSkip, "expected to fail"
			if t.Reason != "" {
				c.Reason += ": " + t.Reason
			}
		default:
			c.Status, c.Reason = result.StatusFail, t.Why()
		}
		cases = append(cases, c)
		if t.Sub == nil {
			continue
		}
		at := len(cases)
		cases = appendCases(cases, t.Sub, c.Name+"/")
		if c.Status == result.StatusSkip {
			// Below what may fail, failures are expected as well.
			for i := at; i < len(cases); i++ {
				if failed(&cases[i]) {
					cases[i].Status, cases[i].Unearned = result.StatusSkip, false
					cases[i].Reason = "its group is " + c.Reason
				}
			}
		}
	}
	if doc.SkipAll != "" && len(doc.Tests) == 0 {
		cases = append(cases, result.Case{Name: prefix + "(all tests)", Status: result.StatusSkip, Reason: doc.SkipAll})
	}
	problems := doc.Problems
	if doc.Refused != nil {
		problems = append([]string{doc.Refused.String()}, problems...)
	}
	if len(problems) == 0 && doc.Missing > 0 {
		problems = []string{fmt.Sprintf("%d tests are missing", doc.Missing)}
	}
	if doc.Bailed {
		problems = append([]string{strings.TrimSpace("bailed out: " + doc.BailOut)}, problems...)
	}
	if len(problems) > 0 {
		cases = append(cases, result.Case{
			Name: prefix + "(plan)", Status: result.StatusFail, Reason: problems[0],
			Output: strings.Join(problems, "\n") + "\n",
		})
	}
	return cases
}
