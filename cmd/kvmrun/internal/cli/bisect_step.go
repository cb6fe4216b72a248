// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kvmrun/kvmrun/internal/bisect"
	"github.com/kvmrun/kvmrun/internal/front"
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
	err := front.CheckDone(fs, "bisect-step", "")
	switch {
	case err != nil:
	case b.search.Repeat < 1:
		err = errors.New("bisect-step: -repeat: want 1 or more")
	default:
		if err = b.vm.Check(); err != nil {
			break
		}
		if err = b.symptom.Check(); err != nil {
			err = fmt.Errorf("bisect-step: %w", err)
		}
	}
	if err != nil {
		return stepError(err)
	}
	s := &bisection{bisectFlags: b, io: cio, ui: newProgress(cio.Err)}
	s.tester = s
	defer s.ui.close()
	defer s.closeRepeaters()
	if err := s.prepareStep(ctx); err != nil {
		return stepError(err)
	}
	return s.step(ctx)
}

// step does one commit and tells git.
func (s *bisection) step(ctx context.Context) error {
	word, reason, err := s.tryStep(ctx)
	if err != nil {
		return stepError(err)
	}
	fmt.Fprintf(s.io.Out, "%s: %s\n", word, reason)
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

// prepareStep finds what is wrong with the request before anything is built.
func (s *bisection) prepareStep(ctx context.Context) error {
	var err error
	if s.m, err = newMachine(&s.vm, s.ui.say); err != nil {
		return err
	}
	if s.dir == "" {
		if s.dir, err = s.m.NewRunDir("bisect-step"); err != nil {
			return err
		}
	}
	s.dir = front.Absolute(s.dir)
	if err := os.MkdirAll(filepath.Join(s.dir, "runs"), 0o755); err != nil {
		return err
	}
	return s.openSuite(ctx, false, "")
}

// tryStep builds and runs until a run is bad, or says nothing, or all are good.
func (s *bisection) tryStep(ctx context.Context) (bisect.Word, string, error) {
	conf := s.build.config(s.io, s.m)
	b, err := buildOne(ctx, conf)
	if err != nil {
		return "", "", err
	}
	if b.Word != "" {
		return b.Word, b.Reason, nil
	}
	good := 0
	for tries := 0; good < s.search.Repeat; tries++ {
		o, err := s.tester.Test(ctx, conf.Source, b)
		if err != nil {
			return "", "", err
		}
		switch {
		case o.Word == bisect.Good:
			good++
		case o.Word == bisect.Bad || tries > good:
			return o.Word, o.Reason, nil // once more after what may be bad luck
		}
		if err := ctx.Err(); err != nil {
			return "", "", err
		}
	}
	return bisect.Good, fmt.Sprintf("passed in %d of %d runs", good, s.search.Repeat), nil
}
