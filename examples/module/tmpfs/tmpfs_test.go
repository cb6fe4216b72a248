// SPDX-License-Identifier: Apache-2.0

// Package tmpfs is a suite of kernel tests outside kvmrun's module.
package tmpfs

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/kit/fs"
	"github.com/kvmrun/kvmrun/suites/testmain"
)

// Spec says what the VM must have. It is read on the host, before anything boots.
var Spec = suites.Spec{
	Name:            "tmpfs",
	Doc:             "tmpfs beside ext4: permissions, read-only mounts, attributes, holes",
	Kconfig:         []string{"TMPFS", "MULTIUSER"},
	OptionalKconfig: []string{"TMPFS_XATTR", "EXT4_FS", "VIRTIO_BLK"},
	Modules:         []string{"virtio_blk"},
	Disks: []suites.Disk{{
		Name: "disk", SizeMiB: 16, Mkfs: []string{"mkfs.ext4", "-q"}, Fsck: []string{"e2fsck", "-fn"}, Package: "e2fsprogs",
	}},
}

// A helper runs in a process of its own.
var helpers = kit.Helpers{
	"whoami": func(json.RawMessage) (any, error) { return os.Getuid(), nil },
}

func TestMain(m *testing.M) { testmain.Run(m, Spec, helpers) }

// TestOtherUser: a file that only root may read is closed to a thread of another user.
func TestOtherUser(t *testing.T) {
	file := filepath.Join(fs.Tmpfs(t, 0), "file")
	assert.NilError(t, os.WriteFile(file, []byte("secret"), 0o600))
	kit.OnThread(t, func() { // whose user ends with it
		assert.NilError(t, kit.SetUID(65534))
		_, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		kit.WantErrno(t, "open a file of root's", err, unix.EACCES)
	})
	assert.Equal(t, kit.Call[int](t, "whoami", nil), 0)
}

func TestReadOnly(t *testing.T) {
	dir := fs.Tmpfs(t, unix.MS_RDONLY)
	kit.WantErrno(t, "make a file", os.WriteFile(filepath.Join(dir, "file"), nil, 0o600), unix.EROFS)
}

// TestXattr skips on a kernel without the option, and the host checks that.
func TestXattr(t *testing.T) {
	kit.NeedKconfig(t, "TMPFS_XATTR")
	dir := fs.Tmpfs(t, 0)
	assert.NilError(t, unix.Setxattr(dir, "trusted.mine", []byte("value"), 0))
	buf := make([]byte, 10)
	n, err := unix.Getxattr(dir, "trusted.mine", buf)
	assert.NilError(t, err)
	assert.Equal(t, string(buf[:n]), "value")
}

// TestHole: ext4 maps what was written and nothing else; tmpfs cannot be asked.
func TestHole(t *testing.T) {
	kit.NeedKconfig(t, "EXT4_FS", "VIRTIO_BLK")
	disk := fs.New(t, kit.Disk(t, "disk"), "ext4", 0, "")
	disk.Mount()
	const hole = 1 << 20
	for _, dir := range []string{disk.Path, fs.Tmpfs(t, 0)} {
		f, err := os.Create(filepath.Join(dir, "file"))
		assert.NilError(t, err)
		_, err = f.WriteAt([]byte("behind a hole"), hole)
		assert.NilError(t, err)
		extents, err := fs.Fiemap(int(f.Fd()), fs.FiemapSync)
		assert.NilError(t, f.Close())
		if dir != disk.Path {
			kit.WantErrno(t, "FIEMAP on tmpfs", err, unix.EOPNOTSUPP)
			continue
		}
		assert.NilError(t, err)
		assert.Equal(t, len(extents), 1)
		assert.Equal(t, extents[0].Logical, uint64(hole))
	}
	disk.Unmount() // the host's fsck looks at it afterwards
}
