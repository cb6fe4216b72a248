// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bufio"
	"context"
	"fmt"
	"os"

	"golang.org/x/sync/semaphore"
)

// Reserve is left to the host and to kvmrun itself, in MiB.
const Reserve = 512

// Budget hands out the host's free memory, in MiB. A guest rarely touches all
// it was given, but a host that starts to swap, or to kill, spoils every
// verdict at once. It is safe for concurrent use.
type Budget struct {
	sem   *semaphore.Weighted
	total int64
}

// NewBudget is what is free now, but for Reserve.
func NewBudget() Budget {
	total := int64(max(0, availableMiB()-Reserve))
	return Budget{sem: semaphore.NewWeighted(total), total: total}
}

// Acquire waits until need MiB are free. One VM may always try alone: QEMU
// says itself when it cannot have the memory. The error is the context's.
func (b Budget) Acquire(ctx context.Context, need int64) error {
	return b.sem.Acquire(ctx, min(need, b.total))
}

// Release gives back what Acquire took.
func (b Budget) Release(need int64) { b.sem.Release(min(need, b.total)) }

// FreeMiB is the host's free memory, in MiB.
func (h *Host) FreeMiB() int {
	if h.Free != nil {
		return h.Free()
	}
	return availableMiB()
}

// availableMiB is MemAvailable of /proc/meminfo (proc_meminfo(5)).
func availableMiB() int {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 1 << 20
	}
	defer f.Close() //nolint:errcheck // only read
	for s := bufio.NewScanner(f); s.Scan(); {
		var kib int
		if _, err := fmt.Sscanf(s.Text(), "MemAvailable: %d kB", &kib); err == nil {
			return kib >> 10
		}
	}
	return 1 << 20
}
