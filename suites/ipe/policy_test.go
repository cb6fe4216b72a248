// SPDX-License-Identifier: Apache-2.0

package ipe

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/kit/fs"
)

// Policies are numbered upwards, because a lower one than the active one can
// not be activated. The last part is left to tests that need neighbours.
var (
	policyCount atomic.Int32
	policyLock  sync.Mutex
)

// policy is a policy's parts.
type policy struct {
	Name    string
	Version string
	Rules   []string
}

func (p policy) text() []byte {
	return []byte(fmt.Sprintf("policy_name=%s policy_version=%s\n%s\n", p.Name, p.Version, strings.Join(p.Rules, "\n")))
}

// nextPolicy has a new name and a version above all before.
func nextPolicy(rules ...string) policy {
	n := policyCount.Add(1)
	return policy{Name: fmt.Sprintf("kvmrun%d", n), Version: fmt.Sprintf("1.%d.10", n), Rules: rules}
}

// allowAll is what tests leave behind, as none at all cannot be had again.
var allowAll = "DEFAULT action=ALLOW"

// bootRule keeps the guest alive under a policy that denies by default.
const bootRule = "op=EXECUTE boot_verified=TRUE action=ALLOW"

// load signs the policy and loads it; the test's end deletes it unless it is
// active by then. It returns the message.
func load(t testing.TB, p policy) []byte {
	t.Helper()
	blob := trustedSigner(t).sign(t, p.text(), signAttached)
	assert.NilError(t, write(node("new_policy"), blob), "load policy %s:\n%s", p.Name, p.text())
	t.Cleanup(func() {
		if activePolicy(t) != p.Name {
			err := write(p.node("delete"), []byte("1"))
			if !errors.Is(err, unix.ENOENT) {
				assert.NilError(t, err, "delete policy %s", p.Name)
			}
		}
	})
	return blob
}

func (p policy) node(name string) string { return node("policies", p.Name, name) }

func (p policy) activate() error { return write(p.node("active"), []byte("1")) }

// enforce loads and activates a policy and, when the test ends, one that
// allows everything.
func enforcePolicy(t testing.TB, rules ...string) policy {
	t.Helper()
	policyLock.Lock()
	defer policyLock.Unlock()
	keepSwitches(t)
	mustWrite(t, node("enforce"), "1")
	p := nextPolicy(rules...)
	t.Cleanup(func() {
		free := nextPolicy(allowAll)
		blob := trustedSigner(t).sign(t, free.text(), signAttached)
		assert.NilError(t, write(node("new_policy"), blob))
		assert.NilError(t, free.activate())
		assert.NilError(t, write(p.node("delete"), []byte("1")))
	})
	blob := trustedSigner(t).sign(t, p.text(), signAttached)
	assert.NilError(t, write(node("new_policy"), blob), "load:\n%s", p.text())
	assert.NilError(t, p.activate())
	return p
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%X", sha256.Sum256(b)) }

// tail is what IPE's records on policies end with.
func tail(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf(" auid=%s ses=%s lsm=ipe res=1", loginuid(t), sessionid(t))
}

func loadRecord(t testing.TB, p policy, blob []byte) string {
	t.Helper()
	return fmt.Sprintf(`policy_name="%s" policy_version=%s policy_digest=%s`, p.Name, p.Version, digest(blob)) + tail(t)
}

func (p policy) activeFields(prefix string, blob []byte) string {
	return fmt.Sprintf(`%s_active_pol_name="%s" %s_active_pol_version=%s %s_policy_digest=%s`, prefix, p.Name, prefix, p.Version, prefix, digest(blob))
}

// oneRecord checks that there is exactly this record of the type.
func oneRecord(t testing.TB, what string, rs []record, typ uint16, want string) {
	t.Helper()
	rs = of(rs, typ)
	if !assert.Check(t, cmp.Len(rs, 1), "%s: records of type %d", what, typ) {
		return
	}
	// Newer kernels add fields such as errno= at the end.
	assert.Check(t, cmp.Equal(rs[0].Text, want), what)
}

// TestFirstActivation: nothing is active before; the record says so by
// question marks.
func TestFirstActivation(t *testing.T) {
	trustedSigner(t)
	needNoPolicy(t)
	l := listen(t)
	p := nextPolicy(allowAll)
	blob := load(t, p)
	oneRecord(t, "load", l.drain(), policyLoad, loadRecord(t, p, blob))
	assert.Check(t, cmp.Equal(activePolicy(t), ""))
	assert.NilError(t, p.activate())
	oneRecord(t, "activate", l.drain(), configChange,
		"old_active_pol_name=? old_active_pol_version=? old_policy_digest=? "+p.activeFields("new", blob)+tail(t))
	assert.Check(t, cmp.Equal(activePolicy(t), p.Name))
}

// TestLoad: the nodes of a policy and what they tell.
func TestLoad(t *testing.T) {
	trustedSigner(t)
	l := listen(t)
	p := nextPolicy("# a comment", allowAll)
	blob := load(t, p)
	oneRecord(t, "load", l.drain(), policyLoad, loadRecord(t, p, blob))
	assert.Check(t, cmp.Contains(policies(t), p.Name))
	for name, mode := range map[string]os.FileMode{
		"pkcs7": 0o444, "policy": 0o444, "name": 0o444, "version": 0o444, "active": 0o600, "update": 0o200, "delete": 0o200,
	} {
		nodeMode(t, p.node(name), mode)
	}
	e, err := os.ReadDir(node("policies", p.Name))
	assert.NilError(t, err)
	assert.Check(t, cmp.Len(e, 7))
	kit.Want(t, read(t, p.node("pkcs7")) == string(blob), "pkcs7 is not what was loaded")
	assert.Check(t, cmp.Equal(read(t, p.node("policy")), string(p.text())))
	assert.Check(t, cmp.Equal(read(t, p.node("name")), p.Name))
	assert.Check(t, cmp.Equal(read(t, p.node("version")), p.Version))
	assert.Check(t, cmp.Equal(read(t, p.node("active")), "0"))
	kit.Want(t, activePolicy(t) != p.Name, "active without having been activated")
}

func TestLoadAgain(t *testing.T) {
	trustedSigner(t)
	p := nextPolicy(allowAll)
	blob := load(t, p)
	l := listen(t)
	kit.WantErrno(t, "the same message", write(node("new_policy"), blob), unix.EEXIST)
	p.Version = "9.9.9"
	kit.WantErrno(t, "a higher version of the name", write(node("new_policy"), trustedSigner(t).sign(t, p.text(), signAttached)), unix.EEXIST)
	for _, r := range of(l.drain(), policyLoad) {
		kit.Want(t, strings.Contains(r.Text, " res=0"), "recorded as %s", r.Text)
	}
}

// TestLoadWithoutContent: a message that is signed rightly and has nothing in it.
func TestLoadWithoutContent(t *testing.T) {
	s := trustedSigner(t)
	kit.WantErrno(t, "empty content", write(node("new_policy"), s.sign(t, nil, signAttached)), unix.EBADMSG)
	kit.WantErrno(t, "no content", write(node("new_policy"), s.sign(t, nil, signDetached)), unix.ENODATA)
}

// TestActivate: old and new policy in the record; a policy that is active
// already is no change; there is no way back but another policy.
func TestActivate(t *testing.T) {
	trustedSigner(t)
	p, q := nextPolicy(allowAll), nextPolicy(allowAll)
	bp, bq := load(t, p), load(t, q)
	assert.NilError(t, p.activate())
	l := listen(t)
	kit.WantErrno(t, "activate the active one", p.activate(), 0)
	for _, text := range []string{"0", "n", "off", "", "x"} {
		kit.WantErrno(t, fmt.Sprintf("write %q", text), write(p.node("active"), []byte(text)), unix.EINVAL)
	}
	assert.Check(t, cmp.Len(of(l.drain(), configChange), 0))
	kit.WantErrno(t, "activate another", q.activate(), 0)
	oneRecord(t, "activate another", l.drain(), configChange, p.activeFields("old", bp)+" "+q.activeFields("new", bq)+tail(t))
	assert.Check(t, cmp.Equal(read(t, p.node("active")), "0"))
	assert.Check(t, cmp.Equal(read(t, q.node("active")), "1"))
}

// TestActivateRollback: only a version that is not lower can follow.
func TestActivateRollback(t *testing.T) {
	trustedSigner(t)
	n := policyCount.Add(1)
	version := func(v string) policy {
		q := nextPolicy(allowAll)
		q.Version = v
		load(t, q)
		return q
	}
	at := func(major, minor, rev int) string { return fmt.Sprintf("%d.%d.%d", major, int(n)+minor, rev) }
	current := version(at(1, 0, 20))
	assert.NilError(t, current.activate())
	for _, c := range []struct {
		version string
		want    unix.Errno
	}{
		{"0.0.0", unix.EINVAL},
		{"0.65535.65535", unix.EINVAL},
		{at(1, -1, 65535), unix.EINVAL},
		{at(1, 0, 19), unix.EINVAL},
		{at(1, 0, 20), 0},
		{at(1, 0, 21), 0},
	} {
		q := version(c.version)
		kit.WantErrno(t, "activate "+c.version, q.activate(), c.want)
		if c.want == 0 {
			current = q
		}
		assert.Check(t, cmp.Equal(activePolicy(t), current.Name))
	}
	// Back to the numbers of the other tests.
	policyCount.Add(1)
}

// TestUpdate: only to a higher version of the same name.
func TestUpdate(t *testing.T) {
	s := trustedSigner(t)
	for _, active := range []bool{false, true} {
		t.Run(fmt.Sprintf("active=%v", active), func(t *testing.T) {
			p := nextPolicy(allowAll)
			blob := load(t, p)
			if active {
				assert.NilError(t, p.activate())
			}
			base := strings.TrimSuffix(p.Version, ".10")
			update := func(q policy) ([]byte, error) {
				b := s.sign(t, q.text(), signAttached)
				return b, write(p.node("update"), b)
			}
			l := listen(t)
			for v, want := range map[string]unix.Errno{
				base + ".10": unix.ESTALE, base + ".9": unix.ESTALE, "0.65535.65535": unix.ESTALE,
			} {
				q := p
				q.Version = v
				_, err := update(q)
				kit.WantErrno(t, "update to "+v, err, want)
			}
			other := p
			other.Name, other.Version = p.Name+"x", base+".11"
			_, err := update(other)
			kit.WantErrno(t, "update to another name", err, unix.EINVAL)
			kit.WantErrno(t, "update with plain text", write(p.node("update"), p.text()), unix.EBADMSG)
			for _, r := range of(l.drain(), policyLoad) {
				kit.Want(t, strings.Contains(r.Text, " res=0"), "recorded as %s", r.Text)
			}
			kit.Want(t, read(t, p.node("pkcs7")) == string(blob), "changed by a refused update")

			q := p
			q.Version, q.Rules = base+".11", []string{"# new", allowAll}
			newBlob, err := update(q)
			kit.WantErrno(t, "update to a higher version", err, 0)
			rs := l.drain()
			oneRecord(t, "update", rs, policyLoad, loadRecord(t, q, newBlob))
			if active {
				oneRecord(t, "update", rs, configChange, p.activeFields("old", blob)+" "+q.activeFields("new", newBlob)+tail(t))
			} else {
				assert.Check(t, cmp.Len(of(rs, configChange), 0))
			}
			assert.Check(t, cmp.Equal(read(t, p.node("version")), q.Version))
			assert.Check(t, cmp.Equal(read(t, p.node("policy")), string(q.text())))
			kit.Want(t, read(t, p.node("pkcs7")) == string(newBlob), "pkcs7 is not the new one")
			assert.Check(t, cmp.Equal(activePolicy(t) == p.Name, active))
		})
	}
}

func TestDelete(t *testing.T) {
	trustedSigner(t)
	p, q := nextPolicy(allowAll), nextPolicy(allowAll)
	load(t, p)
	load(t, q)
	assert.NilError(t, p.activate())
	kit.WantErrno(t, "delete the active one", write(p.node("delete"), []byte("1")), unix.EPERM)
	for _, text := range []string{"0", "x", ""} {
		kit.WantErrno(t, fmt.Sprintf("write %q", text), write(q.node("delete"), []byte(text)), unix.EINVAL)
	}
	assert.Check(t, cmp.Contains(policies(t), q.Name))
	version := int(openNode(t, q.node("version"), unix.O_RDONLY))
	active := int(openNode(t, q.node("active"), unix.O_WRONLY))
	update := int(openNode(t, q.node("update"), unix.O_WRONLY))
	kit.WantErrno(t, "delete", write(q.node("delete"), []byte("1")), 0)
	kit.Want(t, !contains(policies(t), q.Name), "its directory is still there")
	b := make([]byte, 16)
	_, err := unix.Read(version, b)
	kit.WantErrno(t, "read through a descriptor from before", err, unix.ENOENT)
	_, err = unix.Write(active, []byte("1"))
	kit.WantErrno(t, "activate through a descriptor from before", err, unix.ENOENT)
	q.Version = "9.0.0"
	_, err = unix.Write(update, trustedSigner(t).sign(t, q.text(), signAttached))
	kit.WantErrno(t, "update through a descriptor from before", err, unix.ENOENT)
	assert.Check(t, cmp.Equal(activePolicy(t), p.Name))
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

func TestPolicyNodesNeedMacAdmin(t *testing.T) {
	trustedSigner(t)
	p := nextPolicy(allowAll)
	load(t, p)
	kit.OnThread(t, func() {
		kit.DropCaps(t, unix.CAP_MAC_ADMIN)
		for _, n := range []string{"active", "update", "delete"} {
			kit.WantErrno(t, "write 1 to "+n, write(p.node(n), []byte("1")), unix.EPERM)
			kit.WantErrno(t, "write x to "+n, write(p.node(n), []byte("x")), unix.EPERM)
		}
	})
	assert.Check(t, cmp.Equal(read(t, p.node("active")), "0"))
}

// TestParse: the language of policies, as security/ipe/policy_tests.c has it
// for KUnit, here through the front door.
func TestParse(t *testing.T) {
	s := trustedSigner(t)
	const head = "policy_name=parse policy_version=0.0.0\n"
	for _, c := range []struct {
		name, text string
		want       unix.Errno
	}{
		{"minimal", head + "DEFAULT action=ALLOW", 0},
		{"comment behind the header", "policy_name=parse policy_version=152.0.0 #This is comment\nDEFAULT action=ALLOW", 0},
		{"empty lines", "\n\n" + head + "\nDEFAULT action=ALLOW\n\n", 0},
		{"carriage returns", "policy_name=parse policy_version=0.0.1\r\nDEFAULT action=ALLOW\r\n\r\n", 0},
		{"blanks and tabs", head + "DEFAULT\taction=ALLOW\n     \t     DEFAULT \t    op=EXECUTE      action=DENY\nop=EXECUTE boot_verified=TRUE action=ALLOW\n# this is a\tcomment\t\t\t\t\nDEFAULT \t op=KMODULE\t\t\t  action=DENY\r\nop=KMODULE boot_verified=TRUE action=ALLOW\n", 0},
		{"a default for each operation", head + "DEFAULT op=EXECUTE action=ALLOW\nDEFAULT op=FIRMWARE action=ALLOW\nDEFAULT op=KMODULE action=ALLOW\nDEFAULT op=KEXEC_IMAGE action=ALLOW\nDEFAULT op=KEXEC_INITRAMFS action=ALLOW\nDEFAULT op=POLICY action=ALLOW\nDEFAULT op=X509_CERT action=ALLOW\n", 0},
		{"one operation without a default", head + "DEFAULT op=EXECUTE action=ALLOW\nDEFAULT op=FIRMWARE action=ALLOW\nDEFAULT op=KMODULE action=ALLOW\nDEFAULT op=KEXEC_IMAGE action=ALLOW\nDEFAULT op=KEXEC_INITRAMFS action=ALLOW\nDEFAULT op=POLICY action=ALLOW\n", unix.EBADMSG},
		{"every property", head + "DEFAULT action=ALLOW\nop=EXECUTE boot_verified=TRUE boot_verified=FALSE dmverity_signature=TRUE dmverity_signature=FALSE fsverity_signature=TRUE fsverity_signature=FALSE dmverity_roothash=sha256:00ff fsverity_digest=sha512:AbCd action=DENY", 0},
		{"rule without a property", head + "DEFAULT action=ALLOW\nop=EXECUTE action=DENY", 0},
		{"highest version", "policy_name=parse policy_version=65535.65535.65535\nDEFAULT action=ALLOW", 0},
		{"special characters in the name", "policy_name=$@!*&^%%\\:;{}() policy_version=0.0.0\nDEFAULT action=ALLOW", 0},
		{"bytes above ASCII in the name", "policy_name=test\xff\xef policy_version=0.0.0\nDEFAULT action=ALLOW", 0},
		{"NUL ends the policy", head + "DEFAULT action=DENY\n\x00op=NOSUCH action=ALLOW\n", 0},

		{"empty", "", unix.EBADMSG},
		{"only comments", "# one\n# two\n", unix.EBADMSG},
		{"no header", "DEFAULT action=ALLOW", unix.EBADMSG},
		{"header twice", head + "policy_name=parse policy_version=0.1.0\nDEFAULT action=ALLOW", unix.EBADMSG},
		{"header without a version", "policy_name=parse\nDEFAULT action=ALLOW", unix.EBADMSG},
		{"header the other way round", "policy_version=0.0.0 policy_name=parse\nDEFAULT action=ALLOW", unix.EBADMSG},
		{"header with more", "policy_name=parse policy_version=0.0.0 x\nDEFAULT action=ALLOW", unix.EBADMSG},
		{"no blank behind the name", "policy_name=asdvpolicy_version=0.0.0\nDEFAULT action=ALLOW\n", unix.EBADMSG},
		{"negative version", "policy_name=parse policy_version=-1236.0.0\nDEFAULT action=ALLOW", unix.EINVAL},
		{"version too high", "policy_name=parse policy_version=999999.0.0\nDEFAULT action=ALLOW", unix.ERANGE},
		{"version just too high", "policy_name=parse policy_version=0.0.65536\nDEFAULT action=ALLOW", unix.ERANGE},
		{"version of two parts", "policy_name=parse policy_version=255.0\nDEFAULT action=ALLOW", unix.EBADMSG},
		{"version of four parts", "policy_name=parse policy_version=111.0.0.0\nDEFAULT action=ALLOW", unix.EBADMSG},
		{"version with an empty part", "policy_name=parse policy_version=1..0\nDEFAULT action=ALLOW", unix.EINVAL},
		{"NUL in the header", "policy_name=parse\x00policy_version=0.0.0\nDEFAULT action=ALLOW", unix.EBADMSG},
		{"NUL before the default", head + "\x00DEFAULT action=ALLOW", unix.EBADMSG},
		{"no default", head, unix.EBADMSG},
		{"default twice", head + "DEFAULT action=ALLOW\nDEFAULT action=ALLOW\n", unix.EBADMSG},
		{"default of an operation twice", head + "DEFAULT action=ALLOW\nDEFAULT op=EXECUTE action=DENY\nDEFAULT op=EXECUTE action=ALLOW\n", unix.EBADMSG},
		{"default with a property", head + "DEFAULT op=EXECUTE boot_verified=TRUE action=ALLOW\nDEFAULT action=ALLOW", unix.EBADMSG},
		{"default of an unknown operation", head + "DEFAULT action=ALLOW\nDEFAULT op=UNKNOWN action=DENY\n", unix.EBADMSG},
		{"unknown default action", head + "DEFAULT action=ALLOW\nDEFAULT op=EXECUTE action=DEN\n", unix.EBADMSG},
		{"lower case", head + "default action=ALLOW\n", unix.EBADMSG},
		{"property before the operation", head + "DEFAULT action=ALLOW\ndmverity_signature=TRUE op=EXECUTE action=ALLOW", unix.EBADMSG},
		{"action first", head + "DEFAULT action=ALLOW\naction=ALLOW op=EXECUTE dmverity_signature=TRUE", unix.EBADMSG},
		{"rule without an action", head + "DEFAULT action=ALLOW\nop=EXECUTE dmverity_signature=TRUE", unix.EBADMSG},
		{"unknown operation", head + "DEFAULT action=ALLOW\nop=UNKNOWN dmverity_signature=TRUE action=ALLOW", unix.EBADMSG},
		{"unknown property", head + "DEFAULT action=ALLOW\nop=EXECUTE nosuch=TRUE action=ALLOW", unix.EBADMSG},
		{"unknown value", head + "DEFAULT action=ALLOW\nop=EXECUTE dmverity_signature=abc action=ALLOW", unix.EBADMSG},
		{"unknown action", head + "DEFAULT action=ALLOW\nop=EXECUTE boot_verified=TRUE action=MAYBE", unix.EBADMSG},
		{"digest without an algorithm", head + "DEFAULT action=ALLOW\nop=EXECUTE dmverity_roothash=1c0d7ee1f8343b7fbe418378e8eb22c061d7dec7 action=ALLOW", unix.EBADMSG},
		{"digest that is none", head + "DEFAULT action=ALLOW\nop=EXECUTE dmverity_roothash=GOOD_DOG action=ALLOW", unix.EBADMSG},
		{"digest that is not hexadecimal", head + "DEFAULT action=ALLOW\nop=EXECUTE fsverity_digest=sha256:GOOD_DOG action=ALLOW", unix.EINVAL},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := policies(t)
			err := write(node("new_policy"), s.sign(t, []byte(c.text), signAttached))
			kit.WantErrno(t, "load", err, c.want)
			for _, n := range policies(t) {
				if contains(before, n) {
					continue
				}
				kit.Want(t, c.want == 0, "refused, but there is %q", n)
				assert.NilError(t, write(node("policies", n, "delete"), []byte("1")))
			}
		})
	}
}

// want is what an access is to come to.
type want struct {
	access string
	target string // "boot" or "other"
	denied bool
	rule   string // the record's
}

func defaultRule(op, action string) string { return fmt.Sprintf("DEFAULT op=%s action=%s", op, action) }

// try does an access on a thread with this name and checks result and record.
// With enforcing false, what is denied is allowed but recorded.
func try(t *testing.T, l *listener, targets map[string]target, w want, enforcing, successAudit bool) {
	t.Helper()
	a := accessNamed(w.access)
	if a.lacking() {
		t.Logf("%s needs %v", a.name, a.need)
		return
	}
	f := targets[w.target]
	what := fmt.Sprintf("%s of the %s file", a.name, w.target)
	comm := fmt.Sprintf("kvmrun-%d", fences.Add(1))
	l.drain()
	kit.OnThread(t, func() {
		setComm(t, comm)
		expect := a.allowed
		if w.denied && enforcing {
			expect = unix.EACCES
		}
		kit.WantErrno(t, what, a.do(t, f), expect)
	})
	var mine []record
	for _, r := range of(l.drain(), ipeAccess) {
		if r.fields()["comm"] == untrusted(comm) {
			mine = append(mine, r)
		}
	}
	if !w.denied && !successAudit {
		assert.Check(t, cmp.Len(mine, 0), what)
		return
	}
	if !assert.Check(t, cmp.Len(mine, 1), what) {
		return
	}
	on := 0
	if enforcing {
		on = 1
	}
	where := " path=? dev=? ino=?"
	if a.file {
		var st unix.Stat_t
		assert.NilError(t, unix.Fstat(f.fd, &st))
		// The superblock's ID, which the kernel's root has by its own name
		// whether it is a ramfs or a tmpfs.
		dev := map[string]string{"boot": "rootfs", "other": "tmpfs"}[w.target]
		where = fmt.Sprintf(` path=%s dev="%s" ino=%d`, untrusted(f.path), dev, st.Ino)
	}
	text := fmt.Sprintf("ipe_op=%s ipe_hook=%s enforcing=%d pid=%d comm=%s%s rule=\"%s\"", a.op, a.hook, on, os.Getpid(), untrusted(comm), where, w.rule)
	assert.Check(t, cmp.Equal(mine[0].Text, text), what)
}

func makeTargets(t testing.TB) map[string]target {
	t.Helper()
	return map[string]target{"boot": bootTarget(t), "other": newTarget(t)}
}

// TestEvaluate: policies, what they do to accesses, and the records that say
// by which rule.
func TestEvaluate(t *testing.T) {
	trustedSigner(t)
	const execDeny = "DEFAULT op=EXECUTE action=DENY"
	for _, c := range []struct {
		name  string
		rules []string
		wants []want
	}{
		{"boot verified files only", []string{allowAll, execDeny, bootRule}, []want{
			{"execve", "boot", false, bootRule},
			{"mmap", "boot", false, bootRule},
			{"mprotect", "boot", false, bootRule},
			{"execve", "other", true, defaultRule("EXECUTE", "DENY")},
			{"mmap", "other", true, defaultRule("EXECUTE", "DENY")},
			{"mprotect", "other", true, defaultRule("EXECUTE", "DENY")},
			{"anonymous mmap", "other", true, defaultRule("EXECUTE", "DENY")},
			{"finit_module", "other", false, allowAll},
		}},
		{"global default denies", []string{"DEFAULT action=DENY", bootRule}, []want{
			{"mmap", "boot", false, bootRule},
			{"mmap", "other", true, "DEFAULT action=DENY"},
			{"finit_module", "boot", true, "DEFAULT action=DENY"},
			{"init_module", "other", true, "DEFAULT action=DENY"},
			{"kexec_load", "other", true, "DEFAULT action=DENY"},
			{"kexec_file_load", "other", true, "DEFAULT action=DENY"},
		}},
		{"operation's default before the global one", []string{"DEFAULT action=DENY", bootRule, "DEFAULT op=KMODULE action=ALLOW"}, []want{
			{"init_module", "other", false, defaultRule("KMODULE", "ALLOW")},
			{"finit_module", "other", false, defaultRule("KMODULE", "ALLOW")},
			{"kexec_load", "other", true, "DEFAULT action=DENY"},
		}},
		{"a rule before the defaults", []string{allowAll, "DEFAULT op=KMODULE action=DENY", "op=KMODULE boot_verified=TRUE action=ALLOW"}, []want{
			{"finit_module", "boot", false, "op=KMODULE boot_verified=TRUE action=ALLOW"},
			{"finit_module", "other", true, defaultRule("KMODULE", "DENY")},
			{"init_module", "other", true, defaultRule("KMODULE", "DENY")},
			{"execve", "other", false, allowAll},
		}},
		{"the first rule that matches", []string{
			allowAll, "op=KMODULE boot_verified=FALSE action=DENY", "op=KMODULE action=ALLOW", "op=KMODULE boot_verified=TRUE action=DENY",
		}, []want{
			{"finit_module", "other", true, "op=KMODULE boot_verified=FALSE action=DENY"},
			{"finit_module", "boot", false, "op=KMODULE action=ALLOW"},
		}},
		{"rules are per operation", []string{allowAll, "op=KEXEC_IMAGE action=DENY"}, []want{
			{"kexec_load", "other", true, "op=KEXEC_IMAGE action=DENY"},
			{"kexec_file_load", "other", true, "op=KEXEC_IMAGE action=DENY"},
			{"init_module", "other", false, allowAll},
			{"execve", "other", false, allowAll},
		}},
		{"all properties of a rule must hold", []string{
			allowAll, execDeny, bootRule, "op=EXECUTE boot_verified=FALSE boot_verified=TRUE action=ALLOW",
			"DEFAULT op=KMODULE action=DENY", "op=KMODULE boot_verified=TRUE boot_verified=FALSE action=ALLOW",
		}, []want{
			{"mmap", "other", true, defaultRule("EXECUTE", "DENY")},
			{"execve", "other", true, defaultRule("EXECUTE", "DENY")},
			{"finit_module", "boot", true, defaultRule("KMODULE", "DENY")},
			{"finit_module", "other", true, defaultRule("KMODULE", "DENY")},
		}},
		{"all properties of a rule hold", []string{
			allowAll, "op=KMODULE boot_verified=FALSE boot_verified=FALSE action=DENY",
		}, []want{
			{"finit_module", "other", true, "op=KMODULE boot_verified=FALSE boot_verified=FALSE action=DENY"},
			{"finit_module", "boot", false, allowAll},
		}},
		{"no file is not verified", []string{allowAll, "op=KMODULE boot_verified=FALSE action=DENY"}, []want{
			{"init_module", "other", true, "op=KMODULE boot_verified=FALSE action=DENY"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			targets := makeTargets(t)
			enforcePolicy(t, c.rules...)
			l := listen(t)
			for _, mode := range []struct{ enforce, success string }{{"1", "0"}, {"1", "1"}, {"0", "0"}, {"0", "1"}} {
				mustWrite(t, node("enforce"), mode.enforce)
				mustWrite(t, node("success_audit"), mode.success)
				for _, w := range c.wants {
					try(t, l, targets, w, mode.enforce == "1", mode.success == "1")
				}
			}
		})
	}
}

// TestEvaluateVerity: files that are on no dm-verity device and have no
// fs-verity digest.
func TestEvaluateVerity(t *testing.T) {
	trustedSigner(t)
	for _, c := range []struct {
		kconfig, prop string
		matches       bool
	}{
		{"IPE_PROP_DM_VERITY_SIGNATURE=y", "dmverity_signature=FALSE", true},
		{"IPE_PROP_DM_VERITY_SIGNATURE=y", "dmverity_signature=TRUE", false},
		{"IPE_PROP_DM_VERITY=y", "dmverity_roothash=sha256:" + strings.Repeat("0", 64), false},
		{"IPE_PROP_FS_VERITY_BUILTIN_SIG=y", "fsverity_signature=FALSE", true},
		{"IPE_PROP_FS_VERITY_BUILTIN_SIG=y", "fsverity_signature=TRUE", false},
		{"IPE_PROP_FS_VERITY=y", "fsverity_digest=sha256:" + strings.Repeat("0", 64), false},
	} {
		t.Run(c.prop[:min(24, len(c.prop))], func(t *testing.T) {
			kit.NeedKconfig(t, c.kconfig)
			targets := makeTargets(t)
			rule := "op=KMODULE " + c.prop + " action=DENY"
			enforcePolicy(t, allowAll, rule)
			mustWrite(t, node("success_audit"), "1")
			w := want{"finit_module", "other", c.matches, rule}
			if !c.matches {
				w.rule = allowAll
			}
			try(t, listen(t), targets, w, true, true)
		})
	}
}

// TestMapProtections: of all protections, those with PROT_EXEC are denied.
func TestMapProtections(t *testing.T) {
	trustedSigner(t)
	targets := makeTargets(t)
	enforcePolicy(t, allowAll, "DEFAULT op=EXECUTE action=DENY", bootRule)
	for prot := range 8 { // all of PROT_READ, PROT_WRITE and PROT_EXEC
		for name, f := range targets {
			want := unix.Errno(0)
			if prot&unix.PROT_EXEC != 0 && name == "other" {
				want = unix.EACCES
			}
			kit.WantErrno(t, fmt.Sprintf("mmap of the %s file with protection %d", name, prot), mapOnly(t, f.fd, prot), want)
			p, err := mapped(f.fd, unix.PROT_READ)
			assert.NilError(t, err)
			kit.WantErrno(t, fmt.Sprintf("mprotect of the %s file to %d", name, prot), mprotect(p, prot), want)
			unmap(t, p)
		}
	}
}

// TestMprotectOfExecutable: what is executable already is not evaluated again;
// what has been and is no more, is.
func TestMprotectOfExecutable(t *testing.T) {
	trustedSigner(t)
	f := newTarget(t)
	p, err := mapped(f.fd, unix.PROT_READ|unix.PROT_EXEC)
	assert.NilError(t, err)
	defer unmap(t, p)
	enforcePolicy(t, allowAll, "DEFAULT op=EXECUTE action=DENY", bootRule)
	kit.WantErrno(t, "rx to rx", mprotect(p, unix.PROT_READ|unix.PROT_EXEC), 0)
	kit.WantErrno(t, "rx to rwx", mprotect(p, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC), 0)
	kit.WantErrno(t, "rwx to r", mprotect(p, unix.PROT_READ), 0)
	kit.WantErrno(t, "r to rx", mprotect(p, unix.PROT_READ|unix.PROT_EXEC), unix.EACCES)
}

// TestAnonymousMemory: memory without a file is not verified.
func TestAnonymousMemory(t *testing.T) {
	trustedSigner(t)
	enforcePolicy(t, allowAll, "DEFAULT op=EXECUTE action=DENY", bootRule)
	for prot := range 8 {
		want := unix.Errno(0)
		if prot&unix.PROT_EXEC != 0 {
			want = unix.EACCES
		}
		kit.WantErrno(t, fmt.Sprintf("anonymous mmap with protection %d", prot), mapOnly(t, -1, prot), want)
		p, err := mapped(-1, unix.PROT_READ|unix.PROT_WRITE)
		assert.NilError(t, err)
		kit.WantErrno(t, fmt.Sprintf("mprotect of anonymous memory to %d", prot), mprotect(p, prot), want)
		unmap(t, p)
	}
	fd, err := unix.MemfdCreate("kvmrun", unix.MFD_CLOEXEC)
	assert.NilError(t, err)
	defer func() { _ = unix.Close(fd) }()
	assert.NilError(t, unix.Ftruncate(fd, 4096))
	kit.WantErrno(t, "mmap of a memfd", mapOnly(t, fd, unix.PROT_READ), 0)
	kit.WantErrno(t, "executable mmap of a memfd", mapOnly(t, fd, unix.PROT_READ|unix.PROT_EXEC), unix.EACCES)
	kit.WantErrno(t, "execve of a memfd", unix.Exec(fmt.Sprintf("/proc/self/fd/%d", fd), []string{"x"}, nil), unix.EACCES)
}

// TestReadImpliesExec: the personality makes every readable mapping executable,
// and IPE sees it.
func TestReadImpliesExec(t *testing.T) {
	trustedSigner(t)
	targets := makeTargets(t)
	enforcePolicy(t, allowAll, "DEFAULT op=EXECUTE action=DENY", bootRule)
	kit.OnThread(t, func() {
		_, _, e := unix.Syscall(unix.SYS_PERSONALITY, 0x0400000, 0, 0) // READ_IMPLIES_EXEC
		assert.NilError(t, kit.Errno(e))
		kit.WantErrno(t, "mmap for reading", mapOnly(t, targets["other"].fd, unix.PROT_READ), unix.EACCES)
		kit.WantErrno(t, "mmap for reading, verified", mapOnly(t, targets["boot"].fd, unix.PROT_READ), 0)
		_, _, e = unix.Syscall(unix.SYS_PERSONALITY, 0, 0, 0)
		assert.NilError(t, kit.Errno(e))
		kit.WantErrno(t, "mmap for reading, default personality", mapOnly(t, targets["other"].fd, unix.PROT_READ), 0)
	})
}

// TestScript: a script is a program as well as its interpreter.
func TestScript(t *testing.T) {
	trustedSigner(t)
	targets := makeTargets(t)
	dir := fs.Tmpfs(t, 0)
	script := func(path, interp string) string {
		assert.NilError(t, os.WriteFile(path, []byte("#!"+interp+"\n"), 0o755))
		return path
	}
	boot := strings.TrimSuffix(targets["boot"].path, "target")
	enforcePolicy(t, allowAll, "DEFAULT op=EXECUTE action=DENY", bootRule)
	for _, c := range []struct {
		name, path string
		want       unix.Errno
	}{
		{"verified script, verified interpreter", script(boot+"a", targets["boot"].path), unix.ENOEXEC},
		{"verified script, other interpreter", script(boot+"b", targets["other"].path), unix.EACCES},
		{"other script, verified interpreter", script(dir+"/c", targets["boot"].path), unix.EACCES},
	} {
		kit.WantErrno(t, c.name, unix.Exec(c.path, []string{c.path}, nil), c.want)
	}
}

// TestRecordStrings: names that a user chose are quoted or in hexadecimal, and
// end where they end.
func TestRecordStrings(t *testing.T) {
	trustedSigner(t)
	dir := fs.Tmpfs(t, 0)
	enforcePolicy(t, allowAll, "DEFAULT op=EXECUTE action=DENY", bootRule)
	l := listen(t)
	for i, name := range []string{"plain", "with space", `with"quote`, "new\nline", "tab\tx", "\xc3\xa4", "a=b", "rule=ALLOW"} {
		f := targetAt(t, fmt.Sprintf("%s/%d-%s", dir, i, name))
		comm := fmt.Sprintf("%d%s", i, name)
		kit.OnThread(t, func() {
			setComm(t, comm)
			kit.WantErrno(t, "mmap", mmapExec(t, f), unix.EACCES)
		})
		rs := of(l.drain(), ipeAccess)
		if !assert.Check(t, cmp.Len(rs, 1), "%q", name) {
			continue
		}
		got := rs[0].fields()
		assert.Check(t, cmp.Equal(got["comm"], untrusted(comm)), rs[0].Text)
		assert.Check(t, cmp.Equal(got["path"], untrusted(f.path)), rs[0].Text)
		kit.Want(t, !bytes.ContainsAny([]byte(rs[0].Text), "\x00\n"), "NUL or newline in %q", rs[0].Text)
	}
}

// TestRecordExcluded: audit's exclude filter holds for the access records.
func TestRecordExcluded(t *testing.T) {
	trustedSigner(t)
	f := newTarget(t)
	enforcePolicy(t, allowAll, "DEFAULT op=EXECUTE action=DENY", bootRule)
	l := listen(t)
	undo, err := l.exclude(ipeAccess)
	assert.NilError(t, err)
	kit.WantErrno(t, "mmap", mmapExec(t, f), unix.EACCES)
	assert.Check(t, cmp.Len(of(l.drain(), ipeAccess), 0))
	assert.NilError(t, undo())
	kit.WantErrno(t, "mmap", mmapExec(t, f), unix.EACCES)
	assert.Check(t, cmp.Len(of(l.drain(), ipeAccess), 1))
}

// TestUpdateChangesEvaluation: an update of the active policy counts at once.
func TestUpdateChangesEvaluation(t *testing.T) {
	s := trustedSigner(t)
	f := newTarget(t)
	p := enforcePolicy(t, allowAll, "DEFAULT op=EXECUTE action=DENY", bootRule)
	kit.WantErrno(t, "before", mmapExec(t, f), unix.EACCES)
	p.Version, p.Rules = strings.TrimSuffix(p.Version, ".10")+".11", []string{allowAll}
	assert.NilError(t, write(p.node("update"), s.sign(t, p.text(), signAttached)))
	kit.WantErrno(t, "after", mmapExec(t, f), 0)
}
