// SPDX-License-Identifier: Apache-2.0

package gotest

import (
	"regexp"
	"slices"
	"strings"
)

// Args are the arguments of a Go test binary, flags with their values behind an
// equals sign (-test.run=X), as "go test" passes them on. Where a flag is given
// more than once, the last one counts. Nothing here changes them.
type Args []string

// lookup returns the last value of a flag, such as test.run, and whether it is given.
func (a Args) lookup(flag string) (value string, given bool) {
	for _, s := range a {
		if name, v, _ := strings.Cut(strings.TrimLeft(s, "-"), "="); name == flag {
			value, given = v, true
		}
	}
	return value, given
}

// Flag returns the value of a flag, such as test.run; "" if it is not given.
func (a Args) Flag(name string) string {
	v, _ := a.lookup(name)
	return v
}

// Without returns the arguments but for one flag.
func (a Args) Without(flag string) Args {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool {
		name, _, _ := strings.Cut(strings.TrimLeft(s, "-"), "=")
		return name == flag
	})
}

// on says whether a boolean flag is set.
func (a Args) on(flag string) bool {
	v, given := a.lookup(flag)
	return given && v != "false"
}

// FailFast says whether no test begins after one that failed.
func (a Args) FailFast() bool { return a.on("test.failfast") }

// Verbose says whether tests are said to begin, and with what package testing begins
// its own lines: ^V or nothing.
func (a Args) Verbose() (verbose bool, mark string) {
	if a.Flag("test.v") == "test2json" {
		mark = "\x16"
	}
	return a.on("test.v"), mark
}

// profiles are what belongs to one process.
var profiles = []string{"test.shuffle", "test.bench", "test.coverprofile", "test.cpuprofile", "test.memprofile",
	"test.blockprofile", "test.mutexprofile", "test.trace"}

func (a Args) any(flags ...string) string {
	for _, f := range flags {
		if v := a.Flag(f); v != "" && v != "off" {
			return f
		}
	}
	return ""
}

// Resumable says whether a run can be taken up again in another process: not one
// with repetitions, benchmarks or profiles.
func (a Args) Resumable() bool {
	count, given := a.lookup("test.count")
	return (!given || count == "1") && !a.FailFast() && a.any(append(profiles, "test.cpu")...) == ""
}

// Isolable says which of the arguments needs all tests in one process, "" if none
// does.
func (a Args) Isolable() (notWith string) { return a.any(append(profiles, "test.gocoverdir")...) }

// Remaining returns those of tests that the arguments select and that are not done.
// An expression that package testing refuses selects nothing out: it says so itself.
func (a Args) Remaining(tests, done []string) []string {
	if a.Flag("test.count") == "0" {
		return nil
	}
	run := func(string) bool { return true }
	skip := func(string) bool { return false }
	if expr := a.Flag("test.run"); expr != "" {
		if f, err := TopLevel(expr); err == nil {
			run = f
		}
	}
	if expr := a.Flag("test.skip"); expr != "" {
		if f, err := skipped(expr); err == nil {
			skip = f
		}
	}
	gone := map[string]bool{}
	for _, d := range done {
		gone[d] = true
	}
	var out []string
	for _, t := range tests {
		if !gone[t] && run(t) && !skip(t) {
			out = append(out, t)
		}
	}
	return out
}

// Only is the expression for -test.run that selects, of what the arguments select,
// one top-level test: with the subtests that they name.
func (a Args) Only(test string) string {
	only := "^" + test + "$"
	var with []string
	if expr := a.Flag("test.run"); expr != "" {
		for _, alternative := range split(expr) {
			match, err := regexp.Compile(alternative[0])
			if err != nil || !match.MatchString(test) {
				continue // package testing will complain of the error
			}
			with = append(with, strings.Join(append([]string{only}, alternative[1:]...), "/"))
		}
	}
	if len(with) == 0 || slices.Contains(with, only) {
		return only
	}
	return strings.Join(with, "|")
}

// Selects says whether the arguments select a test, or subtest, itself: not only as
// a parent of what they select.
func (a Args) Selects(test string) bool {
	expr := a.Flag("test.run")
	if expr == "" {
		return true
	}
	elements := strings.Split(test, "/")
	for _, alt := range split(expr) {
		ok := len(alt) <= len(elements)
		for i := 0; ok && i < len(alt); i++ {
			// As package testing writes subtests' names, it reads expressions.
			re, err := regexp.Compile(strings.ReplaceAll(alt[i], " ", "_"))
			ok = err == nil && re.MatchString(elements[i])
		}
		if ok {
			return true
		}
	}
	return false
}

// TopLevel returns whether an expression for -test.run can match a top-level test:
// the first element of any alternative does (go help testflag). The error is that of
// any element.
func TopLevel(expr string) (func(test string) bool, error) {
	var first []*regexp.Regexp
	for _, alt := range split(expr) {
		for i, e := range alt {
			re, err := regexp.Compile(e)
			if err != nil {
				return nil, err
			}
			if i == 0 {
				first = append(first, re)
			}
		}
	}
	return func(test string) bool {
		return slices.ContainsFunc(first, func(re *regexp.Regexp) bool { return re.MatchString(test) })
	}, nil
}

// skipped returns whether a -test.skip skips a whole top-level test. The first of
// its alternatives that matches decides, and one with a slash skips subtests only
// (testing/match.go: alternationMatch.matches, matcher.fullName).
func skipped(expr string) (func(test string) bool, error) {
	type alternative struct {
		re    *regexp.Regexp
		whole bool
	}
	var all []alternative
	for _, alt := range split(expr) {
		re, err := regexp.Compile(alt[0])
		if err != nil {
			return nil, err
		}
		all = append(all, alternative{re, len(alt) == 1})
	}
	return func(test string) bool {
		for _, a := range all {
			if a.re.MatchString(test) {
				return a.whole
			}
		}
		return false
	}, nil
}

// split cuts a test expression into alternatives and these into elements as package
// testing does: what is in brackets does not separate (testing/match.go: splitRegexp).
func split(s string) [][]string {
	var out [][]string
	var alt []string
	square, round, from := 0, 0, 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '[':
			square++
		case ']':
			square = max(0, square-1) // an unmatched one is legal
		case '(':
			if square == 0 {
				round++
			}
		case ')':
			if square == 0 {
				round--
			}
		case '\\':
			i++
		case '/', '|':
			if square != 0 || round != 0 {
				continue
			}
			alt = append(alt, s[from:i])
			if s[i] == '|' {
				out, alt = append(out, alt), nil
			}
			from = i + 1
		}
	}
	return append(out, append(alt, s[from:]))
}
