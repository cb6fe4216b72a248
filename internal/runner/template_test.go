// SPDX-License-Identifier: Apache-2.0

package runner_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/runnertest"
	"github.com/kvmrun/kvmrun/internal/suiterun"
	"github.com/kvmrun/kvmrun/internal/wire"
)

// forkedProgram is a run of the suite testdata/forked.
func forkedProgram(tb testing.TB, m *runner.Machine) runner.Program {
	tb.Helper()
	bin := runnertest.Build(tb, "test", "-c", "-ldflags=-s -w", "./testdata/forked")
	s, err := suiterun.Describe(tb.Context(), bin)
	assert.NilError(tb, err)
	return runner.Program{
		Kernel: runnertest.Kernel(tb, &m.Host), Spec: s.Spec, Init: bin, Dir: runnertest.LogDir(tb),
		Run: wire.Run{Argv: []string{"/init", "-test.v"}, Env: []string{wire.GuestEnv + "=1"}},
	}
}

// facts are the lines of TestFacts.
func facts(tb testing.TB, out []byte) map[string]string {
	tb.Helper()
	all := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "fact "); ok {
			key, value, _ := strings.Cut(rest, " ")
			all[key] = value
		}
	}
	return all
}

// TestTemplate runs two machines of one template at the same time, and a third
// one later, and compares them: once of a machine that is ready, and once of one
// whose program stands still just before its tests.
func TestTemplate(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	p := forkedProgram(t, m)
	t.Run("ready", func(t *testing.T) {
		p := p
		p.Dir = runnertest.LogDir(t)
		testTemplate(t, m, p, []string{"random", "uuid", "hostname", "wall", "tempdir"})
	})
	t.Run("held", func(t *testing.T) {
		p := p
		p.Dir = runnertest.LogDir(t)
		p.Run.Hold = wire.HoldStop
		p.Run.Env = append(p.Run.Env, wire.HoldEnv+"=1")
		testTemplate(t, m, p, []string{"random", "uuid", "hostname", "wall", "tempdir"})
	})
	t.Run("ends before it is held", func(t *testing.T) {
		p := p
		p.Dir = runnertest.LogDir(t)
		p.Run.Hold = wire.HoldStop
		_, _, err := m.MakeTemplate(t.Context(), p)
		assert.ErrorContains(t, err, "it ended before it was held: status 0")
	})
}

func testTemplate(t *testing.T, m *runner.Machine, p runner.Program, differ []string) {
	tmpl, boot, err := m.MakeTemplate(t.Context(), p)
	assert.NilError(t, err)
	t.Cleanup(func() { assert.NilError(t, tmpl.Close()) })
	assert.Equal(t, len(boot.Splats), 0)
	t.Logf("boot %v, template of %d MiB", boot.Boot, tmpl.Bytes()>>20)
	bootLog, err := os.ReadFile(filepath.Join(p.Dir, "console.log"))
	assert.NilError(t, err)
	assert.Assert(t, bytes.Contains(bootLog, []byte("Linux version")))

	run := func(i int) map[string]string {
		var out bytes.Buffer
		p := p
		p.From, p.Log, p.Stdout = tmpl, fmt.Sprintf("console-%d.log", i), &out
		began := time.Now()
		o := m.Exec(t.Context(), p)
		assert.Check(t, o.Infra == nil && o.EndMarker && o.Exited.Code == 0 && len(o.Splats) == 0 && o.Scanner == "", "%+v\n%s", o, out.Bytes())
		assert.Check(t, len(o.Notes) == 0, "%q", o.Notes)
		t.Logf("%d: ready after %v, output after %v, all %v", i, o.Boot, o.First, time.Since(began))
		log, err := os.ReadFile(filepath.Join(p.Dir, p.Log))
		assert.Check(t, err == nil)
		assert.Check(t, bytes.Contains(log, []byte(wire.ForkMark(""))), "%s", log)
		assert.Check(t, !bytes.Contains(log, []byte("Linux version")), "the boot's log is the template's")
		assert.Check(t, !bytes.Contains(log, []byte("clocksource")), "%s", log)
		f := facts(t, out.Bytes())
		wall, _ := strconv.ParseInt(f["wall"], 10, 64)
		age := time.Since(time.Unix(0, wall))
		assert.Check(t, age > 0 && age < time.Since(began), "the clock is off by %v", age)
		slept, _ := strconv.Atoi(f["slept"])
		assert.Check(t, slept >= 700, "%d ms", slept)
		assert.Check(t, f["begun"] == "once" && f["network"] == "hello" && f["disk"] == "00000000", "%v", f)
		return f
	}
	var wg sync.WaitGroup
	seen := make([]map[string]string, 3)
	for i := range 2 {
		wg.Go(func() { seen[i] = run(i) })
	}
	wg.Wait()
	seen[2] = run(2)
	for _, key := range differ {
		for i := range seen {
			assert.Check(t, seen[i][key] != "" && seen[i][key] != seen[(i+1)%3][key], "%s of two machines is %q", key, seen[i][key])
		}
	}
	again, err := os.ReadFile(filepath.Join(p.Dir, "console.log"))
	assert.NilError(t, err)
	assert.Assert(t, bytes.Equal(again, bootLog))
}

// TestTemplateIsKept: the second one is read from the cache, and works; a damaged
// one is made anew; and what a template depends on changes its key.
func TestTemplateIsKept(t *testing.T) {
	m, err := runner.NewMachine(t.TempDir(), "")
	assert.NilError(t, err)
	c := m.Cache
	var said []string
	m.Progress = func(s string) { said = append(said, s) }
	p := forkedProgram(t, m)
	p.Run.Hold = wire.HoldStop
	p.Run.Env = append(p.Run.Env, wire.HoldEnv+"=1")
	key, err := m.TemplateKey(t.Context(), p)
	assert.NilError(t, err)
	var first []byte
	for i, damage := range []bool{false, false, true} {
		entries, err := filepath.Glob(filepath.Join(c.Root(), "template", "*", "ram"))
		assert.NilError(t, err)
		assert.Equal(t, len(entries), min(i, 1))
		if damage {
			b, err := os.ReadFile(entries[0])
			assert.NilError(t, err)
			b[len(b)/2] ^= 1
			assert.NilError(t, os.WriteFile(entries[0], b, 0o600))
		}
		said = nil
		p := p
		p.Dir = runnertest.LogDir(t)
		began := time.Now()
		tmpl, boot, err := m.Template(t.Context(), p)
		assert.NilError(t, err)
		t.Logf("%d: %v, boot %v", i, time.Since(began), boot.Boot)
		log, err := os.ReadFile(filepath.Join(p.Dir, "console.log"))
		assert.NilError(t, err)
		assert.Assert(t, bytes.Contains(log, []byte("Linux version")))
		switch {
		case i == 0:
			first = log
		case !damage:
			assert.Assert(t, bytes.Equal(log, first), "it booted")
		default:
			assert.Assert(t, !bytes.Equal(log, first), "it did not boot")
			assert.Assert(t, strings.Contains(strings.Join(said, "\n"), "of the cache: ram is damaged"), "%q", said)
		}
		var out bytes.Buffer
		p.From, p.Log, p.Stdout = tmpl, "fork.log", &out
		o := m.Exec(t.Context(), p)
		assert.Assert(t, o.Infra == nil && o.EndMarker && o.Exited.Code == 0 && len(o.Notes) == 0, "%+v\n%s", o, out.Bytes())
		f := facts(t, out.Bytes())
		assert.Assert(t, f["begun"] == "once" && f["disk"] == "00000000", "%v", f)
		assert.NilError(t, tmpl.Close())
	}
	p.Dir = runnertest.LogDir(t)
	assert.NilError(t, m.LoadKept(t.Context(), p))
	files, err := filepath.Glob(filepath.Join(c.Root(), "template", "*", "*"))
	assert.NilError(t, err)
	damaged := 0
	for _, file := range files {
		good, err := os.ReadFile(file)
		assert.NilError(t, err)
		if filepath.Base(file) == "about" || len(good) == 0 { // for people
			continue
		}
		bad := bytes.Clone(good)
		bad[len(bad)/2] ^= 0x40
		assert.NilError(t, os.WriteFile(file, bad, 0o600))
		assert.Check(t, m.LoadKept(t.Context(), p) != nil, "%s is damaged", file)
		assert.NilError(t, os.WriteFile(file, good, 0o600))
		damaged++
	}
	assert.Assert(t, damaged >= 5, "%q", files)
	assert.NilError(t, m.LoadKept(t.Context(), p))
	for name, change := range map[string]func(*runner.Program){
		"kernel":  func(p *runner.Program) { p.KernelFile = p.Init },
		"disks":   func(p *runner.Program) { p.Spec.Disks[0].SizeMiB++ },
		"cmdline": func(p *runner.Program) { p.Spec.Cmdline = []string{"x"} },
		"memory":  func(p *runner.Program) { p.Spec.MemoryMiB = 300 },
		"files":   func(p *runner.Program) { p.Files = []initramfs.File{{Data: []byte("x"), Guest: "/x"}} },
		"args":    func(p *runner.Program) { p.Run.Argv = []string{"/init"} },
		"hold":    func(p *runner.Program) { p.Run.Hold = "" },
	} {
		p := p
		p.Spec.Disks = slices.Clone(p.Spec.Disks)
		change(&p)
		got, err := m.TemplateKey(t.Context(), p)
		assert.NilError(t, err)
		assert.Check(t, got != key, name)
	}
}
