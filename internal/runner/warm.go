// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/kvmrun/kvmrun/vmtest"
)

// Warm machines are templates that belong to a kernel and the shape of a VM, not to a
// program: what differs from run to run is given to the fork.

// What Outcome.Start says: a colon and the reason follow StartedCold where there is
// one.
const (
	StartedWarm = "warm"
	StartedCold = "cold"
)

// bootLog is the name of the kernel log of a warm machine's boot while it is made.
const bootLog = "boot.log"

// ExecWarm is Exec in a fork of a warm machine: of one that the cache has, or of one
// that is booted now, kept for the next run, and forked all the same. What its boot
// showed counts as if p's machine had been booted; one whose boot has brought a splat
// is not kept, so that each run boots and shows it.
//
// Where there can be none, and for a program that needs a machine that was booted for
// it, it is Exec. Outcome.Start says which it was.
func (m *Machine) ExecWarm(ctx context.Context, p Program) Outcome {
	if why := m.cannotWarm(p); why != "" {
		out := m.Exec(ctx, p)
		out.Start = StartedCold + ": " + why
		return out
	}
	t, boot, err := m.warm(ctx, p)
	if t != nil {
		defer t.Close() //nolint:errcheck // nothing to be written
	}
	switch {
	case err == nil:
	case boot.Args != nil && (boot.Infra != nil || boot.GuestFault != "" || boot.Panicked || boot.Scanner != "" || boot.Deadline+boot.Hung != ""):
		// A kernel that does not get far enough: another boot would show the same.
		boot.Start = StartedCold
		if err := os.Rename(filepath.Join(p.Dir, bootLog), filepath.Join(p.Dir, p.LogName())); err != nil {
			boot.Notes = append(boot.Notes, err.Error())
		}
		return boot
	default:
		why := fmt.Sprintf("no warm machine: %v", err)
		notes := m.Remark(why)
		out := m.Exec(ctx, p)
		out.Start, out.Notes = StartedCold+": "+why, append(notes, out.Notes...)
		return out
	}
	p.From = t
	out := m.Exec(ctx, p)
	_ = os.Remove(filepath.Join(p.Dir, bootLog)) // p's own log begins with it
	if out.Start == StartedWarm {                // it could be forked
		out.addBoot(boot, p.LogName())
	}
	return out
}

// addBoot adds what the boot showed of the machine that the outcome's was forked from,
// and whose kernel log is the beginning of this one.
func (o *Outcome) addBoot(boot Outcome, log string) {
	for i := range boot.Splats {
		boot.Splats[i].Log = log
	}
	o.Splats = append(boot.Splats, o.Splats...)
	o.KernelTests.join(boot.KernelTests)
	o.Panicked = o.Panicked || boot.Panicked
	o.Notes = append(boot.Notes, o.Notes...)
	if o.Scanner == "" {
		o.Scanner = boot.Scanner
	}
}

// Warm makes a warm machine for programs like p, unless the cache has one, and keeps
// it. Of p it needs what decides about the machine, Kernel, Init and Shell, and Dir.
// It is an error when a splat keeps it from being kept.
func (m *Machine) Warm(ctx context.Context, p Program) error {
	if why := m.cannotWarm(p); why != "" {
		return errors.New(why)
	}
	t, boot, err := m.warm(ctx, p)
	if err != nil {
		return err
	}
	if len(boot.Splats) > 0 {
		err = fmt.Errorf("its boot brought a kernel splat: %s", boot.Splats[0].Title)
	}
	return errors.Join(err, t.Close())
}

// warm returns the template and what its boot showed.
func (m *Machine) warm(ctx context.Context, p Program) (*Template, Outcome, error) {
	bare := Program{
		Kernel: p.Kernel, Spec: p.Spec, Init: p.Init, Shell: p.Shell, KernelFile: p.KernelFile, Dir: p.Dir, Log: bootLog, Patient: p.Patient, bare: true,
	}
	return m.Template(ctx, bare)
}

// cannotWarm says why p's machine has to be booted, "" when it need not.
func (m *Machine) cannotWarm(p Program) string {
	switch {
	case m.VMCore != "":
		return "a memory dump needs a machine that was booted for it"
	case len(p.Faults.Host()) > 0:
		return "a fault of the host's side needs a machine that was booted with it"
	}
	if kvm := m.Accel == vmtest.AccelKVM || m.Accel != vmtest.AccelTCG && vmtest.KVMProblem() == ""; kvm {
		return "under KVM a boot is as fast"
	}
	for _, f := range p.Files {
		// What is mounted there hides them, and would not.
		if guest := filepath.Clean("/" + f.Guest); strings.HasPrefix(guest, "/dev/") || strings.HasPrefix(guest, "/proc/") || strings.HasPrefix(guest, "/sys/") {
			return fmt.Sprintf("%s is hidden in the guest", guest)
		}
	}
	return ""
}
