// SPDX-License-Identifier: Apache-2.0

package front

import (
	"errors"
	"flag"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/words"
)

// def is one flag of a group G.
type def[G any] struct {
	name, text string
	// choices are all values, where there are a few.
	choices []string
	// add registers the flag for a field of g.
	add func(g *G, fs *flag.FlagSet, name, text string)
}

// register adds flags of a group, all or some, to a set.
func register[G any](g *G, defs []def[G], fs *flag.FlagSet, only []string) {
	for _, n := range only {
		if !slices.ContainsFunc(defs, func(d def[G]) bool { return d.name == n }) {
			panic("front: no flag -" + n + " in this group")
		}
	}
	for _, d := range defs {
		if len(only) == 0 || slices.Contains(only, d.name) {
			d.add(g, fs, d.name, d.text)
		}
	}
}

// Explain gives a registered flag a text of the command's own, where it means
// something more special there.
func Explain(fs *flag.FlagSet, name, text string) { fs.Lookup(name).Usage = text }

// Choices are the values that the flag takes, nil where they are too many to say.
func Choices(name string) []string {
	for _, d := range vmFlags {
		if d.name == name {
			return d.choices
		}
	}
	for _, d := range policyFlags {
		if d.name == name {
			return d.choices
		}
	}
	return nil
}

// Parse parses a command's flags; what is wrong with them is said in two lines.
// The first begins with the command's name, "" for none, the second is the hint at
// where all flags are described. It returns [flag.ErrHelp] when help is asked for,
// which is the caller's to print.
func Parse(fs *flag.FlagSet, args []string, command, hint string) error {
	out, usage := fs.Output(), fs.Usage
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	err := fs.Parse(args)
	fs.SetOutput(out)
	fs.Usage = usage
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return err
	}
	near := ""
	if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
		var names []string
		fs.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
		near = words.Nearest(strings.TrimLeft(name, "-"), names)
	}
	if command != "" {
		command += ": "
	}
	return Usagef("%s%w%s\n%s", command, err, near, hint)
}

// Same returns a flag that was given as words of a shell's command line that can
// be given in any directory, with sep between name and value, and a blank before.
func Same(f *flag.Flag, sep string) string {
	var b strings.Builder
	put := func(sep, value string) {
		switch f.Name {
		case "modules", "kconfig", "cache", "allow", "src":
			value = Absolute(value)
		case "qemu":
			value = absoluteProgram(value)
		}
		b.WriteString(" -" + f.Name + sep + words.Quote(value))
	}
	switch v := f.Value.(type) {
	case *Multi:
		for _, one := range *v {
			put(sep, one)
		}
	case *fault.Flag:
		for _, one := range v.Plan {
			put(sep, one.String())
		}
	case interface{ IsBoolFlag() bool }:
		put("=", f.Value.String())
	default:
		put(sep, f.Value.String())
	}
	return b.String()
}

// Absolute is the path from the root, or p where the working directory is gone.
func Absolute(p string) string {
	if a, err := filepath.Abs(p); err == nil && p != "" {
		return a
	}
	return p
}

// absoluteProgram is the path of a program that is not to be looked for in PATH.
func absoluteProgram(p string) string {
	if strings.Contains(p, "/") {
		return Absolute(p)
	}
	return p
}

// CheckEnv refuses what is no variable of an environment.
func CheckEnv(env []string) error {
	for _, e := range env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return Usagef("-env %s: want NAME=VALUE; for a value of this shell: -env %s=\"$%s\"", e, name, name)
		}
	}
	return nil
}

// CheckDone refuses arguments where there must be none.
func CheckDone(fs *flag.FlagSet, command, cure string) error {
	if fs.NArg() == 0 {
		return nil
	}
	if cure != "" {
		cure = "; " + cure
	}
	return Usagef("%s: unexpected argument %q%s", command, fs.Arg(0), cure)
}
