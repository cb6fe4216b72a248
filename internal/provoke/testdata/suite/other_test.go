// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites/kit"
)

// watchful lets the kernel's watchdogs bark within seconds. The driver makes
// them patient, because under TCG a busy host looks like a hung guest.
func watchful(t *testing.T, more ...string) {
	t.Helper()
	sysctl(t, append([]string{"kernel.watchdog=1", "kernel.watchdog_thresh=2"}, more...)...)
}

func TestSOFTLOCKUP(t *testing.T) {
	watchful(t, "kernel.softlockup_panic=1", "kernel.nmi_watchdog=0")
	lkdtm(t)
}
func TestQuiet20(t *testing.T) { quiet(t) }

func TestHARDLOCKUP(t *testing.T) {
	watchful(t, "kernel.soft_watchdog=0", "kernel.hardlockup_panic=1")
	lkdtm(t)
}
func TestSMP_CALL_LOCKUP(t *testing.T) {
	avoid = 1 // it is the other CPU that hangs
	watchful(t, "kernel.softlockup_panic=1", "kernel.nmi_watchdog=0")
	lkdtm(t)
}

func TestSPINLOCKUP(t *testing.T) {
	watchful(t, "kernel.softlockup_panic=1", "kernel.nmi_watchdog=0")
	lkdtm(t) // takes the lock
	lkdtm(t) // waits for it
}

func TestQuiet21(t *testing.T) { quiet(t) }

func TestHUNG_TASK(t *testing.T) {
	sysctl(t, "kernel.hung_task_timeout_secs=2", "kernel.hung_task_check_interval_secs=1", "kernel.hung_task_panic=1")
	lkdtm(t)
}

func TestRCUStall(t *testing.T) {
	sysctl(t, "kernel.watchdog=0", "kernel.panic_on_rcu_stall=1")
	if err := os.WriteFile("/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout", []byte("3"), 0); err != nil {
		t.Fatal(err)
	}
	crash(t, "SOFTLOCKUP")
}

func TestQuiet22(t *testing.T) { quiet(t) }

// These hang for good and nobody in the guest says so: the host's time limit
// and its questions have to.

func TestLOOP(t *testing.T)           { sysctl(t, "kernel.watchdog=0"); lkdtm(t) }
func TestHungTaskSilent(t *testing.T) { crash(t, "HUNG_TASK") }
func TestSpinSilent(t *testing.T) {
	sysctl(t, "kernel.watchdog=0")
	crash(t, "SPINLOCKUP")
	crash(t, "SPINLOCKUP")
}

// TestHungTaskNoPanic: the kernel notices, goes on, and the task cannot be
// killed.
func TestHungTaskNoPanic(t *testing.T) {
	sysctl(t, "kernel.hung_task_timeout_secs=2", "kernel.hung_task_check_interval_secs=1")
	crash(t, "HUNG_TASK")
}

// TestAllCPUs leaves no CPU to answer questions.
func TestAllCPUs(t *testing.T) {
	sysctl(t, "kernel.watchdog=0")
	crash(t, "SMP_CALL_LOCKUP")
}

// TestOopsOwnThread fails the kernel in the test's own thread, which is gone
// then: nobody ends the test.
func TestOopsOwnThread(t *testing.T) {
	f, err := os.OpenFile(direct, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	say(t)
	runtime.LockOSThread()
	_, err = unix.Write(int(f.Fd()), []byte("BUG"))
	t.Error("survived:", err)
}

func sysrq(t *testing.T, key string) {
	t.Helper()
	say(t)
	if err := os.WriteFile("/proc/sysrq-trigger", []byte(key), 0); err != nil {
		t.Fatal(err)
	}
	forever()
}

func TestSysrqCrash(t *testing.T) { sysrq(t, "c") }
func TestQuiet23(t *testing.T)    { quiet(t) }

// TestQuietMuted passes, and its result never leaves the VM: the agent that
// would pass it on is stopped, and the kernel dies in the next test. It must run
// again, and pass on a fresh VM.
func TestQuietMuted(t *testing.T) {
	quiet(t)
	if !strings.Contains(os.Getenv(wire.DoneEnv), "TestAfterMuted") {
		t.Run("sub", quiet)
		mute(t)
	}
}
func TestAfterMuted(t *testing.T) { sysrq(t, "c") }

// mute stops all threads of PID 1, which no signal does, for good.
func mute(t *testing.T) {
	t.Helper()
	err := make(chan error)
	go func() {
		runtime.LockOSThread() // who attaches is a thread, and has to stay
		err <- func() error {
			for stopped := map[int]bool{}; ; {
				threads, err := filepath.Glob("/proc/1/task/*")
				if err != nil || len(threads) == len(stopped) {
					return err
				}
				for _, thread := range threads {
					tid, err := strconv.Atoi(filepath.Base(thread))
					if err != nil {
						return err
					}
					if stopped[tid] {
						continue
					}
					if err := unix.PtraceAttach(tid); err != nil {
						return fmt.Errorf("stop thread %d of PID 1: %w", tid, err)
					}
					if _, err := unix.Wait4(tid, nil, unix.WALL, nil); err != nil {
						return err
					}
					stopped[tid] = true
				}
			}
		}()
		forever()
	}()
	if err := <-err; err != nil {
		t.Fatal(err)
	}
}

func TestSysrqReboot(t *testing.T)   { sysrq(t, "b") }
func TestSysrqPowerOff(t *testing.T) { sysrq(t, "o") }

func TestQuiet24(t *testing.T) { quiet(t) }

func reboot(t *testing.T, how int) {
	t.Helper()
	say(t)
	t.Errorf("survived: %v", unix.Reboot(how))
}

func TestPowerOff(t *testing.T) { reboot(t, unix.LINUX_REBOOT_CMD_POWER_OFF) }
func TestRestart(t *testing.T)  { reboot(t, unix.LINUX_REBOOT_CMD_RESTART) }

// TestTripleFault needs reboot=triple on the command line: the kernel then
// resets itself by a fault without an interrupt table.
func TestTripleFault(t *testing.T) { sysrq(t, "b") }
func TestHalt(t *testing.T)        { reboot(t, unix.LINUX_REBOOT_CMD_HALT) }

func TestQuiet25(t *testing.T) { quiet(t) }

// TestInitKilled lets PID 1, which no signal ends, end itself.
func TestInitKilled(t *testing.T) {
	say(t)
	runtime.LockOSThread() // who attaches is a thread
	if err := unix.PtraceAttach(1); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Wait4(1, nil, unix.WALL, nil); err != nil {
		t.Fatal(err)
	}
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(1, &regs); err != nil {
		t.Fatal(err)
	}
	const none = ^uint64(0)
	if regs.Orig_rax == none {
		t.Fatal("PID 1 is not in a system call")
	}
	// Its call again, but another one.
	regs.Rip -= 2 // the length of SYSCALL
	regs.Rax, regs.Rdi, regs.Orig_rax = unix.SYS_EXIT_GROUP, 7, none
	if err := unix.PtraceSetRegs(1, &regs); err != nil {
		t.Fatal(err)
	}
	if err := unix.PtraceDetach(1); err != nil {
		t.Fatal(err)
	}
	forever()
}

// eat takes memory until there is none.
func eat() {
	var all [][]byte
	for {
		b := make([]byte, 16<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
		runtime.KeepAlive(all)
	}
}

func TestOOMKilled(t *testing.T) {
	say(t)
	// This process before all others.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
		t.Fatal(err)
	}
	eat()
}
func TestOOMPanic(t *testing.T) { say(t); sysctl(t, "vm.panic_on_oom=2"); eat() }

func TestQuiet26(t *testing.T) { quiet(t) }

func TestPanicOnWarn(t *testing.T) { sysctl(t, "kernel.panic_on_warn=1"); crash(t, "WARNING") }
func TestPanicOnOops(t *testing.T) { sysctl(t, "kernel.panic_on_oops=1"); crash(t, "EXCEPTION") }

// TestKilled and TestExit end the test binary, not the kernel.
func TestKilled(t *testing.T) { _ = unix.Kill(os.Getpid(), unix.SIGKILL); forever() }
func TestExit(*testing.T)     { os.Exit(0) }

// TestWait waits for the host to do something.
func TestWait(t *testing.T) { say(t); forever() }

func TestQuiet27(t *testing.T) { quiet(t) }

// Tests that say what they provoke.

func TestExpectedWarning(t *testing.T) {
	kit.ExpectSplat(t, "WARNING in lkdtm_WARNING")
	crash(t, "WARNING")
}
func TestQuiet28(t *testing.T) { quiet(t) }
func TestExpectedBUG(t *testing.T) {
	kit.ExpectSplat(t, "kernel BUG in .*")
	crash(t, "BUG")
}
func TestQuiet29(t *testing.T)        { quiet(t) }
func TestExpectedInVain(t *testing.T) { kit.ExpectSplat(t, "WARNING in .*") }
func TestExpectedOther(t *testing.T) {
	kit.ExpectSplat(t, "WARNING in nobody")
	crash(t, "WARNING")
}
func TestQuiet30(t *testing.T) { quiet(t) }

// TestFlooded provokes in the middle of what the console is too slow for.
func TestFlooded(t *testing.T) {
	for range 2 {
		go func() {
			log, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
			for err == nil {
				_, err = log.WriteString("a line of the flood that the console is too slow for\n")
			}
		}()
	}
	time.Sleep(3 * time.Second)
	crash(t, "WARNING")
}
