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

	"golang.org/x/term"

	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/kfetch"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/words"
	"github.com/kvmrun/kvmrun/vmtest"
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
	// flags registers the command's flags and returns what the command does with
	// them when they have been parsed.
	flags func(fs *flag.FlagSet) action
	sub   []command // in place of flags
	// rewrite, when set, makes of the arguments what package flag understands.
	rewrite func(args []string) []string
	// wrong, when set, gives errors of the flags another exit status.
	wrong func(error) error
}

// action runs a command, which was given args and has parsed them. What is wrong
// with its flags and arguments it says before anything is made, fetched or booted.
type action func(ctx context.Context, io IO, fs *flag.FlagSet, args []string) error

func commands() []command {
	return []command{
		runCommand, execCommand, shellCommand, sweepCommand, replayCommand, kernelCommand, bisectCommand, bisectStepCommand, mutantsCommand,
		crashCommand, tapCommand, doctorCommand,
	}
}

// Run runs a command line without the program's name and returns the exit
// status: 0 all passed, 1 a test or a kernel failed, 2 wrong usage, 3 the
// infrastructure failed. kvmrun exec returns the program's own. A process that
// panics, or gets SIGQUIT, ends by SIGABRT (134 in a shell), see main.
func Run(ctx context.Context, args []string, io IO) int {
	return front.Status(io.Err, dispatch(ctx, io, "kvmrun", commands(), args))
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
			return &front.Error{Code: result.ExitUsage}
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
		args := args[1:]
		if c.sub != nil {
			return dispatch(ctx, io, prefix+" "+c.name, c.sub, args)
		}
		if c.rewrite != nil {
			args = c.rewrite(args)
		}
		run := c.flags(fs)
		err := parse(fs, args)
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(io.Out)
			fs.Usage()
			return nil
		}
		if err != nil && c.wrong != nil {
			err = c.wrong(err)
		}
		if err != nil {
			return err
		}
		return run(ctx, io, fs, args)
	}
	return front.Usagef("unknown command %q%s; see %s help", name, words.Nearest(name, names), prefix)
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

// vmFlags are shared by all commands that boot something.
type vmFlags struct {
	vm      front.VM
	kernels front.Kernels
}

func (v *vmFlags) register(fs *flag.FlagSet, many bool) {
	v.kernels.Register(fs, many)
	v.vm.Register(fs)
}

// Check refuses what needs no look at any file.
func (v *vmFlags) Check() error {
	if err := v.vm.Check(); err != nil {
		return err
	}
	return v.kernels.Check()
}

// again are the flags that were given, but for the kernels' names.
func (v *vmFlags) again() string { return v.kernels.Same() + v.vm.Same() }

func (v *vmFlags) machine(progress func(string)) (*runner.Machine, error) {
	return newMachine(&v.vm, progress)
}

func newMachine(v *front.VM, progress func(string)) (*runner.Machine, error) {
	m, err := runner.NewMachine(v.Cache, vmtest.Accel(v.Accel))
	if err != nil {
		return nil, err
	}
	m.QEMU, m.MemoryMiB, m.CPUs, m.Progress = v.QEMU, v.MemoryMiB, v.CPUs, progress
	return m, nil
}

// resolver makes files of kernels' names.
func resolver(m *runner.Machine) front.Resolver {
	return front.Resolver{IsRef: kfetch.IsRef, CheckRef: kfetch.CheckRef, Fetch: m.FetchKernel}
}

// open examines the kernels before anything boots; KVMRUN_KERNEL stands in for
// a missing -kernel.
func (v *vmFlags) open(ctx context.Context, io IO, m *runner.Machine) ([]*runner.Kernel, error) {
	if !v.kernels.Default(io.getenv) {
		return nil, front.ErrNoKernel
	}
	var out []*runner.Kernel
	for _, ref := range v.kernels.Refs {
		path, err := resolver(m).Kernel(ctx, ref)
		if err != nil {
			return nil, err
		}
		kernel, err := m.OpenKernel(ctx, path, v.kernels.Modules, v.kernels.Kconfig)
		if err != nil {
			return nil, front.Usage(err)
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
