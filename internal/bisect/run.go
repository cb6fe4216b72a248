// SPDX-License-Identifier: Apache-2.0

package bisect

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Build is a kernel that can be tested, or the reason why there is none.
type Build struct {
	// Word is BuildFailed or Infra when there is no kernel, otherwise "".
	Word   Word
	Reason string
	Log    string
	// Kernel identifies the kernel's code; equal kernels are tested once. ""
	// when it is not known.
	Kernel string
	// Path is for the Tester, and so are Modules and Config: the kernel's
	// lib/modules/RELEASE and its .config, "" where they are to be found.
	Path, Modules, Config string
	// Seconds is what building took, 0 when it was there already.
	Seconds float64
}

// Builder makes the kernel of a point. It may be called concurrently, also for
// the same point. An error ends the bisection, whose state survives: it is for
// what is no property of the point (a full disk, the end of ctx).
type Builder interface {
	Build(ctx context.Context, point string) (Build, error)
}

// Tester runs a kernel once and says what it showed: an Observation without
// Point, Phase and Kernel, which the caller knows. It may be called
// concurrently. Its error is as Builder's.
type Tester interface {
	Test(ctx context.Context, point string, b Build) (Observation, error)
}

// Job is what Run needs.
type Job struct {
	Builder Builder
	Tester  Tester
	// Record keeps an observation, one at a time, as soon as it is made; an error
	// of it ends the run. nil keeps none.
	Record func(Observation) error
	// Progress, when set, hears of each step's begin and end, one at a time.
	Progress func(Event)
}

// Event is news of a bisection.
type Event struct {
	Step Step
	// Done is the outcome, nil when the step begins.
	Done *Observation
	// Runs and Builds are the estimates of [Search.Left].
	Runs, Builds float64
}

// ErrInfra is returned when the machine, not a kernel, fails again and again.
var ErrInfra = errors.New("the infrastructure fails")

// maxInfra is how many tries in a row may fail for the machine's own reasons.
const maxInfra = 4

// Run makes the runs that the search asks for until it has a result. When ctx
// ends or something of the machine fails, it returns an error; everything
// observed until then was recorded.
func Run(ctx context.Context, s *Search, j Job) (*Result, error) {
	var mu sync.Mutex
	tell := func(e Event) {
		if j.Progress != nil {
			mu.Lock()
			defer mu.Unlock()
			j.Progress(e)
		}
	}
	infra := 0
	for {
		steps := s.Next(s.cfg.Parallel)
		if len(steps) == 0 {
			return s.Result(), nil
		}
		var runs, builds float64
		if j.Progress != nil {
			runs, builds = s.Left()
		}
		var out []Observation // as they came
		errs := make([]error, len(steps))
		var wg sync.WaitGroup
		var end sync.Mutex
		for i, step := range steps {
			tell(Event{Step: step, Runs: runs, Builds: builds})
			wg.Go(func() {
				o, err := j.try(ctx, step, s.twin)
				end.Lock()
				defer end.Unlock()
				if err == nil && j.Record != nil {
					err = j.Record(o) // at once: the others may take long
				}
				if errs[i] = err; err == nil {
					out = append(out, o)
					tell(Event{Step: step, Done: &o})
				}
			})
		}
		wg.Wait()
		for _, o := range out {
			s.Observe(o)
			if infra++; o.Word != Infra {
				infra = 0
			}
			if infra >= maxInfra {
				return nil, fmt.Errorf("%w: %d tries in a row, the last said: %s", ErrInfra, infra, o.Reason)
			}
		}
		if err := errors.Join(errs...); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, err
		}
	}
}

// Try makes one run.
func (j Job) Try(ctx context.Context, step Step) (Observation, error) {
	return j.try(ctx, step, func(Step, string) string { return "" })
}

// try makes one run unless the kernel turns out to have a twin.
func (j Job) try(ctx context.Context, step Step, twin func(Step, string) string) (Observation, error) {
	b, err := j.Builder.Build(ctx, step.Point)
	if err != nil {
		return Observation{}, err
	}
	o := Observation{Word: b.Word, Reason: b.Reason, Log: b.Log}
	if other := twin(step, b.Kernel); b.Word == "" && other != "" {
		o = Observation{Word: Same, Reason: "its kernel is that of " + abbrev(other)}
	} else if b.Word == "" {
		if o, err = j.Tester.Test(ctx, step.Point, b); err != nil {
			return Observation{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return Observation{}, err // what a dying run said is worth nothing
	}
	o.Point, o.Phase, o.Kernel = step.Point, step.Phase, b.Kernel
	o.Build = seconds(b.Seconds)
	return o, nil
}
