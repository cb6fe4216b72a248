// SPDX-License-Identifier: Apache-2.0

package provoke

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/internal/plan"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/suiterun"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites"
)

// warn has the kernel warn; flood two processes that write to its log without end,
// as many as the console cannot keep up with.
const (
	warn  = "echo WARNING >/sys/kernel/debug/provoke-crash/DIRECT; "
	flood = `flood() { exec 3>/dev/kmsg; while :; do echo "a line of the flood that the console is too slow for" >&3; done; }; flood & a=$!; flood & b=$!; sleep 3; `
	still = `sleep 1; kill $a $b; wait; `
)

// hidden are ways to keep a WARNING off the console.
var hidden = []struct {
	name, sh string
	title    string // "" wants a pass
	log      string // where it is found, "" for either
}{
	{"seen", warn, "WARNING in lkdtm_WARNING", "console.log"},
	{"flooded", flood + warn + still, "", ""},
	{"flood alone", flood + still, "none", ""},
	{"console off", "echo N >/sys/class/tty/ttyS0/console; " + warn + "echo Y >/sys/class/tty/ttyS0/console", "WARNING in lkdtm_WARNING", "kmsg.log"},
	{"console level", "echo N >/sys/module/printk/parameters/ignore_loglevel; echo 1 >/proc/sys/kernel/printk; " + warn, "WARNING in lkdtm_WARNING", "kmsg.log"},
}

// TestProvocationsHidden: a WARNING that the console does not show is found all the
// same, and a flood without one is no failure.
func TestProvocationsHidden(t *testing.T) {
	path := os.Getenv("KVMRUN_DEBUG_KERNEL")
	if path == "" {
		t.Skip("KVMRUN_DEBUG_KERNEL is not set: name the vmlinux that `kvmrun kernel build -src debian:6.12 -profile kasan` makes")
	}
	p := newProof(t, path)
	p.m.BootLimit = 0 // no row waits for it
	agent := filepath.Join(t.TempDir(), "agent")
	cmd := exec.Command("go", "build", "-o", agent, "../runner/testdata/pipes")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	assert.NilError(t, err, "%s", out)
	var g errgroup.Group
	g.SetLimit(parallel)
	for _, h := range hidden {
		dir := p.mkdir(strings.ReplaceAll("hidden "+h.name, " ", "-"))
		g.Go(func() error {
			o := p.m.Exec(t.Context(), runner.Program{
				Kernel: p.kernel, Init: agent, Dir: dir, Timeout: 5 * time.Minute, Stdout: os.Stderr,
				Files: []initramfs.File{{Host: "/bin/sh", Guest: "/bin/sh"}, {Host: "/bin/sleep", Guest: "/bin/sleep"}, {Host: "/bin/dd", Guest: "/bin/dd"}},
				Spec:  suites.Spec{CPUs: 2, MemoryMiB: 512},
				Run:   wire.Run{Argv: []string{"/bin/sh", "-c", h.sh}, Env: []string{"PATH=/bin"}, Merge: true},
			})
			f := o.Facts()
			f.Program = true
			verdict, reason := result.Judge(f)
			want := result.VerdictKernelFailed
			ok := true
			switch {
			case h.title == "none":
				// It may be more than anybody can read, and then this is said.
				want = result.VerdictPass
				if o.Scanner != "" {
					want = result.VerdictInfra
				}
				ok = len(f.Splats) == 0
			case h.title != "":
				ok = len(f.Splats) == 1 && f.Splats[0].Title == h.title && f.Splats[0].Log == h.log
			}
			if !ok || verdict != want {
				t.Errorf("%s: %v: %s; splats %+v; notes %q; logs in %s", h.name, verdict, reason, f.Splats, o.Notes, dir)
			}
			t.Logf("%s: %v: %s %q %s", h.name, verdict, reason, o.Notes, o.Scanner)
			return nil
		})
	}
	_ = g.Wait()

	// The same in a suite, with more processors.
	dir := p.mkdir("hidden-suite")
	s := p.suite
	s.Spec.CPUs = 4
	job := suiterun.New(p.m).RunSuite(t.Context(), suiterun.SuiteJob{
		ID: "flooded", Kernel: p.kernel, Suite: s, Dir: dir,
		Task: plan.Task{Args: []string{"-test.v=test2json", "-test.run=^TestFlooded$"}, Policy: plan.Policy{Timeout: 5 * time.Minute}},
	})
	assert.Check(t, job.Verdict == result.VerdictKernelFailed, "%v: %s %q; logs in %s", job.Verdict, job.Reason, job.Notes, dir)
	assert.Check(t, len(job.Cases) == 1 && job.Cases[0].Status == result.StatusFail, "%+v", job.Cases)
	t.Logf("suite: %v: %s %q", job.Verdict, job.Reason, job.Notes)
}
