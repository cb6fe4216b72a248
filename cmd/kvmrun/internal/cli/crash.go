// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"sync"
	"time"

	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/symbolize"
	"github.com/kvmrun/kvmrun/internal/visible"
)

var crashCommand = command{
	name: "crash", args: "[FILE|-]",
	short: "find kernel splats in a console log",
	long: `Reads any console log (of kvmrun, a serial line, dmesg, a CI system) and prints
the kernel's reports in it: title, kind, function, stack. Without FILE it reads
standard input. Exit status: 0 no report found, 1 some found, 2 wrong usage.
What an allow-list names does not count; with -json it is marked as suppressed.

With -vmlinux, stacks get file, line and inlined functions. It must be the
vmlinux of the build that printed the log, with debug information. Frames whose
position is not found stay as they are.`,
	flags: crashFlags,
}

func crashFlags(fs *flag.FlagSet) action {
	var c crashCmd
	c.policy.Register(fs, "allow")
	fs.BoolVar(&c.json, "json", false, "print one JSON object per report and line")
	fs.StringVar(&c.vmlinux, "vmlinux", "", "look positions up in this `file`, the kernel as it was linked")
	fs.Var(&c.modules, "modules", "look for modules and debug files below this `directory`; repeatable; needs -vmlinux")
	fs.Uint64Var(&c.offset, "kernel-offset", 0, "how many `bytes` KASLR moved the kernel, for addresses without a name;\ndefault: what the log says")
	return c.run
}

// crashCmd is kvmrun crash.
type crashCmd struct {
	policy  front.Policy
	json    bool
	vmlinux string
	modules front.List
	offset  uint64
}

func (c *crashCmd) run(_ context.Context, cio IO, fs *flag.FlagSet, _ []string) error {
	if fs.NArg() > 1 {
		return front.Usagef("crash: one FILE, not %d", fs.NArg())
	}
	offsetGiven := false
	fs.Visit(func(f *flag.Flag) { offsetGiven = offsetGiven || f.Name == "kernel-offset" })
	if c.vmlinux == "" && (len(c.modules) > 0 || offsetGiven) {
		return front.Usagef("crash: -modules and -kernel-offset need -vmlinux")
	}
	in := io.Reader(cio.In)
	if name := fs.Arg(0); name != "" && name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return front.Usagef("crash: %w", err)
		}
		defer f.Close() //nolint:errcheck // only read
		in = f
	}
	known, err := c.policy.AllowList(front.Resolver{})
	if err != nil {
		return err
	}
	sym := &symbolizer{warn: cio.Err, warned: map[string]bool{}}
	if c.vmlinux != "" {
		if sym.s, err = symbolize.Open(c.vmlinux, c.modules...); err != nil {
			return front.Usagef("crash: -vmlinux: %w", err)
		}
		if offsetGiven {
			sym.s.SetOffset(c.offset)
		}
	}
	var print func(r *oops.Report, text []byte, allowed *oops.AllowEntry) error
	if c.json {
		e := json.NewEncoder(cio.Out)
		print = func(r *oops.Report, _ []byte, _ *oops.AllowEntry) error { return e.Encode(r) }
	} else {
		print = func(r *oops.Report, text []byte, allowed *oops.AllowEntry) error {
			if allowed != nil {
				_, err := fmt.Fprintf(cio.Out, "%s\n  %-12s %s\n\n", visible.Line(r.Title), "allowed", visible.Line(allowed.Why()))
				return err
			}
			return writeReport(cio.Out, r, text)
		}
	}
	found := 0
	var refused, werr error
	read := oops.Reader
	if sym.s != nil {
		read = sym.read
	}
	if err := read(in, func(r *oops.Report) {
		entry := known.Allow(r, time.Now())
		if entry != nil {
			r.Suppressed = true
		}
		if !r.Suppressed {
			found++
		}
		if refused != nil || werr != nil {
			return
		}
		var text []byte
		if text, refused = sym.report(r); refused == nil {
			werr = print(r, text, entry)
		}
	}); err != nil {
		return front.Usagef("crash: read the log: %w", err)
	}
	if refused != nil {
		return front.Usagef("crash: -vmlinux: %w", refused)
	}
	if werr != nil {
		return fmt.Errorf("print the reports: %w", werr)
	}
	complain(cio.Err, known)
	if found > 0 {
		return &front.Error{Code: result.ExitFail}
	}
	return nil
}

// symbolizer adds source positions to the reports of a log; without s it does
// nothing.
type symbolizer struct {
	s      *symbolize.Symbolizer
	banner string // of the kernel that printed what is read now, "" if unknown
	warn   io.Writer
	warned map[string]bool
}

// maxWarnings bounds the warnings that a hostile log can cause.
const maxWarnings = 32

// report returns r's text and completes r. It fails if the vmlinux is not that
// of the kernel that printed r.
func (y *symbolizer) report(r *oops.Report) ([]byte, error) {
	if y.s == nil {
		return r.Raw, nil
	}
	if err := y.s.Check(r); err != nil {
		return nil, err
	}
	if err := y.s.CheckBanner(y.banner); err != nil {
		return nil, err
	}
	text, err := y.s.Report(r)
	var all interface{ Unwrap() []error }
	if errors.As(err, &all) {
		for _, err := range all.Unwrap() {
			if text := err.Error(); !y.warned[text] && len(y.warned) < maxWarnings {
				y.warned[text] = true
				fmt.Fprintf(y.warn, "kvmrun: crash: no position for some frames: %s\n", visible.Line(text))
			}
		}
	}
	return text, nil
}

// bannerRe matches linux_banner (init/version-timestamp.c).
var bannerRe = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`Linux version \S+ \(.*\) .*#\d+ .*`) })

// read is oops.Reader that notes which kernel's log it reads. A line of any
// length takes no more memory than the buffer.
func (y *symbolizer) read(in io.Reader, emit func(*oops.Report)) error {
	sc := oops.NewScanner(emit)
	br := bufio.NewReaderSize(in, 64<<10)
	for {
		b, err := br.ReadSlice('\n')
		if _, werr := sc.Write(b); werr != nil {
			return werr
		}
		// The line itself ends the reports of the kernel before.
		if bytes.Contains(b, []byte("Linux version ")) {
			if m := bannerRe().Find(bytes.TrimRight(b, "\r\n")); m != nil {
				y.banner = string(m)
			}
		}
		switch {
		case err == nil, errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return sc.Close()
		}
		if cerr := sc.Close(); cerr != nil {
			return cerr
		}
		return err
	}
}
