// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/kvmrun/kvmrun/internal/klog"
	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/visible"
)

// Facts returns what the verdict is made of, but for the tests, which are
// counted by whoever understands the program's output.
func (o Outcome) Facts() result.Facts {
	f := result.Facts{
		Panicked: o.Panicked, GuestFault: o.GuestFault, ScannerErr: o.Scanner, DeadlineExceeded: o.Deadline, Hung: o.Hung, EndMarker: o.EndMarker,
	}
	type same struct {
		test, fingerprint string
		excused           bool
	}
	seen := map[same]int{}
	for _, s := range o.Splats {
		key := same{s.Test, s.Fingerprint, s.Excused()}
		if i, again := seen[key]; again && s.Fingerprint != "" {
			first := &f.Splats[i]
			first.Count = max(first.Count, 1) + 1
			continue
		}
		seen[key] = len(f.Splats)
		f.Splats = append(f.Splats, result.Splat{
			Title: s.Title, Kind: string(s.Kind), Frame: s.Frame, Fingerprint: s.Fingerprint,
			Corrupted: s.Corrupted, Test: s.Test, Raw: string(s.Raw), Start: s.Start, End: s.End, Log: s.Log,
			Where: whereabouts(s.Report), Phase: s.Phase, Expected: s.Expected, Allowed: s.Allowed, Report: structured(s),
		})
	}
	if o.Infra != nil {
		f.InfraErr = o.Infra.Error()
	}
	if e := o.Exited; e != nil {
		if f.ExitCode = e.Code; e.Code == 0 && e.Signal == 0 {
			f.Unended = o.Running
		}
		if e.Signal != 0 {
			f.Signal = fmt.Sprintf("signal %d", e.Signal)
		}
		if e.Err != "" && !e.NotFound && !e.NotExecutable {
			f.InfraErr = "start the program in the guest: " + visible.Short(e.Err)
		}
	}
	return f
}

// maxStructured bounds a report's JSON, in bytes.
const maxStructured = 256 << 10

// structured is a report as JSON, nil if that is too long.
func structured(s klog.Splat) json.RawMessage {
	r := *s.Report
	r.Suppressed = s.Excused()
	b, err := json.Marshal(&r)
	if err != nil || len(b) > maxStructured {
		return nil
	}
	return b
}

// whereabouts names the CPU and the process of a report, as far as it does.
func whereabouts(r *oops.Report) string {
	var parts []string
	if r.CPU >= 0 {
		parts = append(parts, fmt.Sprintf("CPU %d", r.CPU))
	}
	switch {
	case r.Comm != "" && r.PID >= 0:
		parts = append(parts, fmt.Sprintf("%s/%d", visible.Short(r.Comm), r.PID))
	case r.Comm != "":
		parts = append(parts, visible.Short(r.Comm))
	}
	return strings.Join(parts, ", ")
}
