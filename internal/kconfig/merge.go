// SPDX-License-Identifier: Apache-2.0

package kconfig

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Merged is what a list of fragments asks for.
type Merged struct {
	// Assigns has every symbol once, in the order of first mention. Of equal
	// assignments it holds the first, or the first that is not optional.
	Assigns []Assign
}

// ConflictError is two fragments that ask for different values.
type ConflictError struct {
	First, Second Assign
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s: %s contradicts %s: %s (leave out one of the fragments, or write \"# override: why\" above the second assignment)",
		e.Second.Where(), e.Second, e.First.Where(), e.First)
}

// Merge puts fragments together. Different values for one symbol are an error
// that names both places, unless the later assignment says that it overrides.
// All conflicts are reported at once, each a *[ConflictError].
func Merge(fragments ...*Fragment) (*Merged, error) {
	m := &Merged{}
	at := map[string]int{}
	var errs []error
	for _, f := range fragments {
		for _, a := range f.Assigns {
			i, seen := at[a.Symbol]
			switch {
			case !seen:
				at[a.Symbol] = len(m.Assigns)
				m.Assigns = append(m.Assigns, a)
			case m.Assigns[i].Value == a.Value:
				if m.Assigns[i].Optional != "" && a.Optional == "" {
					m.Assigns[i] = a
				}
			case a.Override != "":
				m.Assigns[i] = a
			default:
				errs = append(errs, &ConflictError{First: m.Assigns[i], Second: a})
			}
		}
	}
	return m, errors.Join(errs...)
}

// Format writes the request as a fragment for the kernel's own tools
// (KCONFIG_ALLCONFIG, merge_config.sh), sorted by symbol, so that equal
// requests have equal text.
func (m *Merged) Format() []byte {
	lines := make([]Assign, len(m.Assigns))
	copy(lines, m.Assigns)
	slices.SortFunc(lines, func(a, b Assign) int { return strings.Compare(a.Symbol, b.Symbol) })
	var b strings.Builder
	for _, a := range lines {
		b.WriteString(a.String() + "\n")
	}
	return []byte(b.String())
}

// Unmet is a requested option that did not survive.
type Unmet struct {
	Assign Assign
	Got    string // the value it has instead
	// Why explains it as far as the Kconfig files tell, one reason per entry;
	// empty when they do not.
	Why []string
	// Unknown says that the tree has no such symbol.
	Unknown bool
}

// UnmetError is the broken contract between request and configuration.
type UnmetError struct {
	Unmet []Unmet
}

func (e *UnmetError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d requested option(s) did not survive:", len(e.Unmet))
	for _, u := range e.Unmet {
		got := u.Got
		if got == No {
			got = "not set"
		}
		if u.Unknown {
			got = "unknown to this tree"
		}
		fmt.Fprintf(&b, "\n  %s: asked for %s, got %s", u.Assign.Where(), u.Assign, got)
		for _, w := range u.Why {
			fmt.Fprintf(&b, "\n    %s", w)
		}
	}
	return b.String()
}

// Missing compares the request with the configuration the kernel made of it.
// tree explains and may be nil; without one nothing is known to be unknown.
//
// broken are the options that must not be missing; absent are optional ones
// which the tree does not know.
func (m *Merged) Missing(final Config, tree *Tree) (broken, absent []Unmet) {
	for _, a := range m.Assigns {
		got := final.Get(a.Symbol)
		if got == a.Value {
			continue
		}
		u := Unmet{Assign: a, Got: got}
		if tree != nil {
			u.Unknown = !tree.Known(a.Symbol)
			u.Why = tree.Explain(a.Symbol, a.Value, final)
		}
		if u.Unknown && a.Optional != "" {
			absent = append(absent, u)
			continue
		}
		broken = append(broken, u)
	}
	return broken, absent
}

// Change is one difference between two configurations.
type Change struct {
	Symbol   string
	Old, New string // [No] for not set
}

// Diff returns the differences, sorted by symbol.
func Diff(old, new Config) []Change {
	var out []Change
	for s, v := range old {
		if n := new.Get(s); n != v {
			out = append(out, Change{Symbol: s, Old: v, New: n})
		}
	}
	for s, v := range new {
		if _, both := old[s]; !both && v != No {
			out = append(out, Change{Symbol: s, Old: No, New: v})
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Symbol, b.Symbol) })
	return out
}

// String returns the change as "-OLD" and "+NEW" lines' shorter cousin, in the
// manner of the kernel's scripts/diffconfig.
func (c Change) String() string { return fmt.Sprintf(" %s %s -> %s", c.Symbol, c.Old, c.New) }
