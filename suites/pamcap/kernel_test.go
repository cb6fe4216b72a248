// SPDX-License-Identifier: Apache-2.0

package pamcap

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/kit/fs"
)

// Rules are numbered as in capabilities(7): P'(permitted) and so on. The
// capabilities used are two that no test needs itself.
const (
	capA = unix.CAP_NET_RAW
	capB = unix.CAP_SYS_TIME

	uid, gid   = 1000, 1000
	uid2, gid2 = 1001, 1001
)

func TestBoundingSetRead(t *testing.T) {
	s := now(t)
	for c := range lastCap(t) + 1 {
		got, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		assert.NilError(t, err)
		assert.Check(t, cmp.Equal(got, 1), "capability %d", c)
	}
	want(t, "CapBnd", s.B, full(t))
}

func TestBoundingSetReadInvalid(t *testing.T) {
	for _, c := range []uintptr{uintptr(lastCap(t)) + 1, 63, 64, 1 << 31, ^uintptr(0)} {
		_, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		kit.WantErrno(t, fmt.Sprintf("read %#x", c), err, unix.EINVAL)
	}
}

// TestBoundingSetDrop drops one after the other, so that a bit that takes
// another one along is seen.
func TestBoundingSetDrop(t *testing.T) {
	kit.OnThread(t, func() {
		b := now(t).B
		for c := range lastCap(t) + 1 {
			for _, again := range []string{"drop", "drop again"} {
				kit.WantErrno(t, fmt.Sprintf("%s %d", again, c), dropBound(c), 0)
				b &^= caps(c)
				want(t, fmt.Sprintf("CapBnd without %d", c), now(t).B, b)
			}
			got, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
			assert.NilError(t, err)
			assert.Check(t, cmp.Equal(got, 0), "read %d", c)
		}
		want(t, "CapBnd in the end", now(t).B, 0)
	})
}

func TestBoundingSetDropNeedsSetpcap(t *testing.T) {
	kit.OnThread(t, func() {
		before := now(t)
		kit.DropCaps(t, unix.CAP_SETPCAP)
		kit.WantErrno(t, "drop", dropBound(capA), unix.EPERM)
		kit.WantErrno(t, "drop of an invalid one: permission comes first", dropBound(63), unix.EPERM)
		want(t, "CapBnd", now(t).B, before.B)
		assert.NilError(t, capset(before.E, before.P, before.I))
		kit.WantErrno(t, "drop with CAP_SETPCAP again", dropBound(capA), 0)
	})
}

func TestBoundingSetDropInvalid(t *testing.T) {
	kit.OnThread(t, func() {
		for _, c := range []int{lastCap(t) + 1, 63, 64, 1 << 20} {
			kit.WantErrno(t, fmt.Sprintf("drop %d", c), dropBound(c), unix.EINVAL)
		}
		want(t, "CapBnd", now(t).B, full(t))
	})
}

// TestBoundingSetDropKeepsSets: the running thread loses nothing but the way
// to get it back.
func TestBoundingSetDropKeepsSets(t *testing.T) {
	kit.OnThread(t, func() {
		before := now(t)
		mustDropBound(t, capA)
		after := now(t)
		want(t, "CapPrm", after.P, before.P)
		want(t, "CapEff", after.E, before.E)
		assert.NilError(t, capset(before.E&^caps(capA), before.P&^caps(capA), 0))
		kit.WantErrno(t, "raise in P", capset(before.E, before.P, 0), unix.EPERM)
		kit.WantErrno(t, "raise in E", capset(before.E, before.P&^caps(capA), 0), unix.EPERM)
	})
}

func TestBoundingSetPerThread(t *testing.T) {
	kit.OnThread(t, func() {
		mustDropBound(t, capA)
		want(t, "CapBnd of the thread", now(t).B, full(t)&^caps(capA))
		leader, err := readState(fmt.Sprintf("/proc/self/task/%d/status", os.Getpid()))
		assert.NilError(t, err)
		want(t, "CapBnd of the first thread", leader.B, full(t))
		kit.OnThread(t, func() { want(t, "CapBnd of a new thread", now(t).B, full(t)) })
	})
}

// TestExecRoot: P' = X | pI for root.
func TestExecRoot(t *testing.T) {
	prog := program(t, 0, 0o755)
	for _, c := range []struct {
		name string
		i    set
		drop []int
		p    set // missing from the full set
	}{
		{"nothing dropped", 0, nil, 0},
		{"dropped", 0, []int{capA, capB}, caps(capA, capB)},
		{"dropped but inheritable", caps(capA), []int{capA, capB}, caps(capB)},
	} {
		t.Run(c.name, func(t *testing.T) {
			kit.OnThread(t, func() {
				assert.NilError(t, setInheritable(t, c.i))
				mustDropBound(t, c.drop...)
				s := mustExec(t, prog)
				want(t, "CapPrm", s.P, full(t)&^c.p)
				want(t, "CapEff", s.E, full(t)&^c.p)
				want(t, "CapInh", s.I, c.i)
				want(t, "CapBnd", s.B, full(t)&^caps(c.drop...))
			})
		})
	}
}

// TestInheritableBounded: what is in I stays there, but nothing outside the
// bounding set can be added.
func TestInheritableBounded(t *testing.T) {
	kit.OnThread(t, func() {
		assert.NilError(t, setInheritable(t, caps(capA)))
		mustDropBound(t, capA, capB)
		want(t, "CapInh after the drop", now(t).I, caps(capA))
		kit.WantErrno(t, "keep what is outside", setInheritable(t, caps(capA)), 0)
		kit.WantErrno(t, "add what is outside", setInheritable(t, caps(capA, capB)), unix.EPERM)
		kit.WantErrno(t, "add what is inside", setInheritable(t, caps(capA, unix.CAP_KILL)), 0)
		kit.WantErrno(t, "take it out", setInheritable(t, 0), 0)
		kit.WantErrno(t, "put it back", setInheritable(t, caps(capA)), unix.EPERM)
	})
}

// TestInheritableNeedsSetpcap: without CAP_SETPCAP, I may grow by what is in P
// only.
func TestInheritableNeedsSetpcap(t *testing.T) {
	kit.OnThread(t, func() {
		s := now(t)
		p := s.P &^ caps(capB)
		assert.NilError(t, capset(p, p, 0))
		kit.WantErrno(t, "with CAP_SETPCAP, not in P", setInheritable(t, caps(capB)), 0)
		assert.NilError(t, setInheritable(t, 0))
		kit.DropCaps(t, unix.CAP_SETPCAP)
		kit.WantErrno(t, "without, in P", setInheritable(t, caps(capA)), 0)
		kit.WantErrno(t, "without, not in P", setInheritable(t, caps(capB)), unix.EPERM)
		want(t, "CapInh", now(t).I, caps(capA))
	})
}

func TestPermittedOnlyShrinks(t *testing.T) {
	kit.OnThread(t, func() {
		p := now(t).P
		less := p &^ caps(capA)
		kit.WantErrno(t, "E beyond the new P", capset(p, less, 0), unix.EPERM)
		kit.WantErrno(t, "less", capset(less, less, 0), 0)
		kit.WantErrno(t, "P as before", capset(less, p, 0), unix.EPERM)
		kit.WantErrno(t, "empty E", capset(0, less, 0), 0)
		kit.WantErrno(t, "E up to P", capset(less, less, 0), 0)
		kit.WantErrno(t, "a bit beyond the last", capset(less, less|1<<(lastCap(t)+1), 0), 0)
		want(t, "CapPrm", now(t).P, less)
	})
}

func TestCapsetHeader(t *testing.T) {
	kit.OnThread(t, func() {
		var d [2]unix.CapUserData
		child := exec.Command("/proc/self/exe")
		child.Env = []string{kit.HelperEnv + "=state"}
		in, err := child.StdinPipe()
		assert.NilError(t, err)
		assert.NilError(t, child.Start())
		defer func() { _ = in.Close(); _ = child.Wait() }()

		v3 := uint32(unix.LINUX_CAPABILITY_VERSION_3)
		h := unix.CapUserHeader{Version: v3, Pid: int32(child.Process.Pid)}
		kit.WantErrno(t, "capget of another process", unix.Capget(&h, &d[0]), 0)
		s, err := readState(fmt.Sprintf("/proc/%d/status", child.Process.Pid))
		assert.NilError(t, err)
		want(t, "permitted set of the other process", set(d[0].Permitted)|set(d[1].Permitted)<<32, s.P)
		kit.WantErrno(t, "capset of another process", unix.Capset(&h, &d[0]), unix.EPERM)

		h.Pid = int32(unix.Gettid())
		kit.WantErrno(t, "capset by the thread's own number", unix.Capset(&h, &d[0]), 0)
		h.Pid = -1
		kit.WantErrno(t, "capget of a negative pid", unix.Capget(&h, &d[0]), unix.EINVAL)
		h.Pid = 1 << 30
		kit.WantErrno(t, "capget of nobody", unix.Capget(&h, &d[0]), unix.ESRCH)

		for _, version := range []uint32{0, 1, v3 + 1} {
			h = unix.CapUserHeader{Version: version}
			kit.WantErrno(t, fmt.Sprintf("capset of version %#x", version), unix.Capset(&h, &d[0]), unix.EINVAL)
			assert.Check(t, cmp.Equal(h.Version, v3), "version that the kernel asks for")
			h = unix.CapUserHeader{Version: version}
			kit.WantErrno(t, fmt.Sprintf("capget of version %#x", version), unix.Capget(&h, &d[0]), unix.EINVAL)
			assert.Check(t, cmp.Equal(h.Version, v3), "version that the kernel asks for")
			h = unix.CapUserHeader{Version: version}
			kit.WantErrno(t, fmt.Sprintf("query with version %#x", version), unix.Capget(&h, nil), 0)
			assert.Check(t, cmp.Equal(h.Version, v3), "version that the kernel has")
		}
	})
}

// TestExecFileCaps: P' = (X & fP) | (I & fI) for others than root.
func TestExecFileCaps(t *testing.T) {
	prog := program(t, 0, 0o755)
	for _, c := range []struct {
		name string
		file fileCaps
		i    set
		drop []int
		p    set
		err  unix.Errno
	}{
		{name: "none"},
		{name: "fP", file: fileCaps{P: caps(capA)}, p: caps(capA)},
		{name: "fP and effective", file: fileCaps{P: caps(capA), Effective: true}, p: caps(capA)},
		{name: "fP outside X", file: fileCaps{P: caps(capA)}, drop: []int{capA}},
		{name: "fP partly outside X", file: fileCaps{P: caps(capA, capB)}, drop: []int{capA}, p: caps(capB)},
		{name: "fP outside X and effective", file: fileCaps{P: caps(capA), Effective: true}, drop: []int{capA}, err: unix.EPERM},
		{name: "fP partly outside X and effective", file: fileCaps{P: caps(capA, capB), Effective: true}, drop: []int{capA}, err: unix.EPERM},
		{name: "fP outside X, effective, but I and fI", file: fileCaps{P: caps(capA), I: caps(capA), Effective: true}, i: caps(capA), drop: []int{capA}, p: caps(capA)},
		{name: "fI and I", file: fileCaps{I: caps(capA)}, i: caps(capA), p: caps(capA)},
		{name: "fI and I and effective", file: fileCaps{I: caps(capA), Effective: true}, i: caps(capA), p: caps(capA)},
		{name: "fI without I", file: fileCaps{I: caps(capA), Effective: true}},
		{name: "fI with another I", file: fileCaps{I: caps(capA)}, i: caps(capB)},
		{name: "I without fI", i: caps(capA)},
		{name: "fI and I outside X", file: fileCaps{I: caps(capA), Effective: true}, i: caps(capA), drop: []int{capA}, p: caps(capA)},
		{name: "a high capability", file: fileCaps{P: caps(unix.CAP_SYSLOG)}, p: caps(unix.CAP_SYSLOG)},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.file.set(t, prog)
			if c.file == (fileCaps{}) {
				assert.NilError(t, unix.Removexattr(prog, "security.capability"))
			}
			kit.OnThread(t, func() {
				assert.NilError(t, setInheritable(t, c.i))
				mustDropBound(t, c.drop...)
				become(t, uid, gid)
				s, err := execState(t, prog)
				if !kit.WantErrno(t, "execve", err, c.err) || err != nil {
					return
				}
				e := set(0)
				if c.file.Effective {
					e = c.p
				}
				want(t, "CapPrm", s.P, c.p)
				want(t, "CapEff", s.E, e)
				want(t, "CapInh", s.I, c.i)
				assert.Check(t, cmp.Equal(s.UID, uid))
				assert.Check(t, cmp.Equal(s.Secure, c.p != 0 || c.file.Effective), "AT_SECURE")
			})
		})
	}
}

// TestFileCapsRevision3 gives a file capabilities that count only where its
// root user is the namespace's.
func TestFileCapsRevision3(t *testing.T) {
	kit.NeedKconfig(t, "USER_NS=y")
	prog := program(t, 0, 0o755)
	fileCaps{P: caps(capA), Root: uid}.set(t, prog)
	userns := func(root int) func(*exec.Cmd) {
		return func(cmd *exec.Cmd) {
			ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: root, Size: 2}}
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids,
				Credential: &syscall.Credential{Uid: 1, Gid: 1, NoSetGroups: true},
			}
		}
	}
	want(t, "CapPrm in the namespace of the file's root", mustExec(t, prog, userns(uid)).P, caps(capA))
	want(t, "CapPrm in another namespace", mustExec(t, prog, userns(2000)).P, 0)
	kit.OnThread(t, func() {
		become(t, uid2, gid2)
		want(t, "CapPrm in the initial namespace", mustExec(t, prog).P, 0)
	})
}

func TestFileCapsNosuidMount(t *testing.T) {
	prog := program(t, 0, 0o755)
	fileCaps{P: caps(capA), Effective: true}.set(t, prog)
	dir := t.TempDir()
	mount := func(flags uintptr) {
		assert.NilError(t, unix.Mount(programs.dir, dir, "", unix.MS_BIND|flags, ""))
	}
	mount(0)
	defer func() { assert.NilError(t, unix.Unmount(dir, unix.MNT_DETACH)) }()
	for _, c := range []struct {
		name  string
		flags uintptr
		p     set
	}{{"suid", 0, caps(capA)}, {"nosuid", unix.MS_NOSUID, 0}} {
		mount(unix.MS_REMOUNT | c.flags)
		// t.TempDir's parent is closed to other users.
		fd, err := unix.Open(filepath.Join(dir, filepath.Base(prog)), unix.O_PATH, 0)
		assert.NilError(t, err)
		kit.OnThread(t, func() {
			become(t, uid, gid)
			want(t, "CapPrm, mounted "+c.name, mustExec(t, fmt.Sprintf("/proc/self/fd/%d", fd)).P, c.p)
		})
		assert.NilError(t, unix.Close(fd))
	}
}

// TestFileCapsCleared: writing to a file takes its capabilities.
func TestFileCapsCleared(t *testing.T) {
	path := fs.Tmpfs(t, 0) + "/file"
	assert.NilError(t, os.WriteFile(path, []byte("x"), 0o755))
	b := make([]byte, 64)
	for name, op := range map[string]func() error{
		"write":    func() error { return os.WriteFile(path, []byte("y"), 0o755) },
		"chown":    func() error { return os.Chown(path, uid, gid) },
		"truncate": func() error { return os.Truncate(path, 0) },
	} {
		fileCaps{P: caps(capA)}.set(t, path)
		n, err := unix.Getxattr(path, "security.capability", b)
		assert.NilError(t, err)
		assert.Check(t, cmp.DeepEqual(b[:n], fileCaps{P: caps(capA)}.bytes()))
		assert.NilError(t, op())
		_, err = unix.Getxattr(path, "security.capability", b)
		kit.WantErrno(t, "read after "+name, err, unix.ENODATA)
	}
}

// TestFileCapsInvalid: the kernel refuses what it would not understand, and
// who lacks CAP_SETFCAP.
func TestFileCapsInvalid(t *testing.T) {
	path := fs.Tmpfs(t, 0) + "/file"
	assert.NilError(t, os.WriteFile(path, nil, 0o755))
	valid := fileCaps{P: caps(capA)}.bytes()
	setx := func(b []byte) error { return unix.Setxattr(path, "security.capability", b, 0) }
	kit.OnThread(t, func() {
		kit.WantErrno(t, "too short", setx(valid[:19]), unix.EINVAL)
		kit.WantErrno(t, "too long", setx(append(valid, 0)), unix.EINVAL)
		kit.WantErrno(t, "valid", setx(valid), 0)
		kit.DropCaps(t, unix.CAP_SETFCAP)
		kit.WantErrno(t, "without CAP_SETFCAP", setx(valid), unix.EPERM)
	})
}

// TestFileCapsRemove: taking them away needs CAP_SETFCAP as well. Before
// commit 61df7b828204, the BPF LSM's default answer skipped that check.
func TestFileCapsRemove(t *testing.T) {
	kit.NeedLinux(t, "6.10", "the capability check of removexattr beside the BPF LSM")
	path := fs.Tmpfs(t, 0) + "/file"
	assert.NilError(t, os.WriteFile(path, nil, 0o755))
	fileCaps{P: caps(capA)}.set(t, path)
	remove := func() error { return unix.Removexattr(path, "security.capability") }
	kit.OnThread(t, func() {
		kit.DropCaps(t, unix.CAP_SETFCAP)
		kit.WantErrno(t, "without CAP_SETFCAP", remove(), unix.EPERM)
	})
	kit.WantErrno(t, "with CAP_SETFCAP", remove(), 0)
}

func TestNoNewPrivsFileCaps(t *testing.T) {
	prog := program(t, 0, 0o755)
	fileCaps{P: caps(capA), Effective: true}.set(t, prog)
	kit.OnThread(t, func() {
		assert.NilError(t, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		become(t, uid, gid)
		s := mustExec(t, prog)
		want(t, "CapPrm", s.P, 0)
		want(t, "CapEff", s.E, 0)
	})
	kit.OnThread(t, func() {
		assert.NilError(t, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		assert.NilError(t, prctl(unix.PR_SET_KEEPCAPS, 1))
		become(t, uid, gid)
		assert.NilError(t, capset(0, caps(capA), 0))
		want(t, "CapPrm, in P before", mustExec(t, prog).P, caps(capA))
	})
}

// TestUserNamespace: a new user namespace starts with everything, whatever its
// creator has dropped.
func TestUserNamespace(t *testing.T) {
	kit.NeedKconfig(t, "USER_NS=y")
	prog := program(t, 0, 0o755)
	kit.OnThread(t, func() {
		mustDropBound(t, capA, capB)
		assert.NilError(t, prctl(unix.PR_SET_SECUREBITS, secbitNoSetuidFixup))
		inner := mustExec(t, prog, func(cmd *exec.Cmd) {
			ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
		})
		want(t, "CapBnd in the namespace", inner.B, full(t))
		want(t, "CapPrm in the namespace", inner.P, full(t))
		assert.Check(t, cmp.Equal(inner.Securebits, 0))
		outer := mustExec(t, prog)
		want(t, "CapBnd beside", outer.B, full(t)&^caps(capA, capB))
		assert.Check(t, cmp.Equal(outer.Securebits, secbitNoSetuidFixup))
	})
}
