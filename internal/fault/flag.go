// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"fmt"
	"os"
	"strings"
)

// Flag is a repeatable command line flag (package flag's Value) whose values
// are SPECs, or @FILE for a file with a plan.
type Flag struct{ Plan Plan }

// String returns the SPECs with blanks in between.
func (f *Flag) String() string {
	if f == nil {
		return ""
	}
	return strings.TrimSpace(strings.ReplaceAll(f.Plan.String(), "\n", " "))
}

// Set adds a SPEC or a file's plan.
func (f *Flag) Set(s string) error {
	name, file := strings.CutPrefix(s, "@")
	if !file {
		one, err := parse(s)
		if err != nil {
			return err // package flag names flag and value
		}
		f.Plan = append(f.Plan, one)
		return nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("read a plan of faults: %w", err)
	}
	p, err := ParsePlan(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	f.Plan = append(f.Plan, p...)
	return nil
}
