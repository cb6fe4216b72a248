// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
)

// truncationMark is written once where the console file stops.
const truncationMark = "\n[kvmrun: console file limit of %d bytes reached, the rest is not kept]\n"

// console copies the serial console from QEMU's pipe into the file and then to
// the writer.
type console struct {
	r     *os.File
	file  *os.File
	w     io.Writer
	limit int64

	total atomic.Int64
	first chan struct{} // closed at the first byte
	done  chan struct{} // closed when all is copied and the file is closed

	// Owned by run, and by everybody after done.
	truncated bool
	err       error
}

func newConsole(r, file *os.File, w io.Writer, limit int64) *console {
	return &console{
		r: r, file: file, w: w, limit: limit,
		first: make(chan struct{}),
		done:  make(chan struct{}),
	}
}

// run reads to the pipe's end. It goes on reading when the file or the writer
// fails, because a console nobody reads stops the guest.
func (c *console) run() {
	defer close(c.done)
	defer c.r.Close() //nolint:errcheck // opened for reading
	buf := make([]byte, 64<<10)
	var kept int64
	fileOK, writerOK := true, c.w != nil
	for {
		n, err := c.r.Read(buf)
		if n > 0 {
			if c.total.Add(int64(n)) == int64(n) {
				close(c.first)
			}
			if fileOK {
				part := buf[:n]
				if room := c.limit - kept; int64(n) > room {
					part = part[:room]
				}
				if _, werr := c.file.Write(part); werr != nil {
					c.fail(fmt.Errorf("write console file: %w", werr))
					fileOK = false
				}
				kept += int64(len(part))
				if fileOK && len(part) < n {
					c.truncated = true
					fileOK = false
					if _, werr := fmt.Fprintf(c.file, truncationMark, c.limit); werr != nil {
						c.fail(fmt.Errorf("write console file: %w", werr))
					}
				}
			}
			if writerOK {
				if _, werr := c.w.Write(buf[:n]); werr != nil {
					c.fail(fmt.Errorf("pass on console: %w", werr))
					writerOK = false
				}
			}
		}
		if err != nil {
			if err != io.EOF {
				c.fail(fmt.Errorf("read console: %w", err))
			}
			break
		}
	}
	if err := c.file.Close(); err != nil {
		c.fail(fmt.Errorf("close console file: %w", err))
	}
}

func (c *console) fail(err error) { c.err = errors.Join(c.err, err) }

// Bounds of what is kept of QEMU's own messages, in bytes.
const (
	stderrHead = 16 << 10
	stderrTail = 48 << 10
)

// bounded is a writer that keeps the first and the last part. It is written by
// one goroutine (os/exec's) and read after that has ended.
type bounded struct {
	head, tail []byte
	lost       int64
}

func (b *bounded) Write(p []byte) (int, error) {
	n := len(p)
	if room := stderrHead - len(b.head); room > 0 {
		k := min(room, len(p))
		b.head = append(b.head, p[:k]...)
		p = p[k:]
	}
	b.tail = append(b.tail, p...)
	if over := len(b.tail) - stderrTail; over > 0 {
		b.lost += int64(over)
		b.tail = append(b.tail[:0], b.tail[over:]...)
	}
	return n, nil
}

func (b *bounded) String() string {
	if b.lost == 0 {
		return string(b.head) + string(b.tail)
	}
	return fmt.Sprintf("%s\n[%d bytes left out]\n%s", b.head, b.lost, b.tail)
}
