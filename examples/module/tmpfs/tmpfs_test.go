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
	"github.com/kvmrun/kvmrun/suites/testmain"
)

// Spec says what the VM must have. It is read on the host, before anything boots.
var Spec = suites.Spec{
	Name:            "tmpfs",
	Doc:             "tmpfs: limits, permissions, read-only mounts",
	Kconfig:         []string{"TMPFS", "MULTIUSER"},
	OptionalKconfig: []string{"TMPFS_XATTR"},
}

// A helper runs in a process of its own.
var helpers = kit.Helpers{
	"whoami": func(json.RawMessage) (any, error) { return os.Getuid(), nil },
}

func TestMain(m *testing.M) { testmain.Run(m, Spec, helpers) }

// TestOtherUser: a file that only root may read is closed to a thread of another user.
func TestOtherUser(t *testing.T) {
	file := filepath.Join(kit.Tmpfs(t, 0), "file")
	assert.NilError(t, os.WriteFile(file, []byte("secret"), 0o600))
	kit.OnThread(t, func() { // whose user ends with it
		assert.NilError(t, kit.SetUID(65534))
		_, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		kit.WantErrno(t, "open a file of root's", err, unix.EACCES)
	})
	assert.Equal(t, kit.Call[int](t, "whoami", nil), 0)
}

func TestReadOnly(t *testing.T) {
	dir := kit.Tmpfs(t, unix.MS_RDONLY)
	kit.WantErrno(t, "make a file", os.WriteFile(filepath.Join(dir, "file"), nil, 0o600), unix.EROFS)
}

// TestXattr skips on a kernel without the option, and the host checks that.
func TestXattr(t *testing.T) {
	kit.NeedKconfig(t, "TMPFS_XATTR")
	dir := kit.Tmpfs(t, 0)
	assert.NilError(t, unix.Setxattr(dir, "trusted.mine", []byte("value"), 0))
	buf := make([]byte, 10)
	n, err := unix.Getxattr(dir, "trusted.mine", buf)
	assert.NilError(t, err)
	assert.Equal(t, string(buf[:n]), "value")
}
