// SPDX-License-Identifier: Apache-2.0

package kconfig

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// No is the value of a symbol that is not set.
const No = "n"

// Directives are comments of a fragment that speak about the next assignment.
const (
	directiveOptional = "optional:"
	directiveOverride = "override:"
)

// Assign is one line of a fragment.
type Assign struct {
	Symbol string // without CONFIG_
	Value  string // as in a .config; [No] for "is not set"
	File   string // name given to Parse
	Line   int    // from 1
	// Optional is the text of an "# optional: why" comment above: no error when
	// the tree does not know the symbol at all.
	Optional string
	// Override is the text of an "# override: why" comment above: the
	// assignment replaces one of an earlier fragment.
	Override string
}

// String returns the assignment as it stands in a .config.
func (a Assign) String() string { return Line(a.Symbol, a.Value) }

// Where returns "file:line".
func (a Assign) Where() string { return fmt.Sprintf("%s:%d", a.File, a.Line) }

// Line formats a symbol and its value as a line of a .config.
func Line(symbol, value string) string {
	if value == No {
		return "# CONFIG_" + symbol + " is not set"
	}
	return "CONFIG_" + symbol + "=" + value
}

// Fragment is a parsed fragment.
type Fragment struct {
	Name    string
	Assigns []Assign // in their order; a symbol occurs once
}

// Config is a complete configuration: symbol to value, absent for [No].
type Config map[string]string

// Get returns a symbol's value, [No] when it is not set.
func (c Config) Get(symbol string) string {
	if v, ok := c[symbol]; ok {
		return v
	}
	return No
}

// SyntaxError is a line that no .config may contain.
type SyntaxError struct {
	File string
	Line int
	Text string // what is wrong
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Text) }

// Parse reads a fragment. It is as strict as the kernel's own reader is lax:
// every line that is neither an assignment, "# CONFIG_X is not set", a comment
// nor empty is an error, and so is a second, different value for one symbol.
// All errors are reported at once, joined, each a *[SyntaxError].
func Parse(name string, text []byte) (*Fragment, error) {
	f := &Fragment{Name: name}
	var errs []error
	seen := map[string]Assign{}
	var optional, override string
	for i, raw := range strings.Split(string(text), "\n") {
		line := strings.TrimRight(raw, " \t\r")
		bad := func(format string, a ...any) {
			errs = append(errs, &SyntaxError{File: name, Line: i + 1, Text: fmt.Sprintf(format, a...)})
		}
		if line == "" {
			optional, override = "", ""
			continue
		}
		symbol, value, ok, problem := parseLine(line)
		if problem != "" {
			bad("%s", problem)
			continue
		}
		if !ok { // a comment
			comment := strings.TrimSpace(strings.TrimPrefix(line, "#"))
			if why, ok := strings.CutPrefix(comment, directiveOptional); ok {
				optional = strings.TrimSpace(why)
			}
			if why, ok := strings.CutPrefix(comment, directiveOverride); ok {
				override = strings.TrimSpace(why)
			}
			continue
		}
		a := Assign{Symbol: symbol, Value: value, File: name, Line: i + 1, Optional: optional, Override: override}
		optional, override = "", ""
		if first, twice := seen[symbol]; twice {
			if first.Value != value {
				bad("%s contradicts line %d, %s", a, first.Line, first)
			}
			continue
		}
		seen[symbol] = a
		f.Assigns = append(f.Assigns, a)
	}
	return f, errors.Join(errs...)
}

// ParseConfig reads a complete .config with the strictness of [Parse].
func ParseConfig(name string, text []byte) (Config, error) {
	f, err := Parse(name, text)
	if err != nil {
		return nil, err
	}
	c := make(Config, len(f.Assigns))
	for _, a := range f.Assigns {
		if a.Value != No {
			c[a.Symbol] = a.Value
		}
	}
	return c, nil
}

// parseLine reads one line that is not empty. ok is false for a comment.
func parseLine(line string) (symbol, value string, ok bool, problem string) {
	if strings.HasPrefix(line, "#") {
		rest, isNot := strings.CutSuffix(line, " is not set")
		rest, isConfig := strings.CutPrefix(rest, "# CONFIG_")
		if !isNot || !isConfig {
			return "", "", false, ""
		}
		if !validSymbol(rest) {
			return "", "", false, fmt.Sprintf("%q is not an option's name", "CONFIG_"+rest)
		}
		return rest, No, true, ""
	}
	name, value, hasValue := strings.Cut(line, "=")
	symbol, isConfig := strings.CutPrefix(name, "CONFIG_")
	switch {
	case !isConfig:
		return "", "", false, fmt.Sprintf("%q is neither an assignment (CONFIG_X=y), \"# CONFIG_X is not set\" nor a comment", clip(line))
	case !validSymbol(symbol):
		return "", "", false, fmt.Sprintf("%q is not an option's name (letters, digits and _, and no space before the =)", clip(name))
	case !hasValue:
		return "", "", false, fmt.Sprintf("%s has no value (=y, =m, =n, a number or a \"string\")", name)
	}
	if problem := checkValue(value); problem != "" {
		return "", "", false, fmt.Sprintf("%s: %s", name, problem)
	}
	return symbol, value, true, ""
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}

func validSymbol(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return s != ""
}

func checkValue(v string) string {
	switch v {
	case "y", "m", "n":
		return ""
	case "":
		return "the value is empty (=n unsets an option, =\"\" empties a string)"
	}
	if v[0] == '"' {
		return checkString(v)
	}
	digits := strings.TrimPrefix(v, "-")
	hex := false
	if h, ok := strings.CutPrefix(strings.ToLower(digits), "0x"); ok {
		digits, hex = h, true
	}
	if digits == "" {
		return fmt.Sprintf("%q is no value", clip(v))
	}
	for i := range len(digits) {
		c := digits[i]
		if c >= '0' && c <= '9' || hex && (c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F') {
			continue
		}
		return fmt.Sprintf("%q is no value (y, m, n, a number, or a string in double quotes; a comment needs a line of its own)", clip(v))
	}
	return ""
}

func checkString(v string) string {
	for i := 1; i < len(v); i++ {
		switch v[i] {
		case '\\':
			i++
		case '"':
			if i != len(v)-1 {
				return "text after the closing quote"
			}
			return ""
		}
	}
	return "the string has no closing quote"
}

// Format writes a configuration in the form of a .config, sorted by symbol.
func (c Config) Format() []byte {
	var b strings.Builder
	for _, s := range slices.Sorted(maps.Keys(c)) {
		b.WriteString(Line(s, c[s]) + "\n")
	}
	return []byte(b.String())
}
