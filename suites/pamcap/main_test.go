// SPDX-License-Identifier: Apache-2.0

package pamcap

import (
	"flag"
	"testing"

	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/testmain"
)

var helpers = kit.Helpers{"state": helpState}

var iterations = flag.Int("iterations", 1, "multiple of the models' default size")

func TestMain(m *testing.M) { testmain.Run(m, Spec, helpers) }
