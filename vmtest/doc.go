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
// What to put into the machine, and what to talk to there, are others' business:
// package initramfs makes the initial ramdisk, and in the guest a program of the
// caller's own is init by guest.RunAsInit and opens a port by guest.OpenPort
// (initramfs/guest). The package's example does all of it; examples/module in the
// repository is the same as a module of its own, with a suite of tests as well.
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
//
// # What a guest finds that has taken QEMU over
//
// QEMU filters its own system calls (-sandbox, without which it could start
// programs), where it was built with seccomp; its memory is limited; and when this
// process is root, QEMU runs as user and group [ConfinedID], who owns nothing:
// kernel, initial ramdisk, disks and all else it works on are open descriptors.
// What is then not accessible to it is what the monitor's commands name by path,
// and backing files of qcow2 images. VM.Note says where that cannot be, and
// [ProbeConfinement] what holds on this host. [RunTool] does the same for tools
// that read what a guest has written.
//
// # Forks
//
// [VM.Freeze] makes a [Template] of a running machine and [Fork] goes on from it,
// any number of times, at the cost of a QEMU's start: the guest's memory is a
// file without a name, shared by the machine that was frozen and private to every
// fork, and only the devices' state is copied, by QEMU's migration. The template
// is sealed when it is made; a fork cannot change it.
//
// # Measured choices
//
// With QEMU 7.2 under TCG on two processors and Debian's 6.12 cloud kernel, in
// seconds from QEMU's start to init's first byte on a port, the least of 7
// boots, and in processor time:
//
//	q35                                2.33   2.27
//	q35,sata=off,smbus=off             2.16   2.18
//	  with two processors              2.00   2.44
//	  with hpet=off, or with qboot     2.16   2.19
//	pc                                 2.61   2.44
//	microvm                            2.32   2.41, but 3 of 5 boots hung
//	bzImage instead of vmlinux        +0.60  +0.79
//
// The default is the second with i8042=off: on a host with a load of 9 to 16, one
// boot of 87 with two processors stopped while the kernel probed that controller.
//
// One processor is the default because the second one costs a quarter more
// processor time for a boot that is not noticeably faster. Processor models made
// no difference beyond the noise, so the default is the one that has all
// features, without two that do harm under TCG (internal/args says why). The whole
// kernel log on the serial port, with the early console, costs 3 % of a boot.
//
// The default with no_timer_check and cx16=off booted 200 times out of 200, half of them
// with two processors, on a host with eight to ten runnable tasks for each
// processor. Without no_timer_check a few boots in a hundred panicked there, and
// with cmpxchg16b one in a few hundred.
//
// A kernel that measures its time stamp counter on such a host finds nonsense: with
// a load of 20 to 27 on two processors, one boot of 36 with two processors took a
// counter of 2094 MHz for one of 27.76 MHz ("PIT calibration deviates from HPET").
// Its clock ran 75 times too fast from then on, and it reported soft lockups and
// failed self-tests. It is told the speed now (tsc_early_khz): 36 boots of 36 at a
// load of 20 to 44 got as far as init, each with the right speed, in up to 7
// minutes.
package vmtest
