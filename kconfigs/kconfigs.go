// SPDX-License-Identifier: Apache-2.0

// Package kconfigs holds the kernel configuration fragments that kvmrun builds
// with, and the profiles that are made of them.
//
// Each fragment is a file of its own, in the syntax of the kernel's
// scripts/kconfig/merge_config.sh and usable with it (-n, over allnoconfig).
// Its first comment says what it is for. Two comments have a meaning beyond the
// kernel's: "# optional: why" says that the next option may be unknown to a
// tree, "# override: why" that it replaces an earlier fragment's value.
//
// The package knows neither how fragments are merged nor kernels. It is
// constant data: everything may be used concurrently.
package kconfigs

import (
	"embed"
	"fmt"
	"slices"
	"strings"
)

//go:embed *.config
var files embed.FS

// Fragment is one file.
type Fragment struct {
	Name string // "base"
	Doc  string // what it is for: the first sentence of its first comment
	Text []byte
}

// Profile is an ordered list of fragments.
type Profile struct {
	Name      string
	Doc       string
	Fragments []string
}

// common is what every profile begins with: base, devices, what the suites
// need, the key, and enough debug information to symbolize.
var common = []string{
	"base", "virtio", "net",
	"pamcap", "landlock", "ipe", "uffdwp", "ext4",
	"lsm", "trusted-key", "debuginfo",
}

// Profiles returns all profiles, the fastest to build first.
func Profiles() []Profile {
	with := func(more ...string) []string { return append(slices.Clone(common), more...) }
	kasan := []string{"landlock-smc", "kasan", "fault-injection", "detectors", "slab-debug", "hardening", "ubsan", "lkdtm", "gup-test"}
	return []Profile{
		{"lean", "what the suites need, nothing to slow it down", with()},
		{"kasan", "lean with KASAN, UBSAN, fault injection, hang detectors, hardening, slab debugging and LKDTM", with(kasan...)},
		{"debug", "kasan with lockdep, memory management checks and kmemleak", with(append(kasan, "lockdep", "debug-vm", "kmemleak")...)},
		{"kcsan", "lean with the data race detector and hang detectors", with("kcsan", "detectors")},
		{"ubsan", "lean with the undefined behaviour checker and hang detectors", with("ubsan", "detectors")},
	}
}

// FindProfile returns the named profile, or an error that names all.
func FindProfile(name string) (Profile, error) {
	var names []string
	for _, p := range Profiles() {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return Profile{}, fmt.Errorf("unknown profile %q: want one of %s", name, strings.Join(names, ", "))
}

// Get returns the named fragment, or an error that names all.
func Get(name string) (Fragment, error) {
	text, err := files.ReadFile(name + ".config")
	if err != nil {
		return Fragment{}, fmt.Errorf("unknown fragment %q: want one of %s", name, strings.Join(Names(), ", "))
	}
	return Fragment{Name: name, Doc: doc(string(text)), Text: text}, nil
}

// Names returns the names of all fragments, sorted.
func Names() []string {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil // an embedded directory can always be read
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".config"))
	}
	slices.Sort(names)
	return names
}

// doc returns the first sentence of the comment at the top, without the
// fragment's name.
func doc(text string) string {
	var words []string
	for _, line := range strings.Split(text, "\n") {
		comment, ok := strings.CutPrefix(line, "#")
		if !ok || strings.TrimSpace(comment) == "" {
			break
		}
		words = append(words, strings.TrimSpace(comment))
	}
	all := strings.Join(words, " ")
	if _, rest, ok := strings.Cut(all, ": "); ok {
		all = rest
	}
	sentence, _, _ := strings.Cut(all+" ", ". ")
	return strings.TrimSuffix(strings.TrimSpace(sentence), ".")
}
