// SPDX-License-Identifier: Apache-2.0

package args

import (
	"errors"
	"fmt"
	"strings"
)

// ErrCollision is wrapped by the error of [Argv] when an argument occurs more
// often than it may.
var ErrCollision = errors.New("argument given twice")

// Arg is one option of QEMU's command line. The zero value is invalid; use
// [Unique], [Flag] or [Repeat].
type Arg struct {
	name, id, value string
	hasValue        bool
}

// Unique returns the option -name value, which may occur once.
func Unique(name, value string) Arg { return Arg{name: name, value: value, hasValue: true} }

// Flag returns the option -name without a value, which may occur once.
func Flag(name string) Arg { return Arg{name: name} }

// Repeat returns the option -name value, which may occur once for each id.
func Repeat(name, id, value string) Arg {
	return Arg{name: name, id: id, value: value, hasValue: true}
}

// Argv renders the list in its order, without the program's name. It fails,
// wrapping [ErrCollision], when an option or an id occurs twice.
func Argv(list []Arg) ([]string, error) {
	type key struct{ name, id string }
	seen := make(map[key]bool, len(list))
	unique := make(map[string]bool, len(list))
	var argv []string
	for _, a := range list {
		if a.name == "" {
			return nil, errors.New("render arguments: argument without a name")
		}
		k := key{a.name, a.id}
		// An option that is unique once is unique everywhere: -device and
		// -device,id=x never mix.
		if was, ok := unique[a.name]; seen[k] || ok && was != (a.id == "") {
			return nil, fmt.Errorf("render arguments: -%s %s: %w", a.name, a.id, ErrCollision)
		}
		seen[k] = true
		unique[a.name] = a.id == ""
		argv = append(argv, "-"+a.name)
		if a.hasValue {
			argv = append(argv, a.value)
		}
	}
	return argv, nil
}

// opts renders QEMU's comma separated option syntax: a first bare word and
// then pairs of key and value. Commas in values are doubled, which is how
// QEMU's parser reads a literal one (util/keyval.c, util/qemu-option.c).
func opts(first string, pairs ...string) string {
	var b strings.Builder
	b.WriteString(first)
	for i := 0; i+1 < len(pairs); i += 2 {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(pairs[i])
		b.WriteByte('=')
		b.WriteString(strings.ReplaceAll(pairs[i+1], ",", ",,"))
	}
	return b.String()
}
