// SPDX-License-Identifier: Apache-2.0

package pamcap

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit"
)

// state is what /proc tells about a thread's credentials.
type state struct {
	I, P, E, B, A set
	UID, GID      int // effective
	Securebits    int
	Secure        bool // AT_SECURE: the execve gained privilege
}

// set is a set of capabilities.
type set uint64

func caps(list ...int) (s set) {
	for _, c := range list {
		s |= 1 << c
	}
	return s
}

func (s set) String() string { return fmt.Sprintf("%#x", uint64(s)) }

// lastCap is the kernel's highest capability.
func lastCap(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	assert.NilError(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	assert.NilError(t, err)
	return n
}

func full(t testing.TB) set { t.Helper(); return 1<<(lastCap(t)+1) - 1 }

// readState reads the state of a thread from its status file.
func readState(path string) (state, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return state{}, err
	}
	var s state
	sets := map[string]*set{"CapInh": &s.I, "CapPrm": &s.P, "CapEff": &s.E, "CapBnd": &s.B, "CapAmb": &s.A}
	for _, l := range strings.Split(string(b), "\n") {
		k, v, _ := strings.Cut(l, ":")
		f := strings.Fields(v)
		switch p := sets[k]; {
		case p != nil:
			if len(f) != 1 || len(f[0]) != 16 {
				return state{}, fmt.Errorf("%s: line %q: want 16 hex digits", path, l)
			}
			n, err := strconv.ParseUint(f[0], 16, 64)
			if err != nil {
				return state{}, fmt.Errorf("%s: line %q: %w", path, l, err)
			}
			*p = set(n)
			delete(sets, k)
		case k == "Uid" && len(f) == 4:
			s.UID, err = strconv.Atoi(f[1])
		case k == "Gid" && len(f) == 4:
			s.GID, err = strconv.Atoi(f[1])
		}
		if err != nil {
			return state{}, fmt.Errorf("%s: line %q: %w", path, l, err)
		}
	}
	if len(sets) > 0 {
		return state{}, fmt.Errorf("%s lacks %v", path, sets)
	}
	return s, nil
}

// current is the calling thread's state.
func current() (state, error) {
	s, err := readState("/proc/thread-self/status")
	if err != nil {
		return s, err
	}
	s.Securebits, err = unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	return s, err
}

func now(t testing.TB) state {
	t.Helper()
	s, err := current()
	assert.NilError(t, err)
	return s
}

// want compares one set of a state.
func want(t testing.TB, what string, got, want set) {
	t.Helper()
	kit.Want(t, got == want, "%s is %v, want %v", what, got, want)
}

// capset is capset(2) for the calling thread.
func capset(e, p, i set) error {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	d := [2]unix.CapUserData{
		{Effective: uint32(e), Permitted: uint32(p), Inheritable: uint32(i)},
		{Effective: uint32(e >> 32), Permitted: uint32(p >> 32), Inheritable: uint32(i >> 32)},
	}
	return unix.Capset(&h, &d[0])
}

// setInheritable changes the inheritable set only.
func setInheritable(t testing.TB, i set) error {
	t.Helper()
	s := now(t)
	return capset(s.E, s.P, i)
}

func prctl(op int, args ...uintptr) error {
	var a [4]uintptr
	copy(a[:], args)
	return unix.Prctl(op, a[0], a[1], a[2], a[3])
}

func dropBound(c int) error { return prctl(unix.PR_CAPBSET_DROP, uintptr(c)) }

// mustDropBound drops from the bounding set.
func mustDropBound(t testing.TB, c ...int) {
	t.Helper()
	for _, c := range c {
		assert.NilError(t, dropBound(c), "drop %d from the bounding set", c)
	}
}

func ambient(op int, c int) error { return prctl(unix.PR_CAP_AMBIENT, uintptr(op), uintptr(c)) }

// become changes all of the calling thread's user and group IDs; package
// syscall would change those of all threads.
func become(t testing.TB, uid, gid int) {
	t.Helper()
	assert.NilError(t, kit.SetGID(uint32(gid)))
	assert.NilError(t, kit.SetUID(uint32(uid)))
}

// programs are copies of the test binary, which is also the program that tells
// its state, on a file system with extended attributes. Copying is slow where
// the machine is emulated, so tests share them, one after the other.
var programs struct {
	dir   string
	paths []string
}

// program returns the n-th program, as it is without capabilities: root's, with
// this mode.
func program(t testing.TB, n int, mode os.FileMode) string {
	t.Helper()
	if programs.dir == "" {
		dir, err := os.MkdirTemp("", "kvmrun-programs-")
		assert.NilError(t, err)
		// There until the VM ends.
		assert.NilError(t, unix.Mount("kvmrun-test", dir, "tmpfs", 0, "mode=0755"))
		programs.dir = dir
	}
	for len(programs.paths) <= n {
		path := filepath.Join(programs.dir, "program-"+strconv.Itoa(len(programs.paths)))
		assert.NilError(t, copyFile(path, "/proc/self/exe"))
		programs.paths = append(programs.paths, path)
	}
	path := programs.paths[n]
	// Changing the owner takes the capabilities of the test before, and the
	// bits that chmod then sets.
	assert.NilError(t, os.Chown(path, 0, 0))
	assert.NilError(t, os.Chmod(path, mode))
	return path
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// fileCaps is the content of the extended attribute security.capability.
type fileCaps struct {
	P, I      set
	Effective bool
	// Root is the root user of the owning user namespace, for revision 3;
	// 0 makes revision 2.
	Root uint32
}

// bytes encodes it (struct vfs_ns_cap_data, include/uapi/linux/capability.h).
func (f fileCaps) bytes() []byte {
	magic := uint32(0x02000000) // VFS_CAP_REVISION_2
	if f.Root != 0 {
		magic = 0x03000000
	}
	if f.Effective {
		magic |= 1 // VFS_CAP_FLAGS_EFFECTIVE
	}
	b := binary.LittleEndian.AppendUint32(nil, magic)
	for _, half := range []uint{0, 32} {
		b = binary.LittleEndian.AppendUint32(b, uint32(f.P>>half))
		b = binary.LittleEndian.AppendUint32(b, uint32(f.I>>half))
	}
	if f.Root != 0 {
		b = binary.LittleEndian.AppendUint32(b, f.Root)
	}
	return b
}

func (f fileCaps) set(t testing.TB, path string) {
	t.Helper()
	assert.NilError(t, unix.Setxattr(path, "security.capability", f.bytes(), 0), "set capabilities of %s", path)
}

// execState runs the program from the calling thread and returns its state, or
// the error of execve(2).
func execState(t testing.TB, path string, change ...func(*exec.Cmd)) (state, error) {
	t.Helper()
	r, w, err := os.Pipe()
	assert.NilError(t, err)
	defer func() { _ = r.Close() }()
	cmd := exec.Command(path)
	cmd.Env = []string{kit.HelperEnv + "=state"}
	cmd.Stdin = strings.NewReader("null")
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{w}
	for _, f := range change {
		f(cmd)
	}
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return state{}, err
	}
	var reply struct {
		Out state
		Err string
	}
	err = json.NewDecoder(r).Decode(&reply)
	assert.NilError(t, cmd.Wait(), "program %s", path)
	assert.NilError(t, err, "decode the program's state")
	assert.Equal(t, reply.Err, "")
	return reply.Out, nil
}

func mustExec(t testing.TB, path string, change ...func(*exec.Cmd)) state {
	t.Helper()
	s, err := execState(t, path, change...)
	assert.NilError(t, err, "run %s", path)
	return s
}

// helpState tells the process's own state.
func helpState(json.RawMessage) (any, error) {
	s, err := current()
	if err != nil {
		return nil, err
	}
	s.Secure, err = atSecure()
	return s, err
}

// atSecure reads AT_SECURE from the auxiliary vector (getauxval(3)).
func atSecure() (bool, error) {
	b, err := os.ReadFile("/proc/self/auxv")
	if os.IsPermission(err) {
		// Only a process that gained privilege cannot read its own.
		return true, nil
	}
	const tag, word = 23, int(unsafe.Sizeof(uintptr(0)))
	for i := 0; i+2*word <= len(b); i += 2 * word {
		if binary.NativeEndian.Uint64(b[i:]) == tag {
			return binary.NativeEndian.Uint64(b[i+word:]) != 0, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("no AT_SECURE in the auxiliary vector")
	}
	return false, err
}
