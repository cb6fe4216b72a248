// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// maxTail bounds what of a stream's end is kept for the autopsy, in bytes: room
// for the stacks of some hundred goroutines.
const maxTail = 256 << 10

// readerLimit is how long the reader of a program's output may take nothing of
// it. Whoever looks at the output in a pager reads slowly, and comes back.
var readerLimit = 10 * time.Minute

// interruptedLimit is readerLimit for somebody who has asked us to stop.
const interruptedLimit = time.Second

// relay passes on what comes from a port, and counts.
type relay struct {
	name  string
	from  io.Reader
	w     io.Writer // nil for nobody
	first func()    // called before the first byte is passed on

	done chan struct{} // closed when nobody reads the port any more

	mu     sync.Mutex
	n      int64  // bytes that were passed on, or would have been
	busy   int64  // bytes that w is taking just now
	tail   []byte // the last of it, see keepTail
	change chan struct{}
	ended  bool
	left   bool // nothing is passed on any more
	werr   error
}

// newRelay passes on what comes from a port; had is what was said before, and first
// is called before the first byte after that.
func newRelay(name string, from io.Reader, w io.Writer, had []byte, first func()) *relay {
	r := &relay{name: name, from: from, w: w, first: first, done: make(chan struct{}), change: make(chan struct{})}
	go func() {
		defer close(r.done)
		if len(had) > 0 && !r.pass(had) {
			return
		}
		r.run()
	}()
	return r
}

func (r *relay) run() {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.from.Read(buf)
		if n > 0 {
			r.first()
			if !r.pass(buf[:n]) {
				return
			}
		}
		if err != nil {
			r.mu.Lock()
			r.ended = true
			r.changed()
			r.mu.Unlock()
			return
		}
	}
}

// pass passes p on. It returns false when that was the last that was wanted.
func (r *relay) pass(p []byte) bool {
	r.mu.Lock()
	// After an error we go on draining: the guest must not stall on us.
	take := r.w != nil && r.werr == nil
	r.busy = int64(len(p))
	r.mu.Unlock()
	var err error
	if take {
		_, err = r.w.Write(p)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.werr = fmt.Errorf("write the program's output: %w", err)
	}
	r.busy = 0
	r.n += int64(len(p))
	r.keepTail(p)
	r.changed()
	return !r.left
}

// changed wakes those who wait. To be called with mu held.
func (r *relay) changed() {
	close(r.change)
	r.change = make(chan struct{})
}

// keepTail is to be called with mu held.
func (r *relay) keepTail(p []byte) {
	r.tail = append(r.tail, p...)
	if over := len(r.tail) - maxTail; over > 0 {
		r.tail = append(r.tail[:0], r.tail[over:]...)
	}
}

func (r *relay) count() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

func (r *relay) end() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.tail)
}

// wait returns nil when at least n bytes were passed on. limit is how long the
// guest may send nothing before that; the reader has readerLimit.
func (r *relay) wait(ctx context.Context, n int64, limit time.Duration) error {
	for since := time.Now(); ; {
		r.mu.Lock()
		have, busy, change, ended, werr := r.n, r.busy, r.change, r.ended, r.werr
		r.mu.Unlock()
		still := limit
		if busy > 0 {
			still = readerLimit
		}
		switch {
		case werr != nil:
			return werr
		case have >= n:
			return nil
		case ended:
			return fmt.Errorf("the guest announced %d bytes of output and sent %d", n, have)
		case time.Since(since) >= still && busy > 0:
			return fmt.Errorf("the reader of the program's %s took nothing for %s, and %d of %d bytes are left", r.name, still, n-have, n)
		case time.Since(since) >= still:
			return fmt.Errorf("the guest announced %d bytes of output, sent %d and stopped", n, have)
		}
		select {
		case <-change:
			since = time.Now()
		case <-time.After(still - time.Since(since)):
		case <-ctx.Done():
			return fmt.Errorf("interrupted: %w", context.Cause(ctx))
		}
	}
}

// join waits, once the machine is gone, until all that it had sent was passed on.
// A reader that takes nothing for long loses the rest; the error says how much
// that is, or what else went wrong.
func (r *relay) join(ctx context.Context) error {
	for since := time.Now(); ; {
		r.mu.Lock()
		busy, change, still := r.busy, r.change, readerLimit
		stop := ctx.Done()
		if ctx.Err() != nil {
			still, stop = interruptedLimit, nil
		}
		if busy > 0 && time.Since(since) >= still {
			r.left = true // it does not touch the port any more
			r.mu.Unlock()
			return fmt.Errorf("the reader of the program's %s took nothing for %s: %d bytes that it had printed were lost", r.name, still, busy+r.drain())
		}
		r.mu.Unlock()
		select {
		case <-r.done:
			return r.err()
		case <-change:
			since = time.Now()
		case <-time.After(max(still-time.Since(since), time.Millisecond)): // what is not with the reader takes no time
		case <-stop:
			since = time.Now()
		}
	}
}

func (r *relay) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.werr
}

// drain counts what is left in the port.
func (r *relay) drain() (n int64) {
	buf := make([]byte, 64<<10)
	for {
		k, err := r.from.Read(buf)
		n += int64(k)
		if err != nil {
			return n
		}
	}
}
