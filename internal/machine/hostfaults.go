// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/nbd"
	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/vmtest"
)

// hostFaults carries out a plan's share of the host, for one VM.
type hostFaults struct {
	plan  fault.Plan
	disks map[string]*nbd.Disk // those that are served
	// cut is told, once, why the power was cut.
	cut  chan string
	once sync.Once

	mu     sync.Mutex
	counts map[int]uint64 // how often each fault of the plan came
	notes  []string
}

// newHostFaults prepares the machine for the plan; nil when there is nothing to
// do. Disks that have a fault, or all when the power is to be cut, are served
// by ourselves.
func newHostFaults(plan fault.Plan, cfg *vmtest.Config, disks []*Disk) *hostFaults {
	plan = plan.Expand().Host()
	if len(plan) == 0 {
		return nil
	}
	h := &hostFaults{plan: plan, cut: make(chan string, 1), counts: map[int]uint64{}, disks: map[string]*nbd.Disk{}}
	all, meant := false, map[string]bool{}
	for i, f := range plan {
		switch f.Kind {
		case fault.Balloon:
			cfg.Balloon = true
		case fault.PowerCut:
			all = true
			if f.Target == "" && len(disks) == 1 {
				plan[i].Target = disks[0].spec.Name
			}
		default:
			meant[f.Target] = true
		}
	}
	for i, d := range disks {
		if !all && !meant[d.spec.Name] {
			continue
		}
		s := &nbd.Disk{File: d.file, Before: func(op nbd.Op, n uint64) error { return h.before(d.spec.Name, op, n) }}
		h.disks[d.spec.Name] = s
		cfg.Disks[i] = vmtest.Disk{Serial: d.spec.Name, Serve: func(c net.Conn) {
			if err := s.Serve(c); err != nil && !errors.Is(err, nbd.ErrCut) {
				h.note("disk %s: %v", d.spec.Name, err)
			}
		}}
	}
	return h
}

func (h *hostFaults) note(format string, a ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notes = append(h.notes, visible.Short(fmt.Sprintf(format, a...)))
}

// before is asked before each request to a disk.
func (h *hostFaults) before(name string, op nbd.Op, n uint64) error {
	for i, f := range h.plan {
		if f.Target != name {
			continue
		}
		switch {
		case f.Kind == fault.PowerCut && (op == nbd.Write && n == f.Nth || op == nbd.Flush && n == f.Flush):
			h.powerOff(i, fmt.Sprintf("%s %d of disk %s", map[nbd.Op]string{nbd.Write: "write", nbd.Flush: "flush"}[op], n, name))
			return nbd.ErrCut
		case f.Kind == fault.DiskFull && op == nbd.Write && n >= max(1, f.Nth):
			h.came(i)
			return syscall.ENOSPC
		case f.Kind == fault.DiskRead && op == nbd.Read, f.Kind == fault.DiskWrite && op == nbd.Write, f.Kind == fault.DiskFlush && op == nbd.Flush:
			if h.due(i, f, n) {
				return syscall.EIO
			}
		}
	}
	return nil
}

// due says whether the fault comes at the n-th request, and counts it.
func (h *hostFaults) due(i int, f fault.Fault, n uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.Nth > 0 && n != f.Nth || f.Every > 0 && n%f.Every != 0 || f.Times > 0 && h.counts[i] >= uint64(f.Times) {
		return false
	}
	h.counts[i]++
	return true
}

func (h *hostFaults) came(i int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[i]++
}

// powerOff tells whoever listens to PowerCut, who ends the machine.
func (h *hostFaults) powerOff(i int, at string) {
	h.once.Do(func() {
		h.came(i)
		h.cut <- at
	})
}

// start begins what has a time of its own.
func (h *hostFaults) start(ctx context.Context, vm *vmtest.VM) {
	if h == nil {
		return
	}
	for i, f := range h.plan {
		if f.Kind == fault.PowerCut && f.After == 0 || f.Kind.DiskError() {
			continue
		}
		go func() {
			select {
			case <-time.After(f.After):
			case <-ctx.Done():
				return
			}
			if err := h.act(ctx, vm, i, f); err != nil && ctx.Err() == nil {
				h.note("fault %s: %v", f, err)
			}
		}()
	}
}

func (h *hostFaults) act(ctx context.Context, vm *vmtest.VM, i int, f fault.Fault) error {
	run := func(command string, args any) error { return vm.Monitor().Run(ctx, command, args, nil) }
	switch f.Kind {
	case fault.PowerCut:
		h.powerOff(i, "after "+f.After.String())
	case fault.NMI:
		h.came(i)
		return run("inject-nmi", nil)
	case fault.Balloon:
		h.came(i)
		return run("balloon", map[string]int64{"value": int64(f.MiB) << 20})
	case fault.Pause:
		for n := 0; n < max(1, f.Times); n++ {
			h.came(i)
			if err := run("stop", nil); err != nil {
				return err
			}
			select {
			case <-time.After(f.For):
			case <-ctx.Done():
				return nil
			}
			if err := run("cont", nil); err != nil {
				return err
			}
			select { // as long again
			case <-time.After(f.For):
			case <-ctx.Done():
				return nil
			}
		}
	}
	return nil
}

// PowerCut is told, once, at what the power is cut; nil for no plan.
func (vm *VM) PowerCut() <-chan string {
	if vm.host == nil {
		return nil
	}
	return vm.host.cut
}

// StartFaults begins what has a time of its own, when the program begins. It ends
// with ctx.
func (vm *VM) StartFaults(ctx context.Context) { vm.host.start(ctx, vm.VM) }

// Damage is what came of the host's share of a plan of faults.
type Damage struct {
	Notes []string
	// Writes and Flushes count the requests to the disk that the last fault of a
	// disk is for.
	Writes, Flushes uint64
	// Err is about a power cut that could not be carried out.
	Err error
}

// EndFaults, when the machine is gone, takes back what a power cut would have lost
// and says what came of the plan. Cut says at what the power was cut, "" if it was
// not.
func (vm *VM) EndFaults(cut string) (out Damage) {
	h := vm.host
	if h == nil {
		return out
	}
	if cut != "" {
		lost := 0
		for _, d := range h.disks {
			n, err := d.Cut()
			lost += n
			if err != nil {
				h.note("power cut: %v", err)
				out.Err = fmt.Errorf("cut the power: %w", err)
			}
		}
		h.note("power cut at %s, with %d writes that were not flushed", cut, lost)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, f := range h.plan {
		had := ""
		if d := h.disks[f.Target]; d != nil {
			r, w, fl := d.Counts()
			had = fmt.Sprintf(" (the disk had %d reads, %d writes and %d flushes)", r, w, fl)
			out.Writes, out.Flushes = w, fl
		}
		switch n := h.counts[i]; {
		case n == 0:
			h.notes = append(h.notes, fmt.Sprintf("fault %s: the program did not get there%s", f, had))
		case f.Kind != fault.PowerCut:
			h.notes = append(h.notes, fmt.Sprintf("fault %s: injected %d×", f, n))
		}
	}
	out.Notes = h.notes
	return out
}
