// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/visible"
)

// writeReport prints a report for people: what it is, then its own words, which
// are r.Raw or that with source positions.
func writeReport(w io.Writer, r *oops.Report, text []byte) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", visible.Line(r.Title))
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "  %-12s %s\n", name, visible.Line(value))
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
		fmt.Fprintf(&b, "  | %s\n", visible.Text(strings.TrimRight(l, "\r")))
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

// complain names the entries of allow-lists that have become useless.
func complain(w io.Writer, l *oops.AllowList) {
	for _, c := range l.Complaints(time.Now()) {
		fmt.Fprintln(w, "kvmrun:", visible.Line(c))
	}
}
