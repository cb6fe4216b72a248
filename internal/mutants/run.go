// SPDX-License-Identifier: Apache-2.0

package mutants

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/kvmrun/kvmrun/internal/kbuild"
	"github.com/kvmrun/kvmrun/internal/result"
)

// Config is what Run needs.
type Config struct {
	Mutants []Mutant
	// Profile is built where a mutant does not ask for one; "" is kasan,
	// because many a bug shows only there, and one tree serves all.
	Profile string
	// Build builds a kernel of the profile with the patches; paths are those of
	// [Mutant].Path.
	Build func(ctx context.Context, profile string, patches []string) (*kbuild.Artifact, error)
	// Test runs a suite on a kernel. An error is an accident of this machine;
	// what the kernel does is in the job's verdict.
	Test func(ctx context.Context, k *kbuild.Artifact, suite string) (result.Job, error)
	// Progress gets a line per step; nil is silent.
	Progress io.Writer
}

// Outcome is what became of a mutant.
type Outcome string

// The outcomes.
const (
	Killed          Outcome = "killed"
	KilledElsewhere Outcome = "noticed, but not by the test that must" // does not count
	Survived        Outcome = "SURVIVED"
	DoesNotApply    Outcome = "does not apply"
	DoesNotBuild    Outcome = "does not build"
	DoesNotBoot     Outcome = "does not boot"
	NoControl       Outcome = "no control" // the suite is not green without it
	NotRun          Outcome = "not run"    // an accident of this machine
)

// Killed says whether the outcome is the wanted one.
func (o Outcome) Killed() bool { return o == Killed }

// Row is one mutant's line of the table.
type Row struct {
	Mutant  Mutant  `json:"mutant"`
	Outcome Outcome `json:"outcome"`
	// Tests are the tests that failed, without subtests; for a kill, those that
	// the header names.
	Tests []string `json:"tests,omitempty"`
	// Symptom is what the first of them said, or the kernel while it ran.
	Symptom string `json:"symptom,omitempty"`
	// Reason says why there is no kill.
	Reason string `json:"reason,omitempty"`
	// BuildSeconds were spent on building; 0 for a kernel from the cache.
	BuildSeconds float64    `json:"buildSeconds"`
	Job          result.Job `json:"job"`
}

// Control is a run without any mutant.
type Control struct {
	Suite   string     `json:"suite"`
	Profile string     `json:"profile"`
	Green   bool       `json:"green"`
	Reason  string     `json:"reason,omitempty"`
	Job     result.Job `json:"job"`
}

// Table is the result.
type Table struct {
	Controls []Control `json:"controls"`
	Rows     []Row     `json:"rows"`
}

// Valid says whether every control was green.
func (t Table) Valid() bool {
	for _, c := range t.Controls {
		if !c.Green {
			return false
		}
	}
	return len(t.Controls) > 0
}

// Killed counts the killed mutants.
func (t Table) Killed() int {
	n := 0
	for _, r := range t.Rows {
		if r.Outcome.Killed() {
			n++
		}
	}
	return n
}

// OK says whether the table is valid and every mutant was killed: the only
// state in which a command may exit with 0.
func (t Table) OK() bool { return t.Valid() && len(t.Rows) > 0 && t.Killed() == len(t.Rows) }

// Run makes the table. Only ctx's end is returned as an error, together with
// the rows so far; everything else is a row.
func Run(ctx context.Context, c Config) (Table, error) {
	var t Table
	if c.Profile == "" {
		c.Profile = "kasan"
	}
	controls := map[[2]string]*Control{}
	for _, m := range c.Mutants {
		profile := c.profile(m)
		key := [2]string{m.Suite, profile}
		if controls[key] == nil {
			ctl := c.control(ctx, m.Suite, profile)
			if err := ctx.Err(); err != nil {
				return t, err
			}
			t.Controls = append(t.Controls, ctl)
			controls[key] = &ctl
		}
		row := Row{Mutant: m}
		if ctl := controls[key]; !ctl.Green {
			row.Outcome, row.Reason = NoControl, ctl.Reason
		} else {
			row = c.mutant(ctx, m, profile)
		}
		if err := ctx.Err(); err != nil {
			return t, err
		}
		t.Rows = append(t.Rows, row)
		c.say("%s: %s", m.ID, row.Outcome)
	}
	return t, nil
}

func (c Config) profile(m Mutant) string {
	if m.Profile != "" {
		return m.Profile
	}
	return c.Profile
}

func (c Config) say(format string, a ...any) {
	if c.Progress != nil {
		fmt.Fprintf(c.Progress, format+"\n", a...)
	}
}

// control runs a suite on the kernel as it is.
func (c Config) control(ctx context.Context, suite, profile string) Control {
	ctl := Control{Suite: suite, Profile: profile}
	c.say("control: %s on an unchanged kernel, profile %s", suite, profile)
	k, err := c.Build(ctx, profile, nil)
	if err != nil {
		ctl.Reason = "the kernel without a mutant does not build: " + firstLine(err)
		return ctl
	}
	if ctl.Job, err = c.Test(ctx, k, suite); err != nil {
		ctl.Reason = "the control could not be run: " + firstLine(err)
		return ctl
	}
	n := result.Count(ctl.Job.Cases)
	switch {
	case ctl.Job.Verdict != result.VerdictPass:
		ctl.Reason = ctl.Job.Verdict.String() + ": " + ctl.Job.Reason
	case n.Pass == 0:
		ctl.Reason = "no test of the suite ran"
	default:
		ctl.Green = true
	}
	return ctl
}

// mutant builds and tests one mutant.
func (c Config) mutant(ctx context.Context, m Mutant, profile string) Row {
	row := Row{Mutant: m}
	c.say("mutant %s: %s", m.ID, m.Title)
	k, err := c.Build(ctx, profile, []string{m.Path})
	var pe *kbuild.PatchError
	switch {
	case errors.As(err, &pe):
		row.Outcome, row.Reason = DoesNotApply, firstLine(pe)
		return row
	case errors.Is(err, kbuild.ErrBuild):
		row.Outcome, row.Reason = DoesNotBuild, firstLine(err)
		return row
	case err != nil:
		row.Outcome, row.Reason = NotRun, firstLine(err)
		return row
	}
	if !k.Cached {
		row.BuildSeconds = k.Manifest.Seconds
	}
	if row.Job, err = c.Test(ctx, k, m.Suite); err != nil {
		row.Outcome, row.Reason = NotRun, firstLine(err)
		return row
	}
	row.judge()
	return row
}

// judge reads the job.
func (r *Row) judge() {
	job := r.Job
	if job.Verdict == result.VerdictPass {
		r.Outcome = Survived
		r.Reason = "the suite is green; " + r.Mutant.Test + " should fail with: " + r.Mutant.Symptom
		return
	}
	if job.Verdict == result.VerdictInfra || job.Verdict == result.VerdictInvalid || job.Verdict == result.VerdictNothingTested {
		r.Outcome, r.Reason = NotRun, job.Reason
		return
	}
	var meant, others []string
	symptom := map[string]string{}
	for _, top := range tops(job.Cases) {
		if !top.failed {
			continue
		}
		symptom[top.name] = top.symptom
		if r.Mutant.Names(top.name) {
			meant = append(meant, top.name)
		} else {
			others = append(others, top.name)
		}
	}
	switch {
	case len(meant) > 0:
		r.Outcome, r.Tests, r.Symptom = Killed, meant, symptom[meant[0]]
	case len(others) > 0:
		r.Outcome, r.Tests, r.Symptom = KilledElsewhere, others, symptom[others[0]]
		r.Reason = "none of " + r.Mutant.Test + " failed"
	case result.Count(job.Cases).Run == 0:
		r.Outcome, r.Reason = DoesNotBoot, job.Verdict.String()+": "+job.Reason
	default:
		// The kernel hung or died, or said something, between tests.
		r.Outcome, r.Reason = KilledElsewhere, job.Verdict.String()+": "+job.Reason
		r.Symptom = job.Reason
		r.Tests = []string{"no test"}
	}
	if r.Symptom == "" && len(job.Splats) > 0 {
		r.Symptom = job.Splats[0].Title
	}
}

// top is a test at the top with what its subtests said.
type top struct {
	name    string
	failed  bool
	splat   bool // symptom is a kernel report
	symptom string
	parent  string // the case whose words symptom has
}

// tops folds subtests into their parents. A kernel report outranks what the
// test itself said, because it names the bug, and a subtest's words those of its
// parent, which only says that a subtest failed.
func tops(cases []result.Case) []top {
	var out []top
	at := map[string]int{}
	for _, c := range cases {
		name, _, _ := strings.Cut(c.Name, "/")
		i, ok := at[name]
		if !ok {
			i = len(out)
			at[name] = i
			out = append(out, top{name: name})
		}
		t := &out[i]
		if c.Status == result.StatusPass || c.Status == result.StatusNotRun || c.Status == result.StatusSkip && !c.Unearned {
			continue
		}
		t.failed = true
		switch {
		case len(c.Splats) > 0 && !t.splat:
			t.symptom, t.splat = c.Splats[0].Title, true
		case t.symptom == "" || !t.splat && t.parent != "" && strings.HasPrefix(c.Name, t.parent+"/"):
			t.symptom, t.parent = c.Reason, c.Name
		}
	}
	return out
}

func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}
