// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Mount is a file system and a place for it: a directory of its own, closed to no
// user, that is gone when the test ends.
type Mount struct {
	// Path is where it is mounted, or will be.
	Path string

	t       testing.TB
	source  string
	fstype  string
	flags   uintptr
	data    string
	mounted bool
}

// New prepares a mount(2) of source (a device, or what the file system calls one)
// with these flags (unix.MS_*) and options, for the rest of the test.
func New(t testing.TB, source, fstype string, flags uintptr, data string) *Mount {
	t.Helper()
	// Not t.TempDir, whose parent is closed to other users than root.
	dir, err := os.MkdirTemp("", "kvmrun-mount-")
	if err != nil {
		t.Fatal(err)
	}
	m := &Mount{Path: dir, t: t, source: source, fstype: fstype, flags: flags, data: data}
	t.Cleanup(func() {
		if m.mounted {
			// A process of the test may still be dying with a file open.
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Errorf("unmount %s: %v", dir, err)
			}
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return m
}

// Mount mounts it. It fails the test where the kernel refuses, or where it is mounted.
func (m *Mount) Mount() {
	m.t.Helper()
	if m.mounted {
		m.t.Fatalf("mount %s on %s: it is mounted there", m.source, m.Path)
	}
	if err := unix.Mount(m.source, m.Path, m.fstype, m.flags, m.data); err != nil {
		m.t.Fatalf("mount %s (%s) on %s with %q: %v", m.source, m.fstype, m.Path, m.data, err)
	}
	m.mounted = true
}

// Unmount takes it down, and fails the test where it is in use: then it is detached,
// so that its place can be used again. What is not mounted stays so.
func (m *Mount) Unmount() {
	m.t.Helper()
	if !m.mounted {
		return
	}
	m.mounted = false
	if err := unix.Unmount(m.Path, 0); err != nil {
		m.t.Errorf("unmount %s: %v", m.Path, err)
		_ = unix.Unmount(m.Path, unix.MNT_DETACH)
	}
}

// Tmpfs mounts a fresh tmpfs with these mount flags (unix.MS_*) on a new
// directory, which it returns, and takes it down when the test ends. Unlike
// the initramfs, it is a file system of its own and has extended attributes
// where the kernel has CONFIG_TMPFS_XATTR.
func Tmpfs(t testing.TB, flags uintptr) string {
	t.Helper()
	// The mount point itself, which is root's only, is covered.
	m := New(t, "kvmrun-test", "tmpfs", flags, "mode=0755")
	m.Mount()
	return m.Path
}

// Bind shows the directory or file from at to as well, which exists, and takes that
// away when the test ends.
func Bind(t testing.TB, from, to string) {
	t.Helper()
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("bind %s to %s: %v", from, to, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(to, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", to, err)
		}
	})
}

// DropPages drops clean pages from the page cache and nothing else: inodes, and what
// file systems remember beside, stay (Documentation/admin-guide/sysctl/vm.rst).
func DropPages(t testing.TB) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
		t.Fatalf("drop the page cache: %v", err)
	}
}
