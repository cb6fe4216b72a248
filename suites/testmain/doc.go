// SPDX-License-Identifier: Apache-2.0

// Package testmain is the TestMain of a suite:
//
//	func TestMain(m *testing.M) { testmain.Run(m, ext4.Spec, helpers) }
//
// One test binary plays every part. On the host, under go test, it boots the
// kernel given by -kernel (or KVMRUN_KERNEL) with itself in the initramfs. In
// the VM it is first the init process and agent, then, started by the agent
// with go test's own arguments, the test binary that go test meant to run; and
// it may start itself again as a helper process. What go test prints on the
// host is what it would have printed in the guest.
//
// The flags for kernels, VMs and policy are those of kvmrun run, from package
// internal/front, with the same values, errors and names of kernels; -timeout is go
// test's. A relative name of a file is looked for in the package's directory, where
// go test starts the test binary, and then at the top of the module.
//
// Without a kernel nothing is tested, and go test says "ok ... [no tests to run]".
// With one, a run that tests nothing fails unless -allow-nothing is given: where
// the kernel lacks what the suite needs, where every selected test is skipped, or
// where -run selects no subtest of a test. An expression that matches no test of
// the package at all passes, as with go test.
//
// This package is where host and guest code meet, as in cmd/kvmrun; nothing
// else may import both.
package testmain
