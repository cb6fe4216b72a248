// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"errors"
	"os"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/agent"
	"github.com/kvmrun/kvmrun/internal/klog"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/vmtest"
)

// TestOutcomesAddUp: nothing that one of two machines showed is forgotten, whichever
// of them showed it.
func TestOutcomesAddUp(t *testing.T) {
	bad := map[string]Outcome{
		"scanner":  {Findings: agent.Findings{Scanner: "a gap"}},
		"infra":    {Findings: agent.Findings{Infra: errors.New("no memory")}},
		"claim":    {Findings: agent.Findings{GuestFault: "no console"}},
		"deadline": {Findings: agent.Findings{Deadline: "late"}},
		"hung":     {Findings: agent.Findings{Hung: "silence"}},
		"splat":    {Splats: []klog.Splat{{Report: &oops.Report{Title: "BUG"}}}, Panicked: true},
		"disk":     {Disks: []machine.DiskCheck{{Disk: "d", Err: errors.New("dirty")}}},
		"kunit":    {KernelTests: KernelTests{Failed: []result.Case{{Name: "kunit/a/b", Status: result.StatusFail}}}},
		"fault":    {Findings: agent.Findings{Notes: []string{"n"}}, Faults: []wire.Count{{Name: "f", Fired: 1}}},
	}
	facts := func(o Outcome) []any {
		infra := ""
		if o.Infra != nil {
			infra = o.Infra.Error()
		}
		return []any{o.Scanner, infra, o.GuestFault, o.Deadline, o.Hung, o.Panicked, len(o.Splats), len(o.Disks), len(o.KernelTests.Failed), o.Remarks()}
	}
	for name, b := range bad {
		t.Run(name, func(t *testing.T) {
			for how, join := range map[string]func(a *Outcome, b Outcome){"also": (*Outcome).Also, "goOn": (*Outcome).GoOn} {
				first, second := b, Outcome{}
				join(&first, Outcome{})
				join(&second, b)
				assert.DeepEqual(t, facts(first), facts(b))
				assert.DeepEqual(t, facts(second), facts(b))
				// Of two, the first is the reason; what can be counted is.
				both := b
				join(&both, b)
				assert.Equal(t, both.Deadline+both.Hung, b.Deadline+b.Hung, how)
				assert.Equal(t, len(both.Splats), 2*len(b.Splats), how)
				if len(b.Faults) > 0 {
					assert.DeepEqual(t, both.Remarks(), []string{"n", "fault f: injected 2×"})
					assert.Equal(t, b.Faults[0].Fired, 1, "%s: the counts of another outcome were changed", how)
				}
			}
		})
	}
	// How the one that went on ended is how the job did.
	a := Outcome{Findings: agent.Findings{Exited: &wire.Exited{Code: 3}, EndMarker: true}, Running: []string{"TestA"}}
	a.GoOn(Outcome{Ended: []string{"TestB"}})
	assert.Assert(t, a.Exited == nil && !a.EndMarker && a.Running == nil && len(a.Ended) == 1)
}

// TestStaleCode: an emulator's fault is named where there can be one.
func TestStaleCode(t *testing.T) {
	log, err := os.ReadFile("../oops/testdata/vm/int3-stale.txt")
	assert.NilError(t, err)
	stale := []klog.Splat{{Report: oops.Parse(log)[0]}}
	assert.DeepEqual(t, (&Outcome{Accel: vmtest.AccelTCG, Splats: stale}).staleCode(), []string{staleCode})
	assert.Assert(t, (&Outcome{Accel: vmtest.AccelKVM, Splats: stale}).staleCode() == nil)
	assert.Assert(t, (&Outcome{Accel: vmtest.AccelTCG, Splats: []klog.Splat{{Report: &oops.Report{Title: "BUG"}}}}).staleCode() == nil)
}
