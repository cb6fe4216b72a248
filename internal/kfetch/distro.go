// SPDX-License-Identifier: Apache-2.0

package kfetch

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
)

// distro is what differs between distributions. The table is in distros.
type distro struct {
	name string // in references, and ID in os-release(5)
	// image matches the names of packages with a bootable kernel; its first
	// group is the release. ARCH stands for the archive's architecture name.
	image string
	// prefix is what all image packages' names begin with; unsigned follows
	// it in packages whose kernel lacks the Secure Boot signature.
	prefix, unsigned string
	// debug are the packages with a vmlinux that has debug information;
	// RELEASE stands for the release.
	debug []string
	// source matches the packages with the source tree; its first group is the
	// series.
	source string
	// untested is set when nobody has tried this distribution with kvmrun.
	untested bool
}

// distros is the table of what can be fetched.
func distros() []distro {
	return []distro{
		{
			// Cloud kernels: small, with virtio. Names on Debian 12 are
			// 6.1.0-56-cloud-amd64 and 6.12.117+deb12-cloud-amd64, on 13
			// 6.12.48+deb13-cloud-amd64. Three numbers at least: two are meta
			// packages. Nothing after the architecture: -dbg and -unsigned.
			name:   "debian",
			image:  `^linux-image-([0-9]+\.[0-9]+\.[0-9]+[0-9a-z.+~-]*-cloud-ARCH)$`,
			prefix: "linux-image-",
			debug:  []string{"linux-image-RELEASE-dbg"},
			source: `^linux-source-([0-9]+\.[0-9]+)$`,
		},
		{
			name:     "ubuntu",
			image:    `^linux-image-(?:unsigned-)?([0-9]+\.[0-9]+\.[0-9]+-[0-9]+-generic)$`,
			prefix:   "linux-image-",
			unsigned: "unsigned-",
			debug:    []string{"linux-image-unsigned-RELEASE-dbgsym", "linux-image-RELEASE-dbgsym"},
			source:   `^linux-source-([0-9]+\.[0-9]+)\.0$`,
			untested: true,
		},
	}
}

// ref is a parsed reference.
type ref struct {
	distro  distro
	version string // "" for all
}

func (r ref) String() string {
	if r.version == "" {
		return r.distro.name
	}
	return r.distro.name + ":" + r.version
}

// series says whether the reference names a series of versions, of which the
// newest is meant.
func (r ref) series() bool {
	return strings.Count(r.version, ".") <= 1 && !strings.ContainsAny(r.version, "-+~:")
}

// matches says whether a kernel is one that the reference means.
func (r ref) matches(k Candidate) bool {
	v := r.version
	if r.series() {
		return v == "" || k.Upstream == v || strings.HasPrefix(k.Upstream, v+".")
	}
	return v == k.Version || v == k.Upstream || v == k.Release || strings.HasPrefix(k.Release, v+"-")
}

// refChars guards what is passed to apt: a reference cannot be an option or a
// pattern.
// Compiled at first use: test binaries link this package, and start three times.
var refChars = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9][0-9A-Za-z.+~:-]*$`) })

// IsRef says whether s looks like a reference to a distribution's kernel and
// not like a file's path.
func IsRef(s string) bool {
	name, _, ok := strings.Cut(s, ":")
	if !ok {
		return false
	}
	for _, d := range distros() {
		if d.name == name {
			return true
		}
	}
	return false
}

// CheckRef says what is wrong with a reference before anything is looked up.
func CheckRef(s string) error {
	_, err := parseRef(s, false)
	return err
}

// parseRef parses DISTRO:VERSION, or DISTRO alone when all is set.
func parseRef(s string, all bool) (ref, error) {
	name, version, ok := strings.Cut(s, ":")
	var names []string
	for _, d := range distros() {
		names = append(names, d.name)
		if d.name != name {
			continue
		}
		switch {
		case !ok && all:
			return ref{distro: d}, nil
		case !ok || version == "":
			return ref{}, &Error{Ref: s, Kind: ErrBadRef, Detail: "names no version", Cure: "for example " + name + ":6.12"}
		case !refChars().MatchString(version):
			return ref{}, &Error{Ref: s, Kind: ErrBadRef, Detail: fmt.Sprintf("%q is not a version", version), Cure: "for example " + name + ":6.12"}
		}
		return ref{distro: d, version: version}, nil
	}
	return ref{}, &Error{Ref: s, Kind: ErrBadRef, Detail: fmt.Sprintf("is not a kernel that can be fetched (known: %s)", strings.Join(names, ", ")),
		Cure: "for example debian:6.12; kernels of other distributions are given by -kernel FILE"}
}

// expand fills in a pattern or name of the table.
func expand(pattern, arch, release string) string {
	return strings.NewReplacer("ARCH", arch, "RELEASE", release).Replace(pattern)
}
