// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sync/errgroup"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/initramfs/busybox"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/vmtest"
)

// Recipe is what a machine is made of, as data: all that a template depends on.
type Recipe struct {
	Kernel *Kernel
	// KernelFile is booted in place of Kernel's own file, when set.
	KernelFile string
	// Init is the host's binary that becomes /init in the guest: the agent, whose build
	// AgentID names. A recipe that is given to a fork may have none: the fork has the
	// /init of its template then.
	Init, AgentID string
	// Files and HostFiles are what the initramfs has beside; HostFiles are looked
	// for on this host. Shell adds u-root's tools.
	Files     []initramfs.File
	HostFiles []suites.File
	Shell     bool
	// C are compiled on this host.
	C []suites.CProgram
	// Modules are loaded by the agent, with what they depend on.
	Modules []string
	Disks   []suites.Disk
	Cmdline []string // added to the kernel's
	// MemoryMiB and CPUs are those of the guest; zero is vmtest's default.
	MemoryMiB, CPUs int
	Ports           []string // names of virtio-serial ports
	// Inlet, when set, is the serial of a read-only disk by which a fork is given
	// what its template has not (Options.Give). It comes after Disks.
	Inlet string
}

// Bare is the recipe of the machine that a VM of the recipe can be forked from
// before it is known what the VM is for: with the kernel and the shape of this one,
// the agent and the guest's tools, and an Inlet of that serial. Programs, files,
// modules and whatever else is in the initramfs only are given to the fork.
//
// Its disks have the number, names and sizes of the recipe's, which a running guest
// cannot be told, and nothing on them: a kernel keeps nothing of a disk that nobody has
// open (block/bdev.c: blkdev_flush_mapping).
func (r Recipe) Bare(inlet string) Recipe {
	b := Recipe{
		Kernel: r.Kernel, KernelFile: r.KernelFile, Init: r.Init, AgentID: r.AgentID, Shell: r.Shell, Modules: []string{"virtio_blk"},
		Cmdline: r.Cmdline, MemoryMiB: r.MemoryMiB, CPUs: r.CPUs, Ports: r.Ports, Inlet: inlet,
	}
	for _, d := range r.Disks {
		b.Disks = append(b.Disks, suites.Disk{Name: d.Name, SizeMiB: d.SizeMiB})
	}
	return b
}

// inletBytes is the size of every Inlet, which a running guest cannot be told: more
// than fits into the memory of a guest whose program comes by it. It is all hole but
// for what is given.
const inletBytes = 16 << 30

// inlet makes an empty one, which is the caller's to close.
func (o Options) inlet() (*os.File, error) {
	f, err := os.CreateTemp(o.Dir, ".disk-*")
	if err != nil {
		return nil, fmt.Errorf("make the disk for the fork's files: %w", err)
	}
	_ = os.Remove(f.Name())
	if err := f.Truncate(inletBytes); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("make the disk for the fork's files: %w", err)
	}
	return f, nil
}

// give fills an inlet with what a machine of the recipe has and one of the template's
// has not, and returns how many bytes that are.
func (h *Host) give(ctx context.Context, to *os.File, r, template Recipe) (int64, error) {
	s, err := h.archive(ctx, r)
	if err != nil {
		return 0, err
	}
	base, err := h.archive(ctx, template)
	if err != nil {
		return 0, err
	}
	base.Init = "" // that of the template may be of another program
	return initramfs.Overlay(ctx, to, s, base, h.archives())
}

// guestNeeds is what a guest has for other things than its files, in MiB: a kernel
// and what that takes to reach its init (vmtest has the measurements).
const guestNeeds = 100

// roomFor refuses files for which a guest has too little memory. As in a boot, it
// takes them twice: as they come, and unpacked.
func (h *Host) roomFor(r Recipe, bytes int64) error {
	have := int64(cmp.Or(h.MemoryMiB, r.MemoryMiB, vmtest.DefaultMemoryMiB))
	if need := guestNeeds + 2*(bytes>>20); need > have {
		return fmt.Errorf("%w: %d MiB for files of %d MiB", vmtest.ErrTooLittleMemory, have, bytes>>20)
	}
	return nil
}

// prepared is what has been made on the host for one VM.
type prepared struct {
	config vmtest.Config
	disks  []*Disk
	inlet  *os.File // nil if there is none; not needed once QEMU runs
}

func (p *prepared) close() {
	for _, d := range p.disks {
		_ = d.file.Close()
	}
	p.closeInlet()
}

func (p *prepared) closeInlet() {
	if p.inlet != nil {
		_ = p.inlet.Close()
	}
}

// prepare makes kernel, initramfs and disks, at the same time. What it made before
// an error, the disks, is the caller's to close.
func (h *Host) prepare(ctx context.Context, r Recipe, o Options) (*prepared, error) {
	out := &prepared{config: h.shape(r)}
	out.config.ConsoleFile = filepath.Join(o.Dir, o.Log) // beside the verdict's other evidence
	g, gctx := errgroup.WithContext(ctx)
	var errs *multierror.Error
	var mu sync.Mutex
	// Not errgroup's first error: a user wants to hear all that is missing.
	try := func(f func() error) {
		g.Go(func() error {
			if err := f(); err != nil {
				mu.Lock()
				errs = multierror.Append(errs, err)
				mu.Unlock()
			}
			return nil
		})
	}
	try(func() (err error) {
		if out.config.Kernel = r.KernelFile; r.KernelFile == "" {
			out.config.Kernel, err = r.Kernel.bootable(gctx, h.Cache)
		}
		return err
	})
	try(func() (err error) {
		out.config.Initrd, err = h.initrd(gctx, r)
		return err
	})
	out.disks = o.Disks
	for _, d := range r.Disks {
		if o.Disks != nil {
			break
		}
		try(func() error {
			d, err := makeDisk(gctx, o.Dir, d)
			if err != nil {
				return err
			}
			mu.Lock()
			out.disks = append(out.disks, d)
			mu.Unlock()
			return nil
		})
	}
	_ = g.Wait()
	if errs != nil {
		return out, oneOrAll(errs)
	}
	// In the Recipe's order, whatever mkfs took.
	slices.SortFunc(out.disks, func(a, b *Disk) int {
		at := func(d *Disk) int {
			return slices.IndexFunc(r.Disks, func(s suites.Disk) bool { return s.Name == d.spec.Name })
		}
		return at(a) - at(b)
	})
	for _, d := range out.disks {
		out.config.Disks = append(out.config.Disks, vmtest.Disk{File: d.file, Serial: d.spec.Name})
	}
	if r.Inlet != "" {
		var err error
		if out.inlet, err = o.inlet(); err != nil {
			return out, err
		}
		out.config.Disks = append(out.config.Disks, vmtest.Disk{File: out.inlet, Serial: r.Inlet, ReadOnly: true})
	}
	if err := out.config.Validate(); err != nil {
		return out, err
	}
	return out, nil
}

// shape is the configuration of a machine of the recipe, but for files.
func (h *Host) shape(r Recipe) vmtest.Config {
	c := vmtest.Config{
		QEMU: h.QEMU, Accel: h.Accel, Cmdline: slices.Concat(h.Append, r.Cmdline), Ports: r.Ports, Log: h.Log,
		MemoryMiB: cmp.Or(h.MemoryMiB, r.MemoryMiB), CPUs: cmp.Or(h.CPUs, r.CPUs), HZ: r.Kernel.hz(),
	}
	// Who says himself how many processors boot gets just these.
	own := slices.ContainsFunc(c.Cmdline, func(p string) bool {
		return p == "nosmp" || strings.HasPrefix(p, "maxcpus=") || strings.HasPrefix(p, "nr_cpus=")
	})
	if c.CPUs > 1 && !own && r.Kernel.Config["HOTPLUG_CPU"] == "y" && r.Kernel.Config["PROC_FS"] == "y" {
		c.LateCPUs = true
		c.Cmdline = append(c.Cmdline, wire.CPUsParam+strconv.Itoa(c.CPUs))
	}
	return c
}

// config is the configuration with the kernel.
func (h *Host) config(ctx context.Context, r Recipe) (vmtest.Config, error) {
	c := h.shape(r)
	c.Kernel = r.KernelFile
	var err error
	if c.Kernel == "" {
		c.Kernel, err = r.Kernel.bootable(ctx, h.Cache)
	}
	return c, err
}

// oneOrAll unwraps a single error: a list of one reads badly.
func oneOrAll(e *multierror.Error) error {
	if len(e.Errors) == 1 {
		return e.Errors[0]
	}
	return e
}

func (h *Host) initrd(ctx context.Context, r Recipe) (string, error) {
	s, err := h.archive(ctx, r)
	if err != nil {
		return "", err
	}
	path, err := initramfs.Build(ctx, s, h.archives())
	if err != nil {
		return "", fmt.Errorf("build the initramfs: %w", err)
	}
	return path, nil
}

// archive says what is in the recipe's initramfs.
func (h *Host) archive(ctx context.Context, r Recipe) (initramfs.Spec, error) {
	s := initramfs.Spec{
		Init:    r.Init,
		Files:   slices.Clone(r.Files),
		Release: r.Kernel.Release,
		Config:  r.Kernel.ConfigText,
	}
	for _, f := range r.HostFiles {
		files, err := hostFiles(f)
		if err != nil {
			return s, err
		}
		s.Files = append(s.Files, files...)
	}
	for _, c := range r.C {
		path, err := h.CompileC(ctx, c)
		if err != nil {
			return s, err
		}
		s.Files = append(s.Files, initramfs.File{Host: path, Guest: c.Guest, Mode: 0o755})
	}
	s.ModulesDir = r.Kernel.ModulesDir
	for _, name := range r.Modules {
		if s.ModulesDir == "" && r.Kernel.builtIn(name) {
			continue
		}
		if s.Modules = append(s.Modules, name); s.ModulesDir == "" {
			return s, fmt.Errorf("find modules %s for kernel %s: no lib/modules/%s beside it or in /lib/modules; name the directory with -modules",
				strings.Join(s.Modules, ", "), r.Kernel.Path, r.Kernel.Release)
		}
	}
	if r.Shell {
		var err error
		if s.Busybox, err = busybox.Build(ctx, h.archives()); err != nil {
			return s, fmt.Errorf("build the guest's tools: %w", err)
		}
	}
	return s, nil
}

// archives says where initramfs keeps what it makes, and who hears of it.
func (h *Host) archives() initramfs.Options {
	return initramfs.Options{CacheDir: h.Cache.Root(), Progress: func(s string) { h.Say("%s", s) }}
}

// hostFiles resolves one File of a Spec.
func hostFiles(f suites.File) ([]initramfs.File, error) {
	for _, pattern := range f.Host {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			return nil, fmt.Errorf("host file pattern %q: %w", pattern, err)
		}
		if len(matches) == 0 {
			continue
		}
		var out []initramfs.File
		for _, h := range matches {
			g := f.Guest
			switch {
			case g == "":
				g = h
			case strings.HasSuffix(g, "/"):
				g += filepath.Base(h)
			}
			out = append(out, initramfs.File{Host: h, Guest: g})
		}
		return out, nil
	}
	if f.Optional {
		return nil, nil
	}
	cure := ""
	if f.Package != "" {
		cure = fmt.Sprintf("; install it with: apt-get install %s", f.Package)
	}
	return nil, fmt.Errorf("host file not found: looked for %s%s", strings.Join(f.Host, ", "), cure)
}

// TooLittleMemory refuses a size, of the Host's or the Recipe's, in which the kernel
// cannot unpack the initramfs: an error that wraps [vmtest.ErrTooLittleMemory].
// Whatever else is wrong is nil here, and is said when the machine is made.
func (h *Host) TooLittleMemory(ctx context.Context, r Recipe) error {
	kernel, err := r.Kernel.bootable(ctx, h.Cache)
	if err != nil {
		return nil
	}
	initrd, err := h.initrd(ctx, r)
	if err != nil {
		return nil
	}
	c := vmtest.Config{Kernel: kernel, Initrd: initrd, MemoryMiB: r.MemoryMiB, ConsoleFile: "-"}
	if h.MemoryMiB > 0 {
		c.MemoryMiB = h.MemoryMiB
	}
	if err := c.Validate(); errors.Is(err, vmtest.ErrTooLittleMemory) {
		return err
	}
	return nil
}
