// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"slices"
	"time"

	"github.com/kvmrun/kvmrun/internal/agent"
	"github.com/kvmrun/kvmrun/internal/klog"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/vmtest"
)

// Outcome is what Exec found out: facts, no verdict.
type Outcome struct {
	agent.Findings
	Splats []klog.Splat
	// KernelTests is what tests in the kernel said. Those of Exec's callers who read
	// the kernel log themselves see to it on their own.
	KernelTests KernelTests
	Panicked    bool
	// BootFailed says that the VM ran and the agent in it never got ready.
	BootFailed bool
	Exit       vmtest.Exit
	Accel      vmtest.Accel
	Args       []string // QEMU's
	LastWords  []string // the kernel log's last lines
	Disks      []machine.DiskCheck
	// Faults says how often those with a limit came.
	Faults []wire.Count
	// Acks is what the program had acknowledged when the power was cut. Writes and
	// Flushes count the requests to the disk that the last fault of a disk is for.
	Acks            []string
	Writes, Flushes uint64
	disks           []*machine.Disk // after a cut
	// Ended are the top-level tests that began and ended, Failed those of them
	// that failed, Skipped those that tested nothing, and Running those that began
	// and did not end.
	Ended, Failed, Skipped, Running []string
	// HostMiB is the memory that QEMU had for itself in the end: for a fork, what
	// it did not share with its template.
	HostMiB int
	// Start is where the program's machine came from: [StartedWarm], or cold and why.
	// "" where nobody asked for a warm one.
	Start string
	// Prepare is the host's work before QEMU's start, Teardown from the agent's last
	// word until QEMU was gone.
	Prepare, Teardown time.Duration
}

// Remarks are what a user is told beside the verdict.
func (o *Outcome) Remarks() []string { return append(slices.Clone(o.Notes), faultNotes(o.Faults)...) }

// Also adds what another machine of the same job showed, of which none went before
// the other: all that either saw counts, and of reasons the first.
func (o *Outcome) Also(b Outcome) {
	first := func(have *string, now string) {
		if *have == "" {
			*have = now
		}
	}
	o.Splats = append(o.Splats, b.Splats...)
	o.KernelTests.join(b.KernelTests)
	o.Ended, o.Failed = append(o.Ended, b.Ended...), append(o.Failed, b.Failed...)
	o.Panicked = o.Panicked || b.Panicked
	for _, n := range b.Notes {
		if !slices.Contains(o.Notes, n) {
			o.Notes = append(o.Notes, n)
		}
	}
	o.Disks = append(o.Disks, b.Disks...)
	if b.Infra != nil {
		o.Fail(b.Infra)
	}
	if o.Deadline+o.Hung == "" {
		o.Deadline, o.Hung = b.Deadline, b.Hung
	}
	first(&o.Scanner, b.Scanner)
	first(&o.GuestFault, b.GuestFault)
	o.HostMiB = max(o.HostMiB, b.HostMiB)
	if o.First == 0 {
		o.First = b.First
	}
	if o.Ready == nil {
		o.Ready, o.Accel, o.Args, o.Boot = b.Ready, b.Accel, b.Args, b.Boot
	}
	for _, c := range b.Faults {
		i := slices.IndexFunc(o.Faults, func(a wire.Count) bool { return a.Name == c.Name })
		if i < 0 {
			o.Faults = append(slices.Clip(o.Faults), c)
			continue
		}
		o.Faults = slices.Clone(o.Faults)
		o.Faults[i].Fired += c.Fired
		first(&o.Faults[i].Err, c.Err)
	}
}

// GoOn adds what a machine showed that went on where this one had ended: how that
// one ended is how the job did.
func (o *Outcome) GoOn(b Outcome) {
	o.Also(b)
	o.Exited, o.Done, o.EndMarker, o.Exit, o.LastWords = b.Exited, b.Done, b.EndMarker, b.Exit, b.LastWords
	o.Skipped, o.Running = b.Skipped, b.Running
	o.Looks, o.Teardown = b.Looks, b.Teardown
}
