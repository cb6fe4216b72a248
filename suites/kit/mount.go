// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Tmpfs mounts a fresh tmpfs with these mount flags (unix.MS_*) on a new
// directory, which it returns, and takes it down when the test ends. Unlike
// the initramfs, it is a file system of its own and has extended attributes
// where the kernel has CONFIG_TMPFS_XATTR.
func Tmpfs(t testing.TB, flags uintptr) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("kvmrun-test", dir, "tmpfs", flags, "mode=0755"); err != nil {
		t.Fatalf("mount tmpfs on %s: %v", dir, err)
	}
	t.Cleanup(func() {
		// A process of the test may still be dying with a file open.
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
