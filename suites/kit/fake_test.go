// SPDX-License-Identifier: Apache-2.0

package kit_test

import (
	"fmt"
	"runtime"
	"testing"
	"unsafe"
)

// fakeTB records a failure instead of failing the test that checks for it.
type fakeTB struct {
	testing.TB
	failed bool
	msg    string
}

func (f *fakeTB) Helper()       {}
func (f *fakeTB) Skipped() bool { return false }
func (f *fakeTB) FailNow()      { f.failed = true; runtime.Goexit() }

func (f *fakeTB) Errorf(format string, a ...any) {
	f.failed = true
	f.msg = fmt.Sprintf(format, a...)
}

func uintptrOf(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }
