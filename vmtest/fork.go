// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/vmtest/internal/args"
	"github.com/kvmrun/kvmrun/vmtest/internal/monitor"
)

// freezeTimeout bounds the saving of a machine's devices and the loading of
// them, which takes tens of milliseconds on an idle host: the memory is not
// copied.
const freezeTimeout = 60 * time.Second

// ErrNotFreezable is wrapped by Freeze's error for a machine that was started
// without Config.Freezable.
var ErrNotFreezable = errors.New("the machine is not freezable")

// Template is a machine that was stopped for good, to be gone on with any number
// of times by [Fork]: its memory, which no fork changes, and the state of its
// devices. It has no process and no name on disk.
//
// Its methods may be called concurrently. It is the caller's to close; forks
// that run by then go on.
type Template struct {
	config  Config // with defaults; Accel is what ran it
	version [2]int // of QEMU
	rom     string // the option ROM of the boot
	// identity is that of the machine's Config, "" where it is not known.
	identity string
	ram      *os.File
	state    *os.File
}

// origin is what launch needs to know of a fork.
type origin struct {
	template *Template
	paused   bool
	preface  string
}

// memory makes a file without a name that lives in the host's memory.
func memory(name string, size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate("kvmrun "+name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make file for %s: %w", name, os.NewSyscallError("memfd_create", err))
	}
	f := os.NewFile(uintptr(fd), name)
	if err := f.Truncate(size); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("make file of %d bytes for %s: %w", size, name, err)
	}
	return f, nil
}

// seal makes a memory file immutable, whoever has it open (fcntl(2),
// F_ADD_SEALS): not even a QEMU that a guest has taken over can change what
// other machines are forked from. Private mappings can still be written.
func seal(f *os.File) error {
	return withFD(f, func(fd int) error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS,
			unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
		return os.NewSyscallError("seal", err)
	})
}

// openAgain opens a memory file with an offset of its own, for what flags say
// (open(2)).
func openAgain(f *os.File, flags int) (again *os.File, err error) {
	err = withFD(f, func(fd int) error {
		again, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), flags, 0)
		return err
	})
	return again, err
}

// Freeze stops the machine and makes a template of it. The guest should be
// quiet: what it was doing, every fork goes on with at once. Nothing of the
// streams is kept: ports should be idle, and the console file belongs to this
// machine alone.
//
// The machine has ended when Freeze returns, also with an error; its Exit's
// Cause is Quit after a success. An error that wraps [ErrNotFreezable] leaves it
// running. A [*MonitorError] says that QEMU cannot save this machine, for
// instance because of a device.
func (vm *VM) Freeze(ctx context.Context) (*Template, error) {
	vm.mu.Lock()
	ram := vm.ram
	vm.ram = nil
	vm.mu.Unlock()
	if ram == nil {
		return nil, fmt.Errorf("freeze machine: %w: set Config.Freezable", ErrNotFreezable)
	}
	state, err := memory("device state", 0)
	if err == nil {
		if err = vm.save(ctx, state); err != nil {
			_ = state.Close()
		}
	}
	if err != nil {
		vm.Kill()
		exit := vm.Wait()
		if errors.Is(err, monitor.ErrClosed) {
			err = fmt.Errorf("%w (%s)", err, exit)
		}
		_ = ram.Close()
		return nil, fmt.Errorf("freeze machine: %w", err)
	}
	t := &Template{ram: ram, state: state, rom: bootROM(vm.config.Kernel)}
	t.keep(vm.config, vm.accel)
	t.version[0], t.version[1] = vm.QEMUVersion()
	t.identity, _ = identity(vm.config) // without it, only Save does not work
	for _, f := range []*os.File{ram, state} {
		if err := seal(f); err != nil {
			return nil, errors.Join(fmt.Errorf("freeze machine: %w", err), t.Close())
		}
	}
	return t, nil
}

// keep notes what of a configuration forks inherit.
func (t *Template) keep(c Config, accel Accel) {
	t.config = c
	t.config.Accel = accel
	// What belongs to one machine alone.
	t.config.ConsoleFile, t.config.Console, t.config.ConsoleLimit = "", nil, 0
	t.config.Disks = slices.Clone(c.Disks)
	for i := range t.config.Disks {
		t.config.Disks[i].File, t.config.Disks[i].Serve = nil, nil
	}
}

// save writes the device state to the file and ends the machine.
func (vm *VM) save(ctx context.Context, state *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, freezeTimeout)
	defer cancel()
	events, err := vm.monitor.Events(ctx)
	if err != nil {
		return err
	}
	if err := vm.ignoreShared(ctx); err != nil {
		return err
	}
	w, err := openAgain(state, os.O_WRONLY)
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // QEMU's duplicate is what is written
	uri, err := vm.passState(ctx, w)
	if err != nil {
		return err
	}
	if err := vm.monitor.Execute(ctx, "migrate", map[string]any{"uri": uri}, nil); err != nil {
		return err
	}
	if err := vm.awaitMigration(ctx, events, "completed"); err != nil {
		return err
	}
	if err := vm.Quit(ctx); err != nil {
		return err
	}
	select {
	case <-vm.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if vm.exit.Cause != Quit {
		return fmt.Errorf("qemu ended otherwise: %s", vm.exit)
	}
	return nil
}

// ignoreShared leaves memory in shared files out of what is saved, and out of
// what is expected when loading. QEMU has it since 4.1, still by this name.
func (vm *VM) ignoreShared(ctx context.Context) error {
	type capability struct {
		Name string `json:"capability"`
		On   bool   `json:"state"`
	}
	return vm.monitor.Execute(ctx, "migrate-set-capabilities", map[string]any{
		"capabilities": []capability{{"x-ignore-shared", true}, {"events", true}},
	}, nil)
}

// passState gives QEMU the open file that migration is to write or read, and
// returns its name for it. Since 8.2 a file can be named as such, and since 9.1
// calling it a mere descriptor is deprecated (docs/about/deprecated.rst).
func (vm *VM) passState(ctx context.Context, f *os.File) (uri string, err error) {
	if major, minor := vm.QEMUVersion(); major > 8 || major == 8 && minor >= 2 {
		const set = 1 << 20 // far from those of the command line
		err = vm.monitor.SendFile(ctx, "add-fd", map[string]any{"fdset-id": set}, f)
		return fmt.Sprintf("file:/dev/fdset/%d", set), err
	}
	return "fd:state", vm.monitor.SendFile(ctx, "getfd", map[string]any{"fdname": "state"}, f)
}

// awaitMigration waits for an event that tells the end of a migration.
func (vm *VM) awaitMigration(ctx context.Context, events <-chan Event, want string) error {
	for e := range events {
		status, _ := e.Data["status"].(string)
		switch {
		case e.Event == want, e.Event == "MIGRATION" && status == want:
			return nil
		case e.Event == "MIGRATION" && status == "failed":
			var info struct {
				Desc string `json:"error-desc"`
			}
			_ = vm.monitor.Execute(ctx, "query-migrate", nil, &info)
			return fmt.Errorf("migration failed: %s", info.Desc)
		}
	}
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("wait for the end of the migration: %w", err)
	}
	return vm.monitor.Err()
}

// load takes over the state of the template, and returns when the guest runs or
// could run.
func (vm *VM) load(ctx context.Context, state *os.File, paused bool) error {
	ctx, cancel := context.WithTimeout(ctx, freezeTimeout)
	defer cancel()
	events, err := vm.monitor.Events(ctx)
	if err != nil {
		return err
	}
	if err := vm.ignoreShared(ctx); err != nil {
		return err
	}
	uri, err := vm.passState(ctx, state)
	if err != nil {
		return err
	}
	if err := vm.monitor.Execute(ctx, "migrate-incoming", map[string]any{"uri": uri}, nil); err != nil {
		return err
	}
	if err := vm.awaitMigration(ctx, events, "completed"); err != nil {
		return err
	}
	if major, _ := vm.QEMUVersion(); paused && major >= 10 {
		// Before 10.0 the disks belong to the machine from here on. Since then
		// only "cont" takes them, and QEMU aborts at the first write of a guest
		// that a debugger lets run.
		return vm.monitor.Execute(ctx, "blockdev-set-active", map[string]any{"active": true}, nil)
	}
	return nil
}

// dropMemory closes the file of the guest's memory, if it is still ours.
func (vm *VM) dropMemory() {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.ram != nil {
		_ = vm.ram.Close()
		vm.ram = nil
	}
}

// bootROM names the option ROM by which QEMU loads such a kernel
// (hw/i386/x86.c: x86_load_linux): it stays a part of the machine.
func bootROM(kernel string) string {
	f, err := os.Open(kernel)
	if err == nil {
		defer f.Close() //nolint:errcheck // opened for reading
		magic := make([]byte, 4)
		if _, err := io.ReadFull(f, magic); err == nil && bytes.Equal(magic, []byte("\x7fELF")) {
			return "pvh.bin"
		}
	}
	return "linuxboot_dma.bin"
}

// ForkConfig is what a fork does not have from its template.
type ForkConfig struct {
	// ConsoleFile, ConsoleLimit and Console are those of Config. They get what
	// the console says from the fork on.
	ConsoleFile  string
	ConsoleLimit int64
	Console      io.Writer
	// Preface is what the console's file begins with, of the caller's own.
	Preface string
	// Disks take the place of the template's, one for one: of the same size,
	// with the same serial, format and access. Their content should be what the
	// template's had when it was frozen, as far as its guest had read it.
	Disks []Disk
	// Paused leaves the machine stopped until the monitor's command "cont".
	Paused bool
	// Log gets debug messages; nil for none.
	Log *slog.Logger
}

// Fork starts a machine that goes on where the template was stopped. Until it
// writes to it, it shares the template's memory, so it costs what it changes.
// Ports have the template's names and are the fork's own.
//
// Every fork has the same clocks, the same state of random number generators and
// so on as any other one in its first moment. To make them differ is the
// guest's business, once told to.
//
// Fork returns when the guest runs. Lifetime and errors are those of [Start]; a
// [*StartError] means that QEMU could not load the template.
func Fork(ctx context.Context, t *Template, fc ForkConfig) (*VM, error) {
	c := t.config
	c.ConsoleFile, c.ConsoleLimit, c.Console, c.Log = fc.ConsoleFile, fc.ConsoleLimit, fc.Console, fc.Log
	if fc.ConsoleFile == "" {
		return nil, errors.New("check fork: no file is named for the console: set ConsoleFile")
	}
	if err := sameDisks(t.config.Disks, fc.Disks); err != nil {
		return nil, fmt.Errorf("check fork: %w", err)
	}
	c.Disks = fc.Disks
	c.Freezable = false
	c, arch, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("fork machine: %w", context.Cause(ctx))
	}
	from := &origin{template: t, paused: fc.Paused, preface: fc.Preface}
	accel := args.TCG
	if c.Accel == AccelKVM {
		accel = args.KVM
	}
	return launch(ctx, c, arch, accel, "", from)
}

// sameDisks says how disks differ in what a running guest cannot be told.
func sameDisks(were, are []Disk) error {
	if err := checkDisks(are); err != nil {
		return err
	}
	if len(were) != len(are) {
		return fmt.Errorf("the template has %d disks, the fork %d", len(were), len(are))
	}
	for i, a := range were {
		b := are[i]
		if a.Serial != b.Serial || a.ReadOnly != b.ReadOnly || a.Format != b.Format {
			return fmt.Errorf("disk %d is not like the template's: serial %q, read-only %v, format %q instead of %q, %v, %q",
				i, b.Serial, b.ReadOnly, b.Format, a.Serial, a.ReadOnly, a.Format)
		}
	}
	return nil
}

// Close frees what the template occupies.
func (t *Template) Close() error {
	err := t.ram.Close()
	if t.state != nil { // which a template that could not be loaded has not
		err = errors.Join(err, t.state.Close())
	}
	return err
}

// Bytes is what the template occupies in the host's memory.
func (t *Template) Bytes() int64 {
	var n int64
	for _, f := range []*os.File{t.ram, t.state} {
		_ = withFD(f, func(fd int) error {
			var st unix.Stat_t
			err := unix.Fstat(fd, &st)
			n += st.Blocks * 512 // stat(2)
			return err
		})
	}
	return n
}
