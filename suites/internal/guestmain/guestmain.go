// SPDX-License-Identifier: Apache-2.0

// Package guestmain is the guest's half of a suite's TestMain: it runs the tests
// between marks in the kernel log and fails those during which the kernel reported
// something. It knows /dev/kmsg and package testing; it must not know the host's
// half (suites/testmain), QEMU or concrete suites.
package guestmain

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/initramfs/guest"
	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/internal/kmsg"
	"github.com/kvmrun/kvmrun/suites/internal/marks"
	"github.com/kvmrun/kvmrun/suites/internal/testlist"
	"github.com/kvmrun/kvmrun/suites/kit"
)

// Run runs the tests in the VM: between marks in the kernel log, and with a look
// at what the kernel said meanwhile. It returns the exit status.
func Run(m *testing.M) int {
	log, err := openKmsg()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kvmrun: the kernel log cannot be read in the guest:", err)
		return 1
	}
	if err := os.MkdirAll(wire.CoverDir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, "kvmrun: make the directory for profiles in the guest:", err)
		return 1
	}
	testlist.Drop(m, strings.Split(os.Getenv(wire.DoneEnv), "\n"))
	if text, err := os.ReadFile(suites.GuestAllowFile); err == nil {
		if log.allow, err = oops.ParseAllowList("the run's allow-list", text); err != nil {
			fmt.Fprintln(os.Stderr, "kvmrun: read the allow-list in the guest:", err)
			return 1
		}
	}
	marks.Take()
	resume := os.Getenv(wire.ResumeEnv) != ""
	var running atomic.Int32
	var failed atomic.Bool
	testlist.Wrap(m, func(t *testing.T, name string, f func(*testing.T)) {
		// A kernel with a splat is no place for another test, unless a
		// parallel one still runs here.
		if resume && running.Load() == 0 && log.poisoned() {
			if failed.Load() {
				os.Exit(wire.ExitPoisoned)
			}
			os.Exit(wire.ExitPoisonedWell)
		}
		running.Add(1)
		before := log.tainted()
		log.write(wire.TestMark(marks.Nonce(), name, wire.TestBegins, before))
		from := log.position()
		// Cleanups run last in, first out: this one comes after the test's
		// own, and after its parallel subtests.
		t.Cleanup(func() {
			splats, lost := log.splats(from)
			log.judge(t, splats, kit.ExpectedSplats(name))
			if lost != "" {
				t.Errorf("the kernel log is incomplete: %s: nobody knows what else the kernel said during this test", lost)
			}
			after := log.tainted()
			for _, r := range oops.Unexplained(after&^before, splats) {
				t.Errorf("kernel splat during this test: %s\n%s", r.Title, r.Raw)
			}
			if t.Skipped() && !kit.SkipEarned(t) {
				t.Error("skip not earned: a test of a suite skips by kit.NeedKconfig, NeedLinux, NeedFeature or NotShort, so that the reason can be checked")
			}
			ends := wire.TestEnds
			switch {
			case t.Failed():
				ends = wire.TestFails
				failed.Store(true)
			case t.Skipped() || testlist.NoSubtest(t):
				ends = wire.TestSkips
			}
			log.write(wire.TestMark(marks.Nonce(), name, ends, after))
			running.Add(-1)
		})
		f(t)
	})
	if os.Getenv(wire.HoldEnv) != "" {
		if err := hold(); err != nil {
			fmt.Fprintln(os.Stderr, "kvmrun: wait for the host before the tests:", err)
			return 1
		}
	}
	time.AfterFunc(firstDrain, log.tick)
	return m.Run()
}

// hold stops the process, all its threads, until the agent has armed the
// faults, and then runs the tests that the host names, if it names any.
func hold() error {
	flag.Parse()
	guest.SpareThreads()
	// To this very thread, which stops before its system call returns: a signal
	// to the process may be taken by another thread, while this one runs on.
	runtime.LockOSThread()
	err := unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP)
	runtime.UnlockOSThread()
	if err != nil {
		return err
	}
	if err := ownTemp(); err != nil {
		return err
	}
	env, err := plainRead(wire.ReleaseEnvFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for kv := range strings.SplitSeq(env, "\x00") {
		if name, value, ok := strings.Cut(kv, "="); ok {
			if err := os.Setenv(name, value); err != nil {
				return err
			}
		}
	}
	text, err := plainRead(wire.ReleaseFile)
	if err != nil {
		return err
	}
	word, run, _ := strings.Cut(text, "\n")
	marks.Set(word)
	// The programs that tests start are nobody to write marks.
	if err := unix.Unlink(wire.ReleaseFile); err != nil {
		return fmt.Errorf("remove %s: %w", wire.ReleaseFile, err)
	}
	if run == "" {
		return nil
	}
	return flag.Set("test.run", run)
}

// plainRead is os.ReadFile by nothing but system calls: each function that runs
// for the first time in a fork is translated first, and the test waits for it.
func plainRead(file string) (string, error) {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", file, err)
	}
	defer unix.Close(fd) //nolint:errcheck // opened for reading
	var text []byte
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return string(text), err
		}
		text = append(text, buf[:n]...)
	}
}

// ownTemp gives a process that goes on in a fork a directory for temporary files
// that has the fork's name: their own names come from the state of the runtime's
// generator, which all forks begin with.
func ownTemp() error {
	host, err := os.Hostname()
	if err != nil || !strings.HasPrefix(host, wire.ForkHost) {
		return err
	}
	// By the plain system calls, as in plainRead.
	dir := filepath.Join(os.TempDir(), host)
	mask := unix.Umask(0)         // nothing else runs yet
	err = unix.Mkdir(dir, 0o1777) // as /tmp
	unix.Umask(mask)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	return os.Setenv("TMPDIR", dir)
}

// kernelLog is the kernel log as the guest sees it (Documentation/ABI/testing/dev-kmsg).
type kernelLog struct {
	w *os.File

	mu   sync.Mutex
	r    int // raw and non-blocking: os.File would hand it to the poller
	seen int // records read
	bad  int // records that poisoned has looked at
	text []record
	next uint64 // the number of the record that must follow, 0 before there is one
	gap  int    // seen when records were last missing, 0 for never
	why  string // what was missing then

	taint int // /proc/sys/kernel/tainted

	allow *oops.AllowList // of the run, nil for none
}

type record struct {
	n     int
	level int
	text  string
}

func openKmsg() (*kernelLog, error) {
	w, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	r, err := syscall.Open("/dev/kmsg", syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	// What was said before the tests is the host's to judge.
	if _, err := syscall.Seek(r, 0, 2); err != nil {
		return nil, err
	}
	// Opened now: a test may mount something in its place.
	taint, err := syscall.Open("/proc/sys/kernel/tainted", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &kernelLog{w: w, r: r, taint: taint}, nil
}

// tainted returns the kernel's taint, every bit where it cannot be read.
func (k *kernelLog) tainted() uint64 {
	var buf [32]byte
	n, err := syscall.Pread(k.taint, buf[:], 0)
	if err != nil || n < 1 {
		return ^uint64(0)
	}
	taint := uint64(0)
	for _, d := range buf[:n-1] { // but for the newline
		taint = taint*10 + uint64(d-'0')
	}
	return taint
}

// firstDrain is how long after the start the log is read for the first time outside
// a test's beginning and end, and drainEvery how often then: the kernel's buffer
// may not hold all that a long test makes it say.
const (
	firstDrain = time.Second
	drainEvery = 250 * time.Millisecond
)

func (k *kernelLog) tick() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drain()
	time.AfterFunc(drainEvery, k.tick)
}

// write adds a line to the kernel log, at level 0 (emergency), which reaches the console
// whatever level a test has set. An error cannot be told
// to anybody here; the host misses the mark then, and blames no test.
func (k *kernelLog) write(line string) { _, _ = k.w.WriteString("<0>" + line + "\n") }

// maxRecords bounds the memory for records of the kernel's own; a test during which
// it says more than this fails.
const maxRecords = 20000

// lose notes that records are missing. k.mu is held.
func (k *kernelLog) lose(why string) { k.gap, k.why = k.seen, why }

// drain reads what is new. k.mu is held.
func (k *kernelLog) drain() {
	buf := make([]byte, kmsg.MaxRecord)
	for {
		n, err := syscall.Read(k.r, buf)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EPIPE):
			k.seen++
			k.lose("records were overwritten before they could be read")
			k.next = 0 // go on with the oldest
			continue
		case errors.Is(err, syscall.EAGAIN):
			return
		case err != nil || n <= 0:
			k.seen++
			k.lose("reading /dev/kmsg failed")
			return
		}
		k.seen++
		r, ok := kmsg.Parse(buf[:n])
		if !ok {
			k.lose("a record of /dev/kmsg has an unknown form")
			continue
		}
		if k.next != 0 && r.Number != k.next {
			k.lose("records are missing between two that were read")
		}
		k.next = r.Number + 1
		if r.Facility != 0 {
			continue
		}
		if len(k.text) == maxRecords {
			k.lose("the kernel said more than is kept of it")
			continue
		}
		k.text = append(k.text, record{k.seen, r.Level, unescape(r.Text)})
	}
}

// unescape undoes the \xNN of unprintable bytes.
func unescape(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		var c byte
		if s[i] == '\\' && i+3 < len(s) && s[i+1] == 'x' {
			if _, err := fmt.Sscanf(s[i+2:i+4], "%02x", &c); err == nil {
				b.WriteByte(c)
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func (k *kernelLog) position() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drain()
	return k.seen
}

// judge fails a test for the splats during it that it did not expect, and for
// the expected ones that did not come.
func (k *kernelLog) judge(t *testing.T, splats []*oops.Report, expected []string) {
	t.Helper()
	came := map[string]bool{}
	for _, r := range splats {
		ok := false
		for _, title := range expected {
			if r.Titled(title) {
				came[title], ok = true, true
			}
		}
		switch {
		case ok:
			t.Logf("kernel splat, as expected: %s", r.Title)
		case k.allowed(r):
			t.Logf("kernel splat, allowed: %s", r.Title)
		default:
			t.Errorf("kernel splat during this test: %s\n%s", r.Title, r.Raw)
		}
	}
	for _, title := range expected {
		if !came[title] {
			t.Errorf("no kernel splat titled %q came during this test, which expects it", title)
		}
	}
}

// allowed says whether the run tolerates a splat. What has expired is not in
// the guest's list, whose clock may be wrong.
func (k *kernelLog) allowed(r *oops.Report) bool { return k.allow.Allow(r, time.Time{}) != nil }

// poisoned says whether the kernel has ever printed a splat since the tests
// began, in a test or between two. One that the run tolerates does not count.
func (k *kernelLog) poisoned() bool {
	k.mu.Lock()
	from, before := k.bad, k.bad < 0
	k.mu.Unlock()
	if before {
		return true
	}
	splats, lost := k.splats(from)
	found := lost != "" || slices.ContainsFunc(splats, func(r *oops.Report) bool { return !k.allowed(r) })
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.bad = k.seen; found {
		k.bad = -1
	}
	return found
}

// splats returns the kernel's reports since a position, and why there may be more,
// "" if there are not.
func (k *kernelLog) splats(from int) (reports []*oops.Report, lost string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drain()
	var b strings.Builder
	worst := 7
	if k.gap > from {
		lost = k.why
	}
	for _, r := range k.text {
		if r.n > from {
			worst = min(worst, r.level)
			b.WriteString(r.text)
			b.WriteByte('\n')
		}
	}
	// Every report has a line of level warning (4) or worse: the parser's
	// tables need not even be compiled for a quiet test.
	if worst > 4 {
		return nil, lost
	}
	return oops.ParseOwn([]byte(b.String())), lost
}
