// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"github.com/kvmrun/kvmrun/internal/bisect"
	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/hunt"
)

// Exit statuses that git bisect run understands (git-bisect(1)): 1 to 127 but
// 125 are bad, more than 127 ends the bisection.
const (
	stepGood = 0
	stepBad  = 1
	stepSkip = 125
	stepStop = 128
)

var bisectStepCommand = command{
	name:  "bisect-step",
	short: "build and test one commit, for git bisect run",
	long: `Builds the kernel in a directory and runs a test on it, for those who prefer git's
own driver:

  git bisect start v6.12 v6.11
  git bisect run kvmrun bisect-step -src . -suite ext4 -run TestPunch

(a checkout of kvmrun is named by -module, or -suite names a test binary). The
directory must be one in which nothing was ever built. What is bad is said as for
kvmrun bisect. With -repeat it is bad as soon as one run is.

Exit status: 0 good; 1 bad; 125, for git to skip it, when it does not build, does
not boot or fails in another way; 128, which ends the bisection, when this machine
fails or the command line is wrong.`,
	flags: stepFlags,
	wrong: stepError,
}

func stepFlags(fs *flag.FlagSet) action {
	var b bisectFlags
	b.symptomFlags(fs)
	b.build.registerBisect(fs, ".")
	fs.IntVar(&b.search.Repeat, "repeat", 1, "run it this many times; one bad run makes it bad")
	fs.StringVar(&b.dir, "o", "", "keep logs in this `directory`; default: in the cache")
	return func(ctx context.Context, cio IO, fs *flag.FlagSet, _ []string) error {
		return doBisectStep(ctx, cio, b, fs)
	}
}

func doBisectStep(ctx context.Context, cio IO, b bisectFlags, fs *flag.FlagSet) error {
	b.symptom.Suite = b.suite
	if err := front.CheckDone(fs, "bisect-step", ""); err != nil {
		return stepError(err)
	}
	if b.search.Repeat < 1 {
		return stepError(errors.New("bisect-step: -repeat: want 1 or more"))
	}
	if err := b.symptom.Check(); err != nil {
		return stepError(fmt.Errorf("bisect-step: %w", err))
	}
	if err := check(&b.vm); err != nil {
		return stepError(err)
	}
	ui := newProgress(cio.Err)
	defer ui.close()
	m, err := newMachine(&b.vm, ui.say)
	if err != nil {
		return stepError(err)
	}
	if b.dir == "" {
		if b.dir, err = m.NewRunDir("bisect-step"); err != nil {
			return stepError(err)
		}
	}
	return step(ctx, cio, b.question(cio, m), b.tools(cio, m, ""), b.dir)
}

// step does one commit and tells git.
func step(ctx context.Context, cio IO, q hunt.Question, t hunt.Tools, dir string) error {
	word, reason, err := hunt.Step(ctx, q, t, dir)
	if err != nil {
		return stepError(err)
	}
	fmt.Fprintf(cio.Out, "%s: %s\n", word, reason)
	if code := stepStatus(word); code != stepGood {
		return &front.Error{Code: code}
	}
	return nil
}

// stepStatus is what git is told.
func stepStatus(w bisect.Word) int {
	switch w {
	case bisect.Good:
		return stepGood
	case bisect.Bad:
		return stepBad
	case bisect.Other, bisect.BootFailed, bisect.BuildFailed:
		return stepSkip
	}
	return stepStop // nothing was learned
}

// stepError ends git's bisection: nothing was learned about the commit.
func stepError(err error) error {
	var exit *front.Error
	if errors.As(err, &exit) {
		err = exit.Err
	}
	return &front.Error{Code: stepStop, Err: err}
}
