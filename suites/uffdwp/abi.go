// SPDX-License-Identifier: Apache-2.0

package uffdwp

import "unsafe"

// Features of a userfaultfd (include/uapi/linux/userfaultfd.h).
const (
	featWP             = 1 << 0
	featEventFork      = 1 << 1
	featEventRemap     = 1 << 2
	featSigbus         = 1 << 7
	featThreadID       = 1 << 8
	featMinorShmem     = 1 << 10
	featExactAddress   = 1 << 11
	featWPHugetlbShmem = 1 << 12
	featWPUnpopulated  = 1 << 13
	featPoison         = 1 << 14
	featWPAsync        = 1 << 15
	featMove           = 1 << 16
)

// Modes of UFFDIO_REGISTER, UFFDIO_WRITEPROTECT and UFFDIO_COPY/CONTINUE.
const (
	regMissing = 1 << 0
	regWP      = 1 << 1
	regMinor   = 1 << 2

	wpProtect  = 1 << 0
	wpDontwake = 1 << 1

	copyWP     = 1 << 1
	continueWP = 1 << 1
)

// Numbers of the range ioctls, as bits in uffdioRegister.Ioctls.
const (
	nrWake         = 2
	nrCopy         = 3
	nrZeropage     = 4
	nrMove         = 5
	nrWriteprotect = 6
	nrContinue     = 7
	nrPoison       = 8
)

// Events and the flags of a page fault event.
const (
	evPagefault = 0x12
	evFork      = 0x13
	evRemap     = 0x14

	faultWrite = 1 << 0
	faultWP    = 1 << 1
	faultMinor = 1 << 2
)

// uffdAPI is the one version of the interface; userModeOnly the flag of
// userfaultfd(2).
const (
	uffdAPI      = 0xAA
	userModeOnly = 1
)

type uffdioAPI struct{ API, Features, Ioctls uint64 }

type uffdioRange struct{ Start, Len uint64 }

type uffdioRegister struct {
	uffdioRange
	Mode, Ioctls uint64
}

type uffdioWriteprotect struct {
	uffdioRange
	Mode uint64
}

type uffdioCopy struct {
	Dst, Src, Len, Mode uint64
	Copy                int64
}

// uffdioFill has the layout of uffdio_continue and uffdio_poison alike.
type uffdioFill struct {
	uffdioRange
	Mode uint64
	Done int64
}

// uffdMsg is one event: for a page fault Arg is flags, address and the
// thread's id; for a fork the new descriptor is the low half of Arg[0]; for a
// remap from, to and length.
type uffdMsg struct {
	Event uint8
	_     [7]uint8
	Arg   [3]uint64
}

// ioc builds an ioctl number (include/uapi/asm-generic/ioctl.h); dir is 1 to
// write to and 2 to read from the kernel.
func ioc(dir, typ, nr, size uintptr) uintptr { return dir<<30 | size<<16 | typ<<8 | nr }

// The ioctls of a userfaultfd, and PAGEMAP_SCAN (include/uapi/linux/fs.h).
var (
	ioAPI          = ioc(3, 0xAA, 0x3F, unsafe.Sizeof(uffdioAPI{}))
	ioRegister     = ioc(3, 0xAA, 0, unsafe.Sizeof(uffdioRegister{}))
	ioUnregister   = ioc(2, 0xAA, 1, unsafe.Sizeof(uffdioRange{}))
	ioWake         = ioc(2, 0xAA, nrWake, unsafe.Sizeof(uffdioRange{}))
	ioCopy         = ioc(3, 0xAA, nrCopy, unsafe.Sizeof(uffdioCopy{}))
	ioMove         = ioc(3, 0xAA, nrMove, unsafe.Sizeof(uffdioCopy{}))
	ioWriteprotect = ioc(3, 0xAA, nrWriteprotect, unsafe.Sizeof(uffdioWriteprotect{}))
	ioContinue     = ioc(3, 0xAA, nrContinue, unsafe.Sizeof(uffdioFill{}))
	ioPoison       = ioc(3, 0xAA, nrPoison, unsafe.Sizeof(uffdioFill{}))
	ioNew          = ioc(0, 0xAA, 0, 0) // of /dev/userfaultfd
	ioPagemapScan  = ioc(3, 'f', 16, unsafe.Sizeof(pmScanArg{}))
)

// Categories and flags of PAGEMAP_SCAN.
const (
	pageIsWPAllowed = 1 << 0
	pageIsWritten   = 1 << 1
	pageIsPresent   = 1 << 3
	pageIsHuge      = 1 << 6

	scanWPMatching   = 1 << 0
	scanCheckWPAsync = 1 << 1
)

type pageRegion struct{ Start, End, Categories uint64 }

type pmScanArg struct {
	Size, Flags, Start, End, WalkEnd, Vec, VecLen, MaxPages uint64
	Inverted, Mask, AnyOf, Return                           uint64
}

// Bits of an entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
const (
	pmSoftDirty = 1 << 55
	pmExclusive = 1 << 56
	pmUffdWP    = 1 << 57
	pmFile      = 1 << 61
	pmSwap      = 1 << 62
	pmPresent   = 1 << 63
)

// Advice that x/sys/unix lacks (include/uapi/asm-generic/mman-common.h).
const (
	madvCollapse    = 25
	madvSoftOffline = 101
)
