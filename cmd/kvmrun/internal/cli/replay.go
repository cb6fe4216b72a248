// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"flag"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/kvmrun/kvmrun/internal/ktap"
	"github.com/kvmrun/kvmrun/internal/runner"
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
	run: doReplay,
}

func doReplay(ctx context.Context, io IO, fs *flag.FlagSet, args []string) error {
	var y runner.Replay
	gdb := fs.Bool("gdb", false, "wait for a debugger, and print its command line")
	shell := fs.Bool("shell", false, "run a shell in the VM instead of the test")
	var trace list
	fs.Var(&trace, "trace", "trace these `events`, e.g. sched:sched_switch; several with commas")
	cacheDir := fs.String("cache", "", "the cache `directory`; default: $XDG_CACHE_HOME/kvmrun")
	dir := fs.String("o", "", "keep the kernel log and the trace in this `directory`; default: in the cache")
	if err := parse(fs, args); err != nil {
		return err
	}
	if fs.NArg() != 2 {
		return usagef("replay: want RESULT and TEST; see kvmrun help replay")
	}
	if *shell && (*gdb || len(trace) > 0) {
		return usagef("replay: -shell goes with neither -gdb nor -trace")
	}
	y.Test, y.Trace = fs.Arg(1), trace
	rec, err := runner.FindRecorded(absolute(fs.Arg(0)), y.Test)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	ui := newProgress(io.Err)
	defer ui.close()
	m, err := runner.NewMachine(*cacheDir, rec.Accel)
	if err != nil {
		return err
	}
	m.Progress = ui.say
	rec.Machine(m)
	if y.Dir = *dir; y.Dir == "" {
		if y.Dir, err = m.NewRunDir("replay"); err != nil {
			return err
		}
	}
	y.Dir = absolute(y.Dir)
	y.Stdout, y.Stderr = runner.WithoutMarks{W: io.Out}, io.Err
	if *gdb {
		y.GDB = func(command string) { ui.say("waiting for a debugger: " + command) }
	}
	g := guestProgram{argv: []string{y.Test}, dir: y.Dir}
	conclude := func(out runner.Outcome) error {
		if len(y.Trace) > 0 && out.EndMarker {
			fmt.Fprintf(io.Err, "kvmrun: trace: %s\n", filepath.Join(y.Dir, "trace.txt"))
		}
		return g.conclude(io, out, ktap.NewParser(ktap.Config{}).Finish(), nil)
	}
	if !*shell {
		return conclude(m.Replay(ctx, rec, y))
	}
	var out runner.Outcome
	if err := onTerminal(io, "replay -shell", func(s *runner.Shell) error {
		y.Stdout, y.Shell = io.Out, s
		out = m.Replay(ctx, rec, y)
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
