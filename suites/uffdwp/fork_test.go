// SPDX-License-Identifier: Apache-2.0

package uffdwp

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit"
)

// needHugetlbFork skips private huge pages on kernels whose fork leaves the
// parent's protection in the child's page tables (seen on Debian's 6.1; gone
// since copy_hugetlb_page_range clears it, 6.4).
func needHugetlbFork(t *testing.T, k kind) {
	t.Helper()
	if k == hugePrivate {
		kit.NeedLinux(t, "6.4", "fork that clears the protection of huge pages")
	}
}

// TestUnprotectKeepsCopyOnWrite: a page that fork shares must not become
// writable in place when its protection is lifted.
func TestUnprotectKeepsCopyOnWrite(t *testing.T) {
	eachKind(t, []kind{anon, anonTHP, shmemPrivate, hugePrivate}, func(t *testing.T, s *subject, k kind) {
		needHugetlbFork(t, k)
		th := s.th(0)
		r := th.populated(k, 2, 0x10)
		u := th.watch(0, r)
		u.protect(r)
		child := th.fork()
		u.unprotect(r)
		th.store(r.at(0), 0xA, u)
		assert.Equal(t, child.load(r.at(0)), uint64(0x10), "the child sees the parent's write")
		child.store(r.at(1), 0xB, u)
		assert.Equal(t, th.load(r.at(1)), uint64(0x11), "the parent sees the child's write")
		assert.Equal(t, th.load(r.at(0)), uint64(0xA))
		assert.Equal(t, child.load(r.at(1)), uint64(0xB))
	})
}

// TestMprotectKeepsCopyOnWrite is the same by way of mprotect, which may also
// make pages writable at once.
func TestMprotectKeepsCopyOnWrite(t *testing.T) {
	eachKind(t, []kind{anon, anonTHP, shmemPrivate, hugePrivate}, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 2, 0x10)
		child := th.fork()
		th.mprotect(r.addr, r.len(), unix.PROT_READ)
		th.mprotect(r.addr, r.len(), unix.PROT_READ|unix.PROT_WRITE)
		th.fill(r, 0x20)
		child.verify(r, 0x10)
	})
}

// TestForkWithoutEvent: the child starts without userfaultfd, hence without
// any trace of protection, and the parent keeps all of it.
func TestForkWithoutEvent(t *testing.T) {
	eachKind(t, kindsAndTHP, func(t *testing.T, s *subject, k kind) {
		needHugetlbFork(t, k)
		th := s.th(0)
		r := th.populated(k, 3, 0x10)
		u := th.watch(0, r)
		u.protect(r)
		child := th.fork()
		for i := range r.n {
			// Without populated entries there is nothing to see.
			child.wantWP(r.at(i), false, "before any access")
			assert.Equal(t, child.load(r.at(i)), 0x10+i)
			child.wantWP(r.at(i), false, "after reading")
			th.wantWP(r.at(i), true, "after the fork")
		}
		child.fill(r, 0x20, u)
		child.verify(r, 0x20, u)
		want := uint64(0x10)
		if k.shared {
			want = 0x20
		}
		th.verify(r, want, u)
		for i := range r.n {
			th.storeThrough(u, r, i, 0x30+i)
		}
	})
}

// TestForkWithoutEventUnpopulated is about markers and swapped pages.
func TestForkWithoutEventUnpopulated(t *testing.T) {
	eachKind(t, []kind{shmemShared, hugeShared}, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.mem(k, 2)
		u := th.watch(0, r)
		u.protect(r)
		th.wantWP(r.addr, true, "marker")
		child := th.fork()
		child.wantWP(r.addr, false, "marker in the child")
		child.fill(r, 0x20, u)
		th.verify(r, 0x20, u)
		th.storeThrough(u, r, 0, 0x30)
	})
}

func TestForkWithEvent(t *testing.T) {
	eachKind(t, kindsAndTHP, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 3, 0x10)
		u := th.watch(featEventFork, r)
		u.protect(r)
		child := th.forkStart()
		o := th.wait(u)
		assert.Assert(t, o.event != nil && o.event.Event == evFork, "want a fork event, got %v", o)
		v := &uffd{t: t, fd: int(uint32(o.event.Arg[0])), th: child, open: true}
		t.Cleanup(v.close)
		child.pid = int(th.finish(u).R)
		for i := range r.n {
			th.wantWP(r.at(i), true, "parent")
			child.wantWP(r.at(i), true, "child")
		}
		child.start(opStore, r.at(0), 0xA)
		child.trapped(v, r.at(0), faultWrite|faultWP)
		u.quiet()
		v.unprotect(r.sub(0, 1))
		child.finish(v)
		th.wantWP(r.at(0), true, "parent after the child's was lifted")
		th.storeThrough(u, r, 1, 0xB)
		child.wantWP(r.at(1), true, "child after the parent's was lifted")
		if !k.shared {
			assert.Equal(t, child.load(r.at(1)), uint64(0x11))
			assert.Equal(t, th.load(r.at(0)), uint64(0x10))
		}
		child.storeThrough(v, r, 2, 0xC)
	})
}

// TestChildOfChild forks twice: the bit must not come back from the parent's
// page tables either way.
func TestChildOfChild(t *testing.T) {
	s := newSubject(t)
	th := s.th(0)
	r := th.populated(anon, 4, 1)
	u := th.watch(0, r)
	u.protect(r)
	child := th.fork()
	child.store(r.at(0), 0xA, u)
	grandchild := child.fork()
	for i := range r.n {
		grandchild.wantWP(r.at(i), false, "grandchild")
	}
	grandchild.fill(r, 0x20, u)
	child.verify(r.sub(1, 3), 2)
	th.verify(r, 1)
	th.storeThrough(u, r, 3, 0xB)
}

// TestProtectionIsPerProcess: two processes map one file.
func TestProtectionIsPerProcess(t *testing.T) {
	eachKind(t, []kind{shmemShared, hugeShared}, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 2, 1)
		child := th.fork()
		u := th.watch(0, r)
		u.protect(r)
		child.wantWP(r.addr, false, "the other process")
		child.fill(r, 0x50, u)
		th.verify(r, 0x50, u)
		th.wantWP(r.addr, true, "after the other process wrote")
		th.storeThrough(u, r, 0, 0x60)
		assert.Equal(t, child.load(r.addr), uint64(0x60))
	})
}

func TestZeroPage(t *testing.T) {
	s := newSubject(t)
	th := s.th(0)
	r := th.mem(anon, 4)
	u := th.watch(0, r)
	for i := range r.n {
		assert.Equal(t, th.load(r.at(i), u), uint64(0))
	}
	u.protect(r)
	th.storeThrough(u, r, 0, 0xA)
	u.unprotect(r.sub(1, 1))
	th.store(r.at(1), 0xB, u)
	for _, i := range []uint64{2, 3} {
		assert.Equal(t, th.load(r.at(i), u), uint64(0), "the zero page was written to")
	}
	assert.Equal(t, th.load(r.at(0)), uint64(0xA))
	assert.Equal(t, th.load(r.at(1)), uint64(0xB))
	fresh := th.mem(anon, 1)
	assert.Equal(t, th.load(fresh.addr), uint64(0), "the zero page was written to")
	th.storeThrough(u, r, 3, 0xC)
}

// TestMergedPage: KSM makes one page of equal ones; lifting the protection of
// one of them must not open the others.
func TestMergedPage(t *testing.T) {
	kit.NeedKconfig(t, "KSM")
	s := newSubject(t)
	th := s.th(0)
	r := th.mem(anon, 8)
	u := th.watch(0, r)
	for i := range r.n {
		th.store(r.at(i), 0xABCD, u)
	}
	th.madvise(r.addr, r.len(), unix.MADV_MERGEABLE)
	const dir = "/sys/kernel/mm/ksm/"
	if _, err := os.Stat(dir + "smart_scan"); err == nil { // since 6.7
		setting(t, dir+"smart_scan", "0")
	}
	setting(t, dir+"sleep_millisecs", "0")
	setting(t, dir+"pages_to_scan", "1000")
	setting(t, dir+"run", "1")
	const frame = 1<<55 - 1
	merged := func() bool {
		a := th.pagemap(r.at(0))
		for i := range r.n {
			if e := th.pagemap(r.at(i)); e&pmPresent == 0 || e&frame != a&frame {
				return false
			}
		}
		return a&pmExclusive == 0
	}
	eventually(t, "ksmd merges 8 equal pages", merged)
	assert.NilError(t, os.WriteFile(dir+"run", []byte("0"), 0o644))
	u.protect(r)
	assert.Assert(t, merged(), "still merged when protected")
	th.storeThrough(u, r, 0, 0xA)
	u.unprotect(r.sub(1, 3))
	th.store(r.at(1), 0xB, u)
	for i := uint64(2); i < r.n; i++ {
		assert.Equal(t, th.load(r.at(i), u), uint64(0xABCD), "page %d has another page's write", i)
	}
	th.storeThrough(u, r, 7, 0xC)
	// Unmerging must not lose the protection of what is still merged.
	assert.NilError(t, os.WriteFile(dir+"run", []byte("2"), 0o644))
	for i := uint64(4); i < 7; i++ {
		assert.Assert(t, th.pagemap(r.at(i))&frame != th.pagemap(r.at(2))&frame, "page %d is a page of its own again", i)
		th.wantWP(r.at(i), true, "after unmerging")
		th.storeThrough(u, r, i, 0xD)
	}
}
