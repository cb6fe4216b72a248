// SPDX-License-Identifier: Apache-2.0

package ipe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/kit"
)

const root = "/sys/kernel/security/ipe"

// node is the path of a file of IPE's.
func node(elem ...string) string { return filepath.Join(append([]string{root}, elem...)...) }

// write writes to a node in one write(2), as securityfs wants it.
func write(path string, data []byte) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	n, err := unix.Write(fd, data)
	if err == nil && n != len(data) {
		err = fmt.Errorf("write of %d bytes to %s: short count %d", len(data), path, n)
	}
	return err
}

func mustWrite(t testing.TB, path, data string) {
	t.Helper()
	assert.NilError(t, write(path, []byte(data)), "write %q to %s", data, path)
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	assert.NilError(t, err)
	return string(b)
}

// keepSwitches restores enforce and success_audit at the end of the test.
func keepSwitches(t testing.TB) {
	t.Helper()
	for _, n := range []string{"success_audit", "enforce"} {
		old := read(t, node(n))
		t.Cleanup(func() { assert.NilError(t, write(node(n), []byte(old))) })
	}
}

// nodeMode checks type, permissions and owner of a node.
func nodeMode(t testing.TB, path string, mode fs.FileMode) {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		t.Error(err)
		return
	}
	assert.Check(t, cmp.Equal(st.Mode(), mode), path)
	sys := st.Sys().(*syscall.Stat_t)
	kit.Want(t, sys.Uid == 0 && sys.Gid == 0, "%s belongs to %d:%d, want root", path, sys.Uid, sys.Gid)
}

func TestTree(t *testing.T) {
	nodeMode(t, root, fs.ModeDir|0o755)
	nodeMode(t, node("policies"), fs.ModeDir|0o755)
	nodeMode(t, node("success_audit"), 0o600)
	nodeMode(t, node("enforce"), 0o600)
	nodeMode(t, node("new_policy"), 0o200)
	e, err := os.ReadDir(root)
	assert.NilError(t, err)
	assert.Check(t, cmp.Len(e, 4))
}

func TestListedAsLSM(t *testing.T) {
	lsms := strings.Split(strings.TrimSpace(read(t, "/sys/kernel/security/lsm")), ",")
	assert.Check(t, cmp.Contains(lsms, "ipe"))
}

// TestSwitchRead: one digit without a newline, and from its end nothing.
func TestSwitchRead(t *testing.T) {
	keepSwitches(t)
	for _, n := range []string{"success_audit", "enforce"} {
		for _, v := range []string{"0", "1"} {
			mustWrite(t, node(n), v)
			fd, err := unix.Open(node(n), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			assert.NilError(t, err)
			b := make([]byte, 16)
			k, err := unix.Read(fd, b)
			assert.NilError(t, err)
			assert.Check(t, cmp.Equal(string(b[:k]), v), "%s", n)
			k, err = unix.Read(fd, b)
			assert.NilError(t, err)
			assert.Check(t, cmp.Equal(k, 0), "%s at its end", n)
			assert.NilError(t, unix.Close(fd))
		}
	}
}

// TestParameters: the switches are module parameters too, to read and for the
// kernel's command line.
func TestParameters(t *testing.T) {
	keepSwitches(t)
	for _, n := range []string{"success_audit", "enforce"} {
		path := "/sys/module/ipe/parameters/" + n
		nodeMode(t, path, 0o400)
		for v, want := range map[string]string{"0": "N\n", "1": "Y\n"} {
			mustWrite(t, node(n), v)
			assert.Check(t, cmp.Equal(read(t, path), want), "%s after writing %s", path, v)
		}
	}
}

// TestSwitchWrite: what counts as true and false is kstrtobool's (lib/kstrtox.c).
func TestSwitchWrite(t *testing.T) {
	keepSwitches(t)
	for _, n := range []string{"success_audit", "enforce"} {
		t.Run(n, func(t *testing.T) {
			for text, want := range map[string]string{
				"1": "1", "y": "1", "Y": "1", "on": "1", "ON": "1", "oN": "1", "1\n": "1", "yes": "1", "10": "1",
				"0": "0", "n": "0", "N": "0", "of": "0", "off": "0", "OFF": "0", "0\n": "0", "no": "0",
			} {
				mustWrite(t, node(n), map[string]string{"0": "1", "1": "0"}[want])
				kit.WantErrno(t, fmt.Sprintf("write %q", text), write(node(n), []byte(text)), 0)
				assert.Check(t, cmp.Equal(read(t, node(n)), want), "after %q", text)
			}
			for _, v := range []string{"0", "1"} {
				mustWrite(t, node(n), v)
				// Newer kernels take e, d, t and f, too, for the first letters of words.
				for _, text := range []string{"", "2", "x", "o", "-1", " 1", "\n", "\x00", "permissive"} {
					kit.WantErrno(t, fmt.Sprintf("write %q", text), write(node(n), []byte(text)), unix.EINVAL)
					assert.Check(t, cmp.Equal(read(t, node(n)), v), "after %q", text)
				}
			}
			_, _, e := unix.Syscall(unix.SYS_WRITE, openNode(t, node(n), unix.O_WRONLY), 1, 1)
			kit.WantErrno(t, "write from address 1", e, unix.EFAULT)
		})
	}
}

func openNode(t testing.TB, path string, flags int) uintptr {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	assert.NilError(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	return uintptr(fd)
}

// TestWriteNeedsMacAdmin: every write needs CAP_MAC_ADMIN, before its content
// is looked at; it is the opener's that counts.
func TestWriteNeedsMacAdmin(t *testing.T) {
	keepSwitches(t)
	for _, c := range []struct {
		node, valid string
		want        unix.Errno // of a valid write with the capability
		invalid     string
	}{
		{"success_audit", "0", 0, "x"},
		{"enforce", "1", 0, "x"},
		{"new_policy", "no policy", unix.EBADMSG, ""},
	} {
		t.Run(c.node, func(t *testing.T) {
			kit.OnThread(t, func() {
				with := int(openNode(t, node(c.node), unix.O_WRONLY))
				kit.DropCaps(t, unix.CAP_MAC_ADMIN)
				without := int(openNode(t, node(c.node), unix.O_WRONLY))
				put := func(fd int, s string) error { _, err := unix.Write(fd, []byte(s)); return err }
				kit.WantErrno(t, "opened and written without", put(without, c.valid), unix.EPERM)
				kit.WantErrno(t, "invalid, opened and written without", put(without, c.invalid), unix.EPERM)
				kit.WantErrno(t, "opened with, written without", put(with, c.valid), c.want)
				kit.RaiseCaps(t, unix.CAP_MAC_ADMIN)
				kit.WantErrno(t, "opened without, written with", put(without, c.valid), unix.EPERM)
				kit.WantErrno(t, "opened and written with", put(with, c.valid), c.want)
			})
		})
	}
}

// TestSwitchReadNeedsNoCapability: reading is a matter of file permissions.
func TestSwitchReadNeedsNoCapability(t *testing.T) {
	kit.OnThread(t, func() {
		kit.DropCaps(t, unix.CAP_MAC_ADMIN)
		for _, n := range []string{"success_audit", "enforce"} {
			s := read(t, node(n))
			kit.Want(t, s == "0" || s == "1", "%s reads %q", n, s)
		}
	})
}

func TestNewPolicyNotReadable(t *testing.T) {
	_, err := unix.Read(int(openNode(t, node("new_policy"), unix.O_RDWR)), make([]byte, 1))
	kit.WantErrno(t, "read new_policy", err, unix.EINVAL)
	_, err = unix.Write(int(openNode(t, node("enforce"), unix.O_RDONLY)), []byte("1"))
	kit.WantErrno(t, "write through a descriptor for reading", err, unix.EBADF)
}

func TestSwitchNeedsOwner(t *testing.T) {
	kit.OnThread(t, func() {
		assert.NilError(t, kit.SetGID(1000))
		assert.NilError(t, kit.SetUID(1000))
		for _, n := range []string{"success_audit", "enforce", "new_policy"} {
			kit.WantErrno(t, "write "+n+" as another user", write(node(n), []byte("1")), unix.EACCES)
		}
	})
}

// TestEnforceAudit: each change of enforce is one MAC_STATUS record; no change
// is none. Linux 6.12 starts a second, empty record with each.
func TestEnforceAudit(t *testing.T) {
	keepSwitches(t)
	mustWrite(t, node("enforce"), "1")
	l := listen(t)
	for _, c := range []struct {
		write, want string
	}{
		{"1", ""},
		{"0", "enforcing=0 old_enforcing=1"},
		{"0", ""},
		{"off", ""},
		{"x", ""},
		{"1", "enforcing=1 old_enforcing=0"},
		{"y", ""},
	} {
		_ = write(node("enforce"), []byte(c.write))
		rs := l.drain()
		var full, empty []record
		for _, r := range of(rs, macStatus) {
			if strings.TrimSpace(r.Text) == "" {
				empty = append(empty, r)
			} else {
				full = append(full, r)
			}
		}
		what := fmt.Sprintf("write %q", c.write)
		if c.want == "" {
			assert.Check(t, cmp.Len(full, 0), what)
			assert.Check(t, cmp.Len(empty, 0), what)
			continue
		}
		kit.Want(t, len(empty) <= 1, "%s: %d empty records", what, len(empty))
		if !assert.Check(t, cmp.Len(full, 1), what) {
			continue
		}
		want := c.want + fmt.Sprintf(" auid=%s ses=%s enabled=1 old-enabled=1 lsm=ipe res=1", loginuid(t), sessionid(t))
		assert.Check(t, cmp.Equal(full[0].Text, want), what)
	}
}

func loginuid(t testing.TB) string  { return strings.TrimSpace(read(t, "/proc/self/loginuid")) }
func sessionid(t testing.TB) string { return strings.TrimSpace(read(t, "/proc/self/sessionid")) }

// TestSuccessAuditNotAudited: that switch only changes what is recorded.
func TestSuccessAuditNotAudited(t *testing.T) {
	keepSwitches(t)
	l := listen(t)
	for _, v := range []string{"1", "0", "1"} {
		mustWrite(t, node("success_audit"), v)
	}
	for _, r := range l.drain() {
		kit.Want(t, r.Type == ipeAccess, "record %d: %s", r.Type, r.Text)
	}
}

// TestEnforceAuditInKernelLog: without an audit daemon, records are printed.
func TestEnforceAuditInKernelLog(t *testing.T) {
	keepSwitches(t)
	const limit = "/proc/sys/kernel/printk_ratelimit"
	old := strings.TrimSpace(read(t, limit))
	mustWrite(t, limit, "0") // the kernel prints all of them
	defer mustWrite(t, limit, old)
	mustWrite(t, node("enforce"), "1")
	l, log := listen(t), kit.OpenKernelLog(t, true)
	mustWrite(t, node("enforce"), "0")
	l.drain()
	assert.Check(t, cmp.Contains(strings.Join(log.Read(), "\n"), fmt.Sprintf("audit: type=%d audit(", macStatus)))
}

// TestEnforceAuditExcluded: audit's own exclude filter holds for IPE.
func TestEnforceAuditExcluded(t *testing.T) {
	keepSwitches(t)
	mustWrite(t, node("enforce"), "1")
	l := listen(t)
	undo, err := l.exclude(macStatus)
	assert.NilError(t, err, "add a rule to the exclude filter")
	mustWrite(t, node("enforce"), "0")
	assert.Check(t, cmp.Len(of(l.drain(), macStatus), 0))
	assert.NilError(t, undo())
	mustWrite(t, node("enforce"), "1")
	kit.Want(t, len(of(l.drain(), macStatus)) > 0, "no record without the filter")
}

// TestAuditNeedsCapability: the records are for CAP_AUDIT_READ only.
func TestAuditNeedsCapability(t *testing.T) {
	kit.OnThread(t, func() {
		kit.DropCaps(t, unix.CAP_AUDIT_READ)
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_AUDIT)
		assert.NilError(t, err)
		defer func() { _ = unix.Close(fd) }()
		kit.WantErrno(t, "join the group", unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}), unix.EPERM)
	})
}

// activePolicy returns the name of the active policy, or "".
func activePolicy(t testing.TB) string {
	t.Helper()
	var active string
	for _, n := range policies(t) {
		s, err := os.ReadFile(node("policies", n, "active"))
		// A deleted policy's nodes may be there for a moment.
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		assert.NilError(t, err)
		if string(s) == "1" {
			kit.Want(t, active == "", "both %s and %s are active", active, n)
			active = n
		}
	}
	return active
}

func policies(t testing.TB) (names []string) {
	t.Helper()
	e, err := os.ReadDir(node("policies"))
	assert.NilError(t, err)
	for _, e := range e {
		names = append(names, e.Name())
	}
	return names
}

func needNoPolicy(t testing.TB) {
	t.Helper()
	var err error
	if n := activePolicy(t); n != "" {
		err = fmt.Errorf("policy %q is active", n)
	}
	kit.NeedFeature(t, FeatureNoPolicy, err)
}

// TestNoPolicyAllowsAll: without a policy nothing is denied and nothing
// recorded, not even with success_audit.
func TestNoPolicyAllowsAll(t *testing.T) {
	needNoPolicy(t)
	keepSwitches(t)
	mustWrite(t, node("success_audit"), "1")
	mustWrite(t, node("enforce"), "1")
	l := listen(t)
	target := newTarget(t)
	for _, c := range accesses {
		if c.need == nil || !c.lacking() {
			kit.WantErrno(t, c.name, c.do(t, target), c.allowed)
		}
	}
	assert.Check(t, cmp.Len(of(l.drain(), ipeAccess), 0))
}

// TestNewPolicyRejected: what is not a signed policy of a trusted key.
func TestNewPolicyRejected(t *testing.T) {
	s := unknownSigner(t)
	text := []byte("policy_name=kvmrun policy_version=1.0.0\nDEFAULT action=ALLOW\n")
	signed := s.sign(t, text, signAttached)
	tampered := []byte(strings.Replace(string(signed), "action=ALLOW", "action=DENY ", 1))
	for _, c := range []struct {
		name string
		blob []byte
		want unix.Errno
	}{
		{"empty", nil, unix.EBADMSG},
		{"one byte", []byte{0x30}, unix.EBADMSG},
		{"plain text", text, unix.EBADMSG},
		{"zeros", make([]byte, 4096), unix.EBADMSG},
		{"cut off", signed[:len(signed)-1], unix.EBADMSG},
		{"cut off early", signed[:len(signed)/2], unix.EBADMSG},
		// The decoder stops at the end of the message.
		{"unknown key, trailing byte", append(append([]byte{}, signed...), 0), unix.ENOKEY},
		{"unknown key", signed, unix.ENOKEY},
		{"unknown key, changed content", tampered, unix.EKEYREJECTED},
		// Authenticode's, which would need attributes.
		{"content of another type", s.sign(t, text, signOtherType), unix.EBADMSG},
		// Its digest is that of nothing.
		{"no content", s.sign(t, text, signDetached), unix.EKEYREJECTED},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := policies(t)
			l := listen(t)
			kit.WantErrno(t, "write new_policy", write(node("new_policy"), c.blob), c.want)
			assert.Check(t, cmp.DeepEqual(policies(t), before))
			// Linux 6.16 and later record the failure as such.
			for _, r := range of(l.drain(), policyLoad) {
				kit.Want(t, suites.CompareRelease(kit.Release(), "6.16") >= 0 && strings.Contains(r.Text, " res=0"), "recorded as %s", r.Text)
			}
		})
	}
}
