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
// This package is where host and guest code meet, as in cmd/kvmrun; nothing
// else may import both.
package testmain
