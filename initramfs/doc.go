// SPDX-License-Identifier: Apache-2.0

// Package initramfs makes the archive that a guest's kernel unpacks as its
// root file system: /init, the files that a run needs with their shared
// libraries, kernel modules with what they depend on, and a minimal /etc.
//
// # Contract
//
// [Build] turns a [Spec] into an uncompressed cpio archive in the "newc"
// format (Documentation/driver-api/early-userspace/buffer-format.rst). The
// bytes depend on the contents and modes of the inputs only: never on times,
// owners, inode numbers, or the order in which things were listed. The archive
// is a cache entry under the hash of its own table of contents, so that an
// unchanged Spec costs some stat calls, and nobody sees a half-written one.
//
// The guest's layout is merged-/usr: /bin, /sbin, /lib and /lib64 are symbolic
// links into /usr, and every guest path is resolved through them. Shared
// libraries lie at the path at which the host's loader would find them; one
// that it finds only by ld.so.conf also gets a link beside libc, because the
// guest has no ld.so.cache. What a program opens with dlopen(3) cannot be seen
// and must be listed.
//
// The guest side of the contract is package guest: it reads [ModulesFile], and
// the kernel's configuration lies in suites.GuestConfigFile. A program of the
// caller's own is Spec.Init and calls guest.RunAsInit; with Spec.Kernel the modules
// that its ports need on this kernel are in the archive.
//
// # Concurrency and lifetime
//
// Build may be called concurrently, by several processes too; builds of the
// same archive share one. The returned file belongs to the cache: it must not
// be changed, and may be deleted with the cache at any time (a QEMU that has
// it open keeps it).
package initramfs
