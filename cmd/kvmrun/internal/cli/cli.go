// SPDX-License-Identifier: Apache-2.0

// Package cli is kvmrun's command line: flags, environment, wiring and exit
// statuses. Logic worth a test of its own lives in the packages it calls.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"golang.org/x/term"

	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/internal/words"
	"github.com/kvmrun/kvmrun/vmtest"
)

// Exit statuses.
const (
	exitOK    = 0
	exitFail  = 1
	exitUsage = 2
	exitInfra = 3
)

// IO is what a command may touch of the process.
type IO struct {
	In       *os.File
	Out, Err io.Writer
	Env      []string
}

// command is one verb.
type command struct {
	name  string
	args  string // after the flags
	short string // one line
	long  string
	run   func(ctx context.Context, io IO, fs *flag.FlagSet, args []string) error
}

func commands() []command {
	return []command{
		runCommand, execCommand, shellCommand, sweepCommand, replayCommand, kernelCommand, bisectCommand, bisectStepCommand, mutantsCommand,
		crashCommand, tapCommand, doctorCommand,
	}
}

// exitError ends a command with a status; its text, if any, is printed.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func usagef(format string, a ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, a...)}
}

// fail is an outcome that is no infrastructure fault: exit status 1.
func fail(err error) error { return &exitError{exitFail, err} }

// Run runs a command line without the program's name and returns the exit
// status: 0 all passed, 1 a test or a kernel failed, 2 wrong usage, 3 the
// infrastructure failed. kvmrun exec returns the program's own. A process that
// panics, or gets SIGQUIT, ends by SIGABRT (134 in a shell), see main.
func Run(ctx context.Context, args []string, io IO) int {
	return exitStatus(dispatch(ctx, io, "kvmrun", commands(), args), io)
}

// exitStatus prints an error, if there is anything to say, and is its status.
func exitStatus(err error, io IO) int {
	var exit *exitError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.As(err, &exit):
		if exit.err != nil {
			fmt.Fprintln(visible.Writer(io.Err), "kvmrun:", exit.err)
		}
		if exit.code == exitUsage && hostsFault(err) {
			return exitInfra
		}
		return exit.code
	}
	fmt.Fprintln(visible.Writer(io.Err), "kvmrun:", err)
	if errors.Is(err, runner.ErrBadKernel) {
		return exitUsage
	}
	return exitInfra
}

// hostsFault says whether an error that looked like one of the user's has
// another reason.
func hostsFault(err error) bool {
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func dispatch(ctx context.Context, io IO, prefix string, cmds []command, args []string) error {
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	switch name {
	case "", "help", "-h", "-help", "--help":
		if name == "help" && len(args) > 1 {
			return dispatch(ctx, io, prefix, cmds, append(args[1:len(args):len(args)], "-h"))
		}
		w := io.Out
		if name == "" {
			w = io.Err
		}
		overview(w, prefix, cmds)
		if name == "" {
			return &exitError{code: exitUsage}
		}
		return nil
	}
	var names []string
	for _, c := range cmds {
		names = append(names, c.name)
		if c.name != name {
			continue
		}
		fs := flag.NewFlagSet(prefix+" "+c.name, flag.ContinueOnError)
		fs.SetOutput(io.Err)
		fs.Usage = func() {
			fmt.Fprintf(fs.Output(), "Usage: %s\n\n%s\n", strings.TrimSpace(prefix+" "+c.name+" [flags] "+c.args), strings.TrimSpace(c.long))
			if hasFlags(fs) {
				fmt.Fprintln(fs.Output(), "\nFlags:")
				fs.PrintDefaults()
			}
		}
		for _, a := range args[1:] {
			if a == "-h" || a == "-help" || a == "--help" {
				fs.SetOutput(io.Out)
			}
			if a == "--" {
				break
			}
		}
		return c.run(ctx, io, fs, args[1:])
	}
	return usagef("unknown command %q%s; see %s help", name, words.Nearest(name, names), prefix)
}

func hasFlags(fs *flag.FlagSet) (has bool) {
	fs.VisitAll(func(*flag.Flag) { has = true })
	return has
}

func overview(w io.Writer, prefix string, cmds []command) {
	fmt.Fprintf(w, "Usage: %s COMMAND [flags]\n\n", prefix)
	if prefix == "kvmrun" {
		fmt.Fprint(w, "Boots Linux kernels in virtual machines and runs tests and programs in them.\n\n")
	}
	for _, c := range cmds {
		fmt.Fprintf(w, "  %-11s %s\n", c.name, c.short)
	}
	fmt.Fprintf(w, "\n%s help COMMAND tells more.\n", prefix)
}

// list is a flag that may be given several times, or with commas.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(s string) error {
	for _, p := range strings.Split(s, ",") {
		if p = strings.TrimSpace(p); p != "" {
			*l = append(*l, p)
		}
	}
	return nil
}

// multi is a flag that may be given several times; commas belong to the value.
type multi []string

func (m *multi) String() string { return strings.Join(*m, " ") }

func (m *multi) Set(s string) error { *m = append(*m, s); return nil }

// vmFlags are shared by all commands that boot something.
type vmFlags struct {
	kernels multi
	modules string
	kconfig string
	accel   string
	memory  int
	cpus    int
	qemu    string
	cache   string
}

func (v *vmFlags) register(fs *flag.FlagSet, many bool) {
	what := "the kernel: a bzImage, a vmlinux, the directory of a build, or debian:6.12 for a fetched one"
	if many {
		what += "; may be given several times"
	}
	fs.Var(&v.kernels, "kernel", what)
	fs.StringVar(&v.modules, "modules", "", "the kernel's lib/modules/RELEASE `directory`; default: found beside the kernel")
	fs.StringVar(&v.kconfig, "kconfig", "", "the kernel's .config `file`; default: found in or beside the kernel")
	fs.StringVar(&v.accel, "accel", "auto", "what runs the guest: kvm, tcg, or auto for kvm where it works")
	v.size(fs)
	fs.StringVar(&v.qemu, "qemu", "", "the QEMU `binary`; default: found in PATH")
	fs.StringVar(&v.cache, "cache", "", "the cache `directory`; default: $XDG_CACHE_HOME/kvmrun")
}

// size registers the flags for the machine's.
func (v *vmFlags) size(fs *flag.FlagSet) {
	fs.Var((*mebibytes)(&v.memory), "memory", "the guest's memory in `MiB`, or as 2G; default: what the suite asks for")
	numberVar(fs, &v.cpus, "cpus", 0, "how `many` CPUs the guest has; default: what the suite asks for")
}

func (v *vmFlags) machine(io IO, progress func(string)) (*runner.Machine, error) {
	if err := v.check(); err != nil {
		return nil, err
	}
	m, err := runner.NewMachine(v.cache, vmtest.Accel(v.accel))
	if err != nil {
		return nil, err
	}
	m.QEMU, m.MemoryMiB, m.CPUs, m.Progress = v.qemu, v.memory, v.cpus, progress
	return m, nil
}

// open examines the kernels before anything boots; KVMRUN_KERNEL stands in for
// a missing -kernel.
func (v *vmFlags) open(ctx context.Context, io IO, m *runner.Machine) ([]*runner.Kernel, error) {
	kernels := v.kernels
	if len(kernels) == 0 {
		if k := io.getenv("KVMRUN_KERNEL"); k != "" {
			kernels = multi{k}
		}
	}
	if len(kernels) == 0 {
		return nil, usagef("no kernel: give -kernel FILE, or -kernel debian:6.12 for one from the Debian archive")
	}
	if len(kernels) > 1 && (v.modules != "" || v.kconfig != "") {
		return nil, usagef("-modules and -kconfig go with one -kernel")
	}
	var out []*runner.Kernel
	for _, k := range kernels {
		path, err := m.FindKernel(ctx, k)
		if err != nil {
			return nil, err
		}
		kernel, err := m.OpenKernel(ctx, path, v.modules, v.kconfig)
		if err != nil {
			return nil, &exitError{exitUsage, err}
		}
		out = append(out, kernel)
	}
	return out, nil
}

func (io IO) getenv(name string) string {
	for i := len(io.Env) - 1; i >= 0; i-- {
		if k, v, ok := strings.Cut(io.Env[i], "="); ok && k == name {
			return v
		}
	}
	return ""
}

// terminal returns w's file when it is a terminal.
func terminal(w io.Writer) (*os.File, bool) {
	f, ok := w.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}
