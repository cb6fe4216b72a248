// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/internal/wire"
)

// agent serves the host. Its fields belong to the goroutine in serve, but for
// those that are safe for concurrent use themselves.
type agent struct {
	sys    system
	ports  *ports
	w      *wire.Writer
	reaper *reaper
	log    *klog

	// grace is how long output of processes that outlive the program is
	// waited for after its end.
	grace time.Duration
	// killGrace bounds the wait for killed processes to be gone, and
	// finishLimit the unmounting and syncing after them.
	killGrace, finishLimit time.Duration

	bootMounts string        // what mounts returned after the boot
	modules    []string      // that were loaded by then
	lastStdin  chan struct{} // closed when the last run's input has been read up
}

func newAgent(sys system, p *ports) *agent {
	a := &agent{
		sys:         sys,
		ports:       p,
		w:           wire.NewWriter(p.ctl),
		reaper:      newReaper(),
		log:         &klog{sys: sys},
		grace:       250 * time.Millisecond,
		killGrace:   5 * time.Second,
		finishLimit: 2 * time.Minute,
		lastStdin:   make(chan struct{}),
	}
	close(a.lastStdin)
	return a
}

// serve answers the host until it says Shutdown or goes away.
func (a *agent) serve(b *bootReport) {
	late := b.late
	var lateWarnings []string
	arrive := func() { // waits for what the boot left for later
		if late != nil {
			lateWarnings, late = <-late, nil
		}
	}
	defer close(a.reaper.stop)
	go func() {
		defer dieOnPanic(a.sys)
		a.reaper.run()
	}()
	a.log.open()
	a.modules = b.modules
	a.ready(b.modules, b.warnings)
	var err error
	if a.bootMounts, err = a.sys.mounts(); err != nil {
		a.fault("read mounts: %v", err)
		return
	}

	messages := make(chan wire.Message)
	go func() {
		defer dieOnPanic(a.sys)
		defer close(messages)
		r := wire.NewReader(a.ports.ctl)
		for {
			m, err := r.Receive()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					a.fault("read control port: %v", err)
				}
				return
			}
			messages <- m
		}
	}()

	var current *program
	ended := make(chan *wire.Done, 1)
	for {
		select {
		case done := <-ended:
			current = nil // first: the host may answer Done with the next Run
			a.send(wire.Message{Done: done})
		case m, ok := <-messages:
			switch {
			case !ok, m.Shutdown != nil:
				return
			case m.Run != nil:
				if current != nil {
					a.fault("asked to run %q while a program runs", m.Run.Argv)
					return
				}
				arrive()
				warnings := lateWarnings
				lateWarnings = nil
				setNonce(m.Run.Nonce)
				if n := m.Run.Files; n != 0 {
					warnings = append(warnings, a.takeFiles(n)...)
				}
				current = a.start(m.Run)
				go func(p *program, r *wire.Run) {
					defer dieOnPanic(a.sys)
					ended <- a.attend(p, r, warnings)
				}(current, m.Run)
			case m.Release != nil:
				warnings := lateWarnings
				lateWarnings = nil
				if current == nil || !current.letGo(m.Release, warnings) {
					a.fault("asked to release a program while none is held")
					return
				}
			case m.Signal != nil:
				if current != nil {
					a.reaper.signal(current.pid, unix.Signal(m.Signal.Number))
				}
			case m.SysRq != nil:
				// Each key may print for seconds, or never come back; the host
				// asks because something is stuck already.
				go a.sysrq(m.SysRq.Keys)
			case m.Freeze != nil:
				arrive()
				a.send(wire.Message{Frozen: a.freeze(current)})
			case m.Thaw != nil:
				// There is no answer: making one and reading it costs a fork more
				// than all else that is done here.
				lateWarnings = append(lateWarnings, a.thaw(m.Thaw)...)
			case m.Resize != nil:
				if current != nil {
					current.resize(*m.Resize)
				}
			default:
				a.fault("message from the host that only a guest sends")
				return
			}
		}
	}
}

// ready says that programs can be run.
func (a *agent) ready(modules, warnings []string) {
	a.send(wire.Message{Ready: &wire.Ready{
		Version:  wire.Version,
		Release:  release(),
		UptimeNS: boottime(),
		Modules:  modules,
		Warnings: warnings,
		Taint:    a.log.taint(),
	}})
}

// freeze makes the machine quiet; p is the program that runs, or nil.
func (a *agent) freeze(p *program) *wire.Frozen {
	f := &wire.Frozen{}
	if p != nil && p.failed == nil {
		f.Stdout = p.stdout.settle()
		if p.stderr != nil {
			f.Stderr = p.stderr.settle()
		}
	}
	a.sys.linger(a.bootMounts)
	if err := a.sys.openFiles(); err != nil {
		a.fault("open the disk %s: %v", wire.FilesDisk, err)
	}
	SpareThreads()
	a.sys.sync()
	// What has been said until now is not the forks'.
	f.Taint = a.log.taint()
	_, f.Lost = a.log.end()
	return f
}

// thaw makes this machine differ from others that go on from the same frozen
// one. It returns warnings. Random numbers come first, before anybody draws one.
func (a *agent) thaw(t *wire.Thaw) (warnings []string) {
	if err := a.sys.reseed(t.Seed); err != nil {
		// Twins would pass for different machines: no run can be trusted.
		a.fault("reseed the random number generator: %v", err)
	}
	if err := a.sys.setClock(t.UnixNS); err != nil {
		warnings = append(warnings, fmt.Sprintf("set the clock: %v", err))
	}
	if t.ID == "" {
		return warnings
	}
	if err := a.sys.setHostname(wire.ForkHost + t.ID); err != nil {
		warnings = append(warnings, fmt.Sprintf("set host name: %v", err))
	}
	return warnings
}

// sysrq writes keys to the kernel. What comes of it is in the kernel log.
func (a *agent) sysrq(keys string) {
	defer dieOnPanic(a.sys)
	// All functions, and all that they print (sysrq.rst).
	_ = a.sys.writeFile("/proc/sys/kernel/sysrq", "1\n")
	_ = a.sys.consoleLevel(8)
	for _, k := range keys {
		if err := a.sys.writeFile("/proc/sysrq-trigger", string(k)); err != nil {
			a.sys.kernelLog(fmt.Sprintf("kvmrun: sysrq %c: %v", k, err))
		}
	}
}

// attend sees a program through to its end, and returns what is to be said
// then, with the warnings that there are already.
func (a *agent) attend(p *program, r *wire.Run, warnings []string) *wire.Done {
	rel, thawed, notArmed := a.hold(p, r)
	a.log.begin()
	warnings = append(warnings, thawed...)
	if rel == nil {
		rel = &wire.Release{}
	}
	e := p.wait(a.grace)
	counts, w := a.disarm(rel.Arm)
	e.Faults, e.NotArmed = counts, notArmed
	a.send(wire.Message{Exited: e})
	files := slices.Concat(r.Fetch, rel.Fetch)
	a.fetch(files)
	warnings = append(append(warnings, w...), a.cleanUp()...)
	warnings = append(warnings, a.look(rel.Arm, counts, len(files))...)
	nonce := r.Nonce
	if rel.Nonce != "" {
		nonce = rel.Nonce
	}
	if err := a.sys.consoleLevel(8); err != nil {
		warnings = append(warnings, fmt.Sprintf("set console log level: %v", err))
	}
	a.sys.kernelLog(wire.EndMark(nonce))
	done := &wire.Done{Nonce: nonce, Warnings: warnings}
	// After the end mark, so that everything before it has been read.
	done.Taint = a.log.taint()
	kept, lost := a.log.end()
	done.Lost = lost
	for len(kept) > 0 {
		n := min(len(kept), wire.Chunk)
		a.send(wire.Message{Kmsg: &wire.Kmsg{Data: kept[:n]}})
		kept = kept[n:]
	}
	return done
}

// send writes a message. Without a host there is nothing left to do.
func (a *agent) send(m wire.Message) {
	if err := a.w.Send(m); err != nil {
		die(a.sys, fmt.Sprintf("send to host: %v", err))
	}
}

// fault ends everything because the agent itself failed.
func (a *agent) fault(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	// Should the port be the problem, the kernel log still says it.
	_ = a.w.Send(wire.Message{Fault: &wire.Fault{Message: text}})
	die(a.sys, text)
}

func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
