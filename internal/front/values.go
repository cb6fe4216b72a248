// SPDX-License-Identifier: Apache-2.0

package front

import (
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// List is a flag that may be given several times, or with commas.
type List []string

// String returns the values with commas between.
func (l *List) String() string { return strings.Join(*l, ",") }

// Set adds values.
func (l *List) Set(s string) error {
	for _, p := range strings.Split(s, ",") {
		if p = strings.TrimSpace(p); p != "" {
			*l = append(*l, p)
		}
	}
	return nil
}

// Multi is a flag that may be given several times; commas belong to the value.
type Multi []string

// String returns the values with blanks between.
func (m *Multi) String() string { return strings.Join(*m, " ") }

// Set adds a value.
func (m *Multi) Set(s string) error { *m = append(*m, s); return nil }

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

// NumberVar registers a flag for a whole number that is not negative.
func NumberVar(fs *flag.FlagSet, p *int, name string, value int, text string) {
	*p = value
	fs.Var((*number)(p), name, text)
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

// SpanVar registers a flag for a time limit.
func SpanVar(fs *flag.FlagSet, p *time.Duration, name, text string) {
	fs.Var((*span)(p), name, text)
}

// The formats of memory dumps, as QEMU's dump-guest-memory has them.
const (
	coreELF   = "elf"
	coreKdump = "kdump-zlib"
)

// Core is the format of a memory dump, "" for none, and "elf" when the flag has
// no value.
type Core string

// String returns the format.
func (c *Core) String() string { return string(*c) }

// Set takes a format by its name, or true and false.
func (c *Core) Set(s string) error {
	switch s {
	case "true", coreELF:
		*c = coreELF
	case coreKdump:
		*c = coreKdump
	case "false":
		*c = ""
	default:
		return fmt.Errorf("want %s or %s", coreELF, coreKdump)
	}
	return nil
}

// IsBoolFlag lets the flag stand alone.
func (*Core) IsBoolFlag() bool { return true }
