// SPDX-License-Identifier: Apache-2.0

package suiterun_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/plan"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/runnertest"
	"github.com/kvmrun/kvmrun/internal/suiterun"
	"github.com/kvmrun/kvmrun/suites"
)

// TestReplay runs a suite, each test in a fork, and then one of its tests again:
// as it was, and with a trace. Debuggers and shells are cmd/kvmrun's tests.
func TestReplay(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	k := runnertest.Kernel(t, &m.Host)
	s, err := suiterun.Describe(t.Context(), runnertest.Build(t, "test", "-c", "-ldflags=-s -w", "../runner/testdata/forked"))
	assert.NilError(t, err)
	dir := t.TempDir()
	job := filepath.Join(dir, "job")
	assert.NilError(t, os.Mkdir(job, 0o755))
	res := suiterun.New(m).RunSuite(t.Context(), suiterun.SuiteJob{
		ID: "job", Kernel: k, Suite: s, Dir: job,
		Task: plan.Task{Args: []string{"-test.v=test2json"}, Policy: plan.Policy{Isolate: suites.IsolateTest}},
	})
	assert.Equal(t, res.Verdict, result.VerdictPass, "%+v", res)

	// By each of the ways to name it.
	text, err := json.Marshal(result.Run{Jobs: []result.Job{{Dir: job}}})
	assert.NilError(t, err)
	file := filepath.Join(dir, "out.json")
	assert.NilError(t, os.WriteFile(file, text, 0o600))
	var r *suiterun.Recorded
	for _, path := range []string{job, dir, file} {
		r, err = suiterun.FindRecorded(path, "TestFacts/sub")
		assert.NilError(t, err)
		assert.Equal(t, r.Kernel.File, k.Path)
	}

	replay := func(t *testing.T, y suiterun.Replay) (runner.Outcome, string) {
		t.Helper()
		var out bytes.Buffer
		y.Test, y.Dir, y.Stdout = "TestFacts", t.TempDir(), suiterun.WithoutMarks{W: &out}
		if y.Trace != nil {
			y.Dir = dir
		}
		o := suiterun.New(m).Replay(t.Context(), r, y)
		assert.Assert(t, o.Infra == nil && o.EndMarker && o.Exited.Code == 0, "%+v", o)
		assert.Assert(t, is.Contains(out.String(), "\n--- PASS: TestFacts"))
		kept, err := filepath.Glob(filepath.Join(c.Root(), "template", "*", "ram"))
		assert.NilError(t, err)
		assert.Equal(t, len(kept), 1, "not from the run's template")
		return o, out.String()
	}
	t.Run("as it was", func(t *testing.T) { replay(t, suiterun.Replay{}) })
	t.Run("traced", func(t *testing.T) {
		if !k.Config.Has("EVENT_TRACING=y") {
			t.Skip("the kernel lacks CONFIG_EVENT_TRACING: use Debian's")
		}
		replay(t, suiterun.Replay{Trace: []string{"sched:sched_process_exit", "sched:sched_switch"}})
		trace, err := os.ReadFile(filepath.Join(dir, "trace.txt"))
		assert.NilError(t, err)
		assert.Assert(t, bytes.Contains(trace, []byte("sched_process_exit:")) && bytes.Contains(trace, []byte("sched_switch:")), "%.2000s", trace)
		y := suiterun.Replay{Test: "TestFacts", Dir: runnertest.LogDir(t), Trace: []string{"no:such_event"}}
		o := suiterun.New(m).Replay(t.Context(), r, y)
		assert.ErrorContains(t, o.Infra, "set_event")
	})
	t.Run("traced, with a fault of the host's side", func(t *testing.T) {
		if !k.Config.Has("EVENT_TRACING=y") {
			t.Skip("the kernel lacks CONFIG_EVENT_TRACING: use Debian's")
		}
		faulty := *r
		faulty.Task.Faults = fault.Plan{{Kind: fault.DiskWrite, Target: "scratch", Nth: 1}}
		var out bytes.Buffer
		y := suiterun.Replay{Test: "TestFacts", Dir: runnertest.LogDir(t), Trace: []string{"sched:sched_process_exit"}, Stdout: suiterun.WithoutMarks{W: &out}}
		o := suiterun.New(m).Replay(t.Context(), &faulty, y)
		assert.Assert(t, o.Infra == nil && o.EndMarker && o.Exited.Code == 1, "%+v", o)
		assert.Assert(t, is.Contains(out.String(), "input/output error"))
		assert.Assert(t, is.Contains(strings.Join(o.Notes, "\n"), "fault disk-write:scratch,nth=1: injected 1×"))
		trace, err := os.ReadFile(filepath.Join(y.Dir, "trace.txt"))
		assert.NilError(t, err)
		assert.Assert(t, bytes.Contains(trace, []byte("sched_process_exit:")), "%.2000s", trace)
	})
	t.Run("changed since", func(t *testing.T) {
		old := *r
		old.Program.SHA256 = strings.Repeat("0", 64)
		o := suiterun.New(m).Replay(t.Context(), &old, suiterun.Replay{Test: "TestFacts", Dir: runnertest.LogDir(t)})
		assert.ErrorContains(t, o.Infra, "the test binary "+r.Program.File+" has changed since that run")
	})
}

func TestFindRecorded(t *testing.T) {
	dir := t.TempDir()
	_, err := suiterun.FindRecorded(dir, "TestA")
	assert.ErrorContains(t, err, "no results of a suite in "+dir)
	_, err = suiterun.FindRecorded(filepath.Join(dir, "none"), "TestA")
	assert.ErrorContains(t, err, "no such file")
	for _, job := range []string{"one", "two"} {
		assert.NilError(t, os.Mkdir(filepath.Join(dir, job), 0o755))
		text, err := plan.JobSpec{Kernel: plan.Kernel{File: "/k"}, Program: plan.Program{File: "/gone", Tests: []string{"TestA", "Test" + job}}}.Encode()
		assert.NilError(t, err)
		assert.NilError(t, os.WriteFile(filepath.Join(dir, job, "replay.json"), text, 0o600))
	}
	_, err = suiterun.FindRecorded(dir, "TestA")
	assert.ErrorContains(t, err, "2 jobs ran TestA: name one of "+filepath.Join(dir, "one")+", ")
	_, err = suiterun.FindRecorded(dir, "Testonee")
	assert.ErrorContains(t, err, "no test Testonee in the results in "+dir+"; nearest: Testone")
	_, err = suiterun.FindRecorded(dir, "Testtwo")
	assert.ErrorContains(t, err, "the test binary /gone is gone")
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "two", "replay.json"), []byte(`{"format":0}`), 0o600))
	_, err = suiterun.FindRecorded(dir, "Testtwo")
	assert.ErrorContains(t, err, "another version")
}
