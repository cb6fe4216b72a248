// SPDX-License-Identifier: Apache-2.0

// Package kimage reads kernel files: which architecture, format, compression
// and version, the embedded configuration, the build-id, the PVH entry, and the
// vmlinux inside a bzImage.
//
// [Open] looks at the first kilobytes only and refuses what is not a kernel by
// an [*Error] that names what the file is. What needs the whole file (banner,
// build-id, PVH entry, embedded config, extracted vmlinux) is read by
// [Image.Details] and kept in a [cache.Cache] under the file's hash, so that a
// kernel is decompressed once and later runs cost a few file system calls.
//
// # Sources
//
// The bzImage header is described in the kernel's
// Documentation/arch/x86/boot.rst, the arm64 Image header in
// Documentation/arch/arm64/booting.rst, the compressed payload's trailing size
// in scripts/Makefile.lib (size_append), the embedded config in
// kernel/configs.c, the PVH note in include/xen/interface/elfnote.h.
//
// # Trust
//
// Kernel files may be damaged or hostile: every length is checked against the
// file's size or a bound before it is used, and a payload is never unpacked to
// more than [MaxVmlinux] bytes. No external program is called.
//
// # Concurrency and lifetime
//
// An *Image holds no open file. Its methods are safe for concurrent use. The
// file is opened again when it is needed; a file that changes in between is
// noticed by its hash when a cache is given.
//
// It must not know QEMU, nor how kernels are built.
package kimage
