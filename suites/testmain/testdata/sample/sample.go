// SPDX-License-Identifier: Apache-2.0

// Package sample is a suite for testmain's own tests: it does what test
// binaries do, well and badly.
package sample

// Half is covered by half of the tests.
func Half(b bool) int {
	if b {
		return 1
	}
	return 2
}
