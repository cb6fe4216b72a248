// SPDX-License-Identifier: Apache-2.0

// Package cli is kvmrun's command line: flags, environment, wiring and exit
// statuses. Logic worth a test of its own lives in the packages it calls.
//
// Commands, their help and the shells' completion are cobra's: of the well-kept
// libraries it alone leaves flags to others, and has completion built in. Flags are
// package flag's (internal/front): they are spelled with one dash here and with
// go test, whose flags can be no others, and pflag and kong would read -kernel as
// -k -e -r ... Man pages are written here: cobra's go by way of Markdown, which
// would flow the texts anew, and its parser makes 762 allocations before main
// (GODEBUG=inittrace=1), also when kvmrun is the init of a guest.
package cli

import (
	"context"
	"flag"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/kfetch"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/runner"
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
	// values are those of the arguments, for completion, where they are few.
	values []string
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
	t := newTree(io)
	t.root.SetArgs(append([]string{}, args...)) // nil would be the process's
	return front.Status(io.Err, t.root.ExecuteContext(ctx))
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
	m.QEMU, m.MemoryMiB, m.CPUs, m.Append, m.Progress = v.QEMU, v.MemoryMiB, v.CPUs, v.Append, progress
	return m, nil
}

// resolver makes files of kernels' names.
func resolver(m *runner.Machine) front.Resolver {
	return front.Resolver{IsRef: kfetch.IsRef, CheckRef: kfetch.CheckRef, Fetch: m.FetchKernel}
}

// open examines the kernels before anything boots; KVMRUN_KERNEL stands in for
// a missing -kernel.
func (v *vmFlags) open(ctx context.Context, io IO, m *runner.Machine) ([]*machine.Kernel, error) {
	if !v.kernels.Default(io.getenv) {
		return nil, front.ErrNoKernel
	}
	var out []*machine.Kernel
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
