// SPDX-License-Identifier: Apache-2.0

package sample

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/suites/kit"
)

// These end the process with status 0, as if all were well.

// exitGroup is what exit(3) of a C library does in the end.
func exitGroup() { _, _, _ = unix.Syscall(unix.SYS_EXIT_GROUP, 0, 0, 0) }

func TestZExitGroup(t *testing.T) { bad(t); exitGroup() }

func TestZExitInSubtests(t *testing.T) {
	bad(t)
	for i := range 3 {
		t.Run(fmt.Sprint("sub", i), func(t *testing.T) {
			t.Parallel()
			exitGroup()
		})
	}
}

func TestZExitParallel(t *testing.T) { bad(t); t.Parallel(); exitGroup() }

// TestZExitSaid says that it passed, and that all did.
func TestZExitSaid(t *testing.T) {
	bad(t)
	mark := "\x16"
	if !strings.Contains(strings.Join(os.Args, " "), "test2json") {
		mark = ""
	}
	fmt.Printf("%s--- PASS: TestZExitSaid (0.00s)\n%sPASS\n", mark, mark)
	exitGroup()
}

func TestZOSExit(t *testing.T) { bad(t); os.Exit(0) }

// TestZExec becomes another program, which says PASS and exits with status 0.
func TestZExec(t *testing.T) {
	bad(t)
	t.Fatal(unix.Exec("/proc/self/exe", []string{"/init", "-test.run=^$"}, []string{"KVMRUN_GUEST=1"}))
}

// TestZLoud prints more than the host keeps of a test that has to wait for its turn.
func TestZLoud(t *testing.T) {
	bad(t)
	line := strings.Repeat("x", 1<<20-1) + "\n"
	for range 70 {
		os.Stdout.WriteString(line)
	}
}

// TestZLogLevel keeps the kernel from showing its log on the console.
func TestZLogLevel(t *testing.T) {
	bad(t)
	for file, text := range map[string]string{"/sys/module/printk/parameters/ignore_loglevel": "N", "/proc/sys/kernel/printk": "1"} {
		if err := os.WriteFile(file, []byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// TestZNothing skips, and TestZGroup has nothing but subtests.
func TestZNothing(t *testing.T) { bad(t); kit.NeedFeature(t, "declared", unix.ENOSYS) }
func TestZGroup(t *testing.T) {
	bad(t)
	t.Run("one", func(t *testing.T) {})
	t.Run("skips", func(t *testing.T) { kit.NeedFeature(t, "declared", unix.ENOSYS) })
}

// TestZLast comes after those that end the process.
func TestZLast(t *testing.T) { bad(t); t.Log("still here") }

// Example_zExit ends the process when it is chosen by its name.
func Example_zExit() {
	if f := flag.Lookup("test.run"); f != nil && strings.Contains(f.Value.String(), "Example_zExit") && os.Getenv("KVMRUN_GUEST") != "" {
		exitGroup()
	}
	// Output:
}
