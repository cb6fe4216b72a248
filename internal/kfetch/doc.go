// SPDX-License-Identifier: Apache-2.0

// Package kfetch gets distribution kernels, their debug information and their
// source trees from the archive that the machine is set up for, by the
// machine's own apt, into the cache.
//
// # Contract
//
// apt chooses the mirror, checks the archive's signature and the packages'
// hashes; packages that it cannot authenticate are refused, whatever the
// machine's configuration says. Nothing is installed and no root is needed: the
// packages are downloaded to the cache and unpacked there by dpkg-deb. What a
// package contains is not trusted to be well-formed, and none of its scripts
// are run.
//
// A reference is DISTRO:VERSION: "debian:6.12" is the newest 6.12 that apt's
// lists name, "debian:6.12.115" a certain one, also by its package version
// ("debian:6.12.115-2~deb12u1") or release ("debian:6.1.0-56-cloud-amd64").
// A certain version that was fetched before is found without calling apt. When
// apt fails, the newest fetched kernel of a series is used, and the result says
// so.
//
// # Concurrency and lifetime
//
// A *Fetcher is safe for concurrent use; processes that fetch the same share
// one download (see package cache). Ending the context stops apt and leaves
// nothing behind. Results are directories in the cache: not to be written to,
// and gone when the user deletes them.
//
// It must not know VMs or verdicts.
package kfetch
