// SPDX-License-Identifier: Apache-2.0

// Package uffdwp tests userfaultfd write protection: that a write to a
// protected page is trapped exactly once, that lifting the protection lets
// exactly that write through, and that neither huge page splits, mprotect,
// fork, swap nor migration loses or invents protection.
//
// # How the tests are built
//
// The memory under test never belongs to the process that judges. A test
// starts a subject: the test binary again, as a helper process, whose threads
// execute single operations (a store, a load, a system call, a fork) that the
// test sends them over sockets. The test itself holds the userfaultfd (got
// with pidfd_getfd), reads its events and issues the ioctls from outside. So a
// thread of the subject may block in a page fault for as long as it likes, a
// kernel that traps for ever or kills the subject with a signal is something
// the test observes, and the Go runtime of the judge is never stopped by a
// fault. The alternatives (a handler goroutine beside a faulting goroutine)
// deadlock as soon as the garbage collector wants to stop the faulting thread,
// which looks to the scheduler as if it were running.
//
// The subject's loop runs with all signals blocked and without Go's runtime
// (no stack growth, no allocation, no preemption), hence it survives a raw
// clone(2): forked children are ordinary threads to the test.
//
// The package itself holds only the suite's Spec and the subject; the tests
// are in the _test files. The tests do not run in parallel: several change
// system-wide settings (huge pages, KSM, swap).
package uffdwp
