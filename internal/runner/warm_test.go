// SPDX-License-Identifier: Apache-2.0

package runner_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/runnertest"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites"
)

// warmHost is a machine with an empty cache, and what it says.
func warmHost(t *testing.T) (m *runner.Machine, said func() string) {
	t.Helper()
	m, err := runner.NewMachine(t.TempDir(), "tcg")
	assert.NilError(t, err)
	var lines []string
	m.Progress = func(s string) { lines = append(lines, s) }
	return m, func() string { return strings.Join(lines, "\n") }
}

// tell runs testdata/tell, and returns what it tells, the outcome and the kernel log.
func tell(t *testing.T, m *runner.Machine, p runner.Program, cold bool) (map[string]string, runner.Outcome, string) {
	t.Helper()
	var out, errs bytes.Buffer
	p.Dir, p.Stdout, p.Stderr = runnertest.LogDir(t), &out, &errs
	exec := m.ExecWarm
	if cold {
		exec = m.Exec
	}
	o := exec(t.Context(), p)
	verdict, reason := result.Judge(program(o))
	assert.Equal(t, verdict, result.VerdictPass, "%s\n%+v\n%s%s", reason, o, out.Bytes(), errs.Bytes())
	log, err := os.ReadFile(filepath.Join(p.Dir, "console.log"))
	assert.NilError(t, err)
	files, err := os.ReadDir(p.Dir)
	assert.NilError(t, err)
	assert.Equal(t, len(files), 1, "%q", files)
	return facts(t, out.Bytes()), o, string(log)
}

func program(o runner.Outcome) result.Facts {
	f := o.Facts()
	f.Program = true
	return f
}

// templates lists the kept ones.
func templates(t *testing.T, m *runner.Machine) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(m.Cache.Root(), "template", "*", "ram"))
	assert.NilError(t, err)
	return list
}

// TestWarm runs programs that differ in all that one may differ in, in forks of one
// machine, and compares what they find there with what they find after a boot.
func TestWarm(t *testing.T) {
	m, said := warmHost(t)
	kernel := runnertest.Kernel(t, &m.Host)
	var kept os.FileInfo
	var random []string
	for i := range 3 {
		// Another program, with the same agent.
		bin := runnertest.Build(t, "build", fmt.Sprintf("-ldflags=-X main.version=%d", i), "./testdata/tell")
		where := fmt.Sprintf("/tmp/run %d/tell", i)
		p := runner.Program{
			Kernel: kernel, Init: bin,
			Files: []initramfs.File{
				{Host: bin, Guest: where, Runs: true}, {Data: fmt.Appendf(nil, "content %d", i), Guest: "/etc/given"},
				{Data: []byte("x"), Guest: fmt.Sprintf("/only/%d", i), Mode: 0o600},
			},
			Run: wire.Run{Argv: []string{where, strconv.Itoa(i)}, Env: []string{fmt.Sprintf("NUMBER=%d", i)}, Dir: fmt.Sprintf("/srv/%d", i)},
		}
		p.Spec.Disks = []suites.Disk{{Name: "scratch", SizeMiB: 16}}
		p.Spec.Modules = []string{"virtio_blk"}
		if i == 2 {
			p.Modules = []string{"dm-verity"}
			p.Run.Argv = []string{"/init"}
			p.Spec.Disks[0].Mkfs = []string{"mkfs.ext4", "-q"}
		}
		began := time.Now()
		warm, out, log := tell(t, m, p, false)
		assert.Equal(t, out.Start, runner.StartedWarm)
		assert.Assert(t, cmp.Contains(log, "Linux version"))
		assert.Equal(t, strings.Count(log, wire.ForkMark("")), 1)
		cold, out, log := tell(t, m, p, true)
		assert.Equal(t, out.Start, "")
		assert.Equal(t, strings.Count(log, wire.ForkMark("")), 0)
		for _, key := range []string{"version", "disk", "hostname", "args", "env", "dir", "given", "mounts", "files"} {
			assert.Check(t, warm[key] != "" && warm[key] == cold[key], "%s: %q when warm, %q when cold", key, warm[key], cold[key])
		}
		assert.Equal(t, warm["version"], strconv.Itoa(i))
		assert.Equal(t, warm["disk"], []string{"0000", "0000", "53ef"}[i])
		for _, mod := range strings.Fields(cold["modules"]) {
			assert.Check(t, cmp.Contains(strings.Fields(warm["modules"]), mod))
		}
		assert.Equal(t, strings.Contains(warm["modules"], "dm_verity"), i == 2, warm["modules"])
		wall, _ := strconv.ParseInt(warm["wall"], 10, 64)
		assert.Check(t, wall > began.UnixNano() && wall < time.Now().UnixNano(), "the clock says %d", wall)
		random = append(random, warm["random"], warm["uuid"])
		list := templates(t, m)
		assert.Equal(t, len(list), 1)
		st, err := os.Stat(list[0])
		assert.NilError(t, err)
		assert.Assert(t, kept == nil || os.SameFile(kept, st), "it booted again")
		kept = st
	}
	assert.Equal(t, len(random), 6)
	for i, a := range random {
		for _, b := range random[i+1:] {
			assert.Check(t, a != b, "twice %s", a)
		}
	}
	assert.Check(t, !strings.Contains(said(), "warm machine"), said())
}

// TestWarmFallsBack: what keeps a program from going on from a warm machine is said in
// one line, and it runs all the same.
func TestWarmFallsBack(t *testing.T) {
	m, said := warmHost(t)
	bin := runnertest.Build(t, "build", "./testdata/tell")
	p := runner.Program{
		Kernel: runnertest.Kernel(t, &m.Host), Init: bin,
		Files: []initramfs.File{{Host: bin, Guest: "/tell", Runs: true}}, Run: wire.Run{Argv: []string{"/tell"}},
	}
	m.SetFree(func() int { return 300 })
	_, out, _ := tell(t, m, p, false)
	assert.Assert(t, cmp.Contains(out.Start, "cold: no warm machine: keep a guest of"))
	assert.Equal(t, strings.Count(said(), "no warm machine: keep a guest of"), 1, said())
	assert.Equal(t, len(templates(t, m)), 0)
	m.SetFree(nil)

	q := p
	q.Dir = runnertest.LogDir(t)
	assert.NilError(t, m.Warm(t.Context(), q))
	for i, damage := range []func(b []byte) []byte{
		func(b []byte) []byte { return b[:len(b)/2] },
		func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		nil, // it is gone while it is used
	} {
		list := templates(t, m)
		assert.Equal(t, len(list), 1)
		if damage == nil {
			q := p
			q.OnReady = func(wire.Ready) { assert.Check(t, os.RemoveAll(filepath.Dir(filepath.Dir(list[0])))) }
			_, out, _ = tell(t, m, q, false)
			assert.Equal(t, out.Start, runner.StartedWarm)
			assert.Equal(t, len(templates(t, m)), 0)
			continue
		}
		b, err := os.ReadFile(list[0])
		assert.NilError(t, err)
		assert.NilError(t, os.WriteFile(list[0], damage(b), 0o600))
		_, out, _ = tell(t, m, p, false)
		assert.Equal(t, out.Start, runner.StartedWarm, "%d", i)
	}

	// Not more than the guest can take: a boot says so, too.
	q = p
	q.Files = append(q.Files, initramfs.File{Data: bytes.Repeat([]byte("x"), 400<<20), Guest: "/big"})
	q.Spec.MemoryMiB = 512
	q.Dir = runnertest.LogDir(t)
	out = m.ExecWarm(t.Context(), q)
	assert.ErrorContains(t, out.Infra, "too little memory")
	assert.Assert(t, cmp.Contains(out.Start, "too little memory"))
}

// TestWarmBootFails: a kernel that cannot boot gets the same verdict as in a cold boot,
// and is not booted twice.
func TestWarmBootFails(t *testing.T) {
	m, _ := warmHost(t)
	bin := runnertest.Build(t, "build", "./testdata/tell")
	p := runner.Program{Kernel: runnertest.Kernel(t, &m.Host), Init: bin, Run: wire.Run{Argv: []string{"/init"}}}
	p.Spec.Cmdline = []string{"rdinit=/there/is/none", "init=/neither"}
	var verdicts []string
	for _, exec := range []func() runner.Outcome{
		func() runner.Outcome { p.Dir = runnertest.LogDir(t); return m.Exec(t.Context(), p) },
		func() runner.Outcome { p.Dir = runnertest.LogDir(t); return m.ExecWarm(t.Context(), p) },
	} {
		out := exec()
		verdict, _ := result.Judge(program(out))
		verdicts = append(verdicts, fmt.Sprintf("%s, %d splats, panicked %v", verdict, len(out.Splats), out.Panicked))
		log, err := os.ReadFile(filepath.Join(p.Dir, "console.log"))
		assert.NilError(t, err)
		assert.Equal(t, bytes.Count(log, []byte("Linux version")), 1)
	}
	assert.Equal(t, verdicts[0], verdicts[1])
	assert.Equal(t, len(templates(t, m)), 0)
}
