// SPDX-License-Identifier: Apache-2.0

//go:build !amd64

package vmtest

// tscKHz is 0: only a host of the guest's architecture has the guest's counter.
func tscKHz() int { return 0 }
