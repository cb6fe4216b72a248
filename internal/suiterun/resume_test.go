// SPDX-License-Identifier: Apache-2.0

package suiterun

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/agent"
	"github.com/kvmrun/kvmrun/internal/gotest"
	"github.com/kvmrun/kvmrun/internal/klog"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/plan"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/wire"
)

// TestStreamAgain: a test whose result died with its VM begins once, and so do
// its subtests.
func TestStreamAgain(t *testing.T) {
	for _, c := range []struct{ v, first, second, want string }{
		{
			"true", "=== RUN   TestA\n=== RUN   TestA/x\n=== RUN   TestB\n",
			"=== RUN   TestA\n=== RUN   TestA/x\n=== RUN   TestA/y\n--- PASS: TestA (0.00s)\n    --- PASS: TestA/x (0.00s)\n=== RUN   TestC\n",
			"=== RUN   TestA\n=== RUN   TestA/x\n=== RUN   TestB\n--- FAIL: TestB (0.00s)\n    kvmrun: the VM ended during this test: invalid\n" +
				"=== RUN   TestA/y\n--- PASS: TestA (0.00s)\n    --- PASS: TestA/x (0.00s)\n=== RUN   TestC\n",
		},
		{
			"test2json", "\x16=== RUN   TestA\n",
			"\x16=== RUN   TestA\nhello\x16--- PASS: TestA (0.00s)\n",
			"\x16=== RUN   TestA\n\x16=== RUN   TestB\n\x16=== NAME  TestB\n    kvmrun: the VM ended during this test: invalid\n\x16--- FAIL: TestB (0.00s)\nhello\x16--- PASS: TestA (0.00s)\n",
		},
	} {
		for size := 1; size < 40; size++ {
			var b bytes.Buffer
			job := SuiteJob{Suite: Suite{Tests: []string{"TestA", "TestB", "TestC"}}, Task: plan.Task{Args: []string{"-test.v=" + c.v}}}
			s := gotest.NewJoiner(&b, job.Args, false)
			write := func(text string) {
				for i := 0; i < len(text); i += size {
					_, err := s.Write([]byte(text[i:min(len(text), i+size)]))
					assert.NilError(t, err)
				}
			}
			write(c.first)
			var r relayed
			more := job.after(s, &runner.Outcome{Findings: agent.Findings{Ready: &wire.Ready{}}, Ended: []string{"TestA"}, Running: []string{"TestB"}}, &r, false)
			assert.DeepEqual(t, more, []string{"TestA", "TestC"})
			assert.DeepEqual(t, r.done, []string{"TestB"})
			write(c.second)
			s.End(false, false)
			assert.Equal(t, b.String(), c.want, "in pieces of %d", size)
		}
	}
}

// TestAfter decides about what follows a VM.
func TestAfter(t *testing.T) {
	alive := func(o runner.Outcome) *runner.Outcome {
		o.Ready = &wire.Ready{}
		return &o
	}
	bug := []klog.Splat{{Report: &oops.Report{Title: "BUG"}, Test: "TestA"}}
	wanted := []klog.Splat{{Report: &oops.Report{Title: "BUG"}, Test: "TestA", Expected: true}}
	exit := func(code int) *wire.Exited { return &wire.Exited{Code: code} }
	hung := alive(runner.Outcome{Findings: agent.Findings{Hung: "silence"}, Running: []string{"TestA"}})
	for name, c := range map[string]struct {
		out      *runner.Outcome
		job      SuiteJob
		before   relayed
		last     bool
		more     []string
		bad      bool
		contains string
		said     string // by the VM
	}{
		"all well":       {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(0), EndMarker: true}, Ended: []string{"TestA", "TestB", "TestC"}}), said: "PASS\n"},
		"well, no PASS":  {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(0), EndMarker: true}, Ended: []string{"TestA", "TestB", "TestC"}}), bad: true},
		"says FAIL":      {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(0), EndMarker: true}, Ended: []string{"TestA", "TestB", "TestC"}}), said: "FAIL\n", bad: true},
		"long and PASS":  {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(0), EndMarker: true}, Ended: []string{"TestA", "TestB", "TestC"}}), said: strings.Repeat("x", 3*klog.MaxLine) + "PASS\nlater\n"},
		"one failed":     {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(0), EndMarker: true}, Ended: []string{"TestA", "TestB", "TestC"}, Failed: []string{"TestB"}}), said: "PASS\n", bad: true},
		"exit 0 in last": {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(0), EndMarker: true}, Ended: []string{"TestA", "TestB"}, Running: []string{"TestC"}}), said: "PASS\n", bad: true, contains: "--- FAIL: TestC (0.00s)\n    kvmrun: the test binary ended during this test: exit status 0\n"},
		"exit 0 in B":    {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(0), EndMarker: true}, Ended: []string{"TestA"}, Running: []string{"TestB"}}), bad: true, more: []string{"TestC"}, contains: "--- FAIL: TestB"},
		"exit 0 after B": {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(0), EndMarker: true}, Ended: []string{"TestA", "TestB"}}), said: "PASS\n", bad: true, more: []string{"TestC"}},
		"exit 0 at once": {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(0), EndMarker: true}}), said: "PASS\n", bad: true, contains: "--- FAIL: TestC (0.00s)\n    kvmrun: not run: the test binary ended outside all tests: exit status 0\n"},
		"exit 0, count":  {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(0), EndMarker: true}, Ended: []string{"TestA"}}), job: SuiteJob{Task: plan.Task{Args: []string{"-test.count=2"}}}, bad: true, contains: "--- FAIL: TestC (0.00s)\n    kvmrun: not run: the run ended before"},
		"raw, exit 0":    {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(0), EndMarker: true}, Ended: []string{"TestA", "TestB"}, Running: []string{"TestC"}}), job: SuiteJob{Raw: io.Discard}, bad: true, contains: "--- FAIL: TestC"},
		"raw, exit 7":    {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(7), EndMarker: true}, Ended: []string{"TestA"}, Running: []string{"TestB"}}), job: SuiteJob{Raw: io.Discard}},
		"panic":          {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(2), EndMarker: true}, Ended: []string{"TestA"}, Failed: []string{"TestA"}}), bad: true, more: []string{"TestB", "TestC"}},
		"killed":         {out: alive(runner.Outcome{Findings: agent.Findings{Exited: &wire.Exited{Signal: 9}, EndMarker: true}, Running: []string{"TestA"}}), bad: true, more: []string{"TestB", "TestC"}, contains: "during this test: signal 9"},
		"timed out":      {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(2), EndMarker: true}, Running: []string{"TestA"}}), before: relayed{timedOut: true}, bad: true, more: []string{"TestB", "TestC"}, contains: "the test binary ran out of its time during this test"},
		"timed out, 3":   {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(2), EndMarker: true}, Running: []string{"TestA"}}), before: relayed{hangs: maxHangs - 1, timedOut: true}, bad: true, contains: "--- FAIL: TestB (0.00s)\n    kvmrun: not run: 3 VMs hung before\n"},
		"poisoned":       {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(wire.ExitPoisoned), EndMarker: true}, Ended: []string{"TestA"}, Splats: bug}), more: []string{"TestB", "TestC"}, bad: true},
		"expected":       {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(wire.ExitPoisonedWell), EndMarker: true}, Ended: []string{"TestA"}, Splats: wanted}), more: []string{"TestB", "TestC"}},
		"failed besides": {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(wire.ExitPoisoned), EndMarker: true}, Ended: []string{"TestA"}, Splats: wanted}), more: []string{"TestB", "TestC"}, bad: true},
		"last splat":     {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(1), EndMarker: true}, Ended: []string{"TestA", "TestB", "TestC"}, Splats: bug}), bad: true},
		"lost":           {out: alive(runner.Outcome{Running: []string{"TestA"}}), more: []string{"TestB", "TestC"}, bad: true, contains: "=== RUN   TestA\n--- FAIL: TestA (0.00s)\n    kvmrun: the VM ended during this test"},
		"lost, untold":   {out: alive(runner.Outcome{Ended: []string{"TestA"}, Running: []string{"TestB"}}), more: []string{"TestA", "TestC"}, bad: true},
		"told":           {out: alive(runner.Outcome{Ended: []string{"TestA"}, Running: []string{"TestB"}}), said: "x--- PASS: TestA (0.00s)\n", more: []string{"TestC"}, bad: true},
		"half told":      {out: alive(runner.Outcome{Ended: []string{"TestA"}, Running: []string{"TestB"}}), said: "--- PASS: TestA (0.0", more: []string{"TestA", "TestC"}, bad: true},
		"of a subtest":   {out: alive(runner.Outcome{Ended: []string{"TestA"}, Running: []string{"TestB"}}), said: "    --- PASS: TestA/x (0.00s)\n", more: []string{"TestA", "TestC"}, bad: true},
		"hung, untold":   {out: alive(runner.Outcome{Findings: agent.Findings{Hung: "silence"}, Ended: []string{"TestA"}, Running: []string{"TestB"}}), more: []string{"TestA", "TestC"}, bad: true},
		"quiet":          {out: alive(runner.Outcome{Ended: []string{"TestA"}, Running: []string{"TestB"}}), job: SuiteJob{Task: plan.Task{Args: []string{"-test.v=false"}}}, more: []string{"TestC"}, bad: true},
		"quiet failure":  {out: alive(runner.Outcome{Ended: []string{"TestA"}, Failed: []string{"TestA"}, Running: []string{"TestB"}}), job: SuiteJob{Task: plan.Task{Args: []string{"-test.v=false"}}}, more: []string{"TestC"}, bad: true, contains: "--- FAIL: TestA (0.00s)\n    kvmrun: it failed, and the VM ended before what it said had left it\n"},
		"untold failure": {out: alive(runner.Outcome{Ended: []string{"TestA"}, Failed: []string{"TestA"}, Running: []string{"TestB"}}), more: []string{"TestC"}, bad: true, contains: "--- FAIL: TestA (0.00s)\n    kvmrun: it failed, and the VM ended before what it said had left it\n"},
		"not resumable":  {out: alive(runner.Outcome{Ended: []string{"TestA"}, Running: []string{"TestB"}}), job: SuiteJob{Task: plan.Task{Args: []string{"-test.v=true", "-test.count=2"}}}, bad: true, contains: "--- FAIL: TestA (0.00s)\n    kvmrun: the VM ended before this test's result had left it\n"},
		"untold at last": {out: alive(runner.Outcome{Findings: agent.Findings{Hung: "x"}, Ended: []string{"TestA"}, Running: []string{"TestB"}}), before: relayed{hangs: maxHangs - 1}, bad: true, contains: "--- FAIL: TestA (0.00s)\n    kvmrun: the VM ended before this test's result had left it, and it was not run again: 3 VMs hung before\n"},
		"lost outside":   {out: alive(runner.Outcome{}), bad: true, contains: "--- FAIL: TestC (0.00s)\n    kvmrun: not run: the VM ended outside all tests"},
		"hung":           {out: hung, more: []string{"TestB", "TestC"}, bad: true, contains: "the VM was given up during this test: silence"},
		"hung again":     {out: hung, before: relayed{hangs: maxHangs - 1}, bad: true, contains: "=== RUN   TestB\n--- FAIL: TestB (0.00s)\n    kvmrun: not run: 3 VMs hung before"},
		"keep going":     {out: hung, job: SuiteJob{Task: plan.Task{Policy: plan.Policy{KeepGoing: true}}}, bad: true, contains: "--- FAIL: TestB (0.00s)\n    kvmrun: not run: the run ended before"},
		"go test's time": {out: alive(runner.Outcome{Findings: agent.Findings{Deadline: "late"}, Running: []string{"TestA"}}), job: SuiteJob{Task: plan.Task{Policy: plan.Policy{NoLimit: true}}}, bad: true, contains: "not run: the time was used up"},
		"late":           {out: alive(runner.Outcome{Findings: agent.Findings{Deadline: "late"}, Running: []string{"TestA"}}), more: []string{"TestB", "TestC"}, bad: true},
		"too many":       {out: alive(runner.Outcome{Findings: agent.Findings{Exited: exit(wire.ExitPoisoned), EndMarker: true}, Ended: []string{"TestA"}, Splats: bug}), last: true, bad: true, contains: "not run: 25 VMs"},
		"interrupted":    {out: alive(runner.Outcome{Findings: agent.Findings{Infra: errors.New("x")}, Running: []string{"TestA"}})},
		"no boot":        {out: &runner.Outcome{}},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			c.job.Suite.Tests = []string{"TestA", "TestB", "TestC"}
			r := c.before
			if c.job.Args == nil {
				c.job.Args = []string{"-test.v=true"}
			}
			s := gotest.NewJoiner(&b, c.job.Args, false)
			_, err := s.Write([]byte(c.said))
			assert.NilError(t, err)
			more := c.job.after(s, c.out, &r, c.last)
			assert.DeepEqual(t, more, c.more)
			assert.Equal(t, r.bad, c.bad)
			assert.Check(t, strings.Contains(b.String(), c.contains), b.String())
		})
	}
}

// TestFactsFold counts a splat that comes again and again.
func TestFactsFold(t *testing.T) {
	r := func(fp string) *oops.Report {
		return &oops.Report{Title: fp, Fingerprint: fp, CPU: 1, Comm: "init", PID: 7}
	}
	got := runner.Outcome{Splats: []klog.Splat{
		{Report: r("a"), Test: "TestA"}, {Report: r("b"), Test: "TestA"}, {Report: r("a"), Test: "TestA"},
		{Report: r("a"), Test: "TestA"}, {Report: r("a"), Test: "TestB"}, {Report: r("a"), Test: "TestA", Allowed: "known"},
	}}.Facts().Splats
	var short []string
	for _, s := range got {
		short = append(short, fmt.Sprintf("%s %s %d %s %v", s.Title, s.Test, s.Count, s.Where, s.Excused()))
	}
	assert.DeepEqual(t, short, []string{
		"a TestA 3 CPU 1, init/7 false", "b TestA 0 CPU 1, init/7 false", "a TestB 0 CPU 1, init/7 false", "a TestA 0 CPU 1, init/7 true",
	})
}

// TestRepro: the command for one test does not choose tests twice.
func TestRepro(t *testing.T) {
	for _, c := range []struct{ repro, one, want string }{
		{"run -suite s -run A", "run -suite s", "run -suite s -run '^TestA$'"},
		{"run", "", "run -run '^TestA$'"},
		{"", "", ""},
	} {
		job := result.Job{}
		out := runner.Outcome{Splats: []klog.Splat{{Report: &oops.Report{Title: "t"}, Test: "TestA"}, {Report: &oops.Report{Title: "u"}}}}
		judge(&job, result.Facts{}, out, SuiteJob{Kernel: &machine.Kernel{}, Repro: c.repro, ReproOne: c.one})
		assert.Equal(t, job.Splats[0].Repro, c.want)
		assert.Equal(t, job.Splats[1].Repro, c.repro)
	}
}

// TestReproOfTheFailed: the command to repeat names the tests that failed, or
// runs all where tests alone do not explain the failure.
func TestReproOfTheFailed(t *testing.T) {
	failed := func(names ...string) (out []result.Case) {
		out = append(out, result.Case{Name: "TestOther", Status: result.StatusPass}, result.Case{Name: "TestNot", Status: result.StatusSkip})
		for _, n := range names {
			out = append(out, result.Case{Name: n, Status: result.StatusFail})
		}
		return out
	}
	var many []string
	for i := range maxReproTests + 1 {
		many = append(many, fmt.Sprintf("Test%d", i))
	}
	j := SuiteJob{Suite: Suite{Tests: append([]string{"TestA", "TestB", "TestOther", "TestNot"}, many...), Rest: []string{"ExampleX"}}, Repro: "again -run 'as chosen'", ReproOne: "again"}
	for _, c := range []struct {
		run  string
		job  result.Job
		want string
	}{
		{"", result.Job{Cases: failed("TestA", "TestA/sub one")}, "again -run '^TestA$'"},
		{"", result.Job{Cases: failed("TestA", "TestA/x", "ExampleX")}, "again -run '^(TestA|ExampleX)$'"},
		{"TestA/x", result.Job{Cases: failed("TestA", "TestA/x")}, "again -run '^TestA$/x'"},
		{"TestA/x|B", result.Job{Cases: failed("TestA", "TestB")}, "again -run '^TestA$/x|^TestB$'"},
		{"", result.Job{Cases: []result.Case{{Name: "TestA", Status: result.StatusSkip, Unearned: true}}}, "again -run '^TestA$'"},
		{"", result.Job{Cases: failed("TestA"), Splats: []result.Splat{{Test: "TestA"}, {Allowed: "known"}}}, "again -run '^TestA$'"},
		// Tests alone do not explain these.
		{"", result.Job{Cases: failed("TestA"), Splats: []result.Splat{{Phase: "boot"}}}, j.Repro},
		{"", result.Job{Cases: failed("TestA", "fsck/disk")}, j.Repro},
		{"", result.Job{Cases: failed()}, j.Repro},
		{"", result.Job{Cases: failed(many...)}, j.Repro},
	} {
		j.Args = []string{"-test.run=" + c.run}
		assert.Equal(t, j.repro(c.job, nil), c.want)
	}
}

// TestUntested: what counts is what -run selects, and what below it ran.
func TestUntested(t *testing.T) {
	pass := func(name string) result.Case { return result.Case{Name: name, Status: result.StatusPass} }
	skip := func(name string) result.Case { return result.Case{Name: name, Status: result.StatusSkip} }
	for _, c := range []struct {
		run   string
		cases []result.Case
		want  string
	}{
		{"", []result.Case{pass("TestA")}, ""},
		{"", []result.Case{skip("TestA")}, "1 test skipped"},
		{"", []result.Case{skip("TestA"), pass("TestB")}, ""},
		{"", []result.Case{pass("TestA"), skip("TestA/x"), skip("TestA/y")}, "2 tests skipped"},
		{"", []result.Case{pass("TestA"), skip("TestA/x"), pass("TestA/y")}, ""},
		{"", []result.Case{pass("TestA"), pass("TestA/x"), skip("TestA/x/1")}, "1 test skipped"},
		{"TestA", []result.Case{pass("TestA"), pass("TestA/x")}, ""},
		{"^TestA$/^nope$", []result.Case{pass("TestA")}, "no subtest matches -run ^TestA$/^nope$"},
		{"^TestA$/^x$", []result.Case{pass("TestA"), pass("TestA/x")}, ""},
		{"^TestA$/two words", []result.Case{pass("TestA"), pass("TestA/two_words")}, ""},
		{"TestA/x/y", []result.Case{pass("TestA"), pass("TestA/x")}, "no subtest matches -run TestA/x/y"},
		{"TestA/x|TestB", []result.Case{pass("TestA"), pass("TestB")}, ""},
		{"TestA/x", []result.Case{pass("TestA"), skip("TestA/x")}, "1 test skipped"},
		{"", nil, ""},
	} {
		assert.Check(t, is.Equal(untested([]string{"-test.v=test2json", "-test.run=" + c.run}, c.cases), c.want), "%s %v", c.run, c.cases)
	}
}

// TestEveryTestHasAVerdict, exactly one.
func TestEveryTestHasAVerdict(t *testing.T) {
	job := result.Job{Cases: []result.Case{
		{Name: "TestA", Status: result.StatusPass},
		{Name: "TestB", Status: result.StatusFail, Reason: "reported two results: pass, then fail"},
		{Name: "TestC", Status: result.StatusFail, Reason: "kvmrun: not run: hung", Output: "x"},
	}}
	j := SuiteJob{Suite: Suite{Tests: []string{"TestA", "TestB", "TestC", "TestD", "TestE"}, Rest: []string{"ExampleA", "FuzzB"}}, Task: plan.Task{Args: []string{"-test.skip=TestE|Fuzz"}}}
	complete(&job, j, runner.Outcome{Findings: agent.Findings{Exited: &wire.Exited{Code: 2}}}, gaps{unrun: []missing{{"TestC", "hung"}}, unended: []missing{{"TestB", "it ended"}}})
	const why = "the test binary ended before: exit status 2"
	assert.DeepEqual(t, job.Cases, []result.Case{
		{Name: "TestA", Status: result.StatusPass},
		{Name: "TestB", Status: result.StatusFail, Reason: "it ended"},
		{Name: "TestC", Status: result.StatusNotRun, Reason: "hung"},
		{Name: "TestD", Status: result.StatusNotRun, Reason: why},
		{Name: "ExampleA", Status: result.StatusNotRun, Reason: why},
	})
}
