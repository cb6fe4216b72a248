// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"strings"
	"syscall"
	"testing"

	"gotest.tools/v3/assert"
)

// Wait statuses as wait(2) encodes them.
func exited(code int) syscall.WaitStatus           { return syscall.WaitStatus(code << 8) }
func signaled(s syscall.Signal) syscall.WaitStatus { return syscall.WaitStatus(s) }

func TestJudge(t *testing.T) {
	for _, tc := range []struct {
		name   string
		exit   Exit
		ended  Cause
		want   Cause
		detail string
	}{
		{"power-off", Exit{Reason: "guest-shutdown"}, Invalid, PowerOff, "switched itself off"},
		{"reset", Exit{Reason: "guest-reset"}, Invalid, Reset, "reset itself"},
		{"triple fault", Exit{Reason: "subsystem-reset"}, Invalid, Reset, "reset itself"},
		{"panic and reset", Exit{Reason: "guest-reset", GuestPanicked: true}, Invalid, Panicked, "panic and reset"},
		{"panic and power-off", Exit{Reason: "guest-shutdown", GuestPanicked: true}, Invalid, Panicked, "panic and switched"},
		{"panic ends qemu", Exit{Reason: "guest-panic", GuestPanicked: true}, Invalid, Panicked, "panic"},
		{"quit", Exit{Reason: "host-qmp-quit"}, Invalid, Quit, "monitor"},
		{"reset by monitor", Exit{Reason: "host-qmp-system-reset"}, Invalid, Reset, "monitor"},
		{"sigterm", Exit{Reason: "host-signal"}, Invalid, Crashed, "signal from outside"},
		{"unknown reason", Exit{Reason: "new-reason"}, Invalid, Crashed, "new-reason"},
		{"silent", Exit{}, Invalid, Crashed, "without saying why"},
		{"own status", Exit{Status: exited(1), Stderr: "qemu: oh no\n"}, Invalid, Crashed, "status 1: qemu: oh no"},
		{"own status after an event", Exit{Status: exited(1), Reason: "guest-shutdown"}, Invalid, Crashed, "status 1"},
		{"own status while killing", Exit{Status: exited(1)}, Killed, Crashed, "status 1"},
		{"foreign kill", Exit{Status: signaled(syscall.SIGKILL)}, Invalid, Crashed, "signal 9 (killed)"},
		{"fault", Exit{Status: signaled(syscall.SIGSEGV)}, Invalid, Crashed, "signal 11"},
		{"fault while killing", Exit{Status: signaled(syscall.SIGSEGV)}, Killed, Crashed, "signal 11"},
		{"fault after an event", Exit{Status: signaled(syscall.SIGABRT), Reason: "guest-shutdown"}, Invalid, Crashed, "signal 6"},
		{"killed", Exit{Status: signaled(syscall.SIGKILL)}, Killed, Killed, "why"},
		{"deadline", Exit{Status: signaled(syscall.SIGKILL)}, Deadline, Deadline, "why"},
		{"cancelled", Exit{Status: signaled(syscall.SIGKILL)}, Cancelled, Cancelled, "why"},
		{"deadline in a panic", Exit{Status: signaled(syscall.SIGKILL), GuestPanicked: true}, Deadline, Deadline, "why"},
		{"kill too late", Exit{Reason: "guest-shutdown"}, Killed, PowerOff, "switched itself off"},
		{"kill in the last moment", Exit{Status: signaled(syscall.SIGKILL), Reason: "guest-reset"}, Deadline, Reset, "reset itself"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cause, detail := judge(tc.exit, tc.ended, "why")
			assert.Equal(t, cause, tc.want)
			assert.Assert(t, strings.Contains(detail, tc.detail), detail)
		})
	}
}

func TestCauseString(t *testing.T) {
	assert.Equal(t, Exit{Cause: PowerOff, Detail: "x"}.String(), "power-off: x")
	assert.Equal(t, Exit{Cause: Cancelled}.String(), "cancelled")
	assert.Equal(t, Cause(99).String(), "Cause(99)")
	assert.Equal(t, Exit{}.Cause, Invalid)
}

func TestFirstLine(t *testing.T) {
	assert.Equal(t, firstLine(""), "")
	assert.Equal(t, firstLine("\n\nqemu: warning: TCG doesn't support x\nqemu: real\nmore\n"), "qemu: real")
	assert.Equal(t, firstLine("qemu: warning: only this\n"), "qemu: warning: only this")
	assert.Equal(t, firstLine("\xff" + strings.Repeat("x", 1000))[:3], "?xx")
	assert.Assert(t, len(firstLine(strings.Repeat("x", 1000))) < 600)
}

func TestBounded(t *testing.T) {
	var b bounded
	var all strings.Builder
	for i := range 20000 {
		s := strings.Repeat(string(rune('a'+i%26)), i%40)
		n, err := b.Write([]byte(s))
		assert.NilError(t, err)
		assert.Equal(t, n, len(s))
		all.WriteString(s)
		if all.Len() <= stderrHead+stderrTail {
			assert.Equal(t, b.String(), all.String())
		}
	}
	got := b.String()
	assert.Assert(t, strings.HasPrefix(got, all.String()[:stderrHead]))
	assert.Assert(t, strings.HasSuffix(got, all.String()[all.Len()-stderrTail:]))
	assert.Assert(t, strings.Contains(got, "bytes left out"))
	assert.Assert(t, len(got) < stderrHead+stderrTail+100)
}
