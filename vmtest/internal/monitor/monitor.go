// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/digitalocean/go-qemu/qmp"
)

// MaxMessage bounds one message from QEMU, in bytes. The largest known reply,
// query-qmp-schema, has 207 KB with QEMU 7.2.
const MaxMessage = 16 << 20

// MaxEvents bounds the events kept for one subscriber that does not read. When
// more arrive the oldest are dropped and an event named [EventsLost] takes
// their place.
const MaxEvents = 4096

// EventsLost is the name of the event made up when a subscriber has missed
// some; its data holds their number as "count" (an int).
const EventsLost = "KVMRUN_EVENTS_LOST"

// ErrClosed is wrapped by every error that is due to the end of the stream:
// QEMU exited, or Disconnect was called.
var ErrClosed = errors.New("qmp connection closed")

// Event is QEMU's asynchronous message, as go-qemu defines it.
type Event = qmp.Event

// Version is what QEMU says about itself in its greeting.
type Version = qmp.Version

// Conn is the stream to QEMU: a unix socket as net.Conn or os.File.
type Conn interface {
	io.ReadWriteCloser
	SetWriteDeadline(time.Time) error
}

// Error is a command QEMU refused.
type Error struct {
	Command string // the command's name
	Class   string // QEMU's error class, e.g. "CommandNotFound"
	Desc    string // QEMU's message for people
}

func (e *Error) Error() string {
	return fmt.Sprintf("run qmp command %s: %s (%s)", e.Command, e.Desc, e.Class)
}

// Monitor is one QMP connection. Use [New].
type Monitor struct {
	conn  Conn
	watch func(Event)

	// writing is held, by a value in it, while a command is being written: a
	// mutex that a context can abandon.
	writing chan struct{}

	greeting  chan struct{} // closed when version is set
	done      chan struct{} // closed when the reader has ended
	closeOnce sync.Once

	mu      sync.Mutex
	version Version
	nextID  uint64
	pending map[string]chan message // by id, each with room for its one reply
	subs    map[*subscription]struct{}
	err     error // why the reader ended
}

var _ qmp.Monitor = (*Monitor)(nil)

// message is anything QEMU sends.
type message struct {
	qmp.Event
	ID       string          `json:"id"`
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`

	raw []byte
}

// New takes over the connection and begins to read from it. The function watch,
// when not nil, gets every event in order from the reading goroutine and must
// not block. The caller calls Connect next, and Disconnect in the end.
func New(conn Conn, watch func(Event)) *Monitor {
	m := &Monitor{
		conn:     conn,
		watch:    watch,
		writing:  make(chan struct{}, 1),
		greeting: make(chan struct{}),
		done:     make(chan struct{}),
		pending:  make(map[string]chan message),
		subs:     make(map[*subscription]struct{}),
	}
	go m.read()
	return m
}

// Connect does what go-qemu's interface asks for, without a deadline; see
// [Monitor.Handshake].
func (m *Monitor) Connect() error {
	_, err := m.Handshake(context.Background())
	return err
}

// Handshake waits for QEMU's greeting and enters command mode. It is called
// once, before any other command.
func (m *Monitor) Handshake(ctx context.Context) (Version, error) {
	select {
	case <-m.greeting:
	case <-m.done:
		// The greeting may have come together with the end of the stream.
		select {
		case <-m.greeting:
		default:
			return Version{}, fmt.Errorf("wait for qmp greeting: %w", m.Err())
		}
	case <-ctx.Done():
		return Version{}, fmt.Errorf("wait for qmp greeting: %w", context.Cause(ctx))
	}
	m.mu.Lock()
	v := m.version
	m.mu.Unlock()
	return v, m.Execute(ctx, "qmp_capabilities", nil, nil)
}

// Disconnect closes the connection and waits for the reader to end. Commands
// under way fail with an error that wraps ErrClosed. It is idempotent.
func (m *Monitor) Disconnect() error {
	var err error
	m.closeOnce.Do(func() { err = m.conn.Close() })
	<-m.done
	return err
}

// Done is closed when the stream has ended and every event before its end has
// been given to watch.
func (m *Monitor) Done() <-chan struct{} { return m.done }

// Err says why the stream ended; nil before that. It wraps [ErrClosed].
func (m *Monitor) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Execute runs a command. The arguments are marshalled to a JSON object, nil
// for none; the value of "return" is unmarshalled into result unless that is
// nil. A command QEMU refused gives an [*Error]. When ctx ends first, the
// command may or may not have run.
func (m *Monitor) Execute(ctx context.Context, command string, arguments, result any) error {
	reply, err := m.roundTrip(ctx, command, map[string]any{"execute": command}, arguments)
	if err != nil {
		return err
	}
	if reply.Error != nil {
		return &Error{Command: command, Class: reply.Error.Class, Desc: reply.Error.Desc}
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(reply.Return, result); err != nil {
		return fmt.Errorf("parse reply to qmp command %s: %w", command, err)
	}
	return nil
}

// SendFile runs a command that takes a descriptor along: it gives QEMU a
// duplicate of f ("getfd" and "add-fd" of the machine protocol). The caller keeps
// f. It fails on a connection that is no unix socket.
func (m *Monitor) SendFile(ctx context.Context, command string, args map[string]any, f *os.File) error {
	sock, ok := m.conn.(syscall.Conn)
	if !ok {
		return fmt.Errorf("run qmp command %s: the connection cannot pass descriptors", command)
	}
	reply, err := m.exchange(ctx, command, map[string]any{"execute": command}, args,
		func(ctx context.Context, line []byte) error {
			select {
			case m.writing <- struct{}{}:
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-m.done:
				return m.Err()
			}
			defer func() { <-m.writing }()
			return sendFile(sock, line, f)
		})
	if err != nil {
		return err
	}
	if reply.Error != nil {
		return &Error{Command: command, Class: reply.Error.Class, Desc: reply.Error.Desc}
	}
	return nil
}

// sendFile writes the line with the descriptor attached, which QEMU has then
// received before it reads the line's end.
func sendFile(sock syscall.Conn, line []byte, f *os.File) error {
	to, err := sock.SyscallConn()
	if err != nil {
		return err
	}
	from, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = from.Control(func(fd uintptr) {
		rights := syscall.UnixRights(int(fd))
		if err := to.Write(func(s uintptr) bool {
			var n int
			n, sent = syscall.SendmsgN(int(s), line, rights, nil, 0)
			if sent == nil && n < len(line) {
				sent = io.ErrShortWrite // a command of some bytes on an idle socket
			}
			return !errors.Is(sent, syscall.EAGAIN)
		}); err != nil {
			sent = err
		}
	})
	return errors.Join(err, sent)
}

// Run implements go-qemu's interface: command is a whole JSON object, and what
// comes back is QEMU's whole reply. An "id" of the caller's is replaced.
func (m *Monitor) Run(command []byte) ([]byte, error) {
	var object map[string]any
	d := json.NewDecoder(bytes.NewReader(command))
	d.UseNumber() // 64 bit addresses and offsets pass through unrounded
	if err := d.Decode(&object); err != nil {
		return nil, fmt.Errorf("parse qmp command: %w", err)
	}
	name, _ := object["execute"].(string)
	reply, err := m.roundTrip(context.Background(), name, object, nil)
	if err != nil {
		return nil, err
	}
	if reply.Error != nil {
		return nil, &Error{Command: name, Class: reply.Error.Class, Desc: reply.Error.Desc}
	}
	return reply.raw, nil
}

// roundTrip sends the object with a fresh id and waits for its reply.
func (m *Monitor) roundTrip(ctx context.Context, name string, object map[string]any, arguments any) (message, error) {
	return m.exchange(ctx, name, object, arguments, m.write)
}

// exchange is roundTrip with a way of writing of the caller's.
func (m *Monitor) exchange(ctx context.Context, name string, object map[string]any, arguments any,
	write func(context.Context, []byte) error,
) (message, error) {
	if err := ctx.Err(); err != nil {
		return message{}, fmt.Errorf("run qmp command %s: %w", name, context.Cause(ctx))
	}
	reply := make(chan message, 1)
	m.mu.Lock()
	if m.err != nil {
		err := m.err
		m.mu.Unlock()
		return message{}, fmt.Errorf("run qmp command %s: %w", name, err)
	}
	m.nextID++
	id := strconv.FormatUint(m.nextID, 10)
	m.pending[id] = reply
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.pending, id)
		m.mu.Unlock()
	}()

	object["id"] = id
	if arguments != nil {
		object["arguments"] = arguments
	}
	line, err := json.Marshal(object)
	if err != nil {
		return message{}, fmt.Errorf("encode qmp command %s: %w", name, err)
	}
	if err := write(ctx, append(line, '\n')); err != nil {
		return message{}, fmt.Errorf("run qmp command %s: %w", name, err)
	}
	select {
	case r := <-reply:
		return r, nil
	case <-ctx.Done():
		return message{}, fmt.Errorf("run qmp command %s: %w", name, context.Cause(ctx))
	case <-m.done:
		// "quit" is answered by a QEMU that then goes: prefer the answer.
		select {
		case r := <-reply:
			return r, nil
		default:
			return message{}, fmt.Errorf("run qmp command %s: %w", name, m.Err())
		}
	}
}

// write sends one line. A context that ends while QEMU does not read gives up;
// when part of the line is out by then, the connection is of no use any more
// and is closed.
func (m *Monitor) write(ctx context.Context, line []byte) error {
	select {
	case m.writing <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-m.done:
		return m.Err()
	}
	defer func() { <-m.writing }()

	if err := m.conn.SetWriteDeadline(time.Time{}); err != nil {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		_ = m.conn.SetWriteDeadline(time.Unix(1, 0)) // long past: wake the writer
	})
	n, err := m.conn.Write(line)
	if !stop() {
		<-fired
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		err = context.Cause(ctx)
		if n == 0 {
			return err
		}
	}
	m.fail(fmt.Errorf("%w: write: %w", ErrClosed, err))
	return err
}

// fail records the first reason for the end and closes the connection, which
// ends the reader.
func (m *Monitor) fail(err error) {
	m.mu.Lock()
	if m.err == nil {
		m.err = err
	}
	m.mu.Unlock()
	m.closeOnce.Do(func() { _ = m.conn.Close() })
}

// read is the reading goroutine.
func (m *Monitor) read() {
	defer close(m.done)
	r := bufio.NewReaderSize(m.conn, 64<<10)
	for {
		line, err := readLine(r)
		if len(line) > 0 && err == nil {
			err = m.dispatch(line)
		}
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
				err = ErrClosed
			} else if !errors.Is(err, ErrClosed) {
				err = fmt.Errorf("%w: %w", ErrClosed, err)
			}
			m.fail(err)
			break
		}
	}
	m.mu.Lock()
	for s := range m.subs {
		s.end()
	}
	m.mu.Unlock()
}

// readLine returns the next line without its end, in memory of its own. A last
// line without an end is not a message and is dropped with io.EOF.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > MaxMessage {
			return nil, fmt.Errorf("qmp message is larger than %d bytes", MaxMessage)
		}
		line = append(line, part...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return bytes.TrimSpace(line), nil
	}
}

// dispatch handles one message; an error ends the connection.
func (m *Monitor) dispatch(line []byte) error {
	var msg message
	if err := json.Unmarshal(line, &msg); err != nil {
		return fmt.Errorf("parse qmp message %.80q: %w", line, err)
	}
	msg.raw = line
	switch {
	case msg.Greeting != nil:
		var g struct {
			Version Version `json:"version"`
		}
		if err := json.Unmarshal(msg.Greeting, &g); err != nil {
			return fmt.Errorf("parse qmp greeting: %w", err)
		}
		m.mu.Lock()
		m.version = g.Version
		m.mu.Unlock()
		select {
		case <-m.greeting:
			return errors.New("second qmp greeting")
		default:
			close(m.greeting)
		}
	case msg.Event.Event != "":
		if m.watch != nil {
			m.watch(msg.Event)
		}
		m.mu.Lock()
		for s := range m.subs {
			s.put(msg.Event)
		}
		m.mu.Unlock()
	case msg.Return != nil || msg.Error != nil:
		m.mu.Lock()
		reply := m.pending[msg.ID]
		delete(m.pending, msg.ID)
		m.mu.Unlock()
		// Nobody waits: the command's context has ended, or the message is an
		// error without an id, which QEMU sends for input it could not parse.
		if reply != nil {
			reply <- msg
		}
	}
	return nil
}
