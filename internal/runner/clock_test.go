// SPDX-License-Identifier: Apache-2.0

package runner_test

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/runnertest"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites"
)

// TestSecondCPU: the second processor comes online when the kernel has booted, and
// its delay loop is that of the first, which is computed. What it measures under TCG
// differs from that in nearly every boot.
func TestSecondCPU(t *testing.T) {
	m, _ := warmHost(t)
	k := runnertest.Kernel(t, &m.Host)
	if k.Config["HZ"] == "" || k.Config["HOTPLUG_CPU"] != "y" {
		t.Skip("the kernel's configuration is not known, or has no CONFIG_HOTPLUG_CPU: test with one that has a config file beside it")
	}
	for name, cold := range map[string]bool{"cold": true, "warm": false} {
		t.Run(name, func(t *testing.T) {
			told, _, log := tell(t, m, runner.Program{
				Kernel: k, Init: runnertest.Build(t, "build", "./testdata/tell"), Spec: suites.Spec{CPUs: 2},
				Run: wire.Run{Argv: []string{"/init"}},
			}, cold)
			speeds := strings.Fields(told["bogomips"])
			assert.Assert(t, is.Len(speeds, 2))
			assert.Equal(t, speeds[0], speeds[1])
			_, late, found := strings.Cut(log, "Run /init as init process")
			assert.Assert(t, found, "%s", log)
			assert.Assert(t, is.Contains(late, "Booting Node 0 Processor 1"))
		})
	}
}
