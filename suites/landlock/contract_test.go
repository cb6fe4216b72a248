// SPDX-License-Identifier: Apache-2.0

package landlock

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/kit/fs"
)

func TestABIVersion(t *testing.T) {
	have := abi(t)
	for _, a := range abiSince {
		if suites.CompareRelease(kit.Release(), a.release) >= 0 {
			kit.Want(t, have >= a.abi, "%s has %s, ABI %d, but says %d", kit.Release(), a.what, a.abi, have)
		}
	}
}

func TestABIVersionQueryArguments(t *testing.T) {
	a := attr{FS: fsExecute}
	for _, c := range []struct {
		name  string
		a     *attr
		size  uintptr
		flags uint32
	}{
		{"attr", &a, 0, unix.LANDLOCK_CREATE_RULESET_VERSION},
		{"size", nil, 8, unix.LANDLOCK_CREATE_RULESET_VERSION},
		{"attr and size", &a, 8, unix.LANDLOCK_CREATE_RULESET_VERSION},
		{"second flag", nil, 0, unix.LANDLOCK_CREATE_RULESET_VERSION | unix.LANDLOCK_CREATE_RULESET_ERRATA},
		{"unknown flag", nil, 0, 1 << 31},
		{"flag with a valid ruleset", &a, 8, 1 << 31},
	} {
		t.Run(c.name, func(t *testing.T) {
			fd, err := create(c.a, c.size, c.flags)
			kit.WantErrno(t, "query", err, unix.EINVAL)
			assert.Check(t, cmp.Equal(fd, -1))
		})
	}
}

// errata returns the kernel's errata bit mask.
func errata() (int, error) { return create(nil, 0, unix.LANDLOCK_CREATE_RULESET_ERRATA) }

// needErratum skips on a kernel that does not claim the fix of erratum n
// (security/landlock/errata).
func needErratum(t testing.TB, n uint) {
	t.Helper()
	have, err := errata()
	if err == nil && have&(1<<(n-1)) == 0 {
		err = fmt.Errorf("errata %#x lack number %d", have, n)
	}
	kit.NeedFeature(t, FeatureErrata, err)
}

func TestErrata(t *testing.T) {
	have, err := errata()
	kit.NeedFeature(t, FeatureErrata, err)
	want := 0
	if abi(t) >= 4 {
		want |= 1 << 0 // TCP socket identification
	}
	if abi(t) >= 6 {
		want |= 1 << 1 // scoped signal handling
	}
	assert.Check(t, cmp.Equal(have&want, want), "errata %#x", have)
	a := attr{FS: fsExecute}
	_, err = create(&a, 0, unix.LANDLOCK_CREATE_RULESET_ERRATA)
	kit.WantErrno(t, "errata with attr", err, unix.EINVAL)
	_, err = create(nil, 8, unix.LANDLOCK_CREATE_RULESET_ERRATA)
	kit.WantErrno(t, "errata with size", err, unix.EINVAL)
}

func TestCreateRulesetSize(t *testing.T) {
	page := uintptr(os.Getpagesize())
	buf := make([]byte, page+8)
	p := unsafe.Pointer(&buf[0])
	*(*attr)(p) = attr{FS: fsExecute}
	try := func(what string, size uintptr, want unix.Errno) {
		t.Helper()
		fd, err := createRaw(p, size, 0)
		kit.WantErrno(t, what, err, want)
		if err == nil {
			assert.NilError(t, unix.Close(fd))
		}
	}
	try("size 0", 0, unix.EINVAL)
	try("size 1", 1, unix.EINVAL)
	try("size 7", 7, unix.EINVAL)
	try("size 8", 8, 0)
	try("size 24", 24, 0)
	try("a zero tail to the end of a page", page, 0)
	try("more than a page", page+1, unix.E2BIG)
	buf[page-1] = 1
	try("a tail that is not zero", page, unix.E2BIG)
}

func TestCreateRulesetPointer(t *testing.T) {
	_, err := create(nil, 0, 0)
	kit.WantErrno(t, "no attr", err, unix.EFAULT)
	_, err = create(nil, 8, 0)
	kit.WantErrno(t, "no attr, size 8", err, unix.EFAULT)
	_, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 1, 8, 0)
	kit.WantErrno(t, "attr at address 1", kit.Errno(e), unix.EFAULT)
	_, _, e = unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 1, 7, 0)
	kit.WantErrno(t, "size before address", kit.Errno(e), unix.EINVAL)
}

func TestCreateRulesetEmpty(t *testing.T) {
	var a attr
	for _, size := range []uintptr{8, 16, 24} {
		_, err := create(&a, size, 0)
		kit.WantErrno(t, fmt.Sprintf("empty ruleset of size %d", size), err, unix.ENOMSG)
	}
}

// TestCreateRulesetBits tries every bit of every field, so that a right that
// is dropped from or leaks into the known masks is seen.
func TestCreateRulesetBits(t *testing.T) {
	v := abi(t)
	count := func(byABI map[int]uint) (n uint) {
		for a, c := range byABI {
			if v >= a {
				n = max(n, c)
			}
		}
		return n
	}
	listen := probeListen(t) == nil
	for _, f := range []struct {
		name string
		set  func(*attr, uint64)
		// Bits known since an ABI version.
		known map[int]uint
	}{
		{"handled_access_fs", func(a *attr, b uint64) { a.FS = b }, map[int]uint{1: 13, 2: 14, 3: 15, 5: 16}},
		{"handled_access_net", func(a *attr, b uint64) { a.Net = b }, map[int]uint{4: 2}},
		{"scoped", func(a *attr, b uint64) { a.Scoped = b }, map[int]uint{6: 2}},
	} {
		t.Run(f.name, func(t *testing.T) {
			known := count(f.known)
			for bit := range uint(64) {
				var a attr
				f.set(&a, 1<<bit)
				fd, err := create(&a, unsafe.Sizeof(a), 0)
				if err == nil {
					assert.NilError(t, unix.Close(fd))
				}
				what := fmt.Sprintf("bit %d", bit)
				switch {
				case known == 0:
					// The kernel does not know the field at all.
					kit.WantErrno(t, what, err, unix.E2BIG)
				case bit < known || listen && f.name == "handled_access_net" && 1<<bit == listenTCP:
					kit.WantErrno(t, what, err, 0)
				case v <= 7 || bit >= 32:
					// Later versions may know more; none uses the upper half.
					kit.WantErrno(t, what, err, unix.EINVAL)
				}
			}
		})
	}
}

func TestRulesetDescriptor(t *testing.T) {
	fd := layer{attr: attr{FS: fsExecute}}.ruleset(t)
	b := []byte{0}
	_, err := unix.Read(fd, b)
	kit.WantErrno(t, "read", err, unix.EINVAL)
	_, err = unix.Write(fd, b)
	kit.WantErrno(t, "write", err, unix.EINVAL)
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	assert.NilError(t, err)
	kit.Want(t, flags&unix.FD_CLOEXEC != 0, "not closed on exec")
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	assert.NilError(t, err)
	assert.Check(t, cmp.Contains(name, "landlock-ruleset"))
}

// TestRulesetOverSocket enforces a ruleset that came over a unix socket.
func TestRulesetOverSocket(t *testing.T) {
	dir := fs.Tmpfs(t, 0)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	assert.NilError(t, err)
	defer func() { _ = unix.Close(pair[0]); _ = unix.Close(pair[1]) }()
	fd := layer{attr: attr{FS: fsReadDir}}.ruleset(t)
	assert.NilError(t, unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(fd), nil, 0))
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[1], make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	assert.NilError(t, err)
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	assert.NilError(t, err)
	fds, err := unix.ParseUnixRights(&msgs[0])
	assert.NilError(t, err)
	defer func() { _ = unix.Close(fds[0]) }()
	confined(t, func() {
		assert.NilError(t, restrict(fds[0], 0))
		kit.WantErrno(t, "read directory", openDir(dir), unix.EACCES)
	})
	kit.WantErrno(t, "read directory unconfined", openDir(dir), 0)
}

func openDir(dir string) error { return open(dir, unix.O_RDONLY|unix.O_DIRECTORY) }

func open(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err
}

// TestAddRuleOrder gives several faults at once; the first in the order of
// checks decides the errno.
func TestAddRuleOrder(t *testing.T) {
	needABI(t, 4)
	all := attr{FS: fsReadFile, Net: bindTCP}
	rs := layer{attr: all}.ruleset(t)
	noNet := layer{attr: attr{FS: fsReadFile}}.ruleset(t)
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	assert.NilError(t, err)
	defer func() { _ = unix.Close(null) }()
	opath, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", rs), unix.O_PATH|unix.O_CLOEXEC, 0)
	assert.NilError(t, err)
	defer func() { _ = unix.Close(opath) }()
	dir, err := unix.Open(t.TempDir(), unix.O_PATH|unix.O_CLOEXEC, 0)
	assert.NilError(t, err)
	defer func() { _ = unix.Close(dir) }()

	const port, beneath = ruleNetPort, unix.LANDLOCK_RULE_PATH_BENEATH
	net := func(access, port uint64) unsafe.Pointer { return unsafe.Pointer(&portAttr{access, port}) }
	path := func(access uint64, fd int) unsafe.Pointer { return unsafe.Pointer(&pathAttr{access, int32(fd)}) }
	for _, c := range []struct {
		name  string
		fd    int
		typ   uintptr
		attr  unsafe.Pointer
		flags uint32
		want  unix.Errno
	}{
		{"flags before a bad descriptor", -1, 99, nil, 1 << 31, unix.EINVAL},
		{"bad descriptor before a bad type", -1, 99, nil, 0, unix.EBADF},
		{"no ruleset before a bad type", null, 99, nil, 0, unix.EBADFD},
		{"O_PATH ruleset before a bad type", opath, 99, nil, 0, unix.EBADF},
		{"type 0 before a bad address", rs, 0, nil, 0, unix.EINVAL},
		{"unknown type before a bad address", rs, 99, nil, 0, unix.EINVAL},
		{"port: bad address", rs, port, nil, 0, unix.EFAULT},
		{"port: no access before a bad port", rs, port, net(0, 1<<16), 0, unix.ENOMSG},
		{"port: unhandled access", rs, port, net(connectTCP, 80), 0, unix.EINVAL},
		{"port: one handled and one unhandled access", rs, port, net(bindTCP|connectTCP, 80), 0, unix.EINVAL},
		{"port: nothing of the network handled", noNet, port, net(bindTCP, 80), 0, unix.EINVAL},
		{"port: too high", rs, port, net(bindTCP, 1<<16), 0, unix.EINVAL},
		{"port: valid", rs, port, net(bindTCP, 1<<16-1), 0, 0},
		{"path: bad address", rs, beneath, nil, 0, unix.EFAULT},
		{"path: no access before a bad parent", rs, beneath, path(0, -1), 0, unix.ENOMSG},
		{"path: unhandled access before a bad parent", rs, beneath, path(fsWriteFile, -1), 0, unix.EINVAL},
		{"path: bad parent", rs, beneath, path(fsReadFile, -1), 0, unix.EBADF},
		{"path: ruleset as parent", rs, beneath, path(fsReadFile, rs), 0, unix.EBADFD},
		{"path: valid", rs, beneath, path(fsReadFile, dir), 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			kit.WantErrno(t, "add rule", addRaw(c.fd, c.typ, c.attr, c.flags), c.want)
		})
	}
}

// TestAddRuleParent: pipes and sockets live on file systems that nobody can
// mount, so that a rule on them is refused.
func TestAddRuleParent(t *testing.T) {
	rs := layer{attr: attr{FS: fsReadFile}}.ruleset(t)
	var p [2]int
	assert.NilError(t, unix.Pipe2(p[:], unix.O_CLOEXEC))
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	assert.NilError(t, err)
	for _, fd := range []int{p[0], p[1], sock} {
		kit.WantErrno(t, "rule on pipe or socket", addPath(rs, fd, fsReadFile), unix.EBADFD)
		assert.NilError(t, unix.Close(fd))
	}
}

func TestRestrictSelfNeedsNoNewPrivsOrAdmin(t *testing.T) {
	l := layer{attr: attr{FS: fsReadDir}}
	rs := l.ruleset(t)
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	assert.NilError(t, err)
	defer func() { _ = unix.Close(null) }()
	kit.OnThread(t, func() {
		kit.DropCaps(t, unix.CAP_SYS_ADMIN)
		kit.WantErrno(t, "neither", restrict(rs, 0), unix.EPERM)
		first := unix.EPERM
		if abi(t) >= 11 { // has a flag that makes up for it, so the flags come first
			first = unix.EINVAL
		}
		kit.WantErrno(t, "neither, and bad flags", restrict(rs, 1<<31), first)
		kit.WantErrno(t, "neither, before a bad descriptor", restrict(-1, 0), unix.EPERM)
		noNewPrivs(t)
		kit.WantErrno(t, "flags before a bad descriptor", restrict(-1, 1<<31), unix.EINVAL)
		kit.WantErrno(t, "bad descriptor", restrict(-1, 0), unix.EBADF)
		kit.WantErrno(t, "no ruleset", restrict(null, 0), unix.EBADFD)
		kit.WantErrno(t, "not confined by the failed calls", openDir("/tmp"), 0)
		kit.WantErrno(t, "no_new_privs", restrict(rs, 0), 0)
		kit.WantErrno(t, "confined", openDir("/tmp"), unix.EACCES)
	})
	kit.OnThread(t, func() {
		kit.WantErrno(t, "CAP_SYS_ADMIN without no_new_privs", restrict(rs, 0), 0)
		kit.WantErrno(t, "confined", openDir("/tmp"), unix.EACCES)
	})
}

// TestLayerLimit enforces up to the limit of 16 layers
// (LANDLOCK_MAX_NUM_LAYERS, security/landlock/limits.h).
func TestLayerLimit(t *testing.T) {
	dir := fs.Tmpfs(t, 0)
	rs := layer{attr: attr{FS: fsReadDir}, paths: map[string]uint64{dir: fsReadDir}}.ruleset(t)
	kit.OnThread(t, func() {
		for i := range 16 {
			assert.NilError(t, restrict(rs, 0), "layer %d", i+1)
			kit.WantErrno(t, "allowed by every layer", openDir(dir), 0)
			kit.WantErrno(t, "allowed by none", openDir("/"), unix.EACCES)
		}
		kit.WantErrno(t, "layer 17", restrict(rs, 0), unix.E2BIG)
		kit.WantErrno(t, "layer 18", restrict(rs, 0), unix.E2BIG)
		kit.WantErrno(t, "still allowed", openDir(dir), 0)
		kit.WantErrno(t, "still denied", openDir("/"), unix.EACCES)
	})
}

// TestRulesetAfterEnforce: a rule that is added to a ruleset after it was
// enforced does not reach the domain.
func TestRulesetAfterEnforce(t *testing.T) {
	dir := fs.Tmpfs(t, 0)
	rs := layer{attr: attr{FS: fsReadDir}}.ruleset(t)
	kit.OnThread(t, func() {
		parent, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
		assert.NilError(t, err)
		defer func() { _ = unix.Close(parent) }()
		assert.NilError(t, restrict(rs, 0))
		assert.NilError(t, addPath(rs, parent, fsReadDir))
		kit.WantErrno(t, "rule added later", openDir(dir), unix.EACCES)
	})
	kit.OnThread(t, func() {
		assert.NilError(t, restrict(rs, 0))
		kit.WantErrno(t, "rule added before", openDir(dir), 0)
	})
}

func TestListedAsLSM(t *testing.T) {
	b, err := os.ReadFile("/sys/kernel/security/lsm")
	if errors.Is(err, os.ErrNotExist) {
		assert.NilError(t, unix.Mount("securityfs", "/sys/kernel/security", "securityfs", 0, ""))
		b, err = os.ReadFile("/sys/kernel/security/lsm")
	}
	assert.NilError(t, err)
	lsms := strings.Split(strings.TrimSpace(string(b)), ",")
	assert.Check(t, cmp.Contains(lsms, "landlock"))
}

// TestBootMessage looks for setup.c's message in the kernel log.
func TestBootMessage(t *testing.T) {
	log := kit.OpenKernelLog(t, false)
	found := slices.ContainsFunc(log.Read(), func(record string) bool {
		return strings.HasPrefix(record, "landlock: Up and running.")
	})
	if !found && log.Lost > 0 {
		t.Logf("the first %d records of the kernel log were overwritten, the message may be gone", log.Lost)
		return
	}
	kit.Want(t, found, `no "landlock: Up and running." in the kernel log`)
}
