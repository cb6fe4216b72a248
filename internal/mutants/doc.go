// SPDX-License-Identifier: Apache-2.0

// Package mutants proves that a suite can catch a bug: it brings known bugs
// back into a kernel and looks whether the suite notices.
//
// # Scope
//
// A mutant is a kernel patch with a header ([Parse], [Load]) that says which
// bug it is, which tests must catch it and what they then see. [Run] builds
// each, runs the suite, and judges ([Row]). It knows neither make nor QEMU:
// both come in as functions ([Config]).
//
// # What a table is worth
//
// Nothing, unless the suite is green on the same kernel without a mutant: that
// control run comes first, once for each suite and profile, and a suite whose
// control is not green gets no row "killed" ([NoControl]). A mutant counts as
// killed only if a test that its header names failed; when another one did, the
// row says so ([KilledElsewhere]), because a suite that fails for another
// reason proves nothing about this bug.
//
// # Concurrency and lifetime
//
// Run calls one function at a time: builds share a tree and VMs share the
// machine. Loaded mutants are read-only.
//
// It must not know VMs: who runs the suite is the caller's matter.
package mutants
