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
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvmrun/kvmrun/internal/bisect"
	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/output"
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

// setup is what a bisection's directory says of the question.
type setup struct {
	Args []string `json:"args"`
	// Dir is where the command was given: paths in Args start there.
	Dir string `json:"dir"`
	// Suite is what the user called the suite, whose binary is in the directory.
	Suite string `json:"suite"`
}

// subject is one of the three kinds of history.
type subject interface {
	bisect.Builder
	// history returns what lies between the ends. With an empty good, it returns
	// everything before the bad end, for looking back.
	history(ctx context.Context, good string) (bisect.History, error)
	// report fills in what only the kind of history knows.
	report(r *bisect.Report)
	// after confirms a culprit in a way of its own, or does nothing.
	after(ctx context.Context, s *bisection, r *bisect.Result) error
	// close gives up what it holds.
	close()
	// cost is that of a kernel that is not there, in runs.
	cost() float64
}

// bisection is one in progress.
type bisection struct {
	bisectFlags
	io      IO
	ui      *progress
	m       *runner.Machine
	suite   runner.Suite
	dir     string // the bisection's
	journal *bisect.Journal
	command string
	subject subject
	tester  bisect.Tester // the bisection itself, but in tests
	runs    atomic.Int64

	mu        sync.Mutex
	repeaters []repeated // the most recently used last
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
	var asked setup
	if b.resume != "" {
		var err error
		dir := front.Absolute(b.resume)
		if journal, err = bisect.Resume(dir, &asked); err != nil {
			return front.Usage(err)
		}
		defer journal.Close() //nolint:errcheck // each record was synced
		// As if it were asked again, there: all paths are as they were.
		if err := os.Chdir(asked.Dir); err != nil {
			return fmt.Errorf("resume the bisection: %w", err)
		}
		again := flag.NewFlagSet("", flag.ContinueOnError)
		again.SetOutput(cio.Err)
		b = bisectFlags{}
		b.register(again)
		if err := parse(again, "bisect", asked.Args); err != nil {
			return err
		}
		b.dir, b.paths = dir, again.Args()
	}
	if err := b.check(); err != nil {
		return err
	}
	s := &bisection{bisectFlags: b, io: cio, ui: newProgress(cio.Err), journal: journal, dir: b.dir}
	defer s.ui.close()
	s.tester = s
	defer s.closeRepeaters()
	return s.do(ctx, args, asked)
}

func (s *bisection) do(ctx context.Context, args []string, asked setup) error {
	var err error
	if s.m, err = newMachine(&s.vm, s.ui.say); err != nil {
		return err
	}
	if len(s.configs) == 2 {
		return s.doConfigs(ctx, args, asked)
	}
	if s.subject, err = s.newSubject(ctx); err != nil {
		return err
	}
	defer s.subject.close()
	resumed := s.journal != nil
	// All that can be refused is refused before the directory is made.
	var h bisect.History
	if !resumed && s.good != "auto" {
		if h, err = s.subject.history(ctx, s.good); err != nil {
			return front.Usage(err)
		}
		if _, err := bisect.New(h, s.search); err != nil {
			return front.Usage(fmt.Errorf("bisect: %w", err))
		}
	}
	if err := s.begin(ctx, args, asked); err != nil {
		return err
	}
	defer s.journal.Close() //nolint:errcheck // each record was synced
	return s.interrupted(ctx, s.search1(ctx, h))
}

// begin makes or takes up the bisection's directory.
func (s *bisection) begin(ctx context.Context, args []string, asked setup) error {
	resumed := s.journal != nil
	if err := s.openSuite(ctx, resumed, asked.Suite); err != nil {
		return err
	}
	if resumed {
		args = asked.Args
	} else if err := s.create(args); err != nil {
		return err
	}
	s.command = "kvmrun bisect " + words.QuoteAll(args)
	s.ui.say("everything is kept in " + s.dir + "; after an interruption: kvmrun bisect -resume " + s.dir)
	return nil
}

// interrupted adds to an error how to go on.
func (s *bisection) interrupted(ctx context.Context, err error) error {
	if err != nil && ctx.Err() == nil {
		var exit *front.Error
		if !errors.As(err, &exit) {
			err = fmt.Errorf("%w\nwhat was found out is kept: kvmrun bisect -resume %s", err, s.dir)
		}
	}
	return err
}

// newSubject finds out which kind of history is meant.
func (s *bisection) newSubject(ctx context.Context) (subject, error) {
	switch {
	case s.kernels != "" && s.build.c.Source != "":
		return nil, front.Usagef("bisect: -kernels and -src exclude each other: one is for kernels that exist, the other for commits")
	case s.kernels != "":
		return s.newKernels(ctx)
	case s.build.c.Source != "":
		return s.newCommits(ctx)
	}
	return nil, front.Usagef("bisect: no history: give -kernels for kernels that exist, or -src for the commits of a git repository")
}

// create makes the bisection's directory, with the suite's binary in it: the
// question stays the same when the suite's source changes.
func (s *bisection) create(args []string) error {
	cwd, err := os.Getwd()
	if err != nil {
		return err
	}
	if s.dir == "" {
		if s.dir, err = s.newDir(); err != nil {
			return err
		}
	}
	s.dir = front.Absolute(s.dir)
	if s.journal, err = bisect.Create(s.dir, setup{Args: args, Dir: cwd, Suite: s.bisectFlags.suite}); err != nil {
		return front.Usage(err)
	}
	return s.keepSuite()
}

// newDir makes a directory in the cache that is not swept like those of runs.
func (s *bisection) newDir() (string, error) {
	parent := filepath.Join(s.m.Cache.Root(), "bisect")
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", fmt.Errorf("make a directory for the bisection: %w", err)
	}
	return os.MkdirTemp(parent, time.Now().Format("20060102-150405")+"-")
}

const suiteBinary = "suite.test"

func (s *bisection) keepSuite() error {
	to := filepath.Join(s.dir, suiteBinary)
	err := output.Replace(to, func(w io.Writer) error {
		f, err := os.Open(s.suite.Binary)
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // only read
		_, err = io.Copy(w, f)
		return err
	})
	if err == nil {
		err = os.Chmod(to, 0o755) //nolint:gosec // a program
	}
	if err != nil {
		return fmt.Errorf("keep the suite's binary: %w", err)
	}
	s.suite.Binary = to
	return nil
}

// openSuite builds the suite and sees that -run names a test of it.
func (s *bisection) openSuite(ctx context.Context, resumed bool, given string) error {
	name, src := s.bisectFlags.suite, runner.Source{}
	if kept := filepath.Join(s.dir, suiteBinary); resumed {
		if _, err := os.Stat(kept); err == nil {
			name = kept
		}
	}
	if !allFiles([]string{name}) {
		var err error
		if src, err = runner.FindSource(front.Absolute(s.module)); err != nil {
			return front.Usage(err)
		}
	}
	suites, err := s.m.Suites(ctx, src, []string{name})
	if err != nil {
		return front.Usage(err)
	}
	s.suite = suites[0]
	if s.suite.Given = s.bisectFlags.suite; resumed {
		s.suite.Given = given
	}
	if _, err := s.m.RunMatrix(ctx, runner.Matrix{Suites: suites, Run: s.symptom.Run}); err != nil {
		return front.Usage(err)
	}
	return nil
}

// search1 searches to the end, from wherever it is.
func (s *bisection) search1(ctx context.Context, h bisect.History) error {
	s.search.BuildCost = s.subject.cost()
	job := bisect.Job{Builder: s.subject, Tester: s.tester, Record: s.journal.Record, Progress: s.tell()}
	seen := s.journal.Seen()
	s.runs.Store(int64(len(seen)))
	found := len(h.Points) > 0
	var saved bisect.Saved
	if !found && s.journal.Load(&saved) == nil {
		h, s.good, s.bad, found = saved.History, saved.Good, saved.Bad, true
	}
	if !found && s.good == "auto" {
		all, err := s.subject.history(ctx, "")
		if err != nil {
			return front.Usage(err)
		}
		good, r, err := bisect.FindGood(ctx, all, s.search, job, seen)
		if err != nil {
			return err
		}
		seen = s.journal.Seen()
		if good == "" {
			return s.conclude(bisect.Report{Result: r, History: all, Observations: seen})
		}
		s.good = good
	}
	if !found {
		var err error
		if h, err = s.subject.history(ctx, s.good); err != nil {
			return front.Usage(err)
		}
	}
	if c, ok := s.subject.(*commits); ok {
		c.learn(h)
	}
	if s.bad == "" {
		s.bad = s.subjectName(h.Points[h.Bad()].ID)
	}
	if err := s.journal.Save(s.saved(h)); err != nil {
		return err
	}
	search, err := bisect.New(h, s.search)
	if err != nil {
		return front.Usage(fmt.Errorf("bisect: %w", err))
	}
	for _, o := range seen {
		search.Observe(o)
	}
	r, err := bisect.Run(ctx, search, job)
	if err != nil {
		if len(s.journal.Seen()) > 0 {
			_ = s.write(search.NewReport()) // as far as it is known
		}
		return err
	}
	if r.Kind == bisect.Culprit {
		if err := s.subject.after(ctx, s, r); err != nil {
			return err
		}
	}
	report := search.NewReport()
	report.Observations = s.journal.Seen()
	return s.conclude(report)
}

func (s *bisection) saved(h bisect.History) bisect.Saved {
	var r bisect.Report
	s.subject.report(&r)
	return bisect.Saved{History: h, Config: s.search, Git: r.Git, Good: s.good, Bad: s.bad}
}

// conclude writes the reports, prints one, and gives the exit status.
func (s *bisection) conclude(r bisect.Report) error {
	if err := s.write(r); err != nil {
		return err
	}
	s.ui.close()
	text, err := os.Open(filepath.Join(s.dir, "report.txt"))
	if err != nil {
		return err
	}
	defer text.Close() //nolint:errcheck // only read
	if _, err := io.Copy(s.io.Out, text); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	fmt.Fprintf(s.io.Err, "kvmrun: reports: %s\n", filepath.Join(s.dir, "report.{txt,md,json,html}"))
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

func (s *bisection) write(r bisect.Report) error {
	r.Symptom, r.Command = s.symptom.String(), s.command
	r.GoodName, r.BadName = s.good, s.bad
	s.subject.report(&r)
	for name, f := range map[string]func(io.Writer) error{
		"report.txt": r.Text, "report.md": r.Markdown, "report.json": r.JSON, "report.html": r.HTML,
	} {
		if err := output.Replace(filepath.Join(s.dir, name), f); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
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

// tell prints a line for each run, with what is left.
func (s *bisection) tell() func(bisect.Event) {
	n := len(s.journal.Seen())
	var run, build time.Duration // means, of what there was so far
	runs, builds := 0, 0
	names := map[string]string{}
	return func(e bisect.Event) {
		name := names[e.Step.Point]
		if name == "" {
			name = s.subjectName(e.Step.Point)
			names[e.Step.Point] = name
		}
		if e.Done == nil {
			left := ""
			if e.Runs > 0 {
				left = fmt.Sprintf("; about %.0f more", e.Runs)
				if runs > 0 {
					d := time.Duration(e.Runs) * run / time.Duration(max(1, s.policy.Jobs))
					if builds > 0 {
						d += time.Duration(e.Builds * float64(build))
					}
					left += ", " + d.Round(time.Second).String()
				}
			}
			s.ui.say(fmt.Sprintf("%s: %s%s", e.Step.Phase, name, left))
			return
		}
		n++
		o := *e.Done
		if o.Run > 0 {
			runs++
			run += (o.Run - run) / time.Duration(runs)
		}
		if o.Build > 0 {
			builds++
			build += (o.Build - build) / time.Duration(builds)
		}
		line := fmt.Sprintf("run %d: %s: %s", n, name, o.Word)
		if o.Word != bisect.Good && o.Reason != "" {
			line += ": " + o.Reason
		}
		s.ui.say(fmt.Sprintf("%s (%s)", line, (o.Build + o.Run).Round(100*time.Millisecond)))
	}
}

func (s *bisection) subjectName(point string) string {
	if n, ok := s.subject.(interface{ name(string) string }); ok {
		return n.name(point)
	}
	return point
}

// Test runs the suite on a kernel once.
func (s *bisection) Test(ctx context.Context, point string, b bisect.Build) (bisect.Observation, error) {
	k, err := s.m.OpenKernel(ctx, b.Path, b.Modules, b.Config)
	if err != nil {
		if ctx.Err() != nil || front.HostsFault(err) {
			return bisect.Observation{}, err
		}
		return bisect.Observation{Word: bisect.BootFailed, Reason: "cannot be used: " + firstLine(err)}, nil
	}
	dir := filepath.Join(s.dir, "runs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return bisect.Observation{}, fmt.Errorf("make a directory for a run: %w", err)
	}
	if dir, err = os.MkdirTemp(dir, fmt.Sprintf("%03d-", s.runs.Add(1))); err != nil {
		return bisect.Observation{}, fmt.Errorf("make a directory for a run: %w", err)
	}
	from, done := s.repeater(b.Path, k).Begin(ctx, dir)
	defer done()
	run, err := s.m.RunMatrix(ctx, runner.Matrix{
		Kernels: []*runner.Kernel{k}, Suites: []runner.Suite{s.suite}, Run: s.symptom.Run, Timeout: s.policy.Timeout, Jobs: 1, Dir: dir, From: from,
		// A suite's own isolation would have all runs go on from one boot, which must
		// not decide for all of them.
		Isolate: suites.IsolateSuite,
		Command: s.again(),
	})
	if err != nil {
		return bisect.Observation{}, err
	}
	return s.symptom.Judge(run.Jobs[0]), nil
}

// again is the beginning of a command line that does one of the runs again.
func (s *bisection) again() string {
	c := self() + " run" + s.vm.Same() + " -isolate " + string(suites.IsolateSuite) + " -src " + words.Quote(front.Absolute(s.module))
	if s.policy.Timeout > 0 {
		c += " -timeout " + s.policy.Timeout.String()
	}
	return c
}

// keepRepeaters bounds for how many kernels a booted machine is kept in memory:
// the two between which the search goes back and forth.
const keepRepeaters = 2

// repeater returns what repeats on a kernel go on from.
func (s *bisection) repeater(path string, k *runner.Kernel) *runner.Repeater {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range s.repeaters {
		if r.path == path {
			s.repeaters = append(append(s.repeaters[:i:i], s.repeaters[i+1:]...), r)
			return r.Repeater
		}
	}
	if len(s.repeaters) >= keepRepeaters {
		s.repeaters[0].Close()
		s.repeaters = s.repeaters[1:]
	}
	r := repeated{path, s.m.NewRepeater(k, s.suite)}
	s.repeaters = append(s.repeaters, r)
	return r.Repeater
}

// repeated is a kernel with its Repeater.
type repeated struct {
	path string
	*runner.Repeater
}

func (s *bisection) closeRepeaters() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.repeaters {
		r.Close()
	}
	s.repeaters = nil
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
