// SPDX-License-Identifier: Apache-2.0

package suiterun_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/plan"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/runnertest"
	"github.com/kvmrun/kvmrun/internal/suiterun"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites"
)

// hostileGuest is a guest that lies, breaks or misbehaves, and what must come of
// it.
type hostileGuest struct {
	name string
	// sh is what sh runs, as `kvmrun exec -- sh -c` would; besides the shell's own
	// commands there are sleep, dd, cat and uart (testdata/uart). env is added to its environment.
	sh  string
	env []string
	// suite, in place of sh, is the directory of a suite, and tests what -test.run
	// gets; isolate and keepGoing are SuiteJob's.
	suite, tests string
	isolate      suites.Isolation
	keepGoing    bool
	args         []string // more of the test binary's
	cpus         int      // 0 is 1
	cmdline      []string // the kernel's; such a guest boots, others are forks
	boots        bool     // as does one with this
	timeout      time.Duration

	verdict result.Verdict
	// says must each, and never must not, be found in the told text: a line with
	// verdict and reason, then the notes, the splats and the cases (see hostileRun.tell).
	says, never []string
	// check, when set, looks at more.
	check func(t *testing.T, r hostileRun)
}

// hostileRun is what came of one.
type hostileRun struct {
	verdict result.Verdict
	told    string
	dir     string // of the logs
	out     *runner.Outcome
	job     *result.Job
}

// hostileGuests are all rows. Each file hostile_*_test.go adds its own by
// hostile.
var hostileGuests []hostileGuest

// hostile adds rows; it returns true to be called for a package variable.
func hostile(rows ...hostileGuest) bool {
	hostileGuests = append(hostileGuests, rows...)
	return true
}

// parallelGuests is how many run at once: more make each slower, on the two CPUs
// of a usual CI machine.
const parallelGuests = 2

// hostileBench has what the rows share.
type hostileBench struct {
	m   *runner.Machine
	k   *machine.Kernel
	dir string
	// files are what exec rows find in the guest.
	files []initramfs.File

	mu        sync.Mutex
	templates map[string]func() (*runner.Template, error)
	suites    map[string]func() (suiterun.Suite, error)
}

// TestHostileGuests runs every row on the distribution's kernel, and says how
// many were as they should be.
func TestHostileGuests(t *testing.T) {
	c, err := cache.Open(filepath.Join(t.TempDir(), "cache"))
	assert.NilError(t, err)
	b := &hostileBench{m: &runner.Machine{Host: machine.Host{Cache: c}}, dir: t.TempDir(), templates: map[string]func() (*runner.Template, error){}, suites: map[string]func() (suiterun.Suite, error){}}
	b.k = runnertest.Kernel(t, &b.m.Host)
	agent := runnertest.Build(t, "build", "-ldflags=-s -w", "../runner/testdata/pipes")
	uart := filepath.Join(t.TempDir(), "uart")
	text, err := exec.Command("gcc", "-static", "-o", uart, "../runner/testdata/uart/uart.c").CombinedOutput()
	assert.NilError(t, err, "build a program for the guest (.ci/setup test installs gcc): %s", text)
	b.files = append(slices.Clone(tools), initramfs.File{Host: uart, Guest: "/bin/uart"})
	var right atomic.Int32
	slots := make(chan struct{}, parallelGuests)
	all := t.Run("rows", func(t *testing.T) {
		for _, row := range hostileGuests {
			t.Run(row.name, func(t *testing.T) {
				t.Parallel()
				slots <- struct{}{}
				defer func() { <-slots }()
				var r hostileRun
				if row.suite != "" {
					r = b.runSuite(t, row)
				} else {
					r = b.exec(t, row, agent)
				}
				ok := r.verdict == row.verdict
				for _, want := range row.says {
					ok = ok && strings.Contains(r.told, want)
				}
				for _, no := range row.never {
					ok = ok && !strings.Contains(r.told, no)
				}
				if !ok {
					t.Errorf("want %v, %q and none of %q; told:\n%s\nend of the kernel log:\n%s", row.verdict, row.says, row.never, r.told, tail(r.dir))
				}
				if row.check != nil {
					row.check(t, r)
				}
				if !t.Failed() {
					right.Add(1)
				}
			})
		}
	})
	for _, tmpl := range b.templates {
		if t, err := tmpl(); err == nil {
			_ = t.Close() // only memory
		}
	}
	fmt.Printf("hostile guests: %d rows, %d right\n", len(hostileGuests), right.Load())
	assert.Check(t, all || t.Failed())
}

// tools are this host's: building u-root's takes minutes on a busy machine.
var tools = []initramfs.File{
	{Host: "/bin/sh", Guest: "/bin/sh"}, {Host: "/bin/sleep", Guest: "/bin/sleep"}, {Host: "/bin/dd", Guest: "/bin/dd"}, {Host: "/bin/cat", Guest: "/bin/cat"},
}

// exec runs a row's script.
func (b *hostileBench) exec(t *testing.T, row hostileGuest, agent string) hostileRun {
	var stdout bytes.Buffer
	p := runner.Program{
		Kernel: b.k, Init: agent, Files: b.files, Dir: t.TempDir(), Stdout: &stdout, Timeout: row.timeout,
		Spec: suites.Spec{CPUs: row.cpus, Cmdline: row.cmdline},
		Run:  wire.Run{Argv: []string{"sh", "-c", row.sh}, Merge: true, Env: append([]string{"PATH=/bin"}, row.env...)},
	}
	if p.Timeout == 0 {
		p.Timeout = 5 * time.Minute
	}
	if len(row.cmdline) == 0 && !row.boots {
		tmpl, err := b.template(fmt.Sprintf("exec on %d CPUs", row.cpus), func() (*runner.Template, error) {
			q := p
			q.Run, q.Stdout = wire.Run{}, nil
			q.Dir = filepath.Join(b.dir, fmt.Sprintf("exec%d", row.cpus))
			if err := os.Mkdir(q.Dir, 0o755); err != nil {
				return nil, err
			}
			tmpl, _, err := b.m.MakeTemplate(t.Context(), q)
			return tmpl, err
		})
		assert.NilError(t, err)
		p.From = tmpl
	}
	out := b.m.Exec(t.Context(), p)
	f := out.Facts()
	f.Program = true
	r := hostileRun{dir: p.Dir, out: &out}
	var reason string
	r.verdict, reason = result.Judge(f)
	r.tell(reason, out.Notes, f.Splats, nil)
	r.told += "stdout: " + stdout.String() + "\n"
	return r
}

// runSuite runs a row's suite.
func (b *hostileBench) runSuite(t *testing.T, row hostileGuest) hostileRun {
	s, err := b.suite(t, row.suite)
	assert.NilError(t, err)
	if row.cpus > 0 {
		s.Spec.CPUs = row.cpus
	}
	j := suiterun.SuiteJob{
		ID: row.name, Kernel: b.k, Suite: s, Dir: t.TempDir(), Repro: "again",
		Task: plan.Task{Cmdline: row.cmdline, Args: append([]string{"-test.v=test2json", "-test.run=" + row.tests}, row.args...), Policy: plan.Policy{Isolate: row.isolate, KeepGoing: row.keepGoing, Timeout: row.timeout}},
	}
	if len(row.cmdline) == 0 && !row.boots && row.isolate != suites.IsolateTest {
		j.From, err = b.template(fmt.Sprintf("%s on %d CPUs", row.suite, row.cpus), func() (*runner.Template, error) {
			dir := filepath.Join(b.dir, fmt.Sprintf("%s%d", filepath.Base(row.suite), row.cpus))
			if err := os.Mkdir(dir, 0o755); err != nil {
				return nil, err
			}
			return suiterun.New(b.m).SuiteTemplate(t.Context(), b.k, s, dir)
		})
		assert.NilError(t, err)
	}
	job := suiterun.New(b.m).RunSuite(t.Context(), j)
	r := hostileRun{verdict: job.Verdict, dir: j.Dir, job: &job}
	r.tell(job.Reason, job.Notes, job.Splats, job.Cases)
	return r
}

// tell makes the text that a row is compared with.
func (r *hostileRun) tell(reason string, notes []string, splats []result.Splat, cases []result.Case) {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: %s\n", r.verdict, reason)
	for _, n := range notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	for _, s := range splats {
		fmt.Fprintf(&b, "splat: %s [test %q, phase %q, log %s, expected %v]\n", s.Title, s.Test, s.Phase, s.Log, s.Expected)
	}
	for _, c := range cases {
		fmt.Fprintf(&b, "case: %s %v: %s\n%s", c.Name, c.Status, c.Reason, c.Output)
	}
	r.told = b.String()
}

// template returns what make made when it was first called with the name.
func (b *hostileBench) template(name string, make func() (*runner.Template, error)) (*runner.Template, error) {
	b.mu.Lock()
	if b.templates[name] == nil {
		b.templates[name] = sync.OnceValues(make)
	}
	once := b.templates[name]
	b.mu.Unlock()
	return once()
}

// suite builds a suite once.
func (b *hostileBench) suite(t *testing.T, dir string) (suiterun.Suite, error) {
	b.mu.Lock()
	if b.suites[dir] == nil {
		bin := filepath.Join(b.dir, filepath.Base(dir)+".test")
		b.suites[dir] = sync.OnceValues(func() (suiterun.Suite, error) {
			built := runnertest.Build(t, "test", "-c", "-ldflags=-s -w", dir)
			if err := os.Rename(built, bin); err != nil { // this row's directory goes with it
				return suiterun.Suite{}, err
			}
			return suiterun.Describe(t.Context(), bin)
		})
	}
	once := b.suites[dir]
	b.mu.Unlock()
	return once()
}

// tail is the end of the kernel log in dir.
func tail(dir string) string {
	b, _ := os.ReadFile(filepath.Join(dir, "console.log"))
	return string(b[max(0, len(b)-3000):])
}
