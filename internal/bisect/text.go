// SPDX-License-Identifier: Apache-2.0

package bisect

import (
	"fmt"
	"io"
	"strings"

	"github.com/kvmrun/kvmrun/internal/visible"
)

// Text writes the report as a mail to a list: the outcome, then the facts, the
// symptom, how to reproduce it, and the path taken.
func (r Report) Text(w io.Writer) error {
	var b strings.Builder
	tag := ""
	if res := r.Result; res != nil && len(res.Found) > 0 && (res.Kind == Culprit || res.Kind == Range) {
		tag = "[REGRESSION] "
	}
	fmt.Fprintf(&b, "Subject: %s%s: %s\n\n", tag, r.Symptom, r.headline())
	fmt.Fprintf(&b, "%s.\n", upper(r.headline()))
	if res := r.Result; res != nil && res.Kind == Options {
		b.WriteByte('\n')
		for _, p := range res.Found {
			fmt.Fprintf(&b, "  %s\n", r.Name(p))
		}
		if len(res.Found) > 1 {
			b.WriteString("\nIt takes all of them.\n")
		}
	}
	if res := r.Result; res != nil && (res.Kind == Culprit || res.Kind == Range) {
		for _, p := range res.Found {
			fmt.Fprintf(&b, "\n  %s %s\n", r.noun(), p.ID)
			for _, f := range []fact{{"Author", p.Author}, {"Date", p.Date}} {
				if f.Text != "" {
					fmt.Fprintf(&b, "  %s: %s\n", f.Label, clean(f.Text, 200))
				}
			}
			if p.Subject != "" {
				fmt.Fprintf(&b, "\n      %s\n", clean(p.Subject, 200))
			}
		}
		if res.Kind == Range && len(res.Found) > 0 {
			b.WriteString("\nIt is one of these: those in between could not be tested.\n")
		}
	}
	b.WriteByte('\n')
	for _, f := range r.facts() {
		fmt.Fprintf(&b, "%s: %s\n", f.Label, f.Text)
	}
	if o := r.shown(); o != nil {
		fmt.Fprintf(&b, "\n%s, at %s:\n\n", r.shownAs(), r.Name(r.point(o.Point)))
		indent(&b, o.Reason)
		if o.Evidence != "" {
			b.WriteByte('\n')
			indent(&b, o.Evidence)
		}
		if o.Repro != "" {
			b.WriteString("\nTo reproduce it:\n\n")
			indent(&b, o.Repro)
		}
	}
	b.WriteString("\nThe bisection:\n\n")
	indent(&b, r.Command)
	b.WriteString("\nThe path taken:\n\n")
	for _, s := range r.path() {
		fmt.Fprintf(&b, "%4d. %-9s %-12s %s", s.N, s.Phase, s.Word, s.Name)
		if s.Word != Good && s.Reason != "" {
			fmt.Fprintf(&b, ": %s", s.Reason)
		}
		b.WriteByte('\n')
	}
	if res := r.Result; r.Git && res != nil && res.Kind == Culprit {
		// Documentation/process/handling-regressions.rst
		fmt.Fprintf(&b, "\n#regzbot introduced: %s\n", res.Found[0].ID)
	}
	_, err := io.WriteString(w, visible.Text(b.String()))
	return err
}

func upper(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func indent(b *strings.Builder, text string) {
	for _, l := range strings.Split(text, "\n") {
		fmt.Fprintf(b, "  %s\n", l)
	}
}

// Markdown writes the report for an issue tracker.
func (r Report) Markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n%s\n", escape(r.Symptom), escape(upper(r.headline())+"."))
	if res := r.Result; res != nil && (res.Kind == Culprit || res.Kind == Range) {
		b.WriteString("\n| | author | date | subject |\n| --- | --- | --- | --- |\n")
		for _, p := range res.Found {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", abbrev(clean(p.ID, 500)), escape(clean(p.Author, 200)), escape(p.Date), escape(clean(p.Subject, 200)))
		}
	}
	if res := r.Result; res != nil && res.Kind == Options {
		b.WriteByte('\n')
		for _, p := range res.Found {
			fmt.Fprintf(&b, "- `%s`\n", r.Name(p))
		}
	}
	b.WriteByte('\n')
	for _, f := range r.facts() {
		fmt.Fprintf(&b, "- **%s**: %s\n", f.Label, escape(f.Text))
	}
	if o := r.shown(); o != nil {
		fmt.Fprintf(&b, "\n### %s\n\nAt %s: %s\n", r.shownAs(), escape(r.Name(r.point(o.Point))), escape(o.Reason))
		if o.Evidence != "" {
			fenced(&b, o.Evidence)
		}
		if o.Repro != "" {
			b.WriteString("\nTo reproduce it:\n")
			fenced(&b, o.Repro)
		}
	}
	b.WriteString("\n### The bisection\n")
	fenced(&b, r.Command)
	b.WriteString("\n| | for | word | where | why |\n| --- | --- | --- | --- | --- |\n")
	for _, s := range r.path() {
		fmt.Fprintf(&b, "| %d | %s | %s | %s | %s |\n", s.N, s.Phase, s.Word, escape(s.Name), escape(s.Reason))
	}
	_, err := io.WriteString(w, visible.Text(b.String()))
	return err
}

// fenced writes a code block whose fence is longer than any in the text.
func fenced(b *strings.Builder, text string) {
	fence := "```"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	fmt.Fprintf(b, "\n%s\n%s\n%s\n", fence, text, fence)
}

// escape keeps Markdown from seeing markup in a line of text.
func escape(s string) string {
	return markup.Replace(strings.ReplaceAll(s, "\n", " "))
}

var markup = strings.NewReplacer(
	`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "<", "&lt;", ">", "&gt;", "|", `\|`, "#", `\#`, "@", "&#64;",
)
