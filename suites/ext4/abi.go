// SPDX-License-Identifier: Apache-2.0

package ext4

import "golang.org/x/sys/unix"

// Modes of fallocate(2), shortened (include/uapi/linux/falloc.h).
const (
	keepSize = unix.FALLOC_FL_KEEP_SIZE
	punch    = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	collapse = unix.FALLOC_FL_COLLAPSE_RANGE
	zero     = unix.FALLOC_FL_ZERO_RANGE
	zeroKeep = unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE
	insert   = unix.FALLOC_FL_INSERT_RANGE
)

// Ioctls of ext4 (include/uapi/linux/ext4.h) and of files in general
// (include/uapi/linux/fs.h, fiemap.h).
const (
	iocClearESCache = 0x6628     // EXT4_IOC_CLEAR_ES_CACHE, _IO('f', 40)
	iocShutdown     = 0x8004587D // EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32)
	iocFiemap       = 0xC020660B // FS_IOC_FIEMAP

	shutdownNoLogFlush = 2

	fiemapSync      = 0x1
	extentLast      = 0x1
	extentUnknown   = 0x2
	extentDelalloc  = 0x4
	extentInline    = 0x200
	extentUnwritten = 0x800
)

type fiemapExtent struct {
	Logical, Physical, Length uint64
	_                         [2]uint64
	Flags                     uint32
	_                         [3]uint32
}

// fiemapRoom is the number of extents fetched by one ioctl.
const fiemapRoom = 128

type fiemap struct {
	Start, Length               uint64
	Flags, Mapped, Count, Zero0 uint32
	Extents                     [fiemapRoom]fiemapExtent
}
