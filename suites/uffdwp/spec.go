// SPDX-License-Identifier: Apache-2.0

package uffdwp

import (
	"time"

	"github.com/kvmrun/kvmrun/suites"
)

// Serials of the disks: swap space, which the tests format, and a file system
// whose files are not memory.
const (
	swapDisk = "swap"
	fileDisk = "file"
)

// Spec says what the suite needs.
var Spec = suites.Spec{
	Name: "uffdwp",
	Doc:  "userfaultfd write protection",
	Kconfig: []string{
		"USERFAULTFD", "SHMEM", "TMPFS", "PROC_PAGE_MONITOR", "CROSS_MEMORY_ATTACH",
	},
	OptionalKconfig: []string{
		"PTE_MARKER_UFFD_WP", "TRANSPARENT_HUGEPAGE", "HUGETLBFS", "SWAP", "VIRTIO_BLK",
		"KSM", "MEM_SOFT_DIRTY", "MEMORY_FAILURE", "EXT4_FS",
	},
	Modules:   []string{"virtio_blk"},
	MemoryMiB: 1024, // huge pages of 2 MiB must be had at any time
	CPUs:      2,
	// 16 huge pages of 2 MiB for the hugetlb cases: taken at boot, when memory
	// cannot be fragmented yet.
	Cmdline: []string{"hugepages=16"},
	Disks: []suites.Disk{
		{Name: swapDisk, SizeMiB: 64},
		{Name: fileDisk, SizeMiB: 8, Mkfs: []string{"mkfs.ext4", "-q", "-F"}, Fsck: []string{"e2fsck", "-fn"}, Package: "e2fsprogs"},
	},
	Timeout: 4 * time.Minute,
}
