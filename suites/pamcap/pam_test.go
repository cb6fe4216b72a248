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
)

// The configuration's language is that of libcap since 2.29 (2020), in which
// an IAB tuple names ambient (^), inheritable (% or nothing) and dropped (!)
// capabilities and the first matching line counts; see capability.conf(5) and
// pam_cap(8). Titles of the form "seed: ..." are features of the module's
// patch of 2007 that added the bounding set, in today's words.

const pamCap = "pam_cap.so"

var services atomic.Int32

// service installs a PAM service with pam_cap.so and these arguments and
// returns its name.
func service(t testing.TB, args string) string {
	t.Helper()
	undo, err := writeEtc()
	t.Cleanup(func() { assert.NilError(t, undo()) })
	assert.NilError(t, err)
	name := fmt.Sprintf("kvmrun-%d", services.Add(1))
	path := filepath.Join("/etc/pam.d", name)
	text := fmt.Sprintf("auth required %s %s\nauth required pam_permit.so\naccount required pam_permit.so\n", pamCap, args)
	assert.NilError(t, os.WriteFile(path, []byte(text), 0o644))
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
	return kit.Call[sessionResult](t, "pam", session{
		Service: service(t, strings.Join(args, " ")), User: user,
		Steps: []step{{Call: "authenticate"}, {Call: "setcred", Flags: pamEstablish}, {Call: "end"}},
	})
}

// direct calls the module's two functions without libpam's judgement of what
// they return.
func direct(t testing.TB, s session, args ...string) (auth, cred stepResult) {
	t.Helper()
	s.Service = service(t, "")
	s.Steps = []step{
		{Call: "authenticate", Module: pamCap, Args: args},
		{Call: "setcred", Module: pamCap, Args: args, Flags: pamEstablish},
		{Call: "end"},
	}
	r := kit.Call[sessionResult](t, "pam", s)
	return r.Steps[0], r.Steps[1]
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

// TestPAMRules is about which line applies to whom and what it does.
func TestPAMRules(t *testing.T) {
	const raw, kill, chroot, module, bind, pacct = unix.CAP_NET_RAW, unix.CAP_KILL, unix.CAP_SYS_CHROOT, unix.CAP_SYS_MODULE, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_PACCT
	for _, c := range []struct {
		name          string
		conf          []string
		user          string
		start         set // inheritable before
		i, a, dropped set
		ignored       bool // the module has nothing to say
	}{
		{name: "seed: capabilities of a user", conf: []string{"cap_net_raw,cap_kill kaigai"}, user: "kaigai", i: caps(raw, kill)},
		{name: "seed: other inheritable ones are cleared", conf: []string{"cap_net_raw kaigai"}, user: "kaigai", start: caps(chroot, kill), i: caps(raw)},
		{name: "percent sign", conf: []string{"%cap_net_raw kaigai"}, user: "kaigai", i: caps(raw)},
		{name: "seed: prefix of another dialect", conf: []string{"i:cap_net_raw kaigai"}, user: "kaigai", start: caps(kill), i: caps(kill), ignored: true},
		{name: "seed: bounding set, first of two users", conf: []string{"!cap_sys_chroot ymj tak"}, user: "ymj", dropped: caps(chroot)},
		{name: "seed: bounding set, second of two users", conf: []string{"!cap_sys_chroot ymj tak"}, user: "tak", dropped: caps(chroot)},
		{name: "seed: bounding set, another user", conf: []string{"!cap_sys_chroot ymj tak"}, user: "kaigai", ignored: true},
		{name: "dropped and inheritable", conf: []string{"!%cap_net_raw kaigai"}, user: "kaigai", i: caps(raw), dropped: caps(raw)},
		{name: "ambient", conf: []string{"^cap_net_raw kaigai"}, user: "kaigai", i: caps(raw), a: caps(raw)},
		{name: "a mix", conf: []string{"^cap_kill,cap_net_raw,!cap_sys_chroot kaigai"}, user: "kaigai", i: caps(kill, raw), a: caps(kill), dropped: caps(chroot)},
		{name: "seed: group by membership", conf: []string{"cap_net_bind_service @webadm"}, user: "tak", i: caps(bind)},
		{name: "seed: group by primary group", conf: []string{"cap_net_bind_service @users"}, user: "tak", i: caps(bind)},
		{name: "group of others", conf: []string{"cap_net_bind_service @webadm"}, user: "kaigai", ignored: true},
		{name: "unknown group", conf: []string{"cap_kill @nosuch", "cap_net_raw kaigai"}, user: "kaigai", i: caps(raw)},
		{name: "group among users", conf: []string{"cap_net_raw ymj @webadm"}, user: "tak", i: caps(raw)},
		{name: "seed: rules on several lines: the first alone", conf: []string{"cap_sys_pacct tak", "cap_net_bind_service @webadm", "!cap_sys_chroot @users", "!cap_sys_module tak"}, user: "tak", i: caps(pacct)},
		{name: "wildcard", conf: []string{"cap_kill ymj", "cap_net_raw *"}, user: "tak", i: caps(raw)},
		{name: "wildcard comes first", conf: []string{"cap_net_raw *", "cap_kill tak"}, user: "tak", i: caps(raw)},
		{name: "none clears", conf: []string{"none *"}, user: "tak", start: caps(kill), i: 0},
		{name: "all changes nothing", conf: []string{"all *"}, user: "tak", start: caps(kill), i: caps(kill)},
		{name: "comments and empty lines", conf: []string{"# cap_kill tak", "", " \t", "cap_net_raw tak"}, user: "tak", i: caps(raw)},
		{name: "comment without a space", conf: []string{"#cap_kill tak", "cap_net_raw tak"}, user: "tak", i: caps(raw)},
		{name: "a comment behind a rule is user names", conf: []string{"cap_net_raw kaigai # and tak"}, user: "tak", i: caps(raw)},
		{name: "tabs", conf: []string{"\tcap_net_raw\tkaigai\ttak"}, user: "tak", i: caps(raw)},
		{name: "capability without users", conf: []string{"cap_kill", "cap_net_raw tak"}, user: "tak", i: caps(raw)},
		{name: "unknown capability for others", conf: []string{"cap_nosuch ymj", "cap_net_raw tak"}, user: "tak", i: caps(raw)},
		{name: "unknown capability", conf: []string{"cap_nosuch tak", "cap_net_raw *"}, user: "tak", start: caps(kill), i: caps(kill), ignored: true},
		{name: "a user's name is not a prefix", conf: []string{"cap_kill ta taka", "cap_net_raw tak"}, user: "tak", i: caps(raw)},
		{name: "module", conf: []string{"!cap_sys_module,!cap_sys_chroot tak"}, user: "tak", dropped: caps(module, chroot)},
		{name: "an unterminated last line", conf: []string{"cap_kill ymj\ncap_net_raw tak"}, user: "tak", i: caps(raw)},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, cred := direct(t, session{User: c.user, I: c.start}, conf(t, c.conf...))
			wantRC := pamSuccess
			if c.ignored {
				wantRC = pamIgnore
			}
			rc(t, "pam_sm_setcred", cred, wantRC)
			iab(t, cred.State, c.i, c.a, c.dropped)
		})
	}
}

// TestPAMVectors are the vectors of libcap's own sudotest (pam_cap/Makefile).
func TestPAMVectors(t *testing.T) {
	rules := []string{
		"all root",
		"!cap_chown beta",
		"cap_setuid,cap_chown @three",
		"cap_chown beta gamma",
		"!cap_chown,cap_setuid @one",
		"^cap_setuid alpha",
		"^cap_chown,^cap_setgid,!cap_setuid delta",
		"cap_setuid @four",
	}
	for _, c := range []struct {
		user    string
		a, b, i set
	}{
		{"root", 0, 0, 0},
		{"alpha", 0, 0x1, 0x80},
		{"beta", 0, 0x1, 0},
		{"gamma", 0, 0, 0x81},
		{"delta", 0x41, 0x80, 0x41},
	} {
		t.Run(c.user, func(t *testing.T) {
			auth, cred := direct(t, session{User: c.user}, conf(t, rules...))
			rc(t, "pam_sm_authenticate", auth, pamSuccess)
			rc(t, "pam_sm_setcred", cred, pamSuccess)
			iab(t, cred.State, c.i, c.a, c.b)
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
		name := service(t, "")
		text := fmt.Sprintf("auth sufficient %s %s\nauth required pam_deny.so\n", pamCap, conf(t, "cap_kill ymj"))
		assert.NilError(t, os.WriteFile("/etc/pam.d/"+name, []byte(text), 0o644))
		r := kit.Call[sessionResult](t, "pam", session{Service: name, User: user, Steps: []step{{Call: "authenticate"}}})
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
			r := kit.Call[sessionResult](t, "pam", session{
				Service: service(t, conf(t, "cap_net_raw tak")+" defer"), User: "tak",
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
	r := kit.Call[sessionResult](t, "pam", session{
		Service: service(t, conf(t, "^cap_net_raw tak")+" defer keepcaps"), User: "tak",
		Steps: []step{
			{Call: "authenticate"}, {Call: "setcred", Flags: pamEstablish},
			{Call: "become", Flags: 1001}, {Call: "end", Flags: pamDataSilent},
		},
	})
	rc(t, "setresuid", r.Steps[2], 0)
	iab(t, r.Steps[2].State, 0, 0, 0)
	iab(t, r.Steps[3].State, raw, raw, 0)
	// Without defer, the change of user clears them.
	r = kit.Call[sessionResult](t, "pam", session{
		Service: service(t, conf(t, "^cap_net_raw tak")+" keepcaps"), User: "tak",
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
		{"none", 0, pamIgnore, 0},
	} {
		t.Run(f.name, func(t *testing.T) {
			r := kit.Call[sessionResult](t, "pam", session{
				Service: service(t, ""), User: "tak",
				Steps: []step{{Call: "setcred", Module: pamCap, Args: []string{c}, Flags: f.flags}},
			})
			rc(t, "pam_sm_setcred", r.Steps[0], f.rc)
			iab(t, r.Steps[0].State, f.i, 0, 0)
		})
	}
}

// TestPAMSetcredTwice: again, and pam_end after it, without a crash.
func TestPAMSetcredTwice(t *testing.T) {
	for _, args := range []string{"", " defer", " defer keepcaps"} {
		r := kit.Call[sessionResult](t, "pam", session{
			Service: service(t, conf(t, "cap_net_raw,!cap_kill tak")+args), User: "tak",
			Steps: []step{
				{Call: "authenticate"}, {Call: "setcred", Flags: pamEstablish}, {Call: "setcred", Flags: pamReinitialize},
				{Call: "setcred", Flags: pamDelete}, {Call: "end", Flags: pamDataSilent},
			},
		})
		for i, s := range r.Steps {
			rc(t, fmt.Sprintf("step %d with%q", i, args), s, pamSuccess)
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

	r := kit.Call[sessionResult](t, "pam", session{
		Service: service(t, ""), User: "tak",
		Steps: []step{
			{Call: "become", Flags: 1001},
			{Call: "setcred", Module: pamCap, Args: []string{conf(t, "cap_net_raw,!cap_kill tak")}, Flags: pamEstablish},
		},
	})
	rc(t, "not permitted", r.Steps[1], pamIgnore)
	iab(t, r.Steps[1].State, 0, 0, 0)
}

// TestPAMSession: the module has no session functions; a service that lists it
// as a session module fails to open one.
func TestPAMSession(t *testing.T) {
	name := service(t, "")
	text := fmt.Sprintf("session required %s %s\nsession required pam_permit.so\n", pamCap, conf(t, "cap_net_raw *"))
	assert.NilError(t, os.WriteFile("/etc/pam.d/"+name, []byte(text), 0o644))
	r := kit.Call[sessionResult](t, "pam", session{Service: name, User: "tak", Steps: []step{{Call: "open_session"}}})
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
			var s state
			err := kit.NewHelper(t, "pam", session{
				Service: service(t, conf(t, c.rule, "none *")), User: "tak",
				Steps: []step{{Call: "authenticate"}, {Call: "setcred", Flags: pamEstablish}, {Call: "end"}},
				Exec:  c.prog, ExecUID: 1001,
			}).Run(t, &s)
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
