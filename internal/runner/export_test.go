// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"context"
	"testing"
	"time"
)

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
