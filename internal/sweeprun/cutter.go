// SPDX-License-Identifier: Apache-2.0

package sweeprun

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/sweep"
	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/internal/wire"
)

// cutter cuts the power at one write after the other. Each point takes two
// machines: one whose power is cut, and one that looks at the disks. Both are
// forked from one that was frozen before the test, or booted where that is
// impossible. Close it.
type cutter struct {
	m       *runner.Machine
	job     SweepJob
	tmpl    *runner.Template
	note    string // why machines are booted, "" when they are forked
	runs    atomic.Int64
	timeout time.Duration
}

func newCutter(ctx context.Context, m *runner.Machine, j SweepJob) (*cutter, error) {
	if err := os.MkdirAll(j.Program.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a directory for the logs: %w", err)
	}
	p := &j.Program
	p.Spec.CPUs = 1
	p.Twin = true // the same writes each time
	p.Release = &wire.Release{Args: []string{j.Test}}
	c := &cutter{m: m, job: j}
	boot := *p
	boot.Log = "boot.log"
	tmpl, out, err := m.MakeTemplate(ctx, boot)
	if err != nil {
		if out.Infra != nil {
			return nil, fmt.Errorf("boot the machine to sweep in: %w", err)
		}
		c.note = fmt.Sprintf("boots for each point: %v", err)
	}
	c.tmpl = tmpl
	for _, sp := range out.Splats {
		if !sp.Excused() {
			return nil, errors.Join(fmt.Errorf("boot the machine to sweep in: kernel splat without any fault: %s", sp.Title), c.close())
		}
	}
	return c, nil
}

func (c *cutter) close() error {
	if c.tmpl == nil {
		return nil
	}
	return c.tmpl.Close()
}

// run runs the test with the power cut at the n-th write, or never for 0.
func (c *cutter) run(ctx context.Context, n uint64, name string) (runner.Outcome, sweep.Facts) {
	p := c.job.Program
	f := c.job.Fault
	if f.Nth = n; n == 0 {
		f.Nth = math.MaxInt64
	}
	// The log's name is that of the first machine; the second's is beside it.
	p.Faults, p.Timeout, p.From = fault.Plan{f}, c.timeout, c.tmpl
	p.Log = fmt.Sprintf("console-%s-%d.log", name, c.runs.Add(1))
	var tail tail
	p.Stdout, p.Stderr, p.Run.Merge = &tail, nil, true
	out := c.m.Exec(ctx, p)
	facts := factsOf(out, "")
	facts.Log, facts.Output, facts.Fired = filepath.Join(p.Dir, p.Log), tail.String(), 0
	if out.Cut != "" {
		facts.Fired = 1
		if facts.Failed != "" {
			facts.Broken = append(facts.Broken, "what was to be found after the power cut was not: "+facts.Failed+lastLines(facts.Output))
		}
	}
	return out, facts
}

// lastLines is the end of a failing test's output for one line.
func lastLines(s string) string {
	const most = 300
	if s = visible.Short(s[max(0, len(s)-most):]); s == "" {
		return ""
	}
	return ": " + s
}

// Run implements sweep.Target.
func (c *cutter) Run(ctx context.Context, p *sweep.Point, keep func(sweep.Facts) bool) (sweep.Facts, error) {
	var n uint64
	name := "dry"
	if p != nil {
		n, name = p.Nth, fmt.Sprintf("point-%d", p.ID)
	}
	_, facts := c.run(ctx, n, name)
	if !keep(facts) || ctx.Err() != nil {
		_ = os.Remove(facts.Log)
		dir, file := filepath.Split(facts.Log)
		after := runner.Program{Log: file}
		_ = os.Remove(filepath.Join(dir, after.Beside("console-after-cut", ".log")))
	}
	return facts, nil
}

// survey counts the writes of two undisturbed runs.
func (c *cutter) survey(ctx context.Context, o SweepOptions) (h sweep.Header, err error) {
	var counts [2]uint64
	for i := range counts {
		began := time.Now()
		out, facts := c.run(ctx, 0, "dry")
		facts.Fired = 1
		if _, err := sweep.DryRun(ctx, once{facts}, 1); err != nil {
			return h, err
		}
		if i == 0 {
			c.timeout = 20*time.Since(began) + 30*time.Second
		}
		counts[i] = out.Writes
	}
	h.Listing.Total = max(counts[0], counts[1])
	h.Spread = h.Listing.Total - min(counts[0], counts[1])
	switch {
	case o.At != nil:
		h.Points = []sweep.Point{*o.At}
	case o.Points == PointsN:
		h.Points = h.Listing.Every(h.Listing.Total, o.Spread)
	default:
		h.Points = h.Listing.Every(h.Listing.Total, 0)
	}
	c.m.Say("%s: %d writes to disk %s; %d points", subject(c.job), h.Listing.Total, c.job.Fault.Target, len(h.Points))
	return h, nil
}

// once is a Target that has run already.
type once struct{ f sweep.Facts }

func (o once) Run(context.Context, *sweep.Point, func(sweep.Facts) bool) (sweep.Facts, error) {
	return o.f, nil
}
