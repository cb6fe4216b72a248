// SPDX-License-Identifier: Apache-2.0

package runner_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/runnertest"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/vmtest"
)

// TestAftermath has a timer of the kernel's go off a second after the program's
// end, the shortest that softdog knows, in a fork that is watched for that long:
// once it panics, once it resets the machine without a word of the
// kernel's that would be a report.
func TestAftermath(t *testing.T) {
	runner.SetAftermath(t, 10*time.Second)
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	p := runner.Program{
		Kernel: runnertest.Kernel(t, &m.Host), Init: runnertest.Build(t, "build", "./testdata/late"), Dir: runnertest.LogDir(t), Log: "template.log",
		Modules: []string{"softdog", "pvpanic-mmio"},
		Run:     wire.Run{Argv: []string{"/init"}, Hold: wire.HoldStop},
	}
	tmpl, _, err := m.MakeTemplate(t.Context(), p)
	assert.NilError(t, err)
	defer tmpl.Close()
	for _, test := range []struct {
		parameter, log, reason string
		verdict                result.Verdict
		cause                  vmtest.Cause
	}{
		{"soft_panic=1", "panic.log", "kernel panic: Software Watchdog Timer expired", result.VerdictKernelFailed, vmtest.Panicked},
		{"soft_panic=0", "reset.log", "the VM ended by itself after the program's end: reset", result.VerdictHung, vmtest.Reset},
	} {
		t.Run(test.parameter, func(t *testing.T) {
			var out bytes.Buffer
			p := p
			p.From, p.Log, p.Stdout = tmpl, test.log, &out
			p.Release = &wire.Release{Args: []string{test.parameter}}
			o := m.Exec(t.Context(), p)
			assert.NilError(t, o.Infra, "%s", out.Bytes())
			if o.Exited != nil {
				assert.Equal(t, o.Exited.Code, 0, "%s", out.Bytes())
			}
			assert.Equal(t, o.Exit.Cause, test.cause, "%s", o.Exit)
			f := o.Facts()
			f.Program = true
			verdict, reason := result.Judge(f)
			if !o.EndMarker { // the host was too busy: the timer was first
				t.Logf("the program had not ended; %s: %s", verdict, reason)
				assert.Assert(t, verdict != result.VerdictPass)
				return
			}
			assert.Equal(t, verdict, test.verdict, "%s", reason)
			assert.Assert(t, is.Contains(reason, test.reason))
		})
	}
}

// TestPowerOffHangs boots a kernel that cannot switch its machine off, and halts.
func TestPowerOffHangs(t *testing.T) {
	runner.SetPowerOffLimit(t, 2*time.Second)
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	o := m.Exec(t.Context(), runner.Program{
		Kernel: runnertest.Kernel(t, &m.Host), Init: runnertest.Build(t, "build", "./testdata/pipes"), Dir: runnertest.LogDir(t),
		Spec: suites.Spec{Cmdline: []string{"acpi=off"}},
		Run:  wire.Run{Argv: []string{"/init", "one"}},
	})
	assert.NilError(t, o.Infra)
	assert.Assert(t, o.EndMarker && o.Exited.Code == 0, "%+v", o)
	f := o.Facts()
	f.Program = true
	verdict, reason := result.Judge(f)
	assert.Equal(t, verdict, result.VerdictHung)
	assert.Assert(t, is.Contains(reason, "the guest did not power off within"))
	// Without the kernel's symbols, too, it says whether its CPUs wait or work.
	assert.Assert(t, is.Regexp(`; kernel: CPU 0 (halted )?in \S+`, reason))
}

// TestNeverHeld: a program that was to be held and runs on is an error, with the
// reason, and no template.
func TestNeverHeld(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	tmpl, out, err := m.MakeTemplate(t.Context(), runner.Program{
		Kernel: runnertest.Kernel(t, &m.Host), Init: runnertest.Build(t, "build", "./testdata/late"), Dir: runnertest.LogDir(t), Timeout: time.Second,
		Run: wire.Run{Argv: []string{"/init", "sleep"}, Hold: wire.HoldStop},
	})
	assert.ErrorContains(t, err, "make a VM ready to be frozen: the program did not end within 1s")
	assert.Assert(t, tmpl == nil && out.Deadline != "")
}

// slow is a writer that takes its time, and does not want to be written to after
// closed is set.
type slow struct {
	t      *testing.T
	b      bytes.Buffer
	closed atomic.Bool
}

func (s *slow) Write(p []byte) (int, error) {
	time.Sleep(20 * time.Millisecond)
	if s.closed.Load() {
		s.t.Error("a write after Exec had returned")
	}
	return s.b.Write(p)
}

// TestOutputOfADeadMachine: what a program printed before its kernel died arrives,
// also at a reader that is slower than the program, and before Exec returns.
func TestOutputOfADeadMachine(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	dir := runnertest.LogDir(t)
	w := &slow{t: t}
	o := m.Exec(t.Context(), runner.Program{
		Kernel: runnertest.Kernel(t, &m.Host), Init: runnertest.Build(t, "build", "./testdata/late"), Dir: dir, Stdout: w,
		Run: wire.Run{Argv: []string{"/init", "output"}},
	})
	w.closed.Store(true)
	assert.NilError(t, o.Infra)
	assert.Assert(t, o.Exited == nil && len(o.Splats) > 0, "%+v", o)
	line := strings.Repeat("x", 1023) + "\n"
	got := w.b.Bytes()
	t.Logf("%d bytes", len(got))
	// A pipe, a port's queue and a socket are between the two.
	assert.Assert(t, len(got) > 256<<10, "%d", len(got))
	for i, l := range bytes.SplitAfter(got, []byte("\n")) {
		if string(l) != line[:len(l)] {
			t.Fatalf("line %d is %q", i, l)
		}
	}
	log, err := os.ReadFile(filepath.Join(dir, "console.log"))
	assert.NilError(t, err)
	assert.Assert(t, is.Contains(string(log), "sysrq triggered crash"))
}
