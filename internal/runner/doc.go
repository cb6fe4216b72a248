// SPDX-License-Identifier: Apache-2.0

// Package runner runs one program in one VM from beginning to end: it is the first
// place where the VM (package machine), the conversation with its agent (package
// agent) and its kernel log (package klog) meet.
//
// [Machine.Exec] boots a VM, or forks it from a [Template], runs the program and
// reports facts, an [Outcome]; [Outcome.GoOn] and [Outcome.Also] are how the facts of
// several VMs become those of one job, and there is no other way.
//
// It must not know tests but by the marks that package klog finds, nor suites, flags or
// report formats. What a verdict is made of is [Outcome.Facts]; verdicts are made in
// one place only, result.Judge.
//
// # Trust
//
// Everything that comes from the guest is bounded and treated as hostile: it
// cannot name a host path, outgrow memory or the disk, or keep the host
// waiting past a deadline. A run without the explicit end marker, a kernel log
// that was not read to its end and a lost VM are never a pass.
//
// Three witnesses say what the kernel reported: the console, the agent, which reads
// /dev/kmsg to its end, and the taint bits before and after each test. A report that
// only the agent has counts as any other does; a bit that only a failure sets and
// no report explains is a failure of its own. Marks in the kernel log (which test
// runs, which splat it expects) count when they carry a word that is drawn for the
// run and that only a suite's test binary knows. With isolation by test it is the
// VM that says whose a splat is.
//
// # Lifetime
//
// Exec returns after QEMU is gone, whatever happened, and leaves nothing but
// the logs in the directory it was given. Cancelling its context kills the VM.
// A Machine is safe for concurrent use and needs no closing.
package runner
