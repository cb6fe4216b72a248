// SPDX-License-Identifier: Apache-2.0

package testmain

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/initramfs/guest"
	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/kit"
)

// runGuest runs the tests in the VM: between marks in the kernel log, and with
// a look at what the kernel said meanwhile.
func runGuest(m *testing.M) int {
	log, err := openKmsg()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kvmrun: the kernel log cannot be read in the guest:", err)
		return 1
	}
	if err := os.MkdirAll(coverDir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, "kvmrun: make the directory for profiles in the guest:", err)
		return 1
	}
	drop(m, strings.Split(os.Getenv(runner.DoneEnv), "\n"))
	if text, err := os.ReadFile(suites.GuestAllowFile); err == nil {
		if log.allow, err = oops.ParseAllowList("the run's allow-list", text); err != nil {
			fmt.Fprintln(os.Stderr, "kvmrun: read the allow-list in the guest:", err)
			return 1
		}
	}
	resume := os.Getenv(runner.ResumeEnv) != ""
	var running atomic.Int32
	var failed atomic.Bool
	wrap(m, func(t *testing.T, name string, f func(*testing.T)) {
		// A kernel with a splat is no place for another test, unless a
		// parallel one still runs here.
		if resume && running.Load() == 0 && log.poisoned() {
			if failed.Load() {
				os.Exit(runner.ExitPoisoned)
			}
			os.Exit(runner.ExitPoisonedWell)
		}
		running.Add(1)
		log.write(wire.TestMark(name, wire.TestBegins))
		from := log.position()
		// Cleanups run last in, first out: this one comes after the test's
		// own, and after its parallel subtests.
		t.Cleanup(func() {
			log.judge(t, log.splats(from), kit.ExpectedSplats(name))
			if t.Skipped() && !kit.SkipEarned(t) {
				t.Error("skip not earned: a test of a suite skips by kit.NeedKconfig, NeedLinux, NeedFeature or NotShort, so that the reason can be checked")
			}
			ends := wire.TestEnds
			if t.Failed() {
				ends = wire.TestFails
				failed.Store(true)
			}
			log.write(wire.TestMark(name, ends))
			running.Add(-1)
		})
		f(t)
	})
	if os.Getenv(runner.HoldEnv) != "" {
		if err := hold(); err != nil {
			fmt.Fprintln(os.Stderr, "kvmrun: wait for the host before the tests:", err)
			return 1
		}
	}
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
	if err != nil || text == "" {
		return err
	}
	return flag.Set("test.run", text)
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

// kmsg is the kernel log as the guest sees it (Documentation/ABI/testing/dev-kmsg).
type kmsg struct {
	w *os.File

	mu   sync.Mutex
	r    int // raw and non-blocking: os.File would hand it to the poller
	seen int // records read
	bad  int // records that poisoned has looked at
	text []record

	allow *oops.AllowList // of the run, nil for none
}

type record struct {
	n     int
	level int
	text  string
}

func openKmsg() (*kmsg, error) {
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
	return &kmsg{w: w, r: r}, nil
}

// write adds a line to the kernel log, at level info. An error cannot be told
// to anybody here; the host misses the mark then, and blames no test.
func (k *kmsg) write(line string) { _, _ = k.w.WriteString("<6>" + line + "\n") }

// maxRecords bounds the memory for records; a test during which the kernel
// says more than this is judged by the host alone.
const maxRecords = 20000

// drain reads what is new. k.mu is held.
func (k *kmsg) drain() {
	buf := make([]byte, 16<<10) // one record; the kernel's limit is below (PRINTK_MESSAGE_MAX 2048)
	for {
		n, err := syscall.Read(k.r, buf)
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.EINTR) {
			continue // records were overwritten before we came: go on with the oldest
		}
		if err != nil || n <= 0 {
			return
		}
		k.seen++
		head, text, ok := strings.Cut(string(buf[:n]), ";")
		if !ok {
			continue
		}
		// Further lines begin with a blank and carry the dictionary.
		text, _, _ = strings.Cut(text, "\n")
		first, _, _ := strings.Cut(head, ",")
		prio, err := strconv.Atoi(first)
		if err != nil {
			continue
		}
		// Facility 0 is the kernel itself; user space writes with another.
		level := prio & 7
		if prio>>3 != 0 {
			level = 7
		}
		if len(k.text) < maxRecords {
			k.text = append(k.text, record{k.seen, level, unescape(text)})
		}
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

func (k *kmsg) position() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drain()
	return k.seen
}

// judge fails a test for the splats during it that it did not expect, and for
// the expected ones that did not come.
func (k *kmsg) judge(t *testing.T, splats []*oops.Report, expected []string) {
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
func (k *kmsg) allowed(r *oops.Report) bool { return k.allow.Allow(r, time.Time{}) != nil }

// poisoned says whether the kernel has ever printed a splat since the tests
// began, in a test or between two. One that the run tolerates does not count.
func (k *kmsg) poisoned() bool {
	k.mu.Lock()
	from, before := k.bad, k.bad < 0
	k.mu.Unlock()
	if before {
		return true
	}
	found := slices.ContainsFunc(k.splats(from), func(r *oops.Report) bool { return !k.allowed(r) })
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.bad = k.seen; found {
		k.bad = -1
	}
	return found
}

// splats returns the kernel's reports since a position.
func (k *kmsg) splats(from int) []*oops.Report {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drain()
	var b strings.Builder
	worst := 7
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
		return nil
	}
	return oops.ParseOwn([]byte(b.String()))
}
