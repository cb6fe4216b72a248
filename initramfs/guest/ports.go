// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/internal/wire"
)

// ports are the agent's four channels.
type ports struct {
	ctl io.ReadWriter
	in  io.Reader
	out io.Writer
	err io.Writer
}

// port is a virtio port, or a blocking socket in tests. It is not an os.File
// because that may register a descriptor with the runtime's poller.
type port struct {
	fd int
	// reconnect is how long an end of file must last to be one: the port reads
	// as closed until the host's "open" message has been processed
	// (drivers/char/virtio_console.c: port_fops_read).
	reconnect time.Duration
}

func (p *port) Read(b []byte) (int, error) {
	var waited time.Duration
	for {
		n, err := unix.Read(p.fd, b)
		switch {
		case n > 0:
			return n, nil
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("read port: %w", err)
		case waited >= p.reconnect:
			return 0, io.EOF
		default:
			const step = 2 * time.Millisecond
			time.Sleep(step)
			waited += step
		}
	}
}

func (p *port) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		// The driver takes 32 KiB at a time (port_fops_write).
		n, err := unix.Write(p.fd, b[done:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return done, fmt.Errorf("write port: %w", err)
		}
		done += n
	}
	return done, nil
}

const virtioPorts = "/sys/class/virtio-ports"

// openPorts finds the ports by name and opens them.
func openPorts(sys system, timeout time.Duration) (*ports, error) {
	deadline := time.Now().Add(timeout)
	fds := map[string]int{}
	for {
		names, err := sys.readDir(virtioPorts)
		if err != nil {
			return nil, fmt.Errorf("no virtio console port %s: %w: kernel needs CONFIG_VIRTIO_CONSOLE=y (or its module, with a modules directory) and CONFIG_VIRTIO_PCI", wire.PortControl, err)
		}
		for _, e := range names {
			text, err := sys.readFile(path.Join(virtioPorts, e, "name"))
			if err != nil {
				continue // not announced yet
			}
			name := strings.TrimSpace(text)
			if _, ok := fds[name]; ok || !isOurs(name) {
				continue
			}
			fd, err := openPort(sys, e)
			if err != nil {
				return nil, fmt.Errorf("open virtio console port %s: %w", name, err)
			}
			fds[name] = fd
		}
		if len(fds) == len(wire.Ports) {
			break
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("no virtio console port %s within %v: kernel needs CONFIG_VIRTIO_CONSOLE=y (or its module, with a modules directory) and CONFIG_VIRTIO_PCI", missing(fds), timeout)
		}
		time.Sleep(500 * time.Microsecond)
	}
	p := func(name string) *port { return &port{fd: fds[name], reconnect: time.Second} }
	in := p(wire.PortStdin)
	return &ports{ctl: p(wire.PortControl), in: in, out: p(wire.PortStdout), err: p(wire.PortStderr)}, nil
}

func isOurs(name string) bool {
	for _, p := range wire.Ports {
		if p == name {
			return true
		}
	}
	return false
}

func missing(fds map[string]int) string {
	for _, p := range wire.Ports {
		if _, ok := fds[p]; !ok {
			return p
		}
	}
	return ""
}

// openPort opens /dev/NAME, making it first where the kernel has no devtmpfs.
func openPort(sys system, name string) (int, error) {
	dev := "/dev/" + name
	fd, err := unix.Open(dev, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	text, err := sys.readFile(path.Join(virtioPorts, name, "dev"))
	if err != nil {
		return -1, err
	}
	maj, mnr, _ := strings.Cut(strings.TrimSpace(text), ":")
	a, err1 := strconv.ParseUint(maj, 10, 32)
	b, err2 := strconv.ParseUint(mnr, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return -1, err
	}
	if err := unix.Mknod(dev, unix.S_IFCHR|0o600, int(unix.Mkdev(uint32(a), uint32(b)))); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return unix.Open(dev, unix.O_RDWR|unix.O_CLOEXEC, 0)
}
