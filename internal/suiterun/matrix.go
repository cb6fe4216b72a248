// SPDX-License-Identifier: Apache-2.0

package suiterun

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/kvmrun/kvmrun/internal/agent"
	"github.com/kvmrun/kvmrun/internal/gotest"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/output"
	"github.com/kvmrun/kvmrun/internal/plan"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/words"
	"github.com/kvmrun/kvmrun/vmtest"
)

// Matrix is kernels x suites, a VM each.
type Matrix struct {
	Kernels []*machine.Kernel
	Suites  []Suite
	// Selection is the choice of tests, and Policy how all of them are run. A zero
	// Timeout is each suite's own.
	plan.Selection
	plan.Policy
	// Jobs bounds how many VMs run at once; 0 fits the host's cores. Free
	// memory bounds it further.
	Jobs int
	// Dir gets a directory per job.
	Dir string
	// Warm is SuiteJob.Warm.
	Warm bool
	// From is the jobs' SuiteJob.From, for a matrix of one kernel and one suite.
	From *runner.Template
	// Command is the start of the command line that runs a job again: all of it
	// but the kernel, the suite, the faults and the choice of tests.
	Command string
	// OnStart, OnEvent and OnDone, when set, tell of progress; they may be
	// called from several goroutines at once.
	OnStart func(i int, id string)
	OnEvent func(i int, e gotest.Event)
	OnDone  func(i int, j result.Job)

	forks *semaphore.Weighted // for isolation by test
}

// ErrNoTests is returned when an expression matches no test of any suite.
var ErrNoTests = errors.New("no tests to run")

// RunMatrix runs every suite on every kernel. The error is for what is wrong
// with the matrix itself and comes before any VM starts; all else is in the
// jobs, which come in the order kernels, suites.
func (m Runner) RunMatrix(ctx context.Context, x Matrix) (result.Run, error) {
	run := result.Run{Started: time.Now(), ID: filepath.Base(x.Dir)}
	sel, err := selected(x)
	if err != nil {
		return run, err
	}
	if err := m.CheckMemory(ctx, x.Kernels, sel); err != nil {
		return run, err
	}
	items := m.items(x, sel)
	ids := map[string]int{}
	run.Jobs = make([]result.Job, len(items))
	jobs := x.Jobs
	if jobs <= 0 {
		jobs = runtime.NumCPU()
	}
	slots := semaphore.NewWeighted(int64(jobs))
	memory := machine.NewBudget()
	x.forks = semaphore.NewWeighted(int64(jobs))
	var wg sync.WaitGroup
	for i, it := range items {
		id := runner.FileName(it.kernel.Release) + "-" + it.suite.Spec.Name
		if ids[id]++; ids[id] > 1 {
			id += "-" + strconv.Itoa(ids[id])
		}
		need := int64(m.memory(it.suite))
		// In order, so that a big VM is not overtaken for ever by small ones.
		if err := errors.Join(slots.Acquire(ctx, 1), memory.Acquire(ctx, need)); err != nil {
			run.Jobs[i] = notRun(x, it.kernel, it.suite, id, err)
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer slots.Release(1)
			defer memory.Release(need)
			run.Jobs[i] = m.runItem(ctx, x, i, id, it)
			if x.OnDone != nil {
				x.OnDone(i, run.Jobs[i])
			}
		}()
	}
	wg.Wait()
	run.Elapsed = time.Since(run.Started)
	return run, nil
}

// item is one job of a matrix.
type item struct {
	spec   plan.JobSpec
	kernel *machine.Kernel
	suite  Suite
}

// items are the jobs of a matrix with the chosen suites.
func (m Runner) items(x Matrix, chosen []Suite) []item {
	var kernels []plan.Kernel
	for _, k := range x.Kernels {
		kernels = append(kernels, kernelRef(k))
	}
	var programs []plan.Program
	limits := map[string]time.Duration{}
	for _, s := range chosen {
		programs = append(programs, programRef(s))
		if limits[s.Binary] = x.Timeout; x.Timeout == 0 {
			limits[s.Binary] = SuiteTimeout(s.Spec, m.Accel)
		}
	}
	var out []item
	for i, spec := range plan.Jobs(kernels, programs, m.shape(), func(p plan.Program) plan.Task {
		limit := limits[p.File]
		t := plan.Task{Args: x.Args(limit), Policy: x.Policy}
		// The test binary's own limit comes first: it knows which test hangs.
		t.Timeout = limit + 10*time.Second
		return t
	}) {
		out = append(out, item{spec, x.Kernels[i/len(chosen)], chosen[i%len(chosen)]})
	}
	return out
}

// CheckMemory refuses a size that the user chose and in which a suite cannot
// boot. Others are the suites' own, and known to do.
func (m Runner) CheckMemory(ctx context.Context, kernels []*machine.Kernel, suites []Suite) error {
	if m.MemoryMiB <= 0 {
		return nil
	}
	for _, k := range kernels {
		for _, s := range suites {
			p := runner.Program{Kernel: k, Spec: s.Spec, Init: s.Binary, Files: k.Extras()}
			if err := m.TooLittleMemory(ctx, p); err != nil {
				return fmt.Errorf("-memory: suite %s: %w", s.Spec.Name, err)
			}
		}
	}
	return nil
}

func notRun(x Matrix, k *machine.Kernel, s Suite, id string, err error) result.Job {
	j := result.Job{ID: id, Kernel: k.Path, Release: k.Release, Suite: s.Spec.Name, Started: time.Now()}
	args := []string{"-test.run=" + x.Run, "-test.skip=" + x.Skip}
	complete(&j, SuiteJob{Suite: s, Task: plan.Task{Args: args}}, runner.Outcome{Findings: agent.Findings{Infra: err}}, gaps{})
	j.Verdict, j.Reason = result.Judge(result.Facts{InfraErr: "not run: " + err.Error()})
	return j
}

func (m Runner) runItem(ctx context.Context, x Matrix, i int, id string, it item) result.Job {
	k, s := it.kernel, it.suite
	dir := filepath.Join(x.Dir, id)
	if err := output.MkdirAll(x.Dir, dir); err != nil {
		return notRun(x, k, s, id, err)
	}
	if x.OnStart != nil {
		x.OnStart(i, id)
	}
	given := s.Given
	if given == "" {
		given = s.Spec.Name
	}
	one := x.Command + " -kernel " + words.Quote(k.Path) + " -suite " + words.Quote(given)
	for _, f := range x.Faults {
		one += " -fault " + words.Quote(f.String())
	}
	if x.Skip != "" {
		one += " -skip " + words.Quote(x.Skip)
	}
	repro := one
	if x.Run != "" {
		repro += " -run " + words.Quote(x.Run)
	}
	job := SuiteJob{
		ID: id, Kernel: k, Suite: s, Task: it.spec.Task, Short: x.Short, Dir: dir, Repro: repro, ReproOne: one,
		From: x.From, Jobs: x.Jobs, slots: x.forks,
		Warm: x.Warm,
	}
	if x.OnEvent != nil {
		job.OnEvent = func(e gotest.Event) { x.OnEvent(i, e) }
	}
	return m.RunSuite(ctx, job)
}

func (m Runner) memory(s Suite) int {
	switch {
	case m.MemoryMiB > 0:
		return m.MemoryMiB
	case s.Spec.MemoryMiB > 0:
		return s.Spec.MemoryMiB
	}
	return vmtest.DefaultMemoryMiB
}

// selected drops the suites in which no test matches, and refuses expressions
// that match nothing at all or are none.
func selected(x Matrix) ([]Suite, error) {
	if _, err := gotest.TopLevel(x.Skip); err != nil {
		return nil, fmt.Errorf("-skip %s: %w", x.Skip, err)
	}
	if x.Run == "" {
		return x.Suites, nil
	}
	match, err := gotest.TopLevel(x.Run)
	if err != nil {
		return nil, fmt.Errorf("-run %s: %w", x.Run, err)
	}
	var out []Suite
	var all []string
	for _, s := range x.Suites {
		hit := false
		for _, t := range s.Tests {
			hit = hit || match(t)
			all = append(all, t)
		}
		if hit {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("-run %s: %w: no test of the chosen suites matches%s", x.Run, ErrNoTests, words.Nearest(x.Run, all))
	}
	return out, nil
}
