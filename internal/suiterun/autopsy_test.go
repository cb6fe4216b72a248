// SPDX-License-Identifier: Apache-2.0

package suiterun

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/gotest"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/plan"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// TestHangIsAutopsied lets a real suite run into the host's limit.
func TestHangIsAutopsied(t *testing.T) {
	path := os.Getenv("KVMRUN_KERNEL")
	if path == "" {
		t.Skip("KVMRUN_KERNEL is not set: name a kernel, as make test does")
	}
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	k, err := m.OpenKernel(t.Context(), path, "", "")
	assert.NilError(t, err)
	src, err := FindSource("../..")
	assert.NilError(t, err)
	src.Dir, err = filepath.Abs(src.Dir)
	assert.NilError(t, err)
	s, err := New(m).Suites(t.Context(), src, []string{"./suites/testmain/testdata/sample"})
	assert.NilError(t, err)
	dir := t.TempDir()
	job := New(m).RunSuite(t.Context(), SuiteJob{
		ID: "hang", Kernel: k, Suite: s[0], Dir: dir,
		// No -test.timeout: the test binary has no limit of its own.
		Task: plan.Task{Args: []string{"-test.v=test2json", "-test.run=TestZHang$"}, Policy: plan.Policy{Timeout: 5 * time.Second}},
	})
	assert.Equal(t, job.Verdict, result.VerdictHung, "%s %v", job.Reason, job.Notes)
	assert.Check(t, is.Contains(job.Reason, "in TestZHang at sample_test.go:"))
	assert.Check(t, is.Len(job.Splats, 0), "the host's own questions are no findings")
	b, err := os.ReadFile(filepath.Join(dir, "autopsy.txt"))
	assert.NilError(t, err)
	for _, want := range []string{"RIP=", "sysrq: Show State", "task:init", "goroutine ", "time.Sleep"} {
		assert.Check(t, strings.Contains(string(b), want), "%s is not in the autopsy", want)
	}
	assert.Check(t, is.Contains(strings.Join(job.Notes, "\n"), filepath.Join(dir, "autopsy.txt")))

	dir = t.TempDir()
	begun := false
	job = New(m).RunSuite(t.Context(), SuiteJob{
		ID: "still", Kernel: k, Suite: s[0], Dir: dir,
		// That a silent test has begun is told at once, not when it is given up.
		OnEvent: func(e gotest.Event) {
			if e.Action == gotest.ActionRun {
				log, err := os.ReadFile(filepath.Join(dir, "console.log"))
				begun = err == nil && !strings.Contains(string(log), "sysrq: ")
			}
		},
		Task: plan.Task{Args: []string{"-test.v=test2json", "-test.run=TestZSilent$"}, Policy: plan.Policy{Timeout: 10 * time.Minute, Idle: 3 * time.Second}},
	})
	assert.Check(t, begun)
	assert.Equal(t, job.Verdict, result.VerdictHung, "%s %v", job.Reason, job.Notes)
	assert.Check(t, is.Contains(job.Reason, "nothing was said for 3s, in TestZSilent at sample_test.go:"))
}
