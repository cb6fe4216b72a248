// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/kvmrun/kvmrun/internal/bisect"
	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/hunt"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/words"
	"github.com/kvmrun/kvmrun/suites"
)

var bisectCommand = command{
	name:  "bisect",
	short: "find what brought a failure in",
	long: `Finds the kernel at which a test began to fail, or a kernel splat to appear:

  kvmrun bisect -kernels debian:6.12 -good 6.12.100 -bad 6.12.117 -suite ext4 -run TestPunch
  kvmrun bisect -src ~/linux -good v6.11 -bad v6.12 -profile kasan -suite ext4 -run TestPunch -- fs mm

-kernels names kernels that exist: a directory, a list with commas, a file with
one per line, or debian:6.12 for all that the archive has. A directory's and the
archive's kernels are in the order of their versions, a list's in its own. -good
and -bad are versions, releases or files; without -bad it is the last one, and
-good auto looks back for one. Minutes, and no compiler: do that first.

-src names a git repository, whose commits are built one after the other, each
from the one before, in a work tree of kvmrun's own: the repository and its work
tree are only read. Kernels are cached, and one that turns out to be the same as
another commit's is not run again. Paths restrict the commits to those that touch
them. A culprit that reverts cleanly, a merge to its first parent, is also reverted
at the bad end.

  kvmrun bisect -configs GOOD.config BAD.config -src ~/linux -suite ext4 -run TestPunch

-configs finds the smallest set of options that makes a kernel with the good
configuration bad; what they depend on comes along.

What is bad is exact: a test that -run names fails; or fails saying -output; or
the kernel says -symptom, the title or the fingerprint of a splat. Anything else
that goes wrong is "other", "boot-failed", "build-failed" or "infra": it is
reported and searched around, never taken for the symptom. The ends are verified
first, and the rate of failure is measured at the bad end (or given by -p): each
step is repeated until the answer has the -confidence. The culprit and its
parent are run once more at the end.

Everything is kept in a directory (-o), and is there when kvmrun was killed:
-resume DIRECTORY goes on. The result is report.txt, .md, .json and .html in it.

Exit status: 0 a culprit was found; 1 none, or only a range, or an end is not
what it was said to be; 2 wrong usage; 3 the infrastructure failed.`,
	flags:   bisectCmdFlags,
	rewrite: twoConfigs,
}

// bisectFlags are what a bisection is asked for.
type bisectFlags struct {
	vm          front.VM
	policy      front.Policy
	kernels     string
	good, bad   string
	suite       string
	module      string
	symptom     bisect.Symptom
	search      bisect.Config
	dir         string
	resume, log string
	configs     front.Multi
	// For commits:
	build       buildFlags
	firstParent bool
	paths       []string
}

func (b *bisectFlags) register(fs *flag.FlagSet) {
	b.symptomFlags(fs)
	b.build.registerBisect(fs, "")
	fs.Var(&b.configs, "configs", "two configurations, `GOOD BAD`: find the options that make the difference")
	fs.StringVar(&b.kernels, "kernels", "", "the `kernels`: a directory, a list with commas, a file with one per line, or debian:6.12")
	fs.BoolVar(&b.firstParent, "first-parent", false, "look at the commits of the main line only: a merge counts as one")
	fs.StringVar(&b.good, "good", "", "where it was good, or auto to look back for that")
	fs.StringVar(&b.bad, "bad", "", "where it is bad; default: the last")
	fs.Float64Var(&b.search.Confidence, "confidence", bisect.DefaultConfidence, "how sure the answer must be")
	fs.Float64Var(&b.search.P, "p", 0, "the `probability` that a run at a bad kernel fails; default: measured")
	fs.IntVar(&b.search.Repeat, "repeat", bisect.DefaultRepeat, "how many runs at the bad end may pass before it counts as good")
	fs.IntVar(&b.search.MaxRuns, "max-runs", 0, "give up after this many runs; default: never")
	b.policy.Register(fs, "j")
	front.Explain(fs, "j", "how `many` VMs run at a time; default: one for each two CPUs")
	fs.StringVar(&b.dir, "o", "", "keep everything in this `directory`; default: in the cache")
	fs.StringVar(&b.resume, "resume", "", "go on with the bisection in this `directory`; all else is as it was")
	fs.StringVar(&b.log, "log", "", "print the git bisect log of the bisection in this `directory`, for git bisect replay")
}

// symptomFlags are those of a single run.
func (b *bisectFlags) symptomFlags(fs *flag.FlagSet) {
	fs.StringVar(&b.suite, "suite", "", "the suite to run: a name, a package or a test binary")
	fs.StringVar(&b.symptom.Run, "run", "", "run only tests matching this `regexp`; that one of them fails is bad")
	fs.StringVar(&b.symptom.Output, "output", "", "only a failing test whose output matches this `regexp` is bad")
	fs.StringVar(&b.symptom.Splat, "symptom", "", "only this kernel splat is bad: its `title` or its fingerprint")
	fs.StringVar(&b.module, "module", ".", "find suites in the Go module of this `directory`")
	b.policy.Register(fs, "timeout")
	front.Explain(fs, "timeout", "limit for one run, e.g. `5m`; default: the suite's own, three times that without KVM")
	b.vm.Register(fs)
}

// check refuses what needs no look at anything to be refused.
func (b *bisectFlags) check() error {
	b.symptom.Suite = b.suite
	if err := b.symptom.Check(); err != nil {
		return front.Usagef("bisect: %w", err)
	}
	switch {
	case len(b.configs) > 0:
		if len(b.configs) != 2 || b.good != "" || b.bad != "" || b.kernels != "" {
			return front.Usagef("bisect: -configs names the good and the bad configuration itself: -configs GOOD.config BAD.config -src DIRECTORY")
		}
		if b.build.c.Source == "" {
			return front.Usagef("bisect: -configs: no source to build: give -src DIRECTORY, or -src debian:6.12")
		}
	case b.good == "":
		return front.Usagef("bisect: where was it good? name that by -good, or let -good auto look back for it")
	}
	if b.policy.Jobs == 0 {
		b.policy.Jobs = max(1, runtime.NumCPU()/2)
	}
	b.search.Parallel = b.policy.Jobs
	return b.vm.Check()
}

// twoConfigs gives the second of -configs' two values the flag that package flag
// wants.
func twoConfigs(args []string) []string {
	for i, a := range args {
		if (a == "-configs" || a == "--configs") && i+2 < len(args) && !strings.HasPrefix(args[i+2], "-") {
			return slices.Concat(args[:i+2], []string{a}, args[i+2:])
		}
	}
	return args
}

func bisectCmdFlags(fs *flag.FlagSet) action {
	var b bisectFlags
	b.register(fs)
	return func(ctx context.Context, cio IO, fs *flag.FlagSet, args []string) error {
		return doBisect(ctx, cio, b, fs, args)
	}
}

func doBisect(ctx context.Context, cio IO, b bisectFlags, fs *flag.FlagSet, args []string) error {
	if fs.NArg() > 0 && b.build.c.Source == "" {
		return front.Usagef("bisect: unexpected argument %q", fs.Arg(0))
	}
	b.paths = fs.Args()
	if b.log != "" {
		return printLog(cio, b.log)
	}
	var journal *bisect.Journal
	var asked hunt.Asked
	if b.resume != "" {
		var err error
		dir := front.Absolute(b.resume)
		if journal, asked, err = hunt.TakeUp(dir); err != nil {
			return huntError(err)
		}
		defer journal.Close() //nolint:errcheck // each record was synced
		// As if it were asked again, there: all paths are as they were.
		if err := os.Chdir(asked.Dir); err != nil {
			return fmt.Errorf("resume the bisection: %w", err)
		}
		again := flag.NewFlagSet("", flag.ContinueOnError)
		b = bisectFlags{}
		b.register(again)
		args = asked.Args
		if err := parse(again, "bisect", args); err != nil {
			return err
		}
		b.dir, b.paths = dir, again.Args()
	}
	if err := b.check(); err != nil {
		return err
	}
	ui := newProgress(cio.Err)
	defer ui.close()
	m, err := newMachine(&b.vm, ui.say)
	if err != nil {
		return err
	}
	h, err := hunt.New(ctx, b.question(cio, m), b.tools(cio, m, "kvmrun bisect "+words.QuoteAll(args)))
	if err != nil {
		return huntError(err)
	}
	defer h.Close()
	if journal != nil {
		err = h.Resume(ctx, b.dir, journal, asked)
	} else {
		err = h.Begin(ctx, b.dir, args)
	}
	if err != nil {
		return huntError(err)
	}
	goOn := "kvmrun bisect -resume " + h.Dir()
	ui.say("everything is kept in " + h.Dir() + "; after an interruption: " + goOn)
	r, err := h.Search(ctx)
	if err = huntError(err); err != nil {
		if ctx.Err() == nil && !front.IsUsage(err) {
			err = fmt.Errorf("%w\nwhat was found out is kept: %s", err, goOn)
		}
		return err
	}
	ui.close()
	return conclude(cio, h.Dir(), r)
}

// question is what the flags ask.
func (b *bisectFlags) question(cio IO, m *runner.Machine) hunt.Question {
	return hunt.Question{
		Kernels: b.kernels, Configs: b.configs, Build: b.build.config(cio, m), FirstParent: b.firstParent, Paths: b.paths,
		Good: b.good, Bad: b.bad, Suite: b.suite, Module: b.module, Symptom: b.symptom, Search: b.search, Timeout: b.policy.Timeout,
	}
}

// tools are what a hunt works with; command is the one that asked.
func (b *bisectFlags) tools(cio IO, m *runner.Machine, command string) hunt.Tools {
	again := self() + " run" + b.vm.Same() + " -isolate " + string(suites.IsolateSuite) + " -src " + words.Quote(front.Absolute(b.module))
	if b.policy.Timeout > 0 {
		again += " -timeout " + b.policy.Timeout.String()
	}
	return hunt.Tools{Machine: m, Env: cio.Env, Tell: m.Progress, Command: command, Again: again,
		Find: func(ctx context.Context, name string) (string, error) {
			path, err := resolver(m).Kernel(ctx, name)
			if front.IsUsage(err) {
				err = &hunt.QuestionError{Err: err}
			}
			return path, err
		}}
}

// huntError gives an error of a hunt its exit status.
func huntError(err error) error {
	var q *hunt.QuestionError
	if errors.As(err, &q) {
		return front.Usage(err)
	}
	return err
}

// conclude prints the report and gives the exit status.
func conclude(cio IO, dir string, r bisect.Report) error {
	text, err := os.Open(filepath.Join(dir, "report.txt"))
	if err != nil {
		return err
	}
	defer text.Close() //nolint:errcheck // only read
	if _, err := io.Copy(cio.Out, text); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	fmt.Fprintf(cio.Err, "kvmrun: reports: %s\n", filepath.Join(dir, hunt.Reports))
	for _, w := range r.Result.Skipped {
		if r.Result.Kind == bisect.EndUntestable && w == bisect.Infra {
			return &front.Error{Code: result.ExitInfra} // nothing is wrong with the end itself
		}
	}
	if k := r.Result.Kind; k != bisect.Culprit && k != bisect.Options {
		return &front.Error{Code: result.ExitFail}
	}
	return nil
}

// printLog prints the log of a bisection that may still be running.
func printLog(cio IO, dir string) error {
	r, err := bisect.ReadReport(dir)
	if err != nil {
		return front.Usage(err)
	}
	if !r.Git {
		return front.Usagef("bisect: the bisection in %s is not one of git commits, and has no git bisect log", dir)
	}
	return r.GitLog(cio.Out)
}
