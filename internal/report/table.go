// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/kvmrun/kvmrun/internal/result"
)

// TableOptions say what the terminal is like that [Table] writes for.
type TableOptions struct {
	// Color is whether to use ANSI colours.
	Color bool
	// Width is the terminal's width in columns; 0 means no limit. Names are
	// shortened and sentences wrapped to fit; paths and commands are not, as
	// they are there to be copied.
	Width int
}

// Limits of the table: how many failed tests, splats and reasons for skips it
// shows for one job, and of their output.
const (
	maxShown    = 20
	maxLines    = 200  // of one failed test's output
	maxJobLines = 1000 // of all of a job's, but for minLines of each
	minLines    = 4
	minKernel   = 12
	tableGap    = 2
	detailStep  = "  "
)

// Table writes run for people: a line for each job, then what went wrong and
// what was skipped, then totals and where the logs are.
func Table(w io.Writer, run result.Run, opts TableOptions) error {
	t := &table{opts: opts}
	t.jobs(run)
	for i, kernel := range labels(run.Jobs) {
		t.job(&run.Jobs[i], kernel)
	}
	if len(run.Jobs) > 0 {
		t.line("")
	}
	color := colorPass
	switch run.ExitCode() {
	case result.ExitFail:
		color = colorFail
	case result.ExitInfra:
		color = colorWarn
	}
	t.line("%s", t.color(color, summary(run)))
	if dir := logDir(run.Jobs); dir != "" {
		t.line("logs: %s", line(dir))
	}
	if _, err := io.WriteString(w, t.b.String()); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

// summary says in one line what became of the run.
func summary(run result.Run) string {
	if len(run.Jobs) == 0 {
		return "nothing was run"
	}
	var all result.Counts
	var passed, broken, bad, nothing int
	for i := range run.Jobs {
		for k := range run.Jobs[i].Cases {
			all.Add(&run.Jobs[i].Cases[k])
		}
		switch run.Jobs[i].Verdict {
		case result.VerdictPass:
			passed++
		case result.VerdictInfra, result.VerdictInvalid:
			broken++
		case result.VerdictNothingTested:
			nothing++
		default:
			bad++
		}
	}
	var parts []string
	for _, p := range []struct {
		n    int
		word string
	}{{passed, "passed"}, {bad, "failed"}, {nothing, "tested nothing"}, {broken, "could not be run"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.word))
		}
	}
	jobs := "jobs"
	if len(run.Jobs) == 1 {
		jobs = "job"
	}
	return fmt.Sprintf("%d %s: %s; tests: %s; %s", len(run.Jobs), jobs, strings.Join(parts, ", "), counts(all), seconds(run.Elapsed))
}

// logDir returns the one directory that has the logs of all jobs that have
// any, or "".
func logDir(jobs []result.Job) string {
	if len(jobs) == 1 {
		return jobs[0].Dir
	}
	dir := ""
	for _, j := range jobs {
		if j.Dir == "" {
			continue
		}
		parent := filepath.Dir(j.Dir)
		if dir != "" && parent != dir {
			return ""
		}
		dir = parent
	}
	return dir
}

type table struct {
	opts TableOptions
	b    strings.Builder
}

// SGR parameters (ECMA-48, 8.3.117).
const (
	colorPass = "32"
	colorFail = "31"
	colorWarn = "33"
	colorBold = "1"
	colorDim  = "2"
)

func (t *table) color(sgr, s string) string {
	if !t.opts.Color || sgr == "" || s == "" {
		return s
	}
	return "\x1b[" + sgr + "m" + s + "\x1b[0m"
}

func (t *table) line(format string, args ...any) {
	fmt.Fprintf(&t.b, format+"\n", args...)
}

// jobs prints the line of each job.
func (t *table) jobs(run result.Run) {
	if len(run.Jobs) == 0 {
		return
	}
	rows := [][]string{{"KERNEL", "SUITE", "VERDICT", "TESTS", "BOOT", "TIME"}}
	names := labels(run.Jobs)
	for i := range run.Jobs {
		j := &run.Jobs[i]
		boot := "-"
		if j.BootTime > 0 {
			boot = seconds(j.BootTime)
		}
		rows = append(rows, []string{
			names[i], line(j.Suite), j.Verdict.String(), counts(result.Count(j.Cases)), boot, seconds(j.Elapsed),
		})
	}
	widths := make([]int, len(rows[0]))
	total := (len(widths) - 1) * tableGap
	for c := range widths {
		for _, row := range rows {
			widths[c] = max(widths[c], utf8.RuneCountInString(row[c]))
		}
		total += widths[c]
	}
	// Names give way to the terminal's width, the kernel's first; they are in
	// full below the table when there is something to say about them.
	for c := range 2 {
		if over := total - t.opts.Width; t.opts.Width > 0 && over > 0 {
			cut := min(over, max(0, widths[c]-minKernel))
			widths[c] -= cut
			total -= cut
		}
	}
	for i, row := range rows {
		var b strings.Builder
		for c, cell := range row {
			cell = shorten(cell, widths[c])
			pad := strings.Repeat(" ", widths[c]-utf8.RuneCountInString(cell))
			right := c >= 4 // numbers
			switch {
			case i == 0:
				cell = t.color(colorBold, cell)
			case c == 2:
				cell = t.color(verdictColor(run.Jobs[i-1].Verdict), cell)
			}
			if right {
				cell = pad + cell
			} else if c < len(row)-1 {
				cell += pad
			}
			if c > 0 {
				b.WriteString(strings.Repeat(" ", tableGap))
			}
			b.WriteString(cell)
		}
		t.line("%s", b.String())
	}
}

func verdictColor(v result.Verdict) string {
	switch v {
	case result.VerdictPass:
		return colorPass
	case result.VerdictInfra, result.VerdictInvalid, result.VerdictNothingTested:
		return colorWarn
	}
	return colorFail
}

// job prints what there is to say about a job, nothing if it simply passed.
func (t *table) job(j *result.Job, kernel string) {
	bad := j.Verdict != result.VerdictPass
	skips := skipReasons(j.Cases)
	if !bad && len(skips) == 0 && len(j.Notes) == 0 && len(j.Splats) == 0 {
		return
	}
	t.line("")
	head := t.color(colorBold, line(j.Suite)+" on "+kernel)
	t.line("%s: %s", head, t.color(verdictColor(j.Verdict), j.Verdict.String()))
	// The reason for a kernel's failure is the first splat's title.
	guilty := slices.IndexFunc(j.Splats, func(s result.Splat) bool { return !s.Excused() })
	if bad && (guilty < 0 || !strings.HasPrefix(j.Reason, j.Splats[guilty].Title)) {
		t.detail("", "", line(j.Reason))
	}
	for i := range j.Splats {
		if i == maxShown {
			t.detail("", "", fmt.Sprintf("and %d more splats", len(j.Splats)-i))
			break
		}
		color := colorFail
		if j.Splats[i].Excused() {
			color = colorDim
		}
		t.detail(color, "splat", splatTitle(&j.Splats[i]))
		if r := j.Splats[i].Repro; r != "" && r != j.Repro {
			t.line("%s%sagain: %s", detailStep, detailStep, line(r))
		}
	}
	shown, more, room := 0, 0, maxJobLines
	for i := range j.Cases {
		c := &j.Cases[i]
		if !failed(c) || c.Status == result.StatusNotRun {
			continue
		}
		if shown == maxShown {
			more++
			continue
		}
		shown++
		text := caseName(c)
		if c.Elapsed >= 100*time.Millisecond {
			text += " (" + seconds(c.Elapsed) + ")"
		}
		if r := reason(c); r != "" {
			text += ": " + r
		}
		t.detail(colorFail, "fail", text)
		out := lines(c, max(minLines, min(maxLines, room)), j.Dir)
		room -= len(out)
		for _, l := range out {
			t.line("%s", strings.TrimRight(detailStep+detailStep+l, " "))
		}
	}
	if more > 0 {
		t.detail("", "", fmt.Sprintf("and %d more failed tests", more))
	}
	for _, u := range unruns(j.Cases) {
		t.detail(colorFail, "not run", strings.TrimSuffix(strings.Join(u.names, ", ")+": "+u.reason, ": "))
	}
	for i, s := range skips {
		if i == maxShown {
			t.detail("", "", fmt.Sprintf("and %d more reasons for skipping", len(skips)-i))
			break
		}
		t.detail(colorDim, "skip", s)
	}
	for _, n := range j.Notes {
		t.detail("", "note", line(n))
	}
	if !bad {
		return
	}
	if j.Dir != "" {
		t.line("%slogs: %s", detailStep, line(j.Dir))
	}
	if j.Repro != "" {
		t.line("%sagain: %s", detailStep, line(j.Repro))
	}
}

// skipReasons returns the reasons for which tests were skipped, in the order
// of their appearance, with the tests.
func skipReasons(cases []result.Case) []string {
	var order []string
	tests := make(map[string][]string)
	for i := range cases {
		c := &cases[i]
		if c.Status != result.StatusSkip || failed(c) {
			continue
		}
		r := reason(c)
		if tests[r] == nil {
			order = append(order, r)
		}
		tests[r] = append(tests[r], caseName(c))
	}
	for i, r := range order {
		names := tests[r]
		text := names[0]
		if len(names) > 1 {
			text = fmt.Sprintf("%s and %d more", names[0], len(names)-1)
		}
		if r != "" {
			text += ": " + r
		}
		order[i] = text
	}
	return order
}

// detail prints an indented sentence, wrapped to the width, after a word in
// colour that says what it is about ("" for none).
func (t *table) detail(sgr, word, text string) {
	if text == "" {
		return
	}
	indent := detailStep
	label, hang := "", detailStep
	if word != "" {
		label = t.color(sgr, word) + " "
		hang = strings.Repeat(" ", len(word)+1)
	}
	width := 0
	if t.opts.Width > 0 {
		width = max(1, t.opts.Width-len(indent)-len(hang))
	}
	for i, l := range wrap(text, width) {
		if i > 0 {
			label = hang
		}
		t.line("%s%s%s", indent, label, l)
	}
}

// wrap splits s at blanks into lines of at most width characters, where words
// allow it. There is no limit if width is not positive.
func wrap(s string, width int) []string {
	if width <= 0 {
		return []string{s}
	}
	var lines []string
	var cur strings.Builder
	n := 0
	for word := range strings.FieldsSeq(s) {
		w := utf8.RuneCountInString(word)
		if n > 0 && n+1+w > width {
			lines = append(lines, cur.String())
			cur.Reset()
			n = 0
		}
		if n > 0 {
			cur.WriteByte(' ')
			n++
		}
		cur.WriteString(word)
		n += w
	}
	return append(lines, cur.String())
}

// shorten cuts s to width characters, with an ellipsis for what is cut.
func shorten(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}
