// SPDX-License-Identifier: Apache-2.0

package uffdwp

import (
	"strconv"
	"unsafe"
)

func itoa(n int) string { return strconv.Itoa(n) }

func addrOf(s []uint64) uint64 { return uint64(uintptr(unsafe.Pointer(&s[0]))) }
