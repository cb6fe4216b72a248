// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/runner"
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

// allowFlag is the flag -allow of the commands that judge splats.
func allowFlag(fs *flag.FlagSet) *multi {
	var files multi
	fs.Var(&files, "allow", "tolerate the kernel splats that this allow-list `file` names; repeatable; a line is\n"+
		"title: GLOB | reason: TEXT | link: URL | expires: YYYY-MM-DD, or fingerprint: HEX for title")
	return &files
}

// coreFlag is the flag -vmcore of the commands that run a VM to its end.
func coreFlag(fs *flag.FlagSet) *runner.CoreFormat {
	var f runner.CoreFormat
	fs.Var(&f, "vmcore", "write the memory of a guest that hangs or dies to a file beside its kernel log, for crash\nand drgn: an ELF core, or with -vmcore=kdump-zlib a smaller one")
	return &f
}

// allowLists reads allow-lists; a bad one is the user's fault.
func allowLists(files []string) (*oops.AllowList, error) {
	l, err := runner.ReadAllowLists(files)
	if err != nil {
		return nil, usagef("-allow: %w", err)
	}
	return l, nil
}

// complain names the entries of allow-lists that have become useless.
func complain(w io.Writer, l *oops.AllowList) {
	for _, c := range l.Complaints(time.Now()) {
		fmt.Fprintln(w, "kvmrun:", visible.Line(c))
	}
}
