// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/internal/words"
	"github.com/kvmrun/kvmrun/vmtest"
)

// parse parses flags. What is wrong with them is said in a few lines, status 2:
// all flags are described where the last one points to.
func parse(fs *flag.FlagSet, args []string) error {
	out, usage := fs.Output(), fs.Usage
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	err := fs.Parse(args)
	fs.SetOutput(out)
	fs.Usage = usage
	switch {
	case err == nil:
		return nil
	case errors.Is(err, flag.ErrHelp):
		usage()
		return err
	}
	near := ""
	if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
		var names []string
		fs.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
		near = words.Nearest(strings.TrimLeft(name, "-"), names)
	}
	verb := strings.TrimPrefix(fs.Name(), "kvmrun ")
	return usagef("%s: %w%s\nusage: kvmrun %s [flags]; kvmrun help %s describes them", verb, err, near, verb, verb)
}

// number is a whole number that is not negative.
type number int

func (n *number) String() string { return strconv.Itoa(int(*n)) }

func (n *number) Set(s string) error {
	i, err := strconv.Atoi(s)
	switch {
	case err != nil:
		return errors.New("want a whole number")
	case i < 0:
		return errors.New("must not be negative")
	}
	*n = number(i)
	return nil
}

func numberVar(fs *flag.FlagSet, p *int, name string, value int, usage string) {
	*p = value
	fs.Var((*number)(p), name, usage)
}

// mebibytes is a size in MiB, given as that or with a unit.
type mebibytes int

func (n *mebibytes) String() string { return strconv.Itoa(int(*n)) }

func (n *mebibytes) Set(s string) error {
	text, unit := strings.TrimRight(s, "iB"), 1
	switch {
	case strings.HasSuffix(text, "G"), strings.HasSuffix(text, "g"):
		unit = 1024
		fallthrough
	case strings.HasSuffix(text, "M"), strings.HasSuffix(text, "m"):
		text = text[:len(text)-1]
	case text != s:
		text = "" // a unit smaller than MiB, or none of ours
	}
	i, err := strconv.Atoi(text)
	switch {
	case err != nil:
		return errors.New("want a number of MiB, or a size as 512M or 2G")
	case i < 0:
		return errors.New("must not be negative")
	case i > 1<<40/unit:
		return errors.New("is out of range")
	}
	*n = mebibytes(i * unit)
	return nil
}

// span is a time limit: a duration that is not negative.
type span time.Duration

func (d *span) String() string { return time.Duration(*d).String() }

func (d *span) Set(s string) error {
	v, err := time.ParseDuration(s)
	if _, bare := strconv.ParseFloat(s, 64); err != nil && bare == nil {
		return fmt.Errorf("give a unit, as %ss or %sm", s, s)
	}
	switch {
	case err != nil:
		return errors.New("want a time, as 90s, 5m or 1h30m")
	case v < 0:
		return errors.New("must not be negative")
	}
	*d = span(v)
	return nil
}

func spanVar(fs *flag.FlagSet, p *time.Duration, name, usage string) {
	fs.Var((*span)(p), name, usage)
}

// checkEnv refuses what is no variable.
func checkEnv(env []string) error {
	for _, e := range env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return usagef("-env %s: want NAME=VALUE; for a value of this shell: -env %s=\"$%s\"", e, name, name)
		}
	}
	return nil
}

// check refuses machines that cannot be had here, before anything is made.
func (v *vmFlags) check() error {
	switch v.accel {
	case "auto", "kvm", "tcg":
	default:
		return usagef("-accel %s: want kvm, tcg or auto", v.accel)
	}
	if v.cpus > vmtest.MaxCPUs {
		return usagef("-cpus %d: a VM has %d at most; leave -cpus out for what the suite asks for", v.cpus, vmtest.MaxCPUs)
	}
	if have := hostMiB(); have > 0 && v.memory > have {
		return usagef("-memory %d: this host has %d MiB, swap included; give less, or leave -memory out for what the suite asks for", v.memory, have)
	}
	return nil
}

// hostMiB is the host's memory and swap, 0 if that is not known (proc_meminfo(5)).
func hostMiB() (mib int) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) >= 2 && (f[0] == "MemTotal:" || f[0] == "SwapTotal:") {
			if n, err := strconv.Atoi(f[1]); err == nil {
				mib += n >> 10
			}
		}
	}
	return mib
}
