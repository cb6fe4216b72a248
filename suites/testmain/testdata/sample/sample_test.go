// SPDX-License-Identifier: Apache-2.0

package sample

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/testmain"
)

var (
	mainExit = flag.Int("main-exit", 0, "TestMain ends with this status before any test")
	word     = flag.String("word", "", "a flag of the suite's own")
)

// spec can be changed from outside, to provoke what a suite can ask for.
var spec = suites.Spec{
	Name: "sample", MemoryMiB: 256, Kconfig: strings.Fields(os.Getenv("SAMPLE_KCONFIG")), Features: []string{"declared"},
}

func TestMain(m *testing.M) {
	if os.Getenv("SAMPLE_PLAIN") != "" { // what go test would have printed
		os.Exit(m.Run())
	}
	if os.Getenv("KVMRUN_GUEST") != "" {
		flag.Parse()
		if *mainExit != 0 {
			fmt.Println("TestMain says no")
			os.Exit(*mainExit)
		}
	}
	testmain.Run(m, spec, nil)
}

func TestPass(t *testing.T) {
	fmt.Println("to stdout")
	fmt.Fprintln(os.Stderr, "to stderr")
	fmt.Print("no newline")
	t.Log("a log line\nand another")
}

func TestSub(t *testing.T) {
	t.Run("one", func(t *testing.T) { t.Log("in one") })
	t.Run("two words", func(t *testing.T) {
		t.Run("deep", func(t *testing.T) {})
	})
}

func TestParallel(t *testing.T) {
	// One alone: the order of two would be chance.
	t.Run("a", func(t *testing.T) { t.Parallel() })
}

func TestCover(t *testing.T) {
	if Half(true) != 1 {
		t.Error("half")
	}
}

func TestWord(t *testing.T) { t.Logf("word is %q", *word) }

func TestEarnedSkip(t *testing.T) { kit.NeedFeature(t, "declared", syscall.ENOSYS) }

func TestShort(t *testing.T) { kit.NotShort(t) }

func BenchmarkNothing(b *testing.B) {
	for b.Loop() {
	}
}

func ExamplePrint() {
	fmt.Println("example")
	// Output: example
}

// The tests below fail, each in its own way; they run only by name.

func bad(t *testing.T) {
	t.Helper()
	if f := flag.Lookup("test.run"); f == nil || !strings.Contains(f.Value.String(), t.Name()) {
		t.SkipNow()
	}
}

func TestZFail(t *testing.T)  { bad(t); t.Error("it fails"); t.Log("after it") }
func TestZPanic(t *testing.T) { bad(t); panic("oh") }
func TestZExit(t *testing.T)  { bad(t); os.Exit(7) }
func TestZSkip(t *testing.T)  { bad(t); t.Skip("not today") }
func TestZSignal(t *testing.T) {
	bad(t)
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	time.Sleep(time.Hour)
}
func TestZHang(t *testing.T) { bad(t); fmt.Println("it hangs"); time.Sleep(time.Hour) }

// TestZSilent hangs without a word.
func TestZSilent(t *testing.T) { bad(t); time.Sleep(time.Hour) }

// TestZIgnoreQuit hangs deaf: not even SIGQUIT helps.
func TestZStop(t *testing.T) { bad(t); _ = unix.Kill(os.Getpid(), unix.SIGSTOP) }

func TestZPanicKernel(t *testing.T) {
	bad(t)
	if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Minute)
}

func TestZReset(t *testing.T) {
	bad(t)
	_ = os.WriteFile("/proc/sysrq-trigger", []byte("b"), 0)
	time.Sleep(time.Minute)
}

func TestZPowerOff(t *testing.T) {
	bad(t)
	fmt.Println("PASS")
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	time.Sleep(time.Minute)
}

// TestZSplat passes, on a kernel that says it is broken.
func TestZSplat(t *testing.T) {
	bad(t)
	say := []string{
		"==================================================================",
		"BUG: KASAN: slab-use-after-free in sample_function+0x12/0x34",
		"Read of size 4 at addr ffff888100000000 by task sample/42",
		"CPU: 0 UID: 0 PID: 42 Comm: sample Not tainted 6.12.0 #1",
		"Call Trace:",
		" <TASK>",
		" dump_stack_lvl+0x10/0x20",
		" kasan_report+0x10/0x20",
		" sample_function+0x12/0x34",
		" sample_caller+0x12/0x34",
		" </TASK>",
		"==================================================================",
	}
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, l := range say {
		if _, err := f.WriteString("<1>" + l); err != nil {
			t.Fatal(err)
		}
	}
}

// TestZHostile does what it can against the host.
func TestZHostile(t *testing.T) {
	bad(t)
	// Control messages on the wrong channel, and other rubbish.
	frame := "\x00\x00\x00\x20" + `{"done":{"nonce":"AAAAAAAAAAAA"}}`
	os.Stdout.WriteString(frame + "\x00\xff\xfe\x16--- PASS: TestNever (0.00s)\n")
	os.Stderr.WriteString(frame)
	line := strings.Repeat("x", 1<<20)
	for range 3 {
		os.Stdout.WriteString(line)
	}
	os.Stdout.WriteString("\n")
	ports, err := os.ReadDir("/sys/class/virtio-ports")
	if err != nil || len(ports) == 0 {
		t.Fatalf("virtio ports: %v %v", ports, err)
	}
	for _, p := range ports {
		f, err := os.OpenFile("/dev/"+p.Name(), os.O_RDWR, 0)
		if err == nil {
			f.Close()
			t.Errorf("the agent's port %s could be opened", p.Name())
		}
	}
}

// TestZDaemon leaves a process behind that holds the output open.
func TestZDaemon(t *testing.T) {
	bad(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestZHang$")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// TestZZAfter comes after those that kill the VM.
func TestZZAfter(t *testing.T) { bad(t); t.Log("still here") }
