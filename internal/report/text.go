// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/visible"
)

// line returns s as one line that is safe to print: see package comment.
func line(s string) string { return visible.Line(s) }

// block returns s as lines that are safe to print, each with a newline.
func block(s string) string {
	if s == "" {
		return ""
	}
	return strings.TrimSuffix(visible.Lines(s), "\n") + "\n"
}

// dedent removes the blanks that all lines of s begin with. Package testing
// indents all that tests log.
func dedent(s string) string {
	common := -1
	for l := range strings.Lines(s) {
		if trimmed := strings.TrimLeft(l, " "); trimmed != "\n" {
			if n := len(l) - len(trimmed); common < 0 || n < common {
				common = n
			}
		}
	}
	if common <= 0 {
		return s
	}
	var b strings.Builder
	for l := range strings.Lines(s) {
		b.WriteString(l[min(common, len(l)-1):]) // blank lines may be shorter
	}
	return b.String()
}

// bound cuts the middle out of a text longer than about limit bytes.
func bound(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	head := strings.ToValidUTF8(s[:limit/2], "")
	tail := strings.ToValidUTF8(s[len(s)-limit/2:], "")
	return fmt.Sprintf("%s\n[... %d bytes left out ...]\n%s", head, len(s)-len(head)-len(tail), tail)
}

// seconds prints d for people: tenths below a minute.
func seconds(d time.Duration) string {
	d = d.Round(100 * time.Millisecond)
	if d < time.Minute {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	d = d.Round(time.Second)
	if d < time.Hour {
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
}

// labels returns a name for each job's kernel: its release, and the path with
// it if the run has several kernels of that release.
func labels(jobs []result.Job) []string {
	paths := make(map[string]map[string]bool) // by release
	for _, j := range jobs {
		if paths[j.Release] == nil {
			paths[j.Release] = make(map[string]bool)
		}
		paths[j.Release][j.Kernel] = true
	}
	names := make([]string, len(jobs))
	for i, j := range jobs {
		switch {
		case j.Release == "" && j.Kernel == "":
			names[i] = "(unknown)"
		case j.Release == "" && len(paths[""]) == 1:
			names[i] = filepath.Base(j.Kernel)
		case j.Release == "":
			names[i] = j.Kernel
		case len(paths[j.Release]) > 1:
			names[i] = j.Release + " (" + j.Kernel + ")"
		default:
			names[i] = j.Release
		}
		names[i] = line(names[i])
	}
	return names
}

// counts prints how many tests there were, leaving out what was not. A skip
// without a reason counts as failed, as it does for the verdict.
func counts(c result.Counts) string {
	if c.Run+c.NotRun == 0 {
		return "no tests"
	}
	var parts []string
	for _, p := range []struct {
		n    int
		word string
	}{{c.Pass, "passed"}, {c.Fail + c.Unearned, "failed"}, {c.Skip - c.Unearned, "skipped"}, {c.NotRun, "not run"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.word))
		}
	}
	return strings.Join(parts, ", ")
}

// failed reports whether c counts as a failure.
func failed(c *result.Case) bool {
	return c.Status != result.StatusPass && (c.Status != result.StatusSkip || c.Unearned)
}

// bad reports whether a job fails its run.
func bad(run result.Run, j *result.Job) bool {
	return j.Verdict != result.VerdictPass && (j.Verdict != result.VerdictNothingTested || !run.AllowNothing)
}

// unrun is a reason for which tests did not run, and their names.
type unrun struct {
	reason string
	names  []string
}

// unruns returns the tests that did not run by their reasons, in the order of
// their appearance.
func unruns(cases []result.Case) []unrun {
	var out []unrun
	at := make(map[string]int)
	for i := range cases {
		c := &cases[i]
		if c.Status != result.StatusNotRun {
			continue
		}
		k, ok := at[c.Reason]
		if !ok {
			k = len(out)
			at[c.Reason] = k
			out = append(out, unrun{reason: line(c.Reason)})
		}
		out[k].names = append(out[k].names, caseName(c))
	}
	return out
}

// outputFile is where a job keeps all that its test binary printed.
const outputFile = "stdout.log"

// lines returns the lines of a failed test's output, at most limit of them: the
// first and the last, and between them a line that says how many are left out
// and, unless dir is "", where they are. Output of one line that is the reason
// says nothing new.
func lines(c *result.Case, limit int, dir string) []string {
	text := strings.TrimRight(dedent(block(c.Output)), "\n")
	if text == "" || strings.TrimSpace(text) == line(c.Reason) {
		return nil
	}
	all := strings.Split(text, "\n")
	if len(all) <= limit {
		return all
	}
	left := fmt.Sprintf("[... %d lines left out", len(all)-limit)
	if dir != "" {
		left += "; all of them: " + line(filepath.Join(dir, outputFile))
	}
	head := limit / 2
	out := append([]string{}, all[:head]...)
	out = append(out, left+" ...]")
	return append(out, all[len(all)-(limit-head):]...)
}

// caseName returns c's name, and a stand-in if it has none.
func caseName(c *result.Case) string {
	if name := line(c.Name); name != "" {
		return name
	}
	return "(unnamed)"
}

// reason returns why c did not pass, in one line.
func reason(c *result.Case) string {
	switch {
	case c.Status == result.StatusNotRun:
		return strings.TrimSuffix("not run: "+line(c.Reason), ": ")
	case c.Reason != "":
		return line(c.Reason)
	case c.Unearned:
		return "skipped without a reason"
	case c.Status == result.StatusInvalid || c.Status > result.StatusNotRun:
		return "has no valid status"
	}
	return ""
}

// splatTitle returns a splat's title with what is known besides.
func splatTitle(s *result.Splat) string {
	title := line(s.Title)
	if title == "" {
		title = "kernel splat without a title"
	}
	if s.Corrupted {
		title += " (report corrupted)"
	}
	if s.Count > 1 {
		title += fmt.Sprintf(" (%d times)", s.Count)
	}
	about := ""
	switch {
	case s.Test != "":
		about = "during " + line(s.Test)
	case s.Phase != "":
		about = "in no test: " + line(s.Phase)
	}
	if s.Where != "" {
		about = strings.TrimPrefix(about+", "+line(s.Where), ", ")
	}
	if about != "" {
		title += " (" + about + ")"
	}
	switch {
	case s.Expected:
		title += ": expected by the test"
	case s.Allowed != "":
		title += ": allowed: " + line(s.Allowed)
	}
	return title
}
