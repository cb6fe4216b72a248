// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/internal/wire"
)

// IsInit reports whether this process was started by the kernel as /init or
// /sbin/init: PID 1, under such a name. (In a container, PID 1 has the name of
// the command.)
func IsInit() bool {
	if os.Getpid() != 1 || len(os.Args) == 0 {
		return false
	}
	switch os.Args[0] {
	case "/init", "init", "/sbin/init":
		return true
	}
	return false
}

// Main runs the agent as PID 1. It never returns: it ends by powering the
// machine off.
func Main() {
	sys := &linux{}
	defer dieOnPanic(sys)
	ignoreLibcSignals()
	defaultSIGCHLD()
	// Ports are read by blocking calls; with as many of these as there are
	// processors the rest would wait for the runtime to notice.
	runtime.GOMAXPROCS(max(runtime.NumCPU(), 4))

	ports, boot, err := setUp(sys, func() (*ports, error) { return openPorts(sys, portTimeout) })
	if err != nil {
		die(sys, err.Error())
	}
	a := newAgent(sys, ports)
	a.serve(boot)
	sys.powerOff()
}

// ignoreLibcSignals ignores signals 32 to 34, the C libraries' own and the only
// ones for which the Go runtime has no handler. Their default action would kill
// even PID 1 when its first thread happens to block them while another does not
// (kernel/signal.c: sig_ignored looks at the one, complete_signal at the other).
func ignoreLibcSignals() {
	// struct sigaction of rt_sigaction(2), as the kernel has it.
	ignore := struct{ handler, flags, restorer, mask uint64 }{handler: 1} // SIG_IGN
	for sig := uintptr(32); sig <= 34; sig++ {
		// An error leaves things as they were.
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&ignore)), 0, 8, 0, 0)
	}
}

// defaultSIGCHLD keeps SIGCHLD from being delivered to the Go runtime, which has
// a handler for every signal and no use for this one: children are waited for.
// Two deliveries for each program cost a fork under TCG some milliseconds. By
// default, unlike when told to ignore it, the kernel keeps the zombies (wait(2)).
func defaultSIGCHLD() {
	dfl := struct{ handler, flags, restorer, mask uint64 }{} // SIG_DFL
	// An error leaves things as they were.
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGCHLD), uintptr(unsafe.Pointer(&dfl)), 0, 8, 0, 0)
}

// SpareThreads has Go's runtime start threads that it may need later. A process
// calls it before its machine is frozen: in a fork, under TCG, a new thread costs
// more than all else that goes on until a test begins.
func SpareThreads() {
	const n = 4
	var all sync.WaitGroup
	all.Add(n)
	done := make(chan struct{}, n)
	for range n {
		go func() {
			// A thread for each, all at once; given back, the runtime keeps them.
			runtime.LockOSThread()
			all.Done()
			all.Wait()
			runtime.UnlockOSThread()
			done <- struct{}{}
		}()
	}
	for range n {
		<-done
	}
}

// portTimeout bounds the wait for the virtio ports, which appear a moment
// after their driver.
const portTimeout = 5 * time.Second

// die writes the agent's last words where the host looks for them, and powers
// off.
func die(sys system, why string) {
	nonce := ""
	if n := runNonce.Load(); n != nil {
		nonce = *n
	}
	sys.kernelLog(wire.Fatal(nonce, why))
	sys.powerOff()
}

// runNonce is that of the job that was given last, nil before there was one: from
// then on a program may write to the kernel log, too.
var runNonce atomic.Pointer[string]

func setNonce(nonce string) {
	if nonce != "" {
		runNonce.Store(&nonce)
	}
}

// dieOnPanic turns a panic into last words. It is deferred in every goroutine
// of the agent: a panicking PID 1 would only read "Attempted to kill init".
func dieOnPanic(sys system) {
	if p := recover(); p != nil {
		sys.kernelLog(fmt.Sprintf("kvmrun: %s", debug.Stack()))
		die(sys, fmt.Sprintf("panic: %v", p))
	}
}

// boottime is the time since boot in nanoseconds, suspends included.
func boottime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return ts.Nano()
}
