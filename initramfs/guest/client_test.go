// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/wire"
)

// client is the host's side of an agent, in a machine or in this process.
type client struct {
	w        *wire.Writer
	in       *wire.Writer
	messages chan wire.Message
	ready    *wire.Ready
	nonces   []string // of the programs, in their order
	// patience bounds every wait; it only keeps a broken test from hanging.
	patience time.Duration
	// release is what the next program that is held is let go with.
	release *wire.Release
	// gone describes the end when the agent goes without a word.
	gone func() string

	changed *sync.Cond
	out     []byte
	err     []byte
	copied  sync.WaitGroup
}

// newClient starts reading all ports and waits for Ready.
func newClient(t testing.TB, ctl io.ReadWriter, in io.Writer, out, errs io.Reader, gone func() string) *client {
	t.Helper()
	c := connect(ctl, in, out, errs, gone)
	c.ready = c.next(t).Ready
	assert.Assert(t, c.ready != nil)
	return c
}

// connect starts reading all ports.
func connect(ctl io.ReadWriter, in io.Writer, out, errs io.Reader, gone func() string) *client {
	c := &client{
		w: wire.NewWriter(ctl), in: wire.NewWriter(in), messages: make(chan wire.Message, 1000),
		patience: 5 * time.Minute, gone: gone, changed: sync.NewCond(&sync.Mutex{}),
	}
	c.collect(out, &c.out)
	c.collect(errs, &c.err)
	go func() {
		defer close(c.messages)
		r := wire.NewReader(ctl)
		for {
			msg, err := r.Receive()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					c.messages <- wire.Message{Fault: &wire.Fault{Message: "host: " + err.Error()}}
				}
				return
			}
			c.messages <- msg
		}
	}()
	return c
}

func (c *client) collect(r io.Reader, b *[]byte) {
	c.copied.Add(1)
	go func() {
		defer c.copied.Done()
		buf := make([]byte, 256<<10)
		for {
			n, err := r.Read(buf)
			c.changed.L.Lock()
			*b = append(*b, buf[:n]...)
			c.changed.Broadcast()
			c.changed.L.Unlock()
			if err != nil {
				return
			}
		}
	}()
}

// next returns the next message, and fails the test when there is none.
func (c *client) next(t testing.TB) wire.Message {
	t.Helper()
	msg := c.receive(t)
	if msg.Fault != nil {
		t.Fatalf("fault: %s", msg.Fault.Message)
	}
	return msg
}

func (c *client) receive(t testing.TB) wire.Message {
	t.Helper()
	select {
	case msg, ok := <-c.messages:
		if !ok {
			t.Fatalf("the agent went without a word: %s", c.gone())
		}
		return msg
	case <-time.After(c.patience):
		t.Fatalf("no message from the agent within %v", c.patience)
	}
	return wire.Message{}
}

// result is what became of one Run.
type result struct {
	exited   *wire.Exited
	done     *wire.Done
	files    map[string]string // "index/name" -> content, "!" and the error appended
	out, err string
}

// helperRun is a Run of this test binary as a helper.
func helperRun(name string, args ...string) wire.Run {
	return wire.Run{Argv: append([]string{self}, args...), Env: []string{helperEnv + "=" + name}}
}

// run runs one program to Done.
func (c *client) run(t testing.TB, r wire.Run) result {
	t.Helper()
	return c.start(t, r)()
}

// start starts a program and returns a function that waits for its end.
func (c *client) start(t testing.TB, r wire.Run) func() result {
	t.Helper()
	r.Nonce = fmt.Sprintf("nonce-%d", len(c.nonces)+1)
	c.changed.L.Lock()
	out, errs := len(c.out), len(c.err)
	c.changed.L.Unlock()
	assert.NilError(t, c.w.Send(wire.Message{Run: &r}))
	nonce := r.Nonce
	if c.release != nil && c.release.Nonce != "" {
		nonce = c.release.Nonce
	}
	c.nonces = append(c.nonces, nonce)
	return func() result {
		t.Helper()
		res := c.finish(t)
		assert.Equal(t, res.done.Nonce, nonce)
		// Bytes and messages come by different ports.
		c.waitOutput(t, func() bool {
			return int64(len(c.out)-out) >= res.exited.Stdout && int64(len(c.err)-errs) >= res.exited.Stderr
		})
		c.changed.L.Lock()
		defer c.changed.L.Unlock()
		res.out, res.err = string(c.out[out:]), string(c.err[errs:])
		assert.Equal(t, int64(len(res.out)), res.exited.Stdout)
		assert.Equal(t, int64(len(res.err)), res.exited.Stderr)
		return res
	}
}

// waitOutput waits until ok, called with the lock held, says so.
func (c *client) waitOutput(t testing.TB, ok func() bool) {
	t.Helper()
	timer := time.AfterFunc(c.patience, func() { c.changed.Broadcast() })
	defer timer.Stop()
	end := time.Now().Add(c.patience)
	c.changed.L.Lock()
	defer c.changed.L.Unlock()
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("output is not complete after %v: %d and %d bytes", c.patience, len(c.out), len(c.err))
		}
		c.changed.Wait()
	}
}

// waitFor waits until the whole output so far ends with, or contains, text.
func (c *client) waitFor(t testing.TB, text string) {
	t.Helper()
	c.waitOutput(t, func() bool { return bytes.Contains(c.out, []byte(text)) })
}

// finish reads messages up to Done.
func (c *client) finish(t testing.TB) result {
	t.Helper()
	res := result{files: map[string]string{}}
	for {
		switch msg := c.next(t); {
		case msg.Started != nil:
			assert.Assert(t, msg.Started.PID > 1)
		case msg.Held != nil:
			assert.Assert(t, c.release != nil, "held without being asked to")
			assert.NilError(t, c.w.Send(wire.Message{Release: c.release}))
			c.release = nil
		case msg.Exited != nil:
			assert.Assert(t, res.exited == nil)
			res.exited = msg.Exited
		case msg.Kmsg != nil: // only when the kernel has warned of something
			assert.Assert(t, res.exited != nil)
		case msg.File != nil:
			assert.Assert(t, res.exited != nil)
			assert.Assert(t, !strings.Contains(msg.File.Name, "/"))
			key := fmt.Sprintf("%d/%s", msg.File.Index, msg.File.Name)
			res.files[key] += string(msg.File.Data)
			if msg.File.Err != "" {
				res.files[key] += "!" + msg.File.Err
			}
		case msg.Done != nil:
			assert.Assert(t, res.exited != nil)
			res.done = msg.Done
			return res
		default:
			t.Fatalf("unexpected message %+v", msg)
		}
	}
}
