// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/kvmrun/kvmrun/internal/klog"
)

// witness adds to the splats of the console what the agent's copy of the log and
// the taint bits know beside, and keeps that copy beside the kernel log when it has
// more. It is called once the log is closed.
func (s *session) witness() {
	out := s.out
	if out.Ready == nil {
		return // all that there was is on the console
	}
	name := s.p.Beside("kmsg", ".log")
	a := s.con.Compare(out.Splats, klog.Testimony{Taint: out.Ready.Taint, Booted: s.from == nil, Done: out.Done, Kmsg: out.Kmsg}, s.p.LogName(), name)
	out.Splats = a.Splats
	if a.Incomplete != "" {
		out.Incomplete(a.Incomplete)
	}
	if a.Results != nil && len(out.KernelTests.Failed) == 0 {
		if kt := newKernelTests(a.Results); len(kt.Failed) > 0 {
			out.KernelTests = kt // the console was silenced
		}
	}
	if a.Missing > 0 {
		file := filepath.Join(s.p.Dir, name)
		if err := os.WriteFile(file, a.Copy, 0o644); err != nil {
			out.Fail(fmt.Errorf("keep the agent's copy of the kernel log: %w", err))
		}
		out.Notes = append(out.Notes, fmt.Sprintf("%d kernel reports are not in the console's log; the agent has read them: %s", a.Missing, file))
	}
	out.Notes = append(out.Notes, a.Notes...)
}
