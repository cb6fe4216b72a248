// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"
	"log/slog"
	"sync"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/vmtest"
)

// Host is what all machines of a process share. The zero value but for Cache is
// usable. It is safe for concurrent use, and not to be copied once it is used.
type Host struct {
	Cache *cache.Cache
	QEMU  string       // binary; "" is found in PATH
	Accel vmtest.Accel // "" is auto
	// MemoryMiB and CPUs override what a Recipe asks for; zero does not.
	MemoryMiB, CPUs int
	// Append are kernel parameters for all machines. A Recipe's come after them.
	Append []string
	Log    *slog.Logger // nil logs nothing
	// Progress, when set, is told in a few words what takes long. It may be
	// called from several goroutines.
	Progress func(string)
	// Free is the host's free memory in MiB; nil asks the kernel.
	Free func() int

	said sync.Map // remarks about the host that were made, see Remark
	held sync.Map // kernels' paths, with what keeps them in the cache
}

// Remark passes on what is true of the host and all its VMs, once, or returns
// it as a note when there is nobody to tell.
func (h *Host) Remark(s string) []string {
	if s == "" {
		return nil
	}
	if h.Progress == nil {
		return []string{s}
	}
	if _, again := h.said.LoadOrStore(s, true); !again {
		h.Progress(s)
	}
	return nil
}

// Say tells Progress, if there is one.
func (h *Host) Say(format string, a ...any) {
	if h.Progress != nil {
		h.Progress(fmt.Sprintf(format, a...))
	}
}
