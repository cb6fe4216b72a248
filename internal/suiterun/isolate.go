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
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/kvmrun/kvmrun/internal/agent"
	"github.com/kvmrun/kvmrun/internal/gotest"
	"github.com/kvmrun/kvmrun/internal/klog"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/output"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/vmtest"
)

// isolation is the job's, or what its suite declares.
func (j *SuiteJob) isolation() suites.Isolation {
	switch {
	case j.Isolate != "":
		return j.Isolate
	case j.Suite.Spec.Isolate != "" && NotIsolable(j.Args) == nil:
		return j.Suite.Spec.Isolate
	}
	return suites.IsolateSuite
}

// NotIsolable says which of a test binary's arguments needs all tests in one
// process, if any.
func NotIsolable(args gotest.Args) error {
	if flag := args.Isolable(); flag != "" {
		return fmt.Errorf("-isolate test runs each test in a process of its own, and -%s does not work with that: leave out one of them", strings.TrimPrefix(flag, "test."))
	}
	return nil
}

// firstGuess is what a fork is thought to need of the host's memory before one
// has shown it, in MiB: QEMU itself 40, a suite's test some 30 (measured).
const firstGuess = 128

// isolated runs each test of a suite in a machine of its own and joins what they
// say as if it had been one.
type isolated struct {
	m Runner
	j SuiteJob
	p runner.Program

	tmpl  *runner.Template // nil: every machine boots
	units []*unit
	all   runner.Outcome
	gaps
	mu      sync.Mutex
	until   time.Time // end of the time for all of them, zero for none
	renewed int       // how often that was put off

	alive  atomic.Int32 // forks there are
	gone   chan struct{}
	needed atomic.Int64 // the most that a fork was seen to need, in MiB
}

// unit is a test, or with the name "" what is no test.
type unit struct {
	test   string
	log    string // name of its kernel log: its fork's, once it has one
	run    string // what -test.run must be
	stdout *runner.Spool
	stderr *runner.Spool
	done   chan struct{}
	begun  bool   // valid after done, as are unrun and result
	unrun  string // why it was not run, "" if it was
	result runner.Outcome
}

// runIsolated is runVMs for isolation by test.
func (m Runner) runIsolated(ctx context.Context, j SuiteJob, p runner.Program) (runner.Outcome, gaps) {
	// The test binary is started once and stands still just before its tests.
	old := p
	p = heldProgram(p)
	x := &isolated{m: m, j: j, p: p, gone: make(chan struct{}, 1)}
	tests := j.Args.Remaining(j.Suite.Tests, nil)
	others := j.Args.Remaining(j.Suite.Rest, nil)
	if len(others) > 0 {
		tests = append(tests, "")
	}
	for i, t := range tests {
		u := &unit{test: t, run: j.Args.Only(t), log: fmt.Sprintf("console-%d-booted.log", i+1), done: make(chan struct{})}
		if t == "" {
			u.run = "^(" + strings.Join(others, "|") + ")$"
		}
		u.stdout, u.stderr = runner.NewSpool(p.Dir), runner.NewSpool(p.Dir)
		x.units = append(x.units, u)
	}
	var tmpl *runner.Template
	var boot runner.Outcome
	err := errors.New("a fault of the host's side needs a VM that was booted with it")
	if len(p.Faults.Host()) == 0 {
		tmpl, boot, err = m.Template(ctx, template(p))
	}
	x.all = runner.Outcome{
		Findings: agent.Findings{Ready: boot.Ready, Notes: boot.Notes, Boot: boot.Boot, EndMarker: true, Exited: &wire.Exited{}},
		Accel:    boot.Accel, Args: boot.Args, Splats: boot.Splats, KernelTests: boot.KernelTests, Prepare: boot.Prepare,
	}
	switch {
	case boot.Exited != nil:
		// It ends before any test; as in one VM, and with all that it says.
		j.Isolate = suites.IsolateSuite
		return m.runVMs(ctx, j, old)
	case boot.Infra != nil || boot.GuestFault != "" || boot.Panicked || boot.Scanner != "" || boot.Deadline+boot.Hung != "":
		if tmpl != nil {
			_ = tmpl.Close()
		}
		return boot, gaps{} // the kernel does not get far enough, or cannot be trusted
	case err != nil:
		x.all.Notes = append(x.all.Notes, m.Remark(fmt.Sprintf("booting a VM for each test: VMs cannot be forked here: %v", err))...)
	default:
		x.tmpl = tmpl
		defer tmpl.Close() //nolint:errcheck // nothing to be written
	}
	if p.Timeout > 0 {
		x.until = time.Now().Add(p.Timeout)
	}
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { x.runAll(ctx) })
	return x.join(stop)
}

// heldProgram is a run of a test binary that stands still just before its tests.
// Which of them it then runs, it is told when it goes on.
func heldProgram(p runner.Program) runner.Program {
	p.Run.Hold = wire.HoldStop
	if !slices.Contains(p.Run.Env, wire.HoldEnv+"=1") {
		p.Run.Env = append(slices.Clone(p.Run.Env), wire.HoldEnv+"=1")
	}
	p.Run.Argv = gotest.Args(p.Run.Argv).Without("test.run")
	return p
}

// template is what is frozen for a held program: the program as it stands still,
// or a machine that is ready for it.
func template(p runner.Program) runner.Program {
	if p.Spec.FreshProcess {
		p.Run.Hold = ""
	}
	return p
}

// runAll runs the units, some at a time, and closes every done.
func (x *isolated) runAll(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	forks := x.forks(ctx, &wg)
	jobs := x.j.Jobs
	if jobs <= 0 {
		jobs = runtime.NumCPU()
	}
	if x.j.slots == nil {
		x.j.slots = semaphore.NewWeighted(int64(jobs))
	}
	var next atomic.Int32
	for range min(runner.Watched*jobs, len(x.units)) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(x.units) {
					return
				}
				x.run(ctx, x.units[i], forks)
			}
		})
	}
}

// forks makes a machine for each unit ahead of need: one is ready while others
// run. The channel is closed when there will be no more.
func (x *isolated) forks(ctx context.Context, wg *sync.WaitGroup) <-chan *runner.Forked {
	forks := make(chan *runner.Forked)
	if x.tmpl == nil {
		close(forks)
		return forks
	}
	wg.Go(func() {
		defer close(forks)
		for i := range x.units { // whichever of them will have it
			if !x.awaitMemory(ctx) {
				return
			}
			g, err := x.tmpl.Fork(ctx, x.m.Machine, x.p.Dir, fmt.Sprintf("console-%d.log", i+1))
			if err != nil {
				if ctx.Err() == nil {
					x.m.Say("booting VMs that could not be forked: %v", err)
				}
				return
			}
			x.alive.Add(1)
			select {
			case forks <- g:
			case <-ctx.Done():
				g.Close()
				return
			}
		}
	})
	return forks
}

// awaitMemory waits until there is memory for one more fork, and for those that
// run to grow. One may always run.
func (x *isolated) awaitMemory(ctx context.Context) bool {
	for {
		n := int(x.alive.Load())
		need := int(x.needed.Load())
		if need == 0 {
			need = firstGuess
		}
		if n == 0 || x.m.FreeMiB()-machine.Reserve >= need*(n+1) {
			return ctx.Err() == nil
		}
		select {
		case <-x.gone:
		case <-ctx.Done():
			return false
		}
	}
}

// run runs one unit in a fork, or in a machine that it boots.
func (x *isolated) run(ctx context.Context, u *unit, forks <-chan *runner.Forked) {
	defer close(u.done)
	if x.j.slots.Acquire(ctx, 1) != nil {
		return
	}
	done := sync.OnceFunc(func() { x.j.slots.Release(1) })
	defer done()
	p := x.p
	p.OnWatch = done
	p.Log, p.Stdout, p.Stderr = u.log, u.stdout, u.stderr
	p.Test = u.test
	if x.p.Stderr == nil {
		p.Stderr = nil
	}
	g := <-forks
	if g != nil {
		defer x.freed()
	}
	if ctx.Err() != nil {
		g.Close()
		return
	}
	u.begun = true
	if p.Timeout, u.unrun = x.time(time.Now()); u.unrun != "" {
		g.Close()
		return
	}
	p.Release = &wire.Release{Args: []string{u.run}}
	if g == nil {
		u.result = x.m.Exec(ctx, p)
		return
	}
	u.log = g.Log()
	u.result = x.m.ExecIn(ctx, p, g)
	if mib := int64(u.result.HostMiB); mib > x.needed.Load() {
		x.needed.Store(mib)
	}
}

// maxPeriods bounds how often the time of a suite begins anew: as often as a suite in
// one VM gets a further one when a test has used it up.
const maxPeriods = maxHangs

// time returns how long a unit may run that begins now, zero for no limit, or why it
// is not run. Each may take the suite's whole time, so that none is blamed for what
// others have used; when that is used up, it begins anew, a few times.
func (x *isolated) time(now time.Time) (limit time.Duration, unrun string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.until.IsZero() {
		return 0, ""
	}
	left := x.until.Sub(now)
	if x.j.NoLimit { // the user's limit is for all of them
		if left <= 0 {
			return 0, fmt.Sprintf("the time of %s was used up before", x.p.Timeout)
		}
		return left, ""
	}
	if left <= 0 {
		if x.renewed == maxPeriods-1 {
			return 0, fmt.Sprintf("the suite's time of %s was used up %d times before", x.p.Timeout, maxPeriods)
		}
		x.renewed++
		x.until = now.Add(x.p.Timeout)
	}
	return x.p.Timeout, ""
}

// freed notes that a fork is gone.
func (x *isolated) freed() {
	x.alive.Add(-1)
	select {
	case x.gone <- struct{}{}:
	default:
	}
}

// join passes on what the units say, in their order, each as soon as it is its
// turn, and adds up what they showed. It calls stop when no more are wanted.
func (x *isolated) join(stop func()) (runner.Outcome, gaps) {
	failed := false
	var logEnd int64
	var err error
	if x.tmpl != nil { // whose boot's log is the beginning
		logEnd, err = logSize(filepath.Join(x.p.Dir, x.p.LogName()))
	}
	s := gotest.NewJoiner(x.p.Stdout, x.j.Args, true)
	for _, u := range x.units {
		out := &withoutFinal{w: s, finals: s.Finals()}
		u.stdout.Live(out)
		if x.p.Stderr != nil {
			u.stderr.Live(x.p.Stderr)
		}
		<-u.done
		u.stdout.Close()
		u.stderr.Close()
		if !u.begun {
			x.all.Fail(errors.New("interrupted"))
			x.all.EndMarker = false
			break
		}
		o := &u.result
		if u.unrun != "" {
			if u.test != "" { // what else there is, is known when all is done
				s.Fail(u.test, "not run: "+u.unrun, "")
				x.unrun = append(x.unrun, missing{u.test, u.unrun})
			}
			failed = true
			x.all.Exited.Code = max(x.all.Exited.Code, 1)
			continue
		}
		if err == nil {
			logEnd, err = x.joinLog(u, logEnd)
		}
		final := out.end()
		ended := u.test == "" || slices.Contains(o.Ended, u.test)
		// One whose result has been told is not told another because the kernel
		// log broke off: the log is what is wrong then.
		unheard := o.Infra == nil || !s.Told(u.test)
		cut := x.cutShort(u, final)
		if cut && x.j.onCut != nil {
			x.j.onCut()
		}
		switch why, text := whyUnended(o); {
		case (len(o.Running) > 0 || !ended) && unheard,
			u.test != "" && o.Exited == nil && len(s.Untold(o.Ended, o.Failed)) > 0: // its result died with the VM
			s.End(false, false)
			s.Fail(u.test, why, text)
			x.unended = append(x.unended, missing{u.test, why})
		}
		if n := u.lostOutput(); n > 0 {
			x.all.Notes = append(x.all.Notes, fmt.Sprintf("%s printed more than %d MiB before it was its turn: %d bytes of that were not kept", u.name(), runner.SpoolLimit>>20, n))
		}
		bad := cut || o.Exited == nil || o.Exited.Code != 0 || slices.ContainsFunc(o.Splats, func(s klog.Splat) bool { return !s.Excused() })
		failed = failed || bad
		x.add(u)
		if cut {
			x.all.Exited.Code = max(x.all.Exited.Code, 1)
		}
		if bad && x.j.Args.FailFast() {
			break
		}
	}
	stop()
	if err != nil {
		x.all.Fail(fmt.Errorf("join the kernel logs: %w", err))
	}
	verdict := s.Finals()[0]
	if failed {
		verdict = s.Finals()[1]
	}
	_, _ = s.Write([]byte(verdict))
	x.all.Disks = joinChecks(x.units)
	return x.all, x.gaps
}

// cutShort is SuiteJob.cutShort for one unit, of which no more is to be run and which
// is failed whatever its status.
func (x *isolated) cutShort(u *unit, final string) bool {
	e := u.result.Exited
	if e == nil || !u.result.EndMarker || e.Err != "" {
		return false
	}
	return len(u.result.Running) > 0 || final == "" || u.test != "" && !slices.Contains(u.result.Ended, u.test) ||
		e.Code == 0 && (final != "PASS" || len(u.result.Failed) > 0)
}

// add adds a unit's facts to those of all.
func (x *isolated) add(u *unit) {
	o := u.result
	// Reasons say whose they are.
	if o.Deadline != "" {
		o.Deadline = u.name() + ": " + o.Deadline
	}
	if o.Hung != "" {
		o.Hung = u.name() + ": " + o.Hung
	}
	if o.Infra != nil {
		o.Infra = fmt.Errorf("%s: %w", u.name(), o.Infra)
	}
	o.Disks = nil // of all units, see joinChecks
	a := &x.all
	if !o.EndMarker && a.LastWords == nil {
		a.LastWords, a.Exit = o.LastWords, o.Exit
	}
	a.EndMarker = a.EndMarker && o.EndMarker
	x.tested = x.tested || slices.ContainsFunc(o.Ended, func(t string) bool { return !slices.Contains(o.Skipped, t) })
	a.Also(o)
	switch e := o.Exited; {
	case e == nil:
		a.Exited.Code = max(a.Exited.Code, 1)
	case e.Signal != 0:
		a.Exited.Code = max(a.Exited.Code, e.Code, 1)
	default:
		a.Exited.Code = max(a.Exited.Code, e.Code)
	}
	if o.Exited != nil && a.Exited.Err == "" {
		a.Exited.Err = o.Exited.Err
	}
}

func (u *unit) name() string {
	if u.test == "" {
		return "examples"
	}
	return u.test
}

// whyUnended says why a test that began did not end.
func whyUnended(o *runner.Outcome) (why, text string) {
	for _, s := range o.Splats {
		if o.Exited == nil && (s.Test != "" || s.Panicked) {
			return "the kernel died during this test: " + s.Title, string(s.Raw)
		}
	}
	switch e := o.Exited; {
	case o.Deadline+o.Hung != "":
		return o.Deadline + o.Hung, ""
	case e != nil && e.Signal != 0:
		return fmt.Sprintf("the test binary was ended by signal %d during this test", e.Signal), ""
	case e != nil:
		return fmt.Sprintf("the test binary ended during this test: exit status %d", e.Code), ""
	case o.Infra != nil:
		return visible.Short(o.Infra.Error()), ""
	case o.GuestFault != "":
		return o.GuestFault, ""
	}
	return "the VM ended during this test: " + o.Exit.String(), ""
}

// withoutFinal passes on what a test binary prints, but for the verdict with which
// it ends.
type withoutFinal struct {
	w      io.Writer
	finals []string
	held   []byte // may become one of them
	final  string // the word of the last one, wherever it stood
}

// Write implements io.Writer.
func (f *withoutFinal) Write(p []byte) (int, error) {
	all := append(f.held, p...)
	keep := 0
	for _, final := range f.finals {
		for n := min(len(final), len(all)); n > keep; n-- {
			if strings.HasPrefix(final, string(all[len(all)-n:])) {
				keep = n
			}
		}
	}
	at := -1
	for _, final := range f.finals {
		if i := bytes.LastIndex(all, []byte(final)); i > at {
			at, f.final = i, strings.Trim(final, runner.Marker+"\n")
		}
	}
	_, err := f.w.Write(all[:len(all)-keep])
	f.held = append([]byte(nil), all[len(all)-keep:]...)
	return len(p), err
}

// end passes on what was held back and did not become a verdict, and returns the
// word of the verdict, "" if there was none.
func (f *withoutFinal) end() string {
	if !slices.Contains(f.finals, string(f.held)) {
		_, _ = f.w.Write(f.held) // as for every Write: an error is the next one's too
	}
	return f.final
}

// joinLog appends a unit's kernel log to that of the whole, which is end bytes
// long, and returns its new length.
func (x *isolated) joinLog(u *unit, end int64) (int64, error) {
	to, err := output.Append(filepath.Join(x.p.Dir, x.p.LogName()))
	if err != nil {
		return end, err
	}
	defer to.Close() //nolint:errcheck // closed with its error below
	if end == 0 {
		if err := to.Truncate(0); err != nil {
			return end, err
		}
	}
	name := filepath.Join(x.p.Dir, u.log)
	from, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return end, nil // it never had a machine
	}
	if err != nil {
		return end, err
	}
	defer from.Close() //nolint:errcheck // only read
	if end >= vmtest.DefaultConsoleLimit {
		return end, nil // the files stay beside it
	}
	if _, err := to.Seek(end, io.SeekStart); err != nil {
		return end, err
	}
	n, err := io.Copy(to, from)
	if err != nil {
		return end, err
	}
	for i := range u.result.Splats {
		s := &u.result.Splats[i]
		if s.Log != u.log {
			continue // the agent's copy, which stays
		}
		s.Log = x.p.LogName()
		s.Start += end
		s.End += end
	}
	return end + n, errors.Join(to.Close(), os.Remove(name))
}

func logSize(path string) (int64, error) {
	st, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// joinChecks has each disk once, and each failure.
func joinChecks(units []*unit) (out []machine.DiskCheck) {
	failed, passed := map[string]bool{}, map[string]bool{}
	for _, u := range units {
		for _, d := range u.result.Disks {
			if d.Err != nil {
				failed[d.Disk] = true
				d.Disk += " after " + u.name()
				out = append(out, d)
			}
		}
	}
	for _, u := range units {
		for _, d := range u.result.Disks {
			if !failed[d.Disk] && !passed[d.Disk] && d.Err == nil {
				passed[d.Disk] = true
				out = append(out, d)
			}
		}
	}
	return out
}

// lostOutput returns how many bytes of the unit's output were not kept.
func (u *unit) lostOutput() int64 { return u.stdout.Lost() + u.stderr.Lost() }
