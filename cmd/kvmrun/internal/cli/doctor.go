// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"flag"
	"fmt"

	"github.com/kvmrun/kvmrun/internal/catalog"
	"github.com/kvmrun/kvmrun/internal/doctor"
	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/vmtest"
)

var doctorCommand = command{
	name:  "doctor",
	short: "what this machine lacks, and the cure",
	long: `Checks QEMU and its version, whether KVM works and if not why, what keeps QEMU
apart from the host, memory, disk and the host's tools, and names a cure for each. Exit status 3 when something is
missing that kvmrun cannot do without.`,
	flags: func(fs *flag.FlagSet) action {
		var v front.VM
		v.Register(fs, "qemu", "cache")
		return func(ctx context.Context, io IO, fs *flag.FlagSet, _ []string) error {
			if err := front.CheckDone(fs, "doctor", ""); err != nil {
				return err
			}
			return doDoctor(ctx, io, v)
		}
	},
}

func doDoctor(ctx context.Context, io IO, v front.VM) error {
	m, err := newMachine(&v, nil)
	if err != nil {
		return err
	}
	host := doctor.LocalHost(m.Cache.Root(), func(ctx context.Context) (string, string, error) {
		a, why, err := vmtest.ProbeAccel(ctx, v.QEMU)
		return string(a), why, err
	})
	host.Confine = func(ctx context.Context) (doctor.Confinement, error) {
		a, _, err := vmtest.ProbeAccel(ctx, v.QEMU)
		if err != nil {
			return doctor.Confinement{}, err
		}
		c, err := vmtest.ProbeConfinement(ctx, v.QEMU, a)
		return doctor.Confinement{Sandbox: c.Sandbox, UID: c.UID, Limited: c.Limited, Why: c.Why}, err
	}
	r := doctor.Run(ctx, host, catalog.Specs())
	if err := r.WriteText(io.Out); err != nil {
		return fmt.Errorf("print the checks: %w", err)
	}
	if r.Err() != nil {
		return &front.Error{Code: result.ExitInfra} // the text has said it
	}
	return nil
}
