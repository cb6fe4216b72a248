// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/suites/internal/kmsg"
)

// KernelLog is a reader of the kernel log (Documentation/ABI/testing/dev-kmsg).
// One goroutine at a time may use it; it is closed when its test ends.
type KernelLog struct {
	t    testing.TB
	fd   int
	next uint64 // the sequence number expected next
	any  bool   // whether next is known
	// Lost is how many records were overwritten before they were read.
	Lost uint64
}

// OpenKernelLog opens the kernel log at its oldest record, or with fromNow
// behind its newest one.
func OpenKernelLog(t testing.TB, fromNow bool) *KernelLog {
	t.Helper()
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open /dev/kmsg: %s", ErrnoName(err))
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if fromNow {
		if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
			t.Fatalf("seek in /dev/kmsg: %s", ErrnoName(err))
		}
	}
	return &KernelLog{t: t, fd: fd, any: !fromNow} // the first record ever is number 0
}

// Read returns the texts of the records that there are now and that were not
// read before, without their head and their dictionary, unprintable bytes
// escaped as the kernel does it. What was overwritten is counted in Lost.
func (l *KernelLog) Read() []string {
	l.t.Helper()
	var out []string
	b := make([]byte, kmsg.MaxRecord)
	for {
		n, err := unix.Read(l.fd, b)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return out
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINTR):
			continue // EPIPE: overwritten; the next number says how many
		case err != nil:
			l.t.Fatalf("read /dev/kmsg: %s", ErrnoName(err))
		}
		r, ok := kmsg.Parse(b[:n])
		if !ok {
			l.t.Fatalf("read /dev/kmsg: not a record: %q", b[:n])
		}
		if l.any && r.Number > l.next {
			l.Lost += r.Number - l.next
		}
		l.next, l.any = r.Number+1, true
		out = append(out, r.Text)
	}
}
