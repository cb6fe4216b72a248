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

	"github.com/kvmrun/kvmrun/internal/output"
	"github.com/kvmrun/kvmrun/internal/report"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/suites"
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
	run: doRun,
}

// allowNothingFlag is the flag by which a user allows what tests nothing.
func allowNothingFlag(fs *flag.FlagSet) *bool {
	return fs.Bool("allow-nothing", false, "do not fail where nothing is tested: all tests are skipped, or none is selected")
}

func doRun(ctx context.Context, io IO, fs *flag.FlagSet, args []string) error {
	var v vmFlags
	v.register(fs, true)
	var names list
	var x runner.Matrix
	fs.Var(&names, "suite", "a suite to run; several with commas; default: all")
	fs.StringVar(&x.Run, "run", "", "run only tests matching this `regexp`, as go test -run")
	fs.StringVar(&x.Skip, "skip", "", "skip tests matching this `regexp`, as go test -skip")
	fs.BoolVar(&x.Short, "short", false, "leave out slow tests")
	numberVar(fs, &x.Count, "count", 1, "run each test this `many` times")
	spanVar(fs, &x.Timeout, "timeout", "limit for one suite in a VM, e.g. `5m`; default: the suite's own, three times that without KVM;\nthe tests after one that used it up go on in a fresh VM, twice at most")
	spanVar(fs, &x.Idle, "hang", "limit for a guest that says nothing at all, e.g. `2m`; default: none")
	fs.BoolVar(&x.KeepGoing, "keep-going", false, "go on in the same VM after a kernel splat, instead of a fresh one")
	fs.BoolVar(&x.PanicOnWarn, "panic-on-warn", false, "let the kernel panic at its first warning")
	isolate := fs.String("isolate", "", "keep tests apart: none, suite (a fresh VM after a kernel splat) or test (a VM each, forked); default: suite, or what the suite says")
	numberVar(fs, &x.Jobs, "j", 0, "how `many` VMs run at a time; default: as many as CPUs")
	allow := allowFlag(fs)
	faults := faultFlag(fs)
	vmcore := coreFlag(fs)
	allowNothing := allowNothingFlag(fs)
	strict := fs.Bool("strict", false, "fail, instead of skipping, what the kernel's configuration has no support for")
	tapFile := fs.String("tap", "", "write TAP 14 to this `file`; - is standard output, and the table goes to standard error")
	jsonFile := fs.String("json", "", "write the results as JSON to this `file`")
	junitFile := fs.String("junit", "", "write the results as JUnit XML to this `file`")
	dir := fs.String("o", "", "keep logs and results in this `directory`; default: in the cache")
	src := fs.String("src", ".", "find suites in the Go module of this `directory`")
	if err := parse(fs, args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return usagef("run: unexpected argument %q; kernels are given by -kernel, suites by -suite", fs.Arg(0))
	}
	files, err := openFiles(*tapFile, *jsonFile, *junitFile)
	if err != nil {
		return err
	}
	known, err := allowLists(*allow)
	if err != nil {
		return err
	}
	if x.Isolate, err = suites.ParseIsolation(*isolate); err != nil {
		return usagef("run: -isolate: %v", err)
	}
	ui := newProgress(io.Err)
	defer ui.close()
	m, err := v.machine(io, ui.say)
	if err != nil {
		return err
	}
	m.Allow, m.VMCore = known, *vmcore
	if x.Kernels, err = v.open(ctx, io, m); err != nil {
		return err
	}
	source, err := runner.FindSource(absolute(*src))
	if err != nil && !allFiles(names) {
		return &exitError{exitUsage, err}
	}
	if len(names) == 0 {
		if names, err = source.Names(); err != nil {
			return &exitError{exitUsage, err}
		}
	}
	if x.Suites, err = m.Suites(ctx, source, names); err != nil {
		return &exitError{exitUsage, err}
	}
	x.Faults = faults.Plan
	for _, k := range x.Kernels {
		for _, s := range x.Suites {
			if err := k.CheckFaults(ctx, m, x.Faults, s.Spec.Disks); err != nil {
				return &exitError{exitUsage, err}
			}
		}
	}
	if x.Dir = *dir; x.Dir == "" {
		if x.Dir, err = m.NewRunDir("run"); err != nil {
			return err
		}
	}
	x.Dir = absolute(x.Dir)
	x.Command = again(fs, &v)
	if *strict {
		if err := strictly(x); err != nil {
			return err
		}
	}
	shortOf(io.Err, x)
	ui.begin(x)
	x.OnStart, x.OnEvent, x.OnDone = ui.onStart, ui.onEvent, ui.onDone
	res, err := m.RunMatrix(ctx, x)
	ui.close()
	if err != nil {
		return &exitError{exitUsage, err}
	}
	res.AllowNothing = *allowNothing
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
	errs = append(errs, report.JSON(&text, res), output.Save(filepath.Join(x.Dir, "result.json"), text.Bytes()))
	if s := io.getenv("GITHUB_STEP_SUMMARY"); s != "" {
		errs = append(errs, appendFile(s, func(w io2) error { return report.GitHub(w, res) }))
	}
	errs = append(errs, report.Table(table, res, tableOptions(table)))
	complain(io.Err, known)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	if code := res.ExitCode(); code != exitOK {
		return &exitError{code: code}
	}
	return nil
}

// io2 is io.Writer; the parameter io hides the package.
type io2 = io.Writer

func absolute(p string) string {
	if a, err := filepath.Abs(p); err == nil {
		return a
	}
	return p
}

func allFiles(names []string) bool {
	for _, n := range names {
		if st, err := os.Stat(n); err != nil || !st.Mode().IsRegular() {
			return false
		}
	}
	return len(names) > 0
}

// shortOf says, before anything boots, which suites will lack something.
func shortOf(w io.Writer, x runner.Matrix) {
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
func strictly(x runner.Matrix) error {
	var errs []error
	for _, k := range x.Kernels {
		if k.Config == nil {
			errs = append(errs, fmt.Errorf("the configuration of %s is not known; name it with -kconfig", k.Path))
		}
		for _, s := range x.Suites {
			miss := append(k.Config.Missing(s.Spec.Kconfig), k.Config.Missing(s.Spec.OptionalKconfig)...)
			if len(miss) > 0 {
				errs = append(errs, fmt.Errorf("%s: suite %s needs CONFIG_%s", k.Path, s.Spec.Name, strings.Join(miss, ", CONFIG_")))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fail(fmt.Errorf("-strict: %w", err))
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
			return nil, &exitError{exitUsage, err}
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
