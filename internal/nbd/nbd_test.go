// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"gotest.tools/v3/assert"
)

// client is the least of an NBD client. What QEMU makes of the server is tested
// in package suiterun.
type client struct {
	t    *testing.T
	c    net.Conn
	size uint64
}

func serve(t *testing.T, before func(Op, uint64) error) (*client, *Disk, chan error) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	assert.NilError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	assert.NilError(t, f.Truncate(1<<20))
	a, b := net.Pipe()
	t.Cleanup(func() { _ = a.Close() })
	d := &Disk{File: f, Before: before}
	ended := make(chan error, 1)
	go func() {
		ended <- d.Serve(b)
		_ = b.Close()
	}()
	c := &client{t: t, c: a}
	c.want(18)
	c.send(uint32(fixedNewstyle | noZeroes))
	c.send(uint64(magicOption), uint32(8), uint32(0)) // structured replies
	assert.Equal(t, binary.BigEndian.Uint32(c.want(20)[12:]), uint32(repErrUnsupported))
	c.send(uint64(magicOption), uint32(optGo), uint32(6), uint32(0), uint16(0))
	info := c.want(20 + 12)
	c.size = binary.BigEndian.Uint64(info[22:])
	c.want(20)
	return c, d, ended
}

func (c *client) send(values ...any) {
	for _, v := range values {
		assert.NilError(c.t, binary.Write(c.c, binary.BigEndian, v))
	}
}

func (c *client) want(n int) []byte {
	b := make([]byte, n)
	_, err := io.ReadFull(c.c, b)
	assert.NilError(c.t, err)
	return b
}

func (c *client) request(cmd uint16, at uint64, n uint32, data []byte) {
	c.send(uint32(magicRequest), uint16(0), cmd, uint64(7), at, n)
	if len(data) > 0 {
		_, err := c.c.Write(data)
		assert.NilError(c.t, err)
	}
}

// do returns the errno and what was read.
func (c *client) do(cmd uint16, at uint64, n uint32, data []byte) (syscall.Errno, []byte) {
	c.request(cmd, at, n, data)
	head := c.want(16)
	assert.Equal(c.t, binary.BigEndian.Uint64(head[8:]), uint64(7))
	errno := syscall.Errno(binary.BigEndian.Uint32(head[4:]))
	if errno != 0 || cmd != cmdRead {
		return errno, nil
	}
	return 0, c.want(int(n))
}

func TestCut(t *testing.T) {
	var cutAt uint64
	c, d, ended := serve(t, func(op Op, n uint64) error {
		if op == Write && n == cutAt {
			return ErrCut
		}
		return nil
	})
	assert.Equal(t, c.size, uint64(1<<20))
	write := func(at uint64, s string) {
		errno, _ := c.do(cmdWrite, at, uint32(len(s)), []byte(s))
		assert.Equal(t, errno, syscall.Errno(0))
	}
	read := func(at uint64, n uint32) string {
		errno, b := c.do(cmdRead, at, n, nil)
		assert.Equal(t, errno, syscall.Errno(0))
		return string(b)
	}
	write(0, "flushed.")
	errno, _ := c.do(cmdFlush, 0, 0, nil)
	assert.Equal(t, errno, syscall.Errno(0))
	write(4, "lost")
	write(2, "twice")
	errno, _ = c.do(cmdZeroes, 0, 2, nil)
	assert.Equal(t, errno, syscall.Errno(0))
	assert.Equal(t, read(0, 8), "\x00\x00twicet")
	r, w, f := d.Counts()
	assert.DeepEqual(t, []uint64{r, w, f}, []uint64{1, 4, 1})
	cutAt = 5
	c.request(cmdWrite, 0, 3, []byte("cut"))
	assert.Assert(t, errors.Is(<-ended, ErrCut))
	lost, err := d.Cut()
	assert.NilError(t, err)
	assert.Equal(t, lost, 3)
	b := make([]byte, 8)
	_, err = d.File.ReadAt(b, 0)
	assert.NilError(t, err)
	assert.Equal(t, string(b), "flushed.")
}

func TestErrors(t *testing.T) {
	c, _, ended := serve(t, func(op Op, n uint64) error {
		if op == Write && n == 2 {
			return syscall.ENOSPC
		}
		if op == Read {
			return syscall.EIO
		}
		return nil
	})
	for _, want := range []syscall.Errno{0, syscall.ENOSPC, 0} {
		errno, _ := c.do(cmdWrite, 0, 1, []byte("x"))
		assert.Equal(t, errno, want)
	}
	for _, r := range []struct {
		cmd  uint16
		at   uint64
		n    uint32
		want syscall.Errno
	}{
		{cmdRead, 0, 1, syscall.EIO},
		{cmdRead, 1 << 20, 1, syscall.EINVAL},
		{cmdRead, ^uint64(0), 1, syscall.EINVAL},
		{cmdRead, 0, MaxRequest + 1, syscall.EINVAL},
		{cmdZeroes, 1<<20 - 1, 2, syscall.EINVAL},
		{cmdTrim, 0, 1 << 20, 0},
		{99, 0, 0, syscall.EINVAL},
	} {
		errno, _ := c.do(r.cmd, r.at, r.n, nil)
		assert.Equal(t, errno, r.want, "%+v", r)
	}
	c.request(cmdDisconnect, 0, 0, nil)
	assert.NilError(t, <-ended)
}

func TestGarbage(t *testing.T) {
	c, _, ended := serve(t, nil)
	c.send([28]byte{})
	assert.ErrorContains(t, <-ended, "no request")
}
