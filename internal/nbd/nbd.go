// SPDX-License-Identifier: Apache-2.0

// Package nbd is a disk server with a memory of what a power cut would lose: it
// speaks the NBD protocol (https://github.com/NetworkBlockDevice/nbd,
// doc/proto.md) with one client, QEMU, over one connection, and serves a file.
//
// It behaves as a disk with a volatile cache. A write is in the file at once,
// where everybody sees it; until the client flushes, what was there before is
// remembered, and [Disk.Cut] brings it back. Forced writes (FUA) are not offered,
// so that the client flushes instead.
//
// A [Disk]'s Before is asked before each request is carried out, in the order
// of the requests, and may let it fail: so faults and power cuts happen at an
// exact request.
//
// The client is as hostile as the guest behind it: offsets and lengths are
// checked against the file's size, and a request is at most MaxRequest bytes.
//
// It must not know who the guest is, nor what faults are planned.
package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// Op is a kind of request.
type Op int

// The requests that are told apart. Writing zeroes and discarding are writes.
const (
	Read Op = iota
	Write
	Flush
)

// MaxRequest bounds a request's length, in bytes: what QEMU's client sends at
// most (NBD_MAX_BUFFER_SIZE, include/block/nbd.h).
const MaxRequest = 32 << 20

// maxUndo bounds what is remembered of unflushed writes, in bytes. Beyond it the
// oldest are kept for good, as any disk may write out what it likes.
const maxUndo = 256 << 20

// ErrCut is what Before returns to cut the power: nothing more is carried out or
// answered.
var ErrCut = errors.New("the power was cut")

// Disk serves one file. Set the fields before Serve.
type Disk struct {
	// File is the disk; it is the caller's.
	File *os.File
	// Before is called for every request, n counting those of its kind from 1.
	// An error that is a syscall.Errno is the answer (EIO, ENOSPC), ErrCut ends
	// it all. Nil for none.
	Before func(op Op, n uint64) error

	mu    sync.Mutex
	count [3]uint64
	undo  []undo
	size  int // of undo's data
	cut   bool
}

// undo is what was at an offset before a write.
type undo struct {
	at  int64
	old []byte
}

// The protocol's numbers.
const (
	magicServer  = 0x4e42444d41474943 // NBDMAGIC
	magicOption  = 0x49484156454f5054 // IHAVEOPT
	magicReply   = 0x3e889045565a9
	magicRequest = 0x25609513
	magicSimple  = 0x67446698

	fixedNewstyle, noZeroes = 1, 2

	optExportName, optAbort, optInfo, optGo = 1, 2, 6, 7

	repAck, repInfo   = 1, 3
	repErrUnsupported = 1<<31 + 1

	hasFlags, sendFlush, sendTrim, sendZeroes = 1, 4, 32, 64

	cmdRead, cmdWrite, cmdDisconnect, cmdFlush, cmdTrim, cmdZeroes = 0, 1, 2, 3, 4, 6

	maxOption = 64 << 10
)

// Serve serves the client until it disconnects, which is no error, or the power
// is cut, which is ErrCut. It does not close the connection.
func (d *Disk) Serve(c net.Conn) error {
	st, err := d.File.Stat()
	if err != nil {
		return fmt.Errorf("serve disk: %w", err)
	}
	err = d.greet(c, st.Size())
	for err == nil {
		err = d.serveOne(c, st.Size())
	}
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	if errors.Is(err, ErrCut) {
		return ErrCut
	}
	return fmt.Errorf("serve disk: %w", err)
}

// greet goes through the negotiation, until the client wants to begin.
func (d *Disk) greet(c net.Conn, size int64) error {
	be := binary.BigEndian
	hello := be.AppendUint64(be.AppendUint64(nil, magicServer), magicOption)
	if _, err := c.Write(be.AppendUint16(hello, fixedNewstyle|noZeroes)); err != nil {
		return err
	}
	var flags [4]byte
	if _, err := io.ReadFull(c, flags[:]); err != nil {
		return err
	}
	export := be.AppendUint64(nil, uint64(size))
	export = be.AppendUint16(export, hasFlags|sendFlush|sendTrim|sendZeroes)
	reply := func(opt, kind uint32, data []byte) error {
		b := be.AppendUint64(nil, magicReply)
		b = be.AppendUint32(be.AppendUint32(b, opt), kind)
		b = append(be.AppendUint32(b, uint32(len(data))), data...)
		_, err := c.Write(b)
		return err
	}
	for {
		var head [16]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return err
		}
		opt, n := be.Uint32(head[8:]), be.Uint32(head[12:])
		if be.Uint64(head[:]) != magicOption || n > maxOption {
			return errors.New("the client does not speak NBD")
		}
		if _, err := io.CopyN(io.Discard, c, int64(n)); err != nil {
			return err
		}
		var err error
		switch opt {
		case optExportName:
			if be.Uint32(flags[:])&noZeroes == 0 {
				export = append(export, make([]byte, 124)...)
			}
			_, err = c.Write(export)
			return err
		case optInfo, optGo:
			if err = reply(opt, repInfo, append([]byte{0, 0}, export...)); err == nil {
				err = reply(opt, repAck, nil)
			}
			if err == nil && opt == optGo {
				return nil
			}
		case optAbort:
			return io.EOF
		default:
			err = reply(opt, repErrUnsupported, nil)
		}
		if err != nil {
			return err
		}
	}
}

func (d *Disk) serveOne(c net.Conn, size int64) error {
	be := binary.BigEndian
	var head [28]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	if be.Uint32(head[:]) != magicRequest {
		return errors.New("the client sent no request")
	}
	cmd, handle := be.Uint16(head[6:]), head[8:16]
	at, n := be.Uint64(head[16:]), be.Uint32(head[24:])
	var data []byte
	if cmd == cmdWrite {
		if n > MaxRequest {
			return fmt.Errorf("a write of %d bytes is too long", n)
		}
		data = make([]byte, n)
		if _, err := io.ReadFull(c, data); err != nil {
			return err
		}
	}
	answer, err := d.do(cmd, at, n, data, size)
	var errno syscall.Errno
	switch {
	case errors.Is(err, ErrCut), errors.Is(err, io.EOF):
		return err
	case err != nil && !errors.As(err, &errno):
		errno = syscall.EIO
	}
	out := be.AppendUint32(be.AppendUint32(nil, magicSimple), uint32(errno)) // the protocol's numbers are Linux's
	out = append(out, handle...)
	if errno == 0 {
		out = append(out, answer...)
	}
	_, err = c.Write(out)
	return err
}

// do carries out a request.
func (d *Disk) do(cmd uint16, at uint64, n uint32, data []byte, size int64) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cut {
		return nil, ErrCut
	}
	if cmd == cmdDisconnect {
		return nil, io.EOF
	}
	if cmd != cmdFlush && (n > MaxRequest && cmd == cmdRead || at > uint64(size) || uint64(n) > uint64(size)-at) {
		return nil, syscall.EINVAL
	}
	op := Write
	switch cmd {
	case cmdRead:
		op = Read
	case cmdFlush:
		op = Flush
	case cmdWrite, cmdTrim, cmdZeroes:
	default:
		return nil, syscall.EINVAL
	}
	d.count[op]++
	if d.Before != nil {
		if err := d.Before(op, d.count[op]); err != nil {
			d.cut = d.cut || errors.Is(err, ErrCut)
			return nil, err
		}
	}
	switch cmd {
	case cmdRead:
		out := make([]byte, n)
		_, err := d.File.ReadAt(out, int64(at))
		return out, err
	case cmdFlush:
		d.undo, d.size = nil, 0
	case cmdWrite:
		return nil, d.write(int64(at), data)
	case cmdZeroes:
		zero := make([]byte, min(n, 1<<20))
		for done := uint32(0); done < n; done += uint32(len(zero)) {
			if err := d.write(int64(at)+int64(done), zero[:min(uint32(len(zero)), n-done)]); err != nil {
				return nil, err
			}
		}
	case cmdTrim:
		// What is discarded may read as anything, so as before.
	}
	return nil, nil
}

func (d *Disk) write(at int64, data []byte) error {
	old := make([]byte, len(data))
	if _, err := d.File.ReadAt(old, at); err != nil {
		return err
	}
	d.undo = append(d.undo, undo{at, old})
	for d.size += len(old); d.size > maxUndo; d.undo = d.undo[1:] {
		d.size -= len(d.undo[0].old)
	}
	_, err := d.File.WriteAt(data, at)
	return err
}

// Counts returns how many requests of each kind there were.
func (d *Disk) Counts() (reads, writes, flushes uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.count[Read], d.count[Write], d.count[Flush]
}

// Cut cuts the power: nothing more is carried out, and what was not flushed is
// undone in the file. It returns how many writes that were.
func (d *Disk) Cut() (lost int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut = true
	for i := len(d.undo) - 1; i >= 0; i-- {
		if _, err := d.File.WriteAt(d.undo[i].old, d.undo[i].at); err != nil {
			return lost, fmt.Errorf("undo unflushed writes: %w", err)
		}
		lost++
	}
	d.undo, d.size = nil, 0
	return lost, nil
}
