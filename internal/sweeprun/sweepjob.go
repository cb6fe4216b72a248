// SPDX-License-Identifier: Apache-2.0

package sweeprun

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/sweep"
	"github.com/kvmrun/kvmrun/internal/symbolize"

	"github.com/kvmrun/kvmrun/internal/oops"
)

// SweepOptions say which points a sweep tries, and how.
type SweepOptions struct {
	// Points is "all", "sites", or a number of points, evenly spread.
	Points string
	Spread int // the number, when Points is "n"
	// At, when set, is the one point that is tried.
	At *sweep.Point
	// Jobs is how many VMs run at a time, at least 1.
	Jobs int
	// Resume continues the sweep that was begun in the same directory.
	Resume bool
	// Repro is the command that repeats a point, with %s for it.
	Repro string
	// Progress, when set, is told how far it is: points done, of how many, how
	// many findings, points a second, the time that is left.
	Progress func(done, total, findings int, rate float64, left time.Duration)
}

// Modes of SweepOptions.Points.
const (
	PointsAll   = "all"
	PointsSites = "sites"
	PointsN     = "n"
)

// SweepState is the file in a sweep's directory by which it is continued.
const SweepState = "sweep.jsonl"

// Sweep injects the job's fault at point after point. An interrupted sweep
// returns its report so far and the reason. The error is a [*sweep.Refused]
// for a program that fails without a fault.
func Sweep(ctx context.Context, m *runner.Machine, j SweepJob, o SweepOptions) (*sweep.Report, error) {
	state := filepath.Join(j.Program.Dir, SweepState)
	key, err := sweepKey(m, j, o)
	if err != nil {
		return nil, err
	}
	var st *sweep.State
	var h sweep.Header
	var done []sweep.Result
	if o.Resume {
		if st, h, done, err = sweep.Resume(state, key); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("%w: no sweep was begun there that could be continued; leave out -resume to begin one", err)
			}
			return nil, err
		}
	}
	e, err := newEngine(ctx, m, j, o)
	if err != nil {
		return nil, errors.Join(err, closeState(st))
	}
	defer e.close() //nolint:errcheck // it was only read
	if st == nil {
		if h, err = e.survey(); err != nil {
			return nil, err
		}
		if len(h.Points) == 0 {
			return nil, fmt.Errorf("%s: %w: it never gets to a point of %s", subject(j), sweep.ErrNothing, j.Fault)
		}
		h.Key = key
		if st, err = sweep.Create(state, h); err != nil {
			return nil, err
		}
	}
	began, fresh := time.Now(), 0
	keep := counted(st, done, len(h.Points), began, o.Progress)
	results, err := sweep.Config{
		Target: e.target, Listing: h.Listing, Points: h.Points, Baseline: h.Baseline, Done: done, Jobs: e.begin(),
		OnResult: func(r sweep.Result) error {
			fresh++
			return keep(r)
		},
	}.Run(ctx)
	rep := &sweep.Report{
		Kernel: j.Program.Kernel.Path, Release: j.Program.Kernel.Release, Subject: subject(j), Fault: j.Fault.String(),
		Elapsed: time.Since(began), Repro: o.Repro,
	}
	rep.PerSecond = float64(fresh) / rep.Elapsed.Seconds()
	rep.Fill(h, results)
	return rep, errors.Join(err, st.Close())
}

// engine is how one kind of fault is swept.
type engine struct {
	target sweep.Target
	// survey finds the points.
	survey func() (sweep.Header, error)
	// begin is called when they are known, and returns how many are tried at a time.
	begin func() int
	close func() error
}

func newEngine(ctx context.Context, m *runner.Machine, j SweepJob, o SweepOptions) (engine, error) {
	if j.Fault.Kind == fault.PowerCut {
		c, err := newCutter(ctx, m, j)
		if err != nil {
			return engine{}, err
		}
		if c.note != "" {
			m.Say("%s", c.note)
		}
		return engine{c, func() (sweep.Header, error) { return c.survey(ctx, o) }, func() int { return o.Jobs }, c.close}, nil
	}
	s, err := NewSweeper(ctx, m, j, false)
	if err != nil {
		return engine{}, err
	}
	if s.Note != "" {
		m.Say("%s", s.Note)
	}
	return engine{s, func() (sweep.Header, error) { return survey(ctx, m, s, j, o) }, func() int {
		s.Timeout = s.limit()
		return s.AtATime(o.Jobs)
	}, s.Close}, nil
}

// counted keeps each result in the state, and tells how far the sweep of total points
// is, of which some were done before.
func counted(st *sweep.State, done []sweep.Result, total int, began time.Time, tell func(done, total, findings int, rate float64, left time.Duration)) func(sweep.Result) error {
	fresh, findings := 0, 0
	for _, r := range done {
		if r.Verdict.Bad() {
			findings++
		}
	}
	return func(r sweep.Result) error {
		fresh++
		if r.Verdict.Bad() {
			findings++
		}
		if tell != nil {
			n := len(done) + fresh
			rate := float64(fresh) / time.Since(began).Seconds()
			left := time.Duration(float64(total-n) / rate * float64(time.Second))
			tell(n, total, findings, rate, left.Round(time.Second))
		}
		return st.Add(r)
	}
}

func closeState(st *sweep.State) error {
	if st == nil {
		return nil
	}
	return st.Close()
}

// survey finds the points, after a run that has to pass.
func survey(ctx context.Context, m *runner.Machine, s *Sweeper, j SweepJob, o SweepOptions) (h sweep.Header, err error) {
	if h.Baseline, err = sweep.DryRun(ctx, s, 2); err != nil {
		return h, err
	}
	if o.At != nil {
		h.Points = []sweep.Point{*o.At}
		return h, nil
	}
	m.Say("%s: passes without a fault; listing the calls that can fail", subject(j))
	l, err := NewSweeper(ctx, m, j, true)
	if err != nil {
		return h, err
	}
	defer l.Close() //nolint:errcheck // it was only read
	var again uint64
	if h.Listing, again, err = l.List(ctx); err != nil {
		return h, err
	}
	if n := h.Listing.Silent; n > 0 {
		why := l.silence
		if why == "" {
			why = "their messages are not in the kernel log"
		}
		m.Say("%s: %d of %d calls have no call stack: %s; only -points all and -points N try them", subject(j), n, h.Listing.Total, why)
	}
	m.Say("%s: %d calls from %d sites (%d in another run)", subject(j), h.Listing.Total, len(h.Listing.Sites), again)
	choose(&h, again, o, s.CanFilter)
	m.Say("%s: %d points", subject(j), len(h.Points))
	return h, nil
}

// choose sets the points, given how many calls another run had than the listed
// one: the greater number counts.
func choose(h *sweep.Header, again uint64, o SweepOptions, canFilter func(string) bool) {
	listed := h.Listing.Total
	h.Listing.Total = max(listed, again)
	h.Spread = h.Listing.Total - min(listed, again)
	switch o.Points {
	case PointsAll:
		h.Points = h.Listing.Every(h.Listing.Total, 0)
	case PointsN:
		h.Points = h.Listing.Every(h.Listing.Total, o.Spread)
	default:
		h.Points = h.Listing.PerSite(canFilter)
	}
}

func subject(j SweepJob) string {
	if j.Test != "" {
		return j.Program.Spec.Name + " " + j.Test
	}
	return strings.Join(j.Program.Run.Argv, " ")
}

// limit is how long a run with a fault may take: what a run without one took,
// many times, because a fault may make others wait.
func (s *Sweeper) limit() time.Duration {
	return 20*s.longest + 30*time.Second
}

// sweepKey names all that points depend on.
func sweepKey(m *runner.Machine, j SweepJob, o SweepOptions) (string, error) {
	sums := []string{}
	if d := j.Program.Kernel.Details; d != nil {
		sums = append(sums, d.SHA256, d.BuildID)
	}
	files := []string{j.Program.Init}
	for _, f := range j.Program.Files {
		files = append(files, f.Host)
	}
	for _, f := range files {
		sum, err := m.Cache.HashFile(f)
		if err != nil {
			return "", fmt.Errorf("read %s: %w", f, err)
		}
		sums = append(sums, sum)
	}
	text, err := json.Marshal([]any{sums, subject(j), j.Fault.String(), o.Points, o.Spread, o.At, j.Caches, j.Program.Run.Argv})
	return fmt.Sprintf("%x", sha256.Sum256(text)), err
}

// Positions returns what adds source positions to call stacks of the kernel; nil
// when it has no debug information.
func Positions(ctx context.Context, m *runner.Machine, k *machine.Kernel) func([]string) []string {
	sym := m.Symbolizer(ctx, k)
	if sym == nil {
		return nil
	}
	return func(stack []string) (out []string) {
		for _, f := range stack {
			out = append(out, f+positions(sym, f))
		}
		return out
	}
}

func positions(sym *symbolize.Symbolizer, frame string) string {
	var name string
	var offset, size uint64
	bare, _, _ := strings.Cut(frame, " ")
	head, tail, _ := strings.Cut(bare, "+")
	if _, err := fmt.Sscanf(tail, "0x%x/0x%x", &offset, &size); err != nil {
		return ""
	}
	name = head
	list, err := sym.Frame(oops.Frame{Func: name, Offset: offset, Size: size}, true)
	if err != nil || len(list) == 0 {
		return ""
	}
	var at []string
	for _, p := range list {
		at = append(at, fmt.Sprintf("%s:%d", p.File, p.Line))
	}
	return "  " + strings.Join(at, " < ")
}
