// SPDX-License-Identifier: Apache-2.0

package ext4

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/kit/fault"
	"github.com/kvmrun/kvmrun/suites/kit/fs"
)

// TestPowerCut writes files and syncs each. Wherever the power is cut, with
// -fault power-cut:DISK,nth=N, what was synced is there afterwards, in a file
// system that the journal has made whole. Without a cut it is an ordinary test.
func TestPowerCut(t *testing.T) {
	disk := fs.New(t, kit.Disk(t, g4k.disk), "ext4", 0, "errors=remount-ro")
	dir := filepath.Join(disk.Path, "powercut")
	content := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, 3000*(i+1)) }
	const files = 8
	fault.PowerCut(t, func(ack func(string)) {
		disk.Mount()
		assert.NilError(t, os.Mkdir(dir, 0o755))
		for i := range files {
			f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
			assert.NilError(t, err)
			assert.NilError(t, unix.Fallocate(int(f.Fd()), 0, 0, 64<<10))
			_, err = f.Write(content(i))
			assert.NilError(t, err)
			assert.NilError(t, f.Sync())
			assert.NilError(t, f.Close())
			// fsync(2) does not promise the name; ext4 does for a new file, but
			// the directory makes sure.
			d, err := os.Open(dir)
			assert.NilError(t, err)
			assert.NilError(t, d.Sync())
			assert.NilError(t, d.Close())
			ack(fmt.Sprint(i))
		}
		disk.Unmount()
	}, func(acked []string) {
		disk.Mount() // replays the journal
		for _, name := range acked {
			var i int
			_, err := fmt.Sscan(name, &i)
			assert.NilError(t, err)
			got, err := os.ReadFile(filepath.Join(dir, name))
			assert.NilError(t, err, "it was synced and is lost")
			assert.Assert(t, bytes.HasPrefix(got, content(i)), "file %s was synced and has lost its data: %d bytes", name, len(got))
		}
		// Nothing is half there: the directory and what is in it can be
		// removed, and the host's fsck has no complaint.
		assert.NilError(t, os.RemoveAll(dir))
		disk.Unmount()
	})
}
