// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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
	b := make([]byte, 8192) // above PRINTK_MESSAGE_MAX, 2048 (kernel/printk/internal.h)
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
		head, text, ok := strings.Cut(string(b[:n]), ";")
		fields := strings.SplitN(head, ",", 3) // priority, number, ...
		if !ok || len(fields) < 3 {
			l.t.Fatalf("read /dev/kmsg: not a record: %q", b[:n])
		}
		seq, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			l.t.Fatalf("read /dev/kmsg: not a record's number: %q", b[:n])
		}
		if l.any && seq > l.next {
			l.Lost += seq - l.next
		}
		l.next, l.any = seq+1, true
		text, _, _ = strings.Cut(text, "\n")
		out = append(out, text)
	}
}
