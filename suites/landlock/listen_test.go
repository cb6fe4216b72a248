// SPDX-License-Identifier: Apache-2.0

package landlock

import (
	"fmt"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit"
)

// The right is that of the proposal "landlock: Add LANDLOCK_ACCESS_NET_LISTEN_TCP"
// (RFC v1 2024-07-28, v2 2024-08-14). Its ABI number collides with mainline's,
// so it is found by its bit; and mainline later gave the bit to BIND_UDP.

var listenProbe struct {
	once sync.Once
	err  error
}

// probeListen returns nil on a kernel with the patch.
func probeListen(t testing.TB) error {
	t.Helper()
	listenProbe.once.Do(func() {
		a := attr{Net: listenTCP}
		fd, err := create(&a, 16, 0)
		if err != nil {
			listenProbe.err = fmt.Errorf("handled_access_net bit 2: %w", err)
			return
		}
		defer func() { _ = unix.Close(fd) }()
		// Not whether listen is denied: a patch that fails to is to fail tests.
		udp := proto{name: "udp", family: unix.AF_INET, typ: unix.SOCK_DGRAM}
		kit.OnThread(t, func() {
			assert.NilError(t, restrict(fd, 0))
			if isErrno(udp.bind(t, ports(1)[0]), unix.EACCES) {
				listenProbe.err = fmt.Errorf("bit 2 is BIND_UDP")
			}
		})
	})
	return listenProbe.err
}

func needListen(t testing.TB) {
	t.Helper()
	needABI(t, 4)
	kit.NeedFeature(t, FeatureListenTCP, probeListen(t))
}

const allTCP = bindTCP | connectTCP | listenTCP

func listenLayer(allow map[int]uint64) layer { return netLayerOf(allTCP, allow) }

// bound returns a socket that is bound before any confinement.
func (p proto) bound(t testing.TB, port int) int {
	t.Helper()
	fd := p.socket(t)
	assert.NilError(t, unix.Bind(fd, p.addr(port)))
	return fd
}

// TestListenUnknownWithoutPatch: the bit is refused where it means nothing.
func TestListenUnknownWithoutPatch(t *testing.T) {
	needABI(t, 4)
	if probeListen(t) == nil {
		kit.NeedFeature(t, FeatureNoListenTCP, fmt.Errorf("the kernel has LISTEN_TCP"))
	}
	a := attr{Net: listenTCP}
	_, err := create(&a, 16, 0)
	if abi(t) >= 8 && err == nil {
		kit.NeedFeature(t, FeatureNoListenTCP, probeListen(t))
	}
	kit.WantErrno(t, "handled_access_net bit 2", err, unix.EINVAL)
	rs := netLayer(nil).ruleset(t)
	kit.WantErrno(t, "rule with bit 2", addPort(rs, 80, listenTCP), unix.EINVAL)
}

func TestListen(t *testing.T) {
	needListen(t)
	for _, p := range protos {
		t.Run(p.name, func(t *testing.T) {
			p.need(t)
			if !p.isStream() {
				in := func(f func()) { confined(t, f, listenLayer(nil)) }
				in(func() { kit.WantErrno(t, "listen", unix.Listen(p.socket(t), 1), unix.EOPNOTSUPP) })
				return
			}
			n := ports(3)
			sandboxes(t, func(t *testing.T, confined bool, in func(func())) {
				denied := confined && p.isTCP()
				all, others, none := p.bound(t, n[0]), p.bound(t, n[1]), p.bound(t, n[2])
				in(func() {
					kit.WantErrno(t, "on a port with all rights", unix.Listen(all, 1), 0)
					kit.WantErrno(t, "on a port with all other rights", unix.Listen(others, 1), deniedIf(denied))
					kit.WantErrno(t, "on a port without a rule", unix.Listen(none, 1), deniedIf(denied))
				})
				for i, port := range n {
					want := unix.Errno(0)
					if denied && i > 0 {
						want = unix.ECONNREFUSED
					}
					kit.WantErrno(t, fmt.Sprintf("connect to port %d of 3", i+1), p.connect(t, port), want)
				}
			}, listenLayer(map[int]uint64{n[0]: allTCP, n[1]: allTCP &^ listenTCP}))
		})
	}
}

// TestListenDeniedBindAllowed: the reason for the right: a fixed local port
// for clients that must not become servers.
func TestListenDeniedBindAllowed(t *testing.T) {
	needListen(t)
	n := ports(2)
	tcp4.serve(t, n[1])
	confined(t, func() {
		fd := tcp4.socket(t)
		kit.WantErrno(t, "bind", unix.Bind(fd, tcp4.addr(n[0])), 0)
		kit.WantErrno(t, "listen", unix.Listen(fd, 1), unix.EACCES)
		kit.WantErrno(t, "connect from the port", unix.Connect(fd, tcp4.addr(n[1])), 0)
	}, listenLayer(map[int]uint64{n[0]: bindTCP, n[1]: connectTCP}))
}

// TestListenUnbound: listen on a socket without an address binds it to an
// automatic port; the rule for that is the one for port 0.
func TestListenUnbound(t *testing.T) {
	needListen(t)
	n := ports(1)
	for _, p := range []proto{tcp4, tcp6} {
		t.Run(p.name, func(t *testing.T) {
			p.need(t)
			var auto int
			confined(t, func() {
				fd := p.socket(t)
				kit.WantErrno(t, "rule for port 0", unix.Listen(fd, 1), 0)
				auto = boundPort(t, fd)
				kit.Want(t, auto != 0, "no automatic port")
			}, netLayerOf(bindTCP|listenTCP, map[int]uint64{0: listenTCP}))
			kit.WantErrno(t, "connect to the automatic port", p.connect(t, auto), 0)
			confined(t, func() {
				kit.WantErrno(t, "no rule", unix.Listen(p.socket(t), 1), unix.EACCES)
			}, netLayerOf(listenTCP, nil))
			confined(t, func() {
				kit.WantErrno(t, "rule for another port", unix.Listen(p.socket(t), 1), unix.EACCES)
			}, netLayerOf(listenTCP, map[int]uint64{n[0]: listenTCP}))
		})
	}
}

func TestListenAgain(t *testing.T) {
	needListen(t)
	srv := tcp4.serve(t, ports(1)[0])
	confined(t, func() {
		kit.WantErrno(t, "another backlog for a listening socket", unix.Listen(srv, 20), 0)
	}, listenLayer(nil))
}

// TestListenInvalidState: what the stack refuses keeps its errno.
func TestListenInvalidState(t *testing.T) {
	needListen(t)
	n := ports(1)
	tcp4.serve(t, n[0])
	cl := tcp4.socket(t)
	assert.NilError(t, unix.Connect(cl, tcp4.addr(n[0])))
	sandboxes(t, func(t *testing.T, _ bool, in func(func())) {
		in(func() { kit.WantErrno(t, "listen on a connected socket", unix.Listen(cl, 1), unix.EINVAL) })
	}, listenLayer(nil))
}

// TestListenULP: a socket whose upper layer protocol cannot be cloned cannot
// listen (inet_csk_listen_start), which is no matter of access.
func TestListenULP(t *testing.T) {
	needListen(t)
	kit.NeedKconfig(t, "INET_ESPINTCP=y")
	n := ports(1)
	tcp4.serve(t, n[0])
	cl := tcp4.socket(t)
	assert.NilError(t, unix.Connect(cl, tcp4.addr(n[0])))
	assert.NilError(t, unix.SetsockoptString(cl, unix.IPPROTO_TCP, unix.TCP_ULP, "espintcp"))
	off := inet4(unix.AF_UNSPEC, 0, [4]byte{})
	assert.NilError(t, rawCall(unix.SYS_CONNECT, cl, off, len(off)))
	sandboxes(t, func(t *testing.T, _ bool, in func(func())) {
		in(func() { kit.WantErrno(t, "listen", unix.Listen(cl, 1), unix.EINVAL) })
	}, listenLayer(nil))
}

func TestListenPortEndianness(t *testing.T) {
	needListen(t)
	n := ports(2)
	host, network := tcp4.bound(t, n[0]), tcp4.bound(t, n[1])
	confined(t, func() {
		kit.WantErrno(t, "rule in host order", unix.Listen(host, 1), 0)
		kit.WantErrno(t, "rule in network order", unix.Listen(network, 1), deniedIf(htons(1) != 1))
	}, listenLayer(map[int]uint64{n[0]: listenTCP, htons(n[1]): listenTCP}))
}

func TestListenLayers(t *testing.T) {
	needListen(t)
	n := ports(1)
	yes := netLayerOf(listenTCP, map[int]uint64{n[0]: listenTCP})
	for _, c := range []struct {
		name   string
		layers []layer
		want   unix.Errno
	}{
		{"not handled", []layer{netLayer(nil)}, 0},
		{"allowed, then not handled", []layer{yes, netLayer(nil)}, 0},
		{"three that allow", []layer{yes, yes, yes}, 0},
		{"the first denies", []layer{netLayerOf(listenTCP, nil), yes}, unix.EACCES},
		{"the last denies", []layer{yes, yes, netLayerOf(listenTCP, nil)}, unix.EACCES},
	} {
		t.Run(c.name, func(t *testing.T) {
			fd := tcp4.bound(t, n[0])
			confined(t, func() { kit.WantErrno(t, "listen", unix.Listen(fd, 1), c.want) }, c.layers...)
		})
	}
}

// TestListenPort1023: the capability counts at bind, the right at listen.
func TestListenPort1023(t *testing.T) {
	needListen(t)
	for _, port := range []int{1023, 1024} {
		fd := tcp4.bound(t, port)
		confined(t, func() {
			kit.DropCaps(t, unix.CAP_NET_BIND_SERVICE)
			kit.WantErrno(t, fmt.Sprintf("listen on %d, allowed", port), unix.Listen(fd, 1), 0)
		}, listenLayer(map[int]uint64{port: listenTCP}))
	}
	fd := tcp4.bound(t, 1022)
	confined(t, func() {
		kit.WantErrno(t, "listen on 1022, denied", unix.Listen(fd, 1), unix.EACCES)
	}, listenLayer(nil))
}
