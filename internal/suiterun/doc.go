// SPDX-License-Identifier: Apache-2.0

// Package suiterun takes a suite's test binary to a job with a verdict: it describes
// and builds suites, runs their tests in one VM or in many ([Runner.RunSuite]), goes on
// after a kernel that failed, joins what all VMs say as if it had been one, has
// package result judge, and runs one test again ([Runner.Replay]). [Runner.RunMatrix]
// runs many jobs side by side.
//
// It knows suites and package testing's output. It must not know flags, report formats
// or how a VM is made: a program and what it showed are package runner's. Verdicts are
// made in one place only, result.Judge.
//
// Everything that the guest prints is untrusted: a test counts as passed only when the
// marks in the kernel log, the output and the end of the test binary agree.
package suiterun
