// SPDX-License-Identifier: Apache-2.0

// Package front is what the two front ends, kvmrun and go test with a suite,
// have in common: flags, in groups, each with its name, text, default and
// validation; what a user calls a kernel; and how an error becomes a message and
// an exit status.
//
// It knows flags, the environment's variables by a function, and files. It must
// not know VMs, suites' tests and where kernels are fetched from: that is handed
// in, so that a suite's test binary, which is the guest's init as well, links only
// what its composition root chooses.
//
// Flags are those of the standard library, because go test's are: both front ends
// parse with the same code and therefore accept the same spellings. A message
// about wrong usage names what was given, what is wrong with it and the cure, and
// has at most five lines.
//
// It must not know VMs, nor where kernels come from.
package front
