// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/kvmrun/kvmrun/vmtest/internal/monitor"
)

// Event is one of QEMU's asynchronous messages: its name, its data and QEMU's
// time stamp.
type Event = monitor.Event

// EventsLost is the name of an event that stands for some the reader was too
// slow for; its data has their number as "count".
const EventsLost = monitor.EventsLost

// MonitorError is a monitor command QEMU refused, with QEMU's error class.
type MonitorError = monitor.Error

// ErrMonitorClosed is wrapped by errors of a monitor whose QEMU has gone.
var ErrMonitorClosed = monitor.ErrClosed

// Monitor runs commands of QEMU's machine protocol (QMP). It is a reference to
// its VM and may be copied.
type Monitor struct{ m *monitor.Monitor }

// Monitor returns the machine's monitor.
func (vm *VM) Monitor() Monitor { return Monitor{vm.monitor} }

// Run runs a command, such as "query-status". The arguments become a JSON
// object, nil for none. What QEMU returns is unmarshalled into result, unless
// that is nil. A refusal is a [*MonitorError].
func (m Monitor) Run(ctx context.Context, command string, arguments, result any) error {
	return m.m.Execute(ctx, command, arguments, result)
}

// DumpFormat is the format of a memory dump, in QEMU's words.
type DumpFormat string

// Formats of memory dumps: an ELF core, which crash(8) and drgn read, and
// makedumpfile's own in its flattened form, which leaves out zero pages and
// compresses the others, for crash, and for drgn where it has libkdumpfile. drgn
// must be 0.0.30 or newer: before, it took a kernel at the physical address it
// was linked for, which is where ours are, for one whose address is not known
// (its pull request 457).
const (
	DumpELF   DumpFormat = "elf"
	DumpKdump DumpFormat = "kdump-zlib"
)

// Dump writes all of the guest's memory to a new file of the host's (absolute
// path), with its processors' registers. The guest stands still meanwhile. An
// ELF dump is as large as the memory. When ctx ends first, or on any other
// error, a part of the file may be left.
//
// The dump has the VMCOREINFO note that its readers want if Config.OnEnd is set
// and the guest's kernel has CONFIG_FW_CFG_SYSFS, as a module loaded.
func (vm *VM) Dump(ctx context.Context, file string, format DumpFormat) error {
	if !filepath.IsAbs(file) {
		return fmt.Errorf("dump the guest's memory: %s is not an absolute path", file)
	}
	// QEMU may not have the right to make it.
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("dump the guest's memory: %w", err)
	}
	const name = "dump"
	if err = vm.monitor.SendFile(ctx, "getfd", map[string]any{"fdname": name}, f); err == nil {
		err = vm.monitor.Execute(ctx, "dump-guest-memory", map[string]any{
			"paging": false, "protocol": "fd:" + name, "format": string(format),
		}, nil)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("dump the guest's memory to %s: %w", file, err)
	}
	return nil
}

// Events returns QEMU's events from now on, until ctx or the machine ends; then
// the channel is closed. A slow reader loses the oldest and is told by an
// event named EventsLost.
func (m Monitor) Events(ctx context.Context) (<-chan Event, error) { return m.m.Events(ctx) }
