// SPDX-License-Identifier: Apache-2.0

package hunt

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kvmrun/kvmrun/internal/bisect"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/plan"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/suiterun"
	"github.com/kvmrun/kvmrun/suites"
)

// Test runs the suite on a kernel once, in a VM.
func (h *Hunt) Test(ctx context.Context, _ string, b bisect.Build) (bisect.Observation, error) {
	k, err := h.t.Machine.OpenKernel(ctx, b.Path, b.Modules, b.Config)
	if err != nil {
		if ctx.Err() != nil || result.HostsFault(err) {
			return bisect.Observation{}, err
		}
		return bisect.Observation{Word: bisect.BootFailed, Reason: "cannot be used: " + firstLine(err)}, nil
	}
	dir := filepath.Join(h.dir, "runs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return bisect.Observation{}, fmt.Errorf("make a directory for a run: %w", err)
	}
	if dir, err = os.MkdirTemp(dir, fmt.Sprintf("%03d-", h.runs.Add(1))); err != nil {
		return bisect.Observation{}, fmt.Errorf("make a directory for a run: %w", err)
	}
	from, done := h.repeater(b.Path, k).Begin(ctx, dir)
	defer done()
	run, err := suiterun.New(h.t.Machine).RunMatrix(ctx, suiterun.Matrix{
		Kernels: []*machine.Kernel{k}, Suites: []suiterun.Suite{h.suite}, Jobs: 1, Dir: dir, From: from,
		Command:   h.t.Again,
		Selection: plan.Selection{Run: h.q.Symptom.Run},
		// A suite's own isolation would have all runs go on from one boot, which must
		// not decide for all of them.
		Policy: plan.Policy{Timeout: h.q.Timeout, Isolate: suites.IsolateSuite},
	})
	if err != nil {
		return bisect.Observation{}, err
	}
	return h.q.Symptom.Judge(run.Jobs[0]), nil
}

// keepRepeaters bounds for how many kernels a booted machine is kept in memory: the
// two between which the search goes back and forth, and one for each further VM
// that runs at the same time, whose kernel would push one of the two out.
func (h *Hunt) keepRepeaters() int { return 1 + max(1, h.q.Search.Parallel) }

// repeater returns what repeats on a kernel go on from.
func (h *Hunt) repeater(path string, k *machine.Kernel) *suiterun.Repeater {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, r := range h.repeaters {
		if r.path == path {
			h.repeaters = append(append(h.repeaters[:i:i], h.repeaters[i+1:]...), r)
			return r.Repeater
		}
	}
	if len(h.repeaters) >= h.keepRepeaters() {
		h.repeaters[0].Close()
		h.repeaters = h.repeaters[1:]
	}
	r := repeated{path, suiterun.New(h.t.Machine).NewRepeater(k, h.suite)}
	h.repeaters = append(h.repeaters, r)
	return r.Repeater
}

// repeated is a kernel with its Repeater.
type repeated struct {
	path string
	*suiterun.Repeater
}

func (h *Hunt) closeRepeaters() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.repeaters {
		r.Close()
	}
	h.repeaters = nil
}
