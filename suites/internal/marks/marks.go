// SPDX-License-Identifier: Apache-2.0

// Package marks writes what a test binary tells the host in the kernel log: which
// test begins and ends, which splats it expects, what must survive a power cut. The
// host believes a mark by the word that it carries, which is the run's own and only
// the test binary knows: see wire.MarksEnv.
package marks

import (
	"os"
	"sync/atomic"

	"github.com/kvmrun/kvmrun/internal/wire"
)

var nonce atomic.Pointer[string]

// Take takes the run's word out of the environment.
func Take() {
	if n, ok := os.LookupEnv(wire.MarksEnv); ok {
		Set(n)
		_ = os.Unsetenv(wire.MarksEnv) // fails for an empty name only
	}
}

// Set is Take for a process that is told later.
func Set(word string) { nonce.Store(&word) }

// Nonce is what marks carry, "" where there are none.
func Nonce() string {
	if n := nonce.Load(); n != nil {
		return *n
	}
	return ""
}
