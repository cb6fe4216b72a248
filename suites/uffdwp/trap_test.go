// SPDX-License-Identifier: Apache-2.0

package uffdwp

import (
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit"
)

func TestWriteTrapsOnce(t *testing.T) {
	eachKind(t, kindsAndTHP, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 4, 0x10)
		u := th.watch(0, r)
		u.protect(r)
		for i := range r.n {
			th.wantWP(r.at(i), true, "protected")
			th.start(opStore, r.at(i), 0x20+i)
			th.trapped(u, r.at(i), faultWrite|faultWP)
			assert.Equal(t, s.th(1).load(r.at(i), u), 0x10+i, "the value while the writer waits")
			u.unprotect(r.sub(i, 1))
			th.finish(u)
			th.wantWP(r.at(i), false, "unprotected")
		}
		th.verify(r, 0x20, u)
		th.fill(r, 0x30, u) // all unprotected: no more events
		u.quiet()
	})
}

func TestReadNeverTraps(t *testing.T) {
	eachKind(t, kindsAndTHP, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 4, 0x10)
		u := th.watch(0, r)
		u.protect(r)
		th.verify(r, 0x10, u)
		th.wantWP(r.addr, true, "after reading")
		th.storeThrough(u, r, 1, 0x99)
	})
}

func TestOnlySubrangeTraps(t *testing.T) {
	eachKind(t, kinds, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 5, 0x10)
		u := th.watch(0, r)
		u.protect(r.sub(1, 3))
		u.unprotect(r.sub(2, 1))
		for _, i := range []uint64{0, 2, 4} {
			th.store(r.at(i), 0x50+i, u)
		}
		for _, i := range []uint64{1, 3} {
			th.storeThrough(u, r, i, 0x50+i)
		}
		th.verify(r, 0x50, u)
	})
}

// TestSnapshotRounds is live migration's use: what the pages held when they
// were protected must be readable until their writer is let go.
func TestSnapshotRounds(t *testing.T) {
	eachKind(t, kindsSmallTHP, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		whole := th.populated(k, max(8*pageSize/k.page, 1), 1000)
		r := whole.small()
		r.n = 8
		th.fill(r, 1000)
		u := th.watch(0, whole)
		for round := uint64(1); round <= 4; round++ {
			u.protect(whole)
			for i := range r.n {
				th.storeTraps(u, r.at(i), round*10000+i)
				got := s.th(1).load(r.at(i), u)
				want := (round-1)*10000 + i
				if round == 1 {
					want = 1000 + i
				}
				assert.Equal(t, got, want, "round %d page %d: snapshot", round, i)
				u.unprotect(r.sub(i, 1))
				th.finish(u)
			}
			th.verify(r, round*10000, u)
		}
	})
}

func TestUnprotectWithoutWaking(t *testing.T) {
	s := newSubject(t)
	th, other := s.th(0), s.th(1)
	r := th.populated(anon, 2, 1)
	u := th.watch(0, r)
	u.protect(r)
	th.storeTraps(u, r.at(0), 0xA)
	assert.Equal(t, u.wp(r.addr, pageSize, wpDontwake), unix.Errno(0))
	other.store(r.at(0)+8, 0xB, u) // unprotected for everybody
	assert.Assert(t, th.waiting(), "DONTWAKE woke the writer")
	u.wake(r.sub(0, 1))
	th.finish(u)
	assert.Equal(t, other.load(r.at(0)), uint64(0xA))
	assert.Equal(t, other.load(r.at(0)+8), uint64(0xB))
}

// TestWakeWithoutUnprotecting must not let the write through: the writer
// faults again.
func TestWakeWithoutUnprotecting(t *testing.T) {
	s := newSubject(t)
	th := s.th(0)
	r := th.populated(anon, 1, 1)
	u := th.watch(0, r)
	u.protect(r)
	th.storeTraps(u, r.addr, 0xA)
	u.wake(r)
	th.trapped(u, r.addr, faultWrite|faultWP)
	assert.Equal(t, s.th(1).load(r.addr), uint64(1))
	u.unprotect(r)
	th.finish(u)
	assert.Equal(t, th.load(r.addr), uint64(0xA))
}

func TestSeveralWritersOfOnePage(t *testing.T) {
	s := newSubject(t)
	r := s.th(0).populated(anon, 1, 1)
	u := s.th(0).watch(featThreadID, r)
	u.protect(r)
	seen := map[uint64]bool{}
	for i := range threads {
		s.th(i).start(opAdd, r.addr, pageSize, 1, 1)
		o := s.th(i).wait(u)
		assert.Assert(t, o.event != nil, "want an event, got %v", o)
		seen[o.event.Arg[2]&0xffffffff] = true
	}
	assert.Equal(t, len(seen), threads, "distinct thread ids in the events: %v", seen)
	u.unprotect(r)
	for i := range threads {
		s.th(i).finish(u)
	}
	assert.Equal(t, s.th(0).load(r.addr), uint64(1+threads))
}

func TestExactAddress(t *testing.T) {
	kit.NeedLinux(t, "5.18", "UFFD_FEATURE_EXACT_ADDRESS")
	s := newSubject(t)
	th := s.th(0)
	r := th.populated(anon, 2, 1)
	u := th.watch(featExactAddress, r)
	u.protect(r)
	th.start(opStore, r.at(1)+8*17, 5)
	th.trapped(u, r.at(1)+8*17, faultWrite|faultWP)
	u.unprotect(r)
	th.finish(u)
}

// pipeWith makes a pipe in the subject that holds one word, and returns its
// reading end.
func (th *thread) pipeWith(val uint64) uint64 {
	th.s.t.Helper()
	th.must(unix.SYS_PIPE2, th.s.scratch, 0)
	var fds [2]int32
	get(th, &fds)
	th.closeLater(uint64(fds[0]))
	th.closeLater(uint64(fds[1]))
	th.must(unix.SYS_WRITE, uint64(fds[1]), put(th, &val), 8)
	return uint64(fds[0])
}

func TestSystemCallWriteTraps(t *testing.T) {
	eachKind(t, kindsAndTHP, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 2, 1)
		u := th.watch(0, r)
		u.protect(r)
		fd := th.pipeWith(0xfeed)
		th.start(opSyscall, unix.SYS_READ, fd, r.at(1), 8)
		th.trapped(u, r.at(1), faultWrite|faultWP)
		assert.Equal(t, s.th(1).load(r.at(1)), uint64(2))
		u.unprotect(r.sub(1, 1))
		a := th.finish(u)
		assert.Equal(t, a, answer{R: 8})
		assert.Equal(t, th.load(r.at(1)), uint64(0xfeed))
		th.storeThrough(u, r, 0, 3)
	})
}

func TestUserModeOnly(t *testing.T) {
	s := newSubject(t)
	th := s.th(0)
	r := th.populated(anon, 2, 1)
	u := th.bare(userModeOnly)
	api := uffdioAPI{API: uffdAPI}
	assert.Equal(t, ioctl(u.fd, ioAPI, &api), unix.Errno(0))
	u.register(r, regWP)
	u.protect(r)
	fd := th.pipeWith(0xfeed)
	th.start(opSyscall, unix.SYS_READ, fd, r.addr, 8)
	a := th.finish(u)
	assert.Equal(t, unix.Errno(a.Errno), unix.EFAULT, "the kernel's own write")
	assert.Equal(t, th.load(r.addr), uint64(1))
	th.storeThrough(u, r, 0, 0xA) // the program's write is trapped as ever
}

func TestRemoteWriteTraps(t *testing.T) {
	eachKind(t, []kind{anon, shmemShared, anonTHP}, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 2, 1)
		u := th.watch(0, r)
		u.protect(r)
		other := newSubject(t).th(0)

		type args struct {
			Local, Remote [2]uint64 // struct iovec
			Val           uint64
		}
		a := args{Val: 0xfeed, Local: [2]uint64{other.s.scratch + 32, 8}, Remote: [2]uint64{r.at(0), 8}}
		p := put(other, &a)
		other.start(opSyscall, unix.SYS_PROCESS_VM_WRITEV, uint64(s.pid), p, 1, p+16, 1, 0)
		other.trapped(u, r.at(0), faultWrite|faultWP)
		assert.Equal(t, th.load(r.at(0)), uint64(1))
		u.unprotect(r.sub(0, 1))
		assert.Equal(t, other.finish(u), answer{R: 8}, "process_vm_writev")
		assert.Equal(t, th.load(r.at(0)), uint64(0xfeed))

		// /proc/PID/mem cannot wait for a fault (get_user_page_vma_remote in
		// include/linux/mm.h passes no lock to drop): it fails and writes
		// nothing.
		var path [32]byte
		copy(path[:], "/proc/"+itoa(s.pid)+"/mem")
		fd := other.must(unix.SYS_OPEN, put(other, &path), unix.O_RDWR)
		a.Val = 0xbeef
		put(other, &a)
		got := other.do([]*uffd{u}, opSyscall, unix.SYS_PWRITE64, fd, other.s.scratch+32, 8, r.at(1))
		assert.Equal(t, unix.Errno(got.Errno), unix.EIO, "/proc/PID/mem over a protected page")
		assert.Equal(t, th.load(r.at(1)), uint64(2))
		th.storeThrough(u, r, 1, 3)
		got = other.do([]*uffd{u}, opSyscall, unix.SYS_PWRITE64, fd, other.s.scratch+32, 8, r.at(1))
		assert.Equal(t, got, answer{R: 8}, "/proc/PID/mem over an unprotected page")
		assert.Equal(t, th.load(r.at(1)), uint64(0xbeef))
	})
}

func TestSigbusFeature(t *testing.T) {
	eachKind(t, []kind{anon, shmemShared, hugeShared}, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 2, 1)
		u := th.watch(featSigbus, r)
		u.protect(r.sub(0, 1))
		th.store(r.at(1), 7, u)
		assert.Equal(t, th.load(r.at(0), u), uint64(1))
		fd := th.pipeWith(5)
		th.start(opSyscall, unix.SYS_READ, fd, r.addr, 8)
		assert.Equal(t, unix.Errno(th.finish(u).Errno), unix.EFAULT, "a system call")
		th.start(opStore, r.at(0), 5)
		th.killed(unix.SIGBUS, u)
	})
}

// TestUnregisterDropsProtection wakes the writer itself where the kernel does
// not: UFFDIO_UNREGISTER wakes the waiters of ranges that are registered for
// missing pages, too (userfaultfd_unregister in fs/userfaultfd.c), and no others.
func TestUnregisterDropsProtection(t *testing.T) {
	for name, mode := range map[string]uint64{"protected": regWP, "missing and protected": regMissing | regWP} {
		t.Run(name, func(t *testing.T) {
			eachKind(t, kindsAndTHP, func(t *testing.T, s *subject, k kind) {
				th := s.th(0)
				r := th.populated(k, 3, 1)
				u := th.uffd(0)
				u.register(r, mode)
				u.protect(r)
				th.storeTraps(u, r.at(0), 0xA)
				u.unregister(r)
				if mode&regMissing == 0 {
					u.wake(r)
				}
				th.finish(u)
				th.wantWP(r.at(1), false, "after UNREGISTER")
				th.fill(r, 0x20, u)
				// Nothing may come back with the next registration.
				u.register(r, regWP)
				th.fill(r, 0x30, u)
				th.verify(r, 0x30, u)
			})
		})
	}
}

func TestCloseReleasesWriter(t *testing.T) {
	eachKind(t, kindsAndTHP, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 3, 1)
		u := th.watch(0, r)
		u.protect(r)
		th.storeTraps(u, r.at(0), 0xA)
		u.closeAll(s.th(1))
		th.finish()
		th.verify(r.sub(1, 2), 2)
		assert.Equal(t, th.load(r.addr), uint64(0xA))
		th.wantWP(r.at(1), false, "after close")
		th.fill(r, 0x20)
		th.verify(r, 0x20)
	})
}

// TestMissingAndProtected tells the two reasons of one range apart, and that
// COPY_MODE_WP installs the page protected.
func TestMissingAndProtected(t *testing.T) {
	eachKind(t, kinds, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.mem(k, 2)
		u := th.uffd(0)
		u.register(r, regMissing|regWP)
		src := make([]uint64, k.page/8)
		src[0], src[1] = 0x77, 0x78

		th.start(opStore, r.at(0), 0xA)
		th.trapped(u, r.at(0), faultWrite)
		u.copy(r.at(0), src, copyWP)
		th.trapped(u, r.at(0), faultWrite|faultWP)
		assert.Equal(t, s.th(1).load(r.at(0), u), uint64(0x77))
		th.wantWP(r.at(0), true, "copied with COPY_MODE_WP")
		u.unprotect(r.sub(0, 1))
		th.finish(u)
		assert.Equal(t, th.load(r.at(0), u), uint64(0xA))
		assert.Equal(t, th.load(r.at(0)+8, u), uint64(0x78))

		th.start(opStore, r.at(1), 0xB)
		th.trapped(u, r.at(1), faultWrite)
		u.copy(r.at(1), src, 0)
		th.finish(u)
		th.wantWP(r.at(1), false, "copied without COPY_MODE_WP")
		u.protect(r.sub(1, 1))
		th.storeThrough(u, r, 1, 0xC)
	})
}

// copy fills a missing page from the test's memory.
func (u *uffd) copy(addr uint64, src []uint64, mode uint64) {
	u.t.Helper()
	a := uffdioCopy{Dst: addr, Src: addrOf(src), Len: uint64(len(src) * 8), Mode: mode}
	if e := ioctl(u.fd, ioCopy, &a); e != 0 || a.Copy != int64(a.Len) {
		u.t.Fatalf("UFFDIO_COPY: %v, copied %d of %d", e, a.Copy, a.Len)
	}
}

func TestCopyProtectedNeedsRegistration(t *testing.T) {
	s := newSubject(t)
	th := s.th(0)
	r := th.mem(anon, 1)
	u := th.uffd(0)
	u.register(r, regMissing)
	src := make([]uint64, pageSize/8)
	a := uffdioCopy{Dst: r.addr, Src: addrOf(src), Len: pageSize, Mode: copyWP}
	assert.Equal(t, ioctl(u.fd, ioCopy, &a), unix.EINVAL)
	assert.Equal(t, a.Copy, int64(-22))
}

func TestContinueProtected(t *testing.T) {
	kit.NeedLinux(t, "6.4", "UFFDIO_CONTINUE_MODE_WP")
	kit.NeedKconfig(t, "PTE_MARKER_UFFD_WP")
	s := newSubject(t)
	th := s.th(0)
	fd := th.memfd(2 * pageSize)
	alias := region{th.mmap(0, 2*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED, fd), pageSize, 2}
	th.fill(alias, 0x10)
	r := region{th.reserve(2 * pageSize), pageSize, 2}
	th.mmap(r.addr, r.len(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED, fd)
	u := th.uffd(featMinorShmem)
	u.register(r, regMinor|regWP)
	th.start(opStore, r.at(0), 0xA)
	th.trapped(u, r.at(0), faultWrite|faultMinor)
	a := uffdioFill{uffdioRange: uffdioRange{r.at(0), pageSize}, Mode: continueWP}
	assert.Equal(t, ioctl(u.fd, ioContinue, &a), unix.Errno(0))
	th.trapped(u, r.at(0), faultWrite|faultWP)
	assert.Equal(t, s.th(1).load(alias.at(0), u), uint64(0x10))
	u.unprotect(r.sub(0, 1))
	th.finish(u)
	assert.Equal(t, th.load(alias.at(0), u), uint64(0xA))
}

func TestTwoDescriptors(t *testing.T) {
	s := newSubject(t)
	th := s.th(0)
	r := th.populated(anon, 4, 1)
	u, v := th.watch(0, r.sub(0, 2)), th.watch(0, r.sub(2, 2))
	u.protect(r.sub(0, 2))
	v.protect(r.sub(2, 2))
	s.th(1).start(opStore, r.at(1), 0xA)
	s.th(1).trapped(u, r.at(1), faultWrite|faultWP)
	s.th(2).start(opStore, r.at(2), 0xB)
	s.th(2).trapped(v, r.at(2), faultWrite|faultWP)
	u.quiet()
	v.quiet()
	s.th(1).s.t.Log("closing one descriptor must release its own waiter only")
	u.closeAll(th)
	s.th(1).finish(v)
	assert.Assert(t, s.th(2).waiting())
	v.unprotect(r.sub(2, 1))
	s.th(2).finish(v)
	th.storeThrough(v, r, 3, 0xC)
}

func TestKillWaiter(t *testing.T) {
	eachKind(t, []kind{anon, hugeShared}, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 1, 1)
		u := th.watch(0, r)
		u.protect(r)
		th.storeTraps(u, r.addr, 0xA)
		assert.NilError(t, unix.Kill(s.pid, unix.SIGKILL))
		th.killed(unix.SIGKILL)
		assert.Equal(t, u.wp(r.addr, r.len(), 0), unix.ESRCH, "the memory is gone")
	})
}
