// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/internal/oops"
)

// writeReport prints a report for people: what it is, then its own words, which
// are r.Raw or that with source positions.
func writeReport(w io.Writer, r *oops.Report, text []byte) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", r.Title)
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "  %-12s %s\n", name, printable(value))
		}
	}
	field("kind", string(r.Kind))
	field("function", r.Frame)
	if r.CPU >= 0 {
		field("cpu", fmt.Sprint(r.CPU))
	}
	if r.Comm != "" {
		field("process", fmt.Sprintf("%s/%d", r.Comm, r.PID))
	}
	field("kernel", r.Kernel)
	field("taint", r.Taint)
	field("also called", strings.Join(r.AltTitles, ", "))
	if r.Corrupted {
		field("corrupted", r.CorruptedReason)
	}
	if r.Panicked {
		field("panicked", "yes")
	}
	field("fingerprint", r.Fingerprint)
	field("bytes", fmt.Sprintf("%d-%d", r.Start, r.End))
	for _, l := range strings.Split(strings.TrimRight(string(text), "\n"), "\n") {
		fmt.Fprintf(&b, "  | %s\n", printable(strings.TrimRight(l, "\r")))
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

// printable keeps a log's control characters off the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// allowed is an allow-list, or none.
type allowed struct {
	list *oops.AllowList
	now  time.Time
}

func allowList(name string) (allowed, error) {
	if name == "" {
		return allowed{}, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return allowed{}, usagef("-allow: %w", err)
	}
	l, err := oops.ParseAllowList(name, b)
	if err != nil {
		return allowed{}, usagef("-allow: %w", err)
	}
	return allowed{list: l, now: time.Now()}, nil
}

func (a allowed) allows(r *oops.Report) bool {
	return a.list != nil && a.list.Allow(r, a.now) != nil
}

// complain names the entries that have become useless.
func (a allowed) complain(w io.Writer) {
	if a.list == nil {
		return
	}
	for _, e := range a.list.Expired(a.now) {
		fmt.Fprintf(w, "kvmrun: allow-list: expired and not applied: %s\n", printable(e.String()))
	}
	for _, e := range a.list.Unused() {
		fmt.Fprintf(w, "kvmrun: allow-list: never matched: %s\n", printable(e.String()))
	}
}
