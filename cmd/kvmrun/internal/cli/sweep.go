// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/gotest"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/output"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/suiterun"
	"github.com/kvmrun/kvmrun/internal/sweep"
	"github.com/kvmrun/kvmrun/internal/sweeprun"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/internal/words"
)

var sweepCommand = command{
	name: "sweep", args: "(-suite S [-run REGEXP] | -- PROGRAM [ARGUMENT...])",
	short: "inject a fault at every point of a test, one at a time",
	long: `Runs one test of a suite, or a program, again and again, each time in a fresh
machine (forked from one that was frozen when the test had been started) and
with one allocation failing: of the test, its children and all they cause in the
kernel. The test need not know.

The kernel is judged, not the test: a splat, a hang, a leak or a file system that
fsck complains about is a finding; a test that fails because it got no memory is
"degraded". A test that fails without any fault is refused. A leak is what kmemleak
reports where the kernel has it (profile debug; some seconds more a point), or
objects of -caches that become more; each beyond what runs without a fault leave.

-points sites (the default) first lists the call stacks that allocate, then
injects once for each: its first, second and last call. -points all takes every
single call, -points N as many, evenly spread. Every finding names the injected
call stack and the command that repeats it.

With -fault power-cut:DISK the power is cut at each write to that disk; a second
machine gets the disks as they are then, without what was not flushed, and the
test (one that uses fault.PowerCut of suites/kit/fault) looks what is there.

An interrupted sweep is continued by the same command with -resume -o DIR.

The kernel needs fault injection (profile kasan of kvmrun kernel build) and, for
the list of call stacks, a vmlinux with symbols.

Exit status: 0 the kernel stood it all; 1 it did not; 2 wrong usage, or the test
fails by itself; 3 the infrastructure failed.`,
	flags: sweepFlags,
}

// sweepCmd is kvmrun sweep.
type sweepCmd struct {
	guestFlags
	policy           front.Policy
	suite, test      string
	spec, points, at string
	caches           front.List
	resume           bool
	json, src        string
}

func sweepFlags(fs *flag.FlagSet) action {
	var c sweepCmd
	c.register(fs)
	front.Explain(fs, "file", "for a program: take a host `file` along, or HOST:GUEST; repeatable")
	front.Explain(fs, "module", "for a program: load a kernel `module` first, a name or a file as ./x.ko; repeatable")
	front.Explain(fs, "o", "keep logs, state and report in this `directory`; default: in the cache")
	fs.Var(&c.env, "env", "for a program: set `NAME=VALUE`; repeatable")
	c.policy.Register(fs, "allow", "j")
	c.policy.Jobs = runtime.NumCPU()
	fs.StringVar(&c.suite, "suite", "", "sweep tests of this `suite`")
	fs.StringVar(&c.test, "run", "", "only tests matching this `regexp`, as go test -run; each is swept by itself")
	fs.StringVar(&c.spec, "fault", "failslab", "what fails: failslab, fail_page_alloc, fail_usercopy ... as for kvmrun run, without a time; `SPEC`")
	fs.StringVar(&c.points, "points", sweeprun.PointsSites, "which points: all, sites, or a number")
	fs.StringVar(&c.at, "at", "", "only this `point`, as a report names it")
	fs.Var(&c.caches, "caches", "slab `caches` whose objects must not become more; default: those that the suite's Spec names")
	fs.BoolVar(&c.resume, "resume", false, "continue the interrupted sweep in -o DIR")
	fs.StringVar(&c.json, "json", "", "write the report as JSON to this `file`, too; it is in -o DIR as report.json anyway")
	fs.StringVar(&c.src, "src", ".", "find suites in the Go module of this `directory`")
	return c.run
}

// sweepWork is one sweep, and the command that repeats a point of it.
type sweepWork struct {
	job   sweeprun.SweepJob
	repro string
}

func (c *sweepCmd) run(ctx context.Context, io IO, fs *flag.FlagSet, _ []string) error {
	files, err := openFiles(c.json)
	if err != nil {
		return err
	}
	f, o, err := c.options(fs)
	if err != nil {
		return err
	}
	ui := newProgress(io.Err)
	defer ui.close()
	m, err := c.v.machine(ui.say)
	if err != nil {
		return err
	}
	if m.Allow, err = c.policy.AllowList(front.Resolver{}); err != nil {
		return err
	}
	k, err := c.kernel(ctx, io, m, f)
	if err != nil {
		return err
	}
	out, err := c.directory(m)
	if err != nil {
		return err
	}
	command := self() + " sweep -kernel " + words.Quote(k.Path) + " -fault " + words.Quote(f.String()) + sameFlags(fs)
	var work []sweepWork
	if c.suite != "" {
		work, err = c.ofSuite(ctx, m, k, f, fs, out, command)
	} else {
		work, err = c.ofProgram(io, k, f, fs, out, command)
	}
	if err != nil {
		return err
	}
	found := false
	stack := sweeprun.Positions(ctx, m, k)
	for _, w := range work {
		rep, err := c.sweep(ctx, m, ui, w, o)
		if rep == nil {
			return err
		}
		if len(work) == 1 {
			err = errors.Join(err, writeSweep(io, files[0], rep))
		}
		if err = errors.Join(err, rep.Text(io.Out, stack)); err != nil {
			return fmt.Errorf("%w; continue with -resume -o %s", err, out)
		}
		if n := rep.Counts[sweep.Infra]; n > 0 {
			return fmt.Errorf("%d points could not be tried; the report has the reasons: %s", n, filepath.Join(w.job.Program.Dir, "report.json"))
		}
		found = found || rep.Failed()
	}
	if found {
		return &front.Error{Code: result.ExitFail}
	}
	return nil
}

// options are the fault and the points, once all that needs no kernel is checked.
func (c *sweepCmd) options(fs *flag.FlagSet) (f fault.Fault, o sweeprun.SweepOptions, err error) {
	f, err = sweepOptions(&o, c.spec, c.points, c.at)
	switch {
	case err != nil:
		err = front.Usage(err)
	case (c.suite == "") == (fs.NArg() == 0):
		err = front.Usagef("sweep: give -suite S, or a program after --")
	case c.test != "" && c.suite == "":
		err = front.Usagef("sweep: -run goes with -suite")
	case c.resume && c.dir == "":
		err = front.Usagef("sweep: -resume needs the -o DIR of the sweep to continue")
	case f.Kind == fault.PowerCut && c.suite == "":
		err = front.Usagef("sweep: -fault power-cut goes with -suite, whose disks have names")
	case c.policy.Jobs < 1:
		err = front.Usagef("-j %d: want 1 or more", c.policy.Jobs)
	default:
		err = check(&c.guestFlags, &c.policy)
	}
	o.Jobs, o.Resume = c.policy.Jobs, c.resume
	return f, o, err
}

// kernel opens the kernel, which must be able to inject the fault.
func (c *sweepCmd) kernel(ctx context.Context, io IO, m *runner.Machine, f fault.Fault) (*machine.Kernel, error) {
	ks, err := c.v.open(ctx, io, m)
	if err != nil {
		return nil, err
	}
	k := ks[0]
	if f.Kind != fault.PowerCut {
		if err := k.CheckFaults(ctx, &m.Host, fault.Plan{f}, nil); err != nil {
			return nil, front.Usage(err)
		}
	}
	if k.Config["DEBUG_FS"] == "" && k.Config != nil {
		return nil, front.Usagef("kernel %s lacks CONFIG_DEBUG_FS=y", k.Path)
	}
	return k, nil
}

// directory makes the one for logs, state and report.
func (c *sweepCmd) directory(m *runner.Machine) (string, error) {
	if c.dir == "" {
		var err error
		if c.dir, err = m.NewRunDir("sweep"); err != nil {
			return "", err
		}
	}
	out := front.Absolute(c.dir)
	return out, os.MkdirAll(out, 0o755)
}

// ofSuite is a sweep for each of the suite's tests that are chosen.
func (c *sweepCmd) ofSuite(ctx context.Context, m *runner.Machine, k *machine.Kernel, f fault.Fault, fs *flag.FlagSet, out, command string) ([]sweepWork, error) {
	source, err := suiterun.FindSource(front.Absolute(c.src))
	if err != nil && !allFiles([]string{c.suite}) {
		return nil, front.Usage(err)
	}
	suites, err := suiterun.New(m).Suites(ctx, source, []string{c.suite})
	if err != nil {
		return nil, front.Usage(err)
	}
	s := suites[0]
	if err := c.v.vm.Append.Contradict(s.Spec.Name, s.Spec.Cmdline); err != nil {
		return nil, front.Usage(err)
	}
	if miss := k.Config.Missing(s.Spec.Kconfig); len(miss) > 0 {
		return nil, front.Usagef("suite %s needs CONFIG_%s, which %s has not", s.Spec.Name, miss[0], k.Path)
	}
	if f.Kind == fault.PowerCut {
		g := f
		g.Nth = 1
		if err := k.CheckFaults(ctx, &m.Host, fault.Plan{g}, s.Spec.Disks); err != nil {
			return nil, front.Usage(err)
		}
	}
	caches := front.List(s.Spec.SlabCaches)
	fs.Visit(func(f *flag.Flag) {
		if f.Name == "caches" {
			caches = c.caches
		}
	})
	var args gotest.Args
	if c.test != "" {
		args = gotest.Args{"-test.run=" + c.test}
	}
	tests := args.Remaining(s.Tests, nil)
	if len(tests) == 0 {
		return nil, front.Usagef("sweep: no test of suite %s matches %q%s", s.Spec.Name, c.test, words.Nearest(c.test, s.Tests))
	}
	var work []sweepWork
	for _, name := range tests {
		t := args.Only(name)
		p := suiterun.SuiteProgram(k, s, nil)
		p.Dir = out
		if len(tests) > 1 {
			p.Dir = filepath.Join(out, name)
			if err := output.MkdirAll(out, p.Dir); err != nil {
				return nil, err
			}
		}
		work = append(work, sweepWork{
			sweeprun.SweepJob{Program: p, Test: t, Fault: f, Caches: caches},
			command + " -suite " + words.Quote(c.suite) + " -run " + words.Quote(t) + " -at %s",
		})
	}
	return work, nil
}

// ofProgram is the sweep of a program of the host's.
func (c *sweepCmd) ofProgram(io IO, k *machine.Kernel, f fault.Fault, fs *flag.FlagSet, out, command string) ([]sweepWork, error) {
	g := guestProgram{guestFlags: c.guestFlags, argv: fs.Args()}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	wd, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	p := runner.Program{Kernel: k, Init: self, Modules: c.modules, Shell: true, Dir: out,
		Run: wire.Run{Argv: g.argv, Env: g.environ(io), Dir: wd, Hold: wire.HoldExec}}
	if err := g.pack(&p, wd); err != nil {
		return nil, front.Usage(err)
	}
	repro := command + " -at %s --"
	for _, a := range fs.Args() {
		repro += " " + words.Quote(a)
	}
	return []sweepWork{{sweeprun.SweepJob{Program: p, Fault: f, Caches: c.caches}, repro}}, nil
}

// sweep carries one sweep out, tells of its progress and keeps its report. The report
// is nil when there is none; an error beside a report is about one that is not whole,
// or was not kept.
func (c *sweepCmd) sweep(ctx context.Context, m *runner.Machine, ui *progress, w sweepWork, o sweeprun.SweepOptions) (*sweep.Report, error) {
	o.Repro = w.repro
	var last time.Time
	o.Progress = func(done, total, findings int, rate float64, left time.Duration) {
		if time.Since(last) < 5*time.Second && done < total {
			return
		}
		last = time.Now()
		ui.say(fmt.Sprintf("%d of %d points, %.1f a second, %v left; findings: %d", done, total, rate, left, findings))
	}
	rep, err := sweeprun.Sweep(ctx, m, w.job, o)
	var refused *sweep.Refused
	switch {
	case errors.As(err, &refused), errors.Is(err, sweep.ErrNothing), errors.Is(err, sweep.ErrChanged), rep == nil && c.resume && errors.Is(err, os.ErrNotExist):
		return nil, front.Usage(err)
	case rep == nil:
		return nil, err
	}
	var text bytes.Buffer
	return rep, errors.Join(err, rep.JSON(&text), output.Save(filepath.Join(w.job.Program.Dir, "report.json"), text.Bytes()))
}

// writeSweep writes it where -json says.
func writeSweep(io IO, to userFile, rep *sweep.Report) error {
	if to.standard {
		return rep.JSON(io.Out)
	}
	return to.Write(rep.JSON)
}

// sameFlags are the flags that were given and that repeating one point needs as
// well, beside those that say which.
func sameFlags(fs *flag.FlagSet) string {
	var b strings.Builder
	fs.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "kernel", "fault", "suite", "run", "points", "at", "j", "o", "json", "resume":
		default:
			b.WriteString(front.Same(f, " "))
		}
	})
	return b.String()
}

// sweepOptions reads what says where to inject what.
func sweepOptions(o *sweeprun.SweepOptions, spec, points, at string) (fault.Fault, error) {
	f, err := fault.Parse(spec)
	if err != nil {
		return f, err
	}
	if f.Kind.Host() && f.Kind != fault.PowerCut || f.Kind == fault.Function {
		return f, fmt.Errorf("-fault %s: a sweep injects one of failslab, fail_page_alloc, fail_usercopy, fail_futex, fail_make_request:DEVICE, fail_io_timeout:DEVICE, power-cut:DISK", f)
	}
	if f.Nth+f.Every+f.Flush > 0 || f.After > 0 || f.Percent > 0 || f.Times > 0 || f.Who != "" {
		return f, fmt.Errorf("-fault %s: when, how often and to whom is the sweep's to choose", f)
	}
	switch points {
	case sweeprun.PointsAll, sweeprun.PointsSites:
		o.Points = points
	default:
		o.Points = sweeprun.PointsN
		if o.Spread, err = strconv.Atoi(points); err != nil || o.Spread < 1 {
			return f, fmt.Errorf("-points %s: want all, sites, or a number", points)
		}
	}
	if at != "" {
		p, err := sweep.ParseAt(at)
		if err != nil {
			return f, fmt.Errorf("-at: %w", err)
		}
		o.At = &p
	}
	return f, nil
}
