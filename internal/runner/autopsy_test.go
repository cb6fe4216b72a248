// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"testing"

	"gotest.tools/v3/assert"
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
	// A timer's interrupt of a loop, and of an idle CPU.
	ticking = "[    7.000000] NMI backtrace for cpu 0\n[    7.000100] RIP: 0010:lapic_next_event+0x14/0x20\n[    7.000200]  <IRQ>\n[    7.000300]  clockevents_program_event+0x8a/0xf0\n" +
		"[    7.000400]  </IRQ>\n[    7.000500]  <TASK>\n[    7.000600]  asm_sysvec_apic_timer_interrupt+0x1a/0x20\n[    7.000700] RIP: 0010:lkdtm_LOOP+0x5/0x10\n"
	idling  = "[    7.000000] NMI backtrace for cpu 0\n[    7.000100] RIP: 0010:lapic_next_event+0x14/0x20\n[    7.000700] RIP: 0010:pv_native_safe_halt+0xf/0x20\n"
	busyCPU = "[    6.430000] NMI backtrace for cpu 1\r\n[    6.430100] CPU: 1 UID: 0 PID: 7 Comm: x\r\n[    6.430200] RIP: 0010:lkdtm_SOFTLOCKUP+0x5/0x10\r\n[    6.430300]  other+0x1/0x2\r\n"
)

func TestHungIn(t *testing.T) {
	assert.Equal(t, hungIn(sleeping+blockedTask+busyCPU, 136), "task ext4.test blocked in jbd2_log_wait_commit")
	assert.Equal(t, hungIn(sleeping+busyCPU, 136), "CPU 1 in lkdtm_SOFTLOCKUP")
	assert.Equal(t, hungIn(sleeping+ticking+busyCPU, 136), "CPU 0 in lkdtm_LOOP")
	assert.Equal(t, hungIn(sleeping+idling+busyCPU, 136), "CPU 1 in lkdtm_SOFTLOCKUP")
	assert.Equal(t, hungIn(sleeping+idling, 136), "task sleep waits in common_nsleep")
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
