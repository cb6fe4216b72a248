// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/vmtest"
)

// machine is a booted guest whose /init is this test binary.
type machine struct {
	vm       *vmtest.VM
	w        *wire.Writer
	in       *wire.Writer
	messages <-chan wire.Message
	console  string
	ready    *wire.Ready

	mu       sync.Mutex
	out, err bytes.Buffer
	copied   sync.WaitGroup
}

func boot(t testing.TB, s initramfs.Spec, c vmtest.Config) *machine {
	t.Helper()
	c.Kernel = kernel(t)
	self, err := os.Executable()
	assert.NilError(t, err)
	s.Init = self
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	c.Initrd, err = initramfs.Build(ctx, s, openCache(t), func(l string) { t.Log(l) })
	assert.NilError(t, err)
	c.Ports = wire.Ports
	c.ConsoleFile = filepath.Join(t.TempDir(), "console.log")
	c.Accel = vmtest.AccelTCG
	if c.MemoryMiB == 0 {
		c.MemoryMiB = 768
	}
	vm, err := vmtest.Start(ctx, c)
	assert.NilError(t, err)
	m := &machine{vm: vm, console: c.ConsoleFile}
	t.Cleanup(func() {
		assert.NilError(t, vm.Close())
		m.copied.Wait()
		if t.Failed() {
			log, _ := os.ReadFile(m.console)
			t.Logf("kernel log:\n%s", log)
		}
	})
	ports := map[string]*vmtest.Port{}
	for _, name := range wire.Ports {
		ports[name] = vm.Port(name)
	}
	m.w, m.in = wire.NewWriter(ports[wire.PortControl]), wire.NewWriter(ports[wire.PortStdin])
	m.collect(ports[wire.PortStdout], &m.out)
	m.collect(ports[wire.PortStderr], &m.err)
	messages := make(chan wire.Message, 1000)
	m.messages = messages
	go func() {
		defer close(messages)
		r := wire.NewReader(ports[wire.PortControl])
		for {
			msg, err := r.Receive()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					messages <- wire.Message{Fault: &wire.Fault{Message: "host: " + err.Error()}}
				}
				return
			}
			messages <- msg
		}
	}()
	m.ready = m.next(t).Ready
	assert.Assert(t, m.ready != nil)
	return m
}

func (m *machine) collect(r io.Reader, b *bytes.Buffer) {
	m.copied.Add(1)
	go func() {
		defer m.copied.Done()
		buf := make([]byte, 64<<10)
		for {
			n, err := r.Read(buf)
			m.mu.Lock()
			b.Write(buf[:n])
			m.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
}

// next returns the next message, and fails the test when there is none.
func (m *machine) next(t testing.TB) wire.Message {
	t.Helper()
	select {
	case msg, ok := <-m.messages:
		if !ok {
			exit := m.vm.Wait()
			t.Fatalf("the guest went without a word: %+v", exit)
		}
		if msg.Fault != nil {
			t.Fatalf("fault: %s", msg.Fault.Message)
		}
		return msg
	case <-time.After(5 * time.Minute):
		t.Fatal("no message from the guest within 5 minutes")
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

// run runs one program to Done.
func (m *machine) run(t testing.TB, r wire.Run) result {
	t.Helper()
	m.mu.Lock()
	outFrom, errFrom := m.out.Len(), m.err.Len()
	m.mu.Unlock()
	r.Nonce = fmt.Sprintf("nonce-%d", time.Now().UnixNano())
	assert.NilError(t, m.w.Send(wire.Message{Run: &r}))
	res := m.finish(t)
	assert.Equal(t, res.done.Nonce, r.Nonce)
	// Bytes and messages come by different ports.
	deadline := time.Now().Add(time.Minute)
	for {
		m.mu.Lock()
		out, errs := m.out.String()[outFrom:], m.err.String()[errFrom:]
		m.mu.Unlock()
		if int64(len(out)) >= res.exited.Stdout && int64(len(errs)) >= res.exited.Stderr {
			assert.Equal(t, int64(len(out)), res.exited.Stdout)
			assert.Equal(t, int64(len(errs)), res.exited.Stderr)
			res.out, res.err = out, errs
			return res
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %d and %d bytes of output, the guest said %d and %d", len(out), len(errs), res.exited.Stdout, res.exited.Stderr)
		}
		time.Sleep(time.Millisecond)
	}
}

// finish reads messages up to Done.
func (m *machine) finish(t testing.TB) result {
	t.Helper()
	res := result{files: map[string]string{}}
	for {
		switch msg := m.next(t); {
		case msg.Started != nil:
			assert.Assert(t, msg.Started.PID > 1)
		case msg.Exited != nil:
			assert.Assert(t, res.exited == nil)
			res.exited = msg.Exited
		case msg.File != nil:
			assert.Assert(t, res.exited != nil)
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

// shutdown powers off and checks that the machine did.
func (m *machine) shutdown(t testing.TB) {
	t.Helper()
	assert.NilError(t, m.w.Send(wire.Message{Shutdown: &wire.Shutdown{}}))
	exit := m.vm.Wait()
	assert.Equal(t, exit.Cause, vmtest.PowerOff, "%+v", exit)
}

func (m *machine) log(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(m.console)
	assert.NilError(t, err)
	return string(b)
}

func TestVMAgent(t *testing.T) {
	m := boot(t, initramfs.Spec{}, vmtest.Config{})
	t.Logf("%+v", m.ready)
	assert.Equal(t, m.ready.Version, wire.Version)
	assert.Equal(t, len(m.ready.Warnings), 0)
	res := m.run(t, wire.Run{Argv: []string{"/init", "-test.list=VMAgent"}})
	assert.Equal(t, res.exited.Code, 0)
	assert.Equal(t, res.out, "TestVMAgent\n")
	assert.Equal(t, len(res.done.Warnings), 0)
	m.shutdown(t)
	assert.Assert(t, strings.Contains(m.log(t), wire.EndMark(res.done.Nonce)))
}
