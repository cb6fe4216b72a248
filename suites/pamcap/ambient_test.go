// SPDX-License-Identifier: Apache-2.0

package pamcap

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/suites/kit"
)

// Of include/uapi/linux/securebits.h.
const (
	secbitNoRoot               = 1 << 0
	secbitNoRootLocked         = 1 << 1
	secbitNoSetuidFixup        = 1 << 2
	secbitNoSetuidFixupLocked  = 1 << 3
	secbitKeepCaps             = 1 << 4
	secbitKeepCapsLocked       = 1 << 5
	secbitNoAmbientRaise       = 1 << 6
	secbitNoAmbientRaiseLocked = 1 << 7
)

const (
	ambientIsSet = unix.PR_CAP_AMBIENT_IS_SET
	ambientRaise = unix.PR_CAP_AMBIENT_RAISE
	ambientLower = unix.PR_CAP_AMBIENT_LOWER
	ambientClear = unix.PR_CAP_AMBIENT_CLEAR_ALL
)

func isAmbient(t testing.TB, c int) int {
	t.Helper()
	v, err := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, ambientIsSet, uintptr(c), 0, 0)
	assert.NilError(t, err)
	return v
}

// TestAmbientRaise needs the capability in both P and I.
func TestAmbientRaise(t *testing.T) {
	kit.OnThread(t, func() {
		s := now(t)
		kit.WantErrno(t, "in P, not in I", ambient(ambientRaise, capA), unix.EPERM)
		assert.NilError(t, setInheritable(t, caps(capA, capB)))
		less := s.P &^ caps(capB)
		assert.NilError(t, capset(less, less, caps(capA, capB)))
		kit.WantErrno(t, "in I, not in P", ambient(ambientRaise, capB), unix.EPERM)
		kit.WantErrno(t, "in both", ambient(ambientRaise, capA), 0)
		want(t, "CapAmb", now(t).A, caps(capA))
		// No capability is needed for it.
		assert.NilError(t, capset(0, less, caps(capA, unix.CAP_KILL)))
		kit.WantErrno(t, "in both, empty E", ambient(ambientRaise, unix.CAP_KILL), 0)
	})
}

func TestAmbientLowerAndClear(t *testing.T) {
	kit.OnThread(t, func() {
		assert.NilError(t, setInheritable(t, caps(capA, capB)))
		for _, c := range []int{capA, capB} {
			assert.Check(t, cmp.Equal(isAmbient(t, c), 0))
			assert.NilError(t, ambient(ambientRaise, c))
			assert.Check(t, cmp.Equal(isAmbient(t, c), 1))
		}
		assert.NilError(t, ambient(ambientLower, capA))
		want(t, "CapAmb after lowering", now(t).A, caps(capB))
		kit.WantErrno(t, "lower again", ambient(ambientLower, capA), 0)
		assert.NilError(t, ambient(ambientRaise, capA))
		kit.WantErrno(t, "clear", ambient(ambientClear, 0), 0)
		want(t, "CapAmb after clearing", now(t).A, 0)
		want(t, "CapInh after clearing", now(t).I, caps(capA, capB))
	})
}

func TestAmbientInvalid(t *testing.T) {
	kit.OnThread(t, func() {
		for name, args := range map[string][]uintptr{
			"clear with an argument":        {ambientClear, 1},
			"clear with a fourth argument":  {ambientClear, 0, 1},
			"clear with a fifth argument":   {ambientClear, 0, 0, 1},
			"unknown operation":             {99, capA},
			"operation 0":                   {0, capA},
			"query of an invalid one":       {ambientIsSet, uintptr(lastCap(t)) + 1},
			"raise of an invalid one":       {ambientRaise, 63},
			"lower with a fourth argument":  {ambientLower, capA, 1},
			"query with a fifth argument":   {ambientIsSet, capA, 0, 1},
			"raise: argument before rights": {ambientRaise, capA, 1},
		} {
			kit.WantErrno(t, name, prctl(unix.PR_CAP_AMBIENT, args...), unix.EINVAL)
		}
	})
}

// TestAmbientFollows: A is never more than P and I.
func TestAmbientFollows(t *testing.T) {
	for _, lose := range []string{"P", "I"} {
		kit.OnThread(t, func() {
			both := caps(capA, capB)
			assert.NilError(t, setInheritable(t, both))
			assert.NilError(t, ambient(ambientRaise, capA))
			assert.NilError(t, ambient(ambientRaise, capB))
			s := now(t)
			p, i := s.P, both
			if lose == "P" {
				p &^= caps(capA)
			} else {
				i &^= caps(capA)
			}
			assert.NilError(t, capset(p, p, i))
			want(t, "CapAmb after losing one of "+lose, now(t).A, caps(capB))
		})
	}
}

func TestAmbientRaiseForbidden(t *testing.T) {
	kit.OnThread(t, func() {
		assert.NilError(t, setInheritable(t, caps(capA, capB)))
		assert.NilError(t, ambient(ambientRaise, capB))
		assert.NilError(t, prctl(unix.PR_SET_SECUREBITS, secbitNoAmbientRaise))
		kit.WantErrno(t, "raise", ambient(ambientRaise, capA), unix.EPERM)
		want(t, "CapAmb from before", now(t).A, caps(capB))
		kit.WantErrno(t, "lower", ambient(ambientLower, capB), 0)
	})
}

// asUser makes the thread that of a user with the given inheritable and
// permitted capabilities, and with those as ambient.
func asUser(t testing.TB, amb set) {
	t.Helper()
	assert.NilError(t, setInheritable(t, amb))
	assert.NilError(t, prctl(unix.PR_SET_KEEPCAPS, 1))
	become(t, uid, gid)
	assert.NilError(t, capset(amb, amb, amb))
	for c := range 64 {
		if amb&caps(c) != 0 {
			assert.NilError(t, ambient(ambientRaise, c))
		}
	}
}

// TestAmbientExec: ambient capabilities go through execve of an ordinary file,
// and not of one that has privileges of its own.
func TestAmbientExec(t *testing.T) {
	prog := program(t, 0, 0o755)
	amb := caps(capA, capB)
	for _, c := range []struct {
		name     string
		uid, gid int
		mode     os.FileMode
		file     *fileCaps
		a, p, e  set
	}{
		{name: "ordinary", mode: 0o755, a: amb, p: amb, e: amb},
		{name: "owned by the user, setuid", uid: uid, mode: 0o755 | os.ModeSetuid, a: amb, p: amb, e: amb},
		{name: "setuid root", mode: 0o755 | os.ModeSetuid, p: full(t), e: full(t)},
		{name: "setuid another user", uid: uid2, mode: 0o755 | os.ModeSetuid},
		{name: "setgid root", mode: 0o755 | os.ModeSetgid},
		{name: "setgid another group", gid: gid2, mode: 0o755 | os.ModeSetgid},
		{name: "setgid the user's group", gid: gid, mode: 0o755 | os.ModeSetgid, a: amb, p: amb, e: amb},
		{name: "file capabilities", mode: 0o755, file: &fileCaps{P: caps(unix.CAP_KILL)}, p: caps(unix.CAP_KILL)},
		{name: "empty file capabilities", mode: 0o755, file: &fileCaps{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			// This also takes the file capabilities of the case before.
			assert.NilError(t, os.Chown(prog, c.uid, c.gid))
			assert.NilError(t, os.Chmod(prog, c.mode))
			if c.file != nil {
				c.file.set(t, prog)
			}
			kit.OnThread(t, func() {
				asUser(t, amb)
				s := mustExec(t, prog)
				want(t, "CapAmb", s.A, c.a)
				want(t, "CapPrm", s.P, c.p)
				want(t, "CapEff", s.E, c.e)
				want(t, "CapInh", s.I, amb)
			})
		})
	}
}

// TestSetuidDropsCaps: leaving user 0 costs the capabilities, unless kept.
func TestSetuidDropsCaps(t *testing.T) {
	for _, c := range []struct {
		name    string
		bits    uintptr
		keep    bool
		p, e, a bool
	}{
		{name: "default"},
		{name: "keep", keep: true, p: true},
		{name: "no fixup", bits: secbitNoSetuidFixup, p: true, e: true, a: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			kit.OnThread(t, func() {
				assert.NilError(t, setInheritable(t, caps(capA)))
				assert.NilError(t, ambient(ambientRaise, capA))
				if c.bits != 0 {
					assert.NilError(t, prctl(unix.PR_SET_SECUREBITS, c.bits))
				}
				if c.keep {
					assert.NilError(t, prctl(unix.PR_SET_KEEPCAPS, 1))
				}
				become(t, uid, gid)
				s := now(t)
				sel := func(on bool, v set) set {
					if on {
						return v
					}
					return 0
				}
				want(t, "CapPrm", s.P, sel(c.p, full(t)))
				want(t, "CapEff", s.E, sel(c.e, full(t)))
				want(t, "CapAmb", s.A, sel(c.a, caps(capA)))
				want(t, "CapInh", s.I, caps(capA))
				want(t, "CapBnd", s.B, full(t))
			})
		})
	}
}

// TestKeepCaps: the flag lasts until execve, takes 0 or 1, and can be locked.
func TestKeepCaps(t *testing.T) {
	prog := program(t, 0, 0o755)
	get := func() int {
		v, err := unix.PrctlRetInt(unix.PR_GET_KEEPCAPS, 0, 0, 0, 0)
		assert.NilError(t, err)
		return v
	}
	kit.OnThread(t, func() {
		assert.Check(t, cmp.Equal(get(), 0))
		kit.WantErrno(t, "set to 2", prctl(unix.PR_SET_KEEPCAPS, 2), unix.EINVAL)
		kit.WantErrno(t, "set to 1", prctl(unix.PR_SET_KEEPCAPS, 1), 0)
		assert.Check(t, cmp.Equal(get(), 1))
		assert.Check(t, cmp.Equal(now(t).Securebits, secbitKeepCaps))
		assert.Check(t, cmp.Equal(mustExec(t, prog).Securebits, 0), "after execve")
		kit.WantErrno(t, "set to 0", prctl(unix.PR_SET_KEEPCAPS, 0), 0)
		assert.NilError(t, prctl(unix.PR_SET_SECUREBITS, secbitKeepCapsLocked))
		kit.WantErrno(t, "set when locked", prctl(unix.PR_SET_KEEPCAPS, 1), unix.EPERM)
		kit.WantErrno(t, "an invalid value when locked", prctl(unix.PR_SET_KEEPCAPS, 2), unix.EINVAL)
		assert.Check(t, cmp.Equal(get(), 0))
	})
}

func TestSecurebits(t *testing.T) {
	set := func(bits uintptr) error { return prctl(unix.PR_SET_SECUREBITS, bits) }
	t.Run("unknown", func(t *testing.T) {
		kit.OnThread(t, func() {
			for bit := range uint(32) {
				want := unix.Errno(0)
				if bit >= 12 || bit >= 8 && set(1<<bit) != nil {
					// Bits 8 to 11 came with Linux 6.14 (SECBIT_EXEC_*).
					want = unix.EPERM
				}
				if bit%2 == 1 && bit < 12 {
					continue // locks, which could not be taken back
				}
				kit.WantErrno(t, fmt.Sprintf("bit %d", bit), set(1<<bit), want)
			}
		})
	})
	for name, b := range map[string]uintptr{
		"NOROOT": secbitNoRoot, "NO_SETUID_FIXUP": secbitNoSetuidFixup,
		"KEEP_CAPS": secbitKeepCaps, "NO_CAP_AMBIENT_RAISE": secbitNoAmbientRaise,
	} {
		t.Run(name, func(t *testing.T) {
			kit.OnThread(t, func() {
				lock := b << 1
				kit.WantErrno(t, "set", set(b), 0)
				assert.Check(t, cmp.Equal(now(t).Securebits, int(b)))
				kit.WantErrno(t, "clear", set(0), 0)
				kit.WantErrno(t, "set and lock", set(b|lock), 0)
				kit.WantErrno(t, "clear when locked", set(lock), unix.EPERM)
				kit.WantErrno(t, "unlock", set(b), unix.EPERM)
				kit.WantErrno(t, "the same again", set(b|lock), 0)
				assert.Check(t, cmp.Equal(now(t).Securebits, int(b|lock)))
			})
		})
	}
	t.Run("without CAP_SETPCAP", func(t *testing.T) {
		kit.OnThread(t, func() {
			kit.DropCaps(t, unix.CAP_SETPCAP)
			kit.WantErrno(t, "set", set(secbitNoRoot), unix.EPERM)
			kit.WantErrno(t, "the same", set(0), unix.EPERM)
			assert.Check(t, cmp.Equal(now(t).Securebits, 0))
		})
	})
	t.Run("all locks", func(t *testing.T) {
		kit.OnThread(t, func() {
			const locks = secbitNoRootLocked | secbitNoSetuidFixupLocked | secbitKeepCapsLocked | secbitNoAmbientRaiseLocked
			kit.WantErrno(t, "lock", set(locks), 0)
			for _, b := range []uintptr{secbitNoRoot, secbitNoSetuidFixup, secbitKeepCaps, secbitNoAmbientRaise} {
				kit.WantErrno(t, fmt.Sprintf("set %#x", b), set(locks|b), unix.EPERM)
			}
		})
	})
}

// TestNoRoot: with SECBIT_NOROOT user 0 has no privilege by number.
func TestNoRoot(t *testing.T) {
	plain, withCaps := program(t, 0, 0o755), program(t, 1, 0o755)
	fileCaps{P: caps(capA), Effective: true}.set(t, withCaps)
	kit.OnThread(t, func() {
		assert.NilError(t, setInheritable(t, caps(capB)))
		assert.NilError(t, ambient(ambientRaise, capB))
		assert.NilError(t, prctl(unix.PR_SET_SECUREBITS, secbitNoRoot))
		s := mustExec(t, plain)
		want(t, "CapPrm", s.P, caps(capB))
		want(t, "CapEff", s.E, caps(capB))
		assert.Check(t, cmp.Equal(s.UID, 0))
		assert.Check(t, cmp.Equal(s.Securebits, secbitNoRoot))
		s = mustExec(t, withCaps)
		want(t, "CapPrm with file capabilities", s.P, caps(capA))
		want(t, "CapEff with file capabilities", s.E, caps(capA))
	})
}
