// SPDX-License-Identifier: Apache-2.0

package args

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Accelerators as QEMU names them.
const (
	TCG = "tcg"
	KVM = "kvm"
)

// Sandbox is the value of -sandbox: QEMU may neither start programs nor become
// another user nor change who gets the processor, and obsolete system calls end
// it.
const Sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// Arch is what the driver knows about one guest architecture.
type Arch struct {
	GOARCH string // as in GOARCH
	QEMU   string // name of the system emulator's binary
	// Machine is the default value of -machine.
	Machine string
	// CPU is the default value of -cpu for each accelerator.
	CPU map[string]string
	// Params are the kernel parameters for a console that is complete from
	// the first byte, for a kernel that reboots at once when it panics, and
	// for boots that succeed on a busy host too.
	Params []string
	// Patience are the kernel parameters under TCG, where a busy host stops
	// single processors for as long as it likes and the guest's clock runs on:
	// the kernel's own watchdogs must not take that for its fault. Who wants
	// them to bite early says so in Cmdline, which comes later.
	Patience []string
	// CmdlineMax is COMMAND_LINE_SIZE of the architecture, with the
	// terminating NUL (arch/*/include/asm/setup.h).
	CmdlineMax int
	// VirtFlags are the flags of /proc/cpuinfo of which a host of this
	// architecture must have one for KVM to work; empty: nothing to see there.
	VirtFlags []string
}

// ForArch returns the row for the GOARCH, "" meaning amd64.
func ForArch(goarch string) (Arch, error) {
	switch goarch {
	case "", "amd64":
		return Arch{
			GOARCH: "amd64",
			QEMU:   "qemu-system-x86_64",
			// Without the controllers that nothing is attached to: the kernel's probing
			// of them costs 5 % of a boot, and that of the keyboard's stopped one
			// boot of 87 on a busy host.
			Machine: "q35,sata=off,smbus=off,i8042=off",
			// la57=off saves a level of page tables that few real machines
			// have. cx16=off: after cmpxchg16b, QEMU 7.2's TCG leaves an
			// operand in the flags register, and an interrupt that comes then
			// returns into a double fault. Linux uses the instruction in its
			// memory allocator and does without it when told so.
			CPU: map[string]string{TCG: "max,la57=off,cx16=off", KVM: "host"},
			Params: []string{
				// No ",keep": the early console leaves when the real one
				// arrives, so that no line is printed twice.
				"earlyprintk=serial,ttyS0,115200",
				"console=ttyS0,115200",
				// Everything the kernel logs, whatever level its configuration
				// or somebody in the guest sets for the console.
				"ignore_loglevel",
				"panic=-1",
				// The kernel counts timer ticks in a busy loop and panics with
				// "IO-APIC + timer doesn't work!" when QEMU does not get the
				// processor for that long. Linux drops the check by itself
				// under KVM, for this reason (arch/x86/kernel/kvm.c).
				"no_timer_check",
			},
			Patience: []string{
				"watchdog_thresh=60",                 // soft lockups after twice that, not 20 s (kernel/watchdog.c)
				"rcupdate.rcu_cpu_stall_timeout=300", // not 21 s; more is cut (kernel/rcu/tree_stall.h)
				"workqueue.watchdog_thresh=300",      // not 30 s (kernel/workqueue.c)
			},
			CmdlineMax: 2048,
			VirtFlags:  []string{"vmx", "svm"},
		}, nil
	case "arm64":
		return Arch{}, fmt.Errorf("guest architecture arm64 is not supported yet: only amd64 guests can be run")
	}
	return Arch{}, fmt.Errorf("guest architecture %q is not known: only amd64 guests can be run", goarch)
}

// Disk is one virtio-blk device.
type Disk struct {
	Path     string // file on the host, when FD is negative
	FD       int    // inherited descriptor, or negative
	NBD      bool   // FD is a connection to an NBD server
	Serial   string // at most 20 bytes; the guest sees it in /sys/block/*/serial
	ReadOnly bool
	Format   string // QEMU's block driver: "raw", "qcow2"
}

// Port is one virtio-serial port.
type Port struct {
	Name string
	FD   int // inherited, connected stream socket
}

// Memory is guest memory that lives in a file.
type Memory struct {
	FD int // inherited, open for reading and writing, of the memory's size
	// Shared says that the guest's writes go to the file. Otherwise they are
	// this machine's own, and the file is only read.
	Shared bool
}

// Incoming is the state of a machine that another one saved, to go on from.
type Incoming struct {
	// ROM is the option ROM that loaded the kernel in the other machine: a piece
	// of memory that this one must have too. The kernel itself is not read again.
	ROM string
	// Paused leaves the machine stopped when it is loaded.
	Paused bool
}

// Spec describes a machine completely: every default is resolved and every
// descriptor has its number in the QEMU process.
type Spec struct {
	Arch      Arch
	Kernel    string
	Initrd    string // "" for none
	Cmdline   []string
	Machine   string // "" for the architecture's default
	CPU       string // "" for the architecture's default
	Accel     string // TCG or KVM
	TSCKHz    int    // speed of the guest's time stamp counter, 0 when it is not known
	LateCPUs  bool   // under TCG the kernel boots with the first processor only
	HZ        int    // the kernel's timer ticks a second, 0 when they are not known
	CPUs      int
	MemoryMiB int
	Balloon   bool // a virtio balloon
	Sandbox   bool // QEMU filters its own system calls
	Disks     []Disk
	Ports     []Port
	QMP       int // inherited, connected stream socket
	Console   int // inherited write end of a pipe
	// Inspect keeps a machine that its guest has ended, paused, and lets the
	// guest's kernel say where a reader of its memory has to begin.
	Inspect bool
	// Memory, when not nil, is where the guest's memory is.
	Memory *Memory
	// Incoming, when not nil, makes a machine that waits for the monitor's
	// command migrate-incoming. It needs Memory.
	Incoming *Incoming
}

// Build returns the arguments for the specification.
func Build(s Spec) []Arg {
	machine, cpu := s.Machine, s.CPU
	if machine == "" {
		machine = s.Arch.Machine
	}
	if cpu == "" {
		cpu = s.Arch.CPU[s.Accel]
	}
	accel := s.Accel
	if accel == TCG {
		accel = "tcg,thread=multi"
	}
	if s.Memory != nil {
		machine += ",memory-backend=mem"
	}
	action := "reboot=shutdown,panic=none"
	if s.Inspect {
		action += ",shutdown=pause"
	}
	list := []Arg{
		Flag("nodefaults"),
		Flag("no-user-config"),
		Unique("display", "none"),
		Unique("machine", machine),
		Unique("accel", accel),
		Unique("cpu", cpu),
		Unique("smp", strconv.Itoa(s.CPUs)),
		Unique("m", strconv.Itoa(s.MemoryMiB)+"M"),
		// A reset ends the process, with its reason in the SHUTDOWN event. A
		// panic reported by a pvpanic device is only noted: the kernel must be
		// able to print the rest of its report, and reboots by itself
		// (panic=-1).
		Unique("action", action),
	}
	if s.Sandbox {
		list = append(list, Unique("sandbox", Sandbox))
	}
	list = append(list, source(s)...)
	if s.Memory != nil {
		share := "off"
		if s.Memory.Shared {
			share = "on"
		}
		list = append(list, Repeat("object", "mem", opts("memory-backend-file", "id", "mem",
			"size", strconv.Itoa(s.MemoryMiB)+"M", "mem-path", "/proc/self/fd/"+strconv.Itoa(s.Memory.FD), "share", share)))
	}
	list = append(list,
		Repeat("chardev", "qmp", opts("socket", "id", "qmp", "fd", strconv.Itoa(s.QMP))),
		Unique("mon", "chardev=qmp,mode=control"),

		// The console is a pipe handed over as a descriptor set, not a socket:
		// the serial port writes byte by byte, and a pipe packs those into
		// pages where a unix socket spends a buffer on each. Without
		// append=on QEMU would truncate it, which a pipe refuses.
		Repeat("add-fd", "1", opts("", "fd", strconv.Itoa(s.Console), "set", "1")),
		Repeat("chardev", "console", opts("file", "id", "console", "path", "/dev/fdset/1", "append", "on")),
		Unique("serial", "chardev:console"),

		Repeat("device", "rng", opts("virtio-rng-pci", "id", "rng")),
		Repeat("device", "panic", opts("pvpanic", "id", "panic")),
	)
	if s.Inspect {
		list = append(list, Repeat("device", "vmcoreinfo", opts("vmcoreinfo", "id", "vmcoreinfo")))
	}
	if s.Balloon {
		list = append(list, Repeat("device", "balloon", opts("virtio-balloon-pci", "id", "balloon")))
	}
	if len(s.Ports) > 0 {
		// Port 0 is reserved for a console device, so the first is number 1.
		list = append(list, Repeat("device", "ports", opts("virtio-serial-pci", "id", "ports",
			"max_ports", strconv.Itoa(len(s.Ports)+1))))
	}
	for i, p := range s.Ports {
		id := "port" + strconv.Itoa(i+1)
		list = append(list,
			Repeat("chardev", id+"c", opts("socket", "id", id+"c", "fd", strconv.Itoa(p.FD))),
			Repeat("device", id, opts("virtserialport", "id", id, "bus", "ports.0",
				"nr", strconv.Itoa(i+1), "chardev", id+"c", "name", p.Name)),
		)
	}
	for i, d := range s.Disks {
		list = append(list, disk(i, d)...)
	}
	return list
}

// source returns the arguments for where the machine begins: a kernel, or what
// another machine saved.
func source(s Spec) []Arg {
	if s.Incoming != nil {
		list := []Arg{Unique("incoming", "defer"), Unique("option-rom", s.Incoming.ROM)}
		if s.Incoming.Paused {
			list = append(list, Flag("S"))
		}
		return list
	}
	list := []Arg{Unique("kernel", s.Kernel)}
	if s.Initrd != "" {
		list = append(list, Unique("initrd", s.Initrd))
	}
	params := append([]string(nil), s.Arch.Params...)
	if s.Accel == TCG {
		params = append(params, s.Arch.Patience...)
		if s.LateCPUs && s.CPUs > 1 {
			// noreplace-smp: without it the kernel rewrites all its locked
			// instructions for one processor, and again for two
			// (arch/x86/kernel/alternative.c: alternatives_enable_smp).
			params = append(params, "maxcpus=1", "noreplace-smp")
		}
		if s.TSCKHz > 0 {
			// The kernel finds that out by the ticks of another timer while it
			// boots. On a busy host it gets a fraction of the truth, and its clock
			// runs many times too fast from then on: every limit of its own is
			// over at once (arch/x86/kernel/tsc.c: pit_hpet_ptimer_calibrate_cpu).
			params = append(params, "tsc_early_khz="+strconv.Itoa(s.TSCKHz))
			if s.HZ > 0 {
				// Every further processor measures its delay loop by timer ticks, and
				// waits too long or not long enough ever after when QEMU did not get
				// the processor meanwhile. With a known counter the loop counts its
				// cycles (init/calibrate.c, arch/x86/lib/delay.c: delay_tsc).
				params = append(params, "lpj="+strconv.Itoa(s.TSCKHz*1000/s.HZ))
			}
		}
	}
	if s.Memory != nil {
		// A fork's clocks go on where they stopped, all of them; between the stop
		// and the first tick lies whatever a busy host needs, which the kernel's
		// watchdog of the clocks remarks on (kernel/time/clocksource.c).
		params = append(params, "tsc=nowatchdog")
	}
	return append(list, Unique("append", strings.Join(append(params, s.Cmdline...), " ")))
}

// disk returns the arguments of the i-th disk.
func disk(i int, d Disk) []Arg {
	id := "disk" + strconv.Itoa(i)
	path := d.Path
	var list []Arg
	if d.NBD {
		return served(id, d)
	}
	if d.FD >= 0 {
		// Set 1 is the console's.
		set := strconv.Itoa(i + 2)
		list = append(list, Repeat("add-fd", set, opts("", "fd", strconv.Itoa(d.FD), "set", set)))
		path = "/dev/fdset/" + set
	}
	list = append(list,
		Repeat("blockdev", id, blockdev(map[string]any{
			"driver":    d.Format,
			"node-name": id,
			"read-only": d.ReadOnly,
			"discard":   "unmap",
			// The disk must survive the guest, not the host: what the guest
			// flushes stays in the host's page cache, where tools run after
			// the VM see it.
			"cache": map[string]any{"no-flush": true},
			"file":  map[string]any{"driver": "file", "filename": path, "discard": "unmap"},
		})),
	)
	pairs := []string{"id", id + "d", "drive", id}
	if d.Serial != "" {
		pairs = append(pairs, "serial", d.Serial)
	}
	return append(list, Repeat("device", id+"d", opts("virtio-blk-pci", pairs...)))
}

// served returns the arguments of a disk that is served by NBD. The guest's
// flushes go through, and so do errors: QEMU would stop the machine for a full
// disk.
func served(id string, d Disk) []Arg {
	pairs := []string{"id", id + "d", "drive", id, "werror", "report", "rerror", "report"}
	if d.Serial != "" {
		pairs = append(pairs, "serial", d.Serial)
	}
	return []Arg{
		Repeat("blockdev", id, blockdev(map[string]any{
			"driver":    "raw",
			"node-name": id,
			"read-only": d.ReadOnly,
			"discard":   "unmap",
			"file": map[string]any{
				"driver": "nbd", "export": "", "discard": "unmap", "read-only": d.ReadOnly,
				"server": map[string]any{"type": "fd", "str": strconv.Itoa(d.FD)},
			},
		})),
		Repeat("device", id+"d", opts("virtio-blk-pci", pairs...)),
	}
}

// blockdev renders -blockdev's JSON form, whose strings need no escaping of
// commas. Keys are sorted by encoding/json.
func blockdev(v map[string]any) string {
	b, err := json.Marshal(v)
	if err != nil {
		// Only strings, bools and maps of them: cannot fail.
		panic(err)
	}
	return string(b)
}
