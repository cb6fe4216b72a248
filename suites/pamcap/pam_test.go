// SPDX-License-Identifier: Apache-2.0

package pamcap

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/pamcap/capbound"
)

// Where nothing else is said, a test is about pam_cap.so, whose language is that of
// libcap since 2.29 (2020); see capability.conf(5) and pam_cap(8). Those that begin
// with TestCapbound are about this project's own module, and TestPAMRules is about
// both.

const pamCap = "pam_cap.so"

var services atomic.Int32

// Controls of pam.conf(5). With returned, the application gets what the module
// returned: libpam's word for it is the module's own.
const (
	required = "required"
	returned = "[default=done]"
)

// service installs a PAM service and returns its name. Module and its arguments are
// its first auth module.
func service(t testing.TB, control, module string, args ...string) string {
	t.Helper()
	line := control + " " + strings.Join(append([]string{module}, args...), " ")
	return serviceOf(t, "auth "+line, "auth required pam_permit.so", "account required pam_permit.so")
}

// serviceOf installs a PAM service of these lines.
func serviceOf(t testing.TB, lines ...string) string {
	t.Helper()
	writeEtc(t)
	name := fmt.Sprintf("kvmrun-%d", services.Add(1))
	path := filepath.Join("/etc/pam.d", name)
	assert.NilError(t, os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644))
	t.Cleanup(func() { assert.NilError(t, os.Remove(path)) })
	return name
}

// conf writes a capability.conf and returns the option that names it.
func conf(t testing.TB, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "capability.conf")
	assert.NilError(t, os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644))
	return "config=" + path
}

// login is authenticate and setcred through libpam.
func login(t testing.TB, user string, args ...string) sessionResult {
	t.Helper()
	return drive(t, session{
		Service: service(t, required, pamCap, args...), User: user,
		Steps: []step{{Call: "authenticate"}, {Call: "setcred", Flags: pamEstablish}, {Call: "end"}},
	})
}

// direct logs in and returns what pam_cap.so itself returned, whatever libpam would
// make of it.
func direct(t testing.TB, s session, args ...string) (auth, cred stepResult) {
	t.Helper()
	return directTo(t, pamCap, s, args...)
}

func directTo(t testing.TB, module string, s session, args ...string) (auth, cred stepResult) {
	t.Helper()
	s.Service = returning(t, module, args...)
	s.Steps = []step{{Call: "authenticate"}, {Call: "setcred", Flags: pamEstablish}, {Call: "end"}}
	r := drive(t, s)
	return r.Steps[0], returnedBy(r.Steps[1])
}

// returning is a service whose application gets what the module returned. libpam
// makes nothing of PAM_IGNORE from pam_setcred where pam_authenticate succeeded, and
// goes on to the next module: pam_debug says so with a code that no other has.
func returning(t testing.TB, module string, args ...string) string {
	t.Helper()
	return serviceOf(t, "auth "+returned+" "+strings.Join(append([]string{module}, args...), " "), "auth required pam_debug.so cred=maxtries")
}

// returnedBy is what the module of such a service returned from pam_setcred.
func returnedBy(cred stepResult) stepResult {
	if cred.RC == pamMaxTries {
		cred.RC = pamIgnore
	}
	return cred
}

// rc compares a PAM return code.
func rc(t testing.TB, what string, got stepResult, want int) {
	t.Helper()
	kit.Want(t, got.RC == want, "%s returned %d, want %d", what, got.RC, want)
}

// iab compares a state's inheritable and ambient sets and what is missing from
// its bounding set.
func iab(t testing.TB, s state, i, a, dropped set) {
	t.Helper()
	want(t, "CapInh", s.I, i)
	want(t, "CapAmb", s.A, a)
	want(t, "missing from CapBnd", full(t)&^s.B, dropped)
}

// TestPAMLogin goes through libpam as a login program does.
func TestPAMLogin(t *testing.T) {
	c := conf(t, "cap_net_raw,cap_kill kaigai", "none *")
	for _, l := range []struct {
		user string
		i    set
	}{{"kaigai", caps(unix.CAP_NET_RAW, unix.CAP_KILL)}, {"tak", 0}} {
		t.Run(l.user, func(t *testing.T) {
			r := login(t, l.user, c)
			rc(t, "pam_authenticate", r.Steps[0], pamSuccess)
			rc(t, "pam_setcred", r.Steps[1], pamSuccess)
			rc(t, "pam_end", r.Steps[2], pamSuccess)
			iab(t, r.Steps[0].State, 0, 0, 0)
			iab(t, r.Steps[1].State, l.i, 0, 0)
			want(t, "CapPrm", r.Steps[1].State.P, full(t))
			want(t, "CapEff", r.Steps[1].State.E, full(t))
		})
	}
}

// TestPAMRules: which line applies to whom and what it does, in both dialects.
func TestPAMRules(t *testing.T) {
	var sessions []session
	var names []string
	var wants []capbound.Expect
	for _, c := range capbound.Rules {
		for _, dialect := range []capbound.Dialect{capbound.Libcap, capbound.Bound} {
			e, said := c.Want(dialect)
			module := pamCap
			if dialect == capbound.Bound {
				module = capbound.ModulePath
			}
			if !said {
				continue
			}
			sessions = append(sessions, session{
				Service: returning(t, module, conf(t, c.Config(dialect))), User: c.User, I: set(c.Start),
				Steps: []step{{Call: "authenticate"}, {Call: "setcred", Flags: pamEstablish}},
			})
			names, wants = append(names, c.Name+"/"+string(dialect)), append(wants, e)
		}
	}
	all := full(t)
	for i, r := range driveAll(t, sessions) {
		t.Run(names[i], func(t *testing.T) {
			auth, cred, e := r.Steps[0], returnedBy(r.Steps[1]), wants[i]
			rc(t, "pam_sm_authenticate", auth, e.Auth)
			rc(t, "pam_sm_setcred", cred, e.Cred)
			want(t, "CapInh", cred.State.I, set(e.I)&all)
			want(t, "CapAmb", cred.State.A, set(e.A))
			want(t, "missing from CapBnd", all&^cred.State.B, set(e.Dropped)&all)
			want(t, "CapPrm", cred.State.P, all)
			want(t, "CapEff", cred.State.E, all)
		})
	}
}

// TestPAMNoMatch: who has no rule is ignored by both functions, which is not
// success: "auth sufficient pam_cap.so" must not let him in.
func TestPAMNoMatch(t *testing.T) {
	auth, cred := direct(t, session{User: "tak", I: caps(capA)}, conf(t, "cap_kill ymj"))
	rc(t, "pam_sm_authenticate", auth, pamIgnore)
	rc(t, "pam_sm_setcred", cred, pamIgnore)
	iab(t, cred.State, caps(capA), 0, 0)
}

// TestPAMSufficient is what TestPAMNoMatch is about, through libpam.
func TestPAMSufficient(t *testing.T) {
	for user, want := range map[string]bool{"ymj": true, "tak": false} {
		name := serviceOf(t, "auth sufficient "+pamCap+" "+conf(t, "cap_kill ymj"), "auth required pam_deny.so")
		r := drive(t, session{Service: name, User: user, Steps: []step{{Call: "authenticate"}}})
		if want {
			rc(t, "authentication of "+user, r.Steps[0], pamSuccess)
		} else {
			kit.Want(t, r.Steps[0].RC != pamSuccess, "%s, without a rule, was authenticated", user)
		}
	}
}

func TestPAMUnknownUser(t *testing.T) {
	auth, cred := direct(t, session{User: "nobody-here", I: caps(capA)}, conf(t, "none *"))
	rc(t, "pam_sm_authenticate", auth, pamIgnore)
	rc(t, "pam_sm_setcred", cred, pamIgnore)
	iab(t, cred.State, caps(capA), 0, 0)
}

func TestPAMConfigMissing(t *testing.T) {
	auth, cred := direct(t, session{User: "tak", I: caps(capA)}, "config=/nosuch/capability.conf")
	rc(t, "pam_sm_authenticate", auth, pamIgnore)
	rc(t, "pam_sm_setcred", cred, pamIgnore)
	iab(t, cred.State, caps(capA), 0, 0)
}

func TestPAMConfigEmpty(t *testing.T) {
	auth, cred := direct(t, session{User: "tak", I: caps(capA)}, conf(t))
	rc(t, "pam_sm_authenticate", auth, pamIgnore)
	rc(t, "pam_sm_setcred", cred, pamIgnore)
	iab(t, cred.State, caps(capA), 0, 0)
}

// TestPAMOptions: the module's arguments.
func TestPAMOptions(t *testing.T) {
	match, miss := "cap_net_raw tak", "cap_net_raw ymj"
	raw := caps(unix.CAP_NET_RAW)
	for _, c := range []struct {
		name       string
		rule       string
		args       []string
		auth, cred int
		i          set
		keep       bool
	}{
		{"none", match, nil, pamSuccess, pamSuccess, raw, false},
		{"debug", match, []string{"debug"}, pamSuccess, pamSuccess, raw, false},
		{"an unknown one is only logged", match, []string{"nosuch"}, pamSuccess, pamSuccess, raw, false},
		{"keepcaps", match, []string{"keepcaps"}, pamSuccess, pamSuccess, raw, true},
		{"keepcaps without a rule", miss, []string{"keepcaps"}, pamIgnore, pamIgnore, 0, false},
		{"default with a rule", match, []string{"default=cap_kill"}, pamSuccess, pamSuccess, raw, false},
		{"default without a rule", miss, []string{"default=cap_kill"}, pamIgnore, pamSuccess, caps(unix.CAP_KILL), false},
		{"a default that cannot be parsed", miss, []string{"default=cap_nosuch"}, pamIgnore, pamIgnore, 0, false},
		{"autoauth without a rule", miss, []string{"autoauth"}, pamSuccess, pamIgnore, 0, false},
		{"autoauth with a rule", match, []string{"autoauth"}, pamSuccess, pamSuccess, raw, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			auth, cred := direct(t, session{User: "tak"}, append([]string{conf(t, c.rule)}, c.args...)...)
			rc(t, "pam_sm_authenticate", auth, c.auth)
			rc(t, "pam_sm_setcred", cred, c.cred)
			iab(t, cred.State, c.i, 0, 0)
			assert.Check(t, cmp.Equal(cred.State.Securebits&secbitKeepCaps != 0, c.keep), "KEEPCAPS")
		})
	}
}

// TestPAMDefer: with defer, capabilities are set by pam_end, and only if the
// application says that all went well and that it is in the new process.
func TestPAMDefer(t *testing.T) {
	raw := caps(unix.CAP_NET_RAW)
	for _, c := range []struct {
		name  string
		flags int
		i     set
	}{
		{"success in the child", pamSuccess | pamDataSilent, raw},
		{"success", pamSuccess, 0},
		{"failure in the child", pamAuthErr | pamDataSilent, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := drive(t, session{
				Service: service(t, required, pamCap, conf(t, "cap_net_raw tak"), "defer"), User: "tak",
				Steps: []step{{Call: "authenticate"}, {Call: "setcred", Flags: pamEstablish}, {Call: "end", Flags: c.flags}},
			})
			iab(t, r.Steps[1].State, 0, 0, 0)
			iab(t, r.Steps[2].State, c.i, 0, 0)
		})
	}
}

// TestPAMDeferAmbient: defer and keepcaps together give a user ambient
// capabilities, although the application changes to him after pam_setcred.
func TestPAMDeferAmbient(t *testing.T) {
	raw := caps(unix.CAP_NET_RAW)
	r := drive(t, session{
		Service: service(t, required, pamCap, conf(t, "^cap_net_raw tak"), "defer keepcaps"), User: "tak",
		Steps: []step{
			{Call: "authenticate"}, {Call: "setcred", Flags: pamEstablish},
			{Call: "become", Flags: 1001}, {Call: "end", Flags: pamDataSilent},
		},
	})
	rc(t, "setresuid", r.Steps[2], 0)
	iab(t, r.Steps[2].State, 0, 0, 0)
	iab(t, r.Steps[3].State, raw, raw, 0)
	// Without defer, the change of user clears them.
	r = drive(t, session{
		Service: service(t, required, pamCap, conf(t, "^cap_net_raw tak"), "keepcaps"), User: "tak",
		Steps: []step{{Call: "authenticate"}, {Call: "setcred", Flags: pamEstablish}, {Call: "become", Flags: 1001}},
	})
	iab(t, r.Steps[1].State, raw, raw, 0)
	iab(t, r.Steps[2].State, raw, 0, 0)
}

// TestPAMSetcredFlags: only establishing and reinitializing do something.
func TestPAMSetcredFlags(t *testing.T) {
	c := conf(t, "cap_net_raw tak")
	raw := caps(unix.CAP_NET_RAW)
	for _, f := range []struct {
		name  string
		flags int
		rc    int
		i     set
	}{
		{"establish", pamEstablish, pamSuccess, raw},
		{"reinitialize", pamReinitialize, pamSuccess, raw},
		{"delete", pamDelete, pamIgnore, 0},
		{"refresh", pamRefresh, pamIgnore, 0},
		{"none, which libpam makes establish", 0, pamSuccess, raw},
	} {
		t.Run(f.name, func(t *testing.T) {
			r := drive(t, session{
				Service: returning(t, pamCap, c), User: "tak",
				Steps: []step{{Call: "setcred", Flags: f.flags}},
			})
			rc(t, "pam_sm_setcred", r.Steps[0], f.rc)
			iab(t, r.Steps[0].State, f.i, 0, 0)
		})
	}
}

// TestPAMSetcredTwice: again, and pam_end after it, without a crash.
func TestPAMSetcredTwice(t *testing.T) {
	for _, args := range []string{"", "defer", "defer keepcaps"} {
		r := drive(t, session{
			Service: service(t, required, pamCap, conf(t, "cap_net_raw,!cap_kill tak"), args), User: "tak",
			Steps: []step{
				{Call: "authenticate"}, {Call: "setcred", Flags: pamEstablish}, {Call: "setcred", Flags: pamReinitialize},
				{Call: "setcred", Flags: pamDelete}, {Call: "end", Flags: pamDataSilent},
			},
		})
		for i, s := range r.Steps {
			rc(t, fmt.Sprintf("step %d with %q", i, args), s, pamSuccess)
		}
		iab(t, r.Steps[4].State, caps(unix.CAP_NET_RAW), 0, caps(unix.CAP_KILL))
	}
}

// TestPAMWithoutSetpcap: who may not change the bounding set gets nothing of a
// rule that asks for it, and, which is worth knowing, only PAM_IGNORE. libcap
// raises CAP_SETPCAP itself where it is permitted.
func TestPAMWithoutSetpcap(t *testing.T) {
	_, cred := direct(t, session{User: "tak", DropEffective: []int{unix.CAP_SETPCAP}}, conf(t, "cap_net_raw,!cap_kill tak"))
	rc(t, "permitted, not effective", cred, pamSuccess)
	iab(t, cred.State, caps(unix.CAP_NET_RAW), 0, caps(unix.CAP_KILL))
	kit.Want(t, cred.State.E&caps(unix.CAP_SETPCAP) == 0, "CAP_SETPCAP was left effective")

	r := drive(t, session{
		Service: returning(t, pamCap, conf(t, "cap_net_raw,!cap_kill tak")), User: "tak",
		Steps: []step{{Call: "become", Flags: 1001}, {Call: "setcred", Flags: pamEstablish}},
	})
	rc(t, "not permitted", r.Steps[1], pamIgnore)
	iab(t, r.Steps[1].State, 0, 0, 0)
}

// TestPAMSession: the module has no session functions; a service that lists it
// as a session module fails to open one.
func TestPAMSession(t *testing.T) {
	name := serviceOf(t, "session required "+pamCap+" "+conf(t, "cap_net_raw *"), "session required pam_permit.so")
	r := drive(t, session{Service: name, User: "tak", Steps: []step{{Call: "open_session"}}})
	rc(t, "pam_open_session", r.Steps[0], pamModuleUnknown)
	iab(t, r.Steps[0].State, 0, 0, 0)
}

// TestPAMLongLine: the module reads lines of up to 4095 bytes
// (CAP_FILE_BUFFER_SIZE); of a longer one, the rest is a line of its own.
func TestPAMLongLine(t *testing.T) {
	// The first 4095 bytes are a rule for others; what follows must not become
	// a rule that grants something to a user of the same line.
	head := "cap_kill "
	pad := head + strings.Repeat("x", 4095-len(head))
	_, cred := direct(t, session{User: "tak"}, conf(t, pad+"yz tak", "cap_net_raw tak"))
	// "yz" is taken for capabilities, which cannot be parsed.
	rc(t, "a tail that is no rule", cred, pamIgnore)
	iab(t, cred.State, 0, 0, 0)
	_, cred = direct(t, session{User: "tak"}, conf(t, pad+"yz ymj", "cap_net_raw tak"))
	rc(t, "a tail for others", cred, pamSuccess)
	iab(t, cred.State, caps(unix.CAP_NET_RAW), 0, 0)
}

// TestPAMGroupNeedsAt: a name without @ is a user's, also if leaving out its
// first character gives one of the user's groups (CVE-2025-1390).
func TestPAMGroupNeedsAt(t *testing.T) {
	auth, cred := direct(t, session{User: "tak"}, conf(t, "cap_net_raw +webadm xusers"))
	if auth.RC == pamSuccess {
		kit.NeedFeature(t, FeatureGroupNeedsAt, fmt.Errorf("the rule for user +webadm matches group webadm"))
	}
	rc(t, "pam_sm_authenticate", auth, pamIgnore)
	rc(t, "pam_sm_setcred", cred, pamIgnore)
	iab(t, cred.State, 0, 0, 0)
	// A user and a group of the same name are two things.
	auth, _ = direct(t, session{User: "alpha"}, conf(t, "cap_net_raw one"))
	rc(t, "rule for user one", auth, pamIgnore)
	auth, _ = direct(t, session{User: "alpha"}, conf(t, "cap_net_raw @one"))
	rc(t, "rule for group one", auth, pamSuccess)
}

// TestPAMConfigMode: a configuration that everybody may write is not trusted.
func TestPAMConfigMode(t *testing.T) {
	c := conf(t, "cap_net_raw tak")
	assert.NilError(t, os.Chmod(strings.TrimPrefix(c, "config="), 0o666))
	auth, cred := direct(t, session{User: "tak"}, c)
	if auth.RC == pamSuccess {
		kit.NeedFeature(t, FeatureConfMode, fmt.Errorf("a file of mode 0666 is honoured"))
	}
	rc(t, "pam_sm_authenticate", auth, pamIgnore)
	rc(t, "pam_sm_setcred", cred, pamIgnore)
	iab(t, cred.State, 0, 0, 0)
}

// TestPAMEndToEnd: what a user can do after login: a program with an
// inheritable file capability gains it if pam_cap.so gave it to the user, and
// one that insists on a capability cannot run if it was dropped.
func TestPAMEndToEnd(t *testing.T) {
	inheritable, forced := program(t, 0, 0o755), program(t, 1, 0o755)
	fileCaps{I: caps(unix.CAP_NET_RAW), Effective: true}.set(t, inheritable)
	fileCaps{P: caps(unix.CAP_NET_RAW), Effective: true}.set(t, forced)
	for _, c := range []struct {
		name, rule, prog string
		p                set
		err              string
	}{
		{"inheritable for the user", "cap_net_raw tak", inheritable, caps(unix.CAP_NET_RAW), ""},
		{"inheritable for another user", "cap_net_raw ymj", inheritable, 0, ""},
		{"another capability", "cap_kill tak", inheritable, 0, ""},
		{"dropped, but inheritable", "!%cap_net_raw tak", inheritable, caps(unix.CAP_NET_RAW), ""},
		{"forced", "none tak", forced, caps(unix.CAP_NET_RAW), ""},
		{"forced, but dropped", "!cap_net_raw tak", forced, 0, "execve: EPERM"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := driveExec(t, session{
				Service: service(t, required, pamCap, conf(t, c.rule, "none *")), User: "tak",
				Steps: []step{{Call: "authenticate"}, {Call: "setcred", Flags: pamEstablish}},
			}, 1001, c.prog)
			if c.err != "" {
				assert.ErrorContains(t, err, c.err)
				return
			}
			assert.NilError(t, err)
			assert.Check(t, cmp.Equal(s.UID, 1001))
			want(t, "CapPrm", s.P, c.p)
			want(t, "CapEff", s.E, c.p)
		})
	}
}

// TestCapboundSession is a login as su and login(1) do it: the module authenticates,
// establishes credentials and opens a session, which may be closed and opened again;
// the user's program has what all of it gave him. Users and groups are the host's C
// library's to look up.
func TestCapboundSession(t *testing.T) {
	raw, kill := caps(unix.CAP_NET_RAW), caps(unix.CAP_KILL)
	auth := conf(t, "i:cap_net_raw,cap_kill @webadm", "b:cap_sys_chroot *")
	inSession := conf(t, "i:cap_net_raw @users", "b:cap_sys_module tak")
	service := serviceOf(t,
		"auth required "+capbound.ModulePath+" "+auth, "auth required pam_permit.so",
		"account required pam_permit.so",
		"session required "+capbound.ModulePath+" "+inSession, "session required pam_permit.so")
	s := session{Service: service, User: "tak", Steps: []step{
		{Call: "authenticate"}, {Call: "setcred", Flags: pamEstablish}, {Call: "open_session"},
		{Call: "close_session"}, {Call: "open_session"}, {Call: "setcred", Flags: pamReinitialize}, {Call: "close_session"},
	}}
	chroot, module := caps(unix.CAP_SYS_CHROOT), caps(unix.CAP_SYS_MODULE)
	wants := []struct{ i, dropped set }{
		{0, 0}, {raw | kill, chroot}, {raw, chroot | module}, {raw, chroot | module}, {raw, chroot | module}, {raw | kill, chroot | module}, {raw | kill, chroot | module},
	}
	for n, r := range drive(t, s).Steps {
		rc(t, s.Steps[n].String(), r, pamSuccess)
		iab(t, r.State, wants[n].i, 0, wants[n].dropped)
	}

	prog := program(t, 0, 0o755)
	fileCaps{I: raw | kill, Effective: true}.set(t, prog)
	s.Steps = s.Steps[:3]
	got, err := driveExec(t, s, 1001, prog)
	assert.NilError(t, err)
	want(t, "CapPrm of the user's program", got.P, raw)
	want(t, "CapEff of the user's program", got.E, raw)

	// Who has no rule is let in by nobody else.
	r := drive(t, session{
		Service: serviceOf(t, "auth sufficient "+capbound.ModulePath+" "+conf(t, "cap_kill ymj"), "auth required pam_deny.so"),
		User:    "tak", Steps: []step{{Call: "authenticate"}},
	})
	rc(t, "authentication without a rule", r.Steps[0], pamAuthErr)
}

// TestCapboundCached: what counts is the configuration that pam_authenticate read.
func TestCapboundCached(t *testing.T) {
	c := conf(t, "cap_kill tak")
	path := strings.TrimPrefix(c, "config=")
	other := strings.TrimPrefix(conf(t, "cap_net_raw tak", "b:all tak"), "config=")
	r := drive(t, session{Service: returning(t, capbound.ModulePath, c), User: "tak", Steps: []step{
		{Call: "authenticate"}, {Call: "rename", Arg: other + ":" + path}, {Call: "setcred", Flags: pamEstablish},
		{Call: "authenticate"}, {Call: "setcred", Flags: pamEstablish},
	}})
	for n, s := range r.Steps {
		rc(t, fmt.Sprintf("step %d", n), s, pamSuccess)
	}
	iab(t, r.Steps[2].State, caps(unix.CAP_KILL), 0, 0)
	iab(t, r.Steps[4].State, 0, 0, full(t))
}

// TestCapboundConfigRefused: a configuration that somebody else may have written is an
// error, and nothing is done.
func TestCapboundConfigRefused(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"mode":  func(path string) error { return os.Chmod(path, 0o666) },
		"owner": func(path string) error { return os.Chown(path, 1001, 0) },
		"link": func(path string) error {
			if err := os.Rename(path, path+".real"); err != nil {
				return err
			}
			return os.Symlink(path+".real", path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := conf(t, "cap_net_raw tak")
			assert.NilError(t, spoil(strings.TrimPrefix(c, "config=")))
			auth, cred := directTo(t, capbound.ModulePath, session{User: "tak", I: caps(capA)}, c)
			rc(t, "pam_sm_authenticate", auth, pamAuthErr)
			rc(t, "pam_sm_setcred", cred, pamNoModuleData)
			iab(t, cred.State, caps(capA), 0, 0)
		})
	}
}
