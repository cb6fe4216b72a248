// SPDX-License-Identifier: Apache-2.0

package kit_test

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/suites/kit"
)

// A name is a per-thread attribute that needs no privilege.
func threadName(t testing.TB) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/comm", unix.Gettid()))
	assert.NilError(t, err)
	return string(b)
}

func TestOnThreadIsolates(t *testing.T) {
	var tid int
	kit.OnThread(t, func() {
		tid = unix.Gettid()
		assert.Check(t, tid != unix.Getpid(), "the first thread cannot be ended")
		name := []byte("kvmrun-marked\x00")
		assert.NilError(t, unix.Prctl(unix.PR_SET_NAME, uintptrOf(name), 0, 0, 0))
		assert.Equal(t, threadName(t), "kvmrun-marked\n")
	})
	for range 20 {
		kit.OnThread(t, func() {
			assert.Check(t, threadName(t) != "kvmrun-marked\n")
		})
	}
}

func TestOnThreadFailNow(t *testing.T) {
	// The failure of a fake testing.TB ends the goroutine that runs the
	// "test", as testing's own does.
	f := &fakeTB{TB: t}
	reached := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		kit.OnThread(f, func() { f.FailNow() })
		reached = true
	}()
	<-done
	assert.Check(t, f.failed)
	assert.Check(t, !reached, "OnThread returned after a fatal failure")
}

func TestWantErrno(t *testing.T) {
	for _, c := range []struct {
		got  error
		want unix.Errno
		ok   bool
		msg  string
	}{
		{nil, 0, true, ""},
		{unix.EACCES, unix.EACCES, true, ""},
		{&os.PathError{Op: "open", Path: "x", Err: unix.EACCES}, unix.EACCES, true, ""},
		{nil, unix.EACCES, false, "op: got success, want EACCES"},
		{unix.EPERM, 0, false, "op: got EPERM, want success"},
		{os.ErrDeadlineExceeded, unix.EPERM, false, "op: got i/o timeout, want EPERM"},
		{unix.Errno(4000), 0, false, "op: got errno 4000, want success"},
	} {
		f := &fakeTB{TB: t}
		assert.Equal(t, kit.WantErrno(f, "op", c.got, c.want), c.ok)
		assert.Check(t, cmp.Equal(f.msg, c.msg))
	}
}
