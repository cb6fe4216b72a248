// SPDX-License-Identifier: Apache-2.0

package pamcap

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/pamcap/capbound"
)

// Of <security/_pam_types.h>.
const (
	pamSuccess       = 0
	pamAuthErr       = 7
	pamNoModuleData  = 18
	pamMaxTries      = 11
	pamIgnore        = 25
	pamModuleUnknown = 28

	pamEstablish    = 0x2
	pamDelete       = 0x4
	pamReinitialize = 0x8
	pamRefresh      = 0x10
	pamDataSilent   = 0x40000000
)

// session is what pamdrive does.
type session struct {
	Service, User string
	I             set   // inheritable from the start
	DropEffective []int // capabilities that are not effective from the start
	Steps         []step
}

// step is one of pamdrive's steps.
type step struct {
	// Call is authenticate, setcred, open_session, close_session, end, or become,
	// which is setresuid(2) to Flags.
	Call  string
	Flags int
	// Arg is the value of a step that takes no number: user, rename, exec.
	Arg string
}

func (s step) String() string {
	if s.Arg != "" {
		return s.Call + "=" + s.Arg
	}
	return s.Call + "=" + strconv.Itoa(s.Flags)
}

// stepResult is what a step returned and the thread's state after it.
type stepResult struct {
	RC    int
	State state
}

type sessionResult struct {
	Steps []stepResult
}

// args are pamdrive's for a session; before is the number of steps that are not its
// own.
func (s session) args() (args []string, before int) {
	args = []string{s.Service, s.User, ""}
	if s.I != 0 {
		args = append(args, fmt.Sprintf("inheritable=%#x", uint64(s.I)))
	}
	if len(s.DropEffective) > 0 {
		args = append(args, fmt.Sprintf("ineffective=%#x", uint64(caps(s.DropEffective...))))
	}
	before = len(args) - 3
	for _, c := range s.Steps {
		args = append(args, c.String())
	}
	return args, before
}

// drive runs a session in a process of its own.
func drive(t testing.TB, s session) sessionResult {
	t.Helper()
	return driveAll(t, []session{s})[0]
}

// driveAll runs sessions, each in a process of its own, which are forked by one
// pamdrive: starting many is slow where the machine is emulated.
func driveAll(t testing.TB, all []session) []sessionResult {
	t.Helper()
	var args []string
	var before []int
	for i, s := range all {
		a, n := s.args()
		if i > 0 {
			args = append(args, "--")
		}
		args, before = append(args, a...), append(before, n)
	}
	cmd := exec.Command(capbound.DrivePath, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	assert.NilError(t, err, "%s\n%s%s", cmd, out, stderr.String())
	sessions, err := capbound.Parse(string(out))
	assert.NilError(t, err)
	assert.Equal(t, len(sessions), len(all), "%s\n%s", cmd, out)
	results := make([]sessionResult, len(all))
	for i, steps := range sessions {
		assert.Equal(t, len(steps), before[i]+len(all[i].Steps), "session %v\n%s", all[i], out)
		for n, c := range steps {
			if n < before[i] {
				assert.Equal(t, c.RC, 0, "session %v: errno of %s", all[i], c.Name)
				continue
			}
			results[i].Steps = append(results[i].Steps, stepResult{c.RC, state{
				I: set(c.I), P: set(c.P), E: set(c.E), B: set(c.B), A: set(c.A), Securebits: c.Securebits,
			}})
		}
	}
	return results
}

// driveExec runs a session that ends with user uid's execve of a program that is a
// copy of the test binary, and returns that program's state. All steps must succeed.
func driveExec(t testing.TB, s session, uid int, prog string) (state, error) {
	t.Helper()
	n := len(s.Steps)
	s.Steps = append(s.Steps, step{Call: "become", Flags: uid}, step{Call: "exec", Arg: prog})
	args, before := s.args()
	cmd := exec.Command(capbound.DrivePath, args...)
	r, w, err := os.Pipe()
	assert.NilError(t, err)
	defer r.Close()
	cmd.Env = []string{kit.HelperEnv + "=state"}
	cmd.Stdin = strings.NewReader("null")
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.ExtraFiles = []*os.File{w}
	err = cmd.Run()
	_ = w.Close()
	assert.NilError(t, err, "%s\n%s%s", cmd, stdout.String(), stderr.String())
	steps, err := capbound.Parse(stdout.String())
	assert.NilError(t, err)
	for i, c := range steps[0] {
		if i == before+n+1 {
			return state{}, fmt.Errorf("execve: %s", kit.ErrnoName(unix.Errno(c.RC)))
		}
		assert.Equal(t, c.RC, 0, "%s: step %s", cmd, c.Name)
	}
	var reply struct {
		Out state
		Err string
	}
	assert.NilError(t, json.NewDecoder(r).Decode(&reply), "decode the program's state")
	assert.Equal(t, reply.Err, "")
	return reply.Out, nil
}

// etc is what the tests put into the guest's /etc.
var etc = map[string]string{
	"/etc/passwd":        capbound.Passwd,
	"/etc/group":         capbound.Group,
	"/etc/nsswitch.conf": "passwd: files\ngroup: files\n",
	"/etc/pam.d/other":   "auth required pam_deny.so\naccount required pam_deny.so\nsession required pam_deny.so\n",
}

// installed counts who wants etc to be there.
var installed int

// writeEtc installs etc until the end of the last test that wants it.
func writeEtc(t testing.TB) {
	t.Helper()
	if installed++; installed == 1 {
		undo, err := replaceEtc()
		undoEtc = undo
		assert.NilError(t, err)
	}
	t.Cleanup(func() {
		if installed--; installed == 0 {
			assert.NilError(t, undoEtc())
		}
	})
}

var undoEtc func() error

func replaceEtc() (undo func() error, err error) {
	old := map[string][]byte{}
	for path := range etc {
		if b, err := os.ReadFile(path); err == nil {
			old[path] = b
		}
	}
	undo = func() error {
		for path := range etc {
			var err error
			if b, ok := old[path]; ok {
				err = os.WriteFile(path, b, 0o644)
			} else {
				err = os.Remove(path)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	for path, text := range etc {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return undo, err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return undo, err
		}
	}
	return undo, nil
}
