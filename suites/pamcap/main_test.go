// SPDX-License-Identifier: Apache-2.0

package pamcap

import (
	"testing"

	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/testmain"
)

var helpers = kit.Helpers{"state": helpState}

func TestMain(m *testing.M) { testmain.Run(m, Spec, helpers) }
