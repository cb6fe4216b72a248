// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/kvmrun/kvmrun/internal/result"
)

// Limits of the Markdown. GitHub drops a step summary of more than 1 MiB
// (docs.github.com, "Workflow commands", "Step isolation and limits").
const (
	maxMarkdown = 900 << 10
	maxFence    = 16 << 10
)

// GitHub writes run as Markdown for a step summary: a table of the jobs, and
// what failed below it.
func GitHub(w io.Writer, run result.Run) error {
	var b strings.Builder
	names := labels(run.Jobs)
	fmt.Fprintf(&b, "## kvmrun: %s\n\n", summary(run))
	if len(run.Jobs) > 0 {
		b.WriteString("| | Kernel | Suite | Tests | Time | Verdict |\n|---|---|---|---|---|---|\n")
	}
	for i := range run.Jobs {
		j := &run.Jobs[i]
		mark := "❌"
		switch j.Verdict {
		case result.VerdictPass:
			mark = "✅"
		case result.VerdictInfra, result.VerdictInvalid:
			mark = "⚠️"
		case result.VerdictNothingTested:
			if run.AllowNothing {
				mark = "⚠️"
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s: %s |\n", mark, markdown(names[i]), markdown(j.Suite),
			counts(result.Count(j.Cases)), seconds(j.Elapsed), j.Verdict, markdown(j.Reason))
		if b.Len() > maxMarkdown/2 {
			fmt.Fprintf(&b, "\n%d more jobs are left out here.\n", len(run.Jobs)-i-1)
			break
		}
	}
	for i := range run.Jobs {
		details := jobMarkdown(&run.Jobs[i], names[i])
		if b.Len()+len(details) > maxMarkdown {
			b.WriteString("\nFurther details are left out here; the logs have them.\n")
			break
		}
		b.WriteString(details)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write Markdown: %w", err)
	}
	return nil
}

// jobMarkdown returns the details of a job that did not pass.
func jobMarkdown(j *result.Job, kernel string) string {
	if j.Verdict == result.VerdictPass {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n### %s on %s: %s\n\n%s\n", markdown(j.Suite), markdown(kernel), j.Verdict, markdown(j.Reason))
	for i := range j.Splats {
		details(&b, splatTitle(&j.Splats[i]), j.Splats[i].Raw)
	}
	for i := range j.Cases {
		c := &j.Cases[i]
		if !failed(c) || c.Status == result.StatusNotRun {
			continue
		}
		if b.Len() > maxMarkdown/4 {
			b.WriteString("\nFurther failed tests are left out here.\n")
			break
		}
		title := caseName(c)
		if r := reason(c); r != "" {
			title += ": " + r
		}
		text := strings.Join(lines(c, maxLines, j.Dir), "\n")
		if len(text) > maxFence && j.Dir != "" {
			title += " (all of its output: " + filepath.Join(j.Dir, outputFile) + ")"
		}
		details(&b, title, text)
	}
	for _, u := range unruns(j.Cases) {
		fmt.Fprintf(&b, "\n- not run: %s\n", strings.TrimSuffix(list(u.names)+": "+markdown(u.reason), ": "))
	}
	for _, n := range j.Notes {
		fmt.Fprintf(&b, "\nNote: %s\n", markdown(n))
	}
	if j.Repro != "" {
		b.WriteString("\nTo run it again:\n\n" + fence(j.Repro))
	}
	return b.String()
}

// list returns all names, each as by [markdown].
func list(names []string) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = markdown(n)
	}
	return strings.Join(out, ", ")
}

func details(b *strings.Builder, title, text string) {
	if text == "" {
		fmt.Fprintf(b, "\n- %s\n", markdown(title))
		return
	}
	fmt.Fprintf(b, "\n<details><summary>%s</summary>\n\n%s\n</details>\n", markdown(title), fence(text))
}

// fence returns text as a code block that text cannot end.
func fence(text string) string {
	text = bound(block(text), maxFence)
	marks := "```"
	for strings.Contains(text, marks) {
		marks += "`"
	}
	return marks + "text\n" + text + marks + "\n"
}

// markdown returns s as one line of text in which nothing is markup, no
// address becomes a link and no name a mention.
func markdown(s string) string {
	var b strings.Builder
	for _, r := range bound(line(s), 1000) {
		switch {
		case strings.ContainsRune("&<>@:", r):
			// A reference to a character is never markup.
			fmt.Fprintf(&b, "&#%d;", r)
		case strings.ContainsRune("\\`*_{}[]()#+-!|~$^=", r):
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteByte(' ')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
