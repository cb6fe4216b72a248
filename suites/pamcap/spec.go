// SPDX-License-Identifier: Apache-2.0

// Package pamcap tests Linux capabilities from user space, from the kernel's
// side (bounding, inheritable and ambient sets, securebits, file capabilities
// across execve) and from that of pam_cap.so, the PAM module that sets them at
// login, which the tests load through the host's real libpam.
//
// The package itself holds only the suite's [Spec], for the host. The tests
// need root in a VM of their own: they write /etc/passwd, /etc/group and
// /etc/pam.d. Capabilities belong to a thread; tests change those of a thread
// that ends with them, and PAM runs in a program in C with one thread, as
// pam_cap(8) demands.
package pamcap

import (
	_ "embed" // capexec
	"time"

	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/pamcap/capbound"
)

// capexec is a program that calls execve(2) with all kinds of credentials.
//
//go:embed src/capexec.c
var capexec string

const capexecPath = "/usr/lib/kvmrun/capexec"

// FeatureGroupNeedsAt and the following are versions of pam_cap.so's
// behaviour, which the tests find out by using it.
const (
	// FeatureGroupNeedsAt is the fix of CVE-2025-1390: a name without @ is no
	// group. libcap 2.74, and Debian's 2.66-4+deb12u1.
	FeatureGroupNeedsAt = "pam_cap_group_needs_at"
	// FeatureConfMode is that a configuration file that others may write is
	// ignored: libcap 2.69.
	FeatureConfMode = "pam_cap_conf_mode"
)

// Spec is what the pamcap suite needs.
var Spec = suites.Spec{
	Name:            "pamcap",
	Doc:             "capabilities: bounding, inheritable, ambient, file capabilities; pam_cap.so",
	Kconfig:         []string{"MULTIUSER=y", "PROC_FS=y", "TMPFS=y", "TMPFS_XATTR=y"},
	OptionalKconfig: []string{"USER_NS=y"},
	Features:        []string{FeatureGroupNeedsAt, FeatureConfMode},
	Files: []suites.File{
		pamModule("pam_cap.so", "libpam-cap"),
		pamModule("pam_permit.so", "libpam-modules"),
		pamModule("pam_deny.so", "libpam-modules"),
		pamModule("pam_debug.so", "libpam-modules"),
		{Host: libDirs("libpam.so.0"), Package: "libpam0g"},
	},
	C: append(capbound.Programs(), suites.CProgram{
		Source: capexec, Guest: capexecPath, Flags: append([]string{"-static"}, capbound.Flags...),
		Needs: []suites.HostNeed{{Files: []string{"/usr/lib/*-linux-gnu/libc.a", "/usr/lib64/libc.a", "/usr/lib/libc.a"}, Package: "libc6-dev"}},
	}),
	Timeout: 2 * time.Minute,
}

// Where distributions keep libraries: Debian and Ubuntu by architecture,
// Fedora and openSUSE in lib64, Arch and Alpine in lib.
func libDirs(name string) []string {
	return []string{
		"/lib/*-linux-gnu/" + name,
		"/usr/lib/*-linux-gnu/" + name,
		"/usr/lib64/" + name,
		"/lib64/" + name,
		"/usr/lib/" + name,
		"/lib/" + name,
	}
}

func pamModule(name, pkg string) suites.File {
	return suites.File{Host: libDirs("security/" + name), Package: pkg}
}
