// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/vmtest"
)

// Options are one machine's own, on which nothing depends that is kept.
type Options struct {
	// Dir is an existing directory of the caller's for the kernel log, called Log.
	Dir, Log string
	// Console gets the kernel log as it comes.
	Console io.Writer
	// Disks, when set, are used in place of new ones, or of copies of a template's.
	// They are the VM's to close once it has started. When it does not start, a boot
	// has closed them and a fork has not.
	Disks []*Disk
	// Faults is what goes wrong; the host's share of it is carried out.
	Faults fault.Plan
	// Core asks for a memory dump, into CoreFile, should the guest hang or die. Not
	// for forks.
	Core     CoreFormat
	CoreFile string
	// Freezable says that the VM is to become a template.
	Freezable bool
	// Preface begins a fork's kernel log, and Paused says that somebody else lets
	// the fork run.
	Preface string
	Paused  bool
	// Give is what a fork of a template with an Inlet is to be: a VM of this recipe.
	// What it lacks is on the disk then, VM.Given bytes, for its agent to take.
	Give *Recipe
}

// VM is one machine that runs, and what belongs to it on the host. Its methods are
// safe for concurrent use; Close, Freeze and TakeDisks are for one goroutine.
type VM struct {
	*vmtest.VM
	// Started is when QEMU was, before what it takes to start it.
	Started time.Time
	// Log is the name of its kernel log.
	Log string
	// Given is how many bytes of the Inlet count, see Options.Give.
	Given int64

	disks []*Disk
	inlet string // Recipe.Inlet
	host  *hostFaults
	core  *core // nil when no memory dump is asked for
}

// NoRoomError is that of a machine that is to be frozen and for all of whose memory the
// host has no room. Both sizes are in MiB.
type NoRoomError struct{ Want, Free int }

// Error implements error.
func (e *NoRoomError) Error() string {
	return fmt.Sprintf("keep a guest of %d MiB in memory: %d MiB are free", e.Want, e.Free)
}

// Boot makes a machine and starts it. The error is a [*NoRoomError] for one that
// cannot be frozen, and may be able to boot; all others say what is wrong with the
// recipe, with QEMU or with this host.
func (h *Host) Boot(ctx context.Context, r Recipe, o Options) (*VM, error) {
	prep, err := h.prepare(ctx, r, o)
	if err != nil {
		prep.close()
		return nil, err
	}
	// All of it may be touched.
	if need, have := prep.config.MemoryMiB+Reserve, h.FreeMiB(); o.Freezable && have < need {
		prep.close()
		return nil, &NoRoomError{prep.config.MemoryMiB, have}
	}
	vm := &VM{Started: time.Now(), Log: o.Log, disks: prep.disks, inlet: r.Inlet}
	prep.config.Console, prep.config.Freezable = o.Console, o.Freezable
	vm.host = newHostFaults(o.Faults, &prep.config, vm.disks)
	if o.Core != "" {
		vm.core = &core{format: o.Core, file: o.CoreFile, gone: make(chan struct{})}
		prep.config.OnEnd = vm.core.onEnd
	}
	if vm.VM, err = vmtest.Start(ctx, prep.config); err != nil {
		prep.close()
		return nil, fmt.Errorf("start the VM: %w", err)
	}
	prep.closeInlet()
	return vm, nil
}

// Close ends the VM, waits until QEMU is gone and lets the disks go. A nil VM is
// closed.
func (vm *VM) Close() {
	if vm == nil {
		return
	}
	if vm.VM != nil {
		_ = vm.VM.Close() // how it ended is in Exit
	}
	for _, d := range vm.disks {
		_ = d.file.Close()
	}
	vm.disks = nil
}

// TakeDisks returns the disks, which are the caller's to close from now on.
func (vm *VM) TakeDisks() []*Disk {
	d := vm.disks
	vm.disks = nil
	return d
}

// CheckDisks runs the disks' own checks. It is for a guest that is gone.
func (vm *VM) CheckDisks(ctx context.Context) []DiskCheck {
	var out []DiskCheck
	for _, d := range vm.disks {
		if len(d.spec.Fsck) > 0 {
			out = append(out, d.check(ctx))
		}
	}
	return out
}

// HostMiB is the memory that QEMU has for itself, RssAnon (proc_pid_status(5)): for
// a fork, what it does not share with its template. It is 0 for a VM that is gone.
func (vm *VM) HostMiB() int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", vm.PID()))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "\nRssAnon:")
	var kib int
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		return 0
	}
	return kib >> 10
}

// logFile is where the kernel log is.
func (o Options) logFile() string { return filepath.Join(o.Dir, o.Log) }
