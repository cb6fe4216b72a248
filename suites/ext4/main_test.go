// SPDX-License-Identifier: Apache-2.0

package ext4

import (
	"flag"
	"testing"

	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/testmain"
)

var (
	// iterations scales the random tests; the default is for TCG and CI.
	iterations = flag.Int("iterations", 1, "multiple of the random tests' default size")
	// seedFlag repeats a random test.
	seedFlag = flag.Uint64("seed", 0, "seed of the random tests, 0 for a new one")
)

var helpers = kit.Helpers{"fallocateBeyondLimit": fallocateBeyondLimit}

func TestMain(m *testing.M) { testmain.Run(m, Spec, helpers) }
