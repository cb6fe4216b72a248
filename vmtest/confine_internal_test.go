// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/fs"
)

func TestConfined(t *testing.T) {
	const full = "CapEff:\t000001ffffffffff\n"
	const all = "         0          0 4294967295\n"
	proc := func(status, setgroups, uids, gids string) string {
		return fs.NewDir(t, "proc", fs.WithDir("self", fs.WithFile("status", status),
			fs.WithFile("setgroups", setgroups), fs.WithFile("uid_map", uids), fs.WithFile("gid_map", gids))).Path()
	}
	well := proc(full, "allow\n", all, all)
	for _, tc := range []struct {
		name, proc, why string
		uid             int
		drops           bool
	}{
		{name: "root", proc: well, drops: true},
		{name: "user", proc: well, uid: 1000},
		{name: "docker's capabilities", proc: proc("CapEff:\t00000000a80425fb\n", "allow\n", all, all), drops: true},
		{name: "no capabilities", proc: proc("CapEff:\t0000000000000000\n", "allow\n", all, all), why: "lacks the capabilities"},
		{name: "no setgroups", proc: proc(full, "deny\n", all, all), why: "no setgroups"},
		{name: "one user", proc: proc(full, "allow\n", "0 1000 1\n", all), why: "has no user and group 65530"},
		{name: "one group", proc: proc(full, "allow\n", all, "0 1000 1\n"), why: "has no user and group 65530"},
		{name: "rootless podman", proc: proc(full, "allow\n", "0 1000 1\n1 100000 65536\n", "0 1000 1\n1 100000 65536\n"), drops: true},
		{name: "no proc", proc: "/nonexistent", why: "no such file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := confined(tc.uid, tc.proc, "")
			assert.Equal(t, c.cred != nil, tc.drops, c.why)
			assert.Assert(t, strings.Contains(c.why, tc.why) && (tc.why == "") == (c.why == ""), c.why)
			if c.cred != nil {
				assert.Equal(t, c.cred.Uid, uint32(ConfinedID))
				assert.Equal(t, c.cred.Gid, uint32(ConfinedID))
				assert.Assert(t, c.cred.Groups != nil && !c.cred.NoSetGroups) // nil leaves root's groups
			}
		})
	}

	device := func(mode os.FileMode, gid int) string {
		path := filepath.Join(t.TempDir(), "kvm")
		assert.NilError(t, os.WriteFile(path, nil, 0o600))
		if gid >= 0 && os.Geteuid() == 0 {
			assert.NilError(t, os.Chown(path, 0, gid))
		}
		assert.NilError(t, os.Chmod(path, mode))
		return path
	}
	c := confined(0, well, device(0o666, -1))
	assert.Assert(t, c.cred != nil && len(c.cred.Groups) == 0)
	c = confined(0, well, device(0o600, -1))
	assert.Assert(t, c.cred == nil)
	assert.Assert(t, strings.Contains(c.why, "is for root alone"), c.why)
	if os.Geteuid() == 0 {
		c = confined(0, well, device(0o660, 104))
		assert.Assert(t, c.cred != nil)
		assert.DeepEqual(t, c.cred.Groups, []uint32{104})
		c = confined(0, well, device(0o660, 0)) // root's group has rights of its own
		assert.Assert(t, c.cred == nil)
	}
}

// TestConfinementOfHost looks at a QEMU of this host.
func TestConfinementOfHost(t *testing.T) {
	qemu := lookOrSkip(t)
	c, err := ProbeConfinement(t.Context(), "", AccelTCG)
	assert.NilError(t, err)
	t.Logf("%+v", c)
	assert.Assert(t, c.Sandbox, "%+v: QEMU without seccomp?", c)
	assert.Assert(t, c.Limited, "%+v", c)
	want := confined(os.Geteuid(), "/proc", "")
	switch {
	case want.cred != nil:
		assert.Equal(t, c.UID, ConfinedID)
	default:
		assert.Equal(t, c.UID, os.Geteuid())
	}

	c, err = ProbeConfinement(t.Context(), withoutSeccomp(t, qemu), AccelTCG)
	assert.NilError(t, err)
	assert.Assert(t, !c.Sandbox)
	assert.Assert(t, strings.Contains(c.Why, "-sandbox support is not enabled"), c.Why)
}

// withoutSeccomp makes a QEMU that behaves as one that was built without seccomp:
// Debian has none.
func withoutSeccomp(t *testing.T, qemu string) string {
	t.Helper()
	dir := t.TempDir()
	assert.NilError(t, os.Chmod(filepath.Dir(dir), 0o755)) // for ConfinedID
	path := filepath.Join(dir, "qemu-system-x86_64")
	script := `#!/bin/sh
for a; do
	if [ "$a" = -sandbox ]; then echo "$0: -sandbox on: -sandbox support is not enabled in this QEMU binary" >&2; exit 1; fi
done
exec ` + qemu + ` "$@"
`
	assert.NilError(t, os.WriteFile(path, []byte(script), 0o755))
	return path
}

// TestWithoutSeccomp starts a machine although QEMU has no filter, and says so.
func TestWithoutSeccomp(t *testing.T) {
	qemu := withoutSeccomp(t, lookOrSkip(t))
	kernel := os.Getenv("KVMRUN_KERNEL")
	if kernel == "" {
		t.Skip("KVMRUN_KERNEL is not set: set it to the path of a vmlinuz, or run make test")
	}
	for range 2 { // tried, and then known
		vm, err := Start(t.Context(), Config{QEMU: qemu, Kernel: kernel, Accel: AccelTCG, ConsoleFile: filepath.Join(t.TempDir(), "console")})
		assert.NilError(t, err)
		assert.Assert(t, strings.Contains(vm.Note(), "no filter for its system calls"), vm.Note())
		_, filter, err := processStatus(fmt.Sprintf("/proc/%d/status", vm.PID()))
		assert.NilError(t, err)
		assert.Assert(t, !filter)
		assert.NilError(t, vm.Close())
	}
}

func TestHandOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, mode := range []os.FileMode{0o644, 0o600} {
		assert.NilError(t, os.WriteFile(path, []byte("text"), 0o600))
		assert.NilError(t, os.Chmod(path, mode))
		f, err := handOver(path)
		assert.NilError(t, err)
		cmd := limits{memory: 1 << 30}.command("cat", fmt.Sprintf("/proc/self/fd/%d", firstFD))
		cmd.ExtraFiles = []*os.File{f}
		var p *process
		p, err = startProcess(cmd, confined(os.Geteuid(), "/proc", ""))
		assert.NilError(t, err)
		<-p.done
		assert.Equal(t, p.output.String(), "text", "mode %o", mode)
		assert.NilError(t, f.Close())
	}
}

// TestRunTool is about what a tool may do that a guest's image has taken over.
func TestRunTool(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	assert.NilError(t, os.WriteFile(secret, []byte("secret"), 0o600))
	image := func() *os.File {
		f, err := os.CreateTemp(t.TempDir(), "image")
		assert.NilError(t, err)
		assert.NilError(t, os.Remove(f.Name()))
		assert.NilError(t, f.Truncate(8<<20))
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	run := func(script string) (string, error) {
		return RunTool(t.Context(), image(), "/bin/sh", "-c", script)
	}
	// It can work on its image, which it knows by name only.
	out, err := run(`echo hello 1<>"$0" && id -u && ulimit -c && ulimit -v && ulimit -t`)
	assert.NilError(t, err, out)
	if confined(os.Geteuid(), "/proc", "").cred != nil {
		assert.Equal(t, out, fmt.Sprintf("%d\n0\n%d\n600\n", ConfinedID, toolMemory>>10))
		out, err = run("cat " + secret)
		assert.ErrorContains(t, err, "exit status 1")
		assert.Assert(t, strings.Contains(out, "Permission denied"), out)
	}
	// Output and files are bounded, and the context ends it.
	out, err = run("yes | head -c 10000000")
	assert.NilError(t, err)
	assert.Assert(t, len(out) < toolOutput+100 && strings.Contains(out, "more was printed"))
	_, err = run(`exec head -c 20000000 /dev/zero >"$0"`)
	var exit *exec.ExitError
	assert.Assert(t, errors.As(err, &exit), "%v", err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = RunTool(ctx, image(), "/bin/sleep", "1000")
	assert.ErrorIs(t, err, context.Canceled)
}
