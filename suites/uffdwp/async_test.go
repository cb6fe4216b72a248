// SPDX-License-Identifier: Apache-2.0

package uffdwp

import (
	"fmt"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit"
)

func needAsync(t *testing.T) {
	t.Helper()
	kit.NeedLinux(t, "6.7", "UFFD_FEATURE_WP_ASYNC and PAGEMAP_SCAN")
	kit.NeedKconfig(t, "PTE_MARKER_UFFD_WP")
}

// scan runs PAGEMAP_SCAN over the region and returns what matched.
func (th *thread) scan(a pmScanArg, r region, room int) ([]pageRegion, pmScanArg, unix.Errno) {
	th.s.t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", th.pid))
	assert.NilError(th.s.t, err)
	defer func() { _ = f.Close() }()
	vec := make([]pageRegion, room)
	a.Size = uint64(unsafe.Sizeof(a))
	a.Start, a.End = r.addr, r.addr+r.len()
	if room > 0 {
		a.Vec, a.VecLen = uint64(uintptr(unsafe.Pointer(&vec[0]))), uint64(room)
	}
	n, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioPagemapScan, uintptr(unsafe.Pointer(&a)))
	if e != 0 {
		return nil, a, e
	}
	return vec[:n], a, 0
}

// written returns the pages written since they were last protected, and
// protects them again when asked to.
func (th *thread) written(r region, again bool) []uint64 {
	th.s.t.Helper()
	a := pmScanArg{Mask: pageIsWritten, Return: pageIsWritten}
	if again {
		a.Flags = scanWPMatching | scanCheckWPAsync
	}
	vec, a, e := th.scan(a, r, 64)
	assert.Equal(th.s.t, e, unix.Errno(0), "PAGEMAP_SCAN")
	assert.Equal(th.s.t, a.WalkEnd, a.End)
	var out []uint64
	for _, v := range vec {
		assert.Equal(th.s.t, v.Categories, uint64(pageIsWritten))
		for p := v.Start; p < v.End; p += r.page {
			out = append(out, r.within(p))
		}
	}
	return out
}

func TestAsyncWriteTracking(t *testing.T) {
	needAsync(t)
	eachKind(t, kinds, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 6, 1)
		u := th.watch(featWPAsync, r)
		assert.DeepEqual(t, th.written(r, false), []uint64{0, 1, 2, 3, 4, 5})
		u.protect(r)
		assert.Equal(t, len(th.written(r, false)), 0)
		th.store(r.at(1), 0xA, u) // resolved by the kernel, no event
		th.store(r.at(4), 0xB, u)
		th.wantWP(r.at(1), false, "written")
		th.wantWP(r.at(2), true, "not written")
		assert.DeepEqual(t, th.written(r, false), []uint64{1, 4})
		assert.DeepEqual(t, th.written(r, true), []uint64{1, 4}) // get and clear
		assert.Equal(t, len(th.written(r, true)), 0)
		th.wantWP(r.at(1), true, "protected again by the scan")
		th.load(r.at(5), u)
		th.store(r.at(1), 0xC, u)
		assert.DeepEqual(t, th.written(r, true), []uint64{1})
		assert.Equal(t, th.load(r.at(4)), uint64(0xB))
		fd := th.pipeWith(7)
		assert.Equal(t, th.do([]*uffd{u}, opSyscall, unix.SYS_READ, fd, r.at(0), 8), answer{R: 8})
		assert.DeepEqual(t, th.written(r, true), []uint64{0})
		u.quiet()
	})
}

func TestAsyncUnpopulated(t *testing.T) {
	needAsync(t)
	eachKind(t, kinds, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.mem(k, 4)
		u := th.watch(featWPAsync, r)
		u.protect(r) // implies WP_UNPOPULATED
		assert.Equal(t, len(th.written(r, false)), 0)
		th.store(r.at(2), 0xA, u)
		assert.Equal(t, th.load(r.at(1), u), uint64(0))
		assert.DeepEqual(t, th.written(r, false), []uint64{2})
	})
}

// TestAsyncHugePage writes to one small page of a protected huge one: either
// only that page counts as written, or the kernel says so of the whole.
func TestAsyncHugePage(t *testing.T) {
	needAsync(t)
	needTHP(t)
	s := newSubject(t)
	th := s.th(0)
	r := th.populated(anonTHP, 1, 1)
	u := th.watch(featWPAsync, r)
	vec, _, e := th.scan(pmScanArg{Mask: pageIsPresent, Return: pageIsHuge | pageIsWPAllowed | pageIsWritten}, r, 8)
	assert.Equal(t, e, unix.Errno(0))
	assert.DeepEqual(t, vec, []pageRegion{{r.addr, r.addr + hugeSize, pageIsHuge | pageIsWPAllowed | pageIsWritten}})
	u.protect(r)
	small := r.small()
	assert.Equal(t, len(th.written(small, false)), 0)
	th.store(small.at(9), 0xA, u)
	got := th.written(small, true)
	found := false
	for _, i := range got {
		found = found || i == 9
	}
	assert.Assert(t, found, "page 9 is not among the written: %v", got)
	assert.Equal(t, len(got), 1, "an asynchronous write splits the huge page: %v", got)
	assert.Equal(t, len(th.written(small, true)), 0)
	th.store(small.at(10), 0xB, u)
	assert.DeepEqual(t, th.written(small, true), []uint64{10})
	assert.Equal(t, th.load(small.at(0)), uint64(1))
}

func TestAsyncFork(t *testing.T) {
	needAsync(t)
	s := newSubject(t)
	th := s.th(0)
	r := th.populated(anon, 3, 1)
	u := th.watch(featWPAsync, r)
	u.protect(r)
	child := th.fork()
	for i := range r.n {
		child.wantWP(r.at(i), false, "child")
	}
	_, _, e := child.scan(pmScanArg{Mask: pageIsWritten, Return: pageIsWritten, Flags: scanWPMatching | scanCheckWPAsync}, r, 8)
	assert.Equal(t, e, unix.EPERM, "the child's memory is not registered")
	child.fill(r, 0x20, u)
	assert.Equal(t, len(th.written(r, false)), 0, "the child's writes are not the parent's")
	th.store(r.at(1), 0xA, u)
	assert.DeepEqual(t, th.written(r, true), []uint64{1})
	child.verify(r, 0x20)
}

func TestPagemapScanRejects(t *testing.T) {
	needAsync(t)
	s := newSubject(t)
	th := s.th(0)
	r := th.populated(anon, 4, 1)
	sync := th.populated(anon, 1, 1)
	u := th.watch(featWPAsync, r)
	th.watch(0, sync)
	ok := pmScanArg{Mask: pageIsWritten, Return: pageIsWritten}
	for _, c := range []struct {
		name string
		edit func(*pmScanArg)
		r    region
		want unix.Errno
	}{
		{"unknown flag", func(a *pmScanArg) { a.Flags = 1 << 7 }, r, unix.EINVAL},
		{"unknown category", func(a *pmScanArg) { a.Mask = 1 << 40 }, r, unix.EINVAL},
		{"unknown returned category", func(a *pmScanArg) { a.Return = 1 << 40 }, r, unix.EINVAL},
		{"unaligned start", func(a *pmScanArg) {}, region{r.addr + 8, pageSize, 1}, unix.EINVAL},
		{"synchronous mapping", func(a *pmScanArg) { a.Flags = scanWPMatching | scanCheckWPAsync }, sync, unix.EPERM},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := ok
			c.edit(&a)
			_, _, e := th.scan(a, c.r, 8)
			assert.Equal(t, e, c.want)
		})
	}
	t.Run("limit of pages", func(t *testing.T) {
		a := ok
		a.MaxPages = 2
		vec, a, e := th.scan(a, r, 8)
		assert.Equal(t, e, unix.Errno(0))
		assert.DeepEqual(t, vec, []pageRegion{{r.at(0), r.at(2), pageIsWritten}})
		assert.Equal(t, a.WalkEnd, r.at(2))
	})
	t.Run("room for one region", func(t *testing.T) {
		u.protect(r.sub(1, 1))
		vec, a, e := th.scan(ok, r, 1)
		assert.Equal(t, e, unix.Errno(0))
		assert.DeepEqual(t, vec, []pageRegion{{r.at(0), r.at(1), pageIsWritten}})
		assert.Assert(t, a.WalkEnd >= r.at(1) && a.WalkEnd <= r.at(2), "walk end %#x", a.WalkEnd)
	})
	t.Run("inverted category", func(t *testing.T) {
		a := ok
		a.Inverted = pageIsWritten
		vec, _, e := th.scan(a, r, 8)
		assert.Equal(t, e, unix.Errno(0))
		assert.Equal(t, len(vec), 1)
		assert.Equal(t, vec[0].Start, r.at(1))
		assert.Equal(t, vec[0].End, r.at(2))
	})
}
