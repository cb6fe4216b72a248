// SPDX-License-Identifier: Apache-2.0

package runner_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/suites"
)

// verdictOf is what must not depend on how far tests are kept apart.
type verdictOf struct {
	Status   result.Status
	Reason   string
	Unearned bool
	Splats   []string // titles
}

// TestIsolationsAgree: a suite has the same tests with the same verdicts in one
// VM and in a VM for each. The other suites are compared by
// TestAllSuitesIsolated, which takes minutes.
func TestIsolationsAgree(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	m := &runner.Machine{Cache: c}
	isolationsAgree(t, m, kernelFor(t, m), "ipe", "-test.run=Policy")
}

// TestAllSuitesIsolated compares all suites, on the kernel of the distribution
// and on one that looks closer.
func TestAllSuitesIsolated(t *testing.T) {
	if testing.Short() {
		t.Skip("takes an hour under TCG: run it without -short, as .ci/kernels all does")
	}
	m, k := debugKernel(t)
	for _, k := range []*runner.Kernel{kernelFor(t, m), k} {
		t.Run(k.Release, func(t *testing.T) {
			for _, suite := range []string{"pamcap", "ipe", "landlock", "uffdwp", "ext4"} {
				isolationsAgree(t, m, k, suite)
			}
		})
	}
}

func isolationsAgree(t *testing.T, m *runner.Machine, k *runner.Kernel, suite string, args ...string) {
	t.Run(suite, func(t *testing.T) {
		s, err := runner.Describe(t.Context(), goBuild(t, "test", "-c", "-ldflags=-s -w", "../../suites/"+suite))
		assert.NilError(t, err)
		together := verdicts(t, m, k, s, suites.IsolateSuite, args)
		apart := verdicts(t, m, k, s, suites.IsolateTest, args)
		if len(args) == 0 {
			assert.Assert(t, len(together) > len(s.Tests), "%d tests of at least %d", len(together)-1, len(s.Tests))
		}
		assert.Assert(t, len(together) > 5, "%v", together)
		assert.Equal(t, cmp.Diff(together, apart), "")
	})
}

// verdicts runs a suite and returns what came of each test, and of the whole
// under the name "".
func verdicts(t *testing.T, m *runner.Machine, k *runner.Kernel, s runner.Suite, how suites.Isolation, args []string) map[string]verdictOf {
	t.Helper()
	dir := filepath.Join(t.TempDir(), string(how))
	assert.NilError(t, os.Mkdir(dir, 0o755))
	job := m.RunSuite(t.Context(), runner.SuiteJob{
		ID: s.Spec.Name, Kernel: k, Suite: s, Dir: dir, Isolate: how, Args: append([]string{"-test.v=test2json"}, args...),
	})
	t.Logf("-isolate %s: %d tests in %v: %s %s %q", how, len(job.Cases), job.Elapsed, job.Verdict, job.Reason, job.Notes)
	titles := func(splats []result.Splat) (out []string) {
		for _, s := range splats {
			out = append(out, s.Title)
		}
		return out
	}
	out := map[string]verdictOf{"": {Reason: job.Verdict.String(), Splats: titles(job.Splats)}}
	for _, c := range job.Cases {
		_, twice := out[c.Name]
		assert.Check(t, !twice, "%s came twice", c.Name)
		out[c.Name] = verdictOf{c.Status, c.Reason, c.Unearned, titles(c.Splats)}
	}
	return out
}
