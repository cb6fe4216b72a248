// SPDX-License-Identifier: Apache-2.0

package suiterun

import (
	"slices"
	"strings"

	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/words"
)

// maxReproTests is how many failed tests a command to repeat names. Where more
// failed, the original choice of tests says it better.
const maxReproTests = 20

// repro is the command line that runs what failed in the job again: the failed
// tests, or all that were chosen where the failure is not one of tests alone. A
// test runs with those of its subtests that were chosen, not with the failed ones
// only, which may need what others did before them. Marked are the top-level tests
// that failed, or did not end or run, by their marks: all that is known where nobody
// reads the output.
func (j SuiteJob) repro(job result.Job, marked []string) string {
	known := slices.Concat(j.Suite.Tests, j.Suite.Rest)
	var failed []string
	if j.Raw != nil {
		for _, s := range job.Splats {
			if !s.Excused() {
				marked = append(marked, s.Test)
			}
		}
		for _, t := range marked {
			if top, _, _ := strings.Cut(t, "/"); top != "" && !slices.Contains(failed, top) {
				failed = append(failed, top)
			}
		}
	}
	for _, c := range job.Cases {
		if c.Status == result.StatusPass || c.Status == result.StatusSkip && !c.Unearned {
			continue
		}
		top, _, _ := strings.Cut(c.Name, "/")
		if !slices.Contains(known, top) {
			return j.Repro // a disk's check, for one
		}
		if !slices.Contains(failed, top) {
			failed = append(failed, top)
		}
	}
	for _, s := range job.Splats {
		if s.Test == "" && !s.Excused() {
			return j.Repro
		}
	}
	if len(failed) == 0 || len(failed) > maxReproTests {
		return j.Repro
	}
	whole := true
	exprs := make([]string, len(failed))
	for i, t := range failed {
		exprs[i] = j.Args.Only(t)
		whole = whole && exprs[i] == "^"+t+"$"
	}
	if whole && len(failed) > 1 {
		return j.reproOf("^(" + strings.Join(failed, "|") + ")$")
	}
	return j.reproOf(strings.Join(exprs, "|"))
}

// reproOf is the command line that runs the tests that match the expression.
func (j SuiteJob) reproOf(expr string) string {
	if j.Repro == "" {
		return ""
	}
	one, name := j.ReproOne, j.ReproRun
	if one == "" {
		one = j.Repro
	}
	if name == "" {
		name = "-run"
	}
	return one + " " + name + " " + words.Quote(expr)
}
