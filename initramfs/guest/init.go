// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// RunAsInit runs main as the whole of what a machine does: it sets the machine up as
// for the agent (mounts, the archive's modules, limits, PATH), calls main and powers
// the machine off when that returns. It never returns itself.
//
// What could not be set up is a line in the kernel log. So is an error of main, and a
// panic with its stack; the lines begin with "kvmrun: fatal: ". What main has written
// to a port is lost when the host has not read it by the time of the power-off: let
// the host have the last word, as by closing its end.
//
// There is no agent in such a machine: nobody serves kvmrun's own protocol, and
// children that main does not wait for stay zombies.
func RunAsInit(main func() error) {
	sys := &linux{}
	defer dieOnPanic(sys)
	ignoreLibcSignals()
	runtime.GOMAXPROCS(max(runtime.NumCPU(), 4)) // for ports' blocking reads, as in Main
	_, boot, err := setUp(sys, func() (*ports, error) { return nil, nil })
	if err != nil {
		die(sys, err.Error())
	}
	for _, w := range append(boot.warnings, <-boot.late...) {
		sys.kernelLog("kvmrun: " + w)
	}
	if os.Getenv("PATH") == "" {
		if err := os.Setenv("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"); err != nil {
			die(sys, err.Error())
		}
	}
	if err := main(); err != nil {
		die(sys, err.Error())
	}
	sys.sync()
	sys.powerOff()
}

// OpenPort opens a virtio-serial port by the name that it has on the host
// (vmtest.Config.Ports), for reading and writing. It waits until the host is
// connected, at most 5 seconds. A port can be open once at a time; the file is the
// caller's to close, and can be a child's standard input or output as it is.
//
// Reads block, and return io.EOF when the host has closed its end. A host that does
// not read makes writes wait.
func OpenPort(name string) (*os.File, error) { return openNamedPort(&linux{}, name, portTimeout) }

func openNamedPort(sys system, name string, timeout time.Duration) (*os.File, error) {
	const step = time.Millisecond
	deadline := time.Now().Add(timeout)
	for {
		dirs, err := sys.readDir(virtioPorts)
		if err != nil {
			return nil, fmt.Errorf("open port %s: %w: the kernel needs CONFIG_VIRTIO_CONSOLE and CONFIG_VIRTIO_PCI, built in or as modules in the archive", name, err)
		}
		var have []string
		for _, d := range dirs {
			text, err := sys.readFile(path.Join(virtioPorts, d, "name"))
			if err != nil {
				continue // not announced yet
			}
			if text = strings.TrimSpace(text); text != name {
				have = append(have, text)
				continue
			}
			fd, err := openPort(sys, d)
			if err != nil {
				return nil, fmt.Errorf("open port %s: %w", name, err)
			}
			if err := awaitHost(fd, deadline); err != nil {
				_ = unix.Close(fd)
				return nil, fmt.Errorf("open port %s: %w", name, err)
			}
			// Without O_NONBLOCK it does not meet the runtime's poller, which can
			// miss a port's wake-ups.
			return os.NewFile(uintptr(fd), name), nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("open port %s: the host has given this machine no such port; it has %s", name, orNone(have))
		}
		time.Sleep(step)
	}
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// awaitHost waits until the host's end is open: before, the port reads as closed
// (drivers/char/virtio_console.c: port_fops_poll).
func awaitHost(fd int, deadline time.Time) error {
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, 0); err == nil && p[0].Revents&unix.POLLHUP == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the host has not opened its end: %w", os.ErrDeadlineExceeded)
		}
		time.Sleep(time.Millisecond)
	}
}
