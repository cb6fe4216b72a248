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
	"slices"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/ktap"
	"github.com/kvmrun/kvmrun/internal/report"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/visible"
)

var tapCommand = command{
	name: "tap", args: "[FILE|-]",
	short: "count the tests in a log that holds TAP, KTAP or the like",
	long: `Reads the output of a test program, a console log, dmesg or a CI log, and prints
what failed, what is wrong with the results as a whole, and their number. No VM
is started. Without FILE it reads standard input.

It knows TAP 12 to 14 with the dialects of Perl, node and node-tap, KTAP of KUnit
and kselftest, behind printk times, syslog's and CI systems' prefixes and between
other lines; the output of bpf's test_progs and test_verifier, of LTP's programs,
of kunit.py and of prove. The results of LTP's kirk and runltp are refused.

Exit status: 0 all passed, 1 a test failed, results are missing or contradict
what a plan or a summary says, there are none or nothing was tested; 2 wrong usage.`,
	flags: tapFlags,
}

func tapFlags(fs *flag.FlagSet) action {
	var t tapCmd
	fs.BoolVar(&t.all, "v", false, "print the tests that passed or were skipped too")
	fs.StringVar(&t.json, "json", "", "write the results as JSON to this `file`; - is standard output, and the rest goes to standard error")
	fs.StringVar(&t.junit, "junit", "", "write the results as JUnit XML to this `file`; - as for -json")
	fs.StringVar(&t.tap, "tap", "", "write the results as TAP 14 to this `file`; - as for -json")
	t.policy.Register(fs, "allow-nothing")
	return t.run
}

// tapCmd is kvmrun tap.
type tapCmd struct {
	policy           front.Policy
	all              bool
	json, junit, tap string
}

func (t *tapCmd) run(_ context.Context, cio IO, fs *flag.FlagSet, _ []string) error {
	if fs.NArg() > 1 {
		return front.Usagef("tap: one FILE, not %d", fs.NArg())
	}
	stdout := 0
	for _, name := range []string{t.json, t.junit, t.tap} {
		if name == "-" {
			stdout++
		}
	}
	if stdout > 1 {
		return front.Usagef("tap: only one of -json, -junit and -tap can be -")
	}
	files, err := openFiles(t.json, t.junit, t.tap)
	if err != nil {
		return err
	}
	in, name := io.Reader(cio.In), "standard input"
	if file := fs.Arg(0); file != "" && file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return front.Usagef("tap: %w", err)
		}
		defer f.Close() //nolint:errcheck // only read
		in, name = f, file
	}
	doc, err := ktap.Parse(in)
	if err != nil {
		return front.Usagef("tap: %s: %w", name, err)
	}
	job := tapJob(doc, name)
	run := result.Run{ID: "tap", Started: job.Started, Jobs: []result.Job{job}, AllowNothing: t.policy.AllowNothing}

	text := cio.Out
	if stdout > 0 {
		text = cio.Err
	}
	writeTap(text, doc, job.Cases, t.all)
	fmt.Fprintf(text, "%s\n", job.Notes[0])
	var errs []error
	for i, write := range []func(io.Writer) error{
		func(w io.Writer) error { return report.JSON(w, run) },
		func(w io.Writer) error { return report.JUnit(w, run) },
		func(w io.Writer) error { return ktap.Emit(w, doc) },
	} {
		if files[i].standard {
			errs = append(errs, write(cio.Out))
		} else {
			errs = append(errs, files[i].Write(write))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("tap: %w", err)
	}
	if code := run.ExitCode(); code != result.ExitPass {
		return &front.Error{Code: result.ExitFail, Err: fmt.Errorf("%s: %s: %s", visible.Line(name), job.Verdict, visible.Line(job.Reason))}
	}
	return nil
}

// tapJob returns a document as a job with a verdict.
func tapJob(doc *ktap.Doc, name string) result.Job {
	n := doc.Count()
	facts := result.Facts{EndMarker: true, Program: true, TestsRun: n.Total(), TestsSkipped: n.Skip}
	if doc.Failed() {
		facts.TestsFailed = doc.Failures()
		facts.TestsRun = max(facts.TestsRun, facts.TestsFailed)
	}
	kind := doc.Version
	switch {
	case doc.Refused != nil:
		kind = doc.Refused.Format
	case doc.Empty() && facts.TestsFailed == 0:
		kind = "no results"
	case n.Total() == 0 && facts.TestsFailed == 0:
		facts.NothingTested = "its plan is 1..0"
		if doc.SkipAll != "" && doc.SkipAll != "skipped" {
			facts.NothingTested += ": " + doc.SkipAll
		}
	}
	if kind == "" {
		kind = "TAP"
	}
	job := result.Job{
		ID: "tap", Suite: "tap", Kernel: filepath.Base(name), Cases: report.FromTAP(doc), Started: time.Now(),
		TAP: &result.TAPCounts{Pass: n.Pass, Fail: n.Fail, Skip: n.Skip, XFail: n.XFail, Missing: n.Missing},
		Notes: []string{fmt.Sprintf("%s: %d run, %d passed, %d skipped, %d failed as expected, %d failed, %d missing",
			visible.Line(kind), n.Total(), n.Pass, n.Skip, n.XFail, n.Fail, n.Missing)},
	}
	for i := range job.Cases {
		if c := &job.Cases[i]; c.Unearned {
			// Neither TAP nor KTAP demands a reason.
			c.Unearned, c.Reason = false, "no reason given"
		}
	}
	if facts.TestsRun == 0 && facts.NothingTested == "" {
		job.Verdict, job.Reason = result.VerdictTestFailed, "no test results were found in it"
		return job
	}
	job.Verdict, job.Reason = result.Judge(facts)
	if i := slices.IndexFunc(doc.AllProblems(), func(p string) bool { return strings.Contains(p, "bailed out:") }); i >= 0 {
		job.Reason = doc.AllProblems()[i] + "; " + job.Reason
	}
	if job.Verdict == result.VerdictTestFailed && n.Fail+n.Missing == 0 {
		if all := doc.AllProblems(); len(all) > 0 {
			job.Reason = all[0]
		}
	}
	return job
}

// writeTap prints the tests of a document, those that failed if not all, and what
// is wrong with it.
func writeTap(w io.Writer, doc *ktap.Doc, cases []result.Case, all bool) {
	for i := range cases {
		c := &cases[i]
		if !all && c.Status != result.StatusFail || strings.HasSuffix(c.Name, "(plan)") {
			continue // the plan's are among the problems
		}
		fmt.Fprintf(w, "%-5s %s", c.Status, visible.Line(c.Name))
		if c.Reason != "" {
			fmt.Fprintf(w, ": %s", visible.Line(c.Reason))
		}
		fmt.Fprintln(w)
	}
	for _, p := range doc.AllProblems() {
		fmt.Fprintf(w, "problem: %s\n", visible.Line(p))
	}
	if all {
		for _, n := range doc.Notes {
			fmt.Fprintf(w, "note: %s\n", visible.Line(n))
		}
	}
}
