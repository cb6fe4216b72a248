// SPDX-License-Identifier: Apache-2.0

// Package apart is a suite that declares that its tests are kept apart, and
// whose tests need it.
package apart

import (
	"crypto/rand"
	"hash/maphash"
	mathrand "math/rand"
	mathrand2 "math/rand/v2"
	"os"
	"syscall"
	"testing"

	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/testmain"
)

func TestMain(m *testing.M) {
	// Before the machine is frozen: from here on there is a state that could be
	// the same in all.
	if _, err := rand.Read(make([]byte, 16)); err != nil {
		panic(err)
	}
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
	key := make([]byte, 16)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	uuid, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		t.Fatal(err)
	}
	temp, err := os.CreateTemp("", "name")
	if err != nil {
		t.Fatal(err)
	}
	_ = temp.Close()
	dir, err := os.MkdirTemp("", "name")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("drawn crypto/rand %x", key)
	t.Logf("drawn uuid %s", uuid)
	t.Logf("drawn CreateTemp %s", temp.Name())
	t.Logf("drawn MkdirTemp %s", dir)
	t.Logf("drawn TempDir %s", t.TempDir())
	t.Logf("drawn once math/rand %x", mathrand.Uint64())
	t.Logf("drawn once math/rand/v2 %x", mathrand2.Uint64())
	t.Logf("drawn once maphash %x", maphash.String(maphash.MakeSeed(), "x"))
	f, err := os.OpenFile("/run/apart", os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatalf("not the first test in this machine: %v", err)
	}
	_ = f.Close()
}
