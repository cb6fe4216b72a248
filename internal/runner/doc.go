// SPDX-License-Identifier: Apache-2.0

// Package runner takes one job from a kernel and a program to a verdict: it is
// the first place where the VM (package machine), the agent's protocol and the splat
// parser meet.
//
// [Machine.Exec] boots one VM, runs one program in it and reports facts, an
// [Outcome]. [Machine.RunSuite] adds a suite's test binary and folds its
// output into a result.Job; [Machine.RunMatrix] runs many of them side by
// side. Verdicts are made in one place only, result.Judge.
//
// [Machine.Sweep] injects a fault at one point of a program after the other, each
// in a machine forked from one in which the program stands still ([Sweeper]), or
// cuts the power at one write after the other. Which points, and what is made of
// the outcomes, is package sweep's.
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
