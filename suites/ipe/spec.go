// SPDX-License-Identifier: Apache-2.0

// Package ipe tests the Integrity Policy Enforcement security module from user
// space: its files in securityfs and their permissions, the policies it
// refuses, what it audits; and, on a kernel that trusts a key the tests can
// sign with, the life of a policy and how one is evaluated.
//
// The package itself holds only the suite's [Spec], for the host. The tests
// need root in a VM of their own, booted from an initramfs that they run from:
// a policy, once active, can be replaced but not taken back. Every policy here
// goes on allowing the initramfs, or the guest itself could run nothing any
// more.
//
// The tests with policies need [KeyFile] in the guest, the PEM form of the
// private key and certificate that a kernel build leaves in
// certs/signing_key.pem.
package ipe

import (
	"time"

	"github.com/kvmrun/kvmrun/suites"
)

// KeyFile is where the tests look for a key to sign policies with.
const KeyFile = suites.GuestSuiteFiles + "/signing_key.pem"

// FeatureTrustedKey and the following are what tests probe at run time.
const (
	// FeatureTrustedKey is a key in KeyFile that the kernel trusts.
	FeatureTrustedKey = "trusted_key"
	// FeatureNoPolicy is a kernel on which no policy is active yet. A run of
	// the suite's tests a second time in one VM (-count) has none.
	FeatureNoPolicy = "no_active_policy"
)

// Spec is what the ipe suite needs.
var Spec = suites.Spec{
	Name:    "ipe",
	Doc:     "IPE: securityfs interface, policy life cycle and evaluation, audit records",
	Kconfig: []string{"SECURITY_IPE=y", "SECURITYFS=y", "AUDIT=y", "TMPFS=y", "PROC_FS=y"},
	OptionalKconfig: []string{
		"MODULES=y", "KEXEC=y", "KEXEC_FILE=y",
		"IPE_PROP_DM_VERITY=y", "IPE_PROP_DM_VERITY_SIGNATURE=y",
		"IPE_PROP_FS_VERITY=y", "IPE_PROP_FS_VERITY_BUILTIN_SIG=y",
	},
	Features: []string{FeatureTrustedKey, FeatureNoPolicy},
	// What a test activates, all that come after it have.
	Isolate: suites.IsolateTest,
	Timeout: 2 * time.Minute,
}
