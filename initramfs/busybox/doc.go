// SPDX-License-Identifier: Apache-2.0

// Package busybox builds u-root's commands into one program, the guest's shell
// and tools: cat, ip, ls, mount, ps, sh and so on. Called "sh", it takes the
// options and parameters of sh(1p), as scripts and system(3) need them.
//
// # Contract
//
// [Build] returns a directory for initramfs.Spec.Busybox, in the cache under
// u-root's version, the list of commands, the architecture and the Go
// toolchain's version; building it takes about a minute.
//
// Everything is pinned by one hash: u-root is fetched as a module by the go
// command and compared with it, and what u-root needs (gobusybox, which turns
// many commands into one program, among it) is pinned by the go.sum inside
// u-root's module. No part of it is linked into the caller, and no source
// checkout of kvmrun is needed: only a Go toolchain and, the first time, the
// module proxy that it is set up for.
//
// A program with which they were installed (package shipped) takes those, and
// needs neither.
//
// # Concurrency and lifetime
//
// Build may be called concurrently, also by several processes; they share one
// build. A cancelled context ends the go commands.
package busybox
