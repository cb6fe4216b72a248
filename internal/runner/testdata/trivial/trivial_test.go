// SPDX-License-Identifier: Apache-2.0

// Package trivial is the suite of the benchmark: one test that does nothing.
package trivial

import (
	"testing"

	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m, suites.Spec{Name: "trivial"}, nil) }

func TestNothing(t *testing.T) {}
