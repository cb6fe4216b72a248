// SPDX-License-Identifier: Apache-2.0

//go:build deps

package deps

import (
	// The guest's shell and tools are compiled from this module at run time
	// (initramfs/busybox); its version is pinned here.
	_ "github.com/u-root/u-root/pkg/cpio"
)
