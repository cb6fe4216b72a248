// SPDX-License-Identifier: Apache-2.0

package uffdwp

import (
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit"
)

// hugeRegion is one written huge page, watched and protected as a whole.
func hugeRegion(t *testing.T, th *thread) (small region, u *uffd) {
	t.Helper()
	r := th.populated(anonTHP, 1, 0)
	u = th.watch(0, r)
	th.fill(r.small(), 0x1000, u)
	assert.Equal(t, th.smaps(r.addr, "AnonHugePages"), uint64(hugeSize))
	u.protect(r)
	th.wantWP(r.addr+hugeSize-pageSize, true, "the huge page is protected")
	return r.small(), u
}

func TestHugePageUnprotectedWhole(t *testing.T) {
	needTHP(t)
	s := newSubject(t)
	th := s.th(0)
	r, u := hugeRegion(t, th)
	assert.Equal(t, th.smaps(r.addr, "AnonHugePages"), uint64(hugeSize), "protecting the whole does not split")
	th.storeTraps(u, r.at(77), 0xA)
	u.unprotect(r)
	th.finish(u)
	th.fill(r, 0x2000, u)
	th.verify(r, 0x2000, u)
	u.quiet()
}

// TestHugePageUnprotectedInPart is the seed of the suite: lifting the
// protection of one small page splits the huge one, and the other 511 must
// stay protected.
func TestHugePageUnprotectedInPart(t *testing.T) {
	needTHP(t)
	for _, first := range []uint64{0, 200, 511} {
		t.Run("page "+itoa(int(first)), func(t *testing.T) {
			s := newSubject(t)
			th := s.th(0)
			r, u := hugeRegion(t, th)
			th.storeThrough(u, r, first, 0x7777)
			assert.Equal(t, th.smaps(r.addr, "AnonHugePages"), uint64(0), "the huge page is split")
			for i := range r.n {
				th.wantWP(r.at(i), i != first, "after the split")
			}
			for i := range r.n {
				if i != first && (i%16 == 3 || i < 4 || i > 508 || i+1 == first || i == first+1) {
					th.storeThrough(u, r, i, 0x2000+i)
				}
			}
			u.unprotect(r)
			th.fill(r, 0x2000, u)
			th.verify(r, 0x2000, u)
		})
	}
}

// TestHugePageSplitByOthers splits the protected page by other means than the
// protection itself.
func TestHugePageSplitByOthers(t *testing.T) {
	needTHP(t)
	const cut = 8 // first page of the part that is treated differently
	for _, c := range []struct {
		name string
		gone bool // the part loses its content and protection
		do   func(th *thread, part region)
	}{
		{"munmap", true, func(th *thread, p region) { th.must(unix.SYS_MUNMAP, p.addr, p.len()) }},
		{"MADV_DONTNEED", true, func(th *thread, p region) { th.madvise(p.addr, p.len(), unix.MADV_DONTNEED) }},
		{"mprotect", false, func(th *thread, p region) { th.mprotect(p.addr, p.len(), unix.PROT_READ) }},
		{"MADV_PAGEOUT of a part", false, func(th *thread, p region) { th.madvise(p.addr, p.len(), unix.MADV_PAGEOUT) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSubject(t)
			th := s.th(0)
			r, u := hugeRegion(t, th)
			part := r.sub(cut, 100)
			c.do(th, part)
			for _, rest := range []region{r.sub(0, cut), r.sub(cut+100, r.n-cut-100)} {
				first := r.within(rest.addr)
				for _, i := range []uint64{0, 1, rest.n - 1} {
					th.wantWP(rest.at(i), true, "after the split")
				}
				th.verify(rest, 0x1000+first, u)
				th.storeThrough(u, rest, 0, 0x7777)
				u.unprotect(rest)
				th.fill(rest, 0x2000, u)
				th.verify(rest, 0x2000, u)
			}
			if !c.gone {
				th.verify(part, 0x1000+cut, u)
				for i := range part.n {
					th.wantWP(part.at(i), true, "the part")
				}
			}
		})
	}
}

func TestHugeZeroPage(t *testing.T) {
	needTHP(t)
	setting(t, "/sys/kernel/mm/transparent_hugepage/use_zero_page", "1")
	s := newSubject(t)
	th := s.th(0)
	r := th.mem(anonTHP, 1)
	u := th.watch(0, r)
	assert.Equal(t, th.load(r.addr, u), uint64(0)) // maps the huge zero page
	u.protect(r)
	small := r.small()
	th.wantWP(small.at(511), true, "the huge zero page is protected")
	th.storeThrough(u, small, 300, 0xA)
	for _, i := range []uint64{0, 299, 301, 511} {
		th.wantWP(small.at(i), true, "after the split")
		assert.Equal(t, th.load(small.at(i), u), uint64(0))
		th.storeThrough(u, small, i, 0xB)
	}
	// Another mapping of the zero page has not been written to.
	other := th.mem(anonTHP, 1)
	for _, i := range []uint64{0, 300, 511} {
		assert.Equal(t, th.load(other.small().at(i)), uint64(0), "page %d of the shared zero page", i)
	}
}

func TestCollapseKeepsProtection(t *testing.T) {
	kit.NeedLinux(t, "6.1", "MADV_COLLAPSE")
	needTHP(t)
	s := newSubject(t)
	th := s.th(0)
	r := th.mem(kind{page: hugeSize}, 1) // small pages in the place of a huge one
	small := r.small()
	th.fill(small, 0x100)
	u := th.watch(0, r)
	u.protect(small.sub(500, 1))
	th.madvise(r.addr, r.len(), unix.MADV_HUGEPAGE)
	_, e := th.sys(unix.SYS_MADVISE, r.addr, r.len(), madvCollapse)
	assert.Assert(t, e == unix.EINVAL || e == unix.EAGAIN, "collapse over a protected page: %v", e)
	assert.Equal(t, th.smaps(r.addr, "AnonHugePages"), uint64(0))
	th.wantWP(small.at(500), true, "after the attempt")
	th.storeThrough(u, small, 500, 0x100+500)
	th.verify(small, 0x100, u)
	// With nothing protected the same call works: it was not refused for
	// another reason.
	th.must(unix.SYS_MADVISE, r.addr, r.len(), madvCollapse)
	assert.Equal(t, th.smaps(r.addr, "AnonHugePages"), uint64(hugeSize))
	th.verify(small, 0x100, u)
	th.fill(small, 0x200, u)
}

func TestShmemHugePage(t *testing.T) {
	needTHP(t)
	kit.NeedKconfig(t, "PTE_MARKER_UFFD_WP")
	setting(t, "/sys/kernel/mm/transparent_hugepage/shmem_enabled", "advise")
	s := newSubject(t)
	th := s.th(0)
	r := th.mem(kind{page: hugeSize, shared: true, file: true, thp: true}, 1)
	small := r.small()
	th.fill(small, 0x100)
	assert.Equal(t, th.smaps(r.addr, "ShmemPmdMapped"), uint64(hugeSize))
	u := th.watch(0, r)
	u.protect(small.sub(3, 2)) // of a huge mapping: splits it into small entries
	for i := range small.n {
		th.wantWP(small.at(i), i == 3 || i == 4, "after protecting two pages")
	}
	th.storeThrough(u, small, 3, 0xA)
	th.store(small.at(3), 0x103, u)
	th.storeThrough(u, small, 4, 0x104)
	th.verify(small, 0x100, u)
	u.protect(r)
	for _, i := range []uint64{0, 4, 511} {
		th.storeThrough(u, small, i, 0x200+i)
	}
}
