// SPDX-License-Identifier: Apache-2.0

package testmain

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/kvmrun/kvmrun/initramfs/guest"
	"github.com/kvmrun/kvmrun/internal/suiterun"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/internal/guestmain"
	"github.com/kvmrun/kvmrun/suites/internal/testlist"
	"github.com/kvmrun/kvmrun/suites/kit"
)

// Run is a suite's TestMain. It does not return.
func Run(m *testing.M, spec suites.Spec, helpers kit.Helpers) {
	helpers.RunHelper()
	if guest.IsInit() {
		guest.Main()
	}
	if os.Getenv(wire.GuestEnv) != "" {
		os.Exit(guestmain.Run(m))
	}
	if os.Getenv(wire.DescribeEnv) != "" {
		os.Exit(describe(m, spec))
	}
	os.Exit(runHost(m, spec))
}

// describe prints what kvmrun wants to know before it boots anything.
func describe(m *testing.M, spec suites.Spec) int {
	s := suiterun.Suite{Spec: spec, Tests: testlist.Names(m), Rest: testlist.Rest(m)}
	if err := json.NewEncoder(os.Stdout).Encode(s); err != nil {
		fmt.Fprintln(os.Stderr, "kvmrun: describe the suite:", err)
		return 1
	}
	return 0
}
