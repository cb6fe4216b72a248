// SPDX-License-Identifier: Apache-2.0

package ext4

import "golang.org/x/sys/unix"

// Modes of fallocate(2), shortened (include/uapi/linux/falloc.h).
const (
	keepSize = unix.FALLOC_FL_KEEP_SIZE
	punch    = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	collapse = unix.FALLOC_FL_COLLAPSE_RANGE
	zero     = unix.FALLOC_FL_ZERO_RANGE
	zeroKeep = unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE
	insert   = unix.FALLOC_FL_INSERT_RANGE
)

// iocClearESCache is EXT4_IOC_CLEAR_ES_CACHE, _IO('f', 40) (include/uapi/linux/ext4.h).
const iocClearESCache = 0x6628
