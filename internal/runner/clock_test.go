// SPDX-License-Identifier: Apache-2.0

package runner_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/runnertest"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites"
)

// TestDelayLoopsAreNotMeasured: the second processor's delay loop is that of the
// first, which is computed. What the second one measures under TCG differs from it
// in nearly every boot.
func TestDelayLoopsAreNotMeasured(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	k := runnertest.Kernel(t, &m.Host)
	if k.Config["HZ"] == "" {
		t.Skip("the kernel's configuration is not known, nor its timer's ticks: test with one that has a config file beside it")
	}
	dir := runnertest.LogDir(t)
	o := m.Exec(t.Context(), runner.Program{
		Kernel: k, Init: runnertest.Build(t, "build", "./testdata/pipes"), Dir: dir, Spec: suites.Spec{CPUs: 2},
		Run: wire.Run{Argv: []string{"/init", "one"}},
	})
	assert.NilError(t, o.Infra)
	log, err := os.ReadFile(filepath.Join(dir, "console.log"))
	assert.NilError(t, err)
	number := func(expr string) float64 {
		t.Helper()
		found := regexp.MustCompile(expr).FindSubmatch(log)
		assert.Assert(t, is.Len(found, 2), "%s: %s", expr, log)
		n, err := strconv.ParseFloat(string(found[1]), 64)
		assert.NilError(t, err)
		return n
	}
	one := number(`Calibrating delay loop.* (\S+) BogoMIPS`)
	two := number(`Total of 2 processors activated \((\S+) BogoMIPS\)`)
	// Both are cut after two digits.
	assert.Assert(t, two >= 2*one-0.01 && two <= 2*one+0.03, "one processor %g, two %g", one, two)
}
