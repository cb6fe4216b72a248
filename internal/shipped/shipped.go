// SPDX-License-Identifier: Apache-2.0

// Package shipped finds what was installed beside the kvmrun program, so that it
// needs no Go toolchain, no C compiler, no network and no checkout: the guest's
// tools, the suites' test binaries and their C programs. make dist and make install
// put them there.
//
// They count only when they were made together with this very program, by its
// build ID: a test binary is the guest's agent as well, and of another version it
// would not understand its host.
//
// It must not know what its files are used for.
package shipped

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// What is in the directory: the build ID of its program, the guest's tools as
// initramfs.Spec.Busybox wants them, NAME.test of each suite, and the suites' C
// programs by their key (suites.CProgram).
const (
	Stamp   = "build-id"
	Busybox = "busybox"
	Suites  = "suites"
	C       = "c"
)

// Dir returns the directory that belongs to the running program, "" when there
// is none. It is PROGRAM.d beside the program, or lib/kvmrun beside its bin. The
// error says of one that is there why it is not used.
func Dir() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", nil //nolint:nilerr // then nothing is beside it
	}
	if real, err := filepath.EvalSymlinks(exe); err == nil {
		exe = real
	}
	return For(exe)
}

// For is Dir for a program.
func For(program string) (string, error) {
	for _, dir := range []string{program + ".d", filepath.Join(filepath.Dir(filepath.Dir(program)), "lib", "kvmrun")} {
		stamp, err := os.ReadFile(filepath.Join(dir, Stamp))
		if err != nil {
			continue
		}
		id, err := BuildID(program)
		if err != nil {
			return "", err
		}
		if strings.TrimSpace(string(stamp)) != id {
			return "", fmt.Errorf("%s was made for another build of kvmrun than %s, and is not used; make dist or make install makes both", dir, program)
		}
		return dir, nil
	}
	return "", nil
}

// BuildID returns what tells this build of a Go program from any other.
func BuildID(program string) (string, error) {
	f, err := elf.Open(program)
	if err != nil {
		return "", fmt.Errorf("read the build ID of %s: %w", program, err)
	}
	defer f.Close() //nolint:errcheck // opened for reading
	s := f.Section(".note.go.buildid")
	if s == nil {
		return "", fmt.Errorf("read the build ID of %s: it has none", program)
	}
	note, err := s.Data()
	const header = 16 // name size, description size, type, "Go\0\0"
	if err != nil || len(note) <= header {
		return "", fmt.Errorf("read the build ID of %s: its note is cut short", program)
	}
	return strings.TrimRight(string(note[header:]), "\x00"), nil
}
