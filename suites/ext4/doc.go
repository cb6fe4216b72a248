// SPDX-License-Identifier: Apache-2.0

// Package ext4 tests the space management of ext4: fallocate(2) in all its
// modes over every geometry, what it does to the content, to the extent tree
// and to the extent status tree in memory, and what is left when an allocation
// inside of it fails.
//
// # How the tests judge
//
// Content is compared with a model in memory: through the page cache, after
// the page cache was dropped but the extent status tree kept, and after that
// was dropped, too, so that a stale entry in either cannot hide. Mappings are
// compared by FIEMAP, from the cached tree and from the one on the disk. Every
// test unmounts its file system; the error count that ext4 keeps must be zero
// then, and after the run the host's e2fsck must find the disks clean: the
// last word has a program that does not run on the kernel under test.
//
// The disks are declared in the Spec, one per geometry, and are made by
// mkfs.ext4 on the host. Tests of one disk must not run in parallel.
package ext4
