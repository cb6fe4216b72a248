// SPDX-License-Identifier: Apache-2.0

package front

import (
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/visible"
)

// Error ends a front end with an exit status of the table in package result, or a
// program's own. Err is nil where there is nothing left to say.
type Error struct {
	Code int
	Err  error
}

// Error is the text to be printed, "" for none.
func (e *Error) Error() string {
	if e.Err == nil {
		return ""
	}
	return e.Err.Error()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Usage makes an error one of wrong usage.
func Usage(err error) error { return &Error{result.ExitUsage, err} }

// Usagef is an error of wrong usage: what was given, what is wrong with it, the cure.
func Usagef(format string, a ...any) error { return Usage(fmt.Errorf(format, a...)) }

// IsUsage says whether an error is one of wrong usage.
func IsUsage(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == result.ExitUsage
}

// Fail is an outcome that is no fault of the infrastructure.
func Fail(err error) error { return &Error{result.ExitFail, err} }

// Status prints an error to w, if there is anything to say, and returns its exit
// status. An error that is no [Error] is the infrastructure's.
func Status(w io.Writer, err error) int {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return result.ExitPass
	}
	var exit *Error
	if !errors.As(err, &exit) {
		fmt.Fprintln(visible.Writer(w), "kvmrun:", err)
		return result.ExitInfra
	}
	if exit.Err != nil {
		fmt.Fprintln(visible.Writer(w), "kvmrun:", exit.Err)
	}
	if exit.Code == result.ExitUsage && result.HostsFault(err) {
		return result.ExitInfra
	}
	return exit.Code
}
