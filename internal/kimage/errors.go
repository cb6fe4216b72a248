// SPDX-License-Identifier: Apache-2.0

package kimage

import (
	"errors"
	"fmt"
)

// The kinds of [Error], for errors.Is. What the operating system reports
// (missing, unreadable) is found by errors.Is with fs.ErrNotExist and
// fs.ErrPermission.
var (
	// ErrNotKernel: the file is something else.
	ErrNotKernel = errors.New("not a kernel")
	// ErrTruncated: the file is a kernel whose end is missing.
	ErrTruncated = errors.New("truncated kernel")
	// ErrDamaged: the file's header is a kernel's, its content is not.
	ErrDamaged = errors.New("damaged kernel")
	// ErrUnsupported: the file is a kernel of a kind that cannot be used.
	ErrUnsupported = errors.New("unsupported kernel")
	// ErrArch: the kernel is for another architecture than wanted.
	ErrArch = errors.New("kernel for another architecture")
	// ErrNoConfig: the kernel's configuration was not found anywhere.
	ErrNoConfig = errors.New("no kernel config found")
	// ErrModulesDir: a modules directory does not belong to the kernel.
	ErrModulesDir = errors.New("modules directory does not fit")
)

// Error is a kernel file that cannot be used.
type Error struct {
	Path   string // as given by the user
	Kind   error  // one of the Err variables
	Detail string // what the file is, or what is wrong with it
	Cure   string // what to do, or ""
	Err    error  // the cause, or nil
}

// Error names the file, what is wrong and the cure.
func (e *Error) Error() string {
	s := fmt.Sprintf("kernel %s: %s", e.Path, e.Detail)
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
