// SPDX-License-Identifier: Apache-2.0

// Package sweep injects one fault after the other into the same test, and
// judges the kernel each time.
//
// It knows neither VMs nor formats of command lines: a [Target] runs the test
// once, with one fault armed, in a machine that is as fresh as the one before.
// The package finds the points at which a fault can be injected, chooses among
// them, runs them, keeps what came of them in a file so that a sweep can be
// interrupted and continued, and reports.
//
// # Points
//
// A point is one call of the kernel's fault injector by the test's process
// tree, in one undisturbed run. A site is a call stack; many points share one.
// Both come from a run in which every call prints its stack and none fails
// ([ParseDumps], [Learn]).
//
// A point is not armed by its number alone. Go's runtime and the scheduler
// make some allocations come and go, which would shift all numbers after them.
// Where the kernel can filter by caller, the point is the n-th call of those
// that have a certain return address in their stack: the address that the
// fewest calls of the run share. The fault that was injected prints its own
// stack, and the report says whether that is the one that was meant.
//
// # Verdicts
//
// It is the kernel that is judged: a splat, a hang, a leak or a broken file
// system is a finding, whatever the test says. A test that fails because an
// allocation failed is degraded, which is what is to be expected.
//
// A leak is what the kernel's own detector (kmemleak) calls lost after the test
// and all that it left behind are gone, or a slab cache's objects; only what is
// more than in two runs without a fault, and shows twice, counts. kmemleak
// scans all memory twice and trusts nothing that is younger than five seconds:
// a point then takes as much longer, where a fault was injected.
//
// # Concurrency
//
// Run is called once at a time; it calls the Target from several goroutines.
//
// It must not know VMs or flags: package sweeprun carries a sweep out.
package sweep
