// SPDX-License-Identifier: Apache-2.0

// Package catalog lists the Specs of the suites that come with kvmrun, as plain
// data and without building anything, for those who must know what all of them need
// of the host. It is the only place that names concrete suites; a suite of a user's
// own is known by its test binary alone (suiterun.Describe).
//
// It must not know how a suite is built or run.
package catalog

import (
	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/ext4"
	"github.com/kvmrun/kvmrun/suites/ipe"
	"github.com/kvmrun/kvmrun/suites/landlock"
	"github.com/kvmrun/kvmrun/suites/pamcap"
	"github.com/kvmrun/kvmrun/suites/uffdwp"
)

// Specs returns the Spec of each suite of this module, sorted by name. They share
// memory with the suites' own: read only.
func Specs() []suites.Spec {
	return []suites.Spec{ext4.Spec, ipe.Spec, landlock.Spec, pamcap.Spec, uffdwp.Spec}
}
