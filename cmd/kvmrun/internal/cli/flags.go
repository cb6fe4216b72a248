// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"flag"
	"strings"

	"github.com/kvmrun/kvmrun/internal/front"
)

// parse parses a command's flags.
func parse(fs *flag.FlagSet, args []string) error {
	verb := strings.TrimPrefix(fs.Name(), "kvmrun ")
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
