// SPDX-License-Identifier: Apache-2.0

package kfetch

import (
	"strings"
)

// CompareVersions compares two Debian package versions as dpkg does
// (deb-version(7)): negative when a is older than b. Malformed versions have
// some place in the order, too.
func CompareVersions(a, b string) int {
	ea, ua, ra := splitVersion(a)
	eb, ub, rb := splitVersion(b)
	if c := comparePart(ea, eb); c != 0 {
		return c
	}
	if c := comparePart(ua, ub); c != 0 {
		return c
	}
	return comparePart(ra, rb)
}

// splitVersion splits epoch:upstream-revision.
func splitVersion(v string) (epoch, upstream, revision string) {
	epoch = "0"
	if e, rest, ok := strings.Cut(v, ":"); ok {
		epoch, v = e, rest
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return epoch, v[:i], v[i+1:]
	}
	return epoch, v, "0"
}

// comparePart compares alternately a run of non-digits, in which letters sort
// before other characters and a tilde before even the end, and a number.
func comparePart(a, b string) int {
	order := func(s string) int {
		switch {
		case s == "" || s[0] >= '0' && s[0] <= '9':
			return 0
		case s[0] == '~':
			return -1
		case s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z':
			return int(s[0])
		}
		return int(s[0]) + 256
	}
	isDigit := func(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }
	for a != "" || b != "" {
		for a != "" && !isDigit(a) || b != "" && !isDigit(b) {
			if c := order(a) - order(b); c != 0 {
				return c
			}
			a, b = a[1:], b[1:] // equal orders above 0: both have a character
		}
		a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		first := 0
		for isDigit(a) && isDigit(b) {
			if first == 0 {
				first = int(a[0]) - int(b[0])
			}
			a, b = a[1:], b[1:]
		}
		switch {
		case isDigit(a):
			return 1
		case isDigit(b):
			return -1
		case first != 0:
			return first
		}
	}
	return 0
}

// upstreamOf is the part of a package version that is the kernel's own.
func upstreamOf(version string) string {
	_, upstream, _ := splitVersion(version)
	return upstream
}
