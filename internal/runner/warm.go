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
	w := m.StartWarm(ctx, p)
	defer w.Close()
	p.From = w.From
	return w.Exec(ctx, p)
}

// WarmStart is how a program's machine begins that may be forked from a warm one.
type WarmStart struct {
	// From is for the program's own; nil for a machine that boots.
	From *Template
	m    *Machine
	boot Outcome // of From
	// cold is why it boots, and notes what is to be said of that.
	cold  string
	notes []string
	// ended is the whole outcome where the boot of the warm machine showed that the
	// kernel does not get far enough: another boot would show the same.
	ended *Outcome
}

// StartWarm looks for the warm machine, or makes it. It is the caller's to close, once
// the last Exec that uses From has begun.
func (m *Machine) StartWarm(ctx context.Context, p Program) *WarmStart {
	w := &WarmStart{m: m}
	if w.cold = m.cannotWarm(p); w.cold != "" {
		return w
	}
	t, boot, err := m.warm(ctx, p)
	failed := boot.Infra != nil || boot.GuestFault != "" || boot.Panicked || boot.Scanner != "" || boot.Deadline+boot.Hung != ""
	switch {
	case boot.Exit.ConsoleErr != nil: // which is no fault of the kernel's
		if t != nil {
			_ = t.Close() // nothing to be written
		}
		_ = os.Remove(filepath.Join(p.Dir, bootLog)) // it may fill the disk
		w.cold = fmt.Sprintf("no warm machine: write the log of its boot: %v", boot.Exit.ConsoleErr)
		w.notes = m.Remark(w.cold)
	case boot.Args != nil && failed:
		if t != nil {
			err = t.Close()
		}
		boot.Start = StartedCold
		if err := errors.Join(err, os.Rename(filepath.Join(p.Dir, bootLog), filepath.Join(p.Dir, p.LogName()))); err != nil {
			boot.Notes = append(boot.Notes, err.Error())
		}
		boot.logIs(p.LogName())
		w.ended = &boot
	case err != nil:
		w.cold = fmt.Sprintf("no warm machine: %v", err)
		if ctx.Err() == nil {
			w.notes = m.Remark(w.cold)
		}
	default:
		w.From, w.boot = t, boot
	}
	return w
}

// Exec runs p, whose From is w's, in the first machine.
func (w *WarmStart) Exec(ctx context.Context, p Program) Outcome {
	if w.ended != nil {
		return *w.ended
	}
	out := w.m.Exec(ctx, p)
	switch {
	case w.From == nil:
		out.Start = StartedCold + ": " + w.cold
		out.Notes = append(w.notes, out.Notes...)
	case out.Start == StartedWarm: // it could be forked
		out.addBoot(w.boot, p.LogName())
	}
	return out
}

// Close lets the warm machine go.
func (w *WarmStart) Close() {
	if w.From != nil {
		_ = w.From.Close() // nothing to be written
	}
}

// logIs says in which file the outcome's splats are.
func (o *Outcome) logIs(name string) {
	for i := range o.Splats {
		o.Splats[i].Log = name
	}
}

// addBoot adds what the boot showed of the machine that the outcome's was forked from,
// and whose kernel log is the beginning of this one.
func (o *Outcome) addBoot(boot Outcome, log string) {
	boot.logIs(log)
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
	// One boots, the others of this process go on from what it made: the suites of a
	// run. Another process boots for itself; whose template comes first is kept.
	m.warming.Lock()
	defer m.warming.Unlock()
	t, boot, err := m.Template(ctx, bare)
	if err == nil && t.bootLog == "" { // it was made
		var text []byte
		if text, err = os.ReadFile(t.log); err != nil {
			return nil, boot, errors.Join(fmt.Errorf("read the log of the boot: %w", err), t.Close())
		}
		t.bootLog = string(text)
		_ = os.Remove(t.log) // the program's own begins with it
	}
	return t, boot, err
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
