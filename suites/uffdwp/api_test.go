// SPDX-License-Identifier: Apache-2.0

package uffdwp

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/kit/fs"
)

func TestAPIReportsFeatures(t *testing.T) {
	s := newSubject(t)
	u := s.th(0).bare(0)
	api := uffdioAPI{API: uffdAPI}
	assert.Equal(t, ioctl(u.fd, ioAPI, &api), unix.Errno(0))
	assert.Equal(t, api.API, uint64(uffdAPI))
	assert.Equal(t, api.Ioctls&(1|2|1<<0x3f), uint64(1|2|1<<0x3f), "REGISTER, UNREGISTER and API")
	for _, f := range []struct {
		name  string
		bit   uint64
		since string
		needs string
	}{
		{"PAGEFAULT_FLAG_WP", featWP, "5.7", ""},
		{"EVENT_FORK", featEventFork, "4.11", ""},
		{"EVENT_REMAP", featEventRemap, "4.11", ""},
		{"SIGBUS", featSigbus, "4.14", ""},
		{"THREAD_ID", featThreadID, "4.14", ""},
		{"EXACT_ADDRESS", featExactAddress, "5.18", ""},
		{"WP_HUGETLBFS_SHMEM", featWPHugetlbShmem, "5.19", "PTE_MARKER_UFFD_WP"},
		{"WP_UNPOPULATED", featWPUnpopulated, "6.4", "PTE_MARKER_UFFD_WP"},
		{"POISON", featPoison, "6.6", ""},
		{"WP_ASYNC", featWPAsync, "6.7", "PTE_MARKER_UFFD_WP"},
		{"MOVE", featMove, "6.8", ""},
	} {
		t.Run(f.name, func(t *testing.T) {
			kit.NeedLinux(t, f.since, "UFFD_FEATURE_"+f.name)
			if f.needs != "" {
				kit.NeedKconfig(t, f.needs)
			}
			assert.Assert(t, api.Features&f.bit != 0, "features %#x lack it", api.Features)
		})
	}
}

func TestAPIRejects(t *testing.T) {
	s := newSubject(t)
	t.Run("unknown feature with a zeroed reply", func(t *testing.T) {
		u := s.th(0).bare(0)
		api := uffdioAPI{API: uffdAPI, Features: 1 << 63, Ioctls: 42}
		assert.Equal(t, ioctl(u.fd, ioAPI, &api), unix.EINVAL)
		assert.Equal(t, api, uffdioAPI{})
		api = uffdioAPI{API: uffdAPI}
		assert.Equal(t, ioctl(u.fd, ioAPI, &api), unix.Errno(0), "the descriptor stays usable")
	})
	t.Run("another version", func(t *testing.T) {
		u := s.th(0).bare(0)
		api := uffdioAPI{API: uffdAPI + 1}
		assert.Equal(t, ioctl(u.fd, ioAPI, &api), unix.EINVAL)
		assert.Equal(t, api, uffdioAPI{})
	})
	t.Run("a second handshake", func(t *testing.T) {
		u := s.th(0).uffd(0)
		api := uffdioAPI{API: uffdAPI}
		assert.Equal(t, ioctl(u.fd, ioAPI, &api), unix.EINVAL)
	})
	t.Run("unknown flags of the system call", func(t *testing.T) {
		_, e := s.th(0).sys(unix.SYS_USERFAULTFD, 1<<30)
		assert.Equal(t, e, unix.EINVAL)
	})
	t.Run("every ioctl before the handshake", func(t *testing.T) {
		u := s.th(0).bare(0)
		r := s.th(0).populated(anon, 1, 1)
		_, e := u.tryRegister(r.addr, r.len(), regWP)
		assert.Equal(t, e, unix.EINVAL, "REGISTER")
		assert.Equal(t, u.wp(r.addr, r.len(), wpProtect), unix.EINVAL, "WRITEPROTECT")
		rg := uffdioRange{r.addr, r.len()}
		assert.Equal(t, ioctl(u.fd, ioUnregister, &rg), unix.EINVAL, "UNREGISTER")
		assert.Equal(t, ioctl(u.fd, ioWake, &rg), unix.EINVAL, "WAKE")
	})
	t.Run("an unknown ioctl", func(t *testing.T) {
		u := s.th(0).uffd(0)
		var rg uffdioRange
		assert.Equal(t, ioctl(u.fd, ioc(2, 0xAA, 0x3e, 16), &rg), unix.EINVAL)
	})
}

// TestUnprivileged drops the privileges of one thread only, which the kernel
// does per task and the subject's raw system calls do not spread.
func TestUnprivileged(t *testing.T) {
	s := newSubject(t)
	setting(t, "/proc/sys/vm/unprivileged_userfaultfd", "0")
	th := s.th(1)
	const nobody = 65534
	th.must(unix.SYS_SETRESUID, nobody, nobody, nobody)
	_, e := th.sys(unix.SYS_USERFAULTFD, unix.O_CLOEXEC)
	assert.Equal(t, e, unix.EPERM, "kernel faults need CAP_SYS_PTRACE")
	fd, e := th.sys(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK|userModeOnly)
	assert.Equal(t, e, unix.Errno(0), "user faults need nothing")

	api := uffdioAPI{API: uffdAPI, Features: featEventFork}
	p := put(th, &api)
	_, e = th.sys(unix.SYS_IOCTL, fd, uint64(ioAPI), p)
	assert.Equal(t, e, unix.EPERM, "EVENT_FORK needs CAP_SYS_PTRACE")
	get(th, &api)
	assert.Equal(t, api, uffdioAPI{})
	api = uffdioAPI{API: uffdAPI}
	_, e = th.sys(unix.SYS_IOCTL, fd, uint64(ioAPI), put(th, &api))
	assert.Equal(t, e, unix.Errno(0))

	setting(t, "/proc/sys/vm/unprivileged_userfaultfd", "1")
	_, e = th.sys(unix.SYS_USERFAULTFD, unix.O_CLOEXEC)
	assert.Equal(t, e, unix.Errno(0), "the sysctl allows it")
}

func TestDeviceNode(t *testing.T) {
	kit.NeedLinux(t, "6.1", "/dev/userfaultfd")
	f, err := os.OpenFile("/dev/userfaultfd", os.O_RDWR, 0)
	assert.NilError(t, err)
	defer func() { _ = f.Close() }()
	fd, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioNew, unix.O_CLOEXEC|unix.O_NONBLOCK)
	assert.Equal(t, e, unix.Errno(0))
	defer func() { _ = unix.Close(int(fd)) }()
	api := uffdioAPI{API: uffdAPI}
	assert.Equal(t, ioctl(int(fd), ioAPI, &api), unix.Errno(0))
	_, _, e = unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioc(0, 0xAA, 1, 0), 0)
	assert.Equal(t, e, unix.EINVAL, "any other ioctl")
	_, _, e = unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioNew, 1<<30)
	assert.Equal(t, e, unix.EINVAL, "unknown flags")
}

func TestRegisterRejects(t *testing.T) {
	s := newSubject(t)
	th := s.th(0)
	u := th.uffd(0)
	r := th.populated(anon, 4, 1)
	reg := func(addr, length, mode uint64) unix.Errno {
		_, e := u.tryRegister(addr, length, mode)
		return e
	}
	for _, c := range []struct {
		name               string
		addr, length, mode uint64
	}{
		{"mode 0", r.addr, r.len(), 0},
		{"unknown mode", r.addr, r.len(), regWP | 1<<3},
		{"unaligned start", r.addr + 1, r.len(), regWP},
		{"unaligned length", r.addr, 100, regWP},
		{"length 0", r.addr, 0, regWP},
		{"wrapping", r.addr, -r.addr + pageSize, regWP},
		{"beyond the address space", 1<<63 + pageSize, pageSize, regWP},
		{"unmapped", 1 << 16, pageSize, regWP}, // below any mapping, above mmap_min_addr
		{"minor faults of anonymous memory", r.addr, r.len(), regMinor},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, reg(c.addr, c.length, c.mode), unix.EINVAL)
		})
	}
	t.Run("shared file without write permission", func(t *testing.T) {
		kit.NeedKconfig(t, "PTE_MARKER_UFFD_WP")
		fd := th.memfd(pageSize)
		p := append([]byte("/proc/self/fd/"), byte('0'+fd/10), byte('0'+fd%10), 0)
		if fd < 10 {
			p = append([]byte("/proc/self/fd/"), byte('0'+fd), 0)
		}
		var path [32]byte
		copy(path[:], p)
		ro := th.must(unix.SYS_OPEN, put(th, &path), unix.O_RDONLY)
		a := th.mmap(0, pageSize, unix.PROT_READ, unix.MAP_SHARED, int(ro))
		assert.Equal(t, reg(a, pageSize, regWP), unix.EPERM)
	})
	t.Run("range of another descriptor", func(t *testing.T) {
		v := th.uffd(0)
		assert.Equal(t, reg(r.addr, r.len(), regWP), unix.Errno(0))
		_, e := v.tryRegister(r.addr, r.len(), regWP)
		assert.Equal(t, e, unix.EBUSY)
		assert.Equal(t, reg(r.addr, r.len(), regWP), unix.Errno(0), "again by its owner")
		u.unregister(r)
		_, e = v.tryRegister(r.addr, r.len(), regWP)
		assert.Equal(t, e, unix.Errno(0), "after UNREGISTER")
	})
}

func TestRegisterFileMapping(t *testing.T) {
	kit.NeedKconfig(t, "EXT4_FS", "VIRTIO_BLK")
	s := newSubject(t)
	th := s.th(0)
	m := fs.New(t, kit.Disk(t, fileDisk), "ext4", 0, "")
	m.Mount()
	file := filepath.Join(m.Path, "f")
	assert.NilError(t, os.WriteFile(file, make([]byte, pageSize), 0o600))
	var path [256]byte
	copy(path[:], file)
	fd := th.must(unix.SYS_OPEN, put(th, &path), unix.O_RDWR)
	for _, flags := range []int{unix.MAP_SHARED, unix.MAP_PRIVATE} {
		a := th.mmap(0, pageSize, unix.PROT_READ|unix.PROT_WRITE, flags, int(fd))
		_, e := th.uffd(0).tryRegister(a, pageSize, regWP)
		assert.Equal(t, e, unix.EINVAL, "flags %#x: only memory without a disk behind it", flags)
		if suites.CompareRelease(kit.Release(), "6.7") < 0 || !kit.Config().Has("PTE_MARKER_UFFD_WP") {
			continue // no asynchronous mode
		}
		u := th.uffd(featWPAsync)
		_, e = u.tryRegister(a, pageSize, regWP|regMissing)
		assert.Equal(t, e, unix.EINVAL, "flags %#x: asynchronous, but not for write protection alone", flags)
		_, e = u.tryRegister(a, pageSize, regWP)
		assert.Equal(t, e, unix.Errno(0), "flags %#x: any mapping in asynchronous mode", flags)
	}
}

func TestRegisterReportsIoctls(t *testing.T) {
	eachKind(t, kinds, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.mem(k, 2)
		u := th.uffd(0)
		const wpBit = 1 << nrWriteprotect
		assert.Assert(t, u.register(r, regWP)&wpBit != 0, "registered for write protection")
		assert.Assert(t, u.register(r, regMissing|regWP)&wpBit != 0, "registered for both")
		u.unregister(r)
		got := u.register(r, regMissing)
		assert.Assert(t, got&wpBit == 0, "registered for missing pages only")
		assert.Assert(t, got&(1<<nrCopy) != 0 && got&(1<<nrWake) != 0)
		assert.Equal(t, got&(1<<nrZeropage) != 0, !k.hugetlb, "hugetlb has no zero page")
		assert.Assert(t, got&(1<<nrContinue) == 0, "CONTINUE is for minor faults")
	})
}

func TestWriteprotectRejects(t *testing.T) {
	s := newSubject(t)
	th := s.th(0)
	r := th.populated(anon, 4, 1)
	other := th.populated(anon, 1, 1)
	u := th.watch(0, r)
	for _, c := range []struct {
		name               string
		addr, length, mode uint64
		want               unix.Errno
	}{
		{"not registered", other.addr, other.len(), wpProtect, unix.ENOENT},
		{"unmapped", 1 << 16, pageSize, wpProtect, unix.ENOENT},
		{"unknown mode", r.addr, r.len(), 1 << 2, unix.EINVAL},
		{"protect without waking", r.addr, r.len(), wpProtect | wpDontwake, unix.EINVAL},
		{"length 0", r.addr, 0, wpProtect, unix.EINVAL},
		{"unaligned start", r.addr + 8, pageSize, wpProtect, unix.EINVAL},
		{"unaligned length", r.addr, 8, wpProtect, unix.EINVAL},
		{"wrapping", r.addr, -r.addr + pageSize, wpProtect, unix.EINVAL},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, u.wp(c.addr, c.length, c.mode), c.want)
		})
	}
	t.Run("registered for missing pages only", func(t *testing.T) {
		v := th.uffd(0)
		v.register(other, regMissing)
		assert.Equal(t, v.wp(other.addr, other.len(), wpProtect), unix.ENOENT)
	})
	th.verify(r, 1, u)
	th.fill(r, 5, u) // nothing of the above protected anything
}

func TestWriteprotectPartOfHugetlbPage(t *testing.T) {
	eachKind(t, []kind{hugeShared, hugePrivate}, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 2, 1)
		u := th.watch(0, r)
		assert.Equal(t, u.wp(r.addr, pageSize, wpProtect), unix.EINVAL, "length")
		assert.Equal(t, u.wp(r.addr+pageSize, hugeSize, wpProtect), unix.EINVAL, "start")
		_, e := th.uffd(0).tryRegister(r.addr+pageSize, hugeSize, regWP)
		assert.Equal(t, e, unix.EINVAL, "register")
		th.fill(r, 7, u)
	})
}

func TestWriteprotectAcrossMappings(t *testing.T) {
	kit.NeedLinux(t, "6.3", "write protection of several mappings at once")
	s := newSubject(t)
	th := s.th(0)
	r := th.populated(anon, 9, 1)
	u := th.watch(0, r)
	th.must(unix.SYS_MUNMAP, r.at(3), 3*pageSize)
	u.protect(r) // two mappings and the hole between them
	for _, i := range []uint64{0, 2, 6, 8} {
		th.storeThrough(u, r, i, 0x100+i)
	}
	// The same across a mapping that is not registered stops there.
	th.mmap(r.at(3), 3*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_FIXED|unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, -1)
	assert.Equal(t, u.wp(r.addr, r.len(), wpProtect), unix.ENOENT)
}
