// SPDX-License-Identifier: Apache-2.0

package guest

import "embed"

// Source is this package's own, as it was when the program was built: programs with the
// same one have the same agent, whatever else they are.
//
//go:embed *.go
var Source embed.FS
