// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/suites/kit"
)

// Injector is one of the kernel's fault injectors, named as its directory
// below /sys/kernel/debug.
type Injector string

// The injectors that fail-nth can drive. fail_function is none: its trap is no
// task's (in_task() in lib/fault-inject.c).
const (
	Slab     Injector = "failslab"          // slab allocations
	Page     Injector = "fail_page_alloc"   // page allocations of any order
	Request  Injector = "fail_make_request" // block requests
	UserCopy Injector = "fail_usercopy"     // copies from and to user space
	Futex    Injector = "fail_futex"        // futex calls
	Timeout  Injector = "fail_io_timeout"   // block requests are lost and time out
)

// injectors lists what has to be taken out of the count when it is not meant;
// those without a constant above belong to subsystems the suites do not sweep.
var injectors = []Injector{Slab, Page, Request, UserCopy, Futex, Timeout, "fail_function", "fail_skb_realloc", "fail_sunrpc", "fail_mmc_request"}

// Kind is what shall fail.
type Kind struct {
	Injector Injector
	// Waiting counts allocations that may wait for memory as well. Without
	// it only atomic ones count (the kernel's ignore-gfp-wait).
	Waiting bool
	// Cache restricts Slab to one cache, named as below /sys/kernel/slab. The
	// cache must not be merged with others: KASAN or slab_nomerge.
	Cache string
	// Device is the block device, named as below /sys/block, whose requests
	// fail; for Request and Timeout only.
	Device string
}

func (k Kind) String() string {
	s := string(k.Injector)
	if k.Waiting {
		s += ",waiting"
	}
	for _, x := range []string{k.Cache, k.Device} {
		if x != "" {
			s += "," + x
		}
	}
	return s
}

// Options lists the kernel options that the kind needs, for a suite's
// OptionalKconfig and for Need.
func (k Kind) Options() []string {
	need := []string{"FAULT_INJECTION", "FAULT_INJECTION_DEBUG_FS"}
	switch k.Injector {
	case Slab:
		need = append(need, "FAILSLAB")
	case Page:
		need = append(need, "FAIL_PAGE_ALLOC")
	case Request:
		need = append(need, "FAIL_MAKE_REQUEST")
	case UserCopy:
		need = append(need, "FAULT_INJECTION_USERCOPY")
	case Futex:
		need = append(need, "FAIL_FUTEX")
	case Timeout:
		need = append(need, "FAIL_IO_TIMEOUT")
	}
	if k.Cache != "" {
		need = append(need, "SLUB_DEBUG")
	}
	return need
}

// Need skips the test on a kernel that cannot inject the kind.
func Need(t testing.TB, k Kind) {
	t.Helper()
	kit.NeedKconfig(t, k.Options()...)
}

// MaxPoints bounds a sweep: an operation that reaches more points than this
// does not end.
const MaxPoints = 20000

// Nth runs op with the n-th point of the kind failing, n from 1, and reports
// whether op reached it. See the package comment for what op may do. It skips
// the test where the kernel cannot inject.
func Nth(t testing.TB, k Kind, n int, op func()) (fired bool) {
	t.Helper()
	Need(t, k)
	if n < 1 {
		t.Fatalf("fault.Nth: n is %d, want 1 or more", n)
	}
	restore := configure(t, k)
	defer restore()
	// A collection would stop the thread in the middle of the operation.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	fired, err := nth(n, op)
	if err != nil {
		t.Fatalf("fault.Nth: %v", err)
	}
	return fired
}

// Sweep runs op with each of its points of the kind failing in turn: for
// n = 1, 2, ... it calls setup, runs op with the n-th point failing, and calls
// check with faults off, until op completed without reaching its n-th point.
// check sees that last, undisturbed run, too, with fired false. Sweep returns
// the number of points, which is 0 when op reached none at all: where that
// would make the test pointless, the caller has to say so.
func Sweep(t testing.TB, k Kind, setup func(n int), op func(), check func(n int, fired bool)) (points int) {
	t.Helper()
	Need(t, k)
	restore := configure(t, k)
	defer restore()
	for n := 1; n <= MaxPoints; n++ {
		setup(n)
		gc := debug.SetGCPercent(-1) // see Nth
		fired, err := nth(n, op)
		debug.SetGCPercent(gc)
		if err != nil {
			t.Fatalf("fault.Sweep: point %d: %v", n, err)
		}
		check(n, fired)
		if t.Failed() {
			t.Fatalf("fault.Sweep: failed at point %d of %v", n, k)
		}
		if !fired {
			return n - 1
		}
	}
	t.Fatalf("fault.Sweep: the operation reached more than %d points of %v", MaxPoints, k)
	return MaxPoints
}

// Always runs op on a locked thread with every point of the kind that this
// thread reaches failing. Unlike with Nth, op may be any code that can live
// with that; a kind that is restricted to one cache harms no Go code. Threads
// and processes that op starts inherit the faults.
func Always(t testing.TB, k Kind, op func()) {
	t.Helper()
	Need(t, k)
	restore := configure(t, k)
	defer restore()
	kit.OnThread(t, func() {
		if err := os.WriteFile("/proc/thread-self/make-it-fail", []byte("1"), 0); err != nil {
			t.Fatalf("fault.Always: mark the thread: %v", err)
		}
		dir := filepath.Join(pathDebug, string(k.Injector))
		defer func() {
			if err := os.WriteFile(filepath.Join(dir, "probability"), []byte("0"), 0); err != nil {
				t.Errorf("fault.Always: stop: %v", err)
			}
		}()
		for _, s := range [][2]string{{"task-filter", "Y"}, {"interval", "1"}, {"verbose", "0"}, {"probability", "100"}} {
			if err := os.WriteFile(filepath.Join(dir, s[0]), []byte(s[1]), 0); err != nil {
				t.Fatalf("fault.Always: %v", err)
			}
		}
		op()
	})
}

// pathDebug is where debugfs is mounted in every guest.
const pathDebug = "/sys/kernel/debug"

// knob is a setting and its value before.
type knob struct{ file, old string }

// unarmed fails the test when somebody else has faults armed already: they use
// the same knobs, and neither would get what it asked for.
func unarmed(t testing.TB) {
	t.Helper()
	const cure = "run this test without -fault, and sweep others: it injects faults itself"
	for _, o := range injectors {
		b, err := os.ReadFile(filepath.Join(pathDebug, string(o), "probability"))
		if p := strings.TrimSpace(string(b)); err == nil && p != "0" {
			t.Fatalf("%s is armed from outside (probability %s), and all faults share its knobs; %s", o, p, cure)
		}
	}
	// The first thread's own count is armed by who=task.
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/fail-nth", os.Getpid()))
	if n := strings.TrimSpace(string(b)); err == nil && n != "0" {
		t.Fatalf("the process's first thread is armed from outside (fail-nth %s); %s", n, cure)
	}
}

// configure sets the knobs of the kind and returns what sets them back.
func configure(t testing.TB, k Kind) (restore func()) {
	t.Helper()
	unarmed(t)
	var done []knob
	restore = func() {
		for i := len(done) - 1; i >= 0; i-- {
			if err := os.WriteFile(done[i].file, []byte(done[i].old), 0); err != nil {
				t.Errorf("restore %s: %v", done[i].file, err)
			}
		}
	}
	set := func(file, val string) error {
		old, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(val), 0); err != nil {
			return fmt.Errorf("write %q: %w", val, err)
		}
		done = append(done, knob{file, strings.TrimSpace(string(old))})
		return nil
	}
	must := func(file, val string) {
		t.Helper()
		if err := set(file, val); err != nil {
			restore()
			t.Fatalf("set up fault injection: %v; the kernel needs %s and debugfs on %s",
				err, strings.Join(k.Options(), ", "), pathDebug)
		}
	}
	flag := func(b bool) string {
		if b {
			return "Y"
		}
		return "N"
	}
	dir := filepath.Join(pathDebug, string(k.Injector))
	must(filepath.Join(dir, "probability"), "0") // nobody but the armed thread
	must(filepath.Join(dir, "times"), "-1")
	must(filepath.Join(dir, "verbose"), "1") // a line, no stack: a sweep prints many
	must(filepath.Join(dir, "task-filter"), "N")
	switch k.Injector {
	case Slab:
		must(filepath.Join(dir, "ignore-gfp-wait"), flag(!k.Waiting))
		must(filepath.Join(dir, "cache-filter"), flag(k.Cache != ""))
		if k.Cache != "" {
			must(filepath.Join("/sys/kernel/slab", k.Cache, "failslab"), "1")
		}
	case Page:
		must(filepath.Join(dir, "ignore-gfp-wait"), flag(!k.Waiting))
		must(filepath.Join(dir, "ignore-gfp-highmem"), "N")
		must(filepath.Join(dir, "min-order"), "0")
	case Request:
		must(filepath.Join("/sys/block", k.Device, "make-it-fail"), "1")
	case Timeout:
		must(filepath.Join("/sys/block", k.Device, "io-timeout-fail"), "1")
	}
	// The others are excluded by a stack filter that rejects everything
	// (fail_stacktrace in lib/fault-inject.c): a point that does not pass its
	// injector's filter is not counted.
	for _, o := range injectors {
		dir := filepath.Join(pathDebug, string(o))
		if o == k.Injector {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "reject-end")); err != nil {
			continue // not built in, or without the filter
		}
		must(filepath.Join(dir, "reject-start"), "1")
		must(filepath.Join(dir, "reject-end"), strconv.FormatUint(^uint64(0), 10))
	}
	return restore
}

// nth arms the thread, runs op and disarms.
func nth(n int, op func()) (fired bool, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	f, err := os.OpenFile("/proc/thread-self/fail-nth", os.O_RDWR, 0)
	if err != nil {
		return false, fmt.Errorf("open fail-nth, for which the kernel needs CONFIG_FAULT_INJECTION: %w", err)
	}
	defer func() { _ = f.Close() }()
	fd := f.Fd()
	arm := strconv.AppendInt(make([]byte, 0, 16), int64(n), 10)
	var left [16]byte
	var got, errno uintptr

	touchStack()
	runtime.Gosched() // begin with a fresh time slice
	all, old := ^uint64(0), uint64(0)
	// SIG_SETMASK is 2; the kernel's sigset_t has 8 bytes.
	if _, _, e := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, 2, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&old)), 8, 0, 0); e != 0 {
		return false, fmt.Errorf("block signals: %w", e)
	}
	if _, _, e := syscall.RawSyscall6(unix.SYS_PWRITE64, fd, uintptr(unsafe.Pointer(&arm[0])), uintptr(len(arm)), 0, 0, 0); e != 0 {
		errno = uintptr(e)
	} else {
		op()
		got, errno = disarm(fd, &left)
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, 2, uintptr(unsafe.Pointer(&old)), 0, 8, 0, 0)
	runtime.KeepAlive(arm)

	switch {
	case errno == uintptr(unix.EFAULT):
		// The read itself was the n-th user copy: op had not reached it.
		return false, nil
	case errno != 0:
		return false, fmt.Errorf("arm or read back fail-nth: %w", unix.Errno(errno))
	}
	rest, err := strconv.Atoi(strings.TrimSpace(string(left[:got])))
	if err != nil {
		return false, errors.New("read back fail-nth: not a number: " + string(left[:got]))
	}
	return rest == 0, nil
}

// disarm reads how much of the count is left and sets it to 0. Both calls may
// be hit by the fault themselves; the second is repeated until it is not.
func disarm(fd uintptr, left *[16]byte) (n, errno uintptr) {
	n, _, e := syscall.RawSyscall6(unix.SYS_PREAD64, fd, uintptr(unsafe.Pointer(left)), unsafe.Sizeof(*left), 0, 0, 0)
	zero := [1]byte{'0'}
	for range 3 {
		if _, _, e := syscall.RawSyscall6(unix.SYS_PWRITE64, fd, uintptr(unsafe.Pointer(&zero)), 1, 0, 0, 0); e == 0 {
			break
		}
	}
	return n, uintptr(e)
}

// touchStack maps the stack that the armed section will use: a page fault in
// it would allocate, and count.
//
//go:noinline
func touchStack() {
	var b [16 << 10]byte
	for i := 0; i < len(b); i += 1024 {
		b[i] = 1
	}
	runtime.KeepAlive(&b)
}
