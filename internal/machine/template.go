// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kvmrun/kvmrun/vmtest"
)

// Template is a machine that was frozen, with its disks as they were then. It may be
// used by several goroutines and is the caller's to close, once the last Fork has
// begun.
type Template struct {
	vm    *vmtest.Template
	disks []*Disk
	inlet string // Recipe.Inlet
}

// Freeze makes a template of a VM that was booted Freezable; both are to be closed.
// The disks are the template's, unless there is an error.
func (vm *VM) Freeze(ctx context.Context) (*Template, error) {
	t, err := vm.VM.Freeze(ctx)
	if err != nil {
		return nil, err
	}
	return &Template{vm: t, disks: vm.TakeDisks(), inlet: vm.inlet}, nil
}

// Bytes is what the template occupies in the host's memory.
func (t *Template) Bytes() int64 { return t.vm.Bytes() }

// Close frees what the template occupies. Machines that were forked go on.
func (t *Template) Close() error {
	errs := []error{t.vm.Close()}
	for _, d := range t.disks {
		errs = append(errs, d.file.Close())
	}
	return errors.Join(errs...)
}

// Fork starts a machine that goes on where the template was frozen, with copies of
// its disks unless o has others. It may then wait for a job as long as one likes.
func (t *Template) Fork(ctx context.Context, h *Host, o Options) (*VM, error) {
	vm := &VM{Started: time.Now(), Log: o.Log, disks: o.Disks}
	fail := func(err error) (*VM, error) {
		if o.Disks != nil {
			vm.disks = nil // the caller's still
		}
		vm.Close()
		return nil, err
	}
	for i, d := range t.disks {
		if o.Disks != nil {
			break
		}
		var c *Disk
		var err error
		if o.Give != nil {
			c, err = makeDisk(ctx, o.Dir, o.Give.Disks[i])
		} else {
			c, err = d.clone(o.Dir)
		}
		if err != nil {
			return fail(err)
		}
		vm.disks = append(vm.disks, c)
	}
	cfg := vmtest.Config{}
	for _, d := range vm.disks {
		cfg.Disks = append(cfg.Disks, vmtest.Disk{File: d.file, Serial: d.spec.Name})
	}
	vm.host = newHostFaults(o.Faults, &cfg, vm.disks)
	if t.inlet != "" {
		f, err := o.inlet()
		if err != nil {
			return fail(err)
		}
		defer f.Close() //nolint:errcheck // QEMU's duplicate is what is read
		if o.Give != nil {
			if vm.Given, err = h.give(ctx, f, *o.Give, o.Give.Bare(t.inlet)); err == nil {
				err = h.roomFor(*o.Give, vm.Given)
			}
			if err != nil {
				return fail(err)
			}
		}
		cfg.Disks = append(cfg.Disks, vmtest.Disk{File: f, Serial: t.inlet, ReadOnly: true})
	}
	var err error
	if vm.VM, err = vmtest.Fork(ctx, t.vm, vmtest.ForkConfig{
		ConsoleFile: o.logFile(), Console: o.Console, Preface: o.Preface, Paused: o.Paused, Disks: cfg.Disks, Log: h.Log,
	}); err != nil {
		return fail(fmt.Errorf("fork the VM: %w", err))
	}
	return vm, nil
}
