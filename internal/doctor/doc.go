// SPDX-License-Identifier: Apache-2.0

// Package doctor checks whether a host has what kvmrun needs: QEMU, KVM,
// memory, disk space and the tools and libraries of the suites. Each check ends
// as ok, warn (works, but slower, or something optional is missing) or fail,
// and what is not ok comes with its cure, where possible as a command that can
// be pasted.
//
// # Contract
//
// [Run] is a function of its [Host], whose functions are all that is ever asked
// about the machine; [LocalHost] asks the real one. Nothing is changed or
// installed. Cures name Debian's and Ubuntu's packages, which the README
// supports, and Fedora's where apt-get is missing and dnf is not.
//
// # Concurrency and lifetime
//
// Checks run one after the other, so that the timing of the KVM probe is not
// disturbed. Nothing is kept.
//
// It knows checks and cures, as data. It must not know how to install anything, nor start
// a VM of its own.
package doctor
