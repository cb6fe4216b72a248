// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/hashicorp/go-multierror"

	"github.com/kvmrun/kvmrun/suites"
)

// Status is how a check ended. The zero value is invalid.
type Status string

// The statuses. Only Fail makes [Report.Err] an error.
const (
	OK   Status = "ok"
	Warn Status = "warn"
	Fail Status = "fail"
)

// Check is the result of one check.
type Check struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	// Detail is what was found, in one line.
	Detail string `json:"detail"`
	// Cure is what to do, "" exactly when the status is OK.
	Cure string `json:"cure,omitempty"`
}

// Report is the result of all checks, in a fixed order.
type Report struct {
	Checks []Check `json:"checks"`
}

// Run makes all checks, for these suites those of what their Specs need. When the
// context ends, the checks that depend on other programs fail.
func Run(ctx context.Context, h Host, specs []suites.Spec) *Report {
	inst := installer(h)
	checks := []Check{checkQEMU(ctx, h, inst), checkKVM(ctx, h)}
	if h.Confine != nil {
		checks = append(checks, checkConfinement(ctx, h))
	}
	checks = append(checks, checkMemory(h), checkDisk(h))
	for _, s := range specs {
		if c, ok := checkSuite(h, inst, s); ok {
			checks = append(checks, c)
		}
	}
	return &Report{Checks: append(checks, checkGo(ctx, h), checkFetch(h))}
}

// Err combines the failed checks, each with its cure, or returns nil.
func (r *Report) Err() error {
	var errs *multierror.Error
	for _, c := range r.Checks {
		if c.Status != OK && c.Status != Warn {
			errs = multierror.Append(errs, fmt.Errorf("%s: %s (%s)", c.Name, c.Detail, c.Cure))
		}
	}
	if errs != nil {
		errs.ErrorFormat = func(list []error) string {
			var b strings.Builder
			fmt.Fprintf(&b, "this machine lacks what kvmrun needs (%d of %d checks failed):", len(list), len(r.Checks))
			for _, err := range list {
				b.WriteString("\n  " + err.Error())
			}
			return b.String()
		}
	}
	return errs.ErrorOrNil()
}

// WriteText prints the report for people: a line for each check, and a line
// with the cure below those that are not ok.
func (r *Report) WriteText(w io.Writer) error {
	width := 0
	for _, c := range r.Checks {
		width = max(width, len(c.Name))
	}
	for _, c := range r.Checks {
		if _, err := fmt.Fprintf(w, "%-4s  %-*s  %s\n", c.Status, width, c.Name, c.Detail); err != nil {
			return err
		}
		if c.Cure == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "      %-*s  -> %s\n", width, "", c.Cure); err != nil {
			return err
		}
	}
	return nil
}
