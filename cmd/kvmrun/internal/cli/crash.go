// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/kvmrun/kvmrun/internal/oops"
)

var crashCommand = command{
	name: "crash", args: "[FILE|-]",
	short: "find kernel splats in a console log",
	long: `Reads any console log (of kvmrun, a serial line, dmesg, a CI system) and prints
the kernel's reports in it: title, kind, function, stack. Without FILE it reads
standard input. Exit status: 0 no report found, 1 some found, 2 wrong usage.`,
	run: doCrash,
}

func doCrash(_ context.Context, cio IO, fs *flag.FlagSet, args []string) error {
	asJSON := fs.Bool("json", false, "print one JSON object per report and line")
	allow := fs.String("allow", "", "leave out what this allow-list `file` names")
	if err := parse(fs, args); err != nil {
		return err
	}
	if fs.NArg() > 1 {
		return usagef("crash: one FILE, not %d", fs.NArg())
	}
	in := io.Reader(cio.In)
	if name := fs.Arg(0); name != "" && name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return usagef("crash: %w", err)
		}
		defer f.Close() //nolint:errcheck // only read
		in = f
	}
	list, err := allowList(*allow)
	if err != nil {
		return err
	}
	var print func(*oops.Report) error
	if asJSON := *asJSON; asJSON {
		e := json.NewEncoder(cio.Out)
		print = func(r *oops.Report) error { return e.Encode(r) }
	} else {
		print = func(r *oops.Report) error { return writeReport(cio.Out, r) }
	}
	found := 0
	var werr error
	if err := oops.Reader(in, func(r *oops.Report) {
		if list.allows(r) {
			return
		}
		found++
		if werr == nil {
			werr = print(r)
		}
	}); err != nil {
		return usagef("crash: read the log: %w", err)
	}
	if werr != nil {
		return fmt.Errorf("print the reports: %w", werr)
	}
	list.complain(cio.Err)
	if found > 0 {
		return &exitError{code: exitFail}
	}
	return nil
}
