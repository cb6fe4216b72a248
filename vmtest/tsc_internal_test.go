// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"runtime"
	"testing"

	"gotest.tools/v3/assert"
)

// TestTSCKHz: a counter that runs is a plausible number of MHz.
func TestTSCKHz(t *testing.T) {
	khz := tscKHz()
	t.Logf("%d kHz", khz)
	if runtime.GOARCH != "amd64" {
		assert.Equal(t, khz, 0)
		return
	}
	// A host whose counter is not constant has none; the kernel says so in
	// /proc/cpuinfo.
	assert.Assert(t, khz == 0 || khz >= 500_000 && khz <= 10_000_000 && khz%1000 == 0, "%d", khz)
}
