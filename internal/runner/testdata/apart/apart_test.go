// SPDX-License-Identifier: Apache-2.0

// Package apart is a suite that declares that its tests are kept apart, and
// whose tests need it.
package apart

import (
	"os"
	"syscall"
	"testing"

	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/testmain"
)

func TestMain(m *testing.M) {
	testmain.Run(m, suites.Spec{Name: "apart", MemoryMiB: 256, Isolate: suites.IsolateTest}, nil)
}

func TestA(t *testing.T) { alone(t) }
func TestB(t *testing.T) { alone(t) }
func TestC(t *testing.T) { alone(t) }

// alone fails in a machine that has had another test, and tells whether a pipe
// could be made.
func alone(t *testing.T) {
	var p [2]int
	if err := syscall.Pipe2(p[:], 0); err != nil {
		t.Logf("no pipe: %v", err)
	} else {
		_ = syscall.Close(p[0])
		_ = syscall.Close(p[1])
	}
	f, err := os.OpenFile("/run/apart", os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatalf("not the first test in this machine: %v", err)
	}
	_ = f.Close()
}
