// SPDX-License-Identifier: Apache-2.0

package uffdwp

import (
	"flag"
	"testing"

	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/testmain"
)

// iterations scales the stress tests; the default is for TCG and CI.
var iterations = flag.Int("iterations", 1, "multiple of the stress tests' default size")

var helpers = kit.Helpers{"subject": runSubject}

func TestMain(m *testing.M) { testmain.Run(m, Spec, helpers) }
