// SPDX-License-Identifier: Apache-2.0

package monitor_test

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
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/digitalocean/go-qemu/qmp"
	"github.com/digitalocean/go-qemu/qmp/raw"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/vmtest/internal/monitor"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}` + "\r\n"

// peer is QEMU's side of a connection, run by a script.
type peer struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

type request struct {
	Execute   string          `json:"execute"`
	ID        string          `json:"id"`
	Arguments json.RawMessage `json:"arguments"`
}

// next reads a command; ok is false at the end of the stream.
func (p *peer) next() (q request, ok bool) {
	line, err := p.r.ReadBytes('\n')
	if err != nil {
		return q, false
	}
	if err := json.Unmarshal(line, &q); err != nil {
		p.t.Errorf("command %q: %v", line, err)
	}
	return q, true
}

func (p *peer) send(format string, a ...any) { _, _ = fmt.Fprintf(p, format+"\r\n", a...) }

// start connects a monitor to a peer that greets, accepts the capabilities
// negotiation and then runs script.
func start(t *testing.T, watch func(monitor.Event), script func(p *peer)) *monitor.Monitor {
	t.Helper()
	m := bare(t, watch, func(p *peer) {
		_, _ = io.WriteString(p, greeting)
		q, ok := p.next()
		if !ok || q.Execute != "qmp_capabilities" {
			p.t.Errorf("first command is %+v", q)
		}
		p.send(`{"return": {}, "id": %q}`, q.ID)
		script(p)
	})
	v, err := m.Handshake(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, v.String(), "7.2.22")
	return m
}

// bare connects a monitor to a script that begins before the greeting, over a
// real socket pair as in production: writes have buffers there.
func bare(t *testing.T, watch func(monitor.Event), script func(p *peer)) *monitor.Monitor {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	assert.NilError(t, err)
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		conns[i], err = net.FileConn(f)
		assert.NilError(t, err)
		assert.NilError(t, f.Close())
	}
	m := monitor.New(conns[0], watch)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer conns[1].Close()
		script(&peer{t, conns[1], bufio.NewReader(conns[1])})
	}()
	t.Cleanup(func() {
		_ = m.Disconnect()
		<-ended
	})
	return m
}

// drain answers every command with an empty object.
func drain(p *peer) {
	for {
		q, ok := p.next()
		if !ok {
			return
		}
		p.send(`{"return": {}, "id": %q}`, q.ID)
	}
}

func TestExecute(t *testing.T) {
	m := start(t, nil, func(p *peer) {
		q, _ := p.next()
		p.send(`{"return": {"status": "running", "arg": %s}, "id": %q}`, q.Arguments, q.ID)
		q, _ = p.next()
		p.send(`{"id": %q, "error": {"class": "DeviceNotFound", "desc": "no such device"}}`, q.ID)
		q, _ = p.next()
		p.send(`{"return": [1], "id": %q}`, q.ID)
	})
	var got struct {
		Status string
		Arg    struct{ N int }
	}
	assert.NilError(t, m.Execute(t.Context(), "query-status", map[string]int{"n": 3}, &got))
	assert.Equal(t, got.Status, "running")
	assert.Equal(t, got.Arg.N, 3)

	err := m.Execute(t.Context(), "device_del", nil, nil)
	var qe *monitor.Error
	assert.Assert(t, errors.As(err, &qe))
	assert.DeepEqual(t, *qe, monitor.Error{Command: "device_del", Class: "DeviceNotFound", Desc: "no such device"})

	err = m.Execute(t.Context(), "query-x", nil, &got)
	assert.ErrorContains(t, err, "parse reply to qmp command query-x")

	err = m.Execute(t.Context(), "late", nil, nil)
	assert.ErrorIs(t, err, monitor.ErrClosed)
	<-m.Done()
	assert.ErrorIs(t, m.Err(), monitor.ErrClosed)
	_, err = m.Events(t.Context())
	assert.ErrorIs(t, err, monitor.ErrClosed)
}

// TestOutOfOrder has every reply arrive in the reverse order, mixed with
// replies nobody waits for.
func TestOutOfOrder(t *testing.T) {
	const n = 100
	m := start(t, nil, func(p *peer) {
		var qs []request
		for range n {
			q, _ := p.next()
			qs = append(qs, q)
		}
		for i := len(qs) - 1; i >= 0; i-- {
			p.send(`{"return": "nobody", "id": "other-%d"}`, i)
			p.send(`{"return": "nobody"}`)
			p.send(`{"return": %s, "id": %q}`, qs[i].Arguments, qs[i].ID)
		}
		drain(p)
	})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var got struct{ I int }
			if err := m.Execute(t.Context(), "echo", map[string]int{"i": i}, &got); err != nil || got.I != i {
				t.Errorf("command %d: got %d, %v", i, got.I, err)
			}
		})
	}
	wg.Wait()
}

// TestHugeReply is beyond the limit of go-qemu's own monitor, in one write with
// a burst of events.
func TestHugeReply(t *testing.T) {
	big := strings.Repeat("x", 3<<20)
	events := 0
	m := start(t, func(monitor.Event) { events++ }, func(p *peer) {
		q, _ := p.next()
		var b bytes.Buffer
		for i := range 500 {
			fmt.Fprintf(&b, `{"event": "E%d", "data": {}, "timestamp": {"seconds": 1, "microseconds": 2}}`+"\r\n", i)
		}
		fmt.Fprintf(&b, `{"return": %q, "id": %q}`+"\r\n", big, q.ID)
		for i := range 500 {
			fmt.Fprintf(&b, `{"event": "F%d"}`+"\r\n", i)
		}
		_, _ = p.Write(b.Bytes())
	})
	var got string
	assert.NilError(t, m.Execute(t.Context(), "query-big", nil, &got))
	assert.Equal(t, len(got), len(big))
	<-m.Done()
	assert.Equal(t, events, 1000)
}

// TestFlood has nobody read events while commands go on.
func TestFlood(t *testing.T) {
	const n = 3 * monitor.MaxEvents
	m := start(t, nil, func(p *peer) {
		q, _ := p.next()
		for i := range n {
			p.send(`{"event": "TICK", "data": {"n": %d}}`, i)
		}
		p.send(`{"return": {}, "id": %q}`, q.ID)
	})
	events, err := m.Events(t.Context())
	assert.NilError(t, err)
	assert.NilError(t, m.Execute(t.Context(), "go", nil, nil))
	<-m.Done()
	var got, lost int
	last := -1
	for e := range events {
		if e.Event == monitor.EventsLost {
			lost += e.Data["count"].(int)
			continue
		}
		got++
		k := int(e.Data["n"].(float64))
		assert.Assert(t, k > last)
		last = k
	}
	assert.Equal(t, got+lost, n)
	assert.Equal(t, last, n-1)
	assert.Assert(t, lost > 0)
}

func TestEventsContext(t *testing.T) {
	m := start(t, nil, drain)
	ctx, cancel := context.WithCancel(t.Context())
	events, err := m.Events(ctx)
	assert.NilError(t, err)
	cancel()
	_, ok := <-events
	assert.Assert(t, !ok)
	assert.NilError(t, m.Execute(t.Context(), "still-there", nil, nil))
}

// TestEventWithCapabilities is the event go-qemu loses.
func TestEventWithCapabilities(t *testing.T) {
	seen := make(chan monitor.Event, 2)
	m := bare(t, func(e monitor.Event) { seen <- e }, func(p *peer) {
		_, _ = io.WriteString(p, greeting+`{"event": "BEFORE"}`+"\n")
		q, _ := p.next()
		p.send(`{"return": {}, "id": %q}`+"\r\n"+`{"event": "AFTER"}`, q.ID)
		drain(p)
	})
	_, err := m.Handshake(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, (<-seen).Event, "BEFORE")
	assert.Equal(t, (<-seen).Event, "AFTER")
}

func TestBadPeer(t *testing.T) {
	for name, tc := range map[string]struct {
		sends string
		want  string
	}{
		"closes":          {"", "wait for qmp greeting: qmp connection closed"},
		"half a greeting": {greeting[:20], "wait for qmp greeting: qmp connection closed"},
		"garbage":         {"SSH-2.0-OpenSSH\r\n", "parse qmp message"},
		"binary":          {"\x00\xff\xfe{\n", "parse qmp message"},
		"not an object":   {"[1,2]\n", "parse qmp message"},
		"bad greeting":    {`{"QMP": []}` + "\n", "parse qmp greeting"},
		"endless line":    {strings.Repeat(" ", monitor.MaxMessage+1), "larger than"},
		"greets and goes": {greeting, "run qmp command qmp_capabilities"},
		"greets twice":    {greeting + greeting, "run qmp command qmp_capabilities"},
	} {
		t.Run(name, func(t *testing.T) {
			m := bare(t, nil, func(p *peer) { _, _ = io.WriteString(p, tc.sends) })
			_, err := m.Handshake(t.Context())
			assert.ErrorContains(t, err, tc.want)
			assert.ErrorIs(t, err, monitor.ErrClosed)
		})
	}
}

func TestSilentPeer(t *testing.T) {
	release := make(chan struct{})
	m := bare(t, nil, func(*peer) { <-release })
	defer close(release)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("had enough"))
	_, err := m.Handshake(ctx)
	assert.ErrorContains(t, err, "had enough")
}

// TestDeafPeer is a QEMU that neither reads nor answers: the context ends the
// wait for the reply and, once the buffers are full, for the write.
func TestDeafPeer(t *testing.T) {
	release := make(chan struct{})
	m := start(t, nil, func(*peer) { <-release })
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	cancelled := make(chan struct{})
	go func() {
		defer close(cancelled)
		cancel()
	}()
	assert.ErrorIs(t, m.Execute(ctx, "unanswered", nil, nil), context.Canceled)
	<-cancelled

	// Far more than a socket's buffer: cannot be written, whenever the
	// context ends.
	ctx, cancel = context.WithCancel(t.Context())
	go cancel()
	err := m.Execute(ctx, "unread", strings.Repeat("x", 8<<20), nil)
	assert.ErrorIs(t, err, context.Canceled)
}

// TestEndDuringCommands has the peer go while many wait.
func TestEndDuringCommands(t *testing.T) {
	const n = 20
	m := start(t, nil, func(p *peer) {
		for range n {
			p.next()
		}
	})
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if err := m.Execute(t.Context(), "wait", nil, nil); !errors.Is(err, monitor.ErrClosed) {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
}

func TestDisconnect(t *testing.T) {
	m := start(t, nil, drain)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { _ = m.Disconnect() })
	}
	wg.Wait()
	assert.ErrorIs(t, m.Execute(t.Context(), "x", nil, nil), monitor.ErrClosed)
}

// TestGoQEMU uses the monitor through go-qemu's interface and generated API.
func TestGoQEMU(t *testing.T) {
	m := start(t, nil, func(p *peer) {
		q, _ := p.next()
		if string(q.Arguments) != `{"size":9223372036854775807}` {
			t.Errorf("arguments are %s", q.Arguments)
		}
		p.send(`{"return": {}, "id": %q}`, q.ID)
		q, _ = p.next()
		p.send(`{"error": {"class": "GenericError", "desc": "no"}, "id": %q}`, q.ID)
		q, _ = p.next()
		p.send(`{"return": {"singlestep": false, "running": true, "status": "running"}, "id": %q}`, q.ID)
	})
	var qm qmp.Monitor = m
	reply, err := qm.Run([]byte(`{"execute": "block_resize", "arguments": {"size": 9223372036854775807}, "id": 7}`))
	assert.NilError(t, err)
	assert.Assert(t, json.Valid(reply))
	_, err = qm.Run([]byte(`{"execute": "bad"}`))
	assert.ErrorContains(t, err, "run qmp command bad: no (GenericError)")
	_, err = qm.Run([]byte(`nonsense`))
	assert.ErrorContains(t, err, "parse qmp command")

	status, err := raw.NewMonitor(qm).QueryStatus()
	assert.NilError(t, err)
	assert.Assert(t, status.Running)
}

// TestRealQEMU asks a machine without a kernel for the largest reply there is.
func TestRealQEMU(t *testing.T) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("qemu-system-x86_64 is missing: apt-get install qemu-system-x86")
	}
	path := filepath.Join(t.TempDir(), "qmp")
	l, err := net.Listen("unix", path)
	assert.NilError(t, err)
	defer l.Close()
	cmd := exec.Command(qemu, "-nodefaults", "-display", "none", "-machine", "none",
		"-chardev", "socket,id=qmp,path="+path, "-mon", "chardev=qmp,mode=control")
	cmd.Stderr = os.Stderr
	assert.NilError(t, cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	conn, err := l.Accept()
	assert.NilError(t, err)

	var mu sync.Mutex
	var events []string
	m := monitor.New(conn.(*net.UnixConn), func(e monitor.Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e.Event)
	})
	v, err := m.Handshake(t.Context())
	assert.NilError(t, err)
	assert.Assert(t, v.QEMU.Major >= 7, "%v", v)
	var schema []struct {
		Name string
	}
	assert.NilError(t, m.Execute(t.Context(), "query-qmp-schema", nil, &schema))
	assert.Assert(t, len(schema) > 500, "%d", len(schema))
	err = m.Execute(t.Context(), "no-such-command", nil, nil)
	var qe *monitor.Error
	assert.Assert(t, errors.As(err, &qe))
	assert.Equal(t, qe.Class, "CommandNotFound")
	assert.NilError(t, m.Execute(t.Context(), "quit", nil, nil))
	<-m.Done()
	mu.Lock()
	defer mu.Unlock()
	assert.DeepEqual(t, events, []string{"SHUTDOWN"})
}
