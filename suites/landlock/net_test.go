// SPDX-License-Identifier: Apache-2.0

package landlock

import (
	"errors"
	"fmt"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/kit/fs"
)

// TestBind: one port with all rights, one with CONNECT_TCP only, one with
// none, for every protocol.
func TestBind(t *testing.T) {
	needABI(t, 4)
	for _, p := range protos {
		t.Run(p.name, func(t *testing.T) {
			p.need(t)
			n := ports(3)
			sandboxes(t, func(t *testing.T, confined bool, in func(func())) {
				denied := confined && p.isTCP()
				in(func() {
					kit.WantErrno(t, "bind to a port with all rights", p.bind(t, n[0]), 0)
					kit.WantErrno(t, "bind to a port with CONNECT_TCP", p.bind(t, n[1]), deniedIf(denied))
					kit.WantErrno(t, "bind to a port without a rule", p.bind(t, n[2]), deniedIf(denied))
				})
			}, netLayer(map[int]uint64{n[0]: bindTCP | connectTCP, n[1]: connectTCP}))
		})
	}
}

// TestConnect: as TestBind, with servers that are not confined.
func TestConnect(t *testing.T) {
	needABI(t, 4)
	for _, p := range protos {
		t.Run(p.name, func(t *testing.T) {
			p.need(t)
			n := ports(3)
			for _, port := range n {
				p.serve(t, port)
			}
			sandboxes(t, func(t *testing.T, confined bool, in func(func())) {
				denied := confined && p.isTCP()
				in(func() {
					kit.WantErrno(t, "connect to a port with all rights", p.connect(t, n[0]), 0)
					kit.WantErrno(t, "connect to a port with BIND_TCP", p.connect(t, n[1]), deniedIf(denied))
					kit.WantErrno(t, "connect to a port without a rule", p.connect(t, n[2]), deniedIf(denied))
				})
			}, netLayer(map[int]uint64{n[0]: bindTCP | connectTCP, n[1]: bindTCP}))
		})
	}
}

// TestHandledAccessOnly: a right that the ruleset does not handle is free.
func TestHandledAccessOnly(t *testing.T) {
	needABI(t, 4)
	n := ports(2)
	tcp4.serve(t, n[0])
	confined(t, func() {
		kit.WantErrno(t, "bind with BIND_TCP handled", tcp4.bind(t, n[1]), unix.EACCES)
		kit.WantErrno(t, "connect with BIND_TCP handled", tcp4.connect(t, n[0]), 0)
	}, netLayerOf(bindTCP, nil))
	confined(t, func() {
		kit.WantErrno(t, "bind with CONNECT_TCP handled", tcp4.bind(t, n[1]), 0)
		kit.WantErrno(t, "connect with CONNECT_TCP handled", tcp4.connect(t, n[0]), unix.EACCES)
	}, netLayerOf(connectTCP, nil))
}

// TestBindDeniedLeavesPortClosed: after a denied bind nobody answers there.
func TestBindDeniedLeavesPortClosed(t *testing.T) {
	needABI(t, 4)
	n := ports(1)
	confined(t, func() {
		fd := tcp4.socket(t)
		kit.WantErrno(t, "bind", unix.Bind(fd, tcp4.addr(n[0])), unix.EACCES)
		// The socket is still usable: listen takes an automatic port.
		kit.WantErrno(t, "listen on the unbound socket", unix.Listen(fd, 1), 0)
		kit.Want(t, boundPort(t, fd) != n[0], "the denied port was given")
	}, netLayer(nil))
	kit.WantErrno(t, "connect to the port", tcp4.connect(t, n[0]), unix.ECONNREFUSED)
}

// TestAddressLength: lengths that the stack refuses are refused with its
// errno, EINVAL, even where the port would be denied.
func TestAddressLength(t *testing.T) {
	needABI(t, 4)
	for _, p := range []proto{tcp4, tcp6} {
		t.Run(p.name, func(t *testing.T) {
			p.need(t)
			n := ports(2)
			p.serve(t, n[0])
			// sizeof(struct sockaddr_in); SIN6_LEN_RFC2133 (include/net/ipv6.h)
			minimal := map[int]int{unix.AF_INET: 16, unix.AF_INET6: 24}[p.family]
			sandboxes(t, func(t *testing.T, confined bool, in func(func())) {
				in(func() {
					for _, c := range []struct {
						name string
						call uintptr
						port int
					}{{"bind", unix.SYS_BIND, n[1]}, {"connect", unix.SYS_CONNECT, n[0]}} {
						for _, size := range []int{0, 1, 2, minimal - 1} {
							kit.WantErrno(t, fmt.Sprintf("%s with length %d", c.name, size),
								rawCall(c.call, p.socket(t), p.raw(c.port), size), unix.EINVAL)
						}
						for _, size := range []int{minimal, len(p.raw(0))} {
							kit.WantErrno(t, fmt.Sprintf("%s with length %d", c.name, size),
								rawCall(c.call, p.socket(t), p.raw(c.port), size), deniedIf(confined))
						}
					}
				})
			}, netLayer(nil))
		})
	}
}

// TestMinimalAddressAllowed: the shortest valid address is enough to find the
// port's rule.
func TestMinimalAddressAllowed(t *testing.T) {
	needABI(t, 4)
	for _, p := range []proto{tcp4, tcp6} {
		t.Run(p.name, func(t *testing.T) {
			p.need(t)
			n := ports(2)
			p.serve(t, n[0])
			minimal := map[int]int{unix.AF_INET: 16, unix.AF_INET6: 24}[p.family]
			confined(t, func() {
				kit.WantErrno(t, "bind", rawCall(unix.SYS_BIND, p.socket(t), p.raw(n[1]), minimal), 0)
				kit.WantErrno(t, "connect", rawCall(unix.SYS_CONNECT, p.socket(t), p.raw(n[0]), minimal), 0)
			}, netLayer(map[int]uint64{n[0]: connectTCP, n[1]: bindTCP}))
		})
	}
}

// TestAddressFamilyMismatch: an address of the other IP family is EINVAL and
// tells nothing about the port.
func TestAddressFamilyMismatch(t *testing.T) {
	needABI(t, 4)
	kit.NeedKconfig(t, "IPV6=y")
	n := ports(2)
	confined(t, func() {
		for _, c := range []struct {
			name   string
			socket proto
			addr   func(port int) rawAddr
		}{{"ipv4 socket, ipv6 address", tcp4, tcp6.raw}, {"ipv6 socket, ipv4 address", tcp6, func(port int) rawAddr {
			// As long as an IPv6 address, so that only the family is wrong.
			return append(tcp4.raw(port), make([]byte, 12)...)
		}}} {
			for _, port := range n {
				a := c.addr(port)
				kit.WantErrno(t, fmt.Sprintf("%s: bind to %d", c.name, port), rawCall(unix.SYS_BIND, c.socket.socket(t), a, len(a)), unix.EINVAL)
				kit.WantErrno(t, fmt.Sprintf("%s: connect to %d", c.name, port), rawCall(unix.SYS_CONNECT, c.socket.socket(t), a, len(a)), unix.EINVAL)
			}
		}
	}, netLayer(map[int]uint64{n[0]: bindTCP | connectTCP}))
}

// TestForeignAddressFamily: addresses that are not IP are the stack's to
// refuse, with the same errno as without landlock.
func TestForeignAddressFamily(t *testing.T) {
	needABI(t, 4)
	a := inet4(unix.AF_UNIX, 0, [4]byte{})
	var want [2]unix.Errno
	sandboxes(t, func(t *testing.T, confined bool, in func(func())) {
		in(func() {
			for i, call := range []uintptr{unix.SYS_BIND, unix.SYS_CONNECT} {
				err := rawCall(call, tcp4.socket(t), a, len(a))
				var e unix.Errno
				if !errors.As(err, &e) {
					t.Fatalf("call %d: got %s, want an errno", call, kit.ErrnoName(err))
				}
				if !confined {
					want[i] = e
				}
				assert.Check(t, cmp.Equal(e, want[i]))
				kit.Want(t, e != unix.EACCES, "got EACCES")
			}
		})
	}, netLayer(nil))
}

// TestInetAddressOnUnixSocket: the check is by socket, not by address.
func TestInetAddressOnUnixSocket(t *testing.T) {
	needABI(t, 4)
	for _, p := range protos {
		if p.family != unix.AF_UNIX {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			n := ports(1)
			sandboxes(t, func(t *testing.T, _ bool, in func(func())) {
				in(func() {
					a := tcp4.raw(n[0])
					kit.WantErrno(t, "bind", rawCall(unix.SYS_BIND, p.socket(t), a, len(a)), unix.EINVAL)
					kit.WantErrno(t, "connect", rawCall(unix.SYS_CONNECT, p.socket(t), a, len(a)), unix.EINVAL)
				})
			}, netLayer(nil))
		})
	}
}

// TestBindUnspec (seed: bind_unspec): IPv4 takes AF_UNSPEC with INADDR_ANY
// for AF_INET, so it needs the right; everything else is refused as ever.
func TestBindUnspec(t *testing.T) {
	needABI(t, 4)
	n := ports(2)
	l := netLayer(map[int]uint64{n[0]: bindTCP, n[1]: connectTCP})
	t.Run("ipv4", func(t *testing.T) {
		sandboxes(t, func(t *testing.T, confined bool, in func(func())) {
			in(func() {
				bind := func(port int, addr [4]byte, size int) error {
					return rawCall(unix.SYS_BIND, tcp4.socket(t), inet4(unix.AF_UNSPEC, port, addr), size)
				}
				kit.WantErrno(t, "any address, allowed port", bind(n[0], [4]byte{}, 16), 0)
				kit.WantErrno(t, "any address, other port", bind(n[1], [4]byte{}, 16), deniedIf(confined))
				kit.WantErrno(t, "an address, allowed port", bind(n[0], [4]byte{127, 0, 0, 1}, 16), unix.EAFNOSUPPORT)
				kit.WantErrno(t, "an address, other port", bind(n[1], [4]byte{127, 0, 0, 1}, 16), unix.EAFNOSUPPORT)
				kit.WantErrno(t, "short, other port", bind(n[1], [4]byte{}, 15), unix.EINVAL)
			})
		}, l)
	})
	t.Run("ipv6", func(t *testing.T) {
		kit.NeedKconfig(t, "IPV6=y")
		sandboxes(t, func(t *testing.T, _ bool, in func(func())) {
			in(func() {
				bind := func(port, size int) error {
					return rawCall(unix.SYS_BIND, tcp6.socket(t), inet6(unix.AF_UNSPEC, port, [16]byte{}), size)
				}
				kit.WantErrno(t, "allowed port", bind(n[0], 24), unix.EAFNOSUPPORT)
				kit.WantErrno(t, "other port", bind(n[1], 24), unix.EAFNOSUPPORT)
				kit.WantErrno(t, "short, other port", bind(n[1], 23), unix.EINVAL)
			})
		}, l)
	})
}

// TestConnectUnspec (seed: connect_unspec): connect with AF_UNSPEC dissolves
// an association, which needs no right.
func TestConnectUnspec(t *testing.T) {
	needABI(t, 4)
	for _, p := range []proto{tcp4, tcp6} {
		t.Run(p.name, func(t *testing.T) {
			p.need(t)
			n := ports(1)
			p.serve(t, n[0])
			sandboxes(t, func(t *testing.T, confined bool, in func(func())) {
				fd := p.socket(t)
				assert.NilError(t, unix.Connect(fd, p.addr(n[0])))
				in(func() {
					a := inet4(unix.AF_UNSPEC, 0, [4]byte{})
					kit.WantErrno(t, "disconnect", rawCall(unix.SYS_CONNECT, fd, a, len(a)), 0)
					_, err := unix.Getpeername(fd)
					kit.WantErrno(t, "name of the peer", err, unix.ENOTCONN)
					kit.WantErrno(t, "connect again", unix.Connect(fd, p.addr(n[0])), deniedIf(confined))
				})
			}, netLayer(nil))
		})
	}
}

// TestSocketFromBefore: sockets are checked when they are used, not when they
// were made.
func TestSocketFromBefore(t *testing.T) {
	needABI(t, 4)
	n := ports(4)
	tcp4.serve(t, n[0])
	tcp4.serve(t, n[1])
	bound, fresh := tcp4.socket(t), tcp4.socket(t)
	assert.NilError(t, unix.Bind(bound, tcp4.addr(n[2])))
	confined(t, func() {
		kit.WantErrno(t, "bind a socket from before", unix.Bind(fresh, tcp4.addr(n[3])), unix.EACCES)
		kit.WantErrno(t, "connect a bound socket, denied", unix.Connect(bound, tcp4.addr(n[1])), unix.EACCES)
		kit.WantErrno(t, "connect a bound socket, allowed", unix.Connect(bound, tcp4.addr(n[0])), 0)
	}, netLayer(map[int]uint64{n[0]: connectTCP}))
}

// TestEstablishedUnrestricted: accept, send, receive and shutdown need no right.
func TestEstablishedUnrestricted(t *testing.T) {
	needABI(t, 4)
	n := ports(1)
	srv := tcp4.serve(t, n[0])
	cl := tcp4.socket(t)
	assert.NilError(t, unix.Connect(cl, tcp4.addr(n[0])))
	confined(t, func() {
		kit.WantErrno(t, "connect", tcp4.connect(t, n[0]), unix.EACCES)
		fd, _, err := unix.Accept4(srv, unix.SOCK_CLOEXEC)
		assert.NilError(t, err, "accept")
		defer func() { _ = unix.Close(fd) }()
		_, err = unix.Write(cl, []byte("ping"))
		assert.NilError(t, err, "send")
		b := make([]byte, 8)
		k, err := unix.Read(fd, b)
		assert.NilError(t, err, "receive")
		assert.Check(t, cmp.Equal(string(b[:k]), "ping"))
		assert.Check(t, cmp.Equal(boundPort(t, fd), n[0]))
		kit.WantErrno(t, "listen with another backlog", unix.Listen(srv, 5), 0)
		kit.WantErrno(t, "shutdown", unix.Shutdown(fd, unix.SHUT_RDWR), 0)
	}, netLayer(nil))
}

// TestMappedAddress: an IPv4-mapped IPv6 address is checked by its port, also
// after IPV6_ADDRFORM made the socket an IPv4 one.
func TestMappedAddress(t *testing.T) {
	needABI(t, 4)
	kit.NeedKconfig(t, "IPV6=y")
	n := ports(3)
	tcp4.serve(t, n[0])
	tcp4.serve(t, n[1])
	mapped := func(port int) unix.Sockaddr {
		return &unix.SockaddrInet6{Port: port, Addr: [16]byte{10: 0xff, 0xff, 127, 0, 0, 1}}
	}
	confined(t, func() {
		kit.WantErrno(t, "connect, allowed", unix.Connect(tcp6.socket(t), mapped(n[0])), 0)
		kit.WantErrno(t, "connect, denied", unix.Connect(tcp6.socket(t), mapped(n[1])), unix.EACCES)
		kit.WantErrno(t, "bind, denied", unix.Bind(tcp6.socket(t), mapped(n[1])), unix.EACCES)
		kit.WantErrno(t, "bind, allowed", unix.Bind(tcp6.socket(t), mapped(n[2])), 0)

		fd := tcp6.socket(t)
		assert.NilError(t, unix.Connect(fd, mapped(n[0])))
		assert.NilError(t, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_ADDRFORM, unix.AF_INET))
		off := inet4(unix.AF_UNSPEC, 0, [4]byte{})
		assert.NilError(t, rawCall(unix.SYS_CONNECT, fd, off, len(off)))
		kit.WantErrno(t, "IPv6 address on the converted socket", unix.Connect(fd, mapped(n[0])), unix.EINVAL)
		kit.WantErrno(t, "denied port on the converted socket", unix.Connect(fd, tcp4.addr(n[1])), unix.EACCES)
		kit.WantErrno(t, "allowed port on the converted socket", unix.Connect(fd, tcp4.addr(n[0])), 0)
	}, netLayer(map[int]uint64{n[0]: connectTCP, n[2]: bindTCP}))
}

// TestPortEndianness (seed: port_endianness): a rule's port is in host order.
func TestPortEndianness(t *testing.T) {
	needABI(t, 4)
	for _, p := range []proto{tcp4, tcp6} {
		t.Run(p.name, func(t *testing.T) {
			p.need(t)
			n := ports(3)
			p.serve(t, n[2])
			confined(t, func() {
				kit.WantErrno(t, "bind, rule in host order", p.bind(t, n[0]), 0)
				kit.WantErrno(t, "connect, rule in host order", p.connect(t, n[2]), 0)
				kit.WantErrno(t, "bind, rule in network order", p.bind(t, n[1]), deniedIf(htons(1) != 1))
				kit.WantErrno(t, "bind to the swapped port", p.bind(t, htons(n[0])), unix.EACCES)
			}, netLayer(map[int]uint64{n[0]: bindTCP, htons(n[1]): bindTCP, n[2]: connectTCP}))
		})
	}
}

// TestPortZero (seed: bind_connect_zero): a rule for port 0 allows to bind to
// port 0, that is to an automatic port, and no other port.
func TestPortZero(t *testing.T) {
	needABI(t, 4)
	for _, p := range []proto{tcp4, tcp6} {
		t.Run(p.name, func(t *testing.T) {
			p.need(t)
			n := ports(1)
			confined(t, func() {
				fd := p.socket(t)
				kit.WantErrno(t, "bind to 0 with a rule", unix.Bind(fd, p.addr(0)), 0)
				auto := boundPort(t, fd)
				kit.Want(t, auto != 0, "no automatic port")
				assert.NilError(t, unix.Listen(fd, 1))
				kit.WantErrno(t, "connect to the automatic port", p.connect(t, auto), unix.EACCES)
				kit.WantErrno(t, "bind to another port", p.bind(t, n[0]), unix.EACCES)
				kit.WantErrno(t, "connect to 0 with a rule", p.connect(t, 0), unix.ECONNREFUSED)
			}, netLayer(map[int]uint64{0: bindTCP | connectTCP}))
			confined(t, func() {
				kit.WantErrno(t, "bind to 0 without a rule", p.bind(t, 0), unix.EACCES)
				kit.WantErrno(t, "connect to 0 without a rule", p.connect(t, 0), unix.EACCES)
			}, netLayer(map[int]uint64{n[0]: bindTCP | connectTCP}))
		})
	}
}

// TestPort1023: landlock's rule does not replace CAP_NET_BIND_SERVICE, nor
// the capability the rule.
func TestPort1023(t *testing.T) {
	needABI(t, 4)
	sysctl(t, "net/ipv4/ip_unprivileged_port_start", "1024")
	l := netLayer(map[int]uint64{1023: bindTCP, 1024: bindTCP})
	confined(t, func() {
		kit.WantErrno(t, "with capability and rule", tcp4.bind(t, 1023), 0)
		kit.WantErrno(t, "with capability, no rule", tcp4.bind(t, 1022), unix.EACCES)
		kit.DropCaps(t, unix.CAP_NET_BIND_SERVICE)
		kit.WantErrno(t, "no capability, rule", tcp4.bind(t, 1023), unix.EACCES)
		kit.WantErrno(t, "unprivileged port with a rule", tcp4.bind(t, 1024), 0)
	}, l)
}

// TestPortOverflow (seed: tcp_port_overflow): ports above 65535 are refused
// and not cut down to 16 bits.
func TestPortOverflow(t *testing.T) {
	needABI(t, 4)
	n := ports(2)
	l := netLayer(map[int]uint64{n[0]: bindTCP})
	rs := l.ruleset(t)
	kit.WantErrno(t, "port 65535", addPort(rs, 1<<16-1, bindTCP), 0)
	for _, p := range []uint64{
		1 << 16, 1<<16 + uint64(n[1]), 1<<17 + uint64(n[1]), 1<<31 + uint64(n[1]),
		1<<32 + uint64(n[1]), 1<<63 + uint64(n[1]), ^uint64(0),
	} {
		kit.WantErrno(t, fmt.Sprintf("port %#x", p), addPort(rs, p, bindTCP), unix.EINVAL)
	}
	kit.OnThread(t, func() {
		assert.NilError(t, restrict(rs, 0))
		kit.WantErrno(t, "bind to the rule's port", tcp4.bind(t, n[0]), 0)
		kit.WantErrno(t, "bind to 65535", tcp4.bind(t, 1<<16-1), 0)
		kit.WantErrno(t, "bind to the low half of a refused port", tcp4.bind(t, n[1]), unix.EACCES)
		kit.WantErrno(t, "bind to 0", tcp4.bind(t, 0), unix.EACCES)
	})
}

// TestLayers (seed: ruleset_overlap): a request needs every layer that
// handles its right.
func TestLayers(t *testing.T) {
	needABI(t, 4)
	n := ports(2)
	server := n[1]
	tcp4.serve(t, server)
	both := netLayer(map[int]uint64{n[0]: bindTCP, server: connectTCP})
	for _, c := range []struct {
		name          string
		layers        []layer
		bind, connect unix.Errno
	}{
		{"none", nil, 0, 0},
		{"one that allows", []layer{both}, 0, 0},
		{"three that allow", []layer{both, both, both}, 0, 0},
		{"the first denies", []layer{netLayer(nil), both, both}, unix.EACCES, unix.EACCES},
		{"the middle denies bind", []layer{both, netLayer(map[int]uint64{server: connectTCP}), both}, unix.EACCES, 0},
		{"the last denies connect", []layer{both, both, netLayer(map[int]uint64{n[0]: bindTCP})}, 0, unix.EACCES},
		{"the second does not handle bind", []layer{both, netLayerOf(connectTCP, map[int]uint64{server: connectTCP})}, 0, 0},
		{"the second handles only bind and denies", []layer{both, netLayerOf(bindTCP, nil)}, unix.EACCES, 0},
		{"a file system layer in between", []layer{both, {attr: attr{FS: fsMakeBlock}}, both}, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			confined(t, func() {
				kit.WantErrno(t, "bind", tcp4.bind(t, n[0]), c.bind)
				kit.WantErrno(t, "connect", tcp4.connect(t, server), c.connect)
			}, c.layers...)
		})
	}
}

// TestLayersExpand (seed: ruleset_expand): a layer cannot give back what an
// earlier one denies.
func TestLayersExpand(t *testing.T) {
	needABI(t, 4)
	n := ports(2)
	confined(t, func() {
		kit.WantErrno(t, "first layer: its port", tcp4.bind(t, n[0]), 0)
		kit.WantErrno(t, "first layer: another", tcp4.bind(t, n[1]), unix.EACCES)
		enforce(t, netLayerOf(bindTCP, map[int]uint64{n[0]: bindTCP, n[1]: bindTCP}))
		kit.WantErrno(t, "second layer: port of both", tcp4.bind(t, n[0]), 0)
		kit.WantErrno(t, "second layer: port of the second", tcp4.bind(t, n[1]), unix.EACCES)
		enforce(t, netLayerOf(bindTCP, map[int]uint64{n[1]: bindTCP}))
		kit.WantErrno(t, "third layer: port of the first two", tcp4.bind(t, n[0]), unix.EACCES)
		kit.WantErrno(t, "third layer: port of the last two", tcp4.bind(t, n[1]), unix.EACCES)
	}, netLayerOf(bindTCP, map[int]uint64{n[0]: bindTCP}))
}

// TestRulesOfOneLayerUnite: several rules for one port in one ruleset add up.
func TestRulesOfOneLayerUnite(t *testing.T) {
	needABI(t, 4)
	n := ports(1)
	rs := netLayer(nil).ruleset(t)
	assert.NilError(t, addPort(rs, uint64(n[0]), bindTCP))
	assert.NilError(t, addPort(rs, uint64(n[0]), connectTCP))
	kit.OnThread(t, func() {
		assert.NilError(t, restrict(rs, 0))
		fd := tcp4.socket(t)
		kit.WantErrno(t, "bind", unix.Bind(fd, tcp4.addr(n[0])), 0)
		kit.WantErrno(t, "listen", unix.Listen(fd, 1), 0)
		kit.WantErrno(t, "connect", tcp4.connect(t, n[0]), 0)
	})
}

// TestNetAndFS: one ruleset for both, each checked by its own rules.
func TestNetAndFS(t *testing.T) {
	needABI(t, 4)
	dir := fs.Tmpfs(t, 0)
	n := ports(2)
	l := netLayer(map[int]uint64{n[0]: bindTCP})
	l.FS = fsReadDir
	l.paths = map[string]uint64{dir: fsReadDir}
	confined(t, func() {
		kit.WantErrno(t, "bind, allowed", tcp4.bind(t, n[0]), 0)
		kit.WantErrno(t, "bind, denied", tcp4.bind(t, n[1]), unix.EACCES)
		kit.WantErrno(t, "read directory, allowed", openDir(dir), 0)
		kit.WantErrno(t, "read directory, denied", openDir("/"), unix.EACCES)
	}, l)
}

// TestMount: only a domain that handles file system rights forbids to change
// the mount tree.
func TestMount(t *testing.T) {
	needABI(t, 4)
	dir := fs.Tmpfs(t, 0)
	mount := func() error { return unix.Mount("kvmrun-test", dir, "tmpfs", 0, "") }
	try := func(what string, want unix.Errno, l layer) {
		t.Helper()
		kit.OnThread(t, func() {
			// The mounts die with the thread's own mount namespace.
			assert.NilError(t, unix.Unshare(unix.CLONE_NEWNS))
			assert.NilError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
			assert.NilError(t, mount())
			enforce(t, l)
			kit.WantErrno(t, what+": mount", mount(), want)
			kit.WantErrno(t, what+": remount", unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""), want)
			kit.WantErrno(t, what+": umount", unix.Unmount(dir, 0), want)
		})
	}
	try("network rights", 0, netLayer(nil))
	try("file system rights", unix.EPERM, layer{attr: attr{FS: fsMakeBlock}})
}

// fastOpen is sendto(2) with MSG_FASTOPEN.
func fastOpen(fd int, to rawAddr) error {
	b := []byte("hello")
	var p, n uintptr
	if to != nil {
		p, n = uintptr(unsafe.Pointer(&to[0])), uintptr(len(to))
	}
	_, _, e := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_FASTOPEN|unix.MSG_NOSIGNAL, p, n)
	return kit.Errno(e)
}

// fastOpenFixed tells whether the kernel is known to have the fix. It came to
// others by stable updates whose numbers are not known here.
func fastOpenFixed() bool {
	r := kit.Release()
	return suites.CompareRelease(r, "6.12.117") >= 0 && suites.CompareRelease(r, "6.13") < 0
}

// TestFastOpen: sendto with MSG_FASTOPEN connects, and so needs CONNECT_TCP.
func TestFastOpen(t *testing.T) {
	needABI(t, 4)
	sysctl(t, "net/ipv4/tcp_fastopen", "3") // client and server
	for _, p := range []proto{tcp4, tcp6} {
		t.Run(p.name, func(t *testing.T) {
			p.need(t)
			n := ports(2)
			for _, port := range n {
				srv := p.serve(t, port)
				assert.NilError(t, unix.SetsockoptInt(srv, unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 5))
			}
			sandboxes(t, func(t *testing.T, confined bool, in func(func())) {
				in(func() {
					kit.WantErrno(t, "to an allowed port", fastOpen(p.socket(t), p.raw(n[0])), 0)
					err := fastOpen(p.socket(t), p.raw(n[1]))
					if confined && err == nil && !fastOpenFixed() {
						kit.NeedFeature(t, FeatureFastOpen, fmt.Errorf("sendto(MSG_FASTOPEN) to a denied port succeeded"))
					}
					kit.WantErrno(t, "to another port", err, deniedIf(confined))
					kit.WantErrno(t, "without an address", fastOpen(p.socket(t), nil), unix.EINVAL)
				})
			}, netLayer(map[int]uint64{n[0]: connectTCP}))
		})
	}
}

// TestFastOpenOtherSockets: MSG_FASTOPEN on what is not TCP is not landlock's.
func TestFastOpenOtherSockets(t *testing.T) {
	needABI(t, 4)
	n := ports(1)
	sandboxes(t, func(t *testing.T, _ bool, in func(func())) {
		in(func() {
			udp := proto{name: "udp", family: unix.AF_INET, typ: unix.SOCK_DGRAM}
			kit.WantErrno(t, "udp with an address", fastOpen(udp.socket(t), udp.raw(n[0])), 0)
			kit.WantErrno(t, "udp without an address", fastOpen(udp.socket(t), nil), unix.EDESTADDRREQ)
			stream := proto{name: "unix", family: unix.AF_UNIX, typ: unix.SOCK_STREAM}
			kit.WantErrno(t, "unix stream with an address", fastOpen(stream.socket(t), udp.raw(n[0])), unix.EOPNOTSUPP)
			kit.WantErrno(t, "unix stream without an address", fastOpen(stream.socket(t), nil), unix.ENOTCONN)
		})
	}, netLayer(nil))
}

// TestSMC: SMC falls back to TCP inside the kernel and is not restricted.
func TestSMC(t *testing.T) {
	needABI(t, 4)
	kit.NeedFeature(t, FeatureSMC, probeSMC())
	needErratum(t, 1)
	n := ports(1)
	confined(t, func() {
		fd, err := unix.Socket(unix.AF_SMC, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		assert.NilError(t, err)
		defer func() { _ = unix.Close(fd) }()
		kit.WantErrno(t, "bind", unix.Bind(fd, tcp4.addr(n[0])), 0)
	}, netLayer(nil))
}
