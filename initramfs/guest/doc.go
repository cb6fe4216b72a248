// SPDX-License-Identifier: Apache-2.0

// Package guest is what runs as PID 1 in the virtual machine: it sets the
// system up, then serves the host as its agent, until the host says to power
// off or goes away.
//
// A program that may become /init calls, first of all,
//
//	if guest.IsInit() {
//		guest.Main()
//	}
//
// A program that wants a machine for itself, without an agent, calls [RunAsInit] in
// place of Main and talks to the host over ports that it opens by [OpenPort]: see the
// example of package vmtest. What follows is about the agent.
//
// # Contract
//
// The host talks to the agent by the messages of package wire, over virtio
// ports found by their names. The archive was made by package initramfs: the
// modules to load are listed in its ModulesFile.
//
// One program runs at a time; after Done the next may be started. When it has
// ended, all it wrote is written to its ports before Exited is sent. Then
// files are fetched, every process that is left is killed, what was mounted
// since the boot is unmounted, and everything is synced before Done.
//
// What the agent cannot set up is a warning in Ready when the kernel should
// have been able to do it, and nothing at all when the kernel has no such
// feature: whoever needs it will say so. A failure of the agent itself is sent
// as Fault, written to the kernel log as wire.Fatal has it, and powers the
// machine off.
//
// The agent reads /dev/kmsg as well, from its getting ready to the end of each
// program: what the consoles do not show. It says when records were missing, and
// sends the kernel's own when one of them was a warning or worse, or when there
// were very many. Done also has the kernel's taint.
//
// # Concurrency and lifetime
//
// The agent's state belongs to the goroutine in agent.serve. One goroutine
// each reads the control port, reads the standard input's port, copies each
// output stream, and reaps children. Virtio ports are read and written by
// blocking system calls and never meet the runtime's poller, which can miss
// their wake-ups.
//
// System calls that change the machine go through the interface system, so
// that the agent is tested on the host; the same tests run as PID 1's children
// in a guest.
package guest
