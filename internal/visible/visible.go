// SPDX-License-Identifier: Apache-2.0

// Package visible makes text of others safe to print: what a guest, its kernel or
// QEMU wrote, and names that came from there. A terminal, a reader or a parser
// sees printable characters, newlines and tabs, and everything else as an escape
// such as \x1b: control characters (C0, DEL and C1), characters that reorder or
// hide text (bidirectional controls, zero-width ones, line separators), and what is
// not UTF-8.
//
// Only a program's own output on its standard output and standard error passes
// kvmrun without this.
//
// It must not know who printed what, nor where it goes.
package visible

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Safe reports whether r does nothing but print, or is a newline or a tab. Graphic
// characters are free of controls, of the format characters that reorder text, of
// line separators other than the newline, and of all that XML forbids.
func Safe(r rune) bool {
	return r == '\n' || r == '\t' || unicode.IsGraphic(r) && r != '\u2028' && r != '\u2029'
}

// Text returns s with escapes for all that is not [Safe].
func Text(s string) string {
	clean := utf8.ValidString(s)
	for _, r := range s {
		clean = clean && Safe(r)
	}
	if clean {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1, r < 0x80 && !Safe(r):
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case r > 0xffff && !Safe(r):
			fmt.Fprintf(&b, `\U%08x`, r)
		case !Safe(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// Line is Text in one line: line ends and tabs become blanks.
func Line(s string) string {
	return Text(strings.Join(strings.FieldsFunc(s, func(r rune) bool {
		return r == '\n' || r == '\r' || r == '\t'
	}), " "))
}

// Short makes text of a guest fit for a line of ours, a reason or a note: of 500
// bytes at most, with controls as blanks. What it returns can still have what [Line]
// escapes when it is printed.
func Short(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	const most = 500
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return strings.TrimSpace(s)
}

// Lines is Text for text with the serial console's line ends, \r\n.
func Lines(s string) string { return Text(strings.ReplaceAll(s, "\r\n", "\n")) }

// Writer returns a writer that passes on what [Lines] makes of each Write, which
// must not end within a character.
func Writer(w io.Writer) io.Writer { return writer{w} }

type writer struct{ w io.Writer }

func (w writer) Write(b []byte) (int, error) {
	if _, err := io.WriteString(w.w, Lines(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}
