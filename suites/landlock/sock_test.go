// SPDX-License-Identifier: Apache-2.0

package landlock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit"
)

// Package net is of no use here: it binds and listens in one go, and makes
// listeners MPTCP sockets, which landlock does not restrict.

// proto is a kind of socket.
type proto struct {
	name        string
	family, typ int
	proto       int
	kconfig     []string
}

var (
	tcp4 = proto{name: "tcp4", family: unix.AF_INET, typ: unix.SOCK_STREAM}
	tcp6 = proto{name: "tcp6", family: unix.AF_INET6, typ: unix.SOCK_STREAM, kconfig: []string{"IPV6=y"}}
)

// protos is the matrix of the kernel's own net_test.c, fixture "protocol".
var protos = []proto{
	tcp4,
	tcp6,
	{name: "tcp4 by number", family: unix.AF_INET, typ: unix.SOCK_STREAM, proto: unix.IPPROTO_TCP},
	{name: "tcp6 by number", family: unix.AF_INET6, typ: unix.SOCK_STREAM, proto: unix.IPPROTO_TCP, kconfig: []string{"IPV6=y"}},
	{name: "mptcp4", family: unix.AF_INET, typ: unix.SOCK_STREAM, proto: unix.IPPROTO_MPTCP, kconfig: []string{"MPTCP=y"}},
	{name: "mptcp6", family: unix.AF_INET6, typ: unix.SOCK_STREAM, proto: unix.IPPROTO_MPTCP, kconfig: []string{"MPTCP_IPV6=y"}},
	{name: "udp4", family: unix.AF_INET, typ: unix.SOCK_DGRAM},
	{name: "udp6", family: unix.AF_INET6, typ: unix.SOCK_DGRAM, kconfig: []string{"IPV6=y"}},
	{name: "unix stream", family: unix.AF_UNIX, typ: unix.SOCK_STREAM},
	{name: "unix datagram", family: unix.AF_UNIX, typ: unix.SOCK_DGRAM},
}

func (p proto) isTCP() bool {
	return p.family != unix.AF_UNIX && p.typ == unix.SOCK_STREAM && (p.proto == 0 || p.proto == unix.IPPROTO_TCP)
}

func (p proto) isStream() bool { return p.typ == unix.SOCK_STREAM }

// need skips where the kernel has no such sockets, or restricts those that
// are not TCP's although it should not (erratum 1).
func (p proto) need(t testing.TB) {
	t.Helper()
	kit.NeedKconfig(t, p.kconfig...)
	if p.proto == unix.IPPROTO_MPTCP {
		needErratum(t, 1)
	}
}

// socket returns a socket that is closed when the test ends.
func (p proto) socket(t testing.TB) int {
	t.Helper()
	fd, err := unix.Socket(p.family, p.typ|unix.SOCK_CLOEXEC, p.proto)
	assert.NilError(t, err, "make %s socket", p.name)
	t.Cleanup(func() { _ = unix.Close(fd) })
	if p.family != unix.AF_UNIX {
		assert.NilError(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	}
	return fd
}

// addr is the loopback address with this port; for unix sockets an abstract
// name that the port makes unique.
func (p proto) addr(port int) unix.Sockaddr {
	switch p.family {
	case unix.AF_INET:
		return &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
	case unix.AF_INET6:
		return &unix.SockaddrInet6{Port: port, Addr: [16]byte{15: 1}}
	}
	return &unix.SockaddrUnix{Name: "@kvmrun-" + strconv.Itoa(port)}
}

// bind binds a fresh socket.
func (p proto) bind(t testing.TB, port int) error {
	t.Helper()
	return unix.Bind(p.socket(t), p.addr(port))
}

// connect connects a fresh socket.
func (p proto) connect(t testing.TB, port int) error {
	t.Helper()
	return unix.Connect(p.socket(t), p.addr(port))
}

// serve makes a socket that peers can connect to until the test ends.
func (p proto) serve(t testing.TB, port int) int {
	t.Helper()
	fd := p.socket(t)
	assert.NilError(t, unix.Bind(fd, p.addr(port)), "bind %s server to %d", p.name, port)
	if p.isStream() {
		assert.NilError(t, unix.Listen(fd, 16))
	}
	return fd
}

var lastPort atomic.Int32

// ports returns n ports that no other test uses, below the range for
// automatic ports (ip_local_port_range, from 32768) and such that their bytes
// swapped are another port.
func ports(n int) []int {
	out := make([]int, n)
	for i := range out {
		for {
			p := 10000 + int(lastPort.Add(1))
			if htons(p) != p {
				out[i] = p
				break
			}
		}
	}
	return out
}

// htons swaps the bytes on a little-endian machine.
func htons(p int) int {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], uint16(p))
	return int(binary.NativeEndian.Uint16(b[:]))
}

func boundPort(t testing.TB, fd int) int {
	t.Helper()
	sa, err := unix.Getsockname(fd)
	assert.NilError(t, err)
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return a.Port
	case *unix.SockaddrInet6:
		return a.Port
	}
	t.Fatalf("no port in %#v", sa)
	return 0
}

// rawAddr is a socket address of any content, for calls that package unix
// would not make.
type rawAddr []byte

// inet4 is a struct sockaddr_in with any family.
func inet4(family uint16, port int, addr [4]byte) rawAddr {
	b := make([]byte, 16)
	binary.NativeEndian.PutUint16(b, family)
	binary.BigEndian.PutUint16(b[2:], uint16(port))
	copy(b[4:], addr[:])
	return b
}

// inet6 is a struct sockaddr_in6 with any family.
func inet6(family uint16, port int, addr [16]byte) rawAddr {
	b := make([]byte, 28)
	binary.NativeEndian.PutUint16(b, family)
	binary.BigEndian.PutUint16(b[2:], uint16(port))
	copy(b[8:], addr[:])
	return b
}

func (p proto) raw(port int) rawAddr {
	if p.family == unix.AF_INET6 {
		return inet6(unix.AF_INET6, port, [16]byte{15: 1})
	}
	return inet4(unix.AF_INET, port, [4]byte{127, 0, 0, 1})
}

// rawCall is bind(2) or connect(2) with the first n bytes of the address.
func rawCall(call uintptr, fd int, a rawAddr, n int) error {
	_, _, e := unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(&a[0])), uintptr(n))
	return kit.Errno(e)
}

// netLayer handles bind and connect and allows by port.
func netLayer(allow map[int]uint64) layer {
	return netLayerOf(bindTCP|connectTCP, allow)
}

func netLayerOf(handled uint64, allow map[int]uint64) layer {
	l := layer{attr: attr{Net: handled}, ports: map[uint64]uint64{}}
	for p, access := range allow {
		l.ports[uint64(p)] = access
	}
	return l
}

// sandboxes runs fn once unconfined, to know that the stack itself allows
// what is tried, and once with the layers.
func sandboxes(t *testing.T, fn func(t *testing.T, confined bool, in func(func())), layers ...layer) {
	t.Helper()
	t.Run("unconfined", func(t *testing.T) {
		fn(t, false, func(f func()) { confined(t, f) })
	})
	t.Run("confined", func(t *testing.T) {
		fn(t, true, func(f func()) { confined(t, f, layers...) })
	})
}

// deniedIf is EACCES under the condition and else success.
func deniedIf(c bool) unix.Errno {
	if c {
		return unix.EACCES
	}
	return 0
}

// sysctl sets a sysctl by its path below /proc/sys for the test.
func sysctl(t testing.TB, name, value string) {
	t.Helper()
	path := "/proc/sys/" + name
	old, err := os.ReadFile(path)
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(path, []byte(value), 0o644))
	t.Cleanup(func() {
		if err := os.WriteFile(path, []byte(strings.TrimSpace(string(old))), 0o644); err != nil {
			t.Errorf("restore %s: %v", path, err)
		}
	})
}

func probeSMC() error {
	fd, err := unix.Socket(unix.AF_SMC, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket(AF_SMC): %w", err)
	}
	return unix.Close(fd)
}

func isErrno(err error, e unix.Errno) bool { return errors.Is(err, e) }
