// SPDX-License-Identifier: Apache-2.0

// Package fault is the plan of what shall go wrong in a VM, as data: what,
// when, to whom and how often. It parses and prints plans, holds them against
// a kernel's configuration before anything boots, and turns them into what the
// guest's agent writes into debugfs. It injects nothing itself: the guest's
// share is carried out by package initramfs/guest, the host's by package
// runner.
//
// # Grammar
//
//	SPEC  = KIND [":" TARGET] {"," KEY ["=" VALUE]}
//	PLAN  = SPEC per line; blank lines and lines that begin with # are skipped
//
// Kinds of the guest's kernel (Documentation/fault-injection/fault-injection.rst):
//
//	failslab                        slab allocations
//	fail_page_alloc                 page allocations
//	fail_make_request:DEVICE        block requests, of the device in /sys/block; what a
//	                                file system then rightly complains about is a
//	                                splat, too, unless an allow-list names it
//	fail_futex                      futex calls
//	fail_usercopy                   copies from and to user space
//	fail_function:FUNCTION=VALUE    a function marked ALLOW_ERROR_INJECTION returns
//	                                VALUE: a number, or an errno such as -ENOMEM
//	fail_io_timeout:DEVICE          block requests are lost and time out; virtio-blk has
//	                                no handler for that: who waits for one, waits on
//
// Kinds of the host:
//
//	disk-read:DISK, disk-write:DISK, disk-flush:DISK   errors of a disk, by its name
//	disk-full:DISK                                     the disk's storage is full
//	vcpu-pause                                         all processors stand still
//	balloon                                            the guest's memory shrinks
//	nmi                                                an interrupt that cannot be masked
//	power-cut[:DISK]                                   the machine is off, what was not
//	                                                   flushed is lost
//
// When, at most one of (default: always):
//
//	nth=N        the N-th time
//	every=N      each N-th time
//	prob=P       P percent of the times; with seed=S they are drawn before the
//	             start: the same seed, the same faults
//
// Where and to whom, for kinds of the kernel:
//
//	in=FUNCTION      only with this function among the callers
//	notin=FUNCTION   only without it
//	who=tree         the program and all that it starts (default)
//	who=task         the program's first thread alone, for which the kernel
//	                 counts the points of all kinds together
//	who=all          the whole system; fail_function and fail_io_timeout know
//	                 nothing else, because a trap and an interrupt are no
//	                 task's (in_task() in lib/fault-inject.c)
//	gfp=wide         allocations that may wait, too (default); gfp=narrow: only
//	                 those that may not
//	cache=NAME       failslab: this slab cache only
//	order=N          fail_page_alloc: of this order at least, default 0
//
// How often: times=N, default 1 with nth and no limit otherwise.
//
// For kinds of the host that are no disk's, after=DURATION counts from the
// program's start; vcpu-pause takes for=DURATION, balloon mib=N, power-cut
// after=DURATION, nth=N (the N-th write that reaches the disk) or flush=N.
//
// # Seeds
//
// The kernel rolls its own dice and takes no seed. A plan with prob and seed
// is therefore expanded before the start ([Plan.Expand]): the distance between
// two faults is drawn once, from the geometric distribution of that
// probability.
//
// All of the package is pure and safe for concurrent use.
//
// It must not know who carries a plan out: package machine does the host's share, the
// agent the guest's.
package fault
