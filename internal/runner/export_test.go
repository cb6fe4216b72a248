// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"context"
	"time"

	"github.com/kvmrun/kvmrun/internal/fault"
)

// Forked is a machine that waits for a job.
type Forked struct{ g *guest }

// HostMiB is the memory that its QEMU has for itself.
func (f Forked) HostMiB() int { return anonMiB(f.g.vm.PID()) }

// Close ends the machine.
func (f Forked) Close() { f.g.close() }

// ForkAhead forks a machine without a job.
func (t *Template) ForkAhead(ctx context.Context, m *Machine, dir, log string) (Forked, error) {
	g, err := t.fork(ctx, m, forkOptions{dir: dir, log: log})
	return Forked{g}, err
}

// ExecIn is Exec in a machine that was forked ahead.
func (m *Machine) ExecIn(ctx context.Context, p Program, f Forked) (out Outcome) {
	p, p.Log = p.armed(fault.Line), f.g.log
	f.g.started = time.Now()
	m.drive(ctx, p, f.g, &out)
	return out
}

// SetFree makes the machine believe that this is the host's free memory.
func (m *Machine) SetFree(mib func() int) { m.free = mib }

// TemplateKey is the key under which a template is kept.
func (m *Machine) TemplateKey(ctx context.Context, p Program) (string, error) {
	key, _, err := m.templateKey(ctx, p)
	return key, err
}
