// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// Port is the host's end of a virtio-serial port: a stream of bytes in both
// directions. Both are bounded buffers: a guest that writes waits for the host
// to read, and the other way round. What is written before the guest has opened
// the port waits for it.
//
// Linux queues what a guest writes and reports it as written, up to hundreds of
// kilobytes (drivers/char/virtio_console.c). A guest that goes right after
// writing takes with it what the host has not read by then; one that must be
// heard to the end waits for an answer.
//
// When QEMU has gone, Read returns what is left and then io.EOF. One goroutine
// may read while another one writes.
type Port struct {
	name string
	file *os.File
}

var _ io.ReadWriteCloser = (*Port)(nil)

// Name returns the port's name as in Config.Ports.
func (p *Port) Name() string { return p.name }

// Read reads what the guest wrote.
func (p *Port) Read(b []byte) (int, error) {
	n, err := p.file.Read(b)
	// A unix socket whose peer went without reading everything we wrote says
	// so after its last byte (unix_release_sock in net/unix/af_unix.c). To
	// the reader this is an end like any other.
	if errors.Is(err, syscall.ECONNRESET) {
		err = io.EOF
	}
	return n, err
}

// Write writes to the guest. After QEMU has gone it fails with EPIPE.
func (p *Port) Write(b []byte) (int, error) { return p.file.Write(b) }

// SetReadDeadline ends a Read that waits at t with os.ErrDeadlineExceeded. The
// zero time means never.
func (p *Port) SetReadDeadline(t time.Time) error { return p.file.SetReadDeadline(t) }

// SetWriteDeadline is SetReadDeadline for Write.
func (p *Port) SetWriteDeadline(t time.Time) error { return p.file.SetWriteDeadline(t) }

// Close closes the host's end; a Read or Write under way returns os.ErrClosed.
// The guest reads the end of the stream from then on, and blocks when it writes,
// because Linux waits for a host to come back. Closing twice is no error.
func (p *Port) Close() error {
	if err := p.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close port %s: %w", p.name, err)
	}
	return nil
}

// socketpair returns a connected pair of stream sockets: ours, for Go's poller,
// and one to be inherited by QEMU.
func socketpair(name string) (ours, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair for %s: %w", name, os.NewSyscallError("socketpair", err))
	}
	theirs = os.NewFile(uintptr(fds[1]), name+" (qemu)")
	if err := syscall.SetNonblock(fds[0], true); err != nil {
		_ = syscall.Close(fds[0])
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("make socket pair for %s: %w", name, err)
	}
	return os.NewFile(uintptr(fds[0]), name), theirs, nil
}
