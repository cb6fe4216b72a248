// SPDX-License-Identifier: Apache-2.0

package symbolize

import (
	"errors"
	"fmt"
)

// The kinds of errors, for errors.Is. What the operating system reports is found
// by errors.Is with fs.ErrNotExist and fs.ErrPermission; a file that is no ELF
// file at all is described by a [*github.com/kvmrun/kvmrun/internal/kimage.Error].
var (
	// ErrNoDebugInfo: the file has no DWARF, and no separate file has it.
	ErrNoDebugInfo = errors.New("no debug information")
	// ErrOtherBuild: the file and the log are of different builds.
	ErrOtherBuild = errors.New("of another build")
	// ErrDamaged: the file's symbols or DWARF cannot be read.
	ErrDamaged = errors.New("damaged")
	// ErrUnknown: the file does not hold the function or address asked for.
	ErrUnknown = errors.New("unknown to the symbol table")
	// ErrAmbiguous: several functions fit, and nothing tells them apart.
	ErrAmbiguous = errors.New("ambiguous")
	// ErrNoOffset: an address cannot be used because the KASLR offset is unknown.
	ErrNoOffset = errors.New("kernel offset (KASLR) unknown")
	// ErrNoModule: no file of the module was found.
	ErrNoModule = errors.New("module not found")
)

// Error is a file that cannot be used, with what to do about it.
type Error struct {
	Path   string // as given by the user, or found below a directory given
	Kind   error  // one of the Err variables
	Detail string // what was found
	Cure   string // what to do, or ""
	Err    error  // the cause, or nil
}

// Error names the file, what is wrong and the cure.
func (e *Error) Error() string {
	s := fmt.Sprintf("symbolize with %s: %s", e.Path, e.Detail)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Cure != "" {
		s += " (" + e.Cure + ")"
	}
	return s
}

// Unwrap returns the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

const debugCure = "build it with CONFIG_DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT=y and give the vmlinux at the top of the build tree, " +
	"or install the distribution's debug package (Debian: linux-image-RELEASE-dbg)"
