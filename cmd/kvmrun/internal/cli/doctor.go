// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"flag"
	"fmt"

	"github.com/kvmrun/kvmrun/internal/catalog"
	"github.com/kvmrun/kvmrun/internal/doctor"
	"github.com/kvmrun/kvmrun/vmtest"
)

var doctorCommand = command{
	name:  "doctor",
	short: "what this machine lacks, and the cure",
	long: `Checks QEMU and its version, whether KVM works and if not why, what keeps QEMU
apart from the host, memory, disk and the host's tools, and names a cure for each. Exit status 3 when something is
missing that kvmrun cannot do without.`,
	run: func(ctx context.Context, io IO, fs *flag.FlagSet, args []string) error {
		var v vmFlags
		fs.StringVar(&v.qemu, "qemu", "", "the QEMU `binary`; default: found in PATH")
		fs.StringVar(&v.cache, "cache", "", "the cache `directory`; default: $XDG_CACHE_HOME/kvmrun")
		v.accel = "auto"
		if err := parse(fs, args); err != nil {
			return err
		}
		m, err := v.machine(io, nil)
		if err != nil {
			return err
		}
		host := doctor.LocalHost(m.Cache.Root(), func(ctx context.Context) (string, string, error) {
			a, why, err := vmtest.ProbeAccel(ctx, v.qemu)
			return string(a), why, err
		})
		host.Confine = func(ctx context.Context) (doctor.Confinement, error) {
			a, _, err := vmtest.ProbeAccel(ctx, v.qemu)
			if err != nil {
				return doctor.Confinement{}, err
			}
			c, err := vmtest.ProbeConfinement(ctx, v.qemu, a)
			return doctor.Confinement{Sandbox: c.Sandbox, UID: c.UID, Limited: c.Limited, Why: c.Why}, err
		}
		r := doctor.Run(ctx, host, catalog.Specs())
		if err := r.WriteText(io.Out); err != nil {
			return fmt.Errorf("print the checks: %w", err)
		}
		if r.Err() != nil {
			return &exitError{code: exitInfra} // the text has said it
		}
		return nil
	},
}
