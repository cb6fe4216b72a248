// SPDX-License-Identifier: Apache-2.0

package suiterun_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
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
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites"
)

// verdictOf is what must not depend on how far tests are kept apart.
type verdictOf struct {
	Status   result.Status
	Reason   string
	Unearned bool
	Splats   []string // titles
}

// TestIsolationsAgree: a suite has the same tests with the same verdicts in one
// VM and in a VM for each. The other suites are compared by
// TestAllSuitesIsolated, which takes minutes.
func TestIsolationsAgree(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	isolationsAgree(t, m, runnertest.Kernel(t, &m.Host), "ipe", "-test.run=Policy")
}

// TestAllSuitesIsolated compares all suites, on the kernel of the distribution
// and on one that looks closer.
func TestAllSuitesIsolated(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a quarter of an hour under TCG: run it without -short, as .ci/kernels all does")
	}
	m, k := runnertest.DebugKernel(t)
	for _, k := range []*machine.Kernel{runnertest.Kernel(t, &m.Host), k} {
		t.Run(k.Release, func(t *testing.T) {
			for _, suite := range []string{"pamcap", "ipe", "landlock", "uffdwp", "ext4"} {
				isolationsAgree(t, m, k, suite)
			}
		})
	}
}

func isolationsAgree(t *testing.T, m *runner.Machine, k *machine.Kernel, suite string, args ...string) {
	t.Run(suite, func(t *testing.T) {
		s, err := suiterun.Describe(t.Context(), runnertest.Build(t, "test", "-c", "-ldflags=-s -w", "../../suites/"+suite))
		assert.NilError(t, err)
		together := verdicts(t, m, k, s, suites.IsolateSuite, args)
		apart := verdicts(t, m, k, s, suites.IsolateTest, args)
		if len(args) == 0 {
			assert.Assert(t, len(together) > len(s.Tests), "%d tests of at least %d", len(together)-1, len(s.Tests))
		}
		assert.Assert(t, len(together) > 5, "%v", together)
		assert.Equal(t, cmp.Diff(together, apart), "")
	})
}

// apart is the suite testdata/apart, whose tests fail unless each is alone.
func apart(t *testing.T) suiterun.Suite {
	t.Helper()
	s, err := suiterun.Describe(t.Context(), runnertest.Build(t, "test", "-c", "-ldflags=-s -w", "./testdata/apart"))
	assert.NilError(t, err)
	return s
}

func runApart(t *testing.T, m *runner.Machine, j suiterun.SuiteJob) (job result.Job, log string) {
	t.Helper()
	j.ID, j.Dir, j.Args = "apart", t.TempDir(), append([]string{"-test.v=test2json"}, j.Args...)
	job = suiterun.New(m).RunSuite(t.Context(), j)
	text, err := os.ReadFile(filepath.Join(j.Dir, "console.log"))
	assert.NilError(t, err)
	return job, string(text)
}

// TestDeclaredIsolation: a suite gets the isolation that it declares, unless the
// user wants another one, or something that needs one process.
func TestDeclaredIsolation(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	k, s := runnertest.Kernel(t, &m.Host), apart(t)
	job, log := runApart(t, m, suiterun.SuiteJob{Kernel: k, Suite: s})
	assert.Equal(t, job.Verdict, result.VerdictPass, "%+v", job)
	assert.Equal(t, strings.Count(log, wire.ForkMark("")), 3)
	drawDifferently(t, job.Cases, false)
	for _, j := range []suiterun.SuiteJob{
		{Task: plan.Task{Policy: plan.Policy{Isolate: suites.IsolateSuite}}},
		{Task: plan.Task{Args: []string{"-test.shuffle=1"}}},
	} {
		j.Kernel, j.Suite = k, s
		job, log := runApart(t, m, j)
		assert.Equal(t, job.Verdict, result.VerdictTestFailed, "%+v", job)
		n := result.Count(job.Cases)
		assert.Equal(t, n.Fail, 2, "%+v", job.Cases)
		assert.Equal(t, strings.Count(log, wire.ForkMark("")), 0)
	}
	// Once the template is there, memory is short: one after the other, and to
	// the end.
	m.Free = (func() int { return 0 })
	job, log = runApart(t, m, suiterun.SuiteJob{Kernel: k, Suite: s, Jobs: 4})
	assert.Equal(t, job.Verdict, result.VerdictPass, "%+v", job)
	assert.Equal(t, strings.Count(log, wire.ForkMark("")), 3, "%+v\n%s", job, log)
	// And in processes of their own.
	m.Free = (nil)
	s.Spec.FreshProcess = true
	job, log = runApart(t, m, suiterun.SuiteJob{Kernel: k, Suite: s})
	assert.Equal(t, job.Verdict, result.VerdictPass, "%+v", job)
	assert.Equal(t, strings.Count(log, wire.ForkMark("")), 3)
	drawDifferently(t, job.Cases, true)
}

// drawDifferently checks that no two of the tests drew the same random bytes, UUID
// or temporary name; in processes of their own, nothing at all.
func drawDifferently(t *testing.T, cases []result.Case, fresh bool) {
	t.Helper()
	drawn := map[string]string{}
	for _, c := range cases {
		n := 0
		for line := range strings.Lines(c.Output) {
			_, what, ok := strings.Cut(line, "drawn ")
			once := strings.HasPrefix(what, "once ")
			if !ok || once && !fresh {
				continue
			}
			n++
			assert.Check(t, drawn[what] == "", "%s and %s drew the same: %s", drawn[what], c.Name, what)
			drawn[what] = c.Name
		}
		assert.Check(t, n >= 5, "%s", c.Output)
	}
}

// TestIsolationWithoutForks: where VMs cannot be forked, one line says why, and
// each test has a VM of its own all the same.
func TestIsolationWithoutForks(t *testing.T) {
	cc, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	k, s := runnertest.Kernel(t, &machine.Host{Cache: cc}), apart(t)
	qemu, err := exec.LookPath("qemu-system-x86_64")
	assert.NilError(t, err)
	for name, c := range map[string]struct {
		machine func(t *testing.T, m *runner.Machine)
		says    string
		tests   string
	}{
		"a memory dump is wanted": {
			func(_ *testing.T, m *runner.Machine) { m.VMCore = "elf" },
			"a memory dump is wanted, which only a booted VM gives", "TestA",
		},
		"too little memory": {
			func(_ *testing.T, m *runner.Machine) { m.Free = (func() int { return 300 }) },
			"keep a guest of 256 MiB in memory: 300 MiB are free", "TestA|TestB",
		},
		"a device that does not migrate": {
			func(t *testing.T, m *runner.Machine) {
				dir := t.TempDir()
				assert.NilError(t, os.Chmod(filepath.Dir(dir), 0o755)) // QEMU runs as another user
				m.QEMU = filepath.Join(dir, "qemu")
				script := fmt.Sprintf("#!/bin/sh\nexec %s \"$@\" -drive if=none,id=nv,driver=null-co -device nvme,drive=nv,serial=x\n", qemu)
				assert.NilError(t, os.WriteFile(m.QEMU, []byte(script), 0o755))
			},
			"freeze machine: run qmp command migrate: State blocked by non-migratable device", "TestA",
		},
		"an old QEMU": {
			func(t *testing.T, m *runner.Machine) {
				// As if it had not learned it yet.
				text, err := os.ReadFile(qemu)
				assert.NilError(t, err)
				text = bytes.ReplaceAll(text, []byte("x-ignore-shared"), []byte("x-ignore-nothing")[:15])
				// Where it finds its modules and its firmware.
				dir := t.TempDir()
				assert.NilError(t, os.Chmod(filepath.Dir(dir), 0o755))
				assert.NilError(t, os.Mkdir(filepath.Join(dir, "bin"), 0o755))
				for _, d := range []string{"lib", "share"} {
					assert.NilError(t, os.Symlink(filepath.Join(filepath.Dir(filepath.Dir(qemu)), d), filepath.Join(dir, d)))
				}
				m.QEMU = filepath.Join(dir, "bin", filepath.Base(qemu))
				assert.NilError(t, os.WriteFile(m.QEMU, text, 0o755))
			},
			"freeze machine: run qmp command migrate-set-capabilities: ", "TestA",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var said []string
			m := &runner.Machine{Host: machine.Host{Cache: cc, Progress: func(s string) {
				mu.Lock()
				defer mu.Unlock()
				said = append(said, s)
			}}}
			c.machine(t, m)
			n := strings.Count(c.tests, "Test")
			job, log := runApart(t, m, suiterun.SuiteJob{Kernel: k, Suite: s, Task: plan.Task{Args: []string{"-test.run=" + c.tests}}})
			assert.Equal(t, job.Verdict, result.VerdictPass, "%+v", job)
			assert.Equal(t, result.Count(job.Cases).Run, n)
			assert.Equal(t, strings.Count(log, wire.ForkMark("")), 0)
			assert.Equal(t, strings.Count(log, "Linux version"), n)
			all := strings.Join(said, "\n")
			assert.Equal(t, strings.Count(all, "cannot be forked"), 1, "%q", said)
			assert.Assert(t, is.Contains(all, "booting a VM for each test: VMs cannot be forked here: "+c.says))
		})
	}
}

// TestFaultsInIsolatedTests: each test has the faults for itself, and how often
// they came is said of all together.
func TestFaultsInIsolatedTests(t *testing.T) {
	m, k := runnertest.DebugKernel(t)
	const spec = "fail_function:__x64_sys_pipe2=-EMFILE,nth=1"
	f, err := fault.Parse(spec)
	assert.NilError(t, err)
	s := apart(t)
	job, log := runApart(t, m, suiterun.SuiteJob{Kernel: k, Suite: s, Task: plan.Task{Policy: plan.Policy{Faults: fault.Plan{f}}}})
	assert.Equal(t, job.Verdict, result.VerdictPass, "%+v", job)
	assert.Equal(t, strings.Count(log, wire.ForkMark("")), 3)
	for _, c := range job.Cases {
		assert.Check(t, is.Contains(c.Output, "no pipe: too many open files"), c.Name)
	}
	notes := strings.Join(job.Notes, "\n")
	assert.Equal(t, strings.Count(notes, "fault "), 1, notes)
	assert.Assert(t, is.Contains(notes, "fault "+spec+": injected 3×"))
}

// verdicts runs a suite and returns what came of each test, and of the whole
// under the name "".
func verdicts(t *testing.T, m *runner.Machine, k *machine.Kernel, s suiterun.Suite, how suites.Isolation, args []string) map[string]verdictOf {
	t.Helper()
	out, _ := jobVerdicts(t, m, suiterun.SuiteJob{Kernel: k, Suite: s, Task: plan.Task{Args: args, Policy: plan.Policy{Isolate: how}}})
	return out
}

// jobVerdicts is verdicts of a job, with its kernel log.
func jobVerdicts(t *testing.T, m *runner.Machine, j suiterun.SuiteJob) (out map[string]verdictOf, log string) {
	t.Helper()
	j.ID, j.Dir, j.Args = j.Suite.Spec.Name, t.TempDir(), append([]string{"-test.v=test2json"}, j.Args...)
	job := suiterun.New(m).RunSuite(t.Context(), j)
	t.Logf("%+v: %d tests in %v: %s %s %q", []any{j.Isolate, j.Warm}, len(job.Cases), job.Elapsed, job.Verdict, job.Reason, job.Notes)
	titles := func(splats []result.Splat) (out []string) {
		for _, s := range splats {
			out = append(out, s.Title)
		}
		return out
	}
	out = map[string]verdictOf{"": {Reason: job.Verdict.String(), Splats: titles(job.Splats)}}
	for _, c := range job.Cases {
		_, twice := out[c.Name]
		assert.Check(t, !twice, "%s came twice", c.Name)
		out[c.Name] = verdictOf{c.Status, c.Reason, c.Unearned, titles(c.Splats)}
	}
	text, err := os.ReadFile(filepath.Join(j.Dir, "console.log"))
	assert.NilError(t, err)
	return out, string(text)
}

// TestWarmSuitesAgree: a suite has the same tests with the same verdicts in a VM that
// boots and in a fork of a warm machine, that which was made for it and that which is
// there: with a kernel command line, disks and modules of its own, and with failures.
func TestWarmSuitesAgree(t *testing.T) {
	m, err := runner.NewMachine(t.TempDir(), "tcg")
	assert.NilError(t, err)
	var said []string
	m.Progress = func(s string) { said = append(said, s) }
	k := runnertest.Kernel(t, &m.Host)
	build := func(pkg string) suiterun.Suite {
		s, err := suiterun.Describe(t.Context(), runnertest.Build(t, "test", "-c", "-ldflags=-s -w", pkg))
		assert.NilError(t, err)
		return s
	}
	for i, j := range []suiterun.SuiteJob{
		{Suite: build("./testdata/apart"), Task: plan.Task{Policy: plan.Policy{Isolate: suites.IsolateSuite}}},
		{Suite: build("../../suites/uffdwp"), Task: plan.Task{Args: []string{"-test.run=Fork|Huge"}}},
	} {
		j.Kernel = k
		cold, log := jobVerdicts(t, m, j)
		assert.Equal(t, strings.Count(log, wire.ForkMark("")), 0)
		assert.Assert(t, len(cold) > 3, "%v", cold)
		j.Warm = true
		for range 2 {
			warm, log := jobVerdicts(t, m, j)
			assert.Equal(t, strings.Count(log, wire.ForkMark("")), 1)
			assert.Equal(t, cmp.Diff(cold, warm), "")
			kept, err := filepath.Glob(filepath.Join(m.Cache.Root(), "template", "*", "ram"))
			assert.NilError(t, err)
			assert.Equal(t, len(kept), i+1)
		}
	}
	assert.Assert(t, !strings.Contains(strings.Join(said, "\n"), "warm machine"), "%q", said)
}
