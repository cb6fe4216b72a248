// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/internal/agent"
	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/vmtest"
)

// Template is a guest that was booted and frozen: when its agent was ready, or
// when a program in it was held (Run.Hold). Programs with Program.From go on from
// there, each in a machine of its own, in place of a boot. It may be used by several goroutines and is the caller's to
// close, once the last Exec that uses it has begun.
type Template struct {
	vm    *vmtest.Template
	ready wire.Ready
	disks []*disk // as the guest had them when it was frozen
	// boot is what the boot showed: splats, notes, how long it took. log is the
	// kernel log until the freeze, in the file given by Program.Dir and Log.
	boot Outcome
	log  string
	// held says that the program runs and is held, with this process ID; what it
	// had printed before, its siblings have too.
	held           bool
	pid            int
	stdout, stderr []byte
}

// Boot tells of the machine's boot: Splats, Panicked, Scanner, Notes, Ready,
// Boot, Accel and Args are set.
func (t *Template) Boot() Outcome { return t.boot }

// Bytes is what the template occupies in the host's memory.
func (t *Template) Bytes() int64 { return t.vm.Bytes() }

// Close frees what the template occupies. Machines that were forked go on.
func (t *Template) Close() error {
	errs := []error{t.vm.Close()}
	for _, d := range t.disks {
		errs = append(errs, d.file.Close())
	}
	return errors.Join(errs...)
}

// MakeTemplate boots a machine for programs like p, up to the moment at which
// its agent is ready, and freezes it; with p.Run.Hold up to the moment at which
// the program is held, within Timeout. Such a program has no standard input, and
// its siblings differ in their Release alone, and in what is done with what they
// print. Otherwise p.Run is not used. The error is about this host, QEMU or the kernel; booting each machine
// may still work, unless the Outcome, which tells of the boot in any case, has an
// Infra or a splat.
func (m *Machine) MakeTemplate(ctx context.Context, p Program) (*Template, Outcome, error) {
	var out Outcome
	began := time.Now()
	prep, err := m.prepare(ctx, p)
	if err != nil {
		prep.close()
		out.Infra = err
		return nil, out, err
	}
	if m.VMCore != "" {
		prep.close()
		return nil, out, errors.New("a memory dump is wanted, which only a booted VM gives")
	}
	p.Fetch = nil // each fork's own
	if p.Run.Hold != "" && p.Stdin != nil {
		prep.close()
		return nil, out, errors.New("freeze a held program: it cannot have a standard input")
	}
	// All of it may be touched.
	if need, have := prep.config.MemoryMiB+hostReserve, m.freeMiB(); have < need {
		prep.close()
		return nil, out, fmt.Errorf("keep a guest of %d MiB in memory: %d MiB are free", prep.config.MemoryMiB, have)
	}
	out.Prepare = time.Since(began)
	g := &guest{nonce: rand.Text(), disks: prep.disks, started: time.Now()}
	g.con = newConsole(g.nonce)
	prep.config.Console, prep.config.Freezable = g.con, true
	if g.vm, err = vmtest.Start(ctx, prep.config); err != nil {
		prep.close()
		out.Infra = fmt.Errorf("start the VM: %w", err)
		return nil, out, out.Infra
	}
	defer g.vm.Close() //nolint:errcheck // how it ended is in Exit
	t := &Template{disks: prep.disks, log: prep.config.ConsoleFile}
	var stdout, stderr bytes.Buffer
	p.Stdout, p.Stderr = &stdout, &stderr
	s := m.freeze(p, g, &out)
	s.agent.Talk(ctx)
	if s.agent.State() == agent.Frozen && out.Infra == nil {
		t.held, t.pid = p.Run.Hold != "", s.agent.PID()
		t.vm, err = g.vm.Freeze(ctx)
	} else {
		g.vm.Kill()
	}
	m.conclude(ctx, p, s)
	t.stdout, t.stderr = stdout.Bytes(), stderr.Bytes()
	if out.Infra == nil && out.Panicked {
		out.Infra = errors.New("the kernel died before the agent was ready")
	}
	if err == nil && out.GuestFault != "" {
		err = errors.New(out.GuestFault)
	}
	if err == nil {
		err = out.Infra
	}
	if err == nil && t.vm == nil {
		why := cmp.Or(out.Deadline, out.Hung, "the VM ended by itself: "+out.Exit.String())
		err = fmt.Errorf("make a VM ready to be frozen: %s", why)
	}
	if err != nil {
		prep.close()
		if t.vm != nil {
			err = errors.Join(err, t.vm.Close())
		}
		return nil, out, err
	}
	t.boot, t.ready = out, *out.Ready
	return t, out, nil
}

// guest is one VM and what belongs to it on the host.
type guest struct {
	vm      *vmtest.VM
	con     *console
	nonce   string
	tests   string // what the marks of a suite's test binary carry
	disks   []*disk
	started time.Time
	log     string    // name of its kernel log
	from    *Template // what it was forked from, or nil
	host    *hostFaults
	core    *core // nil when no memory dump is asked for
}

// close ends the VM and lets its disks go.
func (g *guest) close() {
	if g == nil {
		return
	}
	if g.vm != nil {
		_ = g.vm.Close() // how it ended is in Exit
	}
	for _, d := range g.disks {
		_ = d.file.Close()
	}
}

// check runs the disks' checks, once the guest is gone.
func (g *guest) check(ctx context.Context) []DiskCheck {
	var out []DiskCheck
	for _, d := range g.disks {
		if len(d.spec.Fsck) > 0 {
			out = append(out, d.check(ctx))
		}
	}
	return out
}

// forkOptions are a fork's own.
type forkOptions struct {
	dir, log string // of the kernel log
	twin     bool   // see Program.Twin
	paused   bool   // somebody else lets it run
	faults   fault.Plan
	disks    []*disk // in place of copies of the template's; the fork's to close, unless it fails
}

// fork starts a machine from the template, whose log is called so in dir. It
// waits for a job then, as long as one likes. A twin stays as its template is.
func (t *Template) fork(ctx context.Context, m *Machine, o forkOptions) (*guest, error) {
	g := &guest{nonce: rand.Text(), tests: rand.Text(), started: time.Now(), log: o.log, from: t}
	g.con = newConsole(g.nonce)
	g.con.init = -1 // it has booted before its log begins
	fc := vmtest.ForkConfig{ConsoleFile: filepath.Join(o.dir, o.log), Console: g.con, Log: m.Log, Paused: o.paused}
	fail := func(err error) (*guest, error) {
		if o.disks != nil {
			g.disks = nil // the caller's still
		}
		g.close()
		return nil, err
	}
	g.disks = o.disks
	fc.Preface = wire.ForkMark(g.id(o.twin)) + "\n"
	for _, d := range t.disks {
		if o.disks != nil {
			break
		}
		c, err := d.clone(o.dir)
		if err != nil {
			return fail(err)
		}
		g.disks = append(g.disks, c)
	}
	cfg := vmtest.Config{}
	for _, d := range g.disks {
		cfg.Disks = append(cfg.Disks, vmtest.Disk{File: d.file, Serial: d.spec.Name})
	}
	g.host = newHostFaults(o.faults, &cfg, g.disks)
	fc.Disks = cfg.Disks
	var err error
	if g.vm, err = vmtest.Fork(ctx, t.vm, fc); err != nil {
		return fail(fmt.Errorf("fork the VM: %w", err))
	}
	if err := g.thaw(o.twin); err != nil {
		return fail(fmt.Errorf("wake the fork: %w", err))
	}
	return g, nil
}

// id is what a fork is called, by itself and in its log.
func (g *guest) id(twin bool) string {
	if twin {
		return "twin"
	}
	return strings.ToLower(g.nonce[:8])
}

// thaw makes the machine another one than its siblings, before anything else. A
// twin stays as it is.
func (g *guest) thaw(twin bool) error {
	if twin {
		return nil
	}
	send := wire.NewWriter(g.vm.Port(wire.PortControl))
	seed := make([]byte, wire.SeedSize)
	_, _ = rand.Read(seed) // never fails
	return send.Send(wire.Message{Thaw: &wire.Thaw{
		ID: g.id(twin), UnixNS: time.Now().UnixNano(), Seed: seed,
	}})
}

// clone returns a copy of the disk, of the same name and as sparse.
func (d *disk) clone(dir string) (*disk, error) {
	f, err := os.CreateTemp(dir, ".disk-*")
	if err != nil {
		return nil, fmt.Errorf("copy disk %s: %w", d.spec.Name, err)
	}
	_ = os.Remove(f.Name())
	if err := copySparse(f, d.file); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("copy disk %s: %w", d.spec.Name, err)
	}
	return &disk{spec: d.spec, file: f}, nil
}

// copySparse makes to, which is empty, a copy of from: sharing its blocks where
// the file system can, otherwise with its holes.
func copySparse(to, from *os.File) error {
	if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil {
		return nil
	}
	st, err := from.Stat()
	if err != nil {
		return err
	}
	if err := to.Truncate(st.Size()); err != nil {
		return err
	}
	var end int64
	for {
		// lseek(2): the next data, and where it ends. By the raw call, because the
		// offset is shared by everybody who has the file open.
		begin, err := unix.Seek(int(from.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		if end, err = unix.Seek(int(from.Fd()), begin, unix.SEEK_HOLE); err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(to, begin), io.NewSectionReader(from, begin, end-begin)); err != nil {
			return err
		}
	}
}
