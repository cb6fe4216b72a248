// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"fmt"

	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/internal/wire"
)

// Armed returns the program with the plan's share of the guest's kernel added:
// it is held, and let go with the faults armed.
func (p Program) Armed(noise fault.Noise) Program {
	if p.Faults.Has(fault.Balloon) {
		p.Modules = append(p.Modules[:len(p.Modules):len(p.Modules)], "virtio_balloon")
	}
	arm := p.Faults.Expand().Compile(noise)
	if arm.Empty() {
		return p
	}
	if p.Run.Hold == "" {
		p.Run.Hold = wire.HoldExec
	}
	var rel wire.Release
	if p.Release != nil {
		rel = *p.Release
	}
	rel.Arm = arm
	p.Release = &rel
	return p
}

// faultNotes says what became of the faults.
func faultNotes(counts []wire.Count) (notes []string) {
	for i, c := range counts {
		if i == 50 {
			break
		}
		switch {
		case c.Err != "":
			notes = append(notes, fmt.Sprintf("fault %s: not known how often it came: %s", visible.Short(c.Name), visible.Short(c.Err)))
		case c.Fired == 0:
			notes = append(notes, fmt.Sprintf("fault %s: the program did not get there", visible.Short(c.Name)))
		default:
			notes = append(notes, fmt.Sprintf("fault %s: injected %d×", visible.Short(c.Name), c.Fired))
		}
	}
	return notes
}
