// SPDX-License-Identifier: Apache-2.0

package pamcap

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/kit"
)

// creds are what a process has when it calls execve(2), of which the model knows
// what becomes of them.
type creds struct {
	uid, euid     int
	p, e, i, b, a set
	securebits    int
	noNewPrivs    bool
}

// image is the program it calls.
type image struct {
	name   string
	mode   os.FileMode
	owner  int
	caps   fileCaps
	hasCap bool // has the attribute security.capability, empty or not
	nosuid bool // its mount's option
}

// outcome is what a new program finds, or execve's error.
type outcome struct {
	err           unix.Errno
	uid, euid     int
	p, e, i, b, a set
	securebits    int
	secure        bool // AT_SECURE
	signal        int  // the parent-death signal
	dumpable      int
}

const deathSignal = 10 // that capexec asks for

// execve predicts an execve(2), as capabilities(7) has it ("Transformation of
// capabilities during execve()", "Capabilities and execution of programs by root",
// "Set-user-ID-root programs that have file capabilities"), execve(2), prctl(2) for
// the parent-death signal and PR_SET_DUMPABLE, and getauxval(3) for AT_SECURE.
func (c creds) execve(f image) outcome {
	o := outcome{uid: c.uid, euid: c.euid, i: c.i, b: c.b, a: c.a, securebits: c.securebits &^ secbitKeepCaps}
	// execve(2): no set-user-ID on a nosuid mount or with no_new_privs; file
	// capabilities are ignored on the former only.
	if f.mode&os.ModeSetuid != 0 && !f.nosuid && !c.noNewPrivs {
		o.euid = f.owner
	}
	fileCaps := f.hasCap && !f.nosuid
	effective := false
	if fileCaps {
		o.p = c.b&f.caps.P | c.i&f.caps.I
		effective = f.caps.Effective
		if effective && f.caps.P&^o.p != 0 {
			return outcome{err: unix.EPERM} // "Safety checking for capability-dumb binaries"
		}
	}
	// Root's programs, unless SECBIT_NOROOT says otherwise; not those that are
	// set-user-ID root with file capabilities, run by another.
	suidRootWithCaps := fileCaps && o.euid == 0 && o.uid != 0
	if c.securebits&secbitNoRoot == 0 && !suidRootWithCaps {
		if o.euid == 0 || o.uid == 0 {
			o.p = c.b | c.i
		}
		if o.euid == 0 {
			effective = true
		}
	}
	changed := o.euid != c.uid // set-user-ID, or effective IDs that were another's
	gained := o.p&^c.p != 0
	if c.noNewPrivs && (changed || gained) {
		o.euid = o.uid
		o.p &= c.p
	}
	if fileCaps || changed {
		o.a = 0
	}
	o.p |= o.a
	o.e = o.a
	if effective {
		o.e = o.p
	}
	o.secure = changed || o.uid != 0 && (effective || o.p&^o.a != 0)
	// It is not to be traced or killed by who could not do as much.
	more := o.euid != c.euid || o.p&^c.p != 0
	if !o.secure && !more {
		o.signal = deathSignal
	}
	if c.euid == c.uid && !more {
		o.dumpable = 1
	}
	return o
}

// images puts the programs of the model into dir, a file system with extended
// attributes.
func images(t testing.TB, dir string, nosuid bool) []image {
	a, ab := caps(capA), caps(capA, capB)
	suid := 0o755 | os.ModeSetuid
	all := []image{
		{name: "plain", mode: 0o755},
		{name: "fP", mode: 0o755, caps: fileCaps{P: a}, hasCap: true},
		{name: "fP+e", mode: 0o755, caps: fileCaps{P: a, Effective: true}, hasCap: true},
		{name: "fI", mode: 0o755, caps: fileCaps{I: a}, hasCap: true},
		{name: "fI+e", mode: 0o755, caps: fileCaps{I: a, Effective: true}, hasCap: true},
		{name: "fPI+e", mode: 0o755, caps: fileCaps{P: ab, I: a, Effective: true}, hasCap: true},
		{name: "empty+e", mode: 0o755, caps: fileCaps{Effective: true}, hasCap: true},
		{name: "suid-root", mode: suid},
		{name: "suid-user", mode: suid, owner: uid2},
		{name: "suid-root-fP+e", mode: suid, caps: fileCaps{P: a, Effective: true}, hasCap: true},
		{name: "suid-root-fI", mode: suid, caps: fileCaps{I: a}, hasCap: true},
		{name: "suid-user-fP", mode: suid, owner: uid2, caps: fileCaps{P: ab}, hasCap: true},
	}
	for i := range all {
		f := &all[i]
		f.nosuid = nosuid
		path := filepath.Join(dir, f.name)
		assert.NilError(t, copyFile(path, capexecPath))
		assert.NilError(t, os.Chown(path, f.owner, 0))
		assert.NilError(t, os.Chmod(path, f.mode))
		if f.hasCap {
			f.caps.set(t, path)
		}
	}
	if nosuid {
		assert.NilError(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_NOSUID, ""))
	}
	return all
}

// allCreds are the combinations of sets of one capability, over user IDs. The sets'
// other capabilities are those of the bounding set.
func allCreds(full set, securebits int, noNewPrivs bool) []creds {
	var out []creds
	a := caps(capA)
	for n := range 32 {
		var c creds
		for k, s := range []*set{&c.p, &c.e, &c.i, &c.a, &c.b} {
			if n>>k&1 != 0 {
				*s = a
			}
		}
		if c.e&^c.p != 0 || c.a&^(c.p&c.i) != 0 {
			continue // not to be had (capset(2), prctl(2))
		}
		c.b |= full &^ a
		c.securebits, c.noNewPrivs = securebits, noNewPrivs
		for _, ids := range [][2]int{{0, 0}, {uid, uid}, {uid, 0}, {0, uid}, {uid, uid2}} {
			c.uid, c.euid = ids[0], ids[1]
			out = append(out, c)
		}
	}
	return out
}

// TestExecModel: execve(2) does with every combination of a capability's sets, user
// IDs, securebits, no_new_privs, file capabilities and set-user-ID bits what the model
// predicts; see creds.execve for the sources. By default each pair of credentials and
// program has one of the five modes, and each mode occurs with all credentials and with
// all programs; -iterations 5 is everything.
func TestExecModel(t *testing.T) {
	bound := full(t)
	// What effective IDs other than the real ones mean to execve is another thing
	// since Linux 6.16 ("exec: Correct the permission check for unsafe exec").
	mixed := suites.CompareRelease(kit.Release(), "6.16") < 0
	if !mixed {
		t.Log("Linux 6.16 or newer: processes whose real and effective user IDs differ are left out")
	}
	modes := []struct {
		name       string
		securebits int
		noNewPrivs bool
		nosuid     bool
	}{
		{name: "plain"},
		{name: "noroot", securebits: secbitNoRoot},
		{name: "fixup and keepcaps", securebits: secbitNoSetuidFixup | secbitKeepCaps},
		{name: "no_new_privs", noNewPrivs: true},
		{name: "nosuid", nosuid: true},
	}
	for number, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			dir := t.TempDir()
			assert.NilError(t, os.Chmod(filepath.Dir(dir), 0o755))
			assert.NilError(t, unix.Mount("kvmrun-model", dir, "tmpfs", 0, "mode=0755"))
			t.Cleanup(func() { assert.NilError(t, unix.Unmount(dir, 0)) })
			files := images(t, dir, m.nosuid)
			var in strings.Builder
			var did []string
			var wants []outcome
			for ci, c := range allCreds(bound, m.securebits, m.noNewPrivs) {
				if c.uid != c.euid && !mixed {
					continue
				}
				for fi, f := range files {
					// Sets and user IDs turn at different speeds, so that both meet all.
					if (ci+ci/len(modes)+fi+number)%len(modes) >= *iterations {
						continue
					}
					nnp := 0
					if c.noNewPrivs {
						nnp = 1
					}
					fmt.Fprintf(&in, "%d %d %x %x %x %x %x %x %d %s\n", c.uid, c.euid, uint64(c.p), uint64(c.e), uint64(c.i), uint64(c.b), uint64(c.a), c.securebits, nnp, filepath.Join(dir, f.name))
					did = append(did, fmt.Sprintf("execve of %s by UID %d, EUID %d with P %v, E %v, I %v, A %v, X without %v, securebits %#x, no_new_privs %v, nosuid %v",
						f.name, c.uid, c.euid, c.p, c.e, c.i, c.a, bound&^c.b, c.securebits, c.noNewPrivs, f.nosuid))
					wants = append(wants, c.execve(f))
				}
			}
			cmd := exec.Command(capexecPath)
			cmd.Stdin = strings.NewReader(in.String())
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			assert.NilError(t, err, "%s", stderr.String())
			lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
			assert.Equal(t, len(lines), len(wants))
			wrong := 0
			for n, l := range lines {
				got := parseOutcome(t, l)
				if got != wants[n] {
					if wrong++; wrong <= 10 {
						t.Errorf("%s\n got %v\nwant %v", did[n], got, wants[n])
					}
				}
			}
			if wrong > 10 {
				t.Errorf("%d more of %d", wrong-10, len(wants))
			}
			t.Logf("%d calls of execve", len(wants))
		})
	}
}

func (o outcome) String() string {
	if o.err != 0 {
		return kit.ErrnoName(o.err)
	}
	return fmt.Sprintf("UID %d, EUID %d, P %v, E %v, I %v, X %v, A %v, securebits %#x, AT_SECURE %v, parent-death signal %d, dumpable %d",
		o.uid, o.euid, o.p, o.e, o.i, o.b, o.a, o.securebits, o.secure, o.signal, o.dumpable)
}

func parseOutcome(t testing.TB, line string) (o outcome) {
	t.Helper()
	var err, secure int
	if strings.HasPrefix(line, "0 ") {
		var p, e, i, b, a uint64
		n, scan := fmt.Sscanf(line, "%d %d %d %x %x %x %x %x %x %d %d %d", &err, &o.uid, &o.euid, &p, &e, &i, &b, &a, &o.securebits, &secure, &o.signal, &o.dumpable)
		assert.NilError(t, scan, "line %q after %d fields", line, n)
		o.p, o.e, o.i, o.b, o.a, o.secure = set(p), set(e), set(i), set(b), set(a), secure != 0
		return o
	}
	_, scan := fmt.Sscanf(line, "%d", &err)
	assert.NilError(t, scan, "line %q", line)
	o.err = unix.Errno(err)
	return o
}
