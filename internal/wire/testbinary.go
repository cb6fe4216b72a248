// SPDX-License-Identifier: Apache-2.0

package wire

// What the host and a suite's test binary have agreed on, beside the messages and
// the marks: variables of its environment, exit statuses, places in the guest.
const (
	// DescribeEnv, set to 1, makes a test binary print what it is, as JSON, and
	// exit. It is set on the host, before any VM.
	DescribeEnv = "KVMRUN_DESCRIBE"
	// GuestEnv, set to 1, tells a test binary that it runs in the guest.
	GuestEnv = "KVMRUN_GUEST"
	// HoldEnv, set to 1, tells it to stop itself just before the tests, where
	// faults are armed and forks are made: see [HoldStop].
	HoldEnv = "KVMRUN_HOLD"
	// ResumeEnv, set to 1, tells it to end with ExitPoisoned or ExitPoisonedWell
	// when a test is about to begin on a kernel that has printed a splat.
	ResumeEnv = "KVMRUN_RESUME"
	// DoneEnv lists tests that have run in earlier VMs, one a line.
	DoneEnv = "KVMRUN_DONE"
)

// Exit statuses under [ResumeEnv]. Package testing uses 0, 1 and 2.
const (
	ExitPoisoned     = 86 // a test has failed so far
	ExitPoisonedWell = 87 // none has: the splats were expected
)

// Where a test binary writes profiles in the guest, and the coverage runtime its
// counters. The host fetches from there.
const (
	ProfileDir = "/tmp/kvmrun-out"
	CoverDir   = ProfileDir + "/gocoverdir"
)
