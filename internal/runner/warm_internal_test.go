// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/internal/agent"
	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/klog"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/vmtest"
)

func TestCannotWarm(t *testing.T) {
	for _, test := range []struct {
		name string
		core machine.CoreFormat
		kvm  bool
		p    Program
		want string
	}{
		{name: "nothing against it"},
		{name: "vmcore", core: "elf", want: "a memory dump"},
		{name: "host's fault", p: Program{Faults: fault.Plan{{Kind: fault.Balloon}}}, want: "a fault of the host's side"},
		{name: "hidden", p: Program{Files: []initramfs.File{{Guest: "/tmp/../dev/x"}}}, want: "/dev/x is hidden"},
		{name: "not hidden", p: Program{Files: []initramfs.File{{Guest: "/devices/x"}}}},
		{name: "KVM", kvm: true, want: "under KVM"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := &Machine{VMCore: test.core}
			if m.Accel = vmtest.AccelTCG; test.kvm {
				m.Accel = vmtest.AccelKVM
			}
			got := m.cannotWarm(test.p)
			assert.Check(t, cmp.Contains(got, test.want))
			assert.Check(t, got != "" || test.want == "")
		})
	}
}

// TestBootCounts: what the boot of a warm machine showed fails every run in a fork.
func TestBootCounts(t *testing.T) {
	passed := func() Outcome {
		return Outcome{
			Findings: agent.Findings{Ready: &wire.Ready{}, Exited: &wire.Exited{}, Done: &wire.Done{}, EndMarker: true},
			Start:    StartedWarm,
		}
	}
	for _, test := range []struct {
		name string
		boot Outcome
		want result.Verdict
	}{
		{"nothing", Outcome{}, result.VerdictPass},
		{"splat", Outcome{Splats: []klog.Splat{{Report: &oops.Report{Title: "BUG: x"}, Phase: "boot"}}}, result.VerdictKernelFailed},
		{"incomplete log", Outcome{Findings: agent.Findings{Scanner: "it was cut"}}, result.VerdictInfra},
	} {
		t.Run(test.name, func(t *testing.T) {
			out := passed()
			out.addBoot(test.boot, "console.log")
			f := out.Facts()
			f.Program = true
			verdict, reason := result.Judge(f)
			assert.Equal(t, verdict, test.want, reason)
		})
	}
}
