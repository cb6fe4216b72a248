// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// faultKernel is a kernel with fault injection.
func faultKernel(t *testing.T) string {
	t.Helper()
	k := os.Getenv("KVMRUN_DEBUG_KERNEL")
	if k == "" {
		t.Skip("KVMRUN_DEBUG_KERNEL is not set: name the vmlinux that `kvmrun kernel build -src debian:6.12 -profile kasan` makes")
	}
	return k
}

// TestSweepKilled: after SIGKILL nothing is left but the logs and the state, and
// -resume goes on from there.
func TestSweepKilled(t *testing.T) {
	t.Parallel()
	const points = 8
	dir, tmp := t.TempDir(), t.TempDir()
	args := []string{"sweep", "-kernel", faultKernel(t), "-points", fmt.Sprint(points), "-j", "1", "-o", dir}
	program := []string{"--", must(t, prog), "turns", "1"}
	state := func() []string {
		b, _ := os.ReadFile(filepath.Join(dir, "sweep.jsonl")) // not yet there
		return strings.SplitAfter(string(b), "\n")
	}
	cmd := command(t, append(args, program...)...)
	cmd.Env = append(cmd.Env, "TMPDIR="+tmp)
	var msgs strings.Builder
	cmd.Stderr = &msgs
	w := watch(t, dir)
	assert.NilError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		if t.Failed() {
			t.Log(msgs.String())
		}
	})
	var machines []process
	w.until(t, "a machine after two results", func() bool {
		if len(state()) < 4 {
			return false
		}
		// It starts no further one while they are counted.
		assert.NilError(t, cmd.Process.Signal(unix.SIGSTOP))
		for _, pid := range children(t, cmd.Process.Pid) {
			fd, err := unix.PidfdOpen(pid, 0)
			assert.NilError(t, err)
			t.Cleanup(func() { _ = unix.Close(fd) })
			machines = append(machines, process{pid, fd})
		}
		if len(machines) == 0 {
			assert.NilError(t, cmd.Process.Signal(unix.SIGCONT))
		}
		return len(machines) > 0
	})
	assert.NilError(t, cmd.Process.Kill())
	for _, m := range machines {
		m.awaitEnd(t)
	}
	_ = cmd.Wait()
	done := state()
	assert.Assert(t, len(done) > 3 && len(done) <= points+1, "%q", done)
	for _, n := range names(t, dir) {
		assert.Check(t, n == "sweep.jsonl" || strings.HasSuffix(n, ".log") && n[0] != '.', "left: %s", n)
	}
	assert.DeepEqual(t, names(t, tmp), []string(nil))

	cmd = command(t, append(append(args, "-resume"), program...)...)
	got := finish(t, cmd)
	assert.Equal(t, got.code, 0, "%s%s", got.stderr, got.stdout)
	assert.Assert(t, is.Contains(got.stdout, fmt.Sprintf("%[1]d of %[1]d points:", points)))
	all := state()
	assert.Equal(t, len(all), 1+points+1, "%q", all)
	whole := done[:len(done)-1] // the last line may have been cut short
	assert.DeepEqual(t, all[:len(whole)], whole)
}

// TestSweepRefused reads what a user is told whose sweep cannot be.
func TestSweepRefused(t *testing.T) {
	t.Parallel()
	k := faultKernel(t)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-fault", "failsalb", "--", "true"}, 2, `unknown kind "failsalb"; did you mean failslab?`},
		{[]string{"-fault", "failslab,in=__do_sys_pipe2", "--", "true"}, 2, "the kernel has no function __do_sys_pipe2; it has "},
		{[]string{"-fault", "failslab,in=ext4_fill_super", "--", "true"}, 2, "nothing to sweep: it never gets to a point of failslab,in=ext4_fill_super"},
		{[]string{"-fault", "fail_make_request:vdz", "--", "true"}, 3, "no such block device; it has no disk"},
		{[]string{"-resume", "-o", t.TempDir(), "--", "true"}, 2, "no sweep was begun there"},
		{[]string{"--", "sh", "-c", "echo it fails; exit 3"}, 2, "the test fails without any fault, which is no place to look for others: it ended with status 3\nit fails"},
	} {
		got := finish(t, command(t, append([]string{"sweep", "-kernel", k}, c.args...)...))
		assert.Check(t, is.Equal(got.code, c.code), "%q: %s", c.args, got.stderr)
		assert.Check(t, is.Contains(got.stderr, c.want))
	}
	// A kernel without fault injection.
	if plain := kernel(t); plain != k {
		got := finish(t, command(t, "sweep", "-kernel", plain, "--", "true"))
		assert.Check(t, is.Equal(got.code, 2))
		assert.Check(t, is.Contains(got.stderr, "the kernel lacks CONFIG_FAULT_INJECTION, "))
	}
}

// TestSweepAgain: the command that a finding prints repeats it.
func TestSweepAgain(t *testing.T) {
	t.Parallel()
	cmd := command(t, "sweep", "-kernel", faultKernel(t), "-fault", "failslab,in=do_pipe2", "-points", "1", "-caches", "shmem_inode_cache", "-memory", "500",
		"-env", "A=b c", "--", "sh", "-c", `sh -c "true | true" || echo "$A" >/tmp/left`)
	got := finish(t, cmd)
	assert.Equal(t, got.code, 1, "%s%s", got.stdout, got.stderr)
	finding := func(out string) string {
		title, _, ok := strings.Cut(out, "\n")
		assert.Assert(t, ok && strings.HasPrefix(title, "leak: ") && strings.Contains(title, " objects of shmem_inode_cache are left, "), "%s", out)
		_, rest, _ := strings.Cut(out, "injected at ")
		stack, again, ok := strings.Cut(rest, "\n  kernel log: ")
		assert.Assert(t, ok && strings.Contains(stack, "do_pipe2+0x"), "%s", out)
		_, again, ok = strings.Cut(again, "\n  again: kvmrun ")
		assert.Assert(t, ok, "%s", out)
		again, _, _ = strings.Cut(again, "\n")
		assert.Assert(t, is.Contains(again, "-caches shmem_inode_cache "))
		assert.Assert(t, is.Contains(again, "-memory 500"))
		assert.Assert(t, is.Contains(again, "-env 'A=b c'"))
		return again
	}
	again := finding(got.stdout)
	rerun := exec.Command("sh", "-c", "exec "+shared.kvmrun+" "+again)
	rerun.Dir, rerun.Env = cmd.Dir, cmd.Env
	got = finish(t, rerun)
	assert.Equal(t, got.code, 1, "%s\n%s%s", again, got.stdout, got.stderr)
	assert.Equal(t, finding(got.stdout), again)
}

// TestSweepOfKernelSelftests sweeps what knows nothing of faults: the kernel's
// own tests of landlock. It takes some minutes.
func TestSweepOfKernelSelftests(t *testing.T) {
	k := faultKernel(t)
	dir := t.TempDir()
	cmd := command(t, "sweep", "-kernel", k, "-fault", "failslab", "-points", "sites", "-o", dir, "--", filepath.Join(selftests(t), "base_test"))
	got := finish(t, cmd)
	t.Logf("%s%s", got.stderr, got.stdout)
	assert.Equal(t, got.code, 0)
	text, err := os.ReadFile(filepath.Join(dir, "report.json"))
	assert.NilError(t, err)
	var rep struct {
		Total, Sites, SitesTried, SitesHit, Planned int
		Counts                                      map[string]int
		Results                                     []struct{ Stack []string }
	}
	assert.NilError(t, json.Unmarshal(text, &rep))
	assert.Assert(t, rep.Sites >= 50 && rep.SitesTried == rep.Sites && rep.SitesHit*10 >= rep.Sites*9, "%+v", rep)
	assert.Equal(t, len(rep.Results), rep.Planned)
	assert.Check(t, is.Equal(rep.Counts["infra"], 0))
	landlock := 0
	for _, r := range rep.Results {
		for _, f := range r.Stack {
			if len(f) > 14 && f[:14] == "__x64_sys_land" {
				landlock++
			}
		}
	}
	assert.Assert(t, landlock > 0, "no fault hit a system call of landlock")
}
