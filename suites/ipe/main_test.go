// SPDX-License-Identifier: Apache-2.0

package ipe

import (
	"testing"

	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/testmain"
)

var helpers = kit.Helpers{}

func TestMain(m *testing.M) { testmain.Run(m, Spec, helpers) }
