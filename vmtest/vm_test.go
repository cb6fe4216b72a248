// SPDX-License-Identifier: Apache-2.0

package vmtest_test

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/fs"
	"gotest.tools/v3/poll"

	"github.com/kvmrun/kvmrun/vmtest"
)

// TestGuestEnds has the guest end itself in every way it can.
func TestGuestEnds(t *testing.T) {
	for _, tc := range []struct {
		do      string
		modules []string
		cause   vmtest.Cause
		console string
	}{
		{do: "poweroff", cause: vmtest.PowerOff, console: "reboot: Power down"},
		{do: "reboot", cause: vmtest.Reset, console: "reboot: machine restart"},
		{do: "sysrq-c", cause: vmtest.Reset, console: "Kernel panic - not syncing: sysrq triggered crash"},
		{do: "exit", cause: vmtest.Reset, console: "Kernel panic - not syncing: Attempted to kill init!"},
		// The same with a driver for the pvpanic device: the report on the
		// console must not be cut short by it.
		{do: "sysrq-c", modules: []string{"pvpanic", "pvpanic-mmio"}, cause: vmtest.Panicked, console: "Kernel panic - not syncing: sysrq triggered crash"},
	} {
		t.Run(strings.Join(append([]string{tc.do}, tc.modules...), "+"), func(t *testing.T) {
			t.Parallel()
			c := needKernel(t, tc.do)
			if tc.modules != nil {
				c.Initrd = initrd(t, tc.modules...)
			}
			w := watch("")
			c.Console = w
			vm := start(t, t.Context(), c)
			exit := vm.Wait()
			assert.Equal(t, exit.Cause, tc.cause, "%+v", exit)
			assert.Equal(t, exit.GuestPanicked, tc.cause == vmtest.Panicked)
			assert.NilError(t, exit.ConsoleErr)
			assert.Equal(t, exit.Stderr, "")

			got, err := os.ReadFile(c.ConsoleFile)
			assert.NilError(t, err)
			assert.Assert(t, bytes.Contains(got, []byte(tc.console)), "%s", got)
			assert.Assert(t, bytes.Equal(got, w.bytes()))
			assert.Equal(t, exit.ConsoleBytes, int64(len(got)))
			checkKernelLog(t, got)
			if vm.Accel() == vmtest.AccelTCG && runtime.GOARCH == "amd64" {
				// It was told, and has not measured it: a busy host makes it
				// measure nonsense, and its clock run too fast.
				_, rest, found := strings.Cut(strings.Join(vm.Args(), " "), "tsc_early_khz=")
				var khz int
				_, err := fmt.Sscan(rest, &khz)
				assert.Assert(t, found && err == nil, "%q", vm.Args())
				// A processor whose own speed it finds to be the same has no line
				// for the counter.
				told := bytes.Contains(got, fmt.Appendf(nil, "tsc: Detected %d.000 MHz processor", khz/1000)) ||
					bytes.Contains(got, fmt.Appendf(nil, "tsc: Detected %d.000 MHz TSC", khz/1000))
				assert.Assert(t, told, "%s", got)
			}
			if strings.Contains(tc.console, "panic") {
				// The last line of a panic, printed after the drivers of
				// panic devices were told.
				assert.Assert(t, bytes.Contains(got, []byte("Kernel Offset: ")))
			}
		})
	}
}

// TestDump reads the memory of a guest that has panicked.
func TestDump(t *testing.T) {
	c := needKernel(t, "sysrq-c")
	c.Initrd = initrd(t, "qemu_fw_cfg")
	file := filepath.Join(t.TempDir(), "core")
	var dumped, again error
	calls := 0
	c.OnEnd = func(vm *vmtest.VM) {
		calls++
		dumped = vm.Dump(t.Context(), file, vmtest.DumpELF)
		again = vm.Dump(t.Context(), "relative", vmtest.DumpELF)
	}
	exit := start(t, t.Context(), c).Wait()
	assert.Equal(t, exit.Cause, vmtest.Reset, "%+v", exit)
	assert.Equal(t, calls, 1)
	assert.NilError(t, dumped)
	assert.ErrorContains(t, again, "relative is not an absolute path")

	core, err := elf.Open(file)
	assert.NilError(t, err)
	defer core.Close()
	assert.Equal(t, core.Type, elf.ET_CORE)
	memory := uint64(0)
	var notes []byte
	for _, p := range core.Progs {
		switch p.Type {
		case elf.PT_LOAD:
			memory += p.Filesz
		case elf.PT_NOTE:
			b, err := io.ReadAll(p.Open())
			assert.NilError(t, err)
			notes = append(notes, b...)
		}
	}
	assert.Assert(t, memory >= vmtest.DefaultMemoryMiB<<20, "%d bytes of memory", memory)
	assert.Assert(t, bytes.Contains(notes, []byte("VMCOREINFO\x00")))
	assert.Assert(t, bytes.Contains(notes, []byte("OSRELEASE=")))
}

// checkKernelLog checks that the log begins with the kernel's first line and
// that no line is there twice, as happens when the early console hands over to
// the real one.
func checkKernelLog(t *testing.T, log []byte) {
	t.Helper()
	_, first, _ := bytes.Cut(log, []byte("] ")) // [    0.000000] Linux version
	assert.Assert(t, bytes.HasPrefix(first, []byte("Linux version ")), "%.200s", log)
	assert.Equal(t, bytes.Count(log, []byte("Linux version ")), 1)
	assert.Equal(t, bytes.Count(log, []byte("Command line: ")), 1)
	assert.Equal(t, bytes.Count(log, []byte("Run /init as init process")), 1)
}

// TestKernelLogComplete compares the console with the kernel's own record: every
// line from the first on is there, once and in order, across the change from
// the early console to the real one.
func TestKernelLogComplete(t *testing.T) {
	t.Parallel()
	c := needKernel(t, "dmesg", "vmtest.port=p")
	c.Ports = []string{"p"}
	vm := start(t, t.Context(), c)
	record, err := bufio.NewReader(vm.Port("p")).ReadString(0)
	assert.NilError(t, err)
	_, err = vm.Port("p").Write([]byte{'.'})
	assert.NilError(t, err)
	assert.Equal(t, vm.Wait().Cause, vmtest.PowerOff)

	b, err := os.ReadFile(c.ConsoleFile)
	assert.NilError(t, err)
	console := strings.ReplaceAll(string(b), "\r\n", "\n")
	var want []string
	for line := range strings.Lines(strings.TrimSuffix(record, "\x00")) {
		// The record has the priority before each line.
		if _, rest, ok := strings.Cut(line, ">"); ok && strings.HasPrefix(line, "<") {
			line = rest
		}
		want = append(want, line)
	}
	assert.Assert(t, len(want) > 100, "%q", record)
	assert.Assert(t, strings.Contains(want[0], "Linux version "), want[0])
	// These two belong to the change itself, and the kernel prints them on
	// both consoles (register_console and unregister_console_locked in
	// kernel/printk/printk.c).
	change := func(line string) bool {
		return strings.Contains(line, "console [ttyS0] enabled") || strings.Contains(line, "bootconsole [earlyser0] disabled")
	}
	rest := console
	for _, line := range want {
		_, after, ok := strings.Cut(rest, line)
		assert.Assert(t, ok, "lost or out of order: %q", line)
		rest = after
		if !change(line) {
			assert.Equal(t, strings.Count(console, line), count(want, line), "%q", line)
		}
	}
}

func count(list []string, s string) (n int) {
	for _, l := range list {
		if l == s {
			n++
		}
	}
	return n
}

// TestHostEnds has the host end a guest that hangs.
func TestHostEnds(t *testing.T) {
	for _, tc := range []struct {
		name   string
		end    func(t *testing.T, vm *vmtest.VM, cancel context.CancelCauseFunc)
		cause  vmtest.Cause
		detail string
	}{
		{"kill", func(_ *testing.T, vm *vmtest.VM, _ context.CancelCauseFunc) {
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(vm.Kill)
			}
			wg.Wait()
		}, vmtest.Killed, "killed by the host"},
		{"quit", func(t *testing.T, vm *vmtest.VM, _ context.CancelCauseFunc) {
			assert.NilError(t, vm.Quit(t.Context()))
		}, vmtest.Quit, "ended through the monitor"},
		{"cancel", func(_ *testing.T, _ *vmtest.VM, cancel context.CancelCauseFunc) {
			cancel(errors.New("the user had enough"))
		}, vmtest.Cancelled, "the user had enough"},
		{"crash", func(t *testing.T, vm *vmtest.VM, _ context.CancelCauseFunc) {
			assert.NilError(t, syscall.Kill(vm.PID(), syscall.SIGKILL))
		}, vmtest.Crashed, "signal 9 (killed)"},
		{"abort", func(t *testing.T, vm *vmtest.VM, _ context.CancelCauseFunc) {
			assert.NilError(t, syscall.Kill(vm.PID(), syscall.SIGSEGV))
		}, vmtest.Crashed, "signal 11 (segmentation fault)"},
		{"terminate", func(t *testing.T, vm *vmtest.VM, _ context.CancelCauseFunc) {
			assert.NilError(t, syscall.Kill(vm.PID(), syscall.SIGTERM))
		}, vmtest.Crashed, "ended by a signal from outside"},
		{"monitor reset", func(t *testing.T, vm *vmtest.VM, _ context.CancelCauseFunc) {
			assert.NilError(t, vm.Monitor().Run(t.Context(), "system_reset", nil, nil))
		}, vmtest.Reset, "reset through the monitor"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := needKernel(t, "hang")
			w := watch("")
			c.Console = w
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			vm := start(t, ctx, c)
			w.await(t, vm)
			tc.end(t, vm, cancel)
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() { vm.Wait() })
			}
			wg.Wait()
			exit := vm.Wait()
			assert.Equal(t, exit.Cause, tc.cause, "%+v", exit)
			assert.Assert(t, strings.Contains(exit.Detail, tc.detail), exit.Detail)
			// The end is not undone by anything that comes later.
			vm.Kill()
			assert.NilError(t, vm.Quit(t.Context()))
			assert.DeepEqual(t, vm.Wait().Cause, tc.cause)
		})
	}
}

func TestDeadline(t *testing.T) {
	c := needKernel(t, "hang")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	vm, err := vmtest.Start(ctx, c)
	if err != nil { // a very slow machine
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		return
	}
	defer vm.Close()
	exit := vm.Wait()
	assert.Equal(t, exit.Cause, vmtest.Deadline, "%+v", exit)
}

// TestStartCancelled ends the context at many points of a start.
func TestStartCancelled(t *testing.T) {
	c := needKernel(t, "hang")
	before := openFiles(t)
	for i := range 20 {
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			time.Sleep(time.Duration(i) * 10 * time.Millisecond)
			cancel(errors.New("changed my mind"))
		}()
		vm, err := vmtest.Start(ctx, c)
		if err != nil {
			assert.ErrorContains(t, err, "changed my mind")
			continue
		}
		assert.Equal(t, vm.Wait().Cause, vmtest.Cancelled)
		assert.NilError(t, vm.Close())
	}
	assert.DeepEqual(t, openFiles(t), before)
}

// TestPorts exchanges bytes over several ports at once.
func TestPorts(t *testing.T) {
	t.Parallel()
	c := needKernel(t, "echo", "vmtest.port=two")
	c.Ports = []string{"one", "two", "three"}
	vm := start(t, t.Context(), c)
	assert.Assert(t, vm.Port("four") == nil)
	p := vm.Port("two")
	assert.Equal(t, p.Name(), "two")

	assert.NilError(t, p.SetReadDeadline(time.Unix(1, 0)))
	_, err := p.Read(make([]byte, 1))
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	assert.NilError(t, p.SetReadDeadline(time.Time{}))

	// More than any buffer on the way, in both directions, ended by NUL.
	sent := bytes.Repeat([]byte("abcdefghijklmno\n"), 1<<16)
	written := make(chan error, 1)
	go func() {
		_, err := p.Write(append(bytes.Clone(sent), 0))
		written <- err
	}()
	// Never read by the guest: must not turn the end into an error.
	_, err = vm.Port("three").Write([]byte("nobody reads this"))
	assert.NilError(t, err)

	got := make([]byte, len(sent))
	_, err = io.ReadFull(p, got)
	assert.NilError(t, err)
	assert.NilError(t, <-written)
	assert.Assert(t, bytes.Equal(got, sent))
	_, err = p.Write([]byte{'.'}) // all has arrived, the guest may go
	assert.NilError(t, err)
	_, err = p.Read(got)
	assert.ErrorIs(t, err, io.EOF)
	assert.Equal(t, vm.Wait().Cause, vmtest.PowerOff)
	for _, name := range []string{"one", "three"} {
		got, err := io.ReadAll(vm.Port(name))
		assert.NilError(t, err)
		assert.Equal(t, len(got), 0)
	}
	_, err = p.Write([]byte("too late"))
	assert.ErrorIs(t, err, syscall.EPIPE)
	assert.NilError(t, p.Close())
	assert.NilError(t, p.Close())
	_, err = p.Read(make([]byte, 1))
	assert.ErrorIs(t, err, os.ErrClosed)
}

// TestPortNotRead has the guest write megabytes to a port whose reader comes
// late: it waits, and nothing is lost.
func TestPortNotRead(t *testing.T) {
	t.Parallel()
	c := needKernel(t, "bulk", "vmtest.port=bulk")
	c.Ports = []string{"bulk"}
	w := watch("Run /init as init process")
	c.Console = w
	vm := start(t, t.Context(), c)
	w.await(t, vm)
	want := bytes.Repeat([]byte("0123456789abcdef"), 4096*64)
	got := make([]byte, len(want))
	_, err := io.ReadFull(vm.Port("bulk"), got)
	assert.NilError(t, err)
	assert.Assert(t, bytes.Equal(got, want))
	// The guest may go only now: what is still queued in it would go with it.
	_, err = vm.Port("bulk").Write([]byte{'.'})
	assert.NilError(t, err)
	_, err = vm.Port("bulk").Read(got)
	assert.ErrorIs(t, err, io.EOF)
	assert.Equal(t, vm.Wait().Cause, vmtest.PowerOff)
}

// TestConsoleFlood has the guest write over a megabyte of hostile bytes to its
// console, with a limit for the file and without.
func TestConsoleFlood(t *testing.T) {
	for _, limit := range []int64{0, 50000} {
		t.Run(strconv.FormatInt(limit, 10), func(t *testing.T) {
			t.Parallel()
			c := needKernel(t, "flood")
			w := watch("")
			c.Console = w
			c.ConsoleLimit = limit
			vm := start(t, t.Context(), c)
			exit := vm.Wait()
			assert.Equal(t, exit.Cause, vmtest.PowerOff)
			assert.NilError(t, exit.ConsoleErr)
			all := w.bytes()
			assert.Equal(t, exit.ConsoleBytes, int64(len(all)))
			assert.Assert(t, bytes.Contains(all, []byte("flood ends here")))
			assert.Assert(t, len(all) > 1400000)
			got, err := os.ReadFile(c.ConsoleFile)
			assert.NilError(t, err)
			assert.Equal(t, exit.ConsoleTruncated, limit != 0)
			if limit == 0 {
				assert.Assert(t, bytes.Equal(got, all))
				return
			}
			assert.Assert(t, bytes.Equal(got[:limit], all[:limit]))
			assert.Equal(t, string(got[limit:]), "\n[kvmrun: console file limit of 50000 bytes reached, the rest is not kept]\n")
		})
	}
}

// TestConsoleDiskFull runs out of disk while the console is written: on a small
// file system as root, and from the first byte otherwise.
func TestConsoleDiskFull(t *testing.T) {
	t.Parallel()
	c := needKernel(t, "poweroff")
	kept := int64(0)
	c.ConsoleFile = "/dev/full"
	if os.Getuid() == 0 {
		dir := t.TempDir()
		assert.NilError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8k"))
		defer func() { assert.NilError(t, unix.Unmount(dir, 0)) }()
		c.ConsoleFile = filepath.Join(dir, "console")
		kept = 8192
	}
	w := watch("")
	c.Console = w
	vm := start(t, t.Context(), c)
	exit := vm.Wait()
	assert.Equal(t, exit.Cause, vmtest.PowerOff)
	assert.ErrorIs(t, exit.ConsoleErr, syscall.ENOSPC)
	assert.Assert(t, bytes.Contains(w.bytes(), []byte("reboot: Power down")))
	st, err := os.Stat(c.ConsoleFile)
	assert.NilError(t, err)
	assert.Equal(t, st.Size(), kept)
}

// TestConsoleWriterFails shows that the file is complete all the same.
func TestConsoleWriterFails(t *testing.T) {
	t.Parallel()
	c := needKernel(t, "poweroff")
	w := &brokenWriter{}
	c.Console = w
	vm := start(t, t.Context(), c)
	exit := vm.Wait()
	assert.Equal(t, exit.Cause, vmtest.PowerOff)
	assert.ErrorIs(t, exit.ConsoleErr, errBroken)
	assert.Equal(t, w.calls, 2)
	got, err := os.ReadFile(c.ConsoleFile)
	assert.NilError(t, err)
	assert.Assert(t, bytes.Contains(got, []byte("reboot: Power down")))
}

// TestDisks has the guest read and write images with and without a name.
func TestDisks(t *testing.T) {
	t.Parallel()
	c := needKernel(t, "disks")
	c.Initrd = initrd(t, "virtio_blk")
	dir := fs.NewDir(t, "disks")
	image := func(text string) string {
		path := dir.Join(text + ", \"odd\".img")
		assert.NilError(t, os.WriteFile(path, append([]byte(text), make([]byte, 1<<20-len(text))...), 0o600))
		return path
	}
	named := image("named")
	nameless, err := os.OpenFile(image("nameless"), os.O_RDWR, 0)
	assert.NilError(t, err)
	defer nameless.Close()
	assert.NilError(t, os.Remove(nameless.Name()))
	protected, err := os.OpenFile(image("protected"), os.O_RDWR, 0)
	assert.NilError(t, err)
	defer protected.Close()
	assert.NilError(t, os.Remove(protected.Name()))
	readable, err := os.Open(image("readable"))
	assert.NilError(t, err)
	defer readable.Close()
	c.Disks = []vmtest.Disk{
		{Path: named, Serial: "s-named"},
		{File: nameless, Serial: "s-nameless"},
		{File: protected, Serial: "s-protected", ReadOnly: true},
		{File: readable, Serial: "s-readable", ReadOnly: true},
	}
	vm := start(t, t.Context(), c)
	assert.Equal(t, vm.Wait().Cause, vmtest.PowerOff)

	console, err := os.ReadFile(c.ConsoleFile)
	assert.NilError(t, err)
	for _, want := range []string{
		"disk serial=s-named ro=0 text=named",
		"disk serial=s-nameless ro=0 text=nameless",
		"disk serial=s-protected ro=1 text=protected",
		"disk serial=s-readable ro=1 text=readable",
	} {
		assert.Assert(t, bytes.Contains(console, []byte(want)), "%s", want)
	}
	file, err := os.Open(named)
	assert.NilError(t, err)
	defer file.Close()
	for f, want := range map[*os.File]string{
		file: "written by the guest", nameless: "written by the guest",
		protected: strings.Repeat("\x00", 20), readable: strings.Repeat("\x00", 20),
	} {
		got := make([]byte, 20)
		_, err := f.ReadAt(got, 512)
		assert.NilError(t, err)
		assert.Equal(t, string(got), want, f.Name())
	}
}

// TestMonitor talks to the monitor of a running machine.
func TestMonitor(t *testing.T) {
	c := needKernel(t, "hang")
	vm := start(t, t.Context(), c)
	major, minor := vm.QEMUVersion()
	assert.Assert(t, major > 7 || major == 7 && minor >= 2)
	events, err := vm.Monitor().Events(t.Context())
	assert.NilError(t, err)
	var status struct{ Status string }
	assert.NilError(t, vm.Monitor().Run(t.Context(), "query-status", nil, &status))
	assert.Equal(t, status.Status, "running")
	assert.NilError(t, vm.Monitor().Run(t.Context(), "stop", nil, nil))
	assert.Equal(t, (<-events).Event, "STOP")
	var me *vmtest.MonitorError
	err = vm.Monitor().Run(t.Context(), "device_del", map[string]string{"id": "nothing"}, nil)
	assert.Assert(t, errors.As(err, &me))
	assert.Equal(t, me.Class, "DeviceNotFound")
	vm.Kill()
	vm.Wait()
	for range events { //nolint:revive // must end
	}
	assert.ErrorIs(t, vm.Monitor().Run(t.Context(), "query-status", nil, nil), vmtest.ErrMonitorClosed)
}

// openFiles tells what this process has open.
func openFiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	assert.NilError(t, err)
	var list []string
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		// The directory itself, and numbers in names of sockets.
		if err == nil && !strings.HasPrefix(to, "/proc/") {
			list = append(list, e.Name()+" "+to)
		}
	}
	return list
}

// TestNothingLeft compares descriptors, goroutines, children and files from
// before a machine's life and after it.
func TestNothingLeft(t *testing.T) {
	c := needKernel(t, "hello", "vmtest.port=p")
	image, err := os.Create(filepath.Join(t.TempDir(), "image"))
	assert.NilError(t, err)
	assert.NilError(t, image.Truncate(1<<20))
	defer image.Close()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Chdir(dir)
	c.ConsoleFile = "console"
	c.Ports = []string{"p", "q"}
	c.Disks = []vmtest.Disk{{File: image}}
	files := openFiles(t)

	for _, kill := range []bool{false, true} {
		vm, err := vmtest.Start(t.Context(), c)
		assert.NilError(t, err)
		_, err = vm.Port("p").Write([]byte{'.'})
		assert.NilError(t, err)
		if kill {
			vm.Kill()
		}
		want := vmtest.PowerOff
		if kill {
			want = vmtest.Killed
		}
		assert.Equal(t, vm.Wait().Cause, want)
		assert.NilError(t, vm.Close())
		assert.NilError(t, vm.Close())
		assert.ErrorIs(t, syscall.Kill(vm.PID(), 0), syscall.ESRCH)
	}
	c.Machine = "no-such-machine"
	_, err = vmtest.Start(t.Context(), c)
	assert.ErrorContains(t, err, "unsupported machine type")

	assert.DeepEqual(t, openFiles(t), files)
	entries, err := os.ReadDir(dir)
	assert.NilError(t, err)
	assert.Equal(t, len(entries), 1) // the console
	// A goroutine that has done its last act may not be off the list yet.
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		buf := make([]byte, 1<<20)
		stacks := string(buf[:runtime.Stack(buf, true)])
		for _, ours := range []string{"kvmrun/vmtest.", "kvmrun/vmtest/internal", "os/exec."} {
			if strings.Contains(stacks, ours) {
				return poll.Continue("a goroutine is left: %s", stacks)
			}
		}
		return poll.Success()
	})
	var ws syscall.WaitStatus
	_, err = syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
	assert.ErrorIs(t, err, syscall.ECHILD)
}

// helper is the process TestParentDies kills: it starts a machine, tells its
// process id, and never ends by itself.
func helper() {
	vm, err := vmtest.Start(context.Background(), vmtest.Config{
		Kernel: os.Args[1], Initrd: os.Args[2], ConsoleFile: os.Args[3],
		Cmdline: []string{"vmtest.do=hang"},
	})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	// Let the scheduler move goroutines between threads and end some: QEMU's
	// life must not hang on the thread that happened to start it.
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			runtime.LockOSThread() // the thread ends with the goroutine
			runtime.GC()
		})
	}
	wg.Wait()
	var status struct{ Running bool }
	if err := vm.Monitor().Run(context.Background(), "query-status", nil, &status); err != nil || !status.Running {
		fmt.Println("machine is gone:", err, status, vm.Wait())
		os.Exit(1)
	}
	fmt.Println(vm.PID())
	fmt.Println(vm.Wait())
	os.Exit(1)
}

// TestParentDies kills a process that has a machine, with a signal that lets it
// do nothing about it.
func TestParentDies(t *testing.T) {
	c := needKernel(t, "hang")
	self, err := os.Executable()
	assert.NilError(t, err)
	cmd := exec.Command(self, c.Kernel, c.Initrd, c.ConsoleFile)
	cmd.Env = append(os.Environ(), helperEnv+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	assert.NilError(t, err)
	assert.NilError(t, cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	assert.NilError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	assert.NilError(t, err, line)

	// Ctrl-C in a terminal reaches the helper's process group only.
	group, err := syscall.Getpgid(pid)
	assert.NilError(t, err)
	assert.Equal(t, group, pid)

	fd, err := unix.PidfdOpen(pid, 0)
	assert.NilError(t, err)
	defer unix.Close(fd)
	assert.NilError(t, cmd.Process.Kill())
	// Readable when the process has ended; pidfd_open(2).
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if !errors.Is(err, unix.EINTR) {
			assert.NilError(t, err)
			break
		}
	}
}

// TestBadStart has QEMU refuse, and looks for its own words.
func TestBadStart(t *testing.T) {
	needQEMU(t)
	dir := fs.NewDir(t, "bad",
		fs.WithFile("kernel", strings.Repeat("this is not a kernel\n", 1000)),
		fs.WithFile("old", "#!/bin/sh\n[ \"$1\" = --version ] && echo 'QEMU emulator version 6.2.0 (Debian 1:6.2+dfsg-2ubuntu6)' && exit\necho 'old: invalid option' >&2\nexit 1\n", fs.WithMode(0o755)),
		fs.WithFile("broken", "#!/bin/sh\necho 'cannot load libthing.so' >&2\nexit 127\n", fs.WithMode(0o755)),
		fs.WithFile("noexec", "", fs.WithMode(0o644)),
	)
	assert.NilError(t, os.Chmod(dir.Path(), 0o755)) // for ConfinedID
	base := vmtest.Config{Kernel: dir.Join("kernel"), ConsoleFile: dir.Join("console"), Accel: vmtest.AccelTCG}
	for name, tc := range map[string]struct {
		change func(*vmtest.Config)
		want   []string
		ran    bool // QEMU was started
	}{
		"bad kernel": {func(*vmtest.Config) {}, []string{"qemu ended with status 1", "kernel"}, true},
		"bad machine": {func(c *vmtest.Config) { c.Machine = "vax" },
			[]string{"unsupported machine type"}, true},
		"bad cpu": {func(c *vmtest.Config) { c.CPU = "z80" }, []string{"z80"}, true},
		"too much memory": {func(c *vmtest.Config) { c.MemoryMiB = 1 << 30 },
			[]string{"qemu ended with status 1"}, true},
		"qemu in a closed directory": {func(c *vmtest.Config) {
			closed := filepath.Join(t.TempDir(), "closed")
			assert.NilError(t, os.Mkdir(closed, 0o700))
			c.QEMU = filepath.Join(closed, "qemu")
			assert.NilError(t, os.WriteFile(c.QEMU, []byte("#!/bin/sh\necho oops; exit 1\n"), 0o755))
		}, closedWords(), true},
		"no qemu": {func(c *vmtest.Config) { c.QEMU = "qemu-system-none" },
			[]string{"find qemu", "qemu-system-none", "apt-get install"}, false},
		"no file": {func(c *vmtest.Config) { c.QEMU = dir.Join("none") }, []string{"no such file"}, false},
		"not executable": {func(c *vmtest.Config) { c.QEMU = dir.Join("noexec") },
			[]string{"permission denied"}, false},
		"old qemu": {func(c *vmtest.Config) { c.QEMU = dir.Join("old") },
			[]string{"qemu is too old", "version 6.2", "install QEMU 7.2 or newer"}, true},
		"broken qemu": {func(c *vmtest.Config) { c.QEMU = dir.Join("broken") },
			[]string{"status 127", "cannot load libthing.so"}, true},
		"console directory": {func(c *vmtest.Config) { c.ConsoleFile = dir.Path() },
			[]string{"create console file", "is a directory"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			before := openFiles(t)
			c := base
			tc.change(&c)
			_, err := vmtest.Start(t.Context(), c)
			for _, w := range tc.want {
				assert.ErrorContains(t, err, w)
			}
			var se *vmtest.StartError
			assert.Equal(t, errors.As(err, &se), tc.ran)
			if tc.ran {
				assert.Equal(t, se.Exit.Cause, vmtest.Crashed)
			}
			assert.DeepEqual(t, openFiles(t), before)
		})
	}
}

// closedWords are those about a QEMU that only root may run: for another user the
// directory is its own.
func closedWords() []string {
	if os.Geteuid() != 0 {
		return []string{"oops"}
	}
	return []string{"Permission denied", "as root, kvmrun runs QEMU as user 65530", "chmod a+rx"}
}

func TestVersion(t *testing.T) {
	needQEMU(t)
	major, minor, err := vmtest.Version(t.Context(), "")
	assert.NilError(t, err)
	assert.Assert(t, major > 7 || major == 7 && minor >= 2)

	// The answer is remembered until the file changes.
	count := filepath.Join(t.TempDir(), "count")
	path := filepath.Join(t.TempDir(), "qemu")
	script := func(version string) {
		assert.NilError(t, os.WriteFile(path, []byte("#!/bin/sh\necho >>"+count+"\necho '"+version+"'\n"), 0o755))
	}
	script("QEMU emulator version 7.1.99")
	for range 3 {
		major, minor, err = vmtest.Version(t.Context(), path)
		assert.ErrorIs(t, err, vmtest.ErrTooOld)
		assert.Equal(t, major, 7)
		assert.Equal(t, minor, 1)
	}
	b, err := os.ReadFile(count)
	assert.NilError(t, err)
	assert.Equal(t, string(b), "\n")
	script("QEMU emulator version 10.0.2 (Debian 1:10.0.2)")
	major, _, err = vmtest.Version(t.Context(), path)
	assert.NilError(t, err)
	assert.Equal(t, major, 10)
	script("I am no emulator")
	_, _, err = vmtest.Version(t.Context(), path)
	assert.ErrorContains(t, err, "no QEMU version in")
}

// TestConfinedMachine looks at QEMU's process: a filter for its system calls is
// in force and, when this is root, it is a user without rights.
func TestConfinedMachine(t *testing.T) {
	t.Parallel()
	c := needKernel(t, "hang")
	// What only root may read, below a directory that only root may enter.
	closed := filepath.Join(t.TempDir(), "closed")
	assert.NilError(t, os.Mkdir(closed, 0o700))
	for _, name := range []*string{&c.Kernel, &c.Initrd} {
		b, err := os.ReadFile(*name)
		assert.NilError(t, err)
		*name = filepath.Join(closed, filepath.Base(*name))
		assert.NilError(t, os.WriteFile(*name, b, 0o600))
	}
	disk := filepath.Join(closed, "disk")
	assert.NilError(t, os.WriteFile(disk, make([]byte, 1<<20), 0o600))
	c.Disks = []vmtest.Disk{{Path: disk}}
	vm := start(t, t.Context(), c)
	confinedProcess(t, vm)
}

func confinedProcess(t *testing.T, vm *vmtest.VM) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", vm.PID()))
	assert.NilError(t, err)
	status := string(b)
	id := os.Geteuid()
	if id == 0 && !strings.Contains(vm.Note(), "QEMU runs as root") {
		id = vmtest.ConfinedID
		assert.Assert(t, strings.Contains(status, fmt.Sprintf("\nGid:\t%d\t%[1]d\t%[1]d\t%[1]d\n", id)), status)
		assert.Assert(t, strings.Contains(status, "\nCapPrm:\t0000000000000000\n"), status)
		assert.Assert(t, !strings.Contains(status, "\nGroups:\t0"), status)
	}
	assert.Assert(t, strings.Contains(status, fmt.Sprintf("\nUid:\t%d\t%[1]d\t%[1]d\t%[1]d\n", id)), status)
	assert.Assert(t, strings.Contains(status, "\nSeccomp:\t2\n"), status)
	assert.Assert(t, strings.Contains(status, "\nNoNewPrivs:\t1\n"), status)
}
