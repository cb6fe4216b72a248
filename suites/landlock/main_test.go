// SPDX-License-Identifier: Apache-2.0

package landlock

import (
	"testing"

	"github.com/kvmrun/kvmrun/suites/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m, Spec, helpers) }
