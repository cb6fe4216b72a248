// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Tmpfs mounts a fresh tmpfs with these mount flags (unix.MS_*) on a new
// directory, which it returns, and takes it down when the test ends. Unlike
// the initramfs, it is a file system of its own and has extended attributes
// where the kernel has CONFIG_TMPFS_XATTR.
func Tmpfs(t testing.TB, flags uintptr) string {
	t.Helper()
	// Not t.TempDir, whose parent is closed to other users than root.
	dir, err := os.MkdirTemp("", "kvmrun-tmpfs-")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("kvmrun-test", dir, "tmpfs", flags, "mode=0755"); err != nil {
		_ = os.Remove(dir)
		t.Fatalf("mount tmpfs on %s: %v", dir, err)
	}
	t.Cleanup(func() {
		// A process of the test may still be dying with a file open.
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	// The mount point itself, which MkdirTemp made for root only, is covered.
	return dir
}

// SwapOff ends swapping to a file or block device, swapoff(2), and does so again
// where a signal ends it early: the kernel, which has to read everything back,
// then returns EINTR and goes on swapping (try_to_unuse, mm/swapfile.c), and Go's
// runtime sends signals to its own threads. The error is a *os.PathError.
func SwapOff(path string) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return &os.PathError{Op: "swapoff", Path: path, Err: err}
	}
	for {
		_, _, e := unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(p)), 0, 0)
		switch e {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return &os.PathError{Op: "swapoff", Path: path, Err: e}
	}
}
