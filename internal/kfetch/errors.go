// SPDX-License-Identifier: Apache-2.0

package kfetch

import (
	"errors"
	"fmt"
)

// The kinds of [Error], for errors.Is.
var (
	// ErrBadRef: the reference is not one.
	ErrBadRef = errors.New("bad kernel reference")
	// ErrNoTools: apt or dpkg-deb are missing.
	ErrNoTools = errors.New("no package tools")
	// ErrNotFound: apt's lists have no such kernel.
	ErrNotFound = errors.New("kernel not found")
	// ErrUnauthenticated: the package's origin could not be verified.
	ErrUnauthenticated = errors.New("package cannot be authenticated")
	// ErrDownload: apt could not get the package.
	ErrDownload = errors.New("download failed")
	// ErrPackage: the package does not contain what it should.
	ErrPackage = errors.New("unexpected package content")
)

// Error is a kernel that could not be fetched.
type Error struct {
	Ref    string // as given by the user
	Kind   error  // one of the Err variables
	Detail string
	Cure   string // what to do, or ""
	Err    error  // the cause, or nil
}

// Error names what was asked for, what happened, and the cure.
func (e *Error) Error() string {
	s := fmt.Sprintf("fetch %s: %s", e.Ref, e.Detail)
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
