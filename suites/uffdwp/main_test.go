// SPDX-License-Identifier: Apache-2.0

package uffdwp

import (
	"flag"
	"os"
	"testing"

	"github.com/kvmrun/kvmrun/suites/kit"
)

// iterations scales the stress tests; the default is for TCG and CI.
var iterations = flag.Int("iterations", 1, "multiple of the stress tests' default size")

var helpers = kit.Helpers{"subject": runSubject}

func TestMain(m *testing.M) {
	helpers.RunHelper()
	os.Exit(m.Run())
}
