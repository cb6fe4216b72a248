// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/internal/agent"
	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/klog"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/output"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/vmtest"
)

// Template is a guest that was booted and frozen: when its agent was ready, or
// when a program in it was held (Run.Hold). Programs with Program.From go on from
// there, each in a machine of its own, in place of a boot. It may be used by several goroutines and is the caller's to
// close, once the last Exec that uses it has begun.
type Template struct {
	frozen *machine.Template
	ready  wire.Ready
	// boot is what the boot showed: splats, notes, how long it took. log is the
	// kernel log until the freeze, in the file given by Program.Dir and Log.
	boot Outcome
	log  string
	// bare says that it knows no program, see Program.bare. The logs of its forks begin
	// with bootLog then, which nothing else shows.
	bare    bool
	bootLog string
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
func (t *Template) Bytes() int64 { return t.frozen.Bytes() }

// Close frees what the template occupies. Machines that were forked go on.
func (t *Template) Close() error { return t.frozen.Close() }

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
	if m.VMCore != "" {
		return nil, out, errors.New("a memory dump is wanted, which only a booted VM gives")
	}
	p.Fetch = nil // each fork's own
	if p.Run.Hold != "" && p.Stdin != nil {
		return nil, out, errors.New("freeze a held program: it cannot have a standard input")
	}
	g := newGuest("")
	o := p.options()
	o.Console, o.Freezable, o.Faults = g.con, true, nil
	recipe, err := m.recipe(p)
	if err == nil {
		g.vm, err = m.Boot(ctx, recipe, o)
	}
	if err != nil {
		if full := (*machine.NoRoomError)(nil); !errors.As(err, &full) {
			out.Infra = err
		}
		return nil, out, err
	}
	out.Prepare = g.vm.Started.Sub(began)
	defer g.close()
	t := &Template{log: filepath.Join(p.Dir, p.LogName()), bare: p.bare}
	var stdout, stderr bytes.Buffer
	p.Stdout, p.Stderr = &stdout, &stderr
	s := m.freeze(p, g, &out)
	s.agent.Talk(ctx)
	if s.agent.State() == agent.Frozen && out.Infra == nil {
		t.held, t.pid = p.Run.Hold != "", s.agent.PID()
		t.frozen, err = g.vm.Freeze(ctx)
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
	if err == nil && t.frozen == nil {
		why := cmp.Or(out.Deadline, out.Hung, "the VM ended by itself: "+out.Exit.String())
		err = fmt.Errorf("make a VM ready to be frozen: %s", why)
	}
	if err != nil {
		if t.frozen != nil {
			err = errors.Join(err, t.Close())
		}
		return nil, out, err
	}
	t.boot, t.ready = out, *out.Ready
	return t, out, nil
}

// guest is one VM and what is said with it and in it.
type guest struct {
	vm    *machine.VM
	con   *klog.Log
	nonce string
	tests string    // what the marks of a suite's test binary carry
	from  *Template // what it was forked from, or nil
}

// newGuest is that of a VM in which the marks of tests carry the word tests.
func newGuest(tests string) *guest {
	g := &guest{nonce: rand.Text(), tests: tests}
	g.con = klog.New(g.nonce)
	return g
}

// close ends the VM and lets its disks go.
func (g *guest) close() {
	if g != nil {
		g.vm.Close()
	}
}

// fork starts a machine from the template, whose log is called so in dir. It
// waits for a job then, as long as one likes. A twin stays as its template is.
func (t *Template) fork(ctx context.Context, m *Machine, o machine.Options, twin bool) (*guest, error) {
	g := newGuest(rand.Text())
	g.from = t
	g.con.Resumed() // it has booted before its log begins
	o.Console, o.Preface = g.con, wire.ForkMark(g.id(twin))+"\n"
	o.Preface = t.bootLog + o.Preface
	var err error
	if g.vm, err = t.frozen.Fork(ctx, &m.Host, o); err != nil {
		return nil, err
	}
	if err := g.thaw(twin); err != nil {
		if o.Disks != nil {
			g.vm.TakeDisks() // the caller's still
		}
		g.close()
		return nil, fmt.Errorf("wake the fork: %w", err)
	}
	return g, nil
}

// Forked is a machine that was forked ahead of need and waits for a program. It is to
// be closed, or given to ExecIn, which closes it.
type Forked struct{ g *guest }

// Fork forks a machine without a program, whose kernel log is called log in dir.
func (t *Template) Fork(ctx context.Context, m *Machine, dir, log string) (*Forked, error) {
	g, err := t.fork(ctx, m, machine.Options{Dir: dir, Log: log}, false)
	if err != nil {
		return nil, err
	}
	return &Forked{g}, nil
}

// Log is the name of its kernel log.
func (f *Forked) Log() string { return f.g.vm.Log }

// HostMiB is the memory that its QEMU has for itself.
func (f *Forked) HostMiB() int { return f.g.vm.HostMiB() }

// Close ends the machine. A nil one is closed.
func (f *Forked) Close() {
	if f != nil {
		f.g.close()
	}
}

// ExecIn is Exec in a machine that was forked ahead, which is closed. Where the
// program's machine comes from otherwise, does not matter, nor does its Log.
func (m *Machine) ExecIn(ctx context.Context, p Program, f *Forked) (out Outcome) {
	p, p.Log = p.Armed(fault.Line), f.Log()
	f.g.vm.Started = time.Now()
	m.drive(ctx, p, f.g, &out)
	return out
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
	t := &wire.Thaw{ID: g.id(twin), UnixNS: time.Now().UnixNano(), Seed: seed}
	if g.from.bare {
		t.ID = "" // it has the name of a machine that was booted, which /etc/hosts knows
	}
	return send.Send(wire.Message{Thaw: t})
}

// kept is what is kept of a template beside its machine and its log.
type kept struct {
	Ready          wire.Ready
	Held           bool
	PID            int
	Stdout, Stderr []byte
	Accel          vmtest.Accel
	Args           []string
	Notes          []string // of the boot
}

// Template returns a template for programs like p as [Machine.MakeTemplate] does,
// from the cache when it has one of the same kernel, initial ramdisk, QEMU, host
// and Run; the Outcome is then that of the boot, whose log is written to p's.
// One that is damaged is made anew.
func (m *Machine) Template(ctx context.Context, p Program) (*Template, Outcome, error) {
	slot, err := m.slot(ctx, p)
	if err != nil {
		return m.MakeTemplate(ctx, p) // which has a better error
	}
	t, err := loadTemplate(slot, p)
	if err == nil {
		return t, t.boot, nil
	}
	if !errors.Is(err, machine.ErrNotKept) {
		m.Say("making a template anew: %v", err)
		if err := slot.Remove(ctx); err != nil {
			return m.MakeTemplate(ctx, p)
		}
	}
	t, out, err := m.MakeTemplate(ctx, p)
	if err != nil || len(out.Splats)+len(out.KernelTests.Failed) > 0 {
		return t, out, err // a splat is to be seen each time
	}
	if err := m.save(ctx, t, slot, p); err != nil && ctx.Err() == nil {
		m.Say("the next run will boot: %v", err)
	}
	return t, out, nil
}

// slot is where a template for programs like p is kept.
func (m *Machine) slot(ctx context.Context, p Program) (*machine.Slot, error) {
	r, err := m.recipe(p)
	if err != nil {
		return nil, err
	}
	var run wire.Run // which matters to what is held
	if p.Run.Hold != "" {
		run = p.Run
		run.Nonce = ""
	}
	return m.Slot(ctx, r, struct {
		Run      wire.Run
		Protocol int
	}{run, wire.Version})
}

// save keeps the template in its slot.
func (m *Machine) save(ctx context.Context, t *Template, slot *machine.Slot, p Program) error {
	log, err := os.ReadFile(t.log)
	if err != nil {
		return err
	}
	state, err := json.Marshal(kept{
		Ready: t.ready, Held: t.held, PID: t.pid, Stdout: t.stdout, Stderr: t.stderr,
		Accel: t.boot.Accel, Args: t.boot.Args, Notes: t.boot.Notes,
	})
	if err != nil {
		return err
	}
	about := fmt.Sprintf("template of %s, suite %s", p.Kernel.Release, p.Spec.Name)
	if p.bare {
		about = fmt.Sprintf("warm machine of %s, %d MiB, %d CPUs", p.Kernel.Release, cmp.Or(m.MemoryMiB, p.Spec.MemoryMiB, vmtest.DefaultMemoryMiB), cmp.Or(m.CPUs, p.Spec.CPUs, vmtest.DefaultCPUs))
	}
	return slot.Save(ctx, t.frozen, machine.Kept{State: state, Log: log, About: about})
}

// loadTemplate reads what save wrote, and writes the boot's log where p wants it.
func loadTemplate(slot *machine.Slot, p Program) (*Template, error) {
	began := time.Now()
	frozen, about, err := slot.Load()
	if err != nil {
		return nil, err
	}
	t := &Template{frozen: frozen, log: filepath.Join(p.Dir, p.LogName()), bare: p.bare}
	var k kept
	if err = json.Unmarshal(about.State, &k); err == nil && p.bare {
		t.bootLog = string(about.Log)
	} else if err == nil {
		err = output.Save(t.log, about.Log)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load template: %w", err), t.Close())
	}
	t.ready, t.held, t.pid, t.stdout, t.stderr = k.Ready, k.Held, k.PID, k.Stdout, k.Stderr
	t.boot = Outcome{Findings: agent.Findings{Ready: &t.ready, Notes: k.Notes, Boot: time.Since(began)}, Accel: k.Accel, Args: k.Args}
	return t, nil
}
