// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// withFD calls fn with the descriptor of f. Unlike File.Fd it leaves the file's
// blocking mode alone.
func withFD(f *os.File, fn func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("use descriptor: %w", err)
	}
	var inner error
	if err := c.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil {
		return fmt.Errorf("use descriptor: %w", err)
	}
	return inner
}

// accessMode returns os.O_RDONLY, O_WRONLY or O_RDWR.
func accessMode(f *os.File) (mode int, err error) {
	err = withFD(f, func(fd int) error {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		mode = flags & unix.O_ACCMODE
		return os.NewSyscallError("fcntl", err)
	})
	return mode, err
}

// reopen returns a descriptor of an image for QEMU to inherit, in exactly the
// access mode the disk needs: QEMU's descriptor sets insist on it.
func reopen(f *os.File, readOnly bool) (*os.File, error) {
	mode, err := accessMode(f)
	if err != nil {
		return nil, err
	}
	var dup *os.File
	err = withFD(f, func(fd int) error {
		if readOnly && mode != os.O_RDONLY {
			// Works for a file that has no name any more, too.
			var err error
			dup, err = os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
			return err
		}
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		dup = os.NewFile(uintptr(n), f.Name())
		return nil
	})
	return dup, err
}
