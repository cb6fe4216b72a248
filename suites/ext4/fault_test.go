// SPDX-License-Identifier: Apache-2.0

package ext4

import (
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit/fault"
	"github.com/kvmrun/kvmrun/suites/kit/fs"
)

// atomicSlab are the slab allocations that may not wait: in ext4 those are the
// nodes of the extent status tree (__es_alloc_extent in
// fs/ext4/extents_status.c).
var atomicSlab = fault.Kind{Injector: fault.Slab}

// TestFaultLibrary is about the tools of the tests below: that the fault hits
// the call and only the call, and is gone afterwards.
func TestFaultLibrary(t *testing.T) {
	var fds [2]int32
	var errno unix.Errno
	pipe := func() {
		_, _, errno = syscall.RawSyscall(unix.SYS_PIPE2, uintptr(unsafe.Pointer(&fds)), unix.O_CLOEXEC, 0)
	}
	closePipe := func() {
		if errno == 0 {
			_, _ = unix.Close(int(fds[0])), unix.Close(int(fds[1]))
		}
	}
	pipe() // maps what the call needs
	closePipe()
	wide := fault.Kind{Injector: fault.Slab, Waiting: true}
	t.Run("nth", func(t *testing.T) {
		assert.Assert(t, fault.Nth(t, wide, 1, pipe), "pipe2 without an allocation")
		assert.Assert(t, errno == unix.ENOMEM || errno == unix.ENFILE, "pipe2: %v", errno)
		pipe()
		assert.Equal(t, errno, unix.Errno(0), "the fault stays")
		closePipe()
		assert.Assert(t, !fault.Nth(t, wide, 10000, pipe))
		assert.Equal(t, errno, unix.Errno(0))
		closePipe()
		assert.Assert(t, !fault.Nth(t, wide, 1, func() {}), "nothing was done and something was counted")
	})
	t.Run("sweep", func(t *testing.T) {
		failed := 0
		points := fault.Sweep(t, wide, func(int) {}, pipe, func(n int, fired bool) {
			if errno != 0 {
				failed++
				assert.Assert(t, errno == unix.ENOMEM || errno == unix.ENFILE, "pipe2: %v", errno)
			}
			assert.Assert(t, fired || errno == 0, "point %d: failed without a fault: %v", n, errno)
			closePipe()
		})
		assert.Assert(t, points >= 2 && failed >= 2, "%d points, %d failures", points, failed)
		t.Logf("pipe2 has %d points, %d of them fail it", points, failed)
	})
	t.Run("atomic allocations only", func(t *testing.T) {
		points := fault.Sweep(t, atomicSlab, func(int) {}, pipe, func(int, bool) { closePipe() })
		assert.Equal(t, points, 0, "pipe2 allocates for a process, which may wait")
	})
	t.Run("one cache", func(t *testing.T) {
		points := fault.Sweep(t, fault.Kind{Injector: fault.Slab, Waiting: true, Cache: "filp"}, func(int) {}, pipe,
			func(int, bool) { closePipe() })
		assert.Equal(t, points, 2, "a pipe has two files")
	})
	t.Run("pages", func(t *testing.T) {
		m := aligned(t, 64<<10)
		k := fault.Kind{Injector: fault.Page, Waiting: true}
		unmap := func(int) { assert.NilError(t, unix.Madvise(m, unix.MADV_DONTNEED)) }
		points := fault.Sweep(t, k, unmap, func() {
			// MADV_POPULATE_WRITE is 23, since 5.14.
			_, _, errno = syscall.RawSyscall(unix.SYS_MADVISE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), 23)
		}, func(n int, fired bool) {
			assert.Assert(t, errno == 0 || fired, "point %d: %v", n, errno)
		})
		assert.Assert(t, points > 0)
	})
	t.Run("futexes", func(t *testing.T) {
		var word uint32
		wake := func() {
			_, _, errno = syscall.RawSyscall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&word)), 1, 1) // FUTEX_WAKE, one
		}
		assert.Assert(t, fault.Nth(t, fault.Kind{Injector: fault.Futex}, 1, wake))
		assert.Equal(t, errno, unix.EFAULT)
		wake()
		assert.Equal(t, errno, unix.Errno(0))
	})
	t.Run("user copies", func(t *testing.T) {
		k := fault.Kind{Injector: fault.UserCopy}
		assert.Assert(t, fault.Nth(t, k, 1, pipe))
		assert.Equal(t, errno, unix.EFAULT)
		pipe()
		assert.Equal(t, errno, unix.Errno(0))
		closePipe()
	})
}

// faultCase is an operation in whose middle an allocation fails.
type faultCase struct {
	name string
	// make brings a file into the state before; its model is the content.
	make func(d *dir) *file
	// The operation: a fallocate, unless nr names another system call on the
	// descriptor with these arguments.
	mode   int
	off, n int64
	// write is written at off instead.
	write []byte
	// truncate cuts to off instead.
	truncate bool
	// some says that the operation must have points of the kind: the sweep
	// would prove nothing otherwise.
	some bool
}

func (c faultCase) after(want []byte) []byte {
	switch {
	case c.write != nil:
		want = modelFallocate(want, 0, c.off, int64(len(c.write)))
		want = append([]byte{}, want...)
		copy(want[c.off:], c.write)
		return want
	case c.truncate:
		return want[:c.off]
	}
	return modelFallocate(want, c.mode, c.off, c.n)
}

// The states before an operation, of stateSize bytes.
const stateSize = 384 << 10

func stateWritten(d *dir) *file {
	w := d.create("f")
	w.write(0, stateSize, 1)
	w.sync()
	return w
}

func stateUnwritten(d *dir) *file {
	w := d.create("f")
	w.fallocate(0, 0, stateSize)
	return w
}

func stateDelayed(d *dir) *file {
	w := d.create("f")
	w.write(0, 256<<10, 1)
	return w
}

func stateMixed(d *dir) *file { return prepared(d, "f", 20) }

// faultCases is the reference's matrix.
func faultCases(g geom) []faultCase {
	c := g.cluster
	return []faultCase{
		{name: "allocate a hole", make: func(d *dir) *file { w := d.create("f"); w.truncate(stateSize); return w }, mode: 0, off: 64 << 10, n: 256 << 10},
		{name: "allocate over everything", make: stateMixed, mode: 0, off: 0, n: 20 * c},
		{name: "zero written", make: stateWritten, mode: zero, off: 64<<10 + 15, n: 0x8000, some: true},
		{name: "zero in unwritten, unaligned", make: stateUnwritten, mode: zero, off: 64<<10 + 15, n: 0x8000},
		{name: "zero in unwritten, aligned", make: stateUnwritten, mode: zero, off: 64 << 10, n: 0x8000},
		{name: "zero delayed", make: stateDelayed, mode: zero, off: 64<<10 + 15, n: 0x8000, some: true},
		{name: "zero everything", make: stateMixed, mode: zero, off: c / 2, n: 15 * c},
		{name: "punch the middle of delayed", make: stateDelayed, mode: punch, off: 64 << 10, n: 64 << 10},
		{name: "punch the middle of written", make: stateWritten, mode: punch, off: 256 << 10, n: 64 << 10, some: true},
		{name: "punch everything", make: stateMixed, mode: punch, off: c + 1, n: 15 * c},
		{name: "collapse", make: stateMixed, mode: collapse, off: 2 * c, n: 5 * c},
		{name: "insert", make: stateMixed, mode: insert, off: 2 * c, n: 5 * c},
		{name: "write into unwritten", make: stateUnwritten, write: pattern(100<<10, 20<<10, 5), off: 100 << 10},
		{name: "write beyond the end", make: stateWritten, write: pattern(600<<10, 20<<10, 5), off: 600 << 10},
		{name: "truncate into written", make: stateWritten, truncate: true, off: 300<<10 + 5},
		{name: "truncate into delayed", make: stateDelayed, truncate: true, off: 100<<10 + 5},
	}
}

// sweep runs a case over all its points of the kind.
func (c faultCase) sweep(t *testing.T, d *dir, k fault.Kind) int {
	t.Helper()
	var w *file
	var r uintptr
	var errno unix.Errno
	var fd uintptr
	op := func() {
		switch {
		case c.write != nil:
			r, _, errno = syscall.RawSyscall6(unix.SYS_PWRITE64, fd, uintptr(unsafe.Pointer(&c.write[0])), uintptr(len(c.write)), uintptr(c.off), 0, 0)
		case c.truncate:
			r, _, errno = syscall.RawSyscall(unix.SYS_FTRUNCATE, fd, uintptr(c.off), 0)
		default:
			r, _, errno = syscall.RawSyscall6(unix.SYS_FALLOCATE, fd, uintptr(c.mode), uintptr(c.off), uintptr(c.n), 0, 0)
		}
	}
	setup := func(int) {
		w = c.make(d)
		fd = uintptr(w.fd())
	}
	check := func(n int, fired bool) {
		before, after := w.want, c.after(w.want)
		what := fmt.Sprintf("point %d (fired: %v, result %d, %v)", n, fired, int(r), errno)
		switch {
		case errno == 0 && (c.write == nil || int(r) == len(c.write)):
			w.want = after
			w.check(what)
		case !fired:
			t.Fatalf("%s: failed without a fault", what)
		case errno != 0 && errno != unix.ENOMEM && errno != unix.ENOSPC:
			t.Fatalf("%s: unexpected error", what)
		default:
			// Each block is as before, as after, or, where space was taken
			// away or put in, a hole.
			got := w.content()
			assert.Assert(t, len(got) == len(before) || len(got) == len(after) || c.write != nil, "%s: size %d", what, len(got))
			for o := 0; o < len(got); o += int(d.g.bs) {
				e := min(o+int(d.g.bs), len(got))
				same := func(m []byte) bool {
					for i := o; i < e; i++ {
						var b byte
						if i < len(m) {
							b = m[i]
						}
						if got[i] != b {
							return false
						}
					}
					return true
				}
				if !same(before) && !same(after) && !same(nil) {
					t.Fatalf("%s: bytes %d to %d are neither old nor new: %x", what, o, e, got[o:min(o+16, e)])
				}
			}
			w.want = got
		}
		w.verify()
		assert.NilError(t, w.f.Close())
		// The operation works once memory is there again.
		w.reopen()
		w.fallocate(0, 0, int64(len(w.want)))
		w.fallocate(zero, 0, 2*d.g.cluster+15)
		w.check(what + ", repeated")
		assert.NilError(t, w.f.Close())
	}
	points := fault.Sweep(t, k, setup, op, check)
	t.Logf("%d points of %v", points, k)
	if c.some && points == 0 {
		t.Errorf("the operation has no point of %v: nothing was tested", k)
	}
	return points
}

// TestAtomicAllocationFails lets each atomic allocation of each operation fail
// once. They are the extent status tree's, whose loss must never be noticed.
func TestAtomicAllocationFails(t *testing.T) {
	fault.Need(t, atomicSlab)
	for _, g := range []geom{g4k, gBigalloc} {
		for i, c := range faultCases(g) {
			if g != g4k && i%3 != 0 {
				continue // clusters add little: a sample
			}
			t.Run(g.name+"/"+c.name, func(t *testing.T) { c.sweep(t, mount(t, g), atomicSlab) })
		}
	}
}

// TestZeroRangeOfTheReportUnderFaults is the report's own sequence (CVE of
// 2023, fixed by 768d612f7982): zeroing in the middle of one unwritten extent,
// with the insertion into the extent status tree failing at every place.
func TestZeroRangeOfTheReportUnderFaults(t *testing.T) {
	fault.Need(t, atomicSlab)
	d := mount(t, g4k)
	total := 0
	for _, off := range []int64{64<<10 + 15, 64 << 10} {
		var w *file
		var errno unix.Errno
		var fd uintptr
		total += fault.Sweep(t, atomicSlab, func(int) {
			w = d.create("f")
			w.fallocate(0, 0, stateSize)
			fd = uintptr(w.fd())
		}, func() {
			_, _, errno = syscall.RawSyscall6(unix.SYS_FALLOCATE, fd, zero, uintptr(off), 0x8000, 0, 0)
		}, func(n int, fired bool) {
			assert.Assert(t, errno == 0 || errno == unix.ENOMEM || errno == unix.ENOSPC, "point %d: %v", n, errno)
			w.check(fmt.Sprintf("point %d", n))
			w.verify()
			assert.NilError(t, w.f.Close())
		})
	}
	assert.Assert(t, total > 0, "no allocation of the extent status tree was reached")
	t.Logf("%d points", total)
}

// TestNoExtentStatusAtAll has every atomic allocation of the extent status
// cache fail, for a mix of all operations.
func TestNoExtentStatusAtAll(t *testing.T) {
	k := fault.Kind{Injector: fault.Slab, Cache: "extent_status"}
	fault.Need(t, k)
	for _, g := range []geom{g4k, g1k, gBigalloc} {
		for i, c := range faultCases(g) {
			if g != g4k && i%3 != 1 {
				continue
			}
			t.Run(g.name+"/"+c.name, func(t *testing.T) {
				d := mount(t, g)
				w := c.make(d)
				fault.Always(t, k, func() {
					switch {
					case c.write != nil:
						_, err := w.f.WriteAt(c.write, c.off)
						assert.NilError(t, err)
					case c.truncate:
						assert.NilError(t, w.f.Truncate(c.off))
					default:
						assert.NilError(t, fallocate(w.fd(), c.mode, c.off, c.n))
					}
					w.want = c.after(w.want)
					w.check("while nothing can be cached")
					w.verify()
				})
				w.verify()
			})
		}
	}
}

// TestReadUnderFaults reads a file that is not in memory with each allocation
// failing, the ones that may wait included: the read may fail, and must
// succeed the next time.
func TestReadUnderFaults(t *testing.T) {
	for _, k := range []fault.Kind{
		atomicSlab,
		{Injector: fault.Slab, Waiting: true},
		{Injector: fault.Page, Waiting: true},
	} {
		t.Run(k.String(), func(t *testing.T) {
			fault.Need(t, k)
			d := mount(t, g4k)
			w := prepared(d, "f", 20)
			w.sync()
			buf := aligned(t, len(w.want))
			var r uintptr
			var errno unix.Errno
			fd := uintptr(w.fd())
			points := fault.Sweep(t, k, func(int) {
				clear(buf) // also maps it
				fs.DropPages(t)
				w.clearES()
			}, func() {
				r, _, errno = syscall.RawSyscall6(unix.SYS_PREAD64, fd, uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0, 0)
			}, func(n int, fired bool) {
				if errno != 0 {
					assert.Assert(t, fired && (errno == unix.ENOMEM || errno == unix.EIO), "point %d: %v", n, errno)
				} else if msg := differ(buf[:r], w.want[:r]); msg != "" {
					t.Fatalf("point %d: %s", n, msg)
				}
				assert.Assert(t, fired || int(r) == len(w.want), "a short read without a fault")
				w.check("afterwards")
			})
			assert.Assert(t, points > 0, "reading allocates nothing")
			t.Logf("%d points", points)
			w.verify()
		})
	}
}

// TestReadErrors lets each block request of a read fail.
func TestReadErrors(t *testing.T) {
	d := mount(t, g4k)
	k := fault.Kind{Injector: fault.Request, Device: filepath.Base(d.dev)}
	fault.Need(t, k)
	w := d.create("f") // few extents: no tree block to read
	w.write(0, 256<<10, 1)
	w.sync()
	buf := aligned(t, len(w.want))
	var r uintptr
	var errno unix.Errno
	fd := uintptr(w.fd())
	points := fault.Sweep(t, k, func(int) {
		clear(buf)
		fs.DropPages(t)
	}, func() {
		r, _, errno = syscall.RawSyscall6(unix.SYS_PREAD64, fd, uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0, 0)
	}, func(n int, fired bool) {
		if errno != 0 {
			assert.Assert(t, fired && errno == unix.EIO, "point %d: %v", n, errno)
		} else if msg := differ(buf[:r], w.want[:r]); msg != "" {
			t.Fatalf("point %d: %s", n, msg)
		}
		w.check("afterwards")
	})
	assert.Assert(t, points > 0, "reading makes no request")
	w.verify()
}
