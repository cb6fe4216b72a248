// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/internal/wire"
)

// Machine is the machine that an agent runs in, as far as a conversation needs it.
// All methods are safe for concurrent use.
type Machine interface {
	// Port returns the host's end of a port of wire.Ports. Once the machine is
	// gone, Read returns what is left and then io.EOF, and Write fails.
	Port(name string) io.ReadWriter
	// Done is closed when the machine is gone.
	Done() <-chan struct{}
	// ConsoleBytes counts what the kernel has written to its log.
	ConsoleBytes() int64
	// Waited is how long each of the machine's threads was kept from running.
	Waited() Waits
}

// Limits are how long things may take, in the host's time.
type Limits struct {
	// Boot is how long the kernel log may stand still before the agent answers, in
	// the machine's own time; patienceTotal times as long in all.
	Boot time.Duration
	// Program is from the program's beginning to its end; zero is none.
	Program time.Duration
	// Idle is how long neither the program nor the kernel may say anything while
	// it runs; zero is none.
	Idle time.Duration
	// Drain is how long a stream may stand still whose end is known, and how long a
	// dying machine is waited for.
	Drain time.Duration
	// Finish is like Boot, from the program's end to the agent's last word.
	Finish time.Duration
	// Aftermath is how long the machine is watched after that, in its own time.
	Aftermath time.Duration
	// PowerOff is like Boot, for the machine to switch itself off.
	PowerOff time.Duration
}

// Resumed is what a machine that goes on from a frozen one has behind it.
type Resumed struct {
	Ready wire.Ready
	// Held says that a program runs in it and is held, with this process ID; it had
	// printed Stdout and Stderr.
	Held           bool
	PID            int
	Stdout, Stderr []byte
}

// Config is one conversation. Everything but Machine, LogEnded, Limits and Nonce
// may be left out.
type Config struct {
	Machine Machine
	// LogEnded is closed when the agent's end mark has been read in the kernel log.
	LogEnded <-chan struct{}
	Limits   Limits
	// Nonce is this run's, which the agent's last word must carry.
	Nonce string
	// Run is what the agent is to start, or has started in the machine that this one
	// goes on from, and Release what lets it go on where it is held.
	Run     *wire.Run
	Release *wire.Release
	// Freeze ends the conversation with a machine that is ready to be frozen: once
	// the agent is up, or with Run.Hold once the program is held. Run is not used
	// otherwise.
	Freeze bool
	From   *Resumed // nil for a machine that boots

	Fetch          []Fetch
	Look           []string // files beyond those of Fetch, see wire.Arm
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Signals        <-chan int
	Resize         <-chan wire.Winsize
	// PowerCut says at what the power was cut, and Died that somebody else has ended
	// the machine.
	PowerCut <-chan string
	Died     <-chan struct{}
	// Started is when the machine was; what is measured counts from there.
	Started time.Time

	// The rest is called on the goroutine of Talk, where set.

	// OnReady is called when the agent is up.
	OnReady func(wire.Ready)
	// OnRun is called when the program begins, or goes on. ctx ends with Talk.
	OnRun func(ctx context.Context)
	// OnHeld is called before a held program goes on in a machine that was booted.
	OnHeld func(ctx context.Context) error
	// OnWatch is called when a machine is only watched from now on, and
	// OnPowerOff before it is asked to switch itself off. OnPowerOff nil leaves
	// that to the caller.
	OnWatch, OnPowerOff func()
	// OnHang is called, with the reason, for a program that ran out of time: what
	// it finds out is added to the reason. It may use the session.
	OnHang func(why string, s *Session) string
	// StuckAt says where a machine stands that makes no progress, "" if unknown.
	StuckAt func() string
}

// Findings are what a conversation showed: facts, no verdict.
type Findings struct {
	Ready  *wire.Ready
	Exited *wire.Exited
	// Done is the agent's last word, EndMarker that everything that was announced
	// before it has come.
	Done      *wire.Done
	EndMarker bool
	Infra     error // what failed on the host's side
	// GuestFault is what the guest says failed on its side.
	GuestFault string
	Deadline   string // which limit was exceeded
	Hung       string // how the guest stopped making progress
	Scanner    string // why the kernel log cannot be trusted to be complete
	// Cut says at what the power was cut, "" if it was not.
	Cut   string
	Notes []string
	// Kmsg is what the agent has read of the kernel log, see wire.Kmsg.
	Kmsg []byte
	// Looks are the texts of Config.Look, by path; one that could not be read is
	// missing.
	Looks map[string]string
	// Boot is from the machine's start until the guest was ready, First until the
	// program's first output.
	Boot, First time.Duration
}

// Fail notes what failed on the host's side, if nothing has before.
func (f *Findings) Fail(err error) {
	if f.Infra == nil {
		f.Infra = err
	}
}

// Claim notes what the guest says of itself that would be the infrastructure's
// fault, if it has not said something before.
func (f *Findings) Claim(why string) {
	if f.GuestFault == "" {
		f.GuestFault = why
	}
}

// Incomplete notes why the kernel log cannot be trusted, if nothing is known yet.
func (f *Findings) Incomplete(why string) {
	if f.Scanner == "" {
		f.Scanner = why
	}
}

// Session is one conversation. Its methods are for the goroutine of Talk and what
// that calls, and after it for one goroutine.
type Session struct {
	Config
	out   *Findings
	state State

	stdout, stderr *relay
	first          sync.Once
	files          *fetcher
	send           *outbox
	receiver       sync.WaitGroup // who reads the control port
	pid            int
	spoken         bool // the agent has spoken, if not our language
	doneAt         time.Time
}

// New prepares a conversation whose findings are out's. The ports are read from now
// on; Talk and then Close must be called.
func New(c Config, out *Findings) *Session {
	s := &Session{Config: c, out: out, state: Booting, files: newFetcher(c.Fetch)}
	var had Resumed
	if c.From != nil {
		had = *c.From
		s.pid = had.PID
	}
	begun := func() { s.first.Do(func() { out.First = time.Since(c.Started) }) }
	s.stdout = newRelay("standard output", c.Machine.Port(wire.PortStdout), c.Stdout, had.Stdout, begun)
	s.stderr = newRelay("standard error", c.Machine.Port(wire.PortStderr), c.Stderr, had.Stderr, begun)
	s.send = newOutbox(c.Machine.Port(wire.PortControl))
	return s
}

// State is where the conversation stands, or stood when it ended.
func (s *Session) State() State { return s.state }

// Spoken says whether the agent has said anything, if not in this protocol.
func (s *Session) Spoken() bool { return s.spoken }

// PID is the program's process ID in the guest, 0 if it is not known.
func (s *Session) PID() int { return s.pid }

// DoneAt is when the agent said that all is done, zero if it did not.
func (s *Session) DoneAt() time.Time { return s.doneAt }

// Tail is the end of what the program has printed.
func (s *Session) Tail() string { return s.stdout.end() + s.stderr.end() }

// SysRq asks the agent to write keys to /proc/sysrq-trigger, if it still listens.
func (s *Session) SysRq(keys string) { s.send.post(wire.Message{SysRq: &wire.SysRq{Keys: keys}}) }

// LastWords signals the program's process group and waits for what it answers on its
// standard error, or on its output when that has both, and then for the machine's end;
// each for at most limit.
func (s *Session) LastWords(ctx context.Context, signal int, limit time.Duration) {
	s.send.post(wire.Message{Signal: &wire.Signal{Number: signal}})
	to := s.stderr
	if s.Run != nil && s.Run.Merge {
		to = s.stdout
	}
	if to.wait(ctx, to.count()+1, limit) == nil {
		s.awaitEnd(limit)
	}
}

// Close waits, once the machine is gone, for all that it had sent to be passed on.
func (s *Session) Close(ctx context.Context) {
	for _, r := range []*relay{s.stdout, s.stderr} {
		switch err := r.join(ctx); {
		case err == nil:
		case s.out.Infra == nil:
			s.out.Fail(err)
		case s.out.Infra.Error() != err.Error():
			s.out.Notes = append(s.out.Notes, err.Error())
		}
	}
	s.send.close()
	s.receiver.Wait()
}

// incoming is a message or the reason why no more will come.
type incoming struct {
	m   wire.Message
	err error
}

func (s *Session) receive(stop <-chan struct{}) <-chan incoming {
	ch := make(chan incoming)
	r := wire.NewReader(s.Machine.Port(wire.PortControl))
	s.receiver.Go(func() {
		for {
			m, err := r.Receive()
			select {
			case ch <- incoming{m, err}:
			case <-stop:
				return
			}
			if err != nil {
				return
			}
		}
	})
	return ch
}

// begin says the first message, which the guest finds when it has booted: the
// program starts without another round trip.
func (s *Session) begin() {
	switch {
	case s.From != nil && s.From.Held:
		s.send.post(wire.Message{Release: s.Release})
	case s.Freeze && !s.holds():
		s.freeze()
	default:
		s.send.post(wire.Message{Run: s.Run})
	}
}

// holds says whether the program is to be held.
func (s *Session) holds() bool { return s.Run != nil && s.Run.Hold != "" }

func (s *Session) freeze() { s.send.post(wire.Message{Freeze: &wire.Freeze{}}) }

// Talk drives the agent until there is nothing more to be said, the machine is gone
// or has to go.
func (s *Session) Talk(ctx context.Context) {
	stop := make(chan struct{})
	defer close(stop)
	defer s.files.abandon()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	control := s.receive(stop)
	s.begin()
	if s.Stdin != nil {
		go s.pumpStdin(stop)
	}
	t := newTimers(s)
	defer t.stop()
	if s.From != nil { // it was ready before it was frozen
		if !s.hello(&s.From.Ready) {
			return
		}
		s.state = Up
		if s.From.Held {
			s.state = Released
			s.running(ctx)
		}
		t.enter(s.state)
	}
	signals, resize := s.Signals, s.Resize
	dead := s.Machine.Done()
	var drained <-chan time.Time
	for {
		select {
		case in := <-control:
			if in.err != nil {
				s.lost(in.err)
				return
			}
			before := s.state
			if s.hear(ctx, in.m) {
				return
			}
			if s.state != before {
				t.enter(s.state)
			}
		case err := <-s.send.failed:
			if !isReset(err) { // or the machine's end is seen elsewhere
				s.out.Fail(fmt.Errorf("talk to the guest's agent: %w", err))
				return
			}
		case s.out.Cut = <-s.PowerCut:
			return
		case n := <-signals:
			s.send.post(wire.Message{Signal: &wire.Signal{Number: n}})
		case w := <-resize:
			s.send.post(wire.Message{Resize: &w})
		case <-dead: // what it had said before is still to be heard
			dead, drained = nil, time.After(s.Limits.Drain)
		case <-drained:
			return
		case <-s.Died:
			return
		case <-ctx.Done():
			s.out.Fail(fmt.Errorf("interrupted: %w", context.Cause(ctx)))
			return
		case <-t.quiet.tick():
			if !s.state.runs() || !t.quiet.tooLong() {
				continue
			}
			s.out.Hung = s.hang(fmt.Sprintf("nothing was said for %s", s.Limits.Idle))
			return
		case <-t.limit.C:
			if t.late() {
				s.overtime(t.patience)
				return
			}
		}
	}
}

// hear takes a message into account. It returns true when the conversation is over.
func (s *Session) hear(ctx context.Context, m wire.Message) (over bool) {
	w := wordOf(m)
	if w == fault {
		s.out.Claim("the guest's agent failed: " + visible.Short(m.Fault.Message))
		return true
	}
	to, ok := s.state.next(w, s.holds())
	if !ok {
		s.out.Fail(errors.New("talk to the guest's agent: a message out of order"))
		return true
	}
	s.state = to
	switch w {
	case ready:
		if !s.hello(m.Ready) {
			return true
		}
		if s.Freeze && !s.holds() {
			s.state = Freezing // it was asked to at the beginning
		}
	case started:
		if s.pid = m.Started.PID; !s.holds() {
			s.running(ctx)
		}
	case held:
		return s.answerHeld(ctx)
	case frozen:
		s.quiesce(ctx, *m.Frozen)
		return true
	case exited:
		return s.exit(m.Exited)
	case file:
		return s.keep(*m.File)
	case kmsg:
		if s.out.Kmsg = append(s.out.Kmsg, m.Kmsg.Data...); len(s.out.Kmsg) > wire.MaxKmsg {
			s.out.Claim("it sent more of the kernel log than there can be")
			return true
		}
	case done:
		s.doneAt, s.out.Done = time.Now(), m.Done
		s.out.Notes = append(s.out.Notes, bounded(m.Done.Warnings)...)
		if m.Done.Nonce != s.Nonce {
			s.out.Fail(errors.New("the guest's end marker is not this run's"))
			return true
		}
		s.finish(ctx)
		return true
	}
	return false
}

// hello notes that the agent is up. It returns false for one of another protocol.
func (s *Session) hello(r *wire.Ready) bool {
	s.spoken = true
	if r.Version != wire.Version {
		s.out.Fail(fmt.Errorf("talk to the guest's agent: it speaks protocol %d, this is %d: the suite and this command were built from different versions of kvmrun; build both again", r.Version, wire.Version))
		return false
	}
	s.out.Ready, s.out.Boot = r, time.Since(s.Started)
	s.out.Notes = append(s.out.Notes, bounded(r.Warnings)...)
	if s.OnReady != nil {
		s.OnReady(*r)
	}
	return true
}

func (s *Session) running(ctx context.Context) {
	if s.OnRun != nil {
		s.OnRun(ctx)
	}
}

// answerHeld has a held program go on, or its machine frozen.
func (s *Session) answerHeld(ctx context.Context) (over bool) {
	if s.Freeze {
		s.state = Freezing
		s.freeze()
		return false
	}
	select {
	case <-s.Machine.Done():
		return true
	default:
	}
	if s.OnHeld != nil {
		if err := s.OnHeld(ctx); err != nil {
			s.out.Fail(err)
			return true
		}
	}
	s.state = Released
	s.send.post(wire.Message{Release: s.Release})
	s.running(ctx)
	return false
}

// exit notes how the program ended.
func (s *Session) exit(e *wire.Exited) (over bool) {
	s.out.Exited = e
	if s.Freeze {
		if e.Err != "" {
			s.out.Fail(errors.New(visible.Short(e.Err)))
		} else {
			s.out.Fail(fmt.Errorf("freeze a held program: it ended before it was held: status %d", e.Code))
		}
		return true
	}
	if e.NotArmed != "" {
		s.out.Fail(fmt.Errorf("arm the faults: %s", visible.Short(e.NotArmed)))
	}
	return false
}

// keep takes a piece of a file.
func (s *Session) keep(f wire.File) (over bool) {
	if f.Index < len(s.Fetch) {
		if err := s.files.add(f); err != nil {
			s.out.Fail(err)
		}
		return false
	}
	i := f.Index - len(s.Fetch)
	if i >= len(s.Look) {
		s.out.Fail(errors.New("talk to the guest's agent: a file that was not asked for"))
		return false
	}
	if f.Err != "" {
		return false
	}
	if s.out.Looks == nil {
		s.out.Looks = map[string]string{}
	}
	s.out.Looks[s.Look[i]] = string(f.Data)
	return false
}

// settle is how long a guest stands by before it is frozen.
const settle = 100 * time.Millisecond

// maxHeldOutput bounds what a program may print before it is held, in bytes.
const maxHeldOutput = 1 << 20

// quiesce waits until all that a held program has printed is here, and what is
// under way in the kernel has had time to end.
func (s *Session) quiesce(ctx context.Context, f wire.Frozen) {
	for _, r := range []struct {
		r *relay
		n int64
	}{{s.stdout, f.Stdout}, {s.stderr, f.Stderr}} {
		if r.n > maxHeldOutput {
			s.out.Fail(fmt.Errorf("freeze a held program: it printed %d bytes before it was held, more than %d", r.n, maxHeldOutput))
			return
		}
		if err := r.r.wait(ctx, r.n, s.Limits.Drain); err != nil {
			s.out.Fail(err)
			return
		}
	}
	s.out.Ready.Taint = f.Taint // what a held program has added is the boot's too
	if f.Lost != "" {
		s.out.Incomplete(visible.Short(f.Lost))
	}
	// What is still under way in the kernel, such as its waiting for all readers
	// (RCU), would go on in each fork.
	select {
	case <-time.After(settle):
	case <-s.Machine.Done():
	case <-ctx.Done():
	}
}

// lost deals with the end of the control port. The machine is dying or the guest
// talks nonsense; the first is explained by the machine's exit and the log.
func (s *Session) lost(err error) {
	s.awaitEnd(s.Limits.Drain)
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !isReset(err) {
		s.out.Fail(fmt.Errorf("talk to the guest's agent: %w", err))
	}
}

// isReset says whether a port's error only means that its other end is gone.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, os.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe)
}

// finish takes the leave of a guest that has said it is done: all output and
// the whole kernel log are in, then it powers off.
func (s *Session) finish(ctx context.Context) {
	ok := true
	for _, w := range []struct {
		r *relay
		n int64
	}{{s.stdout, s.out.Exited.Stdout}, {s.stderr, s.out.Exited.Stderr}} {
		if err := w.r.wait(ctx, w.n, s.Limits.Drain); err != nil {
			s.out.Fail(err)
			ok = false
		}
	}
	if err := s.files.finish(); err != nil {
		s.out.Fail(err)
	}
	select {
	case <-s.LogEnded:
	case <-s.Machine.Done():
	case <-time.After(s.Limits.Drain):
	}
	s.out.EndMarker = ok
	select {
	case <-s.LogEnded:
	default:
		s.out.Incomplete("its end mark did not arrive on the console (is that silenced, or its level below 2?)")
	}
	if s.OnWatch != nil {
		s.OnWatch()
	}
	if !s.aftermath(ctx) || s.OnPowerOff == nil {
		return
	}
	s.OnPowerOff()
	s.powerOff(ctx)
}

// aftermath watches the machine for a while after everything has ended: what the
// program left behind in timers, work queues and RCU callbacks comes to light then.
// It returns false for a machine that is gone.
func (s *Session) aftermath(ctx context.Context) bool {
	began, before := time.Now(), s.Machine.Waited()
	for {
		passed := time.Since(began)
		left := s.Limits.Aftermath - max(0, passed-s.Machine.Waited().since(before))
		switch {
		case left <= 0:
			return true
		case passed > s.Limits.Drain:
			s.out.Notes = append(s.out.Notes, fmt.Sprintf("what came after the program's end was not watched: the host kept the VM from running for %s", passed.Round(time.Second)))
			return true
		}
		select {
		case <-s.Machine.Done():
			return false
		case <-ctx.Done():
			return false
		case <-time.After(max(left, 5*time.Millisecond)):
		}
	}
}

// powerOff has the machine switch itself off.
func (s *Session) powerOff(ctx context.Context) {
	s.send.post(wire.Message{Shutdown: &wire.Shutdown{}})
	p := s.newPatience(s.Limits.PowerOff)
	for left := p.left(); left > 0; left = p.left() {
		select {
		case <-s.Machine.Done():
			return
		case <-ctx.Done():
			return
		case <-time.After(left):
		}
	}
	s.out.Hung = fmt.Sprintf("the guest did not power off within %s: the kernel hung in shutdown, or cannot switch the machine off (does it have CONFIG_ACPI=y?)%s", p.why(), s.stuckAt())
}

// awaitEnd gives the machine some time to end by itself.
func (s *Session) awaitEnd(limit time.Duration) {
	select {
	case <-s.Machine.Done():
	case <-time.After(limit):
	}
}

// overtime records which limit was exceeded, after a last chance for the program to
// say where it hangs.
func (s *Session) overtime(p *patience) {
	switch {
	case s.state == Booting:
		s.out.Fail(fmt.Errorf("the VM did not boot within %s%s", p.why(), s.stuckAt()))
	case s.state.runs():
		s.out.Deadline = s.hang(fmt.Sprintf("the program did not end within %s", s.Limits.Program))
	default:
		s.out.Deadline = "the guest did not finish after the program had ended"
	}
}

func (s *Session) hang(why string) string {
	if s.OnHang == nil {
		return why
	}
	return why + s.OnHang(why, s)
}

func (s *Session) stuckAt() string {
	if s.StuckAt == nil {
		return ""
	}
	return s.StuckAt()
}

func (s *Session) newPatience(limit time.Duration) *patience {
	return newPatience(limit, s.Machine.ConsoleBytes, s.Machine.Waited)
}

// pumpStdin sends standard input in frames. It ends with the session, but a
// Read that blocks on a terminal outlives it: only the process's end stops
// that, which is near.
func (s *Session) pumpStdin(stop <-chan struct{}) {
	w := wire.NewWriter(s.Machine.Port(wire.PortStdin))
	buf := make([]byte, 32<<10)
	for {
		n, err := s.Stdin.Read(buf)
		select {
		case <-stop:
			return
		default:
		}
		if n > 0 && w.SendStdin(buf[:n]) != nil {
			return
		}
		if err != nil {
			_ = w.SendStdin(nil)
			return
		}
	}
}

// timers are the limits of a conversation's present state.
type timers struct {
	s        *Session
	patience *patience // nil where the limit is the program's
	limit    *time.Timer
	quiet    *stillness
}

func newTimers(s *Session) *timers {
	t := &timers{s: s, patience: s.newPatience(s.Limits.Boot)}
	t.limit = time.NewTimer(t.patience.left())
	t.quiet = newStillness(s.Limits.Idle, func() int64 { return s.stdout.count() + s.stderr.count() + s.Machine.ConsoleBytes() })
	return t
}

// enter sets the limit of a new state. Between the states of a running program it
// goes on.
func (t *timers) enter(to State) {
	switch {
	case to == Ended:
		t.patience = t.s.newPatience(t.s.Limits.Finish)
		t.limit.Reset(t.patience.left())
	case to.runs() && t.patience != nil:
		t.patience = nil
		if t.limit.Stop(); t.s.Limits.Program > 0 {
			t.limit.Reset(t.s.Limits.Program)
		}
	}
}

// late says whether the limit is exceeded now that its timer has fired.
func (t *timers) late() bool {
	if t.patience == nil {
		return true
	}
	left := t.patience.left()
	if left > 0 {
		t.limit.Reset(left)
	}
	return left == 0
}

func (t *timers) stop() {
	t.limit.Stop()
	t.quiet.stop()
}

// Forever is a limit that is none.
const Forever = time.Duration(math.MaxInt64)

// stillness notices that a counter does not move any more.
type stillness struct {
	limit time.Duration
	count func() int64
	last  int64
	since time.Time
	t     *time.Ticker
}

func newStillness(limit time.Duration, count func() int64) *stillness {
	s := &stillness{limit: limit, count: count, last: -1}
	if limit > 0 {
		s.t = time.NewTicker(max(limit/20, 10*time.Millisecond))
	}
	return s
}

func (s *stillness) tick() <-chan time.Time {
	if s.t == nil {
		return nil
	}
	return s.t.C
}

func (s *stillness) tooLong() bool {
	if n := s.count(); n != s.last {
		s.last, s.since = n, time.Now()
	}
	return time.Since(s.since) >= s.limit
}

func (s *stillness) stop() {
	if s.t != nil {
		s.t.Stop()
	}
}

// bounded limits a list that a guest sent.
func bounded(list []string) []string {
	if len(list) > 50 {
		list = list[:50]
	}
	out := make([]string, len(list))
	for i, l := range list {
		out[i] = visible.Short(l)
	}
	return out
}
