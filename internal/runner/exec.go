// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/internal/agent"
	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/klog"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/vmtest"
)

// Machine holds what all VMs of a process share, and how they are judged. The zero
// value but for Cache is usable.
type Machine struct {
	machine.Host
	// BootLimit bounds how long the kernel log of a VM may stand still before its
	// agent answers, in the VM's own time: what the host keeps it waiting for a
	// processor does not count. It is meant for KVM; under TCG it is multiplied.
	// Zero is a minute. A VM that goes on talking gets ten times as long.
	BootLimit time.Duration
	// Allow names the splats that fail nothing; nil is none.
	Allow *oops.AllowList
	// VMCore asks for memory dumps of guests that hang or die, beside their
	// kernel logs.
	VMCore machine.CoreFormat

	warming sync.Mutex // held while a warm machine is made
}

// Time limits. TCG runs a guest 10 to 30 times slower than KVM (measured with
// the suites: 12 to 25), so that limits meant for KVM are scaled.
const (
	bootTimeout  = 60 * time.Second
	drainTimeout = 10 * time.Second
	lookTimeout  = time.Minute // two scans by kmemleak: over 30 s were seen under TCG, with 15 runnable tasks on 2 CPUs
	autopsyLimit = 3 * time.Second
	TCGFactor    = 3
)

// powerOffLimit is how long a guest that powers off may be silent.
var powerOffLimit = 10 * time.Second

// aftermathTime is how long a machine is watched after its program's end, in its
// own time: what the program left behind in timers, work queues and RCU callbacks
// comes to light then. A grace period of RCU takes an idle kernel some ticks, of 4
// ms with HZ=250; kfree_rcu may take seconds (KFREE_DRAIN_JIFFIES), which nobody
// waits for.
var aftermathTime = 100 * time.Millisecond

// Watched is how many machines there are for each that works: the others have
// ended their work and are only watched, see agent.Limits.Aftermath.
const Watched = 2

// Fetch is a guest file wanted after the program has ended.
type Fetch = agent.Fetch

// Program is one program for one VM.
type Program struct {
	Kernel *machine.Kernel
	// Spec says what the VM must have; its Name is not used.
	Spec suites.Spec
	// Init is the host's binary that becomes /init in the guest: one whose
	// main calls guest.Main when it is PID 1.
	Init string
	// Files, Modules and Shell add to the initramfs.
	Files   []initramfs.File
	Modules []string
	Shell   bool
	// Run is what the agent starts. Nonce and Fetch are set by Exec.
	Run wire.Run
	// Marks says that the program is a suite's test binary: what it writes to the
	// kernel log under this run's nonce are marks of tests. Nothing else is.
	Marks bool
	// Test, when set, is the only test that the program runs in this VM: what the
	// kernel says from the program's start on belongs to it, whatever marks say.
	Test string
	// Faults is what goes wrong while the program runs.
	Faults fault.Plan
	// Release is what a program with Run.Hold is let go with; Faults sets both.
	Release *wire.Release
	Fetch   []Fetch
	Stdin   io.Reader // nil is /dev/null; Exec does not wait for a blocked Read
	Stdout  io.Writer
	Stderr  io.Writer
	// disks, when set, are used in place of new ones, and closed.
	disks []*machine.Disk
	// bare is for a template: a machine that knows no program. What a program needs is
	// given to its forks.
	bare bool
	// KernelFile is booted in place of Kernel's own file, when set.
	KernelFile string
	// Resize and Signals are passed on to the program; nil channels are fine.
	Resize  <-chan wire.Winsize
	Signals <-chan int
	// Timeout bounds the program's run time, in the accelerator's own time: it
	// is not scaled. Zero is none.
	Timeout time.Duration
	// Idle bounds how long neither the program nor the kernel may say
	// anything; zero is no bound.
	Idle time.Duration
	// Dir is an existing directory for console.log; it belongs to the caller.
	Dir string
	// Log is the name of the kernel log in Dir, "" for console.log.
	Log string
	// OnTest, when set, is told which test begins, by the kernel log. It must
	// not block.
	OnTest func(test string)
	// Patient lifts the limit on the guest's getting ready.
	Patient bool
	// From, when set, is where the program's machine goes on from, instead of
	// booting. It must have been made for such a Program; Kernel, Spec, Init and
	// the rest say how to boot should that fail.
	From *Template
	// Twin leaves a machine that is forked as all others of its template are,
	// with the same clock and the same random numbers.
	Twin bool
	// OnReady, when set, is called when the guest is up.
	OnReady func(wire.Ready)
	// OnWatch, when set, is called when all has ended in a fork, which is only
	// watched from then on and needs next to no processor time.
	OnWatch func()
	// GDB, when set, is told the debugger's command line, when the machine stands
	// still: a fork before it goes on, one that was booted when its program is held.
	// It goes on when a debugger lets it.
	GDB func(command string)
}

// LogName is the name of the kernel log in Dir.
func (p Program) LogName() string {
	if p.Log == "" {
		return "console.log"
	}
	return p.Log
}

// Exec boots a VM, or forks it from p.From, runs the program and returns when
// QEMU is gone.
func (m *Machine) Exec(ctx context.Context, p Program) (out Outcome) {
	began := time.Now()
	p = p.Armed(fault.Line)
	g, err := m.begin(ctx, p, &out)
	if err != nil {
		out.Infra = err
		return out
	}
	out.Prepare = g.vm.Started.Sub(began)
	first := p
	pass := func() {}
	if p.Faults.Has(fault.PowerCut) {
		// What a machine printed whose power was cut is not the program's.
		for _, w := range []*io.Writer{&first.Stdout, &first.Stderr} {
			if to := *w; to != nil {
				h := NewSpool(p.Dir)
				defer h.Close()
				before := pass
				pass, *w = func() { before(); h.Live(to) }, h
			}
		}
	}
	m.drive(ctx, first, g, &out)
	if out.Cut != "" && out.Infra == nil && ctx.Err() == nil {
		m.Say("the power was cut at %s; again on the same disks", out.Cut)
		out.GoOn(m.Exec(ctx, p.afterCut(out.disks, out.Acks)))
		return out
	}
	pass()
	for _, d := range out.disks {
		_ = d.Close()
	}
	return out
}

// begin starts the machine for a program.
func (m *Machine) begin(ctx context.Context, p Program, out *Outcome) (*guest, error) {
	o := p.options()
	// A balloon is a device that the template has not.
	if p.From != nil && m.VMCore == "" && !p.Faults.Has(fault.Balloon) {
		o.Paused = p.GDB != nil
		if p.From.bare {
			r, err := m.recipe(p)
			if err != nil {
				return nil, err
			}
			if !slices.Contains(p.Run.Argv, "/init") {
				r.Init = "" // nobody asks for it
			}
			o.Give = &r
		}
		g, err := p.From.fork(ctx, m, o, p.Twin)
		if err == nil && p.From.bare {
			out.Start = StartedWarm
		}
		if err == nil && p.GDB != nil {
			return m.standing(ctx, p, g)
		}
		if err == nil || ctx.Err() != nil {
			return g, err
		}
		out.Start = fmt.Sprintf("%s: %v", StartedCold, err)
		out.Notes = append(out.Notes, m.Remark(fmt.Sprintf("booting VMs that could not be forked: %v", err))...)
		o.Give = nil
	}
	if m.VMCore != "" {
		modules, remark := machine.CoreModules(p.Kernel)
		p.Modules = append(slices.Clone(p.Modules), modules...)
		out.Notes = append(out.Notes, m.Remark(remark)...)
		o.Core, o.CoreFile = m.VMCore, filepath.Join(p.Dir, p.Beside("vmcore", ""))
	}
	g := newGuest(rand.Text())
	o.Console = g.con
	r, err := m.recipe(p)
	if err != nil {
		return nil, err
	}
	if g.vm, err = m.Boot(ctx, r, o); err != nil {
		return nil, err
	}
	return g, nil
}

// options are those of the program's own machine.
func (p Program) options() machine.Options {
	return machine.Options{Dir: p.Dir, Log: p.LogName(), Faults: p.Faults, Disks: p.disks}
}

// TooLittleMemory refuses a size of memory in which the program's machine cannot boot,
// see [machine.Host.TooLittleMemory].
func (m *Machine) TooLittleMemory(ctx context.Context, p Program) error {
	r, err := m.recipe(p)
	if err != nil {
		return nil // said when it is run
	}
	return m.Host.TooLittleMemory(ctx, r)
}

// recipe is what the program's machine is made of.
func (m *Machine) recipe(p Program) (machine.Recipe, error) {
	r := machine.Recipe{
		Kernel: p.Kernel, KernelFile: p.KernelFile, Init: p.Init, Files: slices.Clone(p.Files), HostFiles: p.Spec.Files, C: p.Spec.C, Shell: p.Shell,
		Modules: slices.Concat(p.Spec.Modules, p.Modules), Disks: p.Spec.Disks, Cmdline: slices.Concat(agentParams, p.Spec.Cmdline),
		MemoryMiB: p.Spec.MemoryMiB, CPUs: p.Spec.CPUs, Ports: wire.Ports,
	}
	if err := p.Spec.Validate(); p.Spec.Name != "" && err != nil {
		return r, err
	}
	if allow := m.Allow.Active(time.Now()); len(allow) > 0 {
		r.Files = append(r.Files, initramfs.File{Data: allow, Guest: suites.GuestAllowFile})
	}
	if p.bare {
		r.AgentID = agentID()
		return r.Bare(wire.FilesDisk), nil
	}
	return r, nil
}

// drive runs the program in its machine, and closes that.
func (m *Machine) drive(ctx context.Context, p Program, g *guest, out *Outcome) {
	defer g.close()
	if !p.Marks {
		g.tests = ""
	}
	g.con.Tell(g.tests, p.OnTest)
	s := m.converse(p, g, out)
	s.agent.Talk(ctx)
	g.vm.AwaitDump(ctx)
	out.HostMiB = g.vm.HostMiB()
	g.vm.Kill()
	m.conclude(ctx, p, s)
	d := g.vm.EndFaults(out.Cut)
	out.Notes, out.Writes, out.Flushes = append(out.Notes, d.Notes...), d.Writes, d.Flushes
	if d.Err != nil {
		out.Infra = d.Err
	}
	if out.Cut != "" {
		out.disks = g.vm.TakeDisks()
	}
	if out.EndMarker {
		out.Disks = g.vm.CheckDisks(ctx)
	}
}

// staleCode says of a breakpoint where there is none what it may be. It excuses nothing:
// only the user can know whether the kernel changes its code as it should.
func (o *Outcome) staleCode() []string {
	if o.Accel == vmtest.AccelTCG && slices.ContainsFunc(o.Splats, func(s klog.Splat) bool { return s.NoBreakpoint() }) {
		return []string{staleCode}
	}
	return nil
}

const staleCode = "the kernel died of an int3 where its code has none: QEMU 7.2 now and then goes on with code that another processor has changed (see vmtest.Config.LateCPUs); " +
	"run it again, with -cpus 1, or with a QEMU of version 10"

// conclude waits for the end of a session's machine and says what it showed.
func (m *Machine) conclude(ctx context.Context, p Program, s *session) {
	out, con := s.out, s.con
	out.Exit = s.vm.Wait()
	s.agent.Close(ctx)
	if at := s.agent.DoneAt(); !at.IsZero() {
		out.Teardown = time.Since(at)
	}
	if e := out.Exited; e != nil {
		out.Faults = e.Faults
	}
	con.Close()
	out.Accel, out.Args = s.vm.Accel(), s.vm.Args()
	out.Notes = append(out.Notes, m.Remark(s.vm.Note())...)
	out.Notes = append(out.Notes, s.vm.DumpNotes()...)
	if why := con.Problem(); why != "" {
		s.out.Incomplete(why)
	}
	out.KernelTests = newKernelTests(con.Results())
	out.Splats = con.Splats()
	for i := range out.Splats {
		out.Splats[i].Log = p.LogName()
	}
	s.witness()
	for i := range out.Splats {
		if sp := &out.Splats[i]; p.Test != "" && sp.Phase != "boot" {
			sp.Test, sp.Phase = p.Test, ""
			sp.Expected = sp.Expected || con.Announced(*sp)
		}
		if e := m.Allow.Allow(out.Splats[i].Report, time.Now()); e != nil {
			out.Splats[i].Allowed = e.Why()
		}
		out.Panicked = out.Panicked || out.Splats[i].Panicked
	}
	out.Notes = append(out.Notes, out.staleCode()...)
	m.symbolize(ctx, p.Kernel, out.Splats)
	out.Ended, out.Failed, out.Skipped, out.Running = con.Progress()
	// Whatever ended it then: a fork is killed when it is done.
	out.Panicked = out.Panicked || out.Exit.GuestPanicked
	if out.Exit.ConsoleErr != nil {
		out.Fail(fmt.Errorf("the kernel log was not kept: write %s: %w", filepath.Join(p.Dir, p.LogName()), out.Exit.ConsoleErr))
	}
	out.LastWords, out.Acks = con.LastWords(), con.Acks()
	s.explain()
	out.BootFailed = out.Ready == nil && !s.agent.Spoken() && ctx.Err() == nil && out.Exit.Cause != vmtest.Crashed
}

// agentParams are the kernel parameters for the agent. What the kernel does not
// know it puts into init's environment, which programs do not inherit; it says so
// in its log. Under TCG the runtime takes whatever the agent does for the first
// time for a goroutine that does not yield, and a preemption by signal costs a
// fork more than all that the agent does in it.
//
// The log's buffer holds what is said between two readings of the agent, see
// initramfs/guest: 65536 messages of 32 bytes on the average, 9 MiB of memory with
// what the kernel keeps beside each (kernel/printk/printk.c: setup_log_buf, 112
// bytes for 32). Distributions build it for 128 or 256 KiB.
var agentParams = []string{"GODEBUG=asyncpreemptoff=1", "log_buf_len=2M"}

// session is one VM's run, from QEMU's start to its end.
type session struct {
	*guest
	m     *Machine
	p     Program
	out   *Outcome
	agent *agent.Session
}

// machineOf is what a conversation needs of a VM.
type machineOf struct{ *machine.VM }

// Port implements agent.Machine.
func (m machineOf) Port(name string) io.ReadWriter { return m.VM.Port(name) }

// Waited implements agent.Machine.
func (m machineOf) Waited() agent.Waits { return agent.Starved(m.PID()) }

// converse prepares the conversation with the agent in a machine for p.
func (m *Machine) converse(p Program, g *guest, out *Outcome) *session {
	s := &session{m: m, p: p, guest: g, out: out}
	s.agent = agent.New(s.config(), &out.Findings)
	return s
}

// freeze prepares the conversation that makes a machine ready to be frozen, as
// programs like p want it.
func (m *Machine) freeze(p Program, g *guest, out *Outcome) *session {
	s := &session{m: m, p: p, guest: g, out: out}
	c := s.config()
	c.Freeze, c.Stdin, c.Signals, c.Resize = true, nil, nil, nil
	s.agent = agent.New(c, &out.Findings)
	return s
}

// config is the conversation with the agent in the session's machine.
func (s *session) config() agent.Config {
	p, g := s.p, s.guest
	c := agent.Config{
		Machine: machineOf{g.vm}, LogEnded: g.con.Ended(), Started: g.vm.Started, Nonce: g.nonce,
		Limits: agent.Limits{
			Boot: s.bootLimit(), Program: p.Timeout, Idle: p.Idle, Drain: s.scale(drainTimeout), Finish: s.scale(drainTimeout),
			Aftermath: aftermathTime, PowerOff: s.scale(powerOffLimit),
		},
		Run: s.job(), Fetch: p.Fetch, Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr, Signals: p.Signals, Resize: p.Resize,
		PowerCut: g.vm.PowerCut(), Died: g.vm.Died(), OnReady: p.OnReady, OnHang: s.autopsy, StuckAt: s.stuckAt,
		OnRun: g.vm.StartFaults,
	}
	if p.GDB != nil && g.from == nil {
		c.OnHeld = func(ctx context.Context) error { return s.m.debugged(ctx, p.Kernel, g, p.GDB) }
	}
	if t := g.from; t != nil { // nobody learns anything from another power-off: a fork has synced
		c.From = &agent.Resumed{Ready: t.ready, Held: t.held, PID: t.pid, Stdout: t.stdout, Stderr: t.stderr}
		c.OnWatch = p.OnWatch
	} else {
		c.OnPowerOff = g.vm.MayEnd
	}
	c.Release = s.letGo()
	if a := c.Release.Arm; len(a.Final) > 0 {
		c.Limits.Finish += s.scale(lookTimeout)
	}
	c.Look = c.Release.Arm.Look
	return c
}

func (s *session) bootLimit() time.Duration {
	if s.p.Patient {
		return agent.Forever
	}
	if s.m.BootLimit > 0 {
		return s.scale(s.m.BootLimit)
	}
	return s.scale(bootTimeout)
}

func (s *session) scale(d time.Duration) time.Duration {
	if s.vm.Accel() == "tcg" {
		return d * TCGFactor
	}
	return d
}

// job is the message that starts the program.
func (s *session) job() *wire.Run {
	run := s.p.Run
	run.Nonce, run.Stdin, run.Files = s.nonce, s.p.Stdin != nil, s.vm.Given
	if s.tests != "" && run.Hold != wire.HoldStop { // held ones learn it when they are let go
		run.Env = append(slices.Clone(run.Env), wire.MarksEnv+"="+s.tests)
	}
	for _, f := range s.p.Fetch {
		run.Fetch = append(run.Fetch, f.Guest)
	}
	return &run
}

// letGo is the message that lets a held program go on, under this run's nonce.
func (s *session) letGo() *wire.Release {
	var rel wire.Release
	if s.p.Release != nil {
		rel = *s.p.Release
	}
	rel.Nonce, rel.Marks = s.nonce, s.tests
	if s.from != nil && s.from.held { // Run's list is its template's
		for _, f := range s.p.Fetch {
			rel.Fetch = append(rel.Fetch, f.Guest)
		}
	}
	return &rel
}

// explain names the reason why a VM ended early, once its log is complete.
func (s *session) explain() {
	if s.out.Ready == nil && s.out.Panicked {
		s.out.Notes = append(s.out.Notes, "the kernel died before the agent was ready; one that did not find /init may lack CONFIG_BLK_DEV_INITRD=y")
	}
	if e := s.out.Exit; s.out.EndMarker && s.out.Hung == "" && !s.out.Panicked {
		switch {
		case e.Cause == vmtest.Crashed:
			s.out.Fail(fmt.Errorf("QEMU died after the program's end: %s %s", e.Detail, visible.Short(e.Stderr)))
		case e.Cause == vmtest.Reset, e.Cause == vmtest.PowerOff && s.from != nil:
			s.out.Hung = "the VM ended by itself after the program's end: " + e.String()
		}
	}
	fatal, early := s.con.Fatal()
	if fatal != "" {
		s.out.Claim("the guest cannot be used: " + visible.Short(fatal))
		return
	}
	// Nothing but the agent has run by then.
	if s.out.Ready == nil && early != "" {
		s.out.Infra = fmt.Errorf("the guest cannot be used: %s", visible.Short(early))
		return
	}
	if s.out.EndMarker || s.out.Infra != nil || s.out.GuestFault != "" || s.out.Deadline != "" || s.out.Hung != "" {
		if s.out.Infra != nil && s.out.Ready == nil {
			s.out.Infra = fmt.Errorf("%w%s", s.out.Infra, s.wentWrong())
		}
		return
	}
	switch e := s.out.Exit; {
	case e.Cause == vmtest.Crashed:
		s.out.Infra = fmt.Errorf("QEMU died: %s %s", e.Detail, visible.Short(e.Stderr))
	case s.out.Ready == nil && e.Cause != vmtest.Panicked:
		s.out.Infra = fmt.Errorf("the VM ended (%v) before its agent was ready%s", e.Cause, s.wentWrong())
	}
}

// wentWrong is what the kernel log says of a boot that failed, and where it is.
func (s *session) wentWrong() string {
	said := ""
	for _, sp := range s.out.Splats {
		if !sp.Excused() {
			said = ": " + sp.Title
			break
		}
	}
	return fmt.Sprintf("%s; last of the kernel log: %s; all of it is in %s", said, s.lastLine(), filepath.Join(s.p.Dir, s.p.LogName()))
}

func (s *session) lastLine() string {
	w := s.con.LastWords()
	for i := len(w) - 1; i >= 0; i-- {
		if strings.TrimSpace(w[i]) != "" {
			return visible.Short(w[i])
		}
	}
	return "(empty: the kernel printed nothing; does it have CONFIG_SERIAL_8250_CONSOLE=y?)"
}

// afterCut is the program that runs on the same disks when the power is back: in
// a fork of the same template, which had not read anything of the disks when it
// was frozen, or in a machine that boots.
func (p Program) afterCut(disks []*machine.Disk, acks []string) Program {
	env := []string{wire.CutEnv + "=1", wire.AcksEnv + "=" + strings.Join(acks, "\n")}
	if p.Release != nil { // the same tests
		p.Release = &wire.Release{Args: p.Release.Args, Env: env}
	}
	p.Faults, p.disks, p.GDB = nil, disks, nil
	p.Run.Env = append(p.Run.Env[:len(p.Run.Env):len(p.Run.Env)], env...)
	p.Log = p.Beside("console-after-cut", ".log")
	return p
}

// Beside is the name of a file that belongs to the kernel log of this VM:
// console-2.log has its autopsy-2.txt.
func (p Program) Beside(name, ext string) string {
	return name + strings.TrimSuffix(strings.TrimPrefix(p.LogName(), "console"), ".log") + ext
}
