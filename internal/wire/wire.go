// SPDX-License-Identifier: Apache-2.0

// Package wire is the protocol between the host's runner and the guest's
// agent, encoder and decoder side by side.
//
// Control messages travel as frames, a 4-byte big-endian length and that many
// bytes of JSON, over the virtio-serial port [PortControl]. What a fork waits
// for before its test, Thaw and a short Release, has a form of its own in place
// of JSON: in a fork under TCG every piece of code runs for the first time, and
// package json is a large one. The standard
// streams of the program that runs have ports of their own and carry raw
// bytes; only standard input is framed ([StdinFrame]), because a virtio port
// cannot say end-of-file. Nothing the program prints can therefore be taken
// for a control message: the kernel lets one process open a port at a time
// (drivers/char/virtio_console.c: port_fops_open), and that is the agent.
//
// The host must treat everything read from a guest as hostile: [Reader]
// bounds every frame, and no message carries a host path.
//
// It must not know who speaks, nor over what.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Version is the protocol's; both sides must agree.
const Version = 5

// Names of the virtio-serial ports.
const (
	PortControl = "kvmrun.ctl"
	PortStdin   = "kvmrun.in"
	PortStdout  = "kvmrun.out"
	PortStderr  = "kvmrun.err"
)

// Ports lists all of them, in the order in which the host creates them.
var Ports = []string{PortControl, PortStdin, PortStdout, PortStderr}

// MaxFrame bounds a frame's body in bytes. A larger one is a protocol error.
const MaxFrame = 1 << 20

// Chunk is how much file content goes into one [File] message, in bytes: in
// base64 and with its envelope it stays well below MaxFrame.
const Chunk = 256 << 10

// Message is a union: exactly one field is set. An empty list in it says the
// same as none, and may be received as none.
type Message struct {
	// Host to guest.
	Run      *Run      `json:"run,omitempty"`
	Release  *Release  `json:"release,omitempty"`
	Resize   *Winsize  `json:"resize,omitempty"`
	Signal   *Signal   `json:"signal,omitempty"`
	SysRq    *SysRq    `json:"sysrq,omitempty"`
	Freeze   *Freeze   `json:"freeze,omitempty"`
	Thaw     *Thaw     `json:"thaw,omitempty"`
	Shutdown *Shutdown `json:"shutdown,omitempty"`

	// Guest to host.
	Ready   *Ready   `json:"ready,omitempty"`
	Frozen  *Frozen  `json:"frozen,omitempty"`
	Started *Started `json:"started,omitempty"`
	Held    *Held    `json:"held,omitempty"`
	File    *File    `json:"file,omitempty"`
	Exited  *Exited  `json:"exited,omitempty"`
	Done    *Done    `json:"done,omitempty"`
	Fault   *Fault   `json:"fault,omitempty"`
	Kmsg    *Kmsg    `json:"kmsg,omitempty"`
}

// Run asks the agent to start a program. One program runs at a time.
type Run struct {
	Argv []string `json:"argv"` // Argv[0] is a guest path, or a name looked up in PATH
	Env  []string `json:"env,omitempty"`
	Dir  string   `json:"dir,omitempty"` // working directory, created when missing; "" is /tmp
	// Stdin says that frames will come on PortStdin; otherwise the program
	// reads /dev/null. The host ends them with an empty frame in any case, also
	// when the program has ended without reading them: the next program's
	// input begins after it.
	Stdin bool `json:"stdin,omitempty"`
	// Merge sends stderr into stdout's pipe, so that their order survives.
	Merge bool `json:"merge,omitempty"`
	// TTY, when set, runs the program on a pseudo-terminal of that size; its
	// output is on PortStdout.
	TTY *Winsize `json:"tty,omitempty"`
	// Fetch lists guest files, or directories whose files are wanted, that are
	// sent back after the program has ended. Missing ones are not an error.
	Fetch []string `json:"fetch,omitempty"`
	// Hold stops the program before it does anything, or where it stops itself
	// with SIGSTOP; the agent says Held and waits for Release.
	Hold Hold `json:"hold,omitempty"`
	// Files, when not 0, is how many bytes of the disk with the serial FilesDisk
	// are an archive, which is unpacked before all else: over what the machine was
	// booted with, and as if it had been booted with that. It is an initial ramdisk
	// without compression (Documentation/driver-api/early-userspace/buffer-format.rst,
	// format 070701). Modules of a list in it that the machine has not loaded are
	// loaded then.
	Files int64 `json:"files,omitempty"`
	// Nonce is echoed in Done and in the last line of the kernel log.
	Nonce string `json:"nonce"`
}

// CPUsParam begins the parameter of the kernel's command line that says how many
// processors the agent brings online before it is ready, those included that the
// kernel has booted with: the number follows. The kernel takes a name with a dot in it
// for a module's parameter and leaves it alone (init/main.c: unknown_bootoption).
const CPUsParam = "kvmrun.cpus="

// FilesDisk is the serial of the disk from which Run.Files are read. An agent opens
// it when it is asked to Freeze, and reads nothing of it before Run: what it has
// then is the fork's own.
const FilesDisk = "kvmrun.files"

// Hold says where a program is held.
type Hold string

const (
	// HoldExec is before the program's first instruction.
	HoldExec Hold = "exec"
	// HoldStop is where the program sends itself SIGSTOP.
	HoldStop Hold = "stop"
)

// Held says that the program stands still, all its threads.
type Held struct{}

// Release lets a held program go on.
type Release struct {
	// Arm is done first; the program does not run when it fails.
	Arm Arm `json:"arm"`
	// Args is written, one a line and after Marks, to ReleaseFile for a program
	// that was held at HoldStop.
	Args []string `json:"args,omitempty"`
	// Env is written, as NAME=VALUE and ended by a zero byte each, to
	// ReleaseEnvFile for such a program, which adds it to its environment.
	Env []string `json:"env,omitempty"`
	// Fetch is added to Run's.
	Fetch []string `json:"fetch,omitempty"`
	// Nonce, when set, replaces that of Run.
	Nonce string `json:"nonce,omitempty"`
	// Marks is the first line of ReleaseFile: what the program's marks carry, see
	// [TestMark]. "" if nothing that it writes is to be one.
	Marks string `json:"marks,omitempty"`
}

// ReleaseFile is where a program finds Release.Args, ReleaseEnvFile where
// Release.Env is, if there is any.
const (
	ReleaseFile    = "/run/kvmrun-release"
	ReleaseEnvFile = "/run/kvmrun-release-env"
)

// Arm is how faults are injected into the kernel, see package fault.
type Arm struct {
	// Before is written in order before the program goes on.
	Before []Write `json:"before,omitempty"`
	// Mark sets make-it-fail for the program's threads, and so for all that
	// they start.
	Mark bool `json:"mark,omitempty"`
	// Nth, when not 0, is the fail-nth of the program's first thread.
	Nth uint64 `json:"nth,omitempty"`
	// After is written when the program has ended. Errors are warnings.
	After []Write `json:"after,omitempty"`
	// Counters are read then.
	Counters []Counter `json:"counters,omitempty"`
	// Final is written after everything the program left behind is gone, and
	// the last [Chunk] bytes of Look then sent back, like files of Run.Fetch
	// whose list it continues. With Counters of which none has moved, neither
	// is done: there was no fault to look for the consequences of.
	Final []Write  `json:"final,omitempty"`
	Look  []string `json:"look,omitempty"`
}

// Empty says whether there is nothing to do.
func (a Arm) Empty() bool {
	return len(a.Before) == 0 && !a.Mark && a.Nth == 0 && len(a.After) == 0 && len(a.Final) == 0 && len(a.Look) == 0
}

// Write is one write(2) to a file.
type Write struct {
	Path string `json:"path"`
	Text string `json:"text,omitempty"`
	// Symbol, when set, writes the address of this kernel function instead, or
	// with End that of its end.
	Symbol string `json:"symbol,omitempty"`
	End    bool   `json:"end,omitempty"`
	// Optional ignores a file that is not there.
	Optional bool `json:"optional,omitempty"`
	// Age, in Arm.Final, is how long everything that the program left behind
	// has been gone by then, at least.
	Age time.Duration `json:"age,omitempty"`
}

// Counter is a file with a number that counts down from Start.
type Counter struct {
	Name  string `json:"name"`
	Path  string `json:"path"`
	Start int    `json:"start"`
}

// Count is how far a Counter has come.
type Count struct {
	Name  string `json:"name"`
	Fired int    `json:"fired"`
	Err   string `json:"err,omitempty"`
}

// Winsize is a terminal's size in characters.
type Winsize struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// Signal is sent to the running program's process group.
type Signal struct {
	Number int `json:"number"`
}

// SysRq asks the agent to write keys to /proc/sysrq-trigger, one after the
// other (Documentation/admin-guide/sysrq.rst). What the kernel says to them is
// in its log; there is no answer.
type SysRq struct {
	Keys string `json:"keys"`
}

// Freeze asks the agent to make the machine quiet, so that it can be stopped and
// gone on with elsewhere: late set-up is waited for, what the program has written
// is passed on, and everything is synced. The answer is Frozen; from then on the
// agent does nothing before the next message.
type Freeze struct{}

// Frozen answers Freeze. It counts the bytes of the running program's output
// that have been written to the ports; zero without a program.
type Frozen struct {
	Stdout int64 `json:"stdout"`
	Stderr int64 `json:"stderr"`
	// Taint and Lost are as in Done: what the machine looks like that others go
	// on from.
	Taint uint64 `json:"taint,omitempty"`
	Lost  string `json:"lost,omitempty"`
}

// Thaw is the first message to a machine that goes on from a frozen one, which
// is not the only one to do so: it makes this one differ and tells it the time.
// There is no answer: what went wrong is in Done's warnings.
type Thaw struct {
	ID     string `json:"id"`     // becomes part of the host name, which "" leaves as it is
	UnixNS int64  `json:"unixNS"` // the wall clock, in nanoseconds since 1970
	Seed   []byte `json:"seed"`   // random bytes for the kernel's generator, at least SeedSize of them
}

// SeedSize is how many random bytes are worth sending in Thaw: what the kernel
// wants before it calls its generator ready (drivers/char/random.c:
// POOL_READY_BITS, 256), twice.
const SeedSize = 64

// ForkHost begins the host name of a machine that was thawed; its ID follows.
const ForkHost = "kvmrun-"

// ForkMark is the line with which a fork's kernel log begins. The host writes it:
// in the guest it would come before the program's first output, and cost.
func ForkMark(id string) string { return "kvmrun: forked as " + id }

// Shutdown asks the agent to power the machine off.
type Shutdown struct{}

// Ready is the agent's first message after the boot.
type Ready struct {
	Version  int      `json:"version"`
	Release  string   `json:"release"`            // uname -r
	UptimeNS int64    `json:"uptimeNS"`           // CLOCK_BOOTTIME when the agent was ready
	Modules  []string `json:"modules,omitempty"`  // loaded by the agent, in order
	Warnings []string `json:"warnings,omitempty"` // what could not be set up, one line each
	// Taint is /proc/sys/kernel/tainted (Documentation/admin-guide/tainted-kernels.rst).
	Taint uint64 `json:"taint,omitempty"`
}

// Started says that the program runs.
type Started struct {
	PID int `json:"pid"`
}

// File carries a piece of a fetched file.
type File struct {
	Index int    `json:"index"`          // into Run.Fetch
	Name  string `json:"name,omitempty"` // base name below a fetched directory, never with a slash
	Data  []byte `json:"data,omitempty"`
	EOF   bool   `json:"eof,omitempty"`
	Err   string `json:"err,omitempty"`
}

// Exited says how the program ended. All its output has been written to the
// ports before; the byte counts let the host know when it has all of it.
type Exited struct {
	Code   int    `json:"code"`             // exit status, -1 when killed by a signal
	Signal int    `json:"signal,omitempty"` // number of the signal that killed it
	Core   bool   `json:"core,omitempty"`
	Stdout int64  `json:"stdout"`
	Stderr int64  `json:"stderr"`
	Err    string `json:"err,omitempty"` // why it could not be started
	// NotFound and NotExecutable tell a shell's 127 from its 126.
	NotFound      bool `json:"notFound,omitempty"`
	NotExecutable bool `json:"notExecutable,omitempty"`
	// Faults says how often each of Release's counters fired.
	Faults []Count `json:"faults,omitempty"`
	// NotArmed is why Release could not be done; the program did not run.
	NotArmed string `json:"notArmed,omitempty"`
}

// Done is the explicit end marker: files sent, file systems unmounted or
// synced, and "kvmrun: end NONCE" written to the kernel log. A run without it
// has failed, whatever it printed.
type Done struct {
	Nonce    string   `json:"nonce"`
	Warnings []string `json:"warnings,omitempty"` // what could not be cleaned up, one line each
	// Taint is /proc/sys/kernel/tainted in the end.
	Taint uint64 `json:"taint,omitempty"`
	// Lost says why the agent could not read all of what the kernel has said since
	// Ready, "" if it could.
	Lost string `json:"lost,omitempty"`
}

// Kmsg carries a piece of what the agent read from /dev/kmsg: records as they
// were read (Documentation/ABI/testing/dev-kmsg), those of the kernel itself and
// marks, in their order. A piece may end anywhere. It comes before Done, if the
// kernel itself has said something of level warning or worse, as it does in every
// report, or if so much was said that a console may have dropped some of it.
type Kmsg struct {
	Data []byte `json:"data"`
}

// MaxKmsg bounds all pieces together, in bytes.
const MaxKmsg = 8 << 20

// Fault is the agent's own failure; the run cannot be trusted.
type Fault struct {
	Message string `json:"message"`
}

// EndMark is the line that the agent writes to the kernel log before Done. The
// host has read the whole log once it has seen it.
func EndMark(nonce string) string { return "kvmrun: end " + nonce }

// ErrTooLarge is returned for a frame over MaxFrame.
var ErrTooLarge = errors.New("frame too large")

// Writer writes messages. It is safe for concurrent use; each message is one
// Write call on the underlying writer, which it does not own.
type Writer struct {
	mu sync.Mutex
	w  io.Writer
}

// NewWriter returns a Writer on w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Send writes one message.
func (w *Writer) Send(m Message) error {
	if b := m.plain(); b != nil {
		return w.frame(b)
	}
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	return w.frame(b)
}

// Kinds of plain messages. Each begins with a zero byte, as no JSON does.
const (
	plainThaw    = 'T' // UnixNS (8 bytes, big-endian), the seed's length (1 byte), the seed, the ID
	plainRelease = 'R' // the nonce's length (1 byte), the nonce, the same of Marks, Args's only element
)

// plain returns the short form of a message that has one, otherwise nil.
func (m Message) plain() []byte {
	switch t, r := m.Thaw, m.Release; {
	case t != nil && len(t.Seed) <= 255:
		b := binary.BigEndian.AppendUint64([]byte{0, plainThaw}, uint64(t.UnixNS))
		b = append(append(b, byte(len(t.Seed))), t.Seed...)
		return append(b, t.ID...)
	case r != nil && r.Arm.Empty() && len(r.Arm.Counters) == 0 && len(r.Env) == 0 && len(r.Fetch) == 0 && len(r.Nonce) <= 255 && len(r.Marks) <= 255 &&
		(len(r.Args) == 0 || len(r.Args) == 1 && r.Args[0] != ""):
		b := append([]byte{0, plainRelease, byte(len(r.Nonce))}, r.Nonce...)
		b = append(append(b, byte(len(r.Marks))), r.Marks...)
		if len(r.Args) > 0 {
			b = append(b, r.Args[0]...)
		}
		return b
	}
	return nil
}

// parsePlain is the inverse of plain.
func parsePlain(b []byte) (Message, error) {
	const header = 2
	switch {
	case len(b) >= header+9 && b[1] == plainThaw:
		rest := b[header+9:]
		n := int(b[header+8])
		if len(rest) < n {
			break
		}
		t := &Thaw{UnixNS: int64(binary.BigEndian.Uint64(b[header:])), ID: string(rest[n:])}
		if n > 0 {
			t.Seed = rest[:n:n]
		}
		return Message{Thaw: t}, nil
	case len(b) >= header+1 && b[1] == plainRelease:
		rest := b[header+1:]
		n := int(b[header])
		if len(rest) < n+1 {
			break
		}
		r := &Release{Nonce: string(rest[:n])}
		rest = rest[n:]
		if n = int(rest[0]); len(rest) < n+1 {
			break
		}
		r.Marks = string(rest[1 : n+1])
		if rest = rest[n+1:]; len(rest) > 0 {
			r.Args = []string{string(rest)}
		}
		return Message{Release: r}, nil
	}
	return Message{}, errors.New("decode message: it is cut short, or of a kind without a plain form")
}

func (w *Writer) frame(b []byte) error {
	if len(b) > MaxFrame {
		return fmt.Errorf("send %d bytes: %w", len(b), ErrTooLarge)
	}
	buf := make([]byte, 4, 4+len(b))
	binary.BigEndian.PutUint32(buf, uint32(len(b)))
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.w.Write(append(buf, b...)); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

// Reader reads messages; one goroutine at a time. It does not own r.
type Reader struct{ r io.Reader }

// NewReader returns a Reader on r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Receive reads one message. It returns io.EOF between messages and
// io.ErrUnexpectedEOF inside one; an oversized or malformed frame, or one that
// is not exactly one message, is an error after which the stream is useless.
func (r *Reader) Receive() (Message, error) {
	var m Message
	b, err := r.frame()
	if err != nil {
		return m, err
	}
	if len(b) > 0 && b[0] == 0 {
		return parsePlain(b)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("decode message: %w", err)
	}
	n := 0
	for _, set := range []bool{m.Run != nil, m.Resize != nil, m.Signal != nil, m.SysRq != nil, m.Shutdown != nil,
		m.Freeze != nil, m.Thaw != nil, m.Frozen != nil, m.Release != nil, m.Held != nil,
		m.Ready != nil, m.Started != nil, m.File != nil, m.Exited != nil, m.Done != nil, m.Fault != nil, m.Kmsg != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		return m, fmt.Errorf("decode message: %d kinds in one frame, want 1", n)
	}
	return m, nil
}

func (r *Reader) frame() ([]byte, error) {
	var h [4]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(h[:])
	if n > MaxFrame {
		return nil, fmt.Errorf("receive %d bytes: %w", n, ErrTooLarge)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r.r, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b, nil
}

// SendStdin writes a piece of standard input as one frame; an empty one means
// end of file.
func (w *Writer) SendStdin(p []byte) error { return w.frame(p) }

// ReceiveStdin reads a piece of standard input; io.EOF after the empty frame.
func (r *Reader) ReceiveStdin() ([]byte, error) {
	b, err := r.frame()
	if err == nil && len(b) == 0 {
		return nil, io.EOF
	}
	return b, err
}

// FatalMark begins the agent's last words in the kernel log when it cannot
// work and has no other way to say why. Once it has been given a job, the job's
// nonce follows, see [Fatal]: a program could write the line as well.
const FatalMark = "kvmrun: fatal: "

// Fatal is the agent's last words under a job's nonce, or before any.
func Fatal(nonce, why string) string {
	if nonce == "" {
		return FatalMark + why
	}
	return FatalMark + nonce + ": " + why
}

// MarksEnv tells a test binary in the guest what its marks carry, a word that is
// drawn anew for each run. Who has it takes it out of the environment, so that
// the programs that tests start cannot write marks. Without one, as in exec, there
// are no marks.
const MarksEnv = "KVMRUN_MARKS"

// AckMark is the kernel log line by which a test says, across a power cut,
// what must not be lost: the test's own words.
func AckMark(nonce, ack string) string { return ackMark(nonce) + ack }

func ackMark(nonce string) string {
	if nonce == "" { // a plain program's
		return "kvmrun: ack "
	}
	return "kvmrun: ack " + nonce + " "
}

// ParseAckMark is the inverse of AckMark.
func ParseAckMark(nonce, line string) (ack string, ok bool) {
	return strings.CutPrefix(line, ackMark(nonce))
}

// AckVoid is the line by which a test takes back all it has acknowledged.
func AckVoid(nonce string) string {
	if nonce == "" {
		return "kvmrun: acks are void"
	}
	return "kvmrun: acks are void " + nonce
}

// MaxAcks is how many of them count, and MaxAck how long one may be, in bytes:
// all of them fit into a program's environment.
const (
	MaxAcks = 1000
	MaxAck  = 100
)

// CutEnv, set to 1, tells a program that the power was cut while it ran before,
// on the same disks; AcksEnv has what it had acknowledged, a line each.
const (
	CutEnv  = "KVMRUN_POWER_CUT"
	AcksEnv = "KVMRUN_ACKS"
)

// A TestMoment is what a [TestMark] says of a test.
type TestMoment int

// A test begins, ends without having failed, ends having failed, and ends without
// having tested anything: it was skipped, or none of its subtests was selected.
const (
	TestBegins TestMoment = iota
	TestEnds
	TestFails
	TestSkips
)

var testMarks = [...]string{TestBegins: "kvmrun: test begin ", TestEnds: "kvmrun: test end ", TestFails: "kvmrun: test failed ", TestSkips: "kvmrun: test skipped "}

// TestMark is the kernel log line that says that a test begins or ends, so
// that what the kernel prints in between can be attributed to it. How it ended
// is said again in the test's output, which may not leave a dying VM any more.
// The nonce is the run's, see [MarksEnv]; taint is /proc/sys/kernel/tainted at
// that moment.
func TestMark(nonce, test string, at TestMoment, taint uint64) string {
	return testMarks[at] + nonce + " " + strconv.FormatUint(taint, 10) + " " + test
}

// ParseTestMark is the inverse of TestMark. A line with another nonce is none, and
// without one there are none.
func ParseTestMark(nonce, line string) (test string, at TestMoment, taint uint64, ok bool) {
	if nonce == "" {
		return "", 0, 0, false
	}
	for at, begin := range testMarks {
		rest, ok := strings.CutPrefix(line, begin)
		if !ok {
			continue
		}
		if rest, ok = strings.CutPrefix(rest, nonce+" "); !ok {
			return "", 0, 0, false
		}
		number, test, _ := strings.Cut(rest, " ")
		taint, err := strconv.ParseUint(number, 10, 64)
		return test, TestMoment(at), taint, err == nil && test != ""
	}
	return "", 0, 0, false
}

const testExpects = "kvmrun: test expects "

// MaxExpectMark bounds an ExpectMark, in bytes: the kernel refuses longer lines
// from user space (PRINTKRB_RECORD_MAX, kernel/printk/internal.h).
const MaxExpectMark = 1000

// ExpectMark is the kernel log line that says that a test expects a splat whose
// whole title matches a regular expression.
func ExpectMark(nonce, test, title string) string {
	return testExpects + nonce + " " + strconv.Quote(test) + " " + strconv.Quote(title)
}

// ParseExpectMark is the inverse of ExpectMark, as for [ParseTestMark].
func ParseExpectMark(nonce, line string) (test, title string, ok bool) {
	rest, ok := strings.CutPrefix(line, testExpects+nonce+" ")
	if !ok || nonce == "" {
		return "", "", false
	}
	quoted, err := strconv.QuotedPrefix(rest)
	if err != nil {
		return "", "", false
	}
	test, err = strconv.Unquote(quoted)
	if err != nil {
		return "", "", false
	}
	title, err = strconv.Unquote(strings.TrimPrefix(rest[len(quoted):], " "))
	return test, title, err == nil
}
