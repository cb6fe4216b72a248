// SPDX-License-Identifier: Apache-2.0

// Package machine makes a VM of a [Recipe]: one that boots, or one that goes on
// from a frozen one ([Template]).
//
// It knows what a machine is made of: the kernel and what is in it, the initramfs,
// disks that are gone with their last user, faults that the host carries out, memory
// dumps, the templates that are kept in the cache, and how much memory the host has
// left for all of them ([Host], [Budget]). It must not know what is said to the agent
// in a machine, what the kernel log means, what a test or a suite is, or what a
// verdict is: the agent is a file, the log goes to a writer, and what came of the
// host's part is told as facts.
//
// A Host is safe for concurrent use and needs no closing. A VM, a Template and a
// Disk are the caller's to close; none of them leaves anything on the host but the
// kernel log, and a memory dump where one was asked for.
package machine
