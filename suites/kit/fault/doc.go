// SPDX-License-Identifier: Apache-2.0

// Package fault makes the kernel fail one chosen allocation, user copy or block
// request of one system call, from a test inside the VM.
//
// It is built on the kernel's fault injection
// (Documentation/fault-injection/fault-injection.rst): a task that writes n to
// its /proc/thread-self/fail-nth has its n-th fault point fail. [Nth] does it
// once; [Sweep] for n = 1, 2, ... until the operation completes without
// reaching the n-th, so that every point of the operation fails once.
//
// [Always] lets every point fail that a thread reaches, for code that is no
// single call. [PowerCut] is about another fault, the power's, which the host
// injects: it lets a test look at its disks afterwards.
//
// # What the operation may do
//
// The count is the kernel's, per thread, and takes in everything the thread
// does from the moment it is armed. An operation is therefore one raw system
// call (syscall.RawSyscall6), or a few, on arguments that were computed before
// and memory that was touched before: no allocation, no blocking Go call, no
// logging. The package locks the thread, blocks its signals (the runtime's
// preemption is one) and disarms it before it returns.
//
// # What counts
//
// fail-nth counts the fault points of all injectors together. Kind says which
// of them a test means: its knobs below /sys/kernel/debug are set for the
// time of the call, and the other injectors are taken out of the count where
// the kernel has CONFIG_FAULT_INJECTION_STACKTRACE_FILTER; without that option
// their points are counted, too, which costs runs and changes nothing else.
// Slab and page allocations come in two widths: by default only those count
// that may not wait for memory; with Waiting all do.
//
// The knobs are system-wide, hence no two sweeps may run at the same time; the
// fault itself is the calling thread's own and disturbs nobody else. Each
// injected fault prints one line to the kernel log ("FAULT_INJECTION: forcing
// a failure"), which is no bug.
package fault
