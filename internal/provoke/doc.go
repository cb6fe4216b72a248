// SPDX-License-Identifier: Apache-2.0

// Package provoke holds no code but a proof: its test makes real kernels fail
// in every way at hand, and holds kvmrun's verdicts against what was done.
//
// The suite in testdata/suite has one test per provocation, mostly a crash type
// of LKDTM (Documentation/fault-injection/provoke-crashes.rst), and quiet tests
// between them, which have to pass on the fresh VM that comes after a splat.
// The table in provoke_test.go says what must be found of each. It needs a
// kernel made to be broken, named by KVMRUN_DEBUG_KERNEL.
//
// It must not know how a verdict is made: it looks from outside.
package provoke
