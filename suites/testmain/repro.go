// SPDX-License-Identifier: Apache-2.0

package testmain

import (
	"flag"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/suiterun"
	"github.com/kvmrun/kvmrun/internal/words"
)

// again sets the command line that runs the job again: that of this process, or
// go test's where go test made the binary, which is gone afterwards.
func again(job *suiterun.SuiteJob, fs *flag.FlagSet, own func(string) bool, kernel string) {
	wd, err := os.Getwd()
	if err != nil {
		return
	}
	line := "cd " + words.Quote(wd) + " &&"
	for _, e := range passedEnv() {
		line += " " + words.Quote(e)
	}
	byGo := strings.Contains(filepath.ToSlash(job.Suite.Binary), "/go-build")
	if byGo {
		line += " go test" + buildFlags()
	} else {
		line += " " + words.Quote(job.Suite.Binary)
	}
	line += " -kernel " + words.Quote(kernel)
	run := ""
	fs.Visit(func(f *flag.Flag) {
		name, value := f.Name, f.Value.String()
		switch {
		case name == "kernel", name == "logs", dropped[name], outFiles[name], name == "test.outputdir", name == "test.gocoverdir",
			name == "test.paniconexit0":
			return
		case name == "test.timeout" && byGo && value == "10m0s": // its default
			return
		case name == "test.run":
			run = value
			return
		}
		if own(name) {
			line += front.Same(f, "=")
			return
		}
		if byGo {
			if name == "test.v" && value == "test2json" {
				name, value = "json", "true"
			}
			name = strings.TrimPrefix(name, "test.")
		}
		line += " -" + name + "=" + words.Quote(value)
	})
	job.ReproOne, job.ReproRun = line, "-run"
	if !byGo {
		job.ReproRun = "-test.run"
	}
	job.Repro = line
	if run != "" {
		job.Repro += " " + job.ReproRun + " " + words.Quote(run)
	}
}

// buildFlags are those with which go test compiled this binary and that decide
// what is in it.
func buildFlags() (out string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "-race", "-tags":
			out += " " + s.Key + "=" + words.Quote(s.Value)
		}
	}
	return out
}
