// SPDX-License-Identifier: Apache-2.0

// Package vmtest runs one virtual machine under QEMU: a [Config] goes in,
// [Start] gives a [VM], and [VM.Wait] tells how it ended as data ([Exit]).
//
// It knows the life of a machine and nothing of what runs in it: no tests, no
// verdicts, no meaning of console lines.
//
// # Contract to the other side
//
// The guest sees a serial port (ttyS0) that is the kernel's console from the
// first byte on, and a virtio-serial port for each name in Config.Ports
// (/dev/virtio-ports or the port's name in sysfs). Console and ports are
// separate streams, none of which can end up in another. A guest may write what
// it likes and as much as it likes: the console file is bounded, a port is a
// bounded buffer that makes the guest wait for its reader.
//
// # Lifetime
//
// The context of Start bounds the machine's whole life. QEMU also dies with
// this process, whatever ends it: the kernel kills it (prctl(2),
// PR_SET_PDEATHSIG). There is nothing on disk but the console file: all
// connections to QEMU are inherited descriptors. After [VM.Close] no process,
// goroutine or descriptor of the machine is left.
//
// All methods of VM may be called concurrently and any number of times.
package vmtest
