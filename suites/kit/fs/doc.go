// SPDX-License-Identifier: Apache-2.0

// Package fs is the part of the kit for tests of file systems and memory: mounts
// that end with their test, where on its device a file's blocks are, swap space, and
// a stop as by a crash. It changes the machine that it runs in, which must be a VM.
//
// The functions may be called from several tests at once, with devices of their own;
// a [Mount] is used by one goroutine at a time.
package fs
