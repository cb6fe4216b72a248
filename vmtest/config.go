// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/kvmrun/kvmrun/vmtest/internal/args"
)

// Accel says what executes the guest's instructions.
type Accel string

const (
	// AccelAuto uses KVM when it really works on this host and TCG otherwise.
	// The zero value means the same.
	AccelAuto Accel = "auto"
	// AccelKVM insists on KVM.
	AccelKVM Accel = "kvm"
	// AccelTCG emulates in software.
	AccelTCG Accel = "tcg"
)

// Defaults of [Config] and the limits of its fields.
const (
	// DefaultMemoryMiB is the guest's memory.
	DefaultMemoryMiB = 512
	// DefaultCPUs is the number of the guest's processors.
	DefaultCPUs = 1
	// DefaultConsoleLimit bounds the console file, in bytes.
	DefaultConsoleLimit = 64 << 20
	// MaxCPUs is what a q35 or pc machine takes without x2APIC and interrupt
	// remapping.
	MaxCPUs = 255
	// MaxSerial is the length of a virtio disk's serial number, in bytes
	// (VIRTIO_BLK_ID_BYTES in linux/virtio_blk.h).
	MaxSerial = 20
	// MaxPorts bounds Config.Ports. A virtio-serial device has 31 ports, the
	// first of which is reserved for a console (hw/virtio/virtio-serial.h).
	MaxPorts = 30
	// MaxDisks bounds Config.Disks: what fits on the PCI bus beside the
	// driver's own devices.
	MaxDisks = 20
	// maxPortName keeps a port's name within the buffer other guests' tools
	// assume; QEMU and Linux have no limit of their own.
	maxPortName = 64
)

// Config describes a machine. Only Kernel and ConsoleFile are required.
//
// As JSON it has all but open files and functions.
type Config struct {
	// QEMU is the system emulator, looked up in PATH when it has no slash.
	// Empty: the one for Arch.
	QEMU string
	// Arch is the guest's GOARCH; empty means amd64.
	Arch string
	// Kernel is the file booted: an ELF vmlinux with a PVH note, which is the
	// fastest, or a bzImage.
	Kernel string
	// Initrd is the initial ramdisk; empty for none.
	Initrd string
	// Cmdline has further kernel parameters; they follow the driver's own,
	// which set up the console, make a panic reboot at once and leave out a
	// check of the timer that fails on a busy host.
	Cmdline []string
	// Machine and CPU are QEMU's -machine and -cpu; empty for the measured
	// defaults, see ARCHITECTURE.md.
	Machine, CPU string
	// Accel chooses between KVM and TCG.
	Accel Accel
	// CPUs is the number of processors, 0 meaning DefaultCPUs.
	CPUs int
	// LateCPUs has the kernel boot with the first processor only under TCG, and
	// leave the others to be brought online by the guest's init, by writing 1 to
	// /sys/devices/system/cpu/cpu*/online. QEMU 7.2 now and then goes on with
	// code that the kernel has changed since, when another processor was translating
	// it meanwhile; most of what a kernel changes in its code it changes in its boot.
	// The kernel needs CONFIG_HOTPLUG_CPU.
	LateCPUs bool
	// HZ is the kernel's CONFIG_HZ, timer ticks a second, 0 when it is not known.
	// With it the processors' delay loops need not be measured, which goes wrong
	// on a busy host.
	HZ int
	// MemoryMiB is the guest's memory, 0 meaning DefaultMemoryMiB.
	MemoryMiB int
	// Disks become virtio-blk devices, in this order: vda, vdb and so on as
	// far as the kernel probes in order, so find them by their serial.
	Disks []Disk
	// Balloon adds a virtio balloon, by which the monitor's command "balloon"
	// takes memory from the guest.
	Balloon bool
	// Ports are names of virtio-serial ports, each of which becomes
	// [VM.Port].
	Ports []string
	// Freezable puts the guest's memory where [VM.Freeze] can keep it: in memory
	// of the host's that has no name and counts as shared (tmpfs). It makes no
	// other difference to the guest.
	Freezable bool
	// OnEnd, when set, is called when the guest has ended itself by a power-off
	// or a reset, that after a panic included: the machine is paused then, its
	// memory can be read ([VM.Dump]), and it ends when OnEnd returns. It runs
	// on a goroutine of its own, maybe before Start has returned. A machine
	// with OnEnd also has QEMU's vmcoreinfo device, by which the guest's kernel
	// says how its memory is to be read. Forks inherit it.
	OnEnd func(*VM) `json:"-"`
	// ConsoleFile gets every byte of the serial console before anybody else
	// sees it. It is created with mode 0644, or truncated, but not through a
	// symbolic link. Required.
	ConsoleFile string
	// ConsoleLimit bounds ConsoleFile in bytes, 0 meaning
	// DefaultConsoleLimit. What comes later is not kept: the file ends with a
	// line that says so. Console still sees everything.
	ConsoleLimit int64
	// Console gets the console's bytes too, when not nil: in order, from one
	// goroutine, after they are in the file. While it blocks, so does the
	// guest's console. An error ends the calls and is reported in
	// Exit.ConsoleErr.
	Console io.Writer `json:"-"`
	// Log gets debug messages; nil for none.
	Log *slog.Logger `json:"-"`
}

// Disk is one virtio-blk device.
type Disk struct {
	// Path is the image on the host. One of Path, File and Serve is set.
	Path string
	// File is an open image, which may have no name any more. The machine
	// works on a duplicate: the caller keeps and closes its own. It must be
	// open for reading and writing, or for reading only with ReadOnly.
	File *os.File `json:"-"`
	// Serve, in place of Path and File, serves the disk by the NBD protocol to
	// the connection's other end, which is QEMU. It runs in a goroutine of its
	// own, and should return when the connection ends, as it does with the
	// machine; the driver closes it then. What the guest flushes is flushed, and
	// errors are the guest's to deal with.
	Serve func(net.Conn) `json:"-"`
	// Serial names the disk to the guest, at most MaxSerial bytes. Linux shows
	// it in /sys/block/*/serial.
	Serial string
	// ReadOnly refuses the guest's writes.
	ReadOnly bool
	// Format is QEMU's name of the image format, empty meaning "raw".
	Format string
}

// withDefaults returns the configuration with every zero value replaced by
// what it means.
func (c Config) withDefaults() (Config, args.Arch, error) {
	arch, err := args.ForArch(c.Arch)
	if err != nil {
		return c, arch, err
	}
	c.Arch = arch.GOARCH
	if c.QEMU == "" {
		c.QEMU = arch.QEMU
	}
	if c.Accel == "" {
		c.Accel = AccelAuto
	}
	if c.CPUs == 0 {
		c.CPUs = DefaultCPUs
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = DefaultMemoryMiB
	}
	if c.ConsoleLimit == 0 {
		c.ConsoleLimit = DefaultConsoleLimit
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, arch, nil
}

// shape is the part of QEMU's arguments that the configuration decides, with
// defaults: all but descriptors, and what depends on this host, this process or a
// template. It is the only translation of a Config into arguments.
func (c Config) shape(arch args.Arch, accel string) args.Spec {
	s := args.Spec{
		Arch: arch, Kernel: c.Kernel, Initrd: c.Initrd, Cmdline: c.Cmdline,
		Machine: c.Machine, CPU: c.CPU, Accel: accel, CPUs: c.CPUs, MemoryMiB: c.MemoryMiB, HZ: c.HZ, LateCPUs: c.LateCPUs,
		Inspect: c.OnEnd != nil, Balloon: c.Balloon,
	}
	for _, name := range c.Ports {
		s.Ports = append(s.Ports, args.Port{Name: name})
	}
	for _, d := range c.Disks {
		disk := args.Disk{Path: d.Path, FD: -1, Serial: d.Serial, ReadOnly: d.ReadOnly, Format: d.Format}
		if disk.Format == "" {
			disk.Format = "raw"
		}
		s.Disks = append(s.Disks, disk)
	}
	return s
}

// Validate reports what is wrong with the configuration, as far as that can be
// seen without starting QEMU. Start calls it.
func (c Config) Validate() error {
	c, arch, err := c.withDefaults()
	if err != nil {
		return err
	}
	switch c.Accel {
	case AccelAuto, AccelTCG:
	case AccelKVM:
		if c.Arch != runtime.GOARCH {
			return fmt.Errorf("accelerator kvm cannot run a guest for %s on %s: use tcg", c.Arch, runtime.GOARCH)
		}
	default:
		return fmt.Errorf("accelerator %q is not known: use auto, kvm or tcg", c.Accel)
	}
	if c.CPUs < 1 || c.CPUs > MaxCPUs {
		return fmt.Errorf("%d processors are out of range: use 1 to %d", c.CPUs, MaxCPUs)
	}
	if c.ConsoleFile == "" {
		return errors.New("no file is named for the console: set ConsoleFile")
	}
	if c.ConsoleLimit < 0 {
		return fmt.Errorf("console limit %d is negative: use 0 for the default", c.ConsoleLimit)
	}
	if c.Kernel == "" {
		return errors.New("no kernel is named: set Kernel")
	}
	kernel, err := fileSize("kernel", c.Kernel)
	if err != nil {
		return err
	}
	var initrd int64
	if c.Initrd != "" {
		if initrd, err = fileSize("initrd", c.Initrd); err != nil {
			return err
		}
	}
	if least := leastMemoryMiB(kernel, initrd); c.MemoryMiB < least {
		return fmt.Errorf("%w: %d MiB for a kernel of %d MiB and an initrd of %d MiB: use at least %d MiB", ErrTooLittleMemory,
			c.MemoryMiB, mib(kernel), mib(initrd), least)
	}
	if err := checkCmdline(c.Cmdline, arch); err != nil {
		return err
	}
	if err := checkPorts(c.Ports); err != nil {
		return err
	}
	return checkDisks(c.Disks)
}

// ErrTooLittleMemory is wrapped by Validate's error about a machine in which the
// kernel cannot boot.
var ErrTooLittleMemory = errors.New("too little memory")

// leastMemoryMiB is the memory below which a boot is hopeless: the kernel, the
// ramdisk twice (as loaded and as unpacked), and what a Debian kernel takes to
// reach its init (measured: 6.12 with 96 MiB boots from a vmlinux of 55 MiB).
func leastMemoryMiB(kernel, initrd int64) int {
	return 40 + mib(kernel) + 2*mib(initrd)
}

func mib(n int64) int { return int((n + 1<<20 - 1) >> 20) }

// fileSize checks that path is a readable regular file.
func fileSize(what, path string) (int64, error) {
	// Without O_NONBLOCK a FIFO would be waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", what, err)
	}
	defer f.Close() //nolint:errcheck // opened for reading
	st, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("stat %s: %w", what, err)
	}
	if !st.Mode().IsRegular() {
		return 0, fmt.Errorf("%s %s is not a regular file but %s", what, path, st.Mode().Type())
	}
	if st.Size() == 0 {
		return 0, fmt.Errorf("%s %s is empty", what, path)
	}
	return st.Size(), nil
}

func checkCmdline(list []string, arch args.Arch) error {
	n := 0
	for _, p := range slices.Concat(arch.Params, arch.Patience, list) {
		if strings.ContainsAny(p, "\n\r\x00") {
			return fmt.Errorf("kernel parameter %q contains a line end or NUL", p)
		}
		n += len(p) + 1
	}
	if n > arch.CmdlineMax {
		return fmt.Errorf("kernel parameters take %d bytes: the kernel cuts them off at %d", n, arch.CmdlineMax)
	}
	return nil
}

func checkPorts(names []string) error {
	if len(names) > MaxPorts {
		return fmt.Errorf("%d ports are too many: a virtio-serial device has %d", len(names), MaxPorts)
	}
	seen := make(map[string]bool)
	for _, n := range names {
		if n == "" || len(n) > maxPortName || strings.Trim(n, nameChars) != "" {
			return fmt.Errorf("port name %q is not 1 to %d of the characters A-Z a-z 0-9 . _ -", n, maxPortName)
		}
		if seen[n] {
			return fmt.Errorf("port %q is named twice", n)
		}
		seen[n] = true
	}
	return nil
}

// nameChars are the characters of names that pass through QEMU's option
// syntax, sysfs and udev without any escaping.
const nameChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

func checkDisks(disks []Disk) error {
	if len(disks) > MaxDisks {
		return fmt.Errorf("%d disks are too many: at most %d", len(disks), MaxDisks)
	}
	seen := make(map[string]bool)
	for i, d := range disks {
		switch {
		case d.Serve != nil && (d.Path != "" || d.File != nil || d.Format != ""):
			return fmt.Errorf("disk %d is served and has a path, a file or a format, too", i)
		case d.Serve != nil:
		case d.Path == "" && d.File == nil:
			return fmt.Errorf("disk %d has neither a path nor a file", i)
		case d.Path != "" && d.File != nil:
			return fmt.Errorf("disk %d has both a path and a file", i)
		case d.Path != "":
			st, err := os.Stat(d.Path)
			if err != nil {
				return fmt.Errorf("stat disk %d: %w", i, err)
			}
			if st.IsDir() {
				return fmt.Errorf("disk %d: %s is a directory", i, d.Path)
			}
		default:
			mode, err := accessMode(d.File)
			if err != nil {
				return fmt.Errorf("disk %d: %w", i, err)
			}
			if mode == os.O_WRONLY || mode == os.O_RDONLY && !d.ReadOnly {
				return fmt.Errorf("disk %d: the file is not open for reading and writing", i)
			}
		}
		if len(d.Serial) > MaxSerial || strings.Trim(d.Serial, nameChars) != "" {
			return fmt.Errorf("disk serial %q is not at most %d of the characters A-Z a-z 0-9 . _ -", d.Serial, MaxSerial)
		}
		if d.Serial != "" && seen[d.Serial] {
			return fmt.Errorf("disk serial %q is given twice", d.Serial)
		}
		seen[d.Serial] = true
		switch d.Format {
		case "", "raw", "qcow2":
		default:
			return fmt.Errorf("disk format %q is not known: use raw or qcow2", d.Format)
		}
	}
	return nil
}
