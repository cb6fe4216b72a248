// SPDX-License-Identifier: Apache-2.0

// Package klog reads the kernel log of one VM as it comes, and says what the kernel
// reported in it, in which test and when.
//
// It knows the log: printk's lines, the reports that package oops finds in them, the
// results of tests in the kernel (package ktap), the marks of the agent and of a
// suite's test binary (package wire), and what the agent's copy of the log and the
// taint bits know beside ([Log.Compare]). It must not know what is said to the agent,
// what a VM is made of, how the log gets here, or what a verdict is: it is handed
// bytes, and what it returns are facts.
//
// It stands beside package agent and not in it: the conversation needs no report's
// format, only to be told of the end mark, and the log is read for VMs without a
// conversation as well.
//
// The log is the guest's and hostile: what is kept of it is bounded, and words of ours
// count under the run's nonce only.
package klog
