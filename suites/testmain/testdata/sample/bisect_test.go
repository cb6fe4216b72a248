// SPDX-License-Identifier: Apache-2.0

package sample

import (
	"os"
	"strings"
	"testing"

	"github.com/kvmrun/kvmrun/suites"
)

// TestConfigured fails on a kernel whose configuration says so: a regression
// for bisecting.
func TestConfigured(t *testing.T) {
	text, err := os.ReadFile(suites.GuestConfigFile)
	if err != nil {
		return // not in a guest
	}
	if strings.Contains(string(text), "CONFIG_SAMPLE_BROKEN=y") {
		t.Fatal("the configuration is broken")
	}
}
