// SPDX-License-Identifier: Apache-2.0

package suiterun_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/plan"
	"github.com/kvmrun/kvmrun/internal/report"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/runnertest"
	"github.com/kvmrun/kvmrun/internal/suiterun"
	"github.com/kvmrun/kvmrun/suites"
)

// TestOneVerdictEach: every selected test has one verdict in every format, whatever
// the others did.
func TestOneVerdictEach(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	k := runnertest.Kernel(t, &m.Host)
	s, err := suiterun.Describe(t.Context(), runnertest.Build(t, "test", "-c", "-ldflags=-s -w", "../../suites/testmain/testdata/sample"))
	assert.NilError(t, err)
	for _, c := range []struct {
		name    string
		tests   string // a space between them
		m       suiterun.Matrix
		want    string // the verdicts, as tests
		verdict result.Verdict
		reasons []string
	}{
		{
			"five, one slow", "TestPass TestCover TestZHang TestZFail TestZZAfter", suiterun.Matrix{Policy: plan.Policy{Timeout: 20 * time.Second}},
			"pass pass fail fail pass", result.VerdictTestFailed, []string{"panic: test timed out after 20s"},
		},
		{
			"five, one slow, each alone", "TestPass TestCover TestZHang TestZFail TestZZAfter", suiterun.Matrix{Jobs: 1, Policy: plan.Policy{Timeout: 20 * time.Second, Isolate: suites.IsolateTest}},
			"pass pass fail fail pass", result.VerdictTestFailed, []string{"panic: test timed out after 20s"},
		},
		{
			"a panic and status 0", "TestCover TestZPanic TestZExitGroup TestZExitSaid TestZLast", suiterun.Matrix{},
			"pass fail fail fail pass", result.VerdictTestFailed,
			[]string{"panic: oh", "the test binary ended during this test: exit status 0"},
		},
		{
			"status 0, each alone", "TestCover TestZExitGroup TestZExitSaid TestZLast", suiterun.Matrix{Policy: plan.Policy{Isolate: suites.IsolateTest}},
			"pass fail fail pass", result.VerdictTestFailed, []string{"the test binary ended during this test: exit status 0"},
		},
		{
			"all in one VM", "TestCover TestZExitGroup TestZLast", suiterun.Matrix{Policy: plan.Policy{KeepGoing: true}},
			"pass fail not-run", result.VerdictTestFailed, []string{"the run ended before"},
		},
		{
			"no subtest", "TestZGroup/^nope$", suiterun.Matrix{}, "pass", result.VerdictNothingTested, nil,
		},
		{
			"too loud", "TestZHang TestZLoud", suiterun.Matrix{Jobs: 2, Policy: plan.Policy{Timeout: 30 * time.Second, Isolate: suites.IsolateTest}},
			"fail pass", result.VerdictTestFailed, nil,
		},
		{
			"log level", "TestCover TestZLogLevel TestZLast", suiterun.Matrix{Policy: plan.Policy{Isolate: suites.IsolateTest}},
			"pass pass pass", result.VerdictInvalid, nil, // of the job: not this test's matter
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := c.m
			x.Kernels, x.Suites, x.Dir = []*machine.Kernel{k}, []suiterun.Suite{s}, t.TempDir()
			var alternatives []string
			tests := strings.Fields(c.tests)
			for i, name := range tests {
				top, sub, deep := strings.Cut(name, "/")
				tests[i] = top
				if name = "^" + top + "$"; deep {
					name += "/" + sub
				}
				alternatives = append(alternatives, name)
			}
			x.Run = strings.Join(alternatives, "|")
			run, err := suiterun.New(m).RunMatrix(t.Context(), x)
			assert.NilError(t, err)
			job := run.Jobs[0]
			got := map[string][]string{}
			reasons := ""
			for _, one := range job.Cases {
				if !strings.Contains(one.Name, "/") {
					got[one.Name] = append(got[one.Name], one.Status.String())
				}
				reasons += one.Reason + "\n"
			}
			want := map[string][]string{}
			for i, v := range strings.Fields(c.want) {
				want[tests[i]] = []string{v}
			}
			assert.DeepEqual(t, got, want)
			if c.verdict != result.VerdictInvalid {
				assert.Check(t, is.Equal(job.Verdict, c.verdict), "%s", job.Reason)
			}
			for _, r := range c.reasons {
				assert.Check(t, is.Contains(reasons, r))
			}
			assert.Check(t, !strings.Contains(reasons, "reported two"), reasons)
			if c.name == "too loud" {
				assert.Check(t, is.Contains(strings.Join(job.Notes, "\n"), "TestZLoud printed more than 64 MiB"))
			}
			// All formats name all tests.
			for name, write := range map[string]func(*bytes.Buffer) error{
				"TAP":   func(b *bytes.Buffer) error { return report.TAP(b, run) },
				"JSON":  func(b *bytes.Buffer) error { return report.JSON(b, run) },
				"JUnit": func(b *bytes.Buffer) error { return report.JUnit(b, run) },
			} {
				var b bytes.Buffer
				assert.NilError(t, write(&b))
				for _, test := range tests {
					assert.Check(t, is.Contains(b.String(), test), fmt.Sprintf("%s: %s", name, b.String()))
				}
			}
		})
	}
}
