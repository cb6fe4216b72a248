// SPDX-License-Identifier: Apache-2.0

// Package expect is a suite whose tests make a real kernel complain, and say so.
package expect

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/testmain"
)

func TestMain(m *testing.M) {
	testmain.Run(m, suites.Spec{
		Name: "expect", MemoryMiB: 256, Kconfig: []string{"EXT4_FS"}, Modules: []string{"virtio_blk", "ext4"},
		Disks: []suites.Disk{{Name: "victim", SizeMiB: 16, Mkfs: []string{"mkfs.ext4", "-q"}}},
	}, nil)
}

// been is a file that complain leaves in its VM.
const been = "/tmp/been-here"

// complain lets the file system report an error, which is what its file
// trigger_fs_error is for (Documentation/ABI/testing/sysfs-fs-ext4).
func complain(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(been, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dev, dir := kit.Disk(t, "victim"), t.TempDir()
	if err := unix.Mount(dev, dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	if err := os.WriteFile(filepath.Join("/sys/fs/ext4", filepath.Base(dev), "trigger_fs_error"), []byte("on purpose"), 0); err != nil {
		t.Fatal(err)
	}
}

func TestExpected(t *testing.T) {
	kit.ExpectSplat(t, "EXT4-fs error in trigger_test_error")
	complain(t)
}

// TestFresh runs in another VM.
func TestFresh(t *testing.T) {
	if _, err := os.Stat(been); err == nil {
		t.Error("the VM of the splat goes on")
	}
}

// TestOther expects something else.
func TestOther(t *testing.T) {
	kit.ExpectSplat(t, "WARNING in .*")
	complain(t)
}
