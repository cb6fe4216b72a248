// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"fmt"
	"syscall"
)

// Cause says what ended a machine.
type Cause int

const (
	// Invalid is the zero value and never the cause of a machine that ended.
	Invalid Cause = iota
	// PowerOff: the guest switched itself off.
	PowerOff
	// Reset: the guest reset itself. A kernel that panics without a pvpanic
	// driver does this too.
	Reset
	// Panicked: the guest's kernel told the pvpanic device that it panicked,
	// and then reset or switched off.
	Panicked
	// Quit: ended by the monitor's quit command.
	Quit
	// Crashed: QEMU ended by itself, with an error or by a signal that is not
	// ours.
	Crashed
	// Killed: by Kill or Close.
	Killed
	// Deadline: the deadline of Start's context passed.
	Deadline
	// Cancelled: Start's context was cancelled.
	Cancelled
)

var causes = [...]string{"invalid", "power-off", "reset", "panicked", "quit", "crashed", "killed", "deadline", "cancelled"}

func (c Cause) String() string {
	if c < 0 || int(c) >= len(causes) {
		return fmt.Sprintf("Cause(%d)", int(c))
	}
	return causes[c]
}

// Exit tells how a machine ended.
type Exit struct {
	// Cause is what ended it.
	Cause Cause
	// Detail is one line for people that says more than Cause.
	Detail string
	// GuestPanicked is true when the guest's kernel reported a panic through
	// the pvpanic device, whatever ended the machine then.
	GuestPanicked bool
	// Reason is that of QEMU's SHUTDOWN event, as QEMU names it
	// ("guest-shutdown", "guest-reset" ...); empty when there was none.
	Reason string
	// Status is that of the QEMU process.
	Status syscall.WaitStatus
	// Stderr is what QEMU itself printed, bounded to its first and last part.
	Stderr string
	// ConsoleBytes counts the console's bytes, those beyond ConsoleLimit too.
	ConsoleBytes int64
	// ConsoleTruncated is true when ConsoleLimit was passed.
	ConsoleTruncated bool
	// ConsoleErr says why the console file or the Console writer is
	// incomplete, e.g. a full disk; nil when all is there.
	ConsoleErr error
}

// String is one line for people.
func (e Exit) String() string {
	if e.Detail == "" {
		return e.Cause.String()
	}
	return e.Cause.String() + ": " + e.Detail
}

// StartError is the error of [Start] when the QEMU process was started but
// ended, or had to be ended, before the machine was running.
type StartError struct {
	// QEMU is the path of the binary.
	QEMU string
	// Exit tells how the process ended.
	Exit Exit
	// Err is what went wrong.
	Err error
}

func (e *StartError) Error() string { return fmt.Sprintf("start %s: %s", e.QEMU, e.Err) }

// Unwrap returns Err.
func (e *StartError) Unwrap() error { return e.Err }
