// SPDX-License-Identifier: Apache-2.0

package suiterun

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/vmtest"
)

// guestEnviron is a test's environment in the guest.
func guestEnviron(extra []string) []string {
	return append([]string{
		"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:/bbin", "HOME=/root", "TMPDIR=/tmp", "USER=root", "LANG=C",
		wire.GuestEnv + "=1",
	}, extra...)
}

// Suite is a suite's test binary and what it says of itself.
type Suite struct {
	Binary string `json:"-"`
	// Given is what the user called it, to run it again; "" is its name.
	Given string      `json:"-"`
	Spec  suites.Spec `json:"spec"`
	Tests []string    `json:"tests"`
	// Rest are its examples and fuzz targets.
	Rest []string `json:"rest,omitempty"`
}

// SuiteJob is one suite for one VM.
type SuiteJob struct {
	ID     string
	Kernel *machine.Kernel
	Suite  Suite
	// Task is what its test binary is to do, and under which policy. Arguments that
	// are NotIsolable must have been refused with isolation by test.
	plan.Task
	Fetch []runner.Fetch
	// Raw, when set, gets the binary's standard output as it is, and nothing
	// is read from it: exit status and kernel log alone decide. Otherwise Args
	// must ask for -test.v=test2json, and the output is folded into cases.
	Raw, RawErr io.Writer
	Short       bool
	// Dir is an existing directory for the logs.
	Dir string
	// Transient says that Suite.Binary is gone after the run, as go test's is: a
	// copy is kept for Replay.
	Transient bool
	// Repro is a command line that runs the job again, ReproOne that without the
	// choice of tests by -run, or by ReproRun; empty is the same.
	Repro, ReproOne, ReproRun string
	// Jobs bounds how many VMs run at once with isolation by test; 0 is the
	// number of the host's processors. Free memory bounds it further.
	Jobs  int
	slots *semaphore.Weighted // what Jobs of several jobs share, or nil
	// From, when set, is a machine that Machine.SuiteTemplate made for this kernel
	// and suite: the job goes on from it in place of booting. Not with KernelArgs,
	// nor with faults in the guest, nor with isolation by test: these boot.
	From *runner.Template
	// Warm lets the job's VMs go on from a warm machine, see runner.Machine.ExecWarm,
	// unless they have From, faults in the guest, or are those of isolation by test.
	Warm  bool
	onCut func() // the test binary of a VM ended without its end; nil is ignored
	// OnEvent, when set, sees tests begin and end. Not with Raw.
	OnEvent func(gotest.Event)
}

// defaultTimeout is a suite's that has none of its own, for KVM.
const defaultTimeout = 5 * time.Minute

// SuiteTimeout is how long a suite may run with the accelerator.
func SuiteTimeout(s suites.Spec, a vmtest.Accel) time.Duration {
	t := s.Timeout
	if t == 0 {
		t = defaultTimeout
	}
	if a != vmtest.AccelKVM {
		t *= runner.TCGFactor
	}
	return t
}

// Runner runs suites on a machine's VMs. It is safe for concurrent use.
type Runner struct{ *runner.Machine }

// New makes a Runner.
func New(m *runner.Machine) Runner { return Runner{m} }

// RunRaw is RunSuite for a job whose output goes to its Raw writers as it is;
// it also returns how the test binary ended, nil if that is not known.
func (m Runner) RunRaw(ctx context.Context, j SuiteJob) (result.Job, *wire.Exited) {
	return m.runSuite(ctx, j)
}

// RunSuite runs a suite in a VM of its own and judges it.
func (m Runner) RunSuite(ctx context.Context, j SuiteJob) result.Job {
	job, _ := m.runSuite(ctx, j)
	return job
}

func (m Runner) runSuite(ctx context.Context, j SuiteJob) (job result.Job, exited *wire.Exited) {
	job = result.Job{
		ID: j.ID, Kernel: j.Kernel.Path, Release: j.Kernel.Release, Suite: j.Suite.Spec.Name,
		Started: time.Now(), Dir: j.Dir, Repro: j.Repro,
	}
	defer func() { job.Elapsed = time.Since(job.Started) }()
	if missing := j.Kernel.Config.Missing(j.Suite.Spec.Kconfig); len(missing) > 0 {
		skipSuite(&job, j, missing[0])
		return job, nil
	}
	if j.Timeout == 0 && !j.NoLimit {
		j.Timeout = SuiteTimeout(j.Suite.Spec, m.Accel)
	}
	if err := m.record(ctx, j); err != nil {
		complete(&job, j, runner.Outcome{Findings: agent.Findings{Infra: err}}, gaps{})
		job.Verdict, job.Reason = result.Judge(result.Facts{InfraErr: err.Error()})
		return job, nil
	}
	p := j.program()
	facts := result.Facts{Program: j.Raw != nil}
	var fold *gotest.Folder
	var parser *gotest.Parser
	var logs logFiles
	if j.Raw == nil {
		stdout, stderr := logs.create(j.Dir, "stdout.log"), logs.create(j.Dir, "stderr.log")
		fold = gotest.NewFolder(gotest.FoldConfig{Log: filepath.Join(j.Dir, "stdout.log")})
		parser = gotest.NewParser(func(e gotest.Event) {
			fold.Event(e)
			if j.OnEvent != nil {
				j.OnEvent(e)
			}
		})
		j.onCut = func() {
			_ = parser.Close()
			fold.Cut()
		}
		p.Stdout, p.Stderr = io.MultiWriter(stdout, parser), io.MultiWriter(stderr, fold.Stderr())
	}
	out, miss := m.runVMs(ctx, j, p)
	if fold != nil {
		_ = parser.Close()
		sum := fold.Finish()
		job.Cases = sum.Cases
		job.Notes = append(job.Notes, sum.Notes...)
		if sum.Panic != "" {
			job.Notes = append(job.Notes, "the test binary said: "+visible.Short(sum.Panic))
		}
		// Exit status 0 without PASS at the end: its output was cut.
		facts.Unconcluded = sum.Final == result.StatusInvalid && out.Exited != nil && out.Exited.Code == 0
		complete(&job, j, out, miss)
		facts.NothingTested = untested(j.Args, job.Cases)
	} else {
		for _, l := range miss.unended {
			facts.Unended = append(facts.Unended, l.test)
		}
		for _, l := range miss.unrun {
			facts.NotRun = append(facts.NotRun, l.test)
		}
		if rest := j.Args.Remaining(j.Suite.Rest, nil); !miss.tested && len(rest) == 0 && j.Args.Flag("test.bench") == "" &&
			len(j.Args.Remaining(j.Suite.Tests, nil)) > 0 {
			facts.NothingTested = "all tests were skipped, or have no subtest that -run selects"
		}
	}
	if err := logs.close(); err != nil {
		facts.InfraErr = err.Error()
	}
	judge(&job, facts, out, j)
	job.Repro = j.repro(job, slices.Concat(out.Failed, out.Running, facts.Unended, facts.NotRun))
	return job, out.Exited
}

// complete gives a verdict to every selected test that has none, and its own to
// those of which is known that they did not run.
func complete(job *result.Job, j SuiteJob, out runner.Outcome, miss gaps) {
	at := map[string]int{}
	for i := range job.Cases {
		at[job.Cases[i].Name] = i
	}
	unrun := func(test, why string) {
		c := result.Case{Name: test, Status: result.StatusNotRun, Reason: why}
		if i, ok := at[test]; ok {
			job.Cases[i] = c
			return
		}
		at[test] = len(job.Cases)
		job.Cases = append(job.Cases, c)
	}
	for _, l := range miss.unrun {
		unrun(l.test, l.why)
	}
	for _, l := range miss.unended {
		// A panic, or what it has logged, says more.
		if i, ok := at[l.test]; ok && (job.Cases[i].Reason == "did not finish" || strings.HasPrefix(job.Cases[i].Reason, "reported two results")) {
			job.Cases[i].Reason = l.why
		}
	}
	why := "the run ended before"
	switch {
	case out.Infra != nil:
		why = visible.Short(out.Infra.Error())
	case out.Deadline+out.Hung != "":
		why = out.Deadline + out.Hung
	case out.Exited != nil:
		why = "the test binary ended before: " + exitOf(out.Exited)
	case out.BootFailed:
		why = "the VM did not boot"
	}
	for _, t := range j.Args.Remaining(slices.Concat(j.Suite.Tests, j.Suite.Rest), nil) {
		if _, ok := at[t]; !ok {
			unrun(t, why)
		}
	}
}

// program is the suite's test binary in its VM.
func (j *SuiteJob) program() runner.Program {
	p := runner.Program{
		Kernel: j.Kernel, Spec: j.Suite.Spec, Init: j.Suite.Binary, Fetch: j.Fetch, Timeout: j.Timeout, Idle: j.Idle, Dir: j.Dir,
		Files:  j.Kernel.Extras(),
		Run:    wire.Run{Argv: append([]string{"/init"}, j.Args...), Env: guestEnviron(j.Env), Merge: j.Merge},
		Stdout: j.Raw, Stderr: j.RawErr,
		Faults: j.Faults, Marks: true,
	}
	if len(j.Faults.Guest()) > 0 {
		p.Run.Hold = wire.HoldStop
		p.Run.Env = append(p.Run.Env, wire.HoldEnv+"=1")
	}
	if len(j.KernelArgs()) == 0 && p.Run.Hold == "" && j.isolation() != suites.IsolateTest {
		p.From = j.From
	}
	p.Spec.Cmdline = append(p.Spec.Cmdline[:len(p.Spec.Cmdline):len(p.Spec.Cmdline)], j.KernelArgs()...)
	return p
}

// quietGo keeps Go's runtime from sending itself signals, each an allocation, at
// times of its own.
const quietGo = "GODEBUG=asyncpreemptoff=1"

// SuiteProgram is a suite's test binary, held before its tests.
func SuiteProgram(k *machine.Kernel, s Suite, args []string) runner.Program {
	return runner.Program{
		Kernel: k, Spec: s.Spec, Init: s.Binary, Files: k.Extras(),
		Marks: true,
		Run:   wire.Run{Argv: append([]string{"/init"}, args...), Env: guestEnviron([]string{wire.HoldEnv + "=1", quietGo}), Hold: wire.HoldStop},
	}
}

// runVMs runs the suite in one VM, and in further ones what a failing kernel
// left undone. The outcome is that of all together.
func (m Runner) runVMs(ctx context.Context, j SuiteJob, p runner.Program) (runner.Outcome, gaps) {
	switch j.isolation() {
	case suites.IsolateTest:
		if len(j.Args.Remaining(slices.Concat(j.Suite.Tests, j.Suite.Rest), nil)) > 0 {
			return m.runIsolated(ctx, j, p)
		}
	case suites.IsolateNone:
		j.KeepGoing = true
	}
	out := gotest.NewJoiner(p.Stdout, j.Args, false)
	if p.Stdout != nil {
		p.Stdout = out
	}
	env := p.Run.Env
	if !j.KeepGoing && len(j.Suite.Tests) > 0 && j.Args.Resumable() {
		env = append(env[:len(env):len(env)], wire.ResumeEnv+"=1")
	}
	p.Run.Env = env
	p.OnTest = out.Began
	clock := &alarm{w: p.Stderr}
	if p.Stderr != nil {
		p.Stderr = clock
	}
	var all runner.Outcome
	var r relayed
	exec := m.Exec
	if j.Warm && p.From == nil && p.Run.Hold == "" {
		w := m.StartWarm(ctx, p)
		defer w.Close()
		p.From = w.From
		exec = w.Exec
	}
	for vm := 1; ; vm++ {
		o := exec(ctx, p)
		exec = m.Exec
		r.timedOut = clock.rang()
		more := j.after(out, &o, &r, vm == maxVMs)
		if vm == 1 {
			all = o
		} else {
			all.GoOn(o)
		}
		if len(more) == 0 {
			break
		}
		m.Say("%s: %d tests go on in a fresh VM", j.ID, len(more))
		if vm == 1 && p.From == nil {
			if p.From = m.afresh(ctx, p); p.From != nil {
				defer p.From.Close() //nolint:errcheck // nothing to be written
			}
		}
		p.Log = fmt.Sprintf("console-%d.log", vm+1)
		p.Run.Env = append(env[:len(env):len(env)], wire.DoneEnv+"="+strings.Join(r.done, "\n"))
	}
	if e := all.Exited; e != nil && (poisonedExit(e.Code) || e.Code == 0 && r.bad) {
		// Poisoned with nothing left to run, or a last VM in which all was
		// well, stand for the failure before.
		e := *e
		e.Code = 1
		all.Exited = &e
	}
	return all, r.gaps
}

// afresh returns what the further VMs of a suite go on from, nil where each must
// boot. Its boot is told in console-boot.log.
func (m Runner) afresh(ctx context.Context, p runner.Program) *runner.Template {
	if p.Run.Hold != "" || len(p.Faults) > 0 || m.VMCore != "" {
		return nil
	}
	p.Run, p.Log = wire.Run{}, "console-boot.log"
	t, boot, err := m.Template(ctx, p)
	switch {
	case err != nil:
		if ctx.Err() == nil {
			m.Say("booting each fresh VM: VMs cannot be forked here: %v", err)
		}
		return nil
	case len(boot.Splats)+len(boot.KernelTests.Failed) > 0: // every VM is to show them
		_ = t.Close()
		return nil
	}
	return t
}

// alarm notices that a test binary ends because of -test.timeout, by its last words
// (testing.(*M).startAlarm).
type alarm struct {
	w io.Writer

	mu   sync.Mutex
	tail []byte
	seen bool
}

const alarmWords = "panic: test timed out after "

// Write implements io.Writer.
func (a *alarm) Write(p []byte) (int, error) {
	a.mu.Lock()
	a.tail = append(a.tail, p...)
	a.seen = a.seen || bytes.Contains(a.tail, []byte(alarmWords))
	a.tail = append(a.tail[:0], a.tail[max(0, len(a.tail)-len(alarmWords)):]...)
	a.mu.Unlock()
	return a.w.Write(p)
}

// rang says whether it did, and forgets it.
func (a *alarm) rang() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	seen := a.seen
	a.seen, a.tail = false, nil
	return seen
}

// skipSuite fills in a job whose kernel is known to lack what the suite needs.
func skipSuite(job *result.Job, j SuiteJob, need string) {
	reason := suites.KconfigReason(need, j.Kernel.Config[strings.TrimSuffix(need, "=y")])
	for _, t := range j.Args.Remaining(j.Suite.Tests, nil) {
		job.Cases = append(job.Cases, result.Case{Name: t, Status: result.StatusSkip, Reason: reason})
	}
	n := len(job.Cases)
	job.Verdict, job.Reason = result.Judge(result.Facts{EndMarker: true, TestsRun: n, TestsSkipped: n})
	job.Reason += ": " + reason
}

// judge folds an outcome into the job and asks for the verdict.
func judge(job *result.Job, f result.Facts, out runner.Outcome, j SuiteJob) {
	job.Accel, job.BootTime, job.BootFailed = string(out.Accel), out.Boot, out.BootFailed
	job.Notes = append(job.Notes, out.Remarks()...)
	job.Cases = append(job.Cases, out.KernelTests.Failed...)
	if n := out.KernelTests.Note(); n != "" {
		job.Notes = append(job.Notes, n)
	}
	o := out.Facts()
	job.Splats = o.Splats
	for i := range job.Splats {
		s := &job.Splats[i]
		if s.Repro = j.Repro; s.Test != "" {
			s.Repro = j.reproOf(exactly(s.Test))
		}
		blame(job, *s)
	}
	if out.EndMarker {
		for _, d := range out.Disks { // of every VM that ended in order
			c := result.Case{Name: "fsck/" + d.Disk, Status: result.StatusPass, Output: d.Output}
			if d.Err != nil {
				c.Status, c.Reason = result.StatusFail, fmt.Sprintf("%s: %v", d.Command, d.Err)
			}
			job.Cases = append(job.Cases, c)
		}
	}
	fs := suites.Facts{Config: j.Kernel.Config, Release: j.Kernel.Release, Short: j.Short}
	if out.Ready != nil {
		fs.Release = out.Ready.Release
	}
	for i := range job.Cases {
		c := &job.Cases[i]
		// A parent that only groups skipped subtests says nothing itself.
		c.Unearned = c.Status == result.StatusSkip && !j.Suite.Spec.Earned(c.Reason, fs)
		if c.Unearned {
			c.Reason = "skip not earned: " + c.Reason
		}
	}
	n := result.Count(job.Cases)
	o.Program, o.Unconcluded, o.Unended, o.NotRun, o.NothingTested = f.Program, f.Unconcluded, f.Unended, f.NotRun, f.NothingTested
	for i := range job.Cases {
		if c := &job.Cases[i]; c.Status == result.StatusNotRun {
			o.NotRun = append(o.NotRun, c.Name)
		}
	}
	o.TestsRun, o.TestsFailed, o.TestsSkipped, o.UnearnedSkips = n.Run, n.Fail, n.Skip, n.Unearned
	if n := len(out.Failed); o.TestsFailed == 0 && n > 0 { // whose output nobody reads
		o.TestsRun, o.TestsFailed = max(o.TestsRun, len(out.Ended)), n
	}
	if f.InfraErr != "" {
		o.InfraErr = f.InfraErr
	}
	f = o
	job.Verdict, job.Reason = result.Judge(f)
	if f.DeadlineExceeded+f.Hung != "" || !f.EndMarker && f.InfraErr == "" {
		if last := nonEmpty(out.LastWords, 3); len(last) > 0 {
			job.Notes = append(job.Notes, "last of the kernel log: "+strings.Join(last, " | "))
		}
	}
}

// blame fails the test in which a splat fell, and its parents, unless it is
// excused.
func blame(job *result.Job, s result.Splat) {
	for i := range job.Cases {
		c := &job.Cases[i]
		if s.Test == "" || c.Name != s.Test && !strings.HasPrefix(s.Test, c.Name+"/") {
			continue
		}
		// The first splat is the reason: it may be the cause of all others.
		if !s.Excused() && !slices.ContainsFunc(c.Splats, func(s result.Splat) bool { return !s.Excused() }) {
			c.Status, c.Reason = result.StatusFail, s.Title
		}
		if c.Name == s.Test {
			c.Splats = append(c.Splats, s)
		}
	}
}

func nonEmpty(lines []string, last int) []string {
	var out []string
	for _, l := range lines {
		if l = visible.Short(l); l != "" {
			out = append(out, l)
		}
	}
	return out[max(0, len(out)-last):]
}

// limited is a log file that keeps its first bytes and marks the cut: a guest
// must not fill the host's disk. An error is kept and does not stop the
// stream, because the guest must not stall on us.
type limited struct {
	f    *os.File
	left int64
	err  error
}

func (l *limited) Write(p []byte) (int, error) {
	if l.err != nil || l.left <= 0 {
		return len(p), nil
	}
	n := min(int64(len(p)), l.left)
	if _, l.err = l.f.Write(p[:n]); l.err == nil {
		if l.left -= n; l.left == 0 {
			_, l.err = l.f.WriteString("\n[kvmrun: cut here, the rest was not kept]\n")
		}
	}
	return len(p), nil
}

// logFiles are a job's limited files.
type logFiles []*limited

func (l *logFiles) create(dir, name string) *limited {
	f, err := output.Create(filepath.Join(dir, name))
	out := &limited{f: f, left: runner.LogLimit, err: err}
	*l = append(*l, out)
	return out
}

// close returns the first thing that went wrong with any of the files.
func (l logFiles) close() error {
	var errs []error
	for _, f := range l {
		if f.err == nil {
			f.err = f.f.Close()
		} else if f.f != nil {
			_ = f.f.Close()
		}
		errs = append(errs, f.err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("keep the program's output: %w", err)
	}
	return nil
}
