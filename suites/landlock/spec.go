// SPDX-License-Identifier: Apache-2.0

// Package landlock tests the Landlock security module from user space: the
// contract of its three system calls, TCP bind and connect rules, file system
// rights, the scoping of signals and abstract unix sockets, inheritance and
// ptrace; and, on a kernel that has the proposed patch, LISTEN_TCP.
//
// The package itself holds only the suite's [Spec], for the host. The tests
// need root in a VM of their own. A landlock domain belongs to one thread and
// can never be left, so every test confines a thread that ends with it, or a
// helper process where whole processes matter.
package landlock

import (
	"time"

	"github.com/kvmrun/kvmrun/suites"
)

// FeatureListenTCP and the following are what tests probe at run time.
const (
	// FeatureListenTCP is the proposed LANDLOCK_ACCESS_NET_LISTEN_TCP.
	FeatureListenTCP = "listen_tcp"
	// FeatureNoListenTCP is its absence, for what unpatched kernels answer.
	FeatureNoListenTCP = "no_listen_tcp"
	// FeatureErrata is LANDLOCK_CREATE_RULESET_ERRATA with the erratum that a
	// test names; kernels get them by stable updates, in no version's order.
	FeatureErrata = "landlock_errata"
	// FeatureFastOpen is TCP Fast Open being subject to CONNECT_TCP, a fix
	// that came by stable updates as well and has no erratum number.
	FeatureFastOpen = "landlock_tcp_fastopen"
	// FeatureSMC is a loadable SMC protocol.
	FeatureSMC = "smc"
)

// Spec is what the landlock suite needs.
var Spec = suites.Spec{
	Name: "landlock",
	Doc:  "Landlock: syscall contract, TCP and file system rights, scopes, inheritance",
	Kconfig: []string{
		"SECURITY_LANDLOCK=y", "SECURITYFS=y", "INET=y", "TMPFS=y", "UNIX=y", "PROC_FS=y",
	},
	OptionalKconfig: []string{"IPV6=y", "MPTCP=y", "MPTCP_IPV6=y", "KEYS=y", "SMC=y", "INET_ESPINTCP=y"},
	Features: []string{
		FeatureListenTCP, FeatureNoListenTCP, FeatureErrata, FeatureFastOpen, FeatureSMC,
	},
	Timeout: 2 * time.Minute,
}
