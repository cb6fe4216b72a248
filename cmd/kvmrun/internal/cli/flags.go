// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"flag"

	"github.com/kvmrun/kvmrun/internal/front"
)

// parse parses the flags of the command called verb.
func parse(fs *flag.FlagSet, verb string, args []string) error {
	return front.Parse(fs, args, verb, "usage: kvmrun "+verb+" [flags]; kvmrun help "+verb+" describes them")
}

// check checks groups of flags.
func check(groups ...interface{ Check() error }) error {
	for _, g := range groups {
		if err := g.Check(); err != nil {
			return err
		}
	}
	return nil
}
