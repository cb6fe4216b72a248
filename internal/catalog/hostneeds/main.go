// SPDX-License-Identifier: Apache-2.0

// Command hostneeds prints what the suites' Specs need of the host, a line each, for
// .ci/setup: "command PACKAGE NAME", or "file PACKAGE GLOB..." of which one must match.
//
// It must not know how any of it is installed.
package main

import (
	"fmt"
	"strings"

	"github.com/kvmrun/kvmrun/internal/catalog"
)

func main() {
	seen := map[string]bool{}
	for _, s := range catalog.Specs() {
		for _, n := range append(s.HostNeeds(), s.BuildNeeds()...) {
			line := "command " + n.Package + " " + n.Command
			if n.Command == "" {
				line = "file " + n.Package + " " + strings.Join(n.Files, " ")
			}
			if !seen[line] {
				seen[line] = true
				fmt.Println(line)
			}
		}
	}
}
