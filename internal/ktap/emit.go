// SPDX-License-Identifier: Apache-2.0

package ktap

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Emit writes d as a TAP 14 document. It is complete and strict whatever is
// in d: tests are numbered from 1 on, each level has its plan, missing tests
// and problems get failing results, so that what failed in the model fails in
// the output, and "#", backslashes, newlines and control characters in names
// cannot be taken for anything else.
//
// TAP 14 knows fewer directives than KTAP: an expected failure is written as
// TODO, and a timeout, an error or an unexpected pass as "not ok". Output and
// Notes are not written; put into YAML what shall be shown.
func Emit(w io.Writer, d *Doc) error {
	b := bufio.NewWriter(w)
	_, _ = b.WriteString("TAP version 14\n") // bufio keeps the error for Flush
	writeDoc(b, d, "")
	if err := b.Flush(); err != nil {
		return fmt.Errorf("write TAP: %w", err)
	}
	return nil
}

func writeDoc(w *bufio.Writer, d *Doc, indent string) {
	// A document cannot be made to print more than it holds.
	missing := min(max(d.Missing, 0), maxRemarks)
	problems := d.Problems
	if d.Refused != nil {
		problems = append(slices.Clone(problems), d.Refused.String())
	}
	total := len(d.Tests) + missing + len(problems)
	line := func(format string, args ...any) {
		_, _ = w.WriteString(indent)
		_, _ = fmt.Fprintf(w, format, args...)
		_ = w.WriteByte('\n')
	}
	switch {
	case total == 0 && d.Bailed:
		// A plan that skips everything would read as success.
	case total == 0:
		reason := d.SkipAll
		if reason == "" {
			reason = "no tests"
		}
		line("1..0 # SKIP %s", escape(reason))
	default:
		line("1..%d", total)
	}
	for i, t := range d.Tests {
		if t.Sub != nil {
			line("# Subtest: %s", strings.TrimSpace(clean(t.Name)))
			writeDoc(w, t.Sub, indent+"    ")
		}
		line("%s", resultLine(i+1, t))
		if t.YAML != "" {
			line("  ---")
			for l := range strings.Lines(t.YAML) {
				l = clean(expandTabs(strings.TrimSuffix(l, "\n")))
				if strings.HasPrefix(l, "...") {
					l = " " + l // not the end yet
				}
				line("  %s", l)
			}
			line("  ...")
		}
	}
	for i := range missing {
		text := "missing test"
		if left := d.Missing - missing; left > 0 && i == missing-1 {
			text = fmt.Sprintf("missing test and %d more", left)
		}
		line("not ok %d - %s", len(d.Tests)+i+1, text)
	}
	for i, problem := range problems {
		line("not ok %d - %s", len(d.Tests)+missing+i+1, strings.TrimSpace(escape(problem)))
	}
	if d.Bailed {
		// TAP 14 ends at this line, at any depth.
		line("%s", strings.TrimSpace("Bail out! "+clean(d.BailOut)))
	}
}

// resultLine returns a test's result line. The reason of a failure is a comment.
func resultLine(number int, t *Test) string {
	var b strings.Builder
	status := t.Status()
	if status == StatusFail || status == StatusXFail || !t.OK && status != StatusSkip {
		b.WriteString("not ")
	}
	b.WriteString("ok " + strconv.Itoa(number))
	if name := strings.TrimSpace(escape(t.Name)); name != "" {
		if before, ok := strings.CutSuffix(name, "{"); ok {
			name = before + `\{` // which would begin subtests for some
		}
		b.WriteString(" - " + name)
	}
	reason := t.Reason
	switch {
	case status == StatusSkip:
		b.WriteString(" # SKIP")
	case t.Directive == XFail:
		b.WriteString(" # TODO")
		if reason == "" {
			reason = "expected to fail"
		}
	case t.Directive == Todo:
		b.WriteString(" # TODO")
	case status == StatusFail && reason != "" && t.Directive == None:
		if d, _ := parseDirective(reason); d != None {
			return b.String() // as which it would be read
		}
		b.WriteString(" #")
	default:
		return b.String()
	}
	return strings.TrimRight(b.String()+" "+strings.TrimSpace(escape(reason)), " ")
}

// escape makes s fit for a TAP 14 description.
func escape(s string) string {
	s = clean(s)
	if !strings.ContainsAny(s, `\#`) {
		return s
	}
	return strings.NewReplacer(`\`, `\\`, `#`, `\#`).Replace(s)
}

// clean replaces what would break a line, or act on a terminal, by U+FFFD.
func clean(s string) string {
	ok := true
	for _, r := range s {
		ok = ok && printable(r)
	}
	if ok && utf8.ValidString(s) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if !printable(r) {
			return utf8.RuneError
		}
		return r
	}, s)
}

// expandTabs replaces tabs, which YAML forbids in indentation and clean
// everywhere.
func expandTabs(s string) string { return strings.ReplaceAll(s, "\t", "        ") }

func printable(r rune) bool { return unicode.IsGraphic(r) && r != '\u2028' && r != '\u2029' }

// A Field is a key and a value of a YAML block. The key must be a plain word.
type Field struct{ Key, Value string }

// YAML returns fields as the text of a [Test.YAML]. Values of several lines
// become literal blocks, others quoted strings. Control characters other than
// the newline are replaced by U+FFFD.
func YAML(fields []Field) string {
	var b strings.Builder
	for _, f := range fields {
		b.WriteString(f.Key + ": ")
		if !strings.Contains(f.Value, "\n") {
			// Of JSON's strings, every one is a YAML double-quoted scalar.
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			_ = enc.Encode(clean(f.Value)) // a string always encodes
			continue
		}
		// The indicators say how deep the text is indented, should that not be
		// plain from its first line, and how many newlines end it.
		b.WriteByte('|')
		if first := strings.TrimLeft(f.Value, "\n"); first == "" || isBlank(first[0]) {
			b.WriteByte('2')
		}
		switch {
		case !strings.HasSuffix(f.Value, "\n"):
			b.WriteByte('-')
		case strings.HasSuffix(f.Value, "\n\n"), f.Value == "\n":
			b.WriteByte('+')
		}
		b.WriteByte('\n')
		for l := range strings.Lines(f.Value) {
			// Blank lines are indented as well, for the sake of Perl's
			// TAP::Parser.
			b.WriteString("  " + clean(expandTabs(strings.TrimSuffix(l, "\n"))) + "\n")
		}
	}
	return b.String()
}
