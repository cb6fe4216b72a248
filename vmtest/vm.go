// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/kvmrun/kvmrun/vmtest/internal/args"
	"github.com/kvmrun/kvmrun/vmtest/internal/monitor"
)

// greetingTimeout bounds the time from QEMU's start to its monitor's greeting.
// It takes 0.1 s on an idle machine; this is for one that swaps.
const greetingTimeout = 60 * time.Second

// firstFD is the number of os/exec's first extra file in the child.
const firstFD = 3

// VM is a running machine, or one that has ended. Use [Start].
type VM struct {
	config  Config   // with defaults
	ram     *os.File // the guest's memory, when it is Freezable; owned by freeze and Close
	args    []string
	accel   Accel
	note    string
	log     *slog.Logger
	proc    *process
	console *console
	monitor *monitor.Monitor
	version monitor.Version
	ports   []*Port
	done    chan struct{}
	exit    Exit // valid after done

	mu       sync.Mutex
	panicked bool   // the GUEST_PANICKED event came
	reason   string // of the SHUTDOWN event
	ended    Cause  // why we killed QEMU, Invalid when we did not
	why      string // goes with ended
}

// Start validates the configuration, starts QEMU and returns when its monitor
// answers; the guest is running by then. The machine ends at the latest when ctx
// does.
//
// With AccelAuto where KVM looks usable, Start also waits for the console's
// first byte, and starts again under TCG when there is none within 10 seconds;
// VM.Note says so then.
//
// An error means that nothing is left running. It is a [*StartError] when QEMU
// itself was started.
func Start(ctx context.Context, c Config) (*VM, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("check machine: %w", err)
	}
	c, arch, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	if c.QEMU, err = lookQEMU(c.QEMU); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.QEMU, context.Cause(ctx))
	}
	switch c.Accel {
	case AccelTCG:
		return launch(ctx, c, arch, args.TCG, "", nil)
	case AccelKVM:
		if why := kvmUnusable(arch, kvmDevice, cpuinfo); why != "" {
			return nil, fmt.Errorf("accelerator kvm is not usable: %s: use auto or tcg", why)
		}
		return launch(ctx, c, arch, args.KVM, "", nil)
	}
	why := kvmUnusable(arch, kvmDevice, cpuinfo)
	if why == "" {
		var vm *VM
		vm, why, err = tryKVM(ctx, c, arch, args.KVM, signOfLife)
		if why == "" {
			return vm, err
		}
		setDeadKVM(why)
	}
	return launch(ctx, c, arch, args.TCG, "using TCG: "+why, nil)
}

// kvmRefused are the words of a QEMU that cannot use KVM (accel/kvm/kvm-all.c).
// Just "kvm" would do for the path of a kernel.
var kvmRefused = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)failed to initialize kvm|access kvm kernel module|ioctl\(kvm_`)
})

// tryKVM launches a machine and watches for the first byte on its console. When
// the accelerator proves unusable it says why, and nothing is left of the
// machine.
func tryKVM(ctx context.Context, c Config, arch args.Arch, accel string, patience time.Duration) (vm *VM, why string, err error) {
	vm, err = launch(ctx, c, arch, accel, "", nil)
	var se *StartError
	if errors.As(err, &se) && kvmRefused().MatchString(se.Exit.Stderr) {
		return nil, firstLine(se.Exit.Stderr), nil
	}
	if err != nil {
		return nil, "", err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-vm.console.first:
		return vm, "", nil
	case <-vm.done:
		// Crashed without a byte: under KVM that is KVM's doing until TCG
		// shows the same. Other causes are the guest's or the caller's.
		if vm.exit.Cause != Crashed || vm.exit.ConsoleBytes > 0 {
			return vm, "", nil
		}
		why = "a machine under KVM ended at once: " + vm.exit.Detail
	case <-timer.C:
		why = fmt.Sprintf("a machine under KVM gave no sign of life within %s", patience)
	}
	return nil, why, vm.Close()
}

// launch starts QEMU with the accelerator and waits for its monitor. With from,
// the machine waits for the template's state then.
func launch(ctx context.Context, c Config, arch args.Arch, accel, note string, from *origin) (*VM, error) {
	return inSandbox(c.QEMU, func(sandbox bool) (*VM, error) {
		return launchOnce(ctx, c, arch, accel, note, from, sandbox)
	})
}

func launchOnce(ctx context.Context, c Config, arch args.Arch, accel, note string, from *origin, sandbox bool) (_ *VM, err error) {
	vm := &VM{
		config: c,
		accel:  Accel(accel),
		note:   note,
		log:    c.Log,
		done:   make(chan struct{}),
	}
	// Files of ours to be closed when the launch fails before somebody owns
	// them, and QEMU's ends, which are closed here in any case.
	var ours, theirs []*os.File
	defer func() {
		for _, f := range theirs {
			_ = f.Close()
		}
		if err != nil {
			for _, f := range ours {
				_ = f.Close()
			}
		}
	}()
	inherit := func(f *os.File) (fd int) {
		theirs = append(theirs, f)
		return firstFD + len(theirs) - 1
	}

	spec := c.shape(arch, accel)
	spec.Sandbox = sandbox
	who := confined(os.Geteuid(), "/proc", kvmDeviceFor(accel))
	if who.why != "" {
		vm.addNote("QEMU runs as root: " + who.why)
	}
	if who.cred != nil && from == nil {
		// The names may lead through directories that are closed to that user.
		for _, name := range []*string{&spec.Kernel, &spec.Initrd} {
			if *name == "" {
				continue
			}
			f, err := handOver(*name)
			if err != nil {
				return nil, fmt.Errorf("hand over to qemu: %w", err)
			}
			*name = fmt.Sprintf("/proc/self/fd/%d", inherit(f))
		}
	}
	if accel == args.TCG && from == nil {
		spec.TSCKHz = tscKHz()
	}
	var state *os.File
	switch {
	case from != nil:
		ram, err := openAgain(from.template.ram, os.O_RDWR)
		if err != nil {
			return nil, fmt.Errorf("open template's memory: %w", err)
		}
		spec.Memory = &args.Memory{FD: inherit(ram)}
		spec.Incoming = &args.Incoming{ROM: from.template.rom, Paused: from.paused}
		if state, err = openAgain(from.template.state, os.O_RDONLY); err != nil {
			return nil, fmt.Errorf("open template's state: %w", err)
		}
		defer state.Close() //nolint:errcheck // QEMU's duplicate is what is read
	case c.Freezable:
		if vm.ram, err = memory("guest memory", int64(c.MemoryMiB)<<20); err != nil {
			return nil, err
		}
		ours = append(ours, vm.ram)
		dup, err := reopen(vm.ram, false)
		if err != nil {
			return nil, fmt.Errorf("duplicate guest memory: %w", err)
		}
		spec.Memory = &args.Memory{FD: inherit(dup), Shared: true}
	}
	file, err := os.OpenFile(c.ConsoleFile, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, fmt.Errorf("create console file: %w", err)
	}
	ours = append(ours, file)
	if from != nil {
		if _, err := file.WriteString(from.preface); err != nil {
			return nil, fmt.Errorf("write console file: %w", err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make console pipe: %w", err)
	}
	ours = append(ours, r)
	spec.Console = inherit(w)
	qmpConn, qmpTheirs, err := socketpair("qmp")
	if err != nil {
		return nil, err
	}
	ours = append(ours, qmpConn)
	spec.QMP = inherit(qmpTheirs)
	for i, name := range c.Ports {
		mine, other, err := socketpair(name)
		if err != nil {
			return nil, err
		}
		ours = append(ours, mine)
		vm.ports = append(vm.ports, &Port{name: name, file: mine})
		spec.Ports[i].FD = inherit(other)
	}
	for i, d := range c.Disks {
		disk := &spec.Disks[i]
		switch {
		case d.File != nil:
			f, err := reopen(d.File, d.ReadOnly)
			if err != nil {
				return nil, fmt.Errorf("duplicate disk %d: %w", i, err)
			}
			disk.FD = inherit(f)
		case d.Path != "" && who.cred != nil:
			flags := os.O_RDWR
			if d.ReadOnly {
				flags = os.O_RDONLY
			}
			f, err := os.OpenFile(d.Path, flags, 0)
			if err != nil {
				return nil, fmt.Errorf("open disk %d: %w", i, err)
			}
			disk.FD = inherit(f)
		}
		if d.Serve != nil {
			mine, other, err := socketpair("disk")
			if err != nil {
				return nil, err
			}
			disk.FD, disk.NBD = inherit(other), true
			c, err := net.FileConn(mine)
			_ = mine.Close()
			if err != nil {
				return nil, fmt.Errorf("serve disk %d: %w", i, err)
			}
			go func() {
				d.Serve(c)
				_ = c.Close()
			}()
		}
	}
	argv, err := args.Argv(args.Build(spec))
	if err != nil {
		return nil, err
	}
	vm.args = append([]string{c.QEMU}, argv...)
	vm.log.Debug("start qemu", "argv", vm.args)

	cmd := qemuLimits(c.MemoryMiB, c.CPUs).command(c.QEMU, argv...)
	cmd.ExtraFiles = theirs
	if vm.proc, err = startProcess(cmd, who); err != nil {
		return nil, err
	}
	// Our copies of QEMU's ends would keep the streams from ending with it.
	for _, f := range theirs {
		_ = f.Close()
	}
	ours, theirs = nil, nil // each has its owner now

	vm.console = newConsole(r, file, c.Console, c.ConsoleLimit)
	go vm.console.run()
	vm.monitor = monitor.New(qmpConn, vm.event)
	stop := context.AfterFunc(ctx, func() {
		cause := Cancelled
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			cause = Deadline
		}
		vm.kill(cause, context.Cause(ctx).Error())
	})
	go vm.finish(stop)

	err = vm.handshake(ctx, c.QEMU)
	if err == nil && from != nil {
		err = vm.load(ctx, state, from.paused)
	}
	if err != nil {
		vm.kill(Killed, "did not start")
		exit := vm.Wait()
		return nil, &StartError{QEMU: c.QEMU, Exit: exit, Err: errors.Join(startProblem(ctx, c.QEMU, exit, err), vm.Close())}
	}
	return vm, nil
}

// handshake enters the monitor's command mode and checks QEMU's version.
func (vm *VM) handshake(ctx context.Context, qemu string) error {
	ctx, cancel := context.WithTimeout(ctx, greetingTimeout)
	defer cancel()
	v, err := vm.monitor.Handshake(ctx)
	vm.version = v
	// Whatever the reason, an old version is the better explanation.
	if v.QEMU.Major != 0 {
		if err := checkVersion(qemu, v.QEMU.Major, v.QEMU.Minor); err != nil {
			return err
		}
	}
	if errors.Is(err, monitor.ErrClosed) && ctx.Err() == nil {
		// QEMU greets before it builds the machine, so the greeting alone is
		// no sign that it started. But a guest can have ended it between the
		// machine's start and the monitor's first answer.
		select {
		case <-vm.done:
			if vm.exit.Reason != "" {
				return nil
			}
		case <-ctx.Done():
		}
	}
	return err
}

// startProblem chooses the best explanation for a start that failed with err.
func startProblem(ctx context.Context, qemu string, exit Exit, err error) error {
	switch {
	case exit.Cause == Deadline || exit.Cause == Cancelled:
		// The killed QEMU's closed monitor may have been noticed first.
		return context.Cause(ctx)
	case errors.Is(err, ErrTooOld):
		return err
	case !errors.Is(err, monitor.ErrClosed):
		return fmt.Errorf("%w%s", err, ownWords(exit.Stderr))
	}
	// QEMU went without a greeting. An old one may not know an option.
	if _, _, verr := Version(ctx, qemu); errors.Is(verr, ErrTooOld) {
		return verr
	}
	if exit.Status.Exited() && exit.Status.ExitStatus() == denied && os.Geteuid() == 0 {
		return errors.New(exit.Detail + deniedCure)
	}
	return errors.New(exit.Detail)
}

// event notes what tells the exit's cause. It runs on the monitor's goroutine.
func (vm *VM) event(e monitor.Event) {
	vm.log.Debug("qemu event", "event", e.Event, "data", e.Data)
	vm.mu.Lock()
	defer vm.mu.Unlock()
	switch e.Event {
	case "GUEST_PANICKED":
		vm.panicked = true
	case "SHUTDOWN":
		if r, ok := e.Data["reason"].(string); ok && vm.reason == "" {
			vm.reason = r
			if vm.config.OnEnd != nil && r != "host-qmp-quit" {
				go vm.ending()
			}
		}
	}
}

// ending lets the owner look at a machine that its guest has ended.
func (vm *VM) ending() {
	vm.config.OnEnd(vm)
	// It answers, or it is gone: nobody has to wait for that here.
	if err := vm.Quit(context.Background()); err != nil {
		vm.Kill()
	}
}

// finish collects everything when QEMU has gone.
func (vm *VM) finish(stop func() bool) {
	<-vm.proc.done
	stop()
	<-vm.console.done
	<-vm.monitor.Done()
	status, err := vm.proc.status()
	vm.mu.Lock()
	vm.exit = Exit{
		GuestPanicked:    vm.panicked,
		Reason:           vm.reason,
		Status:           status,
		Stderr:           vm.proc.output.String(),
		ConsoleBytes:     vm.console.total.Load(),
		ConsoleTruncated: vm.console.truncated,
		ConsoleErr:       vm.console.err,
	}
	vm.exit.Cause, vm.exit.Detail = judge(vm.exit, vm.ended, vm.why)
	vm.mu.Unlock()
	if err != nil {
		vm.exit.Cause, vm.exit.Detail = Crashed, err.Error()
	}
	vm.log.Debug("qemu ended", "exit", vm.exit.String())
	close(vm.done)
}

// judge finds the cause of an end from what is known about it; ended and why
// are what we did, if anything.
func judge(e Exit, ended Cause, why string) (Cause, string) {
	ours := ended != Invalid && (e.Status.Exited() || e.Status.Signal() == syscall.SIGKILL)
	if e.Status.Signaled() && !ours {
		return Crashed, fmt.Sprintf("qemu was ended by signal %d (%s) from outside or by a fault of its own%s",
			int(e.Status.Signal()), e.Status.Signal(), ownWords(e.Stderr))
	}
	if e.Status.Exited() && e.Status.ExitStatus() != 0 {
		return Crashed, fmt.Sprintf("qemu ended with status %d%s", e.Status.ExitStatus(), ownWords(e.Stderr))
	}
	// QEMU's word comes before ours: when it had announced its end, our kill
	// was late. The reasons are those of ShutdownCause in qapi/run-state.json.
	switch e.Reason {
	case "guest-shutdown":
		if e.GuestPanicked {
			return Panicked, "the guest reported a panic and switched itself off"
		}
		return PowerOff, "the guest switched itself off"
	case "guest-reset", "subsystem-reset":
		if e.GuestPanicked {
			return Panicked, "the guest reported a panic and reset itself"
		}
		return Reset, "the guest reset itself"
	case "guest-panic":
		return Panicked, "the guest reported a panic"
	case "host-qmp-quit":
		return Quit, "ended through the monitor"
	case "host-qmp-system-reset":
		return Reset, "reset through the monitor"
	}
	if ended != Invalid {
		return ended, why
	}
	switch e.Reason {
	case "":
		return Crashed, "qemu ended without saying why" + ownWords(e.Stderr)
	case "host-signal":
		return Crashed, "qemu was ended by a signal from outside" + ownWords(e.Stderr)
	}
	return Crashed, "qemu ended with reason " + e.Reason + ownWords(e.Stderr)
}

// ownWords renders QEMU's messages for the end of a line.
func ownWords(stderr string) string {
	if l := firstLine(stderr); l != "" {
		return ": " + l
	}
	return ""
}

// firstLine is the first line of QEMU's messages that is more than a warning,
// shortened.
func firstLine(s string) string {
	const limit = 500
	var first string
	for l := range strings.Lines(s) {
		l = strings.TrimSpace(l)
		if l == "" {
			continue
		}
		if first == "" {
			first = l
		}
		if !strings.Contains(l, "warning:") {
			first = l
			break
		}
	}
	if len(first) > limit {
		first = first[:limit] + " ..."
	}
	return strings.ToValidUTF8(first, "?")
}

// Port returns the port of that name, nil when Config.Ports has no such name.
func (vm *VM) Port(name string) *Port {
	for _, p := range vm.ports {
		if p.name == name {
			return p
		}
	}
	return nil
}

// Args returns QEMU's command line, the binary first. The descriptors it names
// were inherited from this process.
func (vm *VM) Args() []string { return slices.Clone(vm.args) }

// PID returns QEMU's process id, for people and tests: after the end it may
// belong to somebody else.
func (vm *VM) PID() int { return vm.proc.cmd.Process.Pid }

// Accel returns what executes the guest: AccelKVM or AccelTCG.
func (vm *VM) Accel() Accel { return vm.accel }

// Note is one line for people about a choice that was made for them, such as
// why TCG is used; empty when there is nothing to say.
func (vm *VM) Note() string { return vm.note }

// QEMUVersion returns the version the monitor told.
func (vm *VM) QEMUVersion() (major, minor int) {
	return vm.version.QEMU.Major, vm.version.QEMU.Minor
}

// ConsoleBytes returns the number of bytes seen on the console until now.
func (vm *VM) ConsoleBytes() int64 { return vm.console.total.Load() }

// Done is closed when Wait would not block.
func (vm *VM) Done() <-chan struct{} { return vm.done }

// Wait returns when QEMU is gone, everything it printed has been taken from the
// console, and the console file is closed. Ports stay readable to their end.
func (vm *VM) Wait() Exit {
	<-vm.done
	return vm.exit
}

// Kill ends the machine at once. It does not wait; see Wait.
func (vm *VM) Kill() { vm.kill(Killed, "killed by the host") }

func (vm *VM) kill(cause Cause, why string) {
	vm.mu.Lock()
	if vm.ended == Invalid {
		vm.ended, vm.why = cause, why
	}
	vm.mu.Unlock()
	vm.proc.kill()
}

// Quit asks QEMU to end, which gives it the time to write out images. It
// returns when QEMU has agreed or ctx ends; see Wait.
func (vm *VM) Quit(ctx context.Context) error {
	err := vm.monitor.Execute(ctx, "quit", nil, nil)
	if errors.Is(err, monitor.ErrClosed) {
		return nil // it has ended already
	}
	return err
}

// Close ends the machine if it runs, waits, and closes the ports.
func (vm *VM) Close() error {
	vm.Kill()
	vm.Wait()
	var errs *multierror.Error
	for _, p := range vm.ports {
		errs = multierror.Append(errs, p.Close())
	}
	vm.dropMemory()
	return errs.ErrorOrNil()
}
