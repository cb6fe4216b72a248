// SPDX-License-Identifier: Apache-2.0

package suiterun_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/plan"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/runnertest"
	"github.com/kvmrun/kvmrun/internal/suiterun"
	"github.com/kvmrun/kvmrun/internal/sweep"
	"github.com/kvmrun/kvmrun/internal/sweeprun"
	"github.com/kvmrun/kvmrun/internal/wire"
)

// TestFaultsInAProgram: a fault hits the program and its children, the time and
// place that was asked for, and nobody before or after.
func TestFaultsInAProgram(t *testing.T) {
	m, k := runnertest.DebugKernel(t)
	for _, c := range []struct{ spec, out, note string }{
		{"failslab,nth=3,in=alloc_pipe_info", "1 ok\n2 failed\n3 ok\n", "injected 1×"}, // a pipe takes two
		{"failslab,every=2,times=1,in=alloc_pipe_info,notin=do_pipe2", "1 ok\n2 ok\n3 ok\n", "the program did not get there"},
		// Package os/exec makes the third pipe.
		{"fail_usercopy,nth=4,in=do_pipe2", "1 ok\n2 ok\n3 failed\n", "injected 1×"},
		{"fail_function:__x64_sys_pipe2=-EMFILE,nth=2", "1 ok\n2 failed\n3 ok\n", "injected 1×"},
		{"fail_usercopy,every=1,times=2,in=do_pipe2", "1 failed\n2 failed\n3 ok\n", "injected 2×"},
	} {
		t.Run(c.spec, func(t *testing.T) {
			p, err := fault.Parse(c.spec)
			assert.NilError(t, err)
			faulty := fault.Plan{p}
			assert.NilError(t, k.CheckFaults(t.Context(), &m.Host, faulty, nil))
			out := execPipes(t, m, k, faulty)
			assert.NilError(t, out.Infra)
			assert.Equal(t, len(out.Splats), 0, "a fault's own message is no splat")
			assert.Equal(t, out.stdout, c.out)
			assert.Assert(t, cmp.Contains(strings.Join(out.Remarks(), "\n"), "fault "+c.spec+": "+c.note))
		})
	}
	t.Run("cannot be armed", func(t *testing.T) {
		out := execPipes(t, m, k, fault.Plan{{Kind: fault.Function, Target: "ksys_read", Return: -5}})
		assert.ErrorContains(t, out.Infra, "arm the faults: ")
		assert.ErrorContains(t, out.Infra, "ALLOW_ERROR_INJECTION")
		assert.Equal(t, out.stdout, "", "the program ran without its fault")
	})
	t.Run("unknown", func(t *testing.T) {
		err := k.CheckFaults(t.Context(), &m.Host, fault.Plan{{Kind: fault.Slab, In: "alloc_pipe_inf"}}, nil)
		assert.ErrorContains(t, err, "the kernel has no function alloc_pipe_inf; it has alloc_pipe_info")
	})
}

type piped struct {
	runner.Outcome
	stdout string
}

func execPipes(t *testing.T, m *runner.Machine, k *machine.Kernel, faulty fault.Plan) piped {
	t.Helper()
	var out bytes.Buffer
	o := m.Exec(t.Context(), runner.Program{
		Kernel: k, Init: runnertest.Build(t, "build", "../runner/testdata/pipes"), Stdout: &out, Stderr: os.Stderr, Dir: runnertest.LogDir(t), Timeout: 2 * time.Minute,
		Run: wire.Run{Argv: []string{"/init"}}, Faults: faulty,
	})
	return piped{o, out.String()}
}

// TestPowerCut cuts the power in the middle of a test of ext4 that knows about
// it: what it finds in the next machine is what it had synced.
func TestPowerCut(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	k := runnertest.Kernel(t, &m.Host)
	s, err := suiterun.Describe(t.Context(), runnertest.Build(t, "test", "-c", "../../suites/ext4"))
	assert.NilError(t, err)
	dir := runnertest.LogDir(t)
	f, err := fault.Parse("power-cut:e4-4k,nth=24")
	assert.NilError(t, err)
	job := suiterun.New(m).RunSuite(t.Context(), suiterun.SuiteJob{
		ID: "cut", Kernel: k, Suite: s, Dir: dir,
		Task: plan.Task{Args: []string{"-test.v=test2json", "-test.run=^TestPowerCut$"}, Policy: plan.Policy{Timeout: 5 * time.Minute, Faults: fault.Plan{f}}},
	})
	assert.Equal(t, job.Verdict, result.VerdictPass, "%s %q", job.Reason, job.Notes)
	assert.Assert(t, cmp.Contains(strings.Join(job.Notes, "\n"), "power cut at write 24 of disk e4-4k, with "))
	assert.Assert(t, strings.Contains(job.Cases[0].Output, "the power was cut; acknowledged until then: "), "%+v", job.Cases[0])
	assert.Assert(t, !strings.Contains(job.Cases[0].Output, "until then: 0"), "%+v", job.Cases[0])
	for _, log := range []string{"console.log", "console-after-cut.log"} {
		_, err := os.Stat(filepath.Join(dir, log))
		assert.NilError(t, err)
	}
}

// TestPowerCutSweep cuts the power at writes of a test, in machines that are
// forked, as are those that look at the disks then.
func TestPowerCutSweep(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	var said []string
	m := &runner.Machine{Host: machine.Host{Cache: c, Progress: func(s string) { said = append(said, s) }}}
	s, err := suiterun.Describe(t.Context(), runnertest.Build(t, "test", "-c", "../../suites/ext4"))
	assert.NilError(t, err)
	p := suiterun.SuiteProgram(runnertest.Kernel(t, &m.Host), s, nil)
	p.Dir = runnertest.LogDir(t)
	rep, err := sweeprun.Sweep(t.Context(), m, sweeprun.SweepJob{Program: p, Test: "^TestPowerCut$", Fault: fault.Fault{Kind: fault.PowerCut, Target: "e4-4k"}},
		sweeprun.SweepOptions{Points: sweeprun.PointsN, Spread: 3, Jobs: 1})
	assert.NilError(t, err)
	t.Log(strings.Join(said, "\n"))
	assert.Assert(t, rep.Total > 10, "%+v", rep)
	assert.Equal(t, rep.Counts[sweep.Clean], 3, "%+v", rep.Results)
	for _, s := range said {
		assert.Assert(t, !strings.Contains(s, "boots for each point") && !strings.Contains(s, "could not be forked"), s)
	}

	// The second machine is told of the first one's, though it is a fork, too.
	p = suiterun.SuiteProgram(p.Kernel, s, []string{"-test.v"})
	p.Dir, p.Log = runnertest.LogDir(t), "template.log"
	tmpl, _, err := m.MakeTemplate(t.Context(), p)
	assert.NilError(t, err)
	defer tmpl.Close()
	var out bytes.Buffer
	p.From, p.Log, p.Stdout, p.Run.Merge = tmpl, "console.log", &out, true
	p.Release = &wire.Release{Args: []string{"^TestPowerCut$"}}
	p.Faults = fault.Plan{{Kind: fault.PowerCut, Target: "e4-4k", Nth: 24}}
	o := m.Exec(t.Context(), p)
	assert.NilError(t, o.Infra)
	assert.Equal(t, o.Cut, "write 24 of disk e4-4k")
	assert.Assert(t, cmp.Contains(out.String(), "the power was cut; acknowledged until then: "))
	assert.Assert(t, !strings.Contains(out.String(), "until then: 0"), out.String())
	assert.Assert(t, cmp.Contains(out.String(), "--- PASS: TestPowerCut"))
	for _, log := range []string{"console.log", "console-after-cut.log"} {
		text, err := os.ReadFile(filepath.Join(p.Dir, log))
		assert.NilError(t, err)
		assert.Assert(t, !bytes.Contains(text, []byte("Linux version ")), "%s is of a machine that booted", log)
	}
}

// TestFaultsSeed: the same seed, the same faults, at the same places; another seed,
// others.
func TestFaultsSeed(t *testing.T) {
	m, k := runnertest.DebugKernel(t)
	run := func(spec string) []string {
		f, err := fault.Parse(spec)
		assert.NilError(t, err)
		dir := runnertest.LogDir(t)
		var stdout bytes.Buffer
		out := m.Exec(t.Context(), runner.Program{
			Kernel: k, Init: runnertest.Build(t, "build", "../runner/testdata/pipes"), Stdout: &stdout, Stderr: os.Stderr, Dir: dir, Log: "console.log", Timeout: 2 * time.Minute,
			Run: wire.Run{Argv: []string{"/init"}}, Faults: fault.Plan{f},
		})
		assert.NilError(t, out.Infra)
		log, err := os.ReadFile(filepath.Join(dir, "console.log"))
		assert.NilError(t, err)
		hits := []string{stdout.String()}
		for _, l := range strings.Split(string(log), "\n") {
			if i := strings.Index(l, "name failslab, "); i >= 0 {
				hits = append(hits, l[i:])
			}
		}
		return hits
	}
	first := run("failslab,prob=20,seed=1,in=do_pipe2")
	assert.Assert(t, len(first) > 1, "no fault at all: %q", first)
	assert.DeepEqual(t, run("failslab,prob=20,seed=1,in=do_pipe2"), first)
	other := run("failslab,prob=20,seed=3,in=do_pipe2")
	assert.Assert(t, !slices.Equal(other, first), "%q", other)
}

// TestFaultsCollide: a test that injects faults itself says so when there are
// others, instead of taking them away.
func TestFaultsCollide(t *testing.T) {
	m, k := runnertest.DebugKernel(t)
	s, err := suiterun.Describe(t.Context(), runnertest.Build(t, "test", "-c", "../../suites/ext4"))
	assert.NilError(t, err)
	for spec, want := range map[string]string{
		"fail_page_alloc,nth=100000000":   "fail_page_alloc is armed from outside (probability 100)",
		"failslab,nth=100000000,who=task": "the process's first thread is armed from outside (fail-nth ",
	} {
		f, err := fault.Parse(spec)
		assert.NilError(t, err)
		job := suiterun.New(m).RunSuite(t.Context(), suiterun.SuiteJob{
			ID: "collide", Kernel: k, Suite: s, Dir: runnertest.LogDir(t),
			Task: plan.Task{Args: []string{"-test.v=test2json", "-test.run=^TestFaultLibrary$"}, Policy: plan.Policy{Timeout: 5 * time.Minute, Faults: fault.Plan{f}}},
		})
		assert.Equal(t, job.Verdict, result.VerdictTestFailed, "%s %q", job.Reason, job.Notes)
		said := ""
		for _, c := range job.Cases {
			said += c.Output
		}
		assert.Assert(t, cmp.Contains(said, want))
		assert.Assert(t, cmp.Contains(said, "run this test without -fault"))
	}
}

// TestFaultsOfBlockRequests: requests of a disk fail, or are lost.
func TestFaultsOfBlockRequests(t *testing.T) {
	m, k := runnertest.DebugKernel(t)
	s, err := suiterun.Describe(t.Context(), runnertest.Build(t, "test", "-c", "../../suites/ext4"))
	assert.NilError(t, err)
	run := func(spec string, limit time.Duration) (result.Job, string) {
		f, err := fault.Parse(spec)
		assert.NilError(t, err)
		assert.NilError(t, k.CheckFaults(t.Context(), &m.Host, fault.Plan{f}, s.Spec.Disks))
		dir := runnertest.LogDir(t)
		job := suiterun.New(m).RunSuite(t.Context(), suiterun.SuiteJob{
			ID: "block", Kernel: k, Suite: s, Dir: dir,
			Task: plan.Task{Args: []string{"-test.v=test2json", "-test.run=^TestPowerCut$"}, Policy: plan.Policy{Timeout: limit, Faults: fault.Plan{f}}},
		})
		log, err := os.ReadFile(filepath.Join(dir, "console.log"))
		assert.NilError(t, err)
		return job, string(log)
	}
	job, log := run("fail_make_request:vda,nth=5,who=all", 5*time.Minute)
	assert.Assert(t, job.Verdict == result.VerdictTestFailed || job.Verdict == result.VerdictKernelFailed, "%v %s", job.Verdict, job.Reason)
	assert.Assert(t, cmp.Contains(strings.Join(job.Notes, "\n"), "fault fail_make_request:vda,nth=5,who=all: injected 1×"))
	assert.Assert(t, cmp.Contains(log, "name fail_make_request, "))
	// virtio-blk has no handler for timeouts: who waits for the request waits on.
	job, log = run("fail_io_timeout:vda,nth=5", 30*time.Second)
	assert.Equal(t, job.Verdict, result.VerdictHung, "%s", job.Reason)
	assert.Assert(t, cmp.Contains(log, "name fail_io_timeout, "))
}

// TestFaultsBalloon takes memory from a program that waits for it.
func TestFaultsBalloon(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	var out bytes.Buffer
	o := m.Exec(t.Context(), runner.Program{
		Kernel: runnertest.Kernel(t, &m.Host), Init: runnertest.Build(t, "build", "../runner/testdata/pipes"), Stdout: &out, Stderr: os.Stderr, Dir: runnertest.LogDir(t), Timeout: 2 * time.Minute,
		Run: wire.Run{Argv: []string{"/init", "shrink"}}, Faults: fault.Plan{{Kind: fault.Balloon, MiB: 300, After: time.Millisecond}},
	})
	assert.NilError(t, o.Infra)
	assert.Equal(t, o.Deadline+o.Hung, "")
	assert.Equal(t, out.String(), "less memory\n")
	assert.Assert(t, cmp.Contains(strings.Join(o.Notes, "\n"), "fault balloon,after=1ms,mib=300: injected 1×"))
}

// TestFaultsFromOutside: a full disk, a pause and an NMI in one machine.
func TestFaultsFromOutside(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	k := runnertest.Kernel(t, &m.Host)
	s, err := suiterun.Describe(t.Context(), runnertest.Build(t, "test", "-c", "../../suites/ext4"))
	assert.NilError(t, err)
	faulty, err := fault.ParsePlan("disk-full:e4-4k,nth=20\nvcpu-pause,after=1ms,for=50ms,times=2\nnmi,after=1ms\ndisk-read:e4-1k,nth=1000000\n")
	assert.NilError(t, err)
	job := suiterun.New(m).RunSuite(t.Context(), suiterun.SuiteJob{
		ID: "outside", Kernel: k, Suite: s, Dir: runnertest.LogDir(t),
		Task: plan.Task{Args: []string{"-test.v=test2json", "-test.run=^TestPowerCut$"}, Policy: plan.Policy{Timeout: 5 * time.Minute, Faults: faulty}},
	})
	assert.Assert(t, job.Verdict == result.VerdictTestFailed || job.Verdict == result.VerdictKernelFailed, "%v %s %q", job.Verdict, job.Reason, job.Notes)
	notes := strings.Join(job.Notes, "\n")
	for _, want := range []string{
		"fault disk-full:e4-4k,nth=20: injected ", "fault vcpu-pause,times=2,after=1ms,for=50ms: injected 2×", "fault nmi,after=1ms: injected 1×",
		"fault disk-read:e4-1k,nth=1000000: the program did not get there (the disk had ",
	} {
		assert.Check(t, cmp.Contains(notes, want))
	}
}
