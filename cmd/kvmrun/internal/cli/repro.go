// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/words"
)

// self is this program as a command line names it: by its name where PATH finds
// it, otherwise by its path.
func self() string {
	exe, err := os.Executable()
	if err != nil || filepath.Base(exe) != "kvmrun" {
		return "kvmrun"
	}
	if found, err := exec.LookPath("kvmrun"); err == nil {
		a, errA := os.Stat(found)
		b, errB := os.Stat(exe)
		if errA == nil && errB == nil && os.SameFile(a, b) {
			return "kvmrun"
		}
	}
	return words.Quote(exe)
}

// runDecides are the flags of kvmrun run, beside those of vmFlags, that decide
// how a run ends and that a command to repeat it must have. The rest choose what
// runs, which is said for each job, or where results go.
var runDecides = map[string]bool{
	"skip": false, "run": false, "suite": false, "kernel": false, "fault": false,
	"tap": false, "json": false, "junit": false, "o": false,
	"short": true, "count": true, "timeout": true, "hang": true, "keep-going": true, "panic-on-warn": true,
	"isolate": true, "boot": true, "j": true, "allow": true, "vmcore": true, "strict": true, "src": true, "allow-nothing": true,
}

// again is the command line of kvmrun run that was given, without the choice of
// what runs and without what is written where.
func again(fs *flag.FlagSet, v *vmFlags) string {
	var b strings.Builder
	b.WriteString(self() + " run" + v.again())
	fs.Visit(func(f *flag.Flag) {
		if runDecides[f.Name] {
			b.WriteString(front.Same(f, " "))
		}
	})
	return b.String()
}
