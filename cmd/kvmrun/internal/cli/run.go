// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/output"
	"github.com/kvmrun/kvmrun/internal/report"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/suiterun"
)

var runCommand = command{
	name:  "run",
	short: "run test suites on kernels, a VM each",
	long: `Runs every suite on every kernel, each in a VM of its own, as many at a time as
the host's cores and free memory allow, and prints a table.

Without -suite all suites of the module in the current directory are run. A
suite is a name (ext4), a package (./my/suite) or a test binary (./ext4.test).

Every selected test gets one verdict: pass, fail, skip, or not run, which fails
the run. A suite of which nothing was tested, because all its tests were skipped
or -run selects no subtest, has the verdict nothing-tested, which fails the run
too: a kernel without what a suite needs must not look as if it had been tested.
Where that is known and wanted, as for several suites on a kernel that lacks what
one of them needs, say -allow-nothing; leaving that suite out by -suite is safer.

` + faultHelp + `

Exit status: 0 everything passed; 1 a test or a kernel failed, or nothing was
tested in some VM and -allow-nothing was not given; 2 wrong usage;
3 the infrastructure failed (QEMU missing, a VM did not boot, out of disk).`,
	flags: runFlags,
}

func runFlags(fs *flag.FlagSet) action {
	var r runCmd
	r.v.register(fs, true)
	r.policy.Register(fs)
	fs.Var(&r.names, "suite", "a suite to run; several with commas; default: all")
	fs.StringVar(&r.x.Run, "run", "", "run only tests matching this `regexp`, as go test -run")
	fs.StringVar(&r.x.Skip, "skip", "", "skip tests matching this `regexp`, as go test -skip")
	fs.BoolVar(&r.x.Short, "short", false, "leave out slow tests")
	front.NumberVar(fs, &r.x.Count, "count", 1, "run each test this `many` times")
	fs.StringVar(&r.tap, "tap", "", "write TAP 14 to this `file`; - is standard output, and the table goes to standard error")
	fs.StringVar(&r.json, "json", "", "write the results as JSON to this `file`")
	fs.StringVar(&r.junit, "junit", "", "write the results as JUnit XML to this `file`")
	fs.StringVar(&r.dir, "o", "", "keep logs and results in this `directory`; default: in the cache")
	fs.StringVar(&r.src, "src", ".", "find suites in the Go module of this `directory`")
	return r.run
}

// runCmd is kvmrun run.
type runCmd struct {
	v                vmFlags
	policy           front.Policy
	x                suiterun.Matrix
	names            front.List
	tap, json, junit string
	dir, src         string
}

func (r *runCmd) run(ctx context.Context, io IO, fs *flag.FlagSet, _ []string) error {
	x := r.x
	if fs.NArg() > 0 {
		return front.Usagef("run: unexpected argument %q; kernels are given by -kernel, suites by -suite", fs.Arg(0))
	}
	if err := check(&r.v, &r.policy); err != nil {
		return err
	}
	files, err := openFiles(r.tap, r.json, r.junit)
	if err != nil {
		return err
	}
	known, err := r.policy.AllowList(front.Resolver{})
	if err != nil {
		return err
	}
	x.Timeout, x.Idle, x.Jobs, x.Isolate = r.policy.Timeout, r.policy.Hang, r.policy.Jobs, r.policy.Isolate
	if r.policy.Boot == front.BootWarm {
		return front.Usagef("run: -boot warm is for kvmrun exec and shell; a run makes the machines that it needs by itself")
	}
	x.Warm = r.policy.Boot == front.BootAuto
	x.KeepGoing, x.PanicOnWarn, x.Faults = r.policy.KeepGoing, r.policy.PanicOnWarn, r.policy.Faults.Plan
	ui := newProgress(io.Err)
	defer ui.close()
	m, err := r.v.machine(ui.say)
	if err != nil {
		return err
	}
	m.Allow, m.VMCore = known, machine.CoreFormat(r.policy.VMCore)
	if x.Kernels, err = r.v.open(ctx, io, m); err != nil {
		return err
	}
	if x.Suites, err = r.suites(ctx, m, x); err != nil {
		return front.Usage(err)
	}
	if x.Dir = r.dir; x.Dir == "" {
		if x.Dir, err = m.NewRunDir("run"); err != nil {
			return err
		}
	}
	x.Dir = front.Absolute(x.Dir)
	x.Command = again(fs, &r.v)
	if r.policy.Strict {
		if err := strictly(x); err != nil {
			return err
		}
	}
	shortOf(io.Err, x)
	ui.begin(x)
	x.OnStart, x.OnEvent, x.OnDone = ui.onStart, ui.onEvent, ui.onDone
	res, err := suiterun.New(m).RunMatrix(ctx, x)
	ui.close()
	if err != nil {
		return front.Usage(err)
	}
	res.AllowNothing = r.policy.AllowNothing
	err = writeResults(io, files, x.Dir, res)
	complain(io.Err, known)
	if err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	if code := res.ExitCode(); code != result.ExitPass {
		return &front.Error{Code: code}
	}
	return nil
}

// suites builds and describes the suites, all that there are without names, whose disks
// the faults must fit.
func (r *runCmd) suites(ctx context.Context, m *runner.Machine, x suiterun.Matrix) ([]suiterun.Suite, error) {
	names := []string(r.names)
	source, err := suiterun.FindSource(front.Absolute(r.src))
	if err != nil && !allFiles(names) {
		return nil, err
	}
	if len(names) == 0 {
		if names, err = source.Names(); err != nil {
			return nil, err
		}
	}
	list, err := suiterun.New(m).Suites(ctx, source, names)
	if err != nil {
		return nil, err
	}
	for _, s := range list {
		if err := r.v.vm.Append.Contradict(s.Spec.Name, s.Spec.Cmdline); err != nil {
			return nil, err
		}
	}
	for _, k := range x.Kernels {
		for _, s := range list {
			if err := k.CheckFaults(ctx, &m.Host, x.Faults, s.Spec.Disks); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

// writeResults writes the results in each format to where its flag says, as JSON beside
// the logs in dir, and as a table.
func writeResults(io IO, files []userFile, dir string, res result.Run) error {
	var errs []error
	table := io.Out
	for i, format := range []func(io2, result.Run) error{report.TAP, report.JSON, report.JUnit} {
		if files[i].standard {
			errs = append(errs, format(io.Out, res))
			table = io.Err
			continue
		}
		errs = append(errs, files[i].Write(func(w io2) error { return format(w, res) }))
	}
	var text bytes.Buffer
	errs = append(errs, report.JSON(&text, res), output.Save(filepath.Join(dir, "result.json"), text.Bytes()))
	if s := io.getenv("GITHUB_STEP_SUMMARY"); s != "" {
		errs = append(errs, appendFile(s, func(w io2) error { return report.GitHub(w, res) }))
	}
	errs = append(errs, report.Table(table, res, tableOptions(table)))
	return errors.Join(errs...)
}

// io2 is io.Writer; the parameter io hides the package.
type io2 = io.Writer

func allFiles(names []string) bool {
	for _, n := range names {
		if st, err := os.Stat(n); err != nil || !st.Mode().IsRegular() {
			return false
		}
	}
	return len(names) > 0
}

// shortOf says, before anything boots, which suites will lack something.
func shortOf(w io.Writer, x suiterun.Matrix) {
	for _, k := range x.Kernels {
		for _, s := range x.Suites {
			miss := append(k.Config.Missing(s.Spec.Kconfig), k.Config.Missing(s.Spec.OptionalKconfig)...)
			if len(miss) > 0 {
				fmt.Fprintf(w, "kvmrun: %s: suite %s will skip what needs CONFIG_%s\n", k.Release, s.Spec.Name, strings.Join(miss, ", CONFIG_"))
			}
		}
	}
}

// strictly refuses kernels that would make a suite skip something.
func strictly(x suiterun.Matrix) error {
	var errs []error
	for _, k := range x.Kernels {
		for _, s := range x.Suites {
			errs = append(errs, front.Lacks(k.Path, k.Config, s.Spec))
			if k.Config == nil {
				break
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return front.Fail(fmt.Errorf("-strict: %w", err))
	}
	return nil
}

func tableOptions(w io.Writer) report.TableOptions {
	f, ok := terminal(w)
	if !ok {
		return report.TableOptions{}
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		width = 0
	}
	return report.TableOptions{Color: os.Getenv("NO_COLOR") == "", Width: width}
}

// userFile is a file to be written that a flag names, or standard output.
type userFile struct {
	*output.File
	standard bool
}

// openFiles finds out whether what flags name can be written, before there is
// anything to write. A name of "-" is standard output.
func openFiles(names ...string) ([]userFile, error) {
	out := make([]userFile, len(names))
	for i, name := range names {
		if out[i].standard = name == "-"; out[i].standard {
			continue
		}
		var err error
		if out[i].File, err = output.Open(name); err != nil {
			return nil, front.Usage(err)
		}
	}
	return out, nil
}

func appendFile(name string, write func(io.Writer) error) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// seconds formats a duration for people.
func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
