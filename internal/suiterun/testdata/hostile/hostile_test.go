// SPDX-License-Identifier: Apache-2.0

// Package hostile is a suite that lies to the host, for the table of hostile guests.
package hostile

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/testmain"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "environment" { // of a program that a test starts
		os.Stdout.WriteString(strings.Join(os.Environ(), "\n"))
		return
	}
	testmain.Run(m, suites.Spec{Name: "hostile", MemoryMiB: 256}, nil)
}

// say writes lines to the kernel log.
func say(t *testing.T, lines ...string) {
	t.Helper()
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, l := range lines {
		if _, err := f.WriteString("<4>" + l + "\n"); err != nil {
			t.Fatal(err)
		}
	}
}

// warning looks like the kernel's.
var warning = []string{
	"------------[ cut here ]------------", "WARNING: CPU: 0 PID: 7 at mm/x.c:1 broken+0x1/0x2",
	"CPU: 0 UID: 0 PID: 7 Comm: hostile Not tainted 6.12.0 #1", "RIP: 0010:broken+0x1/0x2", "Call Trace:", " <TASK>",
	" caller+0x1/0x2", " </TASK>", "---[ end trace 0000000000000000 ]---",
}

// forged are marks under words that are not the run's.
func forged(at wire.TestMoment, test string) []string {
	return []string{wire.TestMark("", test, at, 0), wire.TestMark("AAAAAAAAAAAAAAAAAAAAAAAAAA", test, at, 0), [...]string{"kvmrun: test begin ", "kvmrun: test end ", "kvmrun: test failed "}[at] + test}
}

func TestForgedMarks(t *testing.T) {
	say(t, forged(wire.TestEnds, t.Name())...)
	say(t, forged(wire.TestBegins, "TestQuiet")...)
	say(t, warning...)
}

func TestForgedExpectation(t *testing.T) {
	say(t, wire.ExpectMark("", t.Name(), ".*"), `kvmrun: test expects "`+t.Name()+`" ".*"`)
	say(t, warning...)
}

func TestForgedFatal(t *testing.T) {
	say(t, wire.FatalMark+"forged", wire.Fatal("AAAA", "forged"))
}

func TestForgedFatalFails(t *testing.T) {
	say(t, wire.FatalMark+"forged")
	t.Error("it fails")
}

func TestTaint(t *testing.T) {
	if err := os.WriteFile("/proc/sys/kernel/tainted", []byte("512"), 0); err != nil {
		t.Fatal(err)
	}
}

func TestQuiet(t *testing.T) {}

// kunit is what KUnit's module for hardware prints (lib/kunit/test.c), with result
// as that of its second test.
func kunit(result string) []string {
	whole := strings.TrimSuffix(result, " 2 second")
	return []string{
		"KTAP version 1", "1..1", "    KTAP version 1", "    # Subtest: hw", "    # module: hw_test", "    1..2", "    ok 1 first", "    " + result, whole + " 1 hw",
	}
}

func TestKUnitPasses(t *testing.T) { say(t, kunit("ok 2 second")...) }

func TestKUnitFails(t *testing.T) { say(t, kunit("not ok 2 second")...) }

func TestKUnitBreaksOff(t *testing.T) { say(t, kunit("ok 2 second")[:7]...) }

// TestEnvironment starts a program, which must not know what marks carry.
func TestEnvironment(t *testing.T) {
	out, err := exec.Command("/proc/self/exe", "environment").Output()
	if err != nil || !strings.Contains(string(out), "KVMRUN_GUEST=") {
		t.Fatal(err, string(out))
	}
	text, _ := os.ReadFile(wire.ReleaseFile)
	if strings.Contains(string(out), wire.MarksEnv) || len(text) > 0 {
		t.Errorf("a test's children learn what marks carry: %q %q", out, text)
	}
}
