// SPDX-License-Identifier: Apache-2.0

// Package suite breaks the kernel it runs on, one test one way. What comes of it
// is judged on the host, in package provoke.
package suite

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/testmain"
)

// Two CPUs: one to hang and one to notice.
var spec = suites.Spec{
	Name: "provoke", Doc: "real failures of a real kernel", Kconfig: []string{"LKDTM=y"}, MemoryMiB: 512, CPUs: 2,
}

func TestMain(m *testing.M) { testmain.Run(m, spec, nil) }

// avoid is the CPU that provocations keep off.
var avoid = 0

const direct = "/sys/kernel/debug/provoke-crash/DIRECT"

// onThread runs f on a thread of its own and returns when f has, or when the
// kernel has killed the thread, as it does with one in whose context it failed.
//
// The thread keeps to CPU 1. CPU 0 may have the only timer interrupt of the
// machine: Linux gives up the local ones when a busy host lets it measure them
// wrongly ("APIC timer disabled due to verification failure").
func onThread(t *testing.T, f func()) {
	t.Helper()
	tid, done := make(chan int, 1), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread may be damaged
		var one unix.CPUSet
		one.Set(1 - avoid)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			t.Error(err)
		}
		tid <- unix.Gettid()
		f()
	}()
	stat := fmt.Sprintf("/proc/self/task/%d/stat", <-tid)
	// Nothing tells the end of somebody else's thread but its being gone.
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		select {
		case <-done:
			return
		case <-tick.C:
			// The first thread stays as a zombie until the others are gone.
			if b, err := os.ReadFile(stat); err != nil || strings.Contains(string(b), ") Z ") {
				return
			}
		}
	}
}

// lkdtm provokes the crash type that the test is named after.
func lkdtm(t *testing.T) {
	t.Helper()
	crash(t, strings.TrimPrefix(t.Name(), "Test"))
}

// crash provokes a crash type.
func crash(t *testing.T, name string) {
	t.Helper()
	say(t)
	f, err := os.OpenFile(direct, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Also for tests that share a VM, see Documentation/admin-guide/clearing-warn-once.rst.
	if err := os.WriteFile("/sys/kernel/debug/clear_warn_once", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	onThread(t, func() {
		if _, err := unix.Write(int(f.Fd()), []byte(name)); err != nil {
			t.Errorf("provoke: %v", err)
		}
	})
}

// sysctl sets kernel parameters, "name=value" each.
func sysctl(t *testing.T, set ...string) {
	t.Helper()
	for _, s := range set {
		name, value, _ := strings.Cut(s, "=")
		if err := os.WriteFile("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// say prints a line, so that the host knows at once that the test has begun.
func say(t *testing.T) { fmt.Println("here comes", t.Name()) }

// forever waits for an end that somebody else makes.
func forever() {
	for {
		time.Sleep(time.Hour)
	}
}

// quiet is a test that must pass: on the VM of its neighbours, as long as these
// leave the kernel alone, else on a fresh one.
func quiet(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/kernel/tainted")
	if err != nil {
		t.Fatal(err)
	}
	if s := strings.TrimSpace(string(b)); s != "0" {
		t.Errorf("kernel tainted: %s: this is not a fresh VM", s)
	}
}

// TestList says what the kernel offers.
func TestList(t *testing.T) {
	b, err := os.ReadFile(direct)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("crash types: %s", strings.Join(strings.Fields(string(b))[4:], " "))
}
