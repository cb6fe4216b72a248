// SPDX-License-Identifier: Apache-2.0

package landlock

import (
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit"
)

// Rights that package unix names after include/uapi/linux/landlock.h, short.
const (
	fsExecute    = unix.LANDLOCK_ACCESS_FS_EXECUTE
	fsWriteFile  = unix.LANDLOCK_ACCESS_FS_WRITE_FILE
	fsReadFile   = unix.LANDLOCK_ACCESS_FS_READ_FILE
	fsReadDir    = unix.LANDLOCK_ACCESS_FS_READ_DIR
	fsRemoveDir  = unix.LANDLOCK_ACCESS_FS_REMOVE_DIR
	fsRemoveFile = unix.LANDLOCK_ACCESS_FS_REMOVE_FILE
	fsMakeChar   = unix.LANDLOCK_ACCESS_FS_MAKE_CHAR
	fsMakeDir    = unix.LANDLOCK_ACCESS_FS_MAKE_DIR
	fsMakeReg    = unix.LANDLOCK_ACCESS_FS_MAKE_REG
	fsMakeSock   = unix.LANDLOCK_ACCESS_FS_MAKE_SOCK
	fsMakeFifo   = unix.LANDLOCK_ACCESS_FS_MAKE_FIFO
	fsMakeBlock  = unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK
	fsMakeSym    = unix.LANDLOCK_ACCESS_FS_MAKE_SYM
	fsRefer      = unix.LANDLOCK_ACCESS_FS_REFER
	fsTruncate   = unix.LANDLOCK_ACCESS_FS_TRUNCATE
	fsIoctlDev   = unix.LANDLOCK_ACCESS_FS_IOCTL_DEV

	bindTCP    = unix.LANDLOCK_ACCESS_NET_BIND_TCP
	connectTCP = unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	// listenTCP is the bit of the proposal (landlock-lsm/linux issue 15).
	// Mainline later gave the same bit to BIND_UDP, see probeListen.
	listenTCP = 1 << 2

	// LANDLOCK_RULE_NET_PORT, which package unix lacks.
	ruleNetPort = 2

	scopeUnix   = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	scopeSignal = unix.LANDLOCK_SCOPE_SIGNAL
)

// attr is struct landlock_ruleset_attr as of ABI 6; x/sys/unix has the newest
// one, which older kernels accept only while its tail is zero.
type attr struct {
	FS, Net, Scoped uint64
}

// The ABI versions and the kernels they came with (Documentation/userspace-api/landlock.rst).
var abiSince = []struct {
	abi     int
	release string
	what    string
}{
	{1, "5.13", "landlock"},
	{2, "5.19", "LANDLOCK_ACCESS_FS_REFER"},
	{3, "6.2", "LANDLOCK_ACCESS_FS_TRUNCATE"},
	{4, "6.7", "landlock TCP rules"},
	{5, "6.10", "LANDLOCK_ACCESS_FS_IOCTL_DEV"},
	{6, "6.12", "landlock scopes"},
}

func abi(t testing.TB) int {
	t.Helper()
	v, err := create(nil, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if err != nil {
		t.Fatalf("query landlock's ABI version: %v; is landlock in lsm=?", err)
	}
	return v
}

// needABI skips on a kernel that is too old for an ABI version. A kernel that
// is new enough and lacks it fails the test.
func needABI(t testing.TB, want int) {
	t.Helper()
	have := abi(t)
	if have >= want {
		return
	}
	for _, a := range abiSince {
		if a.abi == want {
			kit.NeedLinux(t, a.release, a.what)
		}
	}
	t.Fatalf("landlock ABI is %d on %s, want at least %d", have, kit.Release(), want)
}

// create is landlock_create_ruleset(2).
func create(a *attr, size uintptr, flags uint32) (int, error) {
	return createRaw(unsafe.Pointer(a), size, flags)
}

func createRaw(p unsafe.Pointer, size uintptr, flags uint32) (int, error) {
	fd, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(p), size, uintptr(flags))
	runtime.KeepAlive(p)
	if e != 0 {
		return -1, e
	}
	return int(fd), nil
}

// addRaw is landlock_add_rule(2).
func addRaw(fd int, typ uintptr, p unsafe.Pointer, flags uint32) error {
	_, _, e := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(fd), typ, uintptr(p), uintptr(flags), 0, 0)
	runtime.KeepAlive(p)
	return kit.Errno(e)
}

type portAttr struct{ Access, Port uint64 }

func addPort(fd int, port, access uint64) error {
	return addRaw(fd, ruleNetPort, unsafe.Pointer(&portAttr{access, port}), 0)
}

// pathAttr is packed to 12 bytes in C; the kernel reads no more than those.
type pathAttr struct {
	Access uint64
	FD     int32
}

func addPath(fd, parent int, access uint64) error {
	return addRaw(fd, unix.LANDLOCK_RULE_PATH_BENEATH, unsafe.Pointer(&pathAttr{access, int32(parent)}), 0)
}

// restrict is landlock_restrict_self(2).
func restrict(fd int, flags uint32) error {
	_, _, e := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(fd), uintptr(flags), 0)
	return kit.Errno(e)
}

// layer is one ruleset: what it handles and what its rules allow.
type layer struct {
	attr
	ports map[uint64]uint64 // port -> access
	paths map[string]uint64 // path -> access
}

// ruleset makes the layer's ruleset and closes it when the test ends.
func (l layer) ruleset(t testing.TB) int {
	t.Helper()
	a := l.attr
	size := unsafe.Sizeof(a)
	switch {
	case a.Net == 0 && a.Scoped == 0:
		size = unsafe.Offsetof(a.Net) // all that ABI 1 knows
	case a.Scoped == 0:
		size = unsafe.Offsetof(a.Scoped)
	}
	fd, err := create(&a, size, 0)
	assert.NilError(t, err, "create ruleset %#x", a)
	t.Cleanup(func() { _ = unix.Close(fd) })
	for p, access := range l.ports {
		assert.NilError(t, addPort(fd, p, access), "add rule for port %d", p)
	}
	for p, access := range l.paths {
		addPathRule(t, fd, p, access)
	}
	return fd
}

func addPathRule(t testing.TB, fd int, path string, access uint64) {
	t.Helper()
	parent, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	assert.NilError(t, err, "open %s", path)
	defer func() { _ = unix.Close(parent) }()
	assert.NilError(t, addPath(fd, parent, access), "add rule for %s", path)
}

// enforce confines the calling thread by the layers, first to last.
func enforce(t testing.TB, layers ...layer) {
	t.Helper()
	for i, l := range layers {
		assert.NilError(t, restrict(l.ruleset(t), 0), "enforce layer %d", i+1)
	}
}

// confined runs fn on a thread of its own that the layers confine; without
// layers fn runs unconfined.
func confined(t testing.TB, fn func(), layers ...layer) {
	t.Helper()
	kit.OnThread(t, func() {
		enforce(t, layers...)
		fn()
	})
}

func noNewPrivs(t testing.TB) {
	t.Helper()
	assert.NilError(t, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
}
