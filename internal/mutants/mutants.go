// SPDX-License-Identifier: Apache-2.0

package mutants

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Mutant is one bug.
type Mutant struct {
	ID      string `json:"id"`    // "E1"
	Suite   string `json:"suite"` // the suite that must catch it
	Title   string `json:"title"`
	History string `json:"history"` // where the bug comes from
	// Test is a regular expression: a test that matches it must fail. It is
	// matched against the name of the test at the top.
	Test string `json:"test"`
	// Symptom is what the failing test or the kernel says, for the reader.
	Symptom string `json:"symptom"`
	// Profile is the profile a kernel must have for the bug to show; "" is any.
	Profile string `json:"profile,omitempty"`
	// Path is the patch's path as [Load] found it.
	Path string `json:"path"`

	test *regexp.Regexp
}

// keys are the header's, with whether each must be there.
var keys = map[string]bool{
	"Mutant": true, "Suite": true, "Title": true, "History": true, "Test": true, "Symptom": true, "Profile": false,
}

var idRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Z][0-9]+$`) })

// Parse reads the header of a mutant's patch: lines "Key: value", continued by
// indented lines, up to a line "---". The patch itself is not looked at.
func Parse(name string, text []byte) (Mutant, error) {
	values := map[string]string{}
	last := ""
	ended := false
	for i, line := range strings.Split(string(text), "\n") {
		if line == "---" {
			ended = true
			break
		}
		if strings.HasPrefix(line, " ") && last != "" {
			values[last] += " " + strings.TrimSpace(line)
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		_, known := keys[key]
		switch {
		case key == "SPDX-License-Identifier":
			last = ""
			continue
		case !ok || !known:
			return Mutant{}, fmt.Errorf("read mutant: %s:%d: %q is no line of a header (want one of Mutant, Suite, Title, History, Test, Symptom, Profile, and a line --- at the end)", name, i+1, line)
		case values[key] != "":
			return Mutant{}, fmt.Errorf("read mutant: %s:%d: %s is there twice", name, i+1, key)
		}
		values[key] = strings.TrimSpace(value)
		last = key
	}
	if !ended {
		return Mutant{}, fmt.Errorf("read mutant: %s: the header does not end with a line ---", name)
	}
	m := Mutant{
		ID: values["Mutant"], Suite: values["Suite"], Title: values["Title"], History: values["History"],
		Test: values["Test"], Symptom: values["Symptom"], Profile: values["Profile"], Path: name,
	}
	var missing []string
	for key, must := range keys {
		if must && values[key] == "" {
			missing = append(missing, key)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return m, fmt.Errorf("read mutant: %s: the header has no %s", name, strings.Join(missing, ", "))
	}
	if !idRE().MatchString(m.ID) {
		return m, fmt.Errorf("read mutant: %s: bad id %q: want a letter and a number", name, m.ID)
	}
	var err error
	if m.test, err = regexp.Compile("^(?:" + m.Test + ")$"); err != nil {
		return m, fmt.Errorf("read mutant: %s: bad Test: %w", name, err)
	}
	return m, nil
}

// Load reads every mutant below a directory of suites: SUITE/mutants/*.patch,
// sorted by suite and number.
func Load(suites fs.FS) ([]Mutant, error) {
	names, err := fs.Glob(suites, "*/mutants/*.patch")
	if err != nil {
		return nil, fmt.Errorf("find mutants: %w", err)
	}
	var all []Mutant
	var errs []error
	seen := map[string]string{}
	for _, name := range names {
		text, err := fs.ReadFile(suites, name)
		if err != nil {
			errs = append(errs, fmt.Errorf("read mutant: %w", err))
			continue
		}
		m, err := Parse(name, text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if dir := strings.Split(name, "/")[0]; m.Suite != dir {
			errs = append(errs, fmt.Errorf("read mutant: %s: the header says suite %s, the directory %s", name, m.Suite, dir))
		}
		if !strings.HasPrefix(path.Base(name), m.ID+"-") {
			errs = append(errs, fmt.Errorf("read mutant: %s: the header says %s, the file's name does not", name, m.ID))
		}
		if other, twice := seen[m.ID]; twice {
			errs = append(errs, fmt.Errorf("read mutant: %s: %s is also called %s", name, other, m.ID))
		}
		seen[m.ID] = name
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b Mutant) int {
		if n := strings.Compare(a.Suite, b.Suite); n != 0 {
			return n
		}
		return number(a.ID) - number(b.ID)
	})
	return all, errors.Join(errs...)
}

func number(id string) int {
	n, err := strconv.Atoi(id[1:])
	if err != nil {
		return 0 // an id was checked to end in a number
	}
	return n
}

// Select returns the mutants of the suites and with the ids; an empty list does
// not restrict. A name that nothing has is an error.
func Select(all []Mutant, suites, ids []string) ([]Mutant, error) {
	check := func(what string, want []string, has func(Mutant) string) error {
		for _, w := range want {
			if !slices.ContainsFunc(all, func(m Mutant) bool { return has(m) == w }) {
				var known []string
				for _, m := range all {
					known = append(known, has(m))
				}
				return fmt.Errorf("unknown %s %q: want one of %s", what, w, strings.Join(slices.Compact(known), ", "))
			}
		}
		return nil
	}
	err := errors.Join(
		check("suite", suites, func(m Mutant) string { return m.Suite }),
		check("mutant", ids, func(m Mutant) string { return m.ID }))
	if err != nil {
		return nil, err
	}
	var out []Mutant
	for _, m := range all {
		if (len(suites) == 0 || slices.Contains(suites, m.Suite)) && (len(ids) == 0 || slices.Contains(ids, m.ID)) {
			out = append(out, m)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no mutant is both of the chosen suites and of the chosen names")
	}
	return out, nil
}

// WriteTable prints rows for a reader: one line per mutant, then what they add
// up to.
func WriteTable(w io.Writer, t Table) error {
	var b strings.Builder
	for _, c := range t.Controls {
		state := "green"
		if !c.Green {
			state = "NOT GREEN: " + c.Reason
		}
		fmt.Fprintf(&b, "control %s, profile %s: %s\n", c.Suite, c.Profile, state)
	}
	width := 0
	for _, r := range t.Rows {
		width = max(width, len(r.Mutant.ID))
	}
	for _, r := range t.Rows {
		fmt.Fprintf(&b, "%-*s  %-9s %s", width, r.Mutant.ID, r.Mutant.Suite, r.Outcome)
		if r.Outcome.Killed() || r.Outcome == KilledElsewhere {
			fmt.Fprintf(&b, " by %s: %s", strings.Join(r.Tests, ", "), r.Symptom)
		} else if r.Reason != "" {
			fmt.Fprintf(&b, ": %s", r.Reason)
		}
		fmt.Fprintf(&b, "\n%*s  %s\n", width, "", r.Mutant.Title)
	}
	fmt.Fprintf(&b, "%d of %d mutants killed\n", t.Killed(), len(t.Rows))
	if !t.Valid() {
		b.WriteString("the table is worth nothing: a control run was not green\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Names says whether the header names the test, given without subtests.
func (m Mutant) Names(test string) bool { return m.test != nil && m.test.MatchString(test) }
