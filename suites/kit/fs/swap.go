// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SwapHeader returns the first page of swap space of that size in bytes, a multiple
// of the page size and at least two of them, as mkswap(8) writes it.
func SwapHeader(size int64) ([]byte, error) {
	page := int64(os.Getpagesize())
	if size < 2*page || size%page != 0 || size/page > 1<<32 {
		return nil, fmt.Errorf("swap space of %d bytes: want a multiple of %d, at least two of them and at most 2^32", size, page)
	}
	// union swap_header in include/linux/swap.h: version, last page and number
	// of bad pages at 1024, the signature at the end of the first page.
	head := make([]byte, page)
	binary.NativeEndian.PutUint32(head[1024:], 1)
	binary.NativeEndian.PutUint32(head[1028:], uint32(size/page-1))
	copy(head[page-10:], "SWAPSPACE2")
	return head, nil
}

// SwapOn begins swapping to a file or block device that begins with a [SwapHeader],
// swapon(2). The error is a *os.PathError.
func SwapOn(path string) error {
	if e := pathCall(unix.SYS_SWAPON, path); e != 0 {
		return &os.PathError{Op: "swapon", Path: path, Err: e}
	}
	return nil
}

// SwapOff ends swapping to a file or block device, swapoff(2), and does so again
// where a signal ends it early: the kernel, which has to read everything back,
// then returns EINTR and goes on swapping (try_to_unuse, mm/swapfile.c), and Go's
// runtime sends signals to its own threads. The error is a *os.PathError.
func SwapOff(path string) error {
	for {
		switch e := pathCall(unix.SYS_SWAPOFF, path); e {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return &os.PathError{Op: "swapoff", Path: path, Err: e}
		}
	}
}

func pathCall(nr uintptr, path string) unix.Errno {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return unix.EINVAL // a NUL byte in it
	}
	_, _, e := unix.Syscall(nr, uintptr(unsafe.Pointer(p)), 0, 0)
	return e
}
