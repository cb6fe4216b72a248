// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// startRelay is a relay from a pipe.
func startRelay(t *testing.T, w io.Writer) (*relay, *os.File) {
	t.Helper()
	from, to, err := os.Pipe()
	assert.NilError(t, err)
	t.Cleanup(func() { _ = from.Close() })
	r := newRelay("standard output", from, w, nil, func() {})
	return r, to
}

// gate is a writer that does not return before it is opened.
type gate struct {
	open, entered chan struct{}
	b             bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	g.entered <- struct{}{}
	<-g.open
	return g.b.Write(p)
}

// TestRelayJoin: the bytes that a reader does not take are counted, and it gets
// none of them later.
func TestRelayJoin(t *testing.T) {
	old := readerLimit
	readerLimit = 50 * time.Millisecond
	defer func() { readerLimit = old }()
	g := &gate{open: make(chan struct{}), entered: make(chan struct{}, 10)}
	r, to := startRelay(t, g)
	_, err := to.WriteString("taken")
	assert.NilError(t, err)
	<-g.entered
	_, err = to.WriteString("never taken")
	assert.NilError(t, err)
	assert.ErrorContains(t, r.wait(t.Context(), 16, time.Hour), "took nothing for 50ms, and 16 of 16 bytes are left")
	assert.NilError(t, to.Close())
	assert.Error(t, r.join(t.Context()), "the reader of the program's standard output took nothing for 50ms: 16 bytes that it had printed were lost")
	close(g.open)
	<-r.done
	assert.Equal(t, g.b.String(), "taken")

	// Whoever wants to stop does not wait for such a reader.
	readerLimit = time.Hour
	g = &gate{open: make(chan struct{}), entered: make(chan struct{}, 10)}
	r, to = startRelay(t, g)
	_, err = to.WriteString("taken")
	assert.NilError(t, err)
	<-g.entered
	assert.NilError(t, to.Close())
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	assert.ErrorContains(t, r.join(ctx), "5 bytes that it had printed were lost")
	close(g.open)
	<-r.done
}

// lazy is a writer slower than the relay's limits for the guest.
type lazy struct{ b bytes.Buffer }

func (l *lazy) Write(p []byte) (int, error) {
	time.Sleep(30 * time.Millisecond)
	return l.b.Write(p)
}

// TestRelaySlow: a reader's slowness is not the guest's, and all arrives.
func TestRelaySlow(t *testing.T) {
	l := &lazy{}
	r, to := startRelay(t, l)
	text := strings.Repeat("x", 200<<10)
	go func() {
		_, _ = to.WriteString(text)
		_ = to.Close()
	}()
	assert.NilError(t, r.wait(t.Context(), int64(len(text)), 10*time.Millisecond))
	assert.NilError(t, r.join(t.Context()))
	assert.Equal(t, l.b.String(), text)
	// The guest's own silence is short.
	silent, idle := startRelay(t, nil)
	defer idle.Close()
	assert.ErrorContains(t, silent.wait(t.Context(), 1, time.Millisecond), "announced 1 bytes of output, sent 0 and stopped")
}

// TestPatience: only silence counts, and of that only what is the machine's own.
func TestPatience(t *testing.T) {
	var said int64
	var held time.Duration
	p := newPatience(80*time.Second, func() int64 { return said }, func() Waits { return Waits{"1": held, "2": held} })
	pass := func(d time.Duration) time.Duration {
		p.began, p.seen = p.began.Add(-d), p.seen.Add(-d)
		return p.left()
	}
	assert.Equal(t, pass(time.Second), 10*time.Second)
	assert.Assert(t, pass(75*time.Second) <= 4*time.Second)
	said++
	assert.Equal(t, pass(5*time.Second), 10*time.Second)
	held += 200 * time.Second // of which the last 100
	assert.Equal(t, pass(100*time.Second), 10*time.Second)
	held += 30 * time.Second
	assert.Equal(t, pass(60*time.Second), 10*time.Second)
	assert.Equal(t, pass(51*time.Second), time.Duration(0))
	assert.Equal(t, p.why(), "1m20s without a word in the kernel log")

	p = newPatience(80*time.Second, func() int64 { said++; return said }, func() Waits { return nil })
	for range 13 {
		assert.Assert(t, pass(60*time.Second) > 0)
	}
	assert.Equal(t, pass(60*time.Second), time.Duration(0))
	assert.Equal(t, p.why(), "13m20s")

	p = newPatience(1<<63-1, func() int64 { return 0 }, func() Waits { return nil })
	assert.Equal(t, pass(time.Hour), time.Duration(1<<63-1))
}

// TestStarved: somebody has to wait in this process at some time.
func TestStarved(t *testing.T) {
	if _, err := os.Stat("/proc/self/task"); err != nil {
		t.Skipf("no /proc: %v", err)
	}
	if _, err := os.Stat("/proc/self/schedstat"); err != nil {
		t.Skip("the host's kernel does not count waiting: it lacks CONFIG_SCHED_INFO")
	}
	assert.Assert(t, Starved(os.Getpid()).since(nil) > 0)
	assert.Equal(t, len(Starved(0)), 0)
}
