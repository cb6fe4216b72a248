// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"errors"
	"fmt"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// OnThread runs fn on a fresh OS thread that nothing else uses and that ends
// with fn, and waits for it. Capabilities, securebits, no_new_privs, landlock
// domains and unshared namespaces that fn changes are gone with the thread;
// processes that fn starts inherit them.
//
// The thread is never the process's first one: the Go runtime cannot end that
// one, and /proc/PID describes it. fn may fail or skip the test; OnThread then
// does not return.
func OnThread(t testing.TB, fn func()) {
	t.Helper()
	if !onThread(fn) {
		// fn left through FailNow or SkipNow, which ended the thread's
		// goroutine and not the test's.
		if t.Skipped() {
			t.SkipNow()
		}
		t.FailNow()
	}
}

// onThread reports whether fn returned, as opposed to ending its goroutine.
func onThread(fn func()) (returned bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Without an unlock, the runtime ends the thread with the goroutine.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// Held until the inner call is over, so that it gets another one.
			returned = onThread(fn)
			runtime.UnlockOSThread()
			return
		}
		fn()
		returned = true
	}()
	<-done
	return returned
}

// WantErrno marks the test as failed unless got is the wanted errno; want 0
// asks for success. what says what was tried. It reports whether got was as
// wanted, and may be called on any goroutine.
func WantErrno(t testing.TB, what string, got error, want unix.Errno) bool {
	t.Helper()
	if want == 0 && got == nil || want != 0 && errors.Is(got, want) {
		return true
	}
	t.Errorf("%s: got %s, want %s", what, ErrnoName(got), ErrnoName(Errno(want)))
	return false
}

// ErrnoName returns the symbolic name of the errno in err ("EACCES"), the
// error's text where there is none, and "success" for nil.
func ErrnoName(err error) string {
	if err == nil {
		return "success"
	}
	var e unix.Errno
	if errors.As(err, &e) {
		if n := unix.ErrnoName(e); n != "" {
			return n
		}
		return fmt.Sprintf("errno %d", int(e))
	}
	return err.Error()
}

// Want marks the test as failed with this message unless ok holds, and returns
// ok. Package assert's conditions read the test's source to explain
// themselves, which is not there in the guest.
func Want(t testing.TB, ok bool, format string, a ...any) bool {
	t.Helper()
	if !ok {
		t.Errorf(format, a...)
	}
	return ok
}
