// SPDX-License-Identifier: Apache-2.0

package wire

import "embed"

// Source is this package's own, as it was when the program was built.
//
//go:embed *.go
var Source embed.FS
