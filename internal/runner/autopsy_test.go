// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/gotest"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/plan"
	"github.com/kvmrun/kvmrun/internal/result"
)

// As Debian's 6.12 prints them.
const (
	sleeping = `[    6.605941] task:sleep           state:S stack:0     pid:136   tgid:136   ppid:133    flags:0x00000002
[    6.606000] Call Trace:
[    6.606018]  <TASK>
[    6.606036]  __schedule+0x4e0/0xbf0
[    6.606067]  schedule+0x27/0xc0
[    6.606094]  do_nanosleep+0x7a/0x130
[    6.606135]  hrtimer_nanosleep+0xa1/0x170
[    6.606169]  ? __pfx_hrtimer_wakeup+0x10/0x10
[    6.606202]  common_nsleep+0x43/0x50
`
	blockedTask = `[    9.605941] task:ext4.test       state:D stack:0     pid:140   tgid:139   ppid:133    flags:0x00000002
[    9.606000] Call Trace:
[    9.606018]  <TASK>
[    9.606036]  __schedule+0x4e0/0xbf0
[    9.606067]  schedule+0x27/0xc0
[    9.606094]  jbd2_log_wait_commit+0x7a/0x130
`
	busyCPU = "[    6.430000] NMI backtrace for cpu 1\r\n[    6.430100] CPU: 1 UID: 0 PID: 7 Comm: x\r\n[    6.430200] RIP: 0010:lkdtm_SOFTLOCKUP+0x5/0x10\r\n[    6.430300]  other+0x1/0x2\r\n"
)

func TestHungIn(t *testing.T) {
	assert.Equal(t, hungIn(sleeping+blockedTask+busyCPU, 136), "task ext4.test blocked in jbd2_log_wait_commit")
	assert.Equal(t, hungIn(sleeping+busyCPU, 136), "CPU 1 in lkdtm_SOFTLOCKUP")
	assert.Equal(t, hungIn(sleeping, 136), "task sleep waits in common_nsleep")
	assert.Equal(t, hungIn(sleeping, 99), "")
	assert.Equal(t, hungIn("", 0), "")
}

func TestTestAt(t *testing.T) {
	stacks := "goroutine 1 [chan receive]:\ntesting.(*T).Run(...)\n\t/go/testing.go:1 +0x2\n\ngoroutine 7 [sleep]:\ntime.Sleep(0x1)\n\t/go/time.go:3 +0x1\n" +
		"example/sample.TestZHang(0xc000)\n\t/src/sample/sample_test.go:42 +0x25\n"
	assert.Equal(t, testAt(stacks, "TestZHang"), "sample_test.go:42")
	assert.Equal(t, testAt(stacks, "TestOther"), "")
}

func TestVotes(t *testing.T) {
	var v votes
	assert.Equal(t, v.String(), "")
	v.add("0", "in user space", false)
	assert.Equal(t, v.String(), "")
	for _, at := range []string{"in tick", "in loop", "in loop", "in rq"} {
		v.add("1", at, true)
	}
	assert.Equal(t, v.String(), "CPU 0 in user space, CPU 1 in loop")
}

// TestHangIsAutopsied lets a real suite run into the host's limit.
func TestHangIsAutopsied(t *testing.T) {
	path := os.Getenv("KVMRUN_KERNEL")
	if path == "" {
		t.Skip("KVMRUN_KERNEL is not set: name a kernel, as make test does")
	}
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	m := &Machine{Host: machine.Host{Cache: c}}
	k, err := m.OpenKernel(t.Context(), path, "", "")
	assert.NilError(t, err)
	src, err := FindSource("../..")
	assert.NilError(t, err)
	src.Dir, err = filepath.Abs(src.Dir)
	assert.NilError(t, err)
	s, err := m.Suites(t.Context(), src, []string{"./suites/testmain/testdata/sample"})
	assert.NilError(t, err)
	dir := t.TempDir()
	job := m.RunSuite(t.Context(), SuiteJob{
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
	job = m.RunSuite(t.Context(), SuiteJob{
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
