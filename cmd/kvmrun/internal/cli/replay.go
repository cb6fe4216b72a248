// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/ktap"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/suiterun"
	"github.com/kvmrun/kvmrun/vmtest"
)

var replayCommand = command{
	name: "replay", args: "RESULT TEST",
	short: "run one test of an earlier run again, with a debugger, a shell or a trace",
	long: `Runs a test of an earlier run again, in a VM that is forked from the template of
its suite: the same kernel, test binary, arguments and faults; with faults from outside it
boots. RESULT is the directory that kvmrun run printed as logs, that of one job
in it, or the file of -json; for go test the directory of the kernel log that it
names, or the one of its -logs. TEST may name a subtest: TestA/sub.

With -gdb the VM stands still until the debugger whose command line is printed
lets it go, and no time limit applies. With -trace the events named, as in
/sys/kernel/tracing/set_event, are recorded while the test runs. With -shell a
shell runs in place of the test, and ./test there runs it, without the faults.

Exit status as of kvmrun run.`,
	flags: replayFlags,
}

func replayFlags(fs *flag.FlagSet) action {
	var r replayCmd
	r.vm.Register(fs, "cache") // the rest of the machine is the recorded one
	fs.BoolVar(&r.gdb, "gdb", false, "wait for a debugger, and print its command line")
	fs.BoolVar(&r.shell, "shell", false, "run a shell in the VM instead of the test")
	fs.Var(&r.trace, "trace", "trace these `events`, e.g. sched:sched_switch; several with commas")
	fs.StringVar(&r.dir, "o", "", "keep the kernel log and the trace in this `directory`; default: in the cache")
	return r.run
}

// replayCmd is kvmrun replay.
type replayCmd struct {
	vm         front.VM
	gdb, shell bool
	trace      front.List
	dir        string
}

func (r *replayCmd) run(ctx context.Context, io IO, fs *flag.FlagSet, _ []string) error {
	if fs.NArg() != 2 {
		return front.Usagef("replay: want RESULT and TEST; see kvmrun help replay")
	}
	if r.shell && (r.gdb || len(r.trace) > 0) {
		return front.Usagef("replay: -shell goes with neither -gdb nor -trace")
	}
	y := suiterun.Replay{Test: fs.Arg(1), Trace: r.trace}
	rec, err := suiterun.FindRecorded(front.Absolute(fs.Arg(0)), y.Test)
	if err != nil {
		return front.Usage(err)
	}
	ui := newProgress(io.Err)
	defer ui.close()
	m, err := runner.NewMachine(r.vm.Cache, vmtest.AccelAuto)
	if err != nil {
		return err
	}
	m.Progress = ui.say
	if err := rec.Machine(m); err != nil {
		return front.Usage(err)
	}
	if y.Dir = r.dir; y.Dir == "" {
		if y.Dir, err = m.NewRunDir("replay"); err != nil {
			return err
		}
	}
	y.Dir = front.Absolute(y.Dir)
	if err := os.MkdirAll(y.Dir, 0o755); err != nil {
		return err
	}
	y.Stdout, y.Stderr = suiterun.WithoutMarks{W: io.Out}, io.Err
	if r.gdb {
		y.GDB = func(command string) { ui.say("waiting for a debugger: " + command) }
	}
	g := guestProgram{guestFlags: guestFlags{dir: y.Dir}, argv: []string{y.Test}}
	conclude := func(out runner.Outcome) error {
		if len(y.Trace) > 0 && out.EndMarker {
			fmt.Fprintf(io.Err, "kvmrun: trace: %s\n", filepath.Join(y.Dir, "trace.txt"))
		}
		return g.conclude(io, out, ktap.NewParser(ktap.Config{}).Finish(), nil)
	}
	if !r.shell {
		return conclude(suiterun.New(m).Replay(ctx, rec, y))
	}
	var out runner.Outcome
	if err := onTerminal(io, "replay -shell", func(s *suiterun.Shell) error {
		y.Stdout, y.Shell = io.Out, s
		out = suiterun.New(m).Replay(ctx, rec, y)
		return nil
	}); err != nil {
		return err
	}
	g.argv = []string{"/bin/sh"}
	if out.Exited != nil && out.Exited.Code != 0 && strings.TrimSpace(out.Exited.Err) == "" && out.Infra == nil && len(out.Splats) == 0 {
		return nil // of the last command in the shell
	}
	return conclude(out)
}
