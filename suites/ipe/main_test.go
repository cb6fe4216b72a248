// SPDX-License-Identifier: Apache-2.0

package ipe

import (
	"os"
	"testing"

	"github.com/kvmrun/kvmrun/suites/kit"
)

var helpers = kit.Helpers{}

func TestMain(m *testing.M) {
	helpers.RunHelper()
	_ = os.Chmod("/", 0o755)
	os.Exit(m.Run())
}
