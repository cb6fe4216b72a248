// SPDX-License-Identifier: Apache-2.0

package ext4

import (
	"time"

	"github.com/kvmrun/kvmrun/suites"
)

// Serials of the disks.
const (
	disk4k       = "e4-4k"
	disk1k       = "e4-1k"
	diskBigalloc = "e4-bigalloc"
	diskIndirect = "e4-indirect"
	diskInline   = "e4-inline"
	diskSmall    = "e4-small"
)

// featInline is a kernel that keeps what fallocate zeroed while it moved a
// file's data out of the inode; see TestInlineData.
const featInline = "inline-data-zeroing"

// disk declares a disk with these mkfs.ext4 options. The size of the journal
// is the least that mkfs.ext4 takes, 1024 blocks, in every geometry: it is
// written once on the host and replayed never unless a test asks for it.
func disk(name string, sizeMiB int, opts ...string) suites.Disk {
	return suites.Disk{
		Name:    name,
		SizeMiB: sizeMiB,
		Mkfs:    append([]string{"mkfs.ext4", "-q", "-F", "-E", "nodiscard"}, opts...),
		Fsck:    []string{"e2fsck", "-fn"},
		Package: "e2fsprogs",
	}
}

// Spec says what the suite needs.
var Spec = suites.Spec{
	Name:    "ext4",
	Doc:     "ext4 fallocate, extent status tree and allocation faults",
	Kconfig: []string{"EXT4_FS", "VIRTIO_BLK"},
	OptionalKconfig: []string{
		"SWAP", "FAULT_INJECTION", "FAULT_INJECTION_DEBUG_FS", "FAILSLAB", "FAIL_PAGE_ALLOC",
		"SLUB_DEBUG", "FAULT_INJECTION_USERCOPY", "FAIL_FUTEX",
	},
	Features:  []string{featInline},
	Modules:   []string{"virtio_blk"},
	MemoryMiB: 768, // room for KASAN
	CPUs:      2,
	Disks: []suites.Disk{
		disk(disk4k, 96, "-b", "4096"),
		disk(disk1k, 48, "-b", "1024"),
		disk(diskBigalloc, 64, "-b", "4096", "-O", "bigalloc", "-C", "16384"),
		disk(diskIndirect, 48, "-b", "4096", "-O", "^extents,^64bit"),
		disk(diskInline, 32, "-b", "4096", "-I", "256", "-O", "inline_data"),
		disk(diskSmall, 16, "-b", "4096", "-m", "0", "-N", "64"),
	},
	SlabCaches: []string{"extent_status", "ext4_inode_cache", "jbd2_journal_head"},
	// slab_nomerge gives the cache extent_status a name of its own, which
	// failslab's filter needs.
	Cmdline: []string{"slab_nomerge"},
	Timeout: 4 * time.Minute,
}
