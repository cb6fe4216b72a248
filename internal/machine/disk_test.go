// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"os/exec"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites"
)

// TestADiskWithoutItsToolNamesTheCure: the Spec knows the package.
func TestADiskWithoutItsToolNamesTheCure(t *testing.T) {
	s := suites.Disk{Name: "d", SizeMiB: 1, Mkfs: []string{"mkfs.kvmrun-test"}, Package: "kvmrun-test-progs"}
	_, err := makeDisk(t.Context(), t.TempDir(), s)
	assert.ErrorIs(t, err, exec.ErrNotFound)
	assert.ErrorContains(t, err, "mkfs.kvmrun-test")
	assert.ErrorContains(t, err, "apt-get install kvmrun-test-progs")
	s.Package = ""
	_, err = makeDisk(t.Context(), t.TempDir(), s)
	assert.ErrorContains(t, err, "install the package that has it")
}
