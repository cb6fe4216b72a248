// SPDX-License-Identifier: Apache-2.0

package capbound

import (
	"bytes"
	_ "embed" // hostshim.c
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
)

//go:embed src/hostshim.c
var shim string

// wrapped are the module's own calls that a test makes fail.
var wrapped = []string{
	"malloc", "realloc", "asprintf", "getline", "fdopen", "fstat", "cap_get_proc", "cap_dup", "cap_set_proc", "cap_get_flag", "cap_clear_flag", "cap_set_flag",
	"cap_drop_bound", "pam_set_data", "getpwnam_r", "getgrnam_r",
}

var sanitize = []string{"-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"}

// built is a directory with module.so and pamdrive.
type built struct{ dir string }

func (b built) module() string { return filepath.Join(b.dir, "module.so") }

// build compiles the module, whose source may be another, and pamdrive with the
// shim, for the host.
func build(t testing.TB, module string, flags ...string) built {
	t.Helper()
	b := built{t.TempDir()}
	for name, text := range map[string]string{"module.c": module, "pamdrive.c": Drive, "shim.c": shim} {
		assert.NilError(t, os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600))
	}
	b.cc(t, append([]string{"-shared", "-fPIC", "-o", "module.so", "module.c", "-lpam", "-lcap"}, flags...)...)
	b.cc(t, append([]string{"-rdynamic", "-o", "pamdrive", "pamdrive.c", "shim.c", "-lpam", "-lcap"}, flags...)...)
	return b
}

// with is another module for the same pamdrive.
func (b built) with(t testing.TB, module string, flags ...string) built {
	t.Helper()
	other := built{t.TempDir()}
	for _, name := range []string{"pamdrive", "shim.c"} {
		assert.NilError(t, os.Link(filepath.Join(b.dir, name), filepath.Join(other.dir, name)))
	}
	assert.NilError(t, os.WriteFile(filepath.Join(other.dir, "module.c"), []byte(module), 0o600))
	other.cc(t, append([]string{"-shared", "-fPIC", "-o", "module.so", "module.c", "-lpam", "-lcap"}, flags...)...)
	return other
}

func (b built) cc(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.Command("cc", append(append([]string{}, Flags...), args...)...)
	cmd.Dir = b.dir
	out, err := cmd.CombinedOutput()
	assert.NilError(t, err, "%s: install gcc, libpam0g-dev and libcap-dev (make setup-test)\n%s", cmd, out)
}

// run is one run of pamdrive.
type run struct {
	config, user string
	control      string // of pam.conf(5); "" gives what the module returns
	module       string // "session" rather than "auth"
	args         []string
	group        string // group(5), "" is Group
	steps        []string
	env          []string
}

// result is what came of it.
type result struct {
	start Step // the state before
	steps []Step
	log   string // the module's lines, each with its priority
	err   error  // of the process
}

// run runs the program as root of its own user namespace, where the test is not
// root.
func (b built) run(t testing.TB, r run) result {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"conf": r.config, "passwd": Passwd, "group": r.group, "other": "auth required pam_deny.so\n"} {
		if name == "group" && text == "" {
			text = Group
		}
		assert.NilError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	kind, control := r.module, r.control
	if kind == "" {
		kind = "auth"
	}
	if control == "" {
		control = "[default=done]"
	}
	args := strings.ReplaceAll(strings.Join(append([]string{"config=$DIR/conf"}, r.args...), " "), "$DIR", dir)
	last := map[string]string{"auth": "auth required pam_debug.so cred=maxtries", "session": "session required pam_debug.so"}[kind]
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "service"), []byte(fmt.Sprintf("%s %s %s %s\n%s\n", kind, control, b.module(), args, last)), 0o600))
	argv := []string{"service", r.user, dir, "ineffective=0"}
	for _, s := range r.steps {
		argv = append(argv, strings.ReplaceAll(s, "$DIR", dir))
	}
	cmd := exec.Command(filepath.Join(b.dir, "pamdrive"), argv...)
	cmd.Env = append([]string{"CAPBOUND_PASSWD=" + dir + "/passwd", "CAPBOUND_GROUP=" + dir + "/group", "MALLOC_PERTURB_=85"}, r.env...)
	if uid := os.Geteuid(); uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: uid, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
		}
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	res := result{err: cmd.Run(), log: strings.ReplaceAll(stderr.String(), dir, "$DIR")}
	sessions, err := Parse(stdout.String())
	assert.NilError(t, err)
	if res.err == nil {
		res.start, res.steps = sessions[0][0], sessions[0][1:]
		assert.Equal(t, len(res.steps), len(r.steps))
		for i := range res.steps {
			if res.steps[i].RC == 11 { // PAM_MAXTRIES, pam_debug's: libpam took no notice of the module
				res.steps[i].RC = pamIgnore
			}
		}
	}
	return res
}

// moduleCase is what the module does beside its rules. Those with an id pin that a
// fault of the module's first version (2007) is not there.
type moduleCase struct {
	name string
	run
	start   uint64 // inheritable before
	codes   []int  // of the steps
	i, drop uint64 // at the end
	log     string // a regular expression for all of the log; "" wants none
}

const (
	logErr    = 3
	logNotice = 5
	logDebug  = 7
)

// logged is the regular expression for lines of the log.
func logged(priority int, lines ...string) string {
	var out string
	for _, l := range lines {
		out += fmt.Sprintf(`log %d: [^ ]+\([a-z:]+\): %s\n`, priority, l)
	}
	return out
}

var (
	login   = []string{"authenticate=0", "setcred=2"}
	session = []string{"open_session=0"}
)

const (
	pamPermDenied = 6
	pamSessionErr = 14
	pamCredErr    = 17
)

func moduleCases() []moduleCase {
	// Whose root the test is not, has no file of root's: that is another owner too.
	owner := moduleCase{name: "Q13 another owner", run: run{user: "tak", args: []string{"config=/etc/passwd"}, steps: login[:1]}, codes: []int{pamAuthErr},
		log: logged(logErr, "/etc/passwd is not used: its owner is not root")}
	if os.Geteuid() == 0 {
		owner.run = run{config: "cap_kill tak\n", user: "tak", steps: append([]string{"chown=1:$DIR/conf"}, login[:1]...)}
		owner.codes, owner.log = []int{0, pamAuthErr}, logged(logErr, `\$DIR/conf is not used: its owner is not root`)
	}
	long := strings.Repeat("x", 4095-len("cap_kill "))
	return []moduleCase{
		owner,
		{name: "Q1 an empty path", run: run{user: "tak", args: []string{"config="}, steps: login}, codes: []int{pamAuthErr, pamNoModuleData},
			log: logged(logErr, "config=: want an absolute path", "no rules: .*")},
		{name: "a relative path", run: run{user: "tak", args: []string{"config=etc/x"}, steps: login}, codes: []int{pamAuthErr, pamNoModuleData},
			log: logged(logErr, "config=etc/x: want an absolute path", "no rules: .*")},
		{name: "no configuration", run: run{user: "tak", args: []string{"config=$DIR/nosuch"}, steps: login}, codes: []int{pamIgnore, pamIgnore},
			log: logged(logNotice, "open \\$DIR/nosuch: No such file or directory")},
		{name: "no configuration, session", run: run{user: "tak", module: "session", control: "required", args: []string{"config=$DIR/nosuch"}, steps: session}, codes: []int{0},
			log: logged(logNotice, "open \\$DIR/nosuch: No such file or directory")},
		{name: "Q2 a session applies once", run: run{config: "cap_kill tak\nb:cap_chown tak\n", user: "tak", module: "session", steps: append(session, "close_session=0", "end=0")},
			codes: []int{0, 0, 0}, i: capKill, drop: capChown},
		{name: "a session closed and opened again", run: run{config: "cap_kill tak\n", user: "tak", module: "session", steps: []string{"open_session=0", "close_session=0", "inheritable=1", "open_session=0"}},
			codes: []int{0, 0, 0, 0}, i: capKill},
		{name: "a session's unreadable rule", run: run{config: "cap_nosuch tak\n", user: "tak", module: "session", steps: session}, codes: []int{pamSessionErr},
			log: logged(logErr, `\$DIR/conf:1: "cap_nosuch" is no capability of this kernel`)},
		{name: "Q3 setcred twice", run: run{config: "cap_kill tak\nb:cap_chown tak\n", user: "tak", steps: []string{"authenticate=0", "setcred=2", "setcred=2", "setcred=8", "end=0"}},
			codes: []int{0, 0, 0, 0, 0}, i: capKill, drop: capChown},
		{name: "authenticate twice", run: run{config: "cap_kill tak\n", user: "tak", steps: []string{"authenticate=0", "authenticate=0", "setcred=2", "end=0"}}, codes: []int{0, 0, 0, 0}, i: capKill},
		{name: "Q4 a group's match logs nothing", run: run{config: "cap_kill @webadm @users @nosuch\n", user: "tak", steps: login}, codes: []int{0, 0}, i: capKill},
		{name: "Q4 no member logs nothing", run: run{config: "cap_kill @webadm @nosuch\n", user: "kaigai", steps: login}, codes: []int{pamIgnore, pamIgnore}},
		{name: "Q6 no rule, debug", run: run{config: "cap_kill ymj\n", user: "tak", args: []string{"debug"}, steps: append([]string{"inheritable=1"}, login...)},
			codes: []int{0, pamIgnore, pamIgnore}, i: 1, log: logged(logDebug, `user "tak": no rule matches`)},
		{name: "Q6 no rule, session", run: run{config: "cap_kill ymj\n", user: "tak", module: "session", steps: session}, codes: []int{pamIgnore}},
		{name: "debug", run: run{config: "# comment\ni:cap_kill,cap_chown tak\nb:cap_kill @webadm\n", user: "tak", args: []string{"debug"}, steps: login}, codes: []int{0, 0}, i: capChown, drop: capKill,
			log: logged(logDebug, `\$DIR/conf:2 matches user "tak": inherit cap_kill,cap_chown`, `\$DIR/conf:3 matches user "tak": drop cap_kill`, `user "tak": inheritable 0x1`, `user "tak": dropped 0x20`)},
		{name: "debug, unknown group", run: run{config: "cap_kill @nosuch\n", user: "tak", args: []string{"debug"}, steps: login[:1]}, codes: []int{pamIgnore},
			log: logged(logDebug, `group "nosuch" is not known`, `user "tak": no rule matches`)},
		{name: "Q7 an unknown option", run: run{config: "cap_kill tak\n", user: "tak", args: []string{"debugger", "configs=/x"}, steps: login}, codes: []int{0, 0}, i: capKill,
			log: strings.Repeat(logged(logErr, `option "debugger" is not known, and is not used`, `option "configs=/x" is not known, and is not used`), 2)},
		{name: "Q7 reinitialize", run: run{config: "cap_kill tak\n", user: "tak", steps: []string{"authenticate=0", "setcred=8"}}, codes: []int{0, 0}, i: capKill},
		{name: "delete", run: run{config: "cap_kill tak\nb:cap_chown tak\n", user: "tak", steps: []string{"authenticate=0", "setcred=4"}}, codes: []int{0, pamIgnore}, log: logged(logErr, "conversation failed")}, // pam_debug's
		{name: "refresh", run: run{config: "cap_kill tak\n", user: "tak", steps: []string{"authenticate=0", "setcred=16"}}, codes: []int{0, pamIgnore}, log: logged(logErr, "conversation failed")},
		{name: "silent", run: run{config: "cap_kill tak\n", user: "tak", steps: []string{"authenticate=0x8000", "setcred=0x8002"}}, codes: []int{0, 0}, i: capKill},
		{name: "setcred alone", run: run{config: "cap_kill tak\n", user: "tak", steps: []string{"setcred=2"}}, codes: []int{pamNoModuleData},
			log: logged(logErr, "no rules: pam_authenticate was not called before pam_setcred, or failed")},
		{name: "Q8 without CAP_SETPCAP", run: run{config: "cap_kill tak\nb:cap_chown tak\n", user: "tak", steps: append([]string{"inheritable=2", "unpermitted=0x100"}, login...)}, codes: []int{0, 0, 0, pamPermDenied}, i: 2,
			log: logged(logErr, "drop from the bounding set without CAP_SETPCAP: Operation not permitted")},
		{name: "without CAP_SETPCAP, nothing to drop", run: run{config: "cap_kill tak\n", user: "tak", steps: append([]string{"unpermitted=0x100"}, login...)}, codes: []int{0, 0, 0}, i: capKill},
		{name: "without CAP_SETPCAP, nor the capability", run: run{config: "cap_kill tak\n", user: "tak", steps: append([]string{"inheritable=2", "unpermitted=0x120"}, login...)}, codes: []int{0, 0, 0, pamPermDenied}, i: 2,
			log: logged(logErr, "set the inheritable capabilities: Operation not permitted")},
		{name: "CAP_SETPCAP permitted, not effective", run: run{config: "cap_kill tak\nb:cap_chown tak\n", user: "tak", steps: append([]string{"ineffective=0x100"}, login...)}, codes: []int{0, 0, 0}, i: capKill, drop: capChown},
		{name: "CAP_SETPCAP for what is not permitted", run: run{config: "cap_kill tak\n", user: "tak", steps: append([]string{"unpermitted=0x20", "ineffective=0x100"}, login...)}, codes: []int{0, 0, 0, 0}, i: capKill},
		{name: "dropped already, without CAP_SETPCAP", run: run{config: "b:cap_chown tak\n", user: "tak", steps: append(login, "unpermitted=0x100", "setcred=8")}, codes: []int{0, 0, 0, 0}, drop: capChown},
		{name: "Q11 a long line", run: run{config: "cap_kill " + long + "yz tak\ncap_chown tak\n", user: "tak", steps: append([]string{"inheritable=2"}, login...)}, codes: []int{0, pamAuthErr, pamNoModuleData}, i: 2,
			log: logged(logErr, `\$DIR/conf:1 is not used, nor is the rest: longer than 4095 bytes`, "no rules: .*")},
		{name: "Q11 a long line behind a rule", run: run{config: "cap_chown tak\ncap_kill " + long + "y\n", user: "tak", steps: login}, codes: []int{pamAuthErr, pamNoModuleData},
			log: logged(logErr, `\$DIR/conf:2 is not used, .*`, "no rules: .*")},
		{name: "the longest line", run: run{config: "cap_kill " + long[:len(long)-4] + " tak\n", user: "tak", steps: login}, codes: []int{0, 0}, i: capKill},
		{name: "a NUL byte", run: run{config: "cap_kill tak\x00 ymj\n", user: "tak", steps: login}, codes: []int{pamAuthErr, pamNoModuleData},
			log: logged(logErr, `\$DIR/conf:1 is not used, nor is the rest: it has a NUL byte`, "no rules: .*")},
		{name: "no newline at the end", run: run{config: "cap_kill tak", user: "tak", steps: login}, codes: []int{0, 0}, i: capKill},
		{name: "lines of DOS", run: run{config: "cap_kill tak\r\n", user: "tak", steps: login}, codes: []int{0, 0}, i: capKill},
		{name: "a number", run: run{config: "5 tak\n", user: "tak", steps: login[:1]}, codes: []int{pamAuthErr}, log: logged(logErr, `\$DIR/conf:1: "5" is no capability of this kernel`)},
		{name: "all in a list", run: run{config: "cap_kill,all tak\n", user: "tak", steps: login[:1]}, codes: []int{pamAuthErr}, log: logged(logErr, `\$DIR/conf:1: "all" is no .*`)},
		{name: "a text of libcap's", run: run{config: "cap_kill=p tak\n", user: "tak", steps: login[:1]}, codes: []int{pamAuthErr}, log: logged(logErr, `\$DIR/conf:1: "cap_kill=p" is no .*`)},
		{name: "Q12 drop all", run: run{config: "b:all tak\n", user: "tak", steps: login}, codes: []int{0, 0}, drop: AllCaps},
		{name: "Q13 others may write", run: run{config: "cap_kill tak\n", user: "tak", args: []string{"config=$DIR/moved"}, steps: append([]string{"chmod=0646:$DIR/conf", "rename=$DIR/conf:$DIR/moved"}, login...)}, codes: []int{0, 0, pamAuthErr, pamNoModuleData},
			log: logged(logErr, `\$DIR/moved is not used: others than its owner may write it`, "no rules: .*")},
		{name: "Q13 the group may write", run: run{config: "cap_kill tak\n", user: "tak", steps: append([]string{"chmod=0664:$DIR/conf"}, login[:1]...)}, codes: []int{0, pamAuthErr},
			log: logged(logErr, `\$DIR/conf is not used: others than its owner may write it`)},
		{name: "Q13 a symbolic link", run: run{config: "cap_kill tak\n", user: "tak", args: []string{"config=$DIR/link"}, steps: append([]string{"symlink=$DIR/conf:$DIR/link"}, login[:1]...)}, codes: []int{0, pamAuthErr},
			log: logged(logErr, `open \$DIR/link: Too many levels of symbolic links; a symbolic link is not followed`)},
		{name: "Q13 a directory", run: run{user: "tak", args: []string{"config=$DIR"}, steps: login[:1]}, codes: []int{pamAuthErr}, log: logged(logErr, `\$DIR is not used: not a regular file`)},
		{name: "Q13 a FIFO", run: run{user: "tak", args: []string{"config=$DIR/fifo"}, steps: append([]string{"mkfifo=0600:$DIR/fifo"}, login[:1]...)}, codes: []int{0, pamAuthErr}, log: logged(logErr, `\$DIR/fifo is not used: not a regular file`)},
		{name: "a name that begins otherwise", run: run{config: "cap_kill +webadm xwebadm @@webadm @ webadm@\n", user: "tak", steps: login}, codes: []int{pamIgnore, pamIgnore}},
		{name: "primary group with other members", run: run{config: "cap_kill @users\n", user: "tak", group: "users:x:1001:ymj\n", steps: login}, codes: []int{0, 0}, i: capKill},
		{name: "first of several members", run: run{config: "cap_kill @some\n", user: "tak", group: "some:x:7:tak,ymj\n", steps: login}, codes: []int{0, 0}, i: capKill},
		{name: "a huge file", run: run{config: strings.Repeat("# 8 byte\n", 1<<17) + "cap_kill tak\n", user: "tak", steps: login[:1]}, codes: []int{pamAuthErr}, log: logged(logErr, `\$DIR/conf is not used: larger than 1 MiB`)},
		{name: "changed before setcred", run: run{config: "cap_kill tak\n", user: "tak", steps: []string{"authenticate=0", "symlink=/dev/null:$DIR/null", "rename=$DIR/null:$DIR/conf", "setcred=2"}}, codes: []int{0, 0, 0, 0}, i: capKill},
		{name: "made before setcred", run: run{config: "cap_kill tak\n", user: "tak", args: []string{"config=$DIR/late"}, steps: []string{"authenticate=0", "rename=$DIR/conf:$DIR/late", "setcred=2"}}, codes: []int{pamIgnore, 0, pamIgnore},
			log: logged(logNotice, "open .*")},
		{name: "another user before setcred", run: run{config: "cap_kill tak\n", user: "tak", steps: []string{"authenticate=0", "user=ymj", "setcred=2"}}, codes: []int{0, 0, pamCredErr},
			log: logged(logErr, `the user is no longer "tak", whose rules these are`)},
		{name: "a failure forgets the rules", run: run{config: "cap_kill tak\n", user: "tak", steps: []string{"authenticate=0", "chmod=0666:$DIR/conf", "authenticate=0", "setcred=2"}}, codes: []int{0, 0, pamAuthErr, pamNoModuleData},
			log: logged(logErr, `\$DIR/conf is not used: .*`, "no rules: .*")},
		{name: "unknown user", run: run{config: "cap_kill *\n", user: "nobody-here", steps: login}, codes: []int{pamAuthErr, pamNoModuleData},
			log: logged(logErr, `user "nobody-here": not known`, "no rules: .*")},
		{name: "unknown user, session", run: run{config: "cap_kill *\n", user: "nobody-here", module: "session", steps: session}, codes: []int{pamSessionErr}, log: logged(logErr, `user "nobody-here": not known`)},
		{name: "a large group", run: run{config: "cap_kill @large\n", user: "tak", group: "large:x:7000:" + strings.Repeat("someone,", 2000) + "tak\n", steps: login}, codes: []int{0, 0}, i: capKill},
		{name: "no group file", run: run{config: "cap_kill @webadm\nb:cap_chown tak\n", user: "tak", steps: append([]string{"rename=$DIR/group:$DIR/gone"}, login...)}, codes: []int{0, 0, 0}, drop: capChown},
	}
}

// fails says what is wrong with the module in a case, "" for nothing.
func (c moduleCase) fails(t testing.TB, b built) string {
	t.Helper()
	r := b.run(t, c.run)
	if r.err != nil {
		return fmt.Sprintf("pamdrive: %v\n%s", r.err, r.log)
	}
	var wrong []string
	for i, s := range r.steps {
		if s.RC != c.codes[i] {
			wrong = append(wrong, fmt.Sprintf("%s returned %d, want %d", c.steps[i], s.RC, c.codes[i]))
		}
	}
	all, last := r.start.B, r.steps[len(r.steps)-1]
	if last.I != c.i || all&^last.B != c.drop&all {
		wrong = append(wrong, fmt.Sprintf("CapInh %#x, want %#x; missing from CapBnd %#x, want %#x", last.I, c.i, all&^last.B, c.drop&all))
	}
	p, e := r.start.P, r.start.E
	for _, s := range r.steps { // what the case itself takes away
		if s.Name == "unpermitted" || s.Name == "ineffective" {
			p, e = s.P, s.E
		}
	}
	if last.P != p || last.E != e {
		wrong = append(wrong, fmt.Sprintf("CapPrm %#x, CapEff %#x, want %#x, %#x", last.P, last.E, p, e))
	}
	if !regexp.MustCompile(`\A` + c.log + `\z`).MatchString(r.log) {
		wrong = append(wrong, fmt.Sprintf("the log is\n%swant\n%s", r.log, c.log))
	}
	return strings.Join(wrong, "\n")
}

// allCases are the module's own and those of the rules in its dialect.
func allCases() []moduleCase {
	cases := moduleCases()
	for _, c := range Rules {
		e, said := c.Want(Bound)
		if !said {
			continue
		}
		m := moduleCase{name: "rule " + c.Name, start: c.Start, codes: []int{0, e.Auth, e.Cred}, i: e.I, drop: e.Dropped, log: "(?s).*"}
		m.run = run{config: c.Config(Bound), user: c.User, steps: append([]string{fmt.Sprintf("inheritable=%#x", c.Start)}, login...)}
		cases = append(cases, m)
	}
	return cases
}

// on is the case where the bounding set is this. A container's may lack a capability:
// then nobody can have all, and the rule is refused as a whole.
func (c moduleCase) on(bound uint64) moduleCase {
	if lacks := (bound+1)&bound != 0; lacks && c.i == AllCaps {
		c.codes, c.i = append([]int{}, c.codes...), c.start
		c.codes[len(c.codes)-1] = pamPermDenied
	}
	c.i &= bound
	return c
}

func kernelCaps(t testing.TB, b built) uint64 {
	t.Helper()
	r := b.run(t, run{user: "tak", steps: []string{"ineffective=0"}})
	assert.NilError(t, r.err, "%s", r.log)
	if r.start.P != r.start.B || r.start.P&(1<<unix.CAP_SETPCAP) == 0 {
		t.Skipf("root has no capabilities here: permitted %#x, bounding set %#x", r.start.P, r.start.B)
	}
	return r.start.B
}

// TestModule: the module under ASan and UBSan, in the host's libpam.
func TestModule(t *testing.T) {
	b := build(t, Module, sanitize...)
	all := kernelCaps(t, b)
	for _, c := range allCases() {
		t.Run(c.name, func(t *testing.T) {
			if wrong := c.on(all).fails(t, b); wrong != "" {
				t.Error(wrong)
			}
		})
	}
}

// faulty is a login in which everything has to be done.
var faulty = run{
	config: "# comment\ncap_kill,cap_setuid tak\ncap_chown @nosuch\nb:cap_net_raw,cap_sys_chroot @webadm\n", user: "tak", args: []string{"debug"},
	steps: []string{"inheritable=2", "authenticate=0", "setcred=2", "end=0"},
}

// swept is what a sweep found: how many calls there are, and what the first wrong
// one led to.
type swept struct {
	calls int
	wrong string
}

// sweep makes each call fail, one at a time, until none is left or something is
// wrong. Whatever fails, the rules are applied as a whole, or a code says so and
// nothing is; PAM_IGNORE would leave a limit out in silence. libpam itself may fail
// when the module is done: with outside, both are right.
func sweep(t testing.TB, b built, r run, errno unix.Errno, outside bool) (s swept) {
	t.Helper()
	before := r.env
	for n := 1; ; n++ {
		r.env = append(append([]string{}, before...), fmt.Sprintf("CAPBOUND_FAULT=%d", n), fmt.Sprintf("CAPBOUND_ERRNO=%d", int(errno)))
		res := b.run(t, r)
		what, hit := "", false
		for l := range strings.Lines(res.log) {
			if w, ok := strings.CutPrefix(l, "fault: "); ok {
				what, hit = strings.TrimSpace(w), true
			}
		}
		if wrong := res.afterFault(r, what, outside); wrong != "" {
			s.wrong = fmt.Sprintf("call %d, %s, fails with %v: %s\n%s", n, what, errno, wrong, res.log)
			return s
		}
		if !hit {
			s.calls = n - 1
			return s
		}
	}
}

// afterFault says what is wrong after a call that failed, "" for nothing; call ""
// has not.
func (res result) afterFault(r run, call string, outside bool) string {
	if res.err != nil {
		return res.err.Error()
	}
	last := res.steps[len(res.steps)-1]
	dropped := res.start.B &^ last.B
	whole := last.I == capKill|capSetuid && dropped == capNetRaw|capSysChroot
	// The kernel, asked beforehand, refuses a drop after another, or to lower the
	// effective set: there is no way back then.
	nothing := last.I == 2 && (dropped == 0 || call == "cap_drop_bound" || call == "cap_set_proc")
	ok := true
	for i, s := range res.steps {
		ok = ok && s.RC == 0
		if s.RC == pamIgnore {
			return r.steps[i] + " is ignored"
		}
	}
	switch {
	case call == "" && !ok:
		return "failure although nothing failed"
	case ok && !whole:
		return fmt.Sprintf("success with CapInh %#x and %#x dropped", last.I, dropped)
	case !ok && !nothing && (!outside || !whole):
		return fmt.Sprintf("failure with CapInh %#x and %#x dropped", last.I, dropped)
	case !ok && !strings.Contains(res.log, "log "):
		return "failure without a line in the log"
	case last.E != res.start.E || last.P != res.start.P:
		return fmt.Sprintf("CapEff %#x, CapPrm %#x, which were %#x, %#x", last.E, last.P, res.start.E, res.start.P)
	}
	return ""
}

// wrap compiles the module again so that its own calls can fail.
func (b built) wrap(t testing.TB, flags ...string) {
	t.Helper()
	args := append([]string{"-shared", "-fPIC", "-DWRAP", "-o", "module.so", "module.c", "shim.c", "-lpam", "-lcap"}, flags...)
	for _, w := range wrapped {
		args = append(args, "-Wl,--wrap="+w)
	}
	b.cc(t, args...)
}

// TestModuleCallsFail makes each of the module's own calls fail, under ASan, for want
// of memory and of permission.
func TestModuleCallsFail(t *testing.T) {
	b := build(t, Module, sanitize...)
	kernelCaps(t, b)
	b.wrap(t, sanitize...)
	inSession := faulty
	inSession.module, inSession.steps = "session", []string{"inheritable=2", "open_session=0", "end=0"}
	for _, c := range []struct {
		name  string
		run   run
		errno unix.Errno
	}{{"login", faulty, unix.ENOMEM}, {"login", faulty, unix.EPERM}, {"session", inSession, unix.ENOMEM}} {
		s := sweep(t, b, c.run, c.errno, false)
		assert.Check(t, cmp.Equal(s.wrong, ""), c.name)
		t.Logf("%s, %v: %d calls", c.name, c.errno, s.calls)
		assert.Check(t, s.calls > 50)
	}
}

// TestModuleOutOfMemory makes each allocation of the process fail, the libraries'
// included, while it is in libpam.
func TestModuleOutOfMemory(t *testing.T) {
	b := build(t, Module, "-O2", "-DMALLOC", "-fno-builtin", "-fsanitize=undefined", "-fno-sanitize-recover=all")
	kernelCaps(t, b)
	s := sweep(t, b, faulty, unix.ENOMEM, true)
	assert.Check(t, cmp.Equal(s.wrong, ""))
	t.Logf("%d allocations", s.calls)
	assert.Check(t, s.calls > 20)
}
