// SPDX-License-Identifier: Apache-2.0

package hunt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvmrun/kvmrun/internal/bisect"
	"github.com/kvmrun/kvmrun/internal/kbuild"
	"github.com/kvmrun/kvmrun/internal/output"
	"github.com/kvmrun/kvmrun/internal/plan"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/suiterun"
)

// Question is what is looked for, and where. One of Kernels, Configs and a Build
// with a source alone says in which kind of history.
type Question struct {
	// Kernels names kernels that exist: a directory, a list with commas, a file
	// with one per line, or debian:6.12 for all that the archive has.
	Kernels string
	// Configs are the good and the bad configuration.
	Configs []string
	// Build makes the kernels of commits and configurations: its Source is the
	// repository, or the tree.
	Build kbuild.Config
	// FirstParent and Paths restrict the commits.
	FirstParent bool
	Paths       []string
	// Good and Bad are the ends, by the names of their kind. Good may be "auto", to
	// look back for one; an empty Bad is the last.
	Good, Bad string

	// Suite is a name, a package or a test binary, Module a directory of the Go
	// module in which it is looked for.
	Suite, Module string
	Symptom       bisect.Symptom
	Search        bisect.Config // Parallel is how many VMs run at a time
	Timeout       time.Duration // of one run; 0 is the suite's own
}

// Tools are what a hunt works with.
type Tools struct {
	Machine *runner.Machine
	Env     []string // for git
	// Find returns the file of what a user calls a kernel; an error that is not
	// about the machine is a QuestionError.
	Find func(ctx context.Context, name string) (string, error)
	// Tell is told in a line what goes on, from any goroutine.
	Tell func(line string)
	// Command is the command line that asked the question, and Again the beginning
	// of one that does a single run again, for reports.
	Command, Again string
	// Tester runs the suite on a kernel; nil is in a VM.
	Tester bisect.Tester
}

// QuestionError is what is wrong with a question.
type QuestionError struct{ Err error }

// Error implements error.
func (e *QuestionError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *QuestionError) Unwrap() error { return e.Err }

func refuse(err error) error { return &QuestionError{err} }

func refusef(format string, a ...any) error { return refuse(fmt.Errorf(format, a...)) }

// subject is one of the kinds of history.
type subject interface {
	bisect.Builder
	// history returns what lies between the ends. With an empty good, it returns
	// everything before the bad end, for looking back.
	history(ctx context.Context, good string) (bisect.History, error)
	// learn takes what a history that was kept says.
	learn(h bisect.History)
	// name is what a point is called in progress.
	name(point string) string
	// report fills in what only the kind of history knows.
	report(r *bisect.Report)
	// after confirms a culprit in a way of its own, by further runs, or does nothing.
	after(ctx context.Context, r *bisect.Result, runs moreRuns) error
	// keep says where files of the hunt go.
	keep(dir string)
	// close gives up what it holds.
	close()
	// cost is that of a kernel that is not there, in runs.
	cost() float64
}

// moreRuns are those that a subject does by itself.
type moreRuns struct {
	seen       []bisect.Observation
	confidence float64
	// do runs once and records it.
	do func(ctx context.Context, s bisect.Step) (bisect.Observation, error)
}

// plain is what most kinds of history have no need of.
type plain struct{}

func (plain) learn(bisect.History)                                  {}
func (plain) name(point string) string                              { return point }
func (plain) after(context.Context, *bisect.Result, moreRuns) error { return nil }
func (plain) keep(string)                                           {}
func (plain) close()                                                {}

// Hunt is one in progress.
type Hunt struct {
	q       Question
	t       Tools
	suite   suiterun.Suite
	dir     string
	journal *bisect.Journal
	subject subject
	between bisect.History // between the ends, once it is known
	runs    atomic.Int64

	mu        sync.Mutex
	repeaters []repeated // the most recently used last
}

// New looks at a question's history.
func New(ctx context.Context, q Question, t Tools) (*Hunt, error) {
	h := newHunt(q, t)
	var err error
	switch {
	case len(q.Configs) > 0:
		h.subject, err = newOptions(ctx, &h.q, t)
	case q.Kernels != "" && q.Build.Source != "":
		err = refusef("bisect: -kernels and -src exclude each other: one is for kernels that exist, the other for commits")
	case q.Kernels != "":
		h.subject, err = newKernels(ctx, &h.q, t)
	case q.Build.Source != "":
		h.subject, err = newCommits(ctx, &h.q, t)
	default:
		err = refusef("bisect: no history: give -kernels for kernels that exist, or -src for the commits of a git repository")
	}
	if err != nil {
		return nil, err
	}
	return h, nil
}

func newHunt(q Question, t Tools) *Hunt {
	h := &Hunt{q: q, t: t}
	if h.t.Tester == nil {
		h.t.Tester = h
	}
	return h
}

// Close gives up what the hunt holds; what was found out is in its directory.
func (h *Hunt) Close() {
	h.closeRepeaters()
	if h.subject != nil {
		h.subject.close()
	}
	if h.journal != nil {
		_ = h.journal.Close() // each record was synced
	}
}

// Dir is the hunt's directory, once it has begun.
func (h *Hunt) Dir() string { return h.dir }

// Asked is what a hunt's directory says of the question.
type Asked struct {
	Args []string `json:"args"`
	// Dir is where the command was given: paths in Args start there.
	Dir string `json:"dir"`
	// Suite is what the user called the suite, whose binary is in the directory.
	Suite string `json:"suite"`
}

// TakeUp opens the directory of a hunt to go on with.
func TakeUp(dir string) (*bisect.Journal, Asked, error) {
	var asked Asked
	j, err := bisect.Resume(dir, &asked)
	if err != nil {
		return nil, asked, refuse(err)
	}
	return j, asked, nil
}

// Begin makes a directory for a new hunt, after all that can be refused was; an
// empty dir is one in the cache.
func (h *Hunt) Begin(ctx context.Context, dir string, args []string) error {
	if len(h.q.Configs) == 0 && h.q.Good != "auto" {
		var err error
		if h.between, err = h.subject.history(ctx, h.q.Good); err != nil {
			return refuse(err)
		}
		if _, err := bisect.New(h.between, h.q.Search); err != nil {
			return refuse(fmt.Errorf("bisect: %w", err))
		}
	}
	if err := h.openSuite(ctx, h.q.Suite); err != nil {
		return err
	}
	h.suite.Given = h.q.Suite
	wd, err := os.Getwd()
	if err != nil {
		return err
	}
	if dir == "" {
		if dir, err = h.newDir(); err != nil {
			return err
		}
	}
	if err := h.in(dir); err != nil {
		return err
	}
	if h.journal, err = bisect.Create(h.dir, Asked{Args: args, Dir: wd, Suite: h.q.Suite}); err != nil {
		return refuse(err)
	}
	return h.keepSuite()
}

// Resume goes on with a hunt that was taken up. The journal is the hunt's.
func (h *Hunt) Resume(ctx context.Context, dir string, j *bisect.Journal, asked Asked) error {
	h.journal = j
	if err := h.in(dir); err != nil {
		return err
	}
	name := h.q.Suite
	if kept := filepath.Join(h.dir, suiteBinary); isFile(kept) {
		name = kept
	}
	if err := h.openSuite(ctx, name); err != nil {
		return err
	}
	h.suite.Given = asked.Suite
	return nil
}

// in sets the hunt's directory.
func (h *Hunt) in(dir string) (err error) {
	if h.dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	h.subject.keep(h.dir)
	return nil
}

// newDir makes a directory in the cache that is not swept like those of runs.
func (h *Hunt) newDir() (string, error) {
	parent := filepath.Join(h.t.Machine.Cache.Root(), "bisect")
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", fmt.Errorf("make a directory for the bisection: %w", err)
	}
	return os.MkdirTemp(parent, time.Now().Format("20060102-150405")+"-")
}

const suiteBinary = "suite.test"

// keepSuite copies the suite's binary into the directory: the question stays the
// same when the suite's source changes.
func (h *Hunt) keepSuite() error {
	to := filepath.Join(h.dir, suiteBinary)
	err := output.Replace(to, func(w io.Writer) error {
		f, err := os.Open(h.suite.Binary)
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
	h.suite.Binary = to
	return nil
}

// openSuite builds the suite and sees that -run names a test of it.
func (h *Hunt) openSuite(ctx context.Context, name string) error {
	var src suiterun.Source
	if !isFile(name) {
		module, err := filepath.Abs(h.q.Module)
		if err != nil {
			return err
		}
		if src, err = suiterun.FindSource(module); err != nil {
			return refuse(err)
		}
	}
	suites, err := suiterun.New(h.t.Machine).Suites(ctx, src, []string{name})
	if err != nil {
		return refuse(err)
	}
	h.suite = suites[0]
	if _, err := suiterun.New(h.t.Machine).RunMatrix(ctx, suiterun.Matrix{Suites: suites, Selection: plan.Selection{Run: h.q.Symptom.Run}}); err != nil {
		return refuse(err)
	}
	return nil
}

// Search looks to the end, from wherever it is, writes the reports and returns
// what they say.
func (h *Hunt) Search(ctx context.Context) (bisect.Report, error) {
	if o, ok := h.subject.(*options); ok {
		return h.minimize(ctx, o)
	}
	return h.bisect(ctx)
}

// job is what package bisect works with.
func (h *Hunt) job() bisect.Job {
	h.runs.Store(int64(len(h.journal.Seen())))
	return bisect.Job{Builder: h.subject, Tester: h.t.Tester, Record: h.journal.Record, Progress: h.tell()}
}

// bisect searches a history of points.
func (h *Hunt) bisect(ctx context.Context) (none bisect.Report, err error) {
	h.q.Search.BuildCost = h.subject.cost()
	job := h.job()
	if r, err := h.ends(ctx, job); r != nil || err != nil {
		if err != nil {
			return none, err
		}
		err := h.write(r)
		return *r, err
	}
	search, err := bisect.New(h.between, h.q.Search)
	if err != nil {
		return none, refuse(fmt.Errorf("bisect: %w", err))
	}
	for _, o := range h.journal.Seen() {
		search.Observe(o)
	}
	r, err := bisect.Run(ctx, search, job)
	if err != nil {
		if len(h.journal.Seen()) > 0 {
			known := search.NewReport()
			_ = h.write(&known) // as far as it is known
		}
		return none, err
	}
	if r.Kind == bisect.Culprit {
		if err := h.subject.after(ctx, r, h.moreRuns()); err != nil {
			return none, err
		}
	}
	report := search.NewReport()
	report.Observations = h.journal.Seen()
	err = h.write(&report)
	return report, err
}

// ends finds what lies between the good and the bad end: it is known, was saved, or
// a good end is looked for. Where there is none, that is the report.
func (h *Hunt) ends(ctx context.Context, job bisect.Job) (*bisect.Report, error) {
	found := len(h.between.Points) > 0
	var saved bisect.Saved
	if !found && h.journal.Load(&saved) == nil {
		h.between, h.q.Good, h.q.Bad, found = saved.History, saved.Good, saved.Bad, true
	}
	if !found && h.q.Good == "auto" {
		all, err := h.subject.history(ctx, "")
		if err != nil {
			return nil, refuse(err)
		}
		good, r, err := bisect.FindGood(ctx, all, h.q.Search, job, h.journal.Seen())
		if err != nil {
			return nil, err
		}
		if good == "" {
			return &bisect.Report{Result: r, History: all, Observations: h.journal.Seen()}, nil
		}
		h.q.Good = good
	}
	if !found {
		var err error
		if h.between, err = h.subject.history(ctx, h.q.Good); err != nil {
			return nil, refuse(err)
		}
	}
	h.subject.learn(h.between)
	if h.q.Bad == "" {
		h.q.Bad = h.subject.name(h.between.Points[h.between.Bad()].ID)
	}
	var r bisect.Report
	h.subject.report(&r)
	return nil, h.journal.Save(bisect.Saved{History: h.between, Config: h.q.Search, Git: r.Git, Good: h.q.Good, Bad: h.q.Bad})
}

// moreRuns lets a subject run for itself.
func (h *Hunt) moreRuns() moreRuns {
	job := bisect.Job{Builder: h.subject, Tester: h.t.Tester}
	return moreRuns{seen: h.journal.Seen(), confidence: h.q.Search.Confidence,
		do: func(ctx context.Context, s bisect.Step) (bisect.Observation, error) {
			h.t.Tell(fmt.Sprintf("%s: %s", s.Phase, s.Point))
			o, err := job.Try(ctx, s)
			if err != nil {
				return o, err
			}
			if err := h.journal.Record(o); err != nil {
				return o, err
			}
			h.t.Tell(fmt.Sprintf("%s: %s %s", s.Point, o.Word, o.Reason))
			return o, nil
		}}
}

// Reports are the files of the report in a hunt's directory, as a shell has them.
const Reports = "report.{txt,md,json,html}"

// write completes a report and writes it in every format.
func (h *Hunt) write(r *bisect.Report) error {
	r.Symptom, r.Command = h.q.Symptom.String(), h.t.Command
	r.GoodName, r.BadName = h.q.Good, h.q.Bad
	h.subject.report(r)
	for name, f := range map[string]func(io.Writer) error{
		"report.txt": r.Text, "report.md": r.Markdown, "report.json": r.JSON, "report.html": r.HTML,
	} {
		if err := output.Replace(filepath.Join(h.dir, name), f); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	return nil
}

// tell tells a line for each run, with what is left.
func (h *Hunt) tell() func(bisect.Event) {
	n := len(h.journal.Seen())
	var run, build time.Duration // means, of what there was so far
	runs, builds := 0, 0
	names := map[string]string{}
	return func(e bisect.Event) {
		name := names[e.Step.Point]
		if name == "" {
			name = h.subject.name(e.Step.Point)
			names[e.Step.Point] = name
		}
		if e.Done == nil {
			left := ""
			if e.Runs > 0 {
				left = fmt.Sprintf("; about %.0f more", e.Runs)
				if runs > 0 {
					d := time.Duration(e.Runs) * run / time.Duration(max(1, h.q.Search.Parallel))
					if builds > 0 {
						d += time.Duration(e.Builds * float64(build))
					}
					left += ", " + d.Round(time.Second).String()
				}
			}
			h.t.Tell(fmt.Sprintf("%s: %s%s", e.Step.Phase, name, left))
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
		h.t.Tell(fmt.Sprintf("%s (%s)", line, (o.Build + o.Run).Round(100*time.Millisecond)))
	}
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// theQuestions says whether an error is one of the question, not of the machine.
func theQuestions(err error) bool {
	var q *QuestionError
	return errors.As(err, &q)
}
