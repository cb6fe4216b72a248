// SPDX-License-Identifier: Apache-2.0

package sweeprun

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/sweep"
	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/internal/wire"
)

// SweepJob is a program, or one test of a suite, into which faults are injected
// one after the other.
type SweepJob struct {
	// Program is run with its Run held. Its Dir gets the logs.
	Program runner.Program
	// Test is the test of a suite that is run, "" for a program.
	Test string
	// Fault is what is injected; when is up to the sweep.
	Fault fault.Fault
	// Caches are slab caches whose objects are counted.
	Caches []string
}

// Sweeper runs a SweepJob's program again and again, each time in a machine
// forked from one that was frozen when the program had been started, or in one
// that was booted where that is impossible. It is a sweep.Target. Close it.
type Sweeper struct {
	m       *runner.Machine
	job     SweepJob
	tmpl    *runner.Template
	symbols map[string][]elf.Symbol
	runs    atomic.Int64
	// Timeout bounds one run; zero is none.
	Timeout time.Duration
	// Boot is how long the boot took, or the boots take.
	Boot time.Duration
	// longest is the time that an undisturbed run took.
	longest time.Duration
	// Note says why machines are booted, "" when they are forked.
	Note string
	// leaks says that the kernel can look for lost memory by itself.
	leaks bool
	// silence says why a listing will not know the stack of some calls.
	silence string
	slots   *semaphore.Weighted // see AtATime; nil for no bound
}

// AtATime bounds how many machines work at a time, from now on, and returns how
// many calls of Run that takes.
func (s *Sweeper) AtATime(jobs int) (calls int) {
	jobs = max(1, jobs)
	s.slots = semaphore.NewWeighted(int64(jobs))
	return runner.Watched * jobs
}

// NewSweeper boots the machine. listing boots one whose injector only reports.
func NewSweeper(ctx context.Context, m *runner.Machine, j SweepJob, listing bool) (*Sweeper, error) {
	p := &j.Program
	if p.Run.Hold == "" {
		p.Run.Hold = wire.HoldExec
	}
	// The same addresses in each machine, and those of the file.
	p.Spec.Cmdline = append(p.Spec.Cmdline[:len(p.Spec.Cmdline):len(p.Spec.Cmdline)], "nokaslr")
	p.Twin = true
	// The injectors' counters are no atomic ones, and the order of two CPUs'
	// calls is nobody's to choose.
	p.Spec.CPUs = 1
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a directory for the logs: %w", err)
	}
	s := &Sweeper{m: m, symbols: map[string][]elf.Symbol{}}
	vmlinux, err := p.Kernel.Image.Vmlinux(ctx, m.Cache)
	if err == nil {
		if list, err := machine.TextSymbols(vmlinux); err == nil {
			for _, f := range list {
				s.symbols[f.Name] = append(s.symbols[f.Name], f)
			}
		}
	}
	p.Log = "boot.log"
	if listing {
		p.Log = "listing.log"
		f, silence, err := s.harmless(vmlinux, p.Dir)
		if err != nil {
			return nil, err
		}
		s.silence = silence
		defer f.Close() //nolint:errcheck // read by then
		// It has no other name: it is gone with us, however we end.
		p.KernelFile = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
	}
	var out runner.Outcome
	s.tmpl, out, err = m.MakeTemplate(ctx, *p)
	if err != nil && (out.Infra != nil || listing) {
		return nil, fmt.Errorf("boot the machine to sweep in: %w", err)
	}
	if err != nil {
		s.Note = fmt.Sprintf("a boot per point: %v", err)
	}
	for _, sp := range out.Splats {
		if !sp.Excused() {
			return nil, errors.Join(fmt.Errorf("boot the machine to sweep in: kernel splat without any fault: %s", sp.Title), s.closeTemplate())
		}
	}
	s.Boot = out.Boot
	s.leaks = p.Kernel.Config.Has("DEBUG_KMEMLEAK")
	s.job = j
	s.job.Program.KernelFile = ""
	return s, nil
}

// Close frees the frozen machine.
func (s *Sweeper) Close() error { return s.closeTemplate() }

func (s *Sweeper) closeTemplate() error {
	if s.tmpl == nil {
		return nil
	}
	return s.tmpl.Close()
}

// Addr returns the address of a frame, if the kernel has one function of that
// name; those in modules have none before the module is loaded.
func (s *Sweeper) Addr(frame string) (uint64, bool) {
	name, rest, _ := strings.Cut(frame, "+0x")
	offset, _, _ := strings.Cut(rest, "/")
	list := s.symbols[name]
	n, err := strconv.ParseUint(offset, 16, 64)
	if err != nil || len(list) != 1 || strings.Contains(rest, "[") {
		return 0, false
	}
	return list[0].Value + n, true
}

// CanFilter says whether the kernel can tell this frame from others, which its
// one filter does when the fault itself needs none.
func (s *Sweeper) CanFilter(frame string) bool {
	_, ok := s.Addr(frame)
	return ok && s.job.Fault.In == "" && s.job.Program.Kernel.Config.Has("FAULT_INJECTION_STACKTRACE_FILTER")
}

// List runs the program twice on a machine whose injector only reports, and
// returns the calls of the first run and how many the second one had.
func (s *Sweeper) List(ctx context.Context) (l sweep.Listing, again uint64, err error) {
	for i := range 2 {
		f := s.job.Fault
		f.Times = sweep.Start
		noise := fault.Stack
		if i == 1 {
			noise = fault.Quiet
		}
		out, said, log := s.exec(ctx, f.CompileAt(noise, nil), fmt.Sprintf("listing-%d.log", i+1))
		if why := s.trouble(out); why != "" {
			return l, 0, fmt.Errorf("list call sites, in a run in which each call is counted and none fails: %s%s; kernel log: %s", why, lastLines(said), log)
		}
		if len(out.Faults) != 1 || out.Faults[0].Err != "" {
			return l, 0, fmt.Errorf("list call sites: the number of calls is not known; kernel log: %s", log)
		}
		n := out.Faults[0].Fired
		if i == 1 {
			_ = os.Remove(log)
			return l, uint64(max(0, n)), nil
		}
		text, err := os.ReadFile(log)
		if err != nil {
			return l, 0, fmt.Errorf("list call sites: %w", err)
		}
		if out.Exit.ConsoleTruncated {
			return l, 0, fmt.Errorf("list call sites: the kernel log has more than %d MiB: sweep less at a time, or with -points all", len(text)>>20)
		}
		l = sweep.Learn(string(f.Kind), sweep.ParseDumps(text), int64(sweep.Start-n))
	}
	return l, 0, nil
}

// trouble says why a run that was to be undisturbed was not.
func (s *Sweeper) trouble(out runner.Outcome) string {
	f := factsOf(out, "")
	switch {
	case len(f.Splats) > 0:
		return "kernel splat without any fault: " + f.Splats[0]
	case f.Infra+f.Hang != "":
		return f.Infra + f.Hang // the machine's end is the program's
	case f.Failed != "":
		return f.Failed
	}
	return ""
}

// Run implements sweep.Target.
func (s *Sweeper) Run(ctx context.Context, p *sweep.Point, keep func(sweep.Facts) bool) (sweep.Facts, error) {
	var arm wire.Arm
	name := "dry"
	if p != nil {
		name = fmt.Sprintf("point-%d", p.ID)
		f := s.job.Fault
		f.Nth = p.Nth
		var at *fault.Range
		if p.Frame != "" {
			a, ok := s.Addr(p.Frame)
			if !ok {
				return sweep.Facts{}, fmt.Errorf("point %s: the kernel has no such function, or several", p.At())
			}
			at = &fault.Range{Start: a, End: a + 1}
		}
		arm = f.CompileAt(fault.Stack, at)
	}
	for _, c := range s.job.Caches {
		dir := path.Join("/sys/kernel/slab", c)
		// Empty the lists of free objects, so that only those in use count.
		arm.Final = append(arm.Final, wire.Write{Path: path.Join(dir, "shrink"), Text: "1", Optional: true})
		arm.Look = append(arm.Look, path.Join(dir, "objects"))
	}
	if s.leaks {
		scanForLeaks(&arm)
	}
	began := time.Now()
	out, said, log := s.exec(ctx, arm, fmt.Sprintf("%s-%d.log", name, s.runs.Add(1)))
	facts := factsOf(out, log)
	facts.Output = said
	if p == nil { // nothing else runs then
		s.longest = max(s.longest, time.Since(began))
		if _, ok := out.Looks[kmemleakFile]; !ok && s.leaks && facts.Infra+facts.Hang == "" {
			s.leaks = false
			s.m.Say("kmemleak does not answer (%s); leaks are looked for in slab caches only", visible.Short(strings.Join(out.Remarks(), "; ")))
		}
	}
	if !keep(facts) || ctx.Err() != nil {
		_ = os.Remove(log)
	} else {
		symbolizeLeaks(ctx, s.m, s.job.Program.Kernel, facts.Leaks)
	}
	return facts, nil
}

func (s *Sweeper) exec(ctx context.Context, arm wire.Arm, log string) (out runner.Outcome, said, file string) {
	p := s.job.Program
	p.From, p.Log, p.Timeout = s.tmpl, log, s.Timeout
	p.Release = &wire.Release{Arm: arm}
	if s.job.Test != "" {
		p.Release.Args = []string{s.job.Test}
	}
	// The end of both streams, to show when the program fails by itself.
	var tail tail
	p.Stdout, p.Stderr, p.Run.Merge = &tail, nil, true
	if s.slots != nil {
		if err := s.slots.Acquire(ctx, 1); err != nil {
			out.Infra = fmt.Errorf("interrupted: %w", err)
			return out, "", filepath.Join(p.Dir, log)
		}
		done := sync.OnceFunc(func() { s.slots.Release(1) })
		defer done()
		p.OnWatch = done
	}
	out = s.m.Exec(ctx, p)
	return out, tail.String(), filepath.Join(p.Dir, log)
}

// tail keeps the end of what is written to it. It is used by one goroutine at a
// time.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	const most = 16 << 10
	t.b = append(t.b, p...)
	if over := len(t.b) - most; over > most {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.b) }

// maxLog bounds what is read of one point's kernel log, in bytes.
const maxLog = 8 << 20

// factsOf is what a run showed; log is the file to find the fault in.
func factsOf(out runner.Outcome, log string) sweep.Facts {
	f := sweep.Facts{Panicked: out.Panicked, Hang: out.Deadline + out.Hung, Log: log}
	if log != "" {
		if file, err := os.Open(log); err == nil {
			d := sweep.Dumps{Each: func(d sweep.Dump) {
				if f.Fired++; f.Fired == 1 {
					f.Stack = d.Stack
				}
			}}
			_, _ = io.CopyN(&d, file, maxLog)
			_ = d.Close()
			_ = file.Close()
		}
	}
	for _, c := range out.Faults {
		f.Fired = max(f.Fired, c.Fired)
	}
	for _, sp := range out.Splats {
		if sp.Excused() {
			continue
		}
		f.Splats = append(f.Splats, sp.Title)
		if f.Raw == "" {
			f.Raw = string(sp.Raw)
		}
	}
	switch {
	case out.Infra != nil:
		f.Infra = out.Infra.Error()
	case out.GuestFault != "":
		f.Infra = out.GuestFault
	case out.Scanner != "":
		f.Infra = "the kernel log was not read to its end: " + out.Scanner
	case !out.EndMarker && f.Hang == "" && len(f.Splats) == 0 && !f.Panicked:
		f.Hang = "the VM ended before the test did: " + out.Exit.String()
	}
	for _, d := range out.Disks {
		if d.Err != nil {
			f.Broken = append(f.Broken, fmt.Sprintf("%s of disk %s: %v: %s", d.Command, d.Disk, d.Err, visible.Short(d.Output)))
		}
	}
	for file, text := range out.Looks {
		if file == kmemleakFile {
			f.Leaks = parseLeaks(text)
			continue
		}
		// "12 N0=12": the sum, then each node's (show_slab_objects in mm/slub.c).
		if n, err := strconv.Atoi(strings.SplitN(strings.TrimSpace(text), " ", 2)[0]); err == nil {
			if f.Objects == nil {
				f.Objects = map[string]int{}
			}
			f.Objects[path.Base(path.Dir(file))] = n
		}
	}
	if e := out.Exited; e != nil {
		switch {
		case e.Err != "":
			f.Failed = "it could not be started: " + visible.Short(e.Err)
		case e.Signal != 0:
			f.Failed = fmt.Sprintf("it was killed by signal %d", e.Signal)
		case e.Code != 0:
			f.Failed = fmt.Sprintf("it ended with status %d", e.Code)
		case len(out.Running) > 0:
			f.Failed = "it ended with status 0 during " + strings.Join(out.Running, ", ")
		}
	}
	return f
}
