// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Extent is a run of a file's blocks, in bytes (struct fiemap_extent,
// include/uapi/linux/fiemap.h).
type Extent struct {
	Logical, Physical, Length uint64
	_                         [2]uint64
	Flags                     uint32 // Extent...
	_                         [3]uint32
}

// FiemapSync writes the file out before it is mapped (FIEMAP_FLAG_SYNC).
const FiemapSync = 0x1

// Flags of an Extent (FIEMAP_EXTENT_*).
const (
	ExtentLast      = 0x1   // the file's last one
	ExtentUnknown   = 0x2   // Physical is not known
	ExtentDelalloc  = 0x4   // its place is not chosen yet
	ExtentInline    = 0x200 // its data is among the file system's own
	ExtentUnwritten = 0x800 // allocated, and reads as zeros
)

// fiemapRoom is the number of extents fetched by one ioctl.
const fiemapRoom = 128

// fiemap is struct fiemap.
type fiemap struct {
	Start, Length               uint64
	Flags, Mapped, Count, Zero0 uint32
	Extents                     [fiemapRoom]Extent
}

const iocFiemap = 0xC020660B // FS_IOC_FIEMAP, include/uapi/linux/fs.h

// Fiemap returns the extents of the open file, in order, with these flags (FiemapSync
// or 0). A file system without FIEMAP gives EOPNOTSUPP. The error wraps the errno.
func Fiemap(fd int, flags uint32) ([]Extent, error) {
	var out []Extent
	for start := uint64(0); ; {
		m := fiemap{Start: start, Length: ^uint64(0) - start, Flags: flags, Count: fiemapRoom}
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), iocFiemap, uintptr(unsafe.Pointer(&m))); e != 0 {
			return out, fmt.Errorf("map the file's blocks: %w", os.NewSyscallError("FS_IOC_FIEMAP", e))
		}
		// The kernel's word, and it is the kernel that is tested.
		if m.Mapped > fiemapRoom {
			return out, fmt.Errorf("map the file's blocks: FS_IOC_FIEMAP says %d extents where there is room for %d", m.Mapped, fiemapRoom)
		}
		for _, x := range m.Extents[:m.Mapped] {
			out = append(out, x)
			if x.Flags&ExtentLast != 0 {
				return out, nil
			}
			if x.Logical+x.Length <= start {
				return out, fmt.Errorf("map the file's blocks: FS_IOC_FIEMAP goes back, to %d from %d", x.Logical+x.Length, start)
			}
			start = x.Logical + x.Length
		}
		if m.Mapped < fiemapRoom {
			return out, nil
		}
	}
}

// How a file system is shut down (EXT4_GOING_FLAGS_*, XFS_FSOP_GOING_FLAGS_*).
const (
	ShutdownFlush      uint32 = 0 // after everything is written out
	ShutdownLogFlush   uint32 = 1 // after the journal is
	ShutdownNoLogFlush uint32 = 2 // at once, as by a crash: what was not committed is lost
)

const iocShutdown = 0x8004587D // EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN: _IOR('X', 125, __u32)

// Shutdown stops the file system at path, ext4, f2fs or xfs, so that all that comes
// later fails until it has been unmounted and mounted again. The error wraps the
// errno.
func Shutdown(path string, how uint32) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // opened for reading
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), iocShutdown, uintptr(unsafe.Pointer(&how))); e != 0 {
		return fmt.Errorf("shut down the file system at %s: %w", path, os.NewSyscallError("EXT4_IOC_SHUTDOWN", e))
	}
	return nil
}
