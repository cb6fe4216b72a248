// SPDX-License-Identifier: Apache-2.0

// Package capbound is a PAM module in C, pam_capbound.so, and pamdrive, an
// application of PAM with one thread that drives any module. The module has the
// features of the first pam_cap that knew the bounding set (posted for libcap in
// December 2007), without its faults; pam_capbound.c says what it does.
//
// The package is data for the host that compiles them, and the protocol of
// pamdrive. It is safe for concurrent use.
package capbound

import (
	_ "embed" // the sources
	"fmt"
	"strconv"
	"strings"

	"github.com/kvmrun/kvmrun/suites"
)

// The sources of the module and of pamdrive.
var (
	//go:embed src/pam_capbound.c
	Module string
	//go:embed src/pamdrive.c
	Drive string
)

// Where they are in a guest.
const (
	ModulePath = "/usr/lib/kvmrun/pam_capbound.so"
	DrivePath  = "/usr/lib/kvmrun/pamdrive"
)

// Flags are the compiler's for both, beside those of [Programs].
var Flags = []string{"-std=c11", "-Wall", "-Wextra", "-Werror"}

// Programs is the module and pamdrive, for a suite's Spec.
func Programs() []suites.CProgram {
	needs := []suites.HostNeed{
		{Files: []string{"/usr/include/stdio.h"}, Package: "libc6-dev"},
		{Files: []string{"/usr/include/security/pam_modules.h"}, Package: "libpam0g-dev"},
		{Files: []string{"/usr/include/sys/capability.h"}, Package: "libcap-dev"},
	}
	flags := func(more ...string) []string { return append(append([]string{}, Flags...), more...) }
	return []suites.CProgram{
		{Source: Module, Guest: ModulePath, Flags: flags("-shared", "-fPIC", "-lpam", "-lcap"), Needs: needs},
		{Source: Drive, Guest: DrivePath, Flags: flags("-lpam", "-lcap"), Needs: needs},
	}
}

// Step is what one of pamdrive's steps did.
type Step struct {
	Name string
	// RC is a PAM return code (<security/_pam_types.h>), or an errno for a step
	// that is none of PAM's functions.
	RC int
	// The thread's sets after the step, bit n for capability n.
	I, P, E, B, A uint64
	Securebits    int
}

// Parse reads pamdrive's output: the steps of each session.
func Parse(out string) ([][]Step, error) {
	sessions := [][]Step{nil}
	for line := range strings.Lines(out) {
		if line == "--\n" {
			sessions = append(sessions, nil)
			continue
		}
		s, err := parseStep(line)
		if err != nil {
			return nil, fmt.Errorf("pamdrive printed %q: %w", line, err)
		}
		sessions[len(sessions)-1] = append(sessions[len(sessions)-1], s)
	}
	return sessions, nil
}

func parseStep(line string) (s Step, err error) {
	f := strings.Fields(line)
	if len(f) != 8 {
		return s, fmt.Errorf("want a step, its code and six hexadecimal numbers")
	}
	s.Name = f[0]
	if s.RC, err = strconv.Atoi(f[1]); err != nil {
		return s, err
	}
	var securebits uint64
	for i, p := range []*uint64{&s.I, &s.P, &s.E, &s.B, &s.A, &securebits} {
		if *p, err = strconv.ParseUint(f[2+i], 16, 64); err != nil {
			return s, err
		}
	}
	s.Securebits = int(securebits)
	return s, nil
}
