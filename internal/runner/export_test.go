// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"context"
	"testing"
	"time"

	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/machine"
)

// Forked is a machine that waits for a job.
type Forked struct{ g *guest }

// HostMiB is the memory that its QEMU has for itself.
func (f Forked) HostMiB() int { return f.g.vm.HostMiB() }

// Close ends the machine.
func (f Forked) Close() { f.g.close() }

// ForkAhead forks a machine without a job.
func (t *Template) ForkAhead(ctx context.Context, m *Machine, dir, log string) (Forked, error) {
	g, err := t.fork(ctx, m, machine.Options{Dir: dir, Log: log}, false)
	return Forked{g}, err
}

// ExecIn is Exec in a machine that was forked ahead.
func (m *Machine) ExecIn(ctx context.Context, p Program, f Forked) (out Outcome) {
	p, p.Log = p.armed(fault.Line), f.g.vm.Log
	f.g.vm.Started = time.Now()
	m.drive(ctx, p, f.g, &out)
	return out
}

// SetFree makes the machine believe that this is the host's free memory.
func (m *Machine) SetFree(mib func() int) { m.Free = mib }

// LoadKept reads the program's template from the cache, and forgets it.
func (m *Machine) LoadKept(ctx context.Context, p Program) error {
	slot, err := m.slot(ctx, p)
	if err != nil {
		return err
	}
	t, err := loadTemplate(slot, p)
	if err != nil {
		return err
	}
	return t.Close()
}

// WithKernelFile returns the program with another file to be booted.
func (p Program) WithKernelFile(path string) Program {
	p.kernelFile = path
	return p
}

// TemplateKey is the key under which a template is kept.
func (m *Machine) TemplateKey(ctx context.Context, p Program) (string, error) {
	slot, err := m.slot(ctx, p)
	if err != nil {
		return "", err
	}
	return slot.Key(), nil
}

// SetAftermath changes how long a machine is watched after its program's end, until
// the test's end.
func SetAftermath(tb testing.TB, d time.Duration) {
	old := aftermathTime
	aftermathTime = d
	tb.Cleanup(func() { aftermathTime = old })
}

// SetPowerOffLimit changes how long a guest that powers off may be silent, until
// the test's end.
func SetPowerOffLimit(tb testing.TB, d time.Duration) {
	old := powerOffLimit
	powerOffLimit = d
	tb.Cleanup(func() { powerOffLimit = old })
}
