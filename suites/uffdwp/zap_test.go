// SPDX-License-Identifier: Apache-2.0

package uffdwp

import (
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/kit/fs"
)

// swapOn makes the suite's disk swap space for the rest of the test.
func swapOn(t *testing.T) string {
	t.Helper()
	kit.NeedKconfig(t, "SWAP", "VIRTIO_BLK")
	dev := kit.Disk(t, swapDisk)
	f, err := os.OpenFile(dev, os.O_WRONLY, 0)
	assert.NilError(t, err)
	head, err := fs.SwapHeader(32 << 20)
	assert.NilError(t, err)
	_, err = f.Write(head)
	assert.NilError(t, err)
	assert.NilError(t, f.Close())
	assert.NilError(t, fs.SwapOn(dev))
	t.Cleanup(func() { _ = fs.SwapOff(dev) }) // the test may have done it
	return dev
}

// pageOut has the region written to swap, page by page.
func (th *thread) pageOut(r region) {
	th.s.t.Helper()
	for i := range r.n {
		// A page may sit in another CPU's batch for the LRU lists for a
		// moment, where reclaim does not find it.
		eventually(th.s.t, "a page is swapped out", func() bool {
			th.madvise(r.at(i), r.page, unix.MADV_PAGEOUT)
			return th.pagemap(r.at(i))&(pmSwap|pmPresent) == pmSwap
		})
	}
}

var swapKinds = []kind{anon, shmemPrivate}

func TestSwapKeepsProtection(t *testing.T) {
	eachKind(t, swapKinds, func(t *testing.T, s *subject, k kind) {
		swapOn(t)
		th := s.th(0)
		r := th.populated(k, 4, 1)
		u := th.watch(0, r)
		u.protect(r.sub(0, 3))
		th.pageOut(r)
		for i := range r.n {
			th.wantWP(r.at(i), i < 3, "swapped out")
		}
		th.storeThrough(u, r, 0, 0xA) // straight from swap
		assert.Equal(t, th.load(r.at(1), u), uint64(2))
		th.wantWP(r.at(1), true, "swapped in by reading")
		th.storeThrough(u, r, 1, 0xB)
		th.store(r.at(3), 0xC, u)
		u.unprotect(r.sub(2, 1)) // while swapped out
		th.wantWP(r.at(2), false, "unprotected in swap")
		th.store(r.at(2), 0xD, u)
		assert.Equal(t, th.load(r.at(2)), uint64(0xD))
	})
}

func TestProtectSwappedPage(t *testing.T) {
	eachKind(t, swapKinds, func(t *testing.T, s *subject, k kind) {
		swapOn(t)
		th := s.th(0)
		r := th.populated(k, 3, 1)
		u := th.watch(0, r)
		th.pageOut(r)
		u.protect(r.sub(0, 2))
		assert.Assert(t, th.pagemap(r.at(0))&pmSwap != 0, "protecting does not swap in")
		th.wantWP(r.at(0), true, "in swap")
		th.storeThrough(u, r, 0, 0xA)
		assert.Equal(t, th.load(r.at(1), u), uint64(2))
		th.storeThrough(u, r, 1, 0xB)
		th.store(r.at(2), 0xC, u)
	})
}

func TestSwapoffKeepsProtection(t *testing.T) {
	eachKind(t, swapKinds, func(t *testing.T, s *subject, k kind) {
		dev := swapOn(t)
		th := s.th(0)
		r := th.populated(k, 3, 1)
		u := th.watch(0, r)
		u.protect(r.sub(0, 2))
		th.pageOut(r)
		assert.NilError(t, fs.SwapOff(dev))
		for i := range r.n {
			assert.Assert(t, th.pagemap(r.at(i))&pmPresent != 0, "page %d is back", i)
			th.wantWP(r.at(i), i < 2, "after swapoff")
		}
		th.verify(r, 1, u)
		th.storeThrough(u, r, 0, 0xA)
		th.storeThrough(u, r, 1, 0xB)
		th.store(r.at(2), 0xC, u)
	})
}

// TestSwapoffInterrupted: swapoff(2) gives up when a signal comes. Swapping goes
// on then, and a second call finds everything.
func TestSwapoffInterrupted(t *testing.T) {
	eachKind(t, swapKinds, func(t *testing.T, s *subject, k kind) {
		dev := swapOn(t)
		th := s.th(0)
		r := th.populated(k, 512, 1)
		th.pageOut(r)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		pid, tid, done := unix.Getpid(), unix.Gettid(), make(chan error, 1)
		go func() {
			var err error
			for range 200 { // so few that it ends all the same
				err = errors.Join(err, unix.Tgkill(pid, tid, unix.SIGURG))
				time.Sleep(100 * time.Microsecond)
			}
			done <- err
		}()
		assert.NilError(t, fs.SwapOff(dev))
		assert.NilError(t, <-done)
		for i := range r.n {
			assert.Assert(t, th.pagemap(r.at(i))&pmPresent != 0, "page %d is back", i)
		}
		th.verify(r, 1)
	})
}

// TestForkOfSwapped: the child of a process without EVENT_FORK must not
// inherit the bit in its swap entries either.
func TestForkOfSwapped(t *testing.T) {
	swapOn(t)
	s := newSubject(t)
	th := s.th(0)
	r := th.populated(anon, 3, 1)
	u := th.watch(0, r)
	u.protect(r)
	th.pageOut(r)
	child := th.fork()
	for i := range r.n {
		child.wantWP(r.at(i), false, "in swap")
		th.wantWP(r.at(i), true, "in swap")
	}
	child.fill(r, 0x20, u)
	child.verify(r, 0x20, u)
	for i := range r.n {
		assert.Equal(t, th.load(r.at(i), u), 1+i)
		th.storeThrough(u, r, i, 0x30)
	}
}

func TestShmemReclaimKeepsProtection(t *testing.T) {
	kit.NeedKconfig(t, "PTE_MARKER_UFFD_WP")
	swapOn(t)
	s := newSubject(t)
	th := s.th(0)
	r := th.populated(shmemShared, 3, 1)
	u := th.watch(0, r)
	u.protect(r.sub(0, 2))
	// The mapping of a shared page vanishes when it is reclaimed; a marker
	// takes its place, which the pagemap reports as swap.
	eventually(t, "reclaim of shared pages", func() bool {
		th.madvise(r.addr, r.len(), unix.MADV_PAGEOUT)
		for i := range r.n {
			if th.pagemap(r.at(i))&pmPresent != 0 {
				return false
			}
		}
		return true
	})
	th.wantWP(r.at(0), true, "reclaimed")
	th.wantWP(r.at(2), false, "reclaimed")
	th.storeThrough(u, r, 0, 0xA)
	assert.Equal(t, th.load(r.at(1), u), uint64(2))
	th.storeThrough(u, r, 1, 0xB)
	th.store(r.at(2), 0xC, u)
}

func TestDontneed(t *testing.T) {
	eachKind(t, kindsAndTHP, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 2, 1)
		u := th.watch(0, r)
		u.protect(r)
		th.madvise(r.addr, r.len(), unix.MADV_DONTNEED)
		if !k.file {
			// The page and its protection are gone.
			th.wantWP(r.addr, false, "anonymous memory")
			assert.Equal(t, th.load(r.addr, u), uint64(0))
			th.fill(r, 9, u)
			return
		}
		// Only the mapping is gone; a marker keeps the protection.
		th.wantWP(r.addr, true, "file memory")
		if k.shared {
			assert.Equal(t, th.load(r.at(1), u), uint64(2))
		}
		th.wantWP(r.at(1), true, "after reading")
		th.storeThrough(u, r, 0, 0xA)
		th.storeThrough(u, r, 1, 0xB)
	})
}

// TestFileRangeRemoved: with the content of a file the protection may go.
// Truncating hugetlbfs drops it (ZAP_FLAG_DROP_MARKER in fs/hugetlbfs/inode.c);
// the others unmap first and leave a marker behind, which is safe, too. What
// may not happen is that pagemap and trap disagree or that old content comes
// back.
func TestFileRangeRemoved(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(th *thread, r region, fd uint64)
	}{
		{"MADV_REMOVE", func(th *thread, r region, fd uint64) { th.madvise(r.addr, r.len(), unix.MADV_REMOVE) }},
		{"punch hole", func(th *thread, r region, fd uint64) {
			th.must(unix.SYS_FALLOCATE, fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, r.len())
		}},
		{"truncate", func(th *thread, r region, fd uint64) {
			th.must(unix.SYS_FTRUNCATE, fd, 0)
			th.must(unix.SYS_FTRUNCATE, fd, r.len())
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachKind(t, []kind{shmemShared, hugeShared}, func(t *testing.T, s *subject, k kind) {
				th := s.th(0)
				flags := uint64(0)
				if k.hugetlb {
					flags = unix.MFD_HUGETLB
				}
				name := [8]byte{'w', 'p'}
				fd := th.must(unix.SYS_MEMFD_CREATE, put(th, &name), flags)
				th.closeLater(fd)
				r := region{th.reserve(2 * k.page), k.page, 2}
				th.must(unix.SYS_FTRUNCATE, fd, r.len())
				th.mmap(r.addr, r.len(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED, int(fd))
				th.fill(r, 1)
				u := th.watch(0, r)
				u.protect(r)
				c.do(th, r, fd)
				for i := range r.n {
					marked := th.wpBit(r.at(i))
					assert.Assert(t, !marked || !k.hugetlb || c.name != "truncate", "page %d: hugetlbfs kept the protection", i)
					assert.Equal(t, th.load(r.at(i), u), uint64(0), "page %d", i)
					th.wantWP(r.at(i), marked, "after reading")
					if marked {
						th.storeThrough(u, r, i, 5+i)
					}
				}
				th.fill(r, 5, u)
				th.verify(r, 5, u)
			})
		})
	}
}

func TestUnpopulated(t *testing.T) {
	t.Run("anonymous memory without the feature", func(t *testing.T) {
		th := newSubject(t).th(0)
		r := th.mem(anon, 2)
		u := th.watch(0, r)
		u.protect(r)
		th.wantWP(r.addr, false, "nothing to protect")
		th.fill(r, 1, u)
	})
	eachKind(t, kinds, func(t *testing.T, s *subject, k kind) {
		feat := uint64(0)
		if !k.file {
			kit.NeedLinux(t, "6.4", "UFFD_FEATURE_WP_UNPOPULATED")
			kit.NeedKconfig(t, "PTE_MARKER_UFFD_WP")
			feat = featWPUnpopulated
		}
		th := s.th(0)
		r := th.mem(k, 4)
		u := th.watch(feat, r)
		u.protect(r.sub(0, 3))
		for i := range r.n {
			th.wantWP(r.at(i), i < 3, "marker")
		}
		th.storeThrough(u, r, 0, 0xA)
		assert.Equal(t, th.load(r.at(1), u), uint64(0))
		th.wantWP(r.at(1), true, "populated by reading")
		th.storeThrough(u, r, 1, 0xB)
		u.unprotect(r.sub(2, 1))
		th.wantWP(r.at(2), false, "marker dropped")
		th.store(r.at(2), 0xC, u)
		th.store(r.at(3), 0xD, u)
	})
}

func TestMremapWithoutEvent(t *testing.T) {
	eachKind(t, kindsSmallTHP, func(t *testing.T, s *subject, k kind) {
		// The bit used to survive the move into a mapping that no
		// descriptor watches; fixed by 0cef0bb836e3 in 6.13 and 6.12.9.
		kit.NeedLinux(t, "6.12.9", "mremap that clears the protection")
		th := s.th(0)
		r := th.populated(k, 2, 1)
		u := th.watch(0, r)
		u.protect(r)
		to := region{th.reserve(r.len()), r.page, r.n}
		th.must(unix.SYS_MREMAP, r.addr, r.len(), r.len(), unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, to.addr)
		th.wantWP(to.addr, false, "moved")
		th.verify(to, 1, u)
		th.fill(to, 0x10, u)
		assert.Equal(t, u.wp(to.addr, to.len(), wpProtect), unix.ENOENT, "no longer registered")
		// Nothing comes back with a registration of the new place.
		u.register(to, regWP)
		th.fill(to, 0x20, u)
		th.verify(to, 0x20, u)
	})
}

func TestMremapWithEvent(t *testing.T) {
	eachKind(t, kindsSmallTHP, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 2, 1)
		u := th.watch(featEventRemap, r)
		u.protect(r)
		to := region{th.reserve(r.len()), r.page, r.n}
		th.start(opSyscall, unix.SYS_MREMAP, r.addr, r.len(), r.len(), unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, to.addr)
		o := th.wait(u)
		assert.Assert(t, o.event != nil && o.event.Event == evRemap, "want a remap event, got %v", o)
		assert.Equal(t, o.event.Arg, [3]uint64{r.addr, to.addr, r.len()}, "from, to, length")
		assert.Equal(t, th.finish(u), answer{R: to.addr})
		th.wantWP(to.addr, true, "moved")
		th.storeThrough(u, to, 0, 0xA)
		th.storeThrough(u, to, 1, 0xB)
	})
}

func TestUnmappedPart(t *testing.T) {
	s := newSubject(t)
	th := s.th(0)
	r := th.populated(anon, 6, 1)
	u := th.watch(0, r)
	u.protect(r)
	th.must(unix.SYS_MUNMAP, r.at(2), 2*pageSize)
	for _, i := range []uint64{0, 1, 4, 5} {
		th.wantWP(r.at(i), true, "neighbours of the hole")
		th.storeThrough(u, r, i, 0x10+i)
	}
	// What is mapped into the hole is a stranger.
	th.mmap(r.at(2), 2*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_FIXED|unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, -1)
	th.fill(r.sub(2, 2), 0x12, u)
	th.verify(r, 0x10, u)
}

func TestSplitAndMergedMapping(t *testing.T) {
	s := newSubject(t)
	th := s.th(0)
	r := th.populated(anon, 6, 1)
	u := th.watch(0, r)
	u.protect(r.sub(0, 4))
	th.madvise(r.at(2), 2*pageSize, unix.MADV_DONTFORK) // splits the mapping
	th.storeThrough(u, r, 2, 0x12)
	th.madvise(r.at(2), 2*pageSize, unix.MADV_DOFORK) // merges it again
	for _, i := range []uint64{0, 1, 3} {
		th.storeThrough(u, r, i, 0x10+i)
	}
	th.store(r.at(4), 0x14, u)
	th.store(r.at(5), 0x15, u)
	th.verify(r, 0x10, u)
}

func TestMadviseFree(t *testing.T) {
	s := newSubject(t)
	th := s.th(0)
	r := th.populated(anon, 2, 1)
	u := th.watch(0, r)
	u.protect(r)
	th.madvise(r.addr, r.len(), unix.MADV_FREE)
	th.storeThrough(u, r, 0, 0xA)
	th.storeThrough(u, r, 1, 0xB)
}

// TestMigration moves pages to other frames, by taking theirs out of use.
func TestMigration(t *testing.T) {
	kit.NeedKconfig(t, "MEMORY_FAILURE")
	eachKind(t, kindsSmall, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 3, 1)
		u := th.watch(0, r)
		u.protect(r.sub(0, 2))
		const frame = 1<<55 - 1
		for i := range r.n {
			before := th.pagemap(r.at(i))
			th.madvise(r.at(i), pageSize, madvSoftOffline)
			assert.Equal(t, th.load(r.at(i), u), 1+i)
			after := th.pagemap(r.at(i))
			assert.Assert(t, before&frame != after&frame, "page %d did not move: %#x", i, after)
			th.wantWP(r.at(i), i < 2, "migrated")
		}
		th.storeThrough(u, r, 0, 0xA)
		th.storeThrough(u, r, 1, 0xB)
		th.store(r.at(2), 0xC, u)
	})
}

func TestMoveIoctl(t *testing.T) {
	kit.NeedLinux(t, "6.8", "UFFDIO_MOVE")
	s := newSubject(t)
	th := s.th(0)
	src, dst := th.populated(anon, 2, 1), th.mem(anon, 2)
	u := th.uffd(featMove)
	u.register(dst, regMissing|regWP)
	v := th.watch(0, src)
	v.protect(src.sub(0, 1))
	move := func(i uint64) (int64, unix.Errno) {
		a := uffdioCopy{Dst: dst.at(i), Src: src.at(i), Len: pageSize}
		_, e := th.sys(unix.SYS_IOCTL, u.remote, uint64(ioMove), put(th, &a)) // only from the owner of the memory
		get(th, &a)
		return a.Copy, e
	}
	for i := range src.n {
		n, e := move(i)
		assert.Equal(t, e, unix.Errno(0))
		assert.Equal(t, n, int64(pageSize))
		assert.Equal(t, th.pagemap(src.at(i))&(pmPresent|pmSwap), uint64(0), "the source is empty")
		assert.Equal(t, th.load(dst.at(i), u, v), 1+i)
		th.store(dst.at(i), 0x10+i, u, v) // arrives unprotected, as after mremap
		u.protect(dst.sub(i, 1))
		th.storeThrough(u, dst, i, 0x20+i)
	}
}

func TestPoison(t *testing.T) {
	kit.NeedLinux(t, "6.6", "UFFDIO_POISON")
	kit.NeedKconfig(t, "PTE_MARKER_UFFD_WP")
	s := newSubject(t)
	th := s.th(0)
	r := th.mem(anon, 3)
	u := th.uffd(featPoison | featWPUnpopulated)
	u.register(r, regMissing|regWP)
	u.protect(r.sub(1, 1))
	poison := func(i uint64) unix.Errno {
		a := uffdioFill{uffdioRange: uffdioRange{r.at(i), pageSize}}
		return ioctl(u.fd, ioPoison, &a)
	}
	assert.Equal(t, poison(0), unix.Errno(0))
	assert.Equal(t, poison(0), unix.EEXIST)
	assert.Equal(t, poison(1), unix.EEXIST, "a protection marker is not replaced")
	th.wantWP(r.at(1), true, "after the attempt")
	// Protecting and unprotecting leave the poison where it is.
	u.protect(r)
	u.unprotect(r)
	th.start(opLoad, r.at(0))
	th.killed(unix.SIGBUS, u)
}
