// SPDX-License-Identifier: Apache-2.0

package provoke

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/gotest"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/plan"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/suiterun"
)

// row is what must come of one provocation.
type row struct {
	test string // without "Test"
	// title is a regular expression for all of the title of the first splat
	// in the test; "" wants no splat.
	title string
	kind  oops.Kind
	// also is one for the title of another splat that must follow.
	also string
	// reason is one that must be found in the job's or the test's reason.
	reason string
	// autopsy is one that must be found in what the autopsy of the hang left.
	autopsy string
	// verdict is the job's; zero is kernel-failed.
	verdict result.Verdict
	// corrupted accepts a report that is not whole.
	corrupted bool
	// needs is the option without which the kernel does not notice.
	needs string
	// boot says that it is no test that provokes it, but the kernel's command
	// line: it belongs to nobody.
	boot bool
	// expected says that the test announces the splat, and passes.
	expected bool
}

// batch is one call of RunSuite: some provocations, each in a VM of its own as
// soon as one has left a splat, and the quiet tests among them.
type batch struct {
	rows    []row
	cmdline []string
	timeout time.Duration // of one VM, at TCG's speed; zero is vmTimeout
	// together provokes all in one VM, which survives them: its kernel forgets
	// in between what it warns of only once. There are no quiet tests.
	together bool
	// kill ends QEMU from outside as soon as the first test has begun; such a
	// batch runs when no other does.
	kill bool
}

// vmTimeout is for VMs that are expected to end by themselves.
const vmTimeout = 2 * time.Minute

// bootLimit is short for the sake of the one that never boots: this kernel takes
// 4 s under TCG on an idle machine, and has three times the limit there.
const bootLimit = 15 * time.Second

// parallel is how many VMs run at a time: more make each slower, on the two
// CPUs of a usual CI machine, and what is slow hangs.
const parallel = 2

// proof is the test's state.
type proof struct {
	t      *testing.T
	m      *runner.Machine
	kernel *machine.Kernel
	suite  suiterun.Suite
	dir    string

	mu    sync.Mutex
	lines []string // of the table
	bad   int
}

func TestProvocations(t *testing.T) {
	path := os.Getenv("KVMRUN_DEBUG_KERNEL")
	if path == "" {
		t.Skip("KVMRUN_DEBUG_KERNEL is not set: name the vmlinux that `kvmrun kernel build -src debian:6.12 -profile kasan` makes")
	}
	p := newProof(t, path)
	began := time.Now()
	p.checkList()
	var g errgroup.Group
	g.SetLimit(parallel)
	for i, b := range batches {
		b.rows = slices.DeleteFunc(slices.Clone(b.rows), func(r row) bool { return p.leftOut(r) != "" })
		if len(b.rows) == 0 {
			continue
		}
		if b.kill {
			_ = g.Wait()
			p.run(i, b)
			continue
		}
		g.Go(func() error {
			p.run(i, b)
			return nil
		})
	}
	_ = g.Wait()
	slices.Sort(p.lines)
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "provoked\tdetected\ttitle\tattributed\tverdict\tseconds\tfound")
	for _, l := range p.lines {
		_, _ = fmt.Fprintln(w, l)
	}
	_ = w.Flush()
	t.Logf("%d provocations in %.0f s on %s, %d not as they should be\n%s", len(p.lines), time.Since(began).Seconds(), p.kernel.Release, p.bad, table.String())
	assert.Check(t, os.Getenv("PROVOKE_ONLY") != "" || len(p.lines) >= 40, "only %d provocations", len(p.lines))
}

func newProof(t *testing.T, kernel string) *proof {
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	p := &proof{t: t, dir: os.Getenv("PROVOKE_LOGS")}
	// Remarks about the host, once for all VMs.
	p.m = &runner.Machine{Host: machine.Host{Cache: c, Progress: func(s string) { t.Log(s) }}, BootLimit: bootLimit}
	if p.dir == "" {
		p.dir = t.TempDir()
	}
	p.kernel, err = p.m.OpenKernel(t.Context(), kernel, "", "")
	assert.NilError(t, err)
	bin := filepath.Join(t.TempDir(), "provoke.test")
	out, err := exec.Command("go", "test", "-c", "-o", bin, "./testdata/suite").CombinedOutput()
	assert.NilError(t, err, "%s", out)
	p.suite, err = suiterun.Describe(t.Context(), bin)
	assert.NilError(t, err)
	return p
}

// leftOut says why a row cannot be tried on this kernel, "" if it can.
func (p *proof) leftOut(r row) string {
	if only := os.Getenv("PROVOKE_ONLY"); only != "" && !regexp.MustCompile("^("+only+")$").MatchString(r.test) {
		return "PROVOKE_ONLY"
	}
	if r.needs != "" && !p.kernel.Config.Has(r.needs) {
		return "this kernel is built without CONFIG_" + r.needs
	}
	return ""
}

// checkList compares the crash types that the kernel offers with the table, so
// that none is forgotten in silence.
func (p *proof) checkList() {
	dir := p.mkdir("list")
	job := suiterun.New(p.m).RunSuite(p.t.Context(), suiterun.SuiteJob{
		ID: "list", Kernel: p.kernel, Suite: p.suite, Dir: dir,
		Task: plan.Task{Args: []string{"-test.v=test2json", "-test.run=^TestList$"}, Policy: plan.Policy{Timeout: vmTimeout}},
	})
	assert.Equal(p.t, job.Verdict, result.VerdictPass, "%s: logs in %s", job.Reason, dir)
	_, list, ok := strings.Cut(job.Cases[0].Output, "crash types: ")
	assert.Assert(p.t, ok, job.Cases[0].Output)
	reasons := map[string]string{}
	for _, b := range batches {
		for _, r := range b.rows {
			if why, again := reasons[r.test]; !again || why != "" {
				reasons[r.test] = p.leftOut(r)
			}
		}
	}
	for _, crash := range strings.Fields(list) {
		reason, listed := reasons[crash]
		if !listed {
			reason, listed = noFailure[crash]
		}
		switch {
		case !listed:
			p.t.Logf("%s: the table does not know this crash type", crash)
		case reason != "" && reason != "PROVOKE_ONLY":
			p.t.Logf("left out: %s: %s", crash, reason)
		}
	}
}

func (p *proof) mkdir(name string) string {
	dir := filepath.Join(p.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.t.Error(err)
	}
	return dir
}

// run runs a batch and judges its rows.
func (p *proof) run(number int, b batch) {
	dir := p.mkdir(fmt.Sprintf("batch%02d", number))
	var names []string
	for _, r := range b.rows {
		if r.boot {
			names = append(names, "TestList") // something harmless
		} else {
			names = append(names, "Test"+r.test)
		}
	}
	if b.timeout == 0 {
		b.timeout = vmTimeout
	}
	run := names
	if !b.together {
		run = p.withControls(names)
	}
	var order []string // of beginning
	begun := map[string]time.Time{}
	job := suiterun.New(p.m).RunSuite(p.t.Context(), suiterun.SuiteJob{
		ID: filepath.Base(dir), Kernel: p.kernel, Suite: p.suite, Dir: dir, Repro: "again",
		OnEvent: func(e gotest.Event) {
			if e.Action != gotest.ActionRun {
				return
			}
			order = append(order, e.Test)
			begun[e.Test] = time.Now()
			if b.kill && e.Test == names[0] {
				killQEMU(p.t)
			}
		},
		Task: plan.Task{Cmdline: b.cmdline, Args: []string{"-test.v=test2json", "-test.run=^(" + strings.Join(run, "|") + ")$"}, Policy: plan.Policy{Timeout: b.timeout, KeepGoing: b.together}},
	})
	finished := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range b.rows {
		// The time until the next test could begin, its VM's boot included.
		took := time.Duration(0)
		if i := slices.Index(order, "Test"+r.test); i >= 0 {
			next := finished
			if i+1 < len(order) {
				next = begun[order[i+1]]
			}
			took = next.Sub(begun[order[i]])
		}
		p.judge(r, job, took, dir)
	}
	// What is left are the controls, and what belongs to nobody.
	times := map[string]int{}
	for _, c := range job.Cases {
		times[c.Name]++
		if strings.HasPrefix(c.Name, "TestQuiet") && c.Status != result.StatusPass {
			p.t.Errorf("%s: %s: %v %s; logs in %s", job.ID, c.Name, c.Status, c.Reason, dir)
		}
	}
	for _, name := range run {
		if strings.HasPrefix(name, "TestQuiet") && times[name] != 1 {
			p.t.Errorf("%s: %s has %d results; logs in %s", job.ID, name, times[name], dir)
		}
	}
	for _, s := range job.Splats {
		if !slices.Contains(names, s.Test) && !b.rows[0].boot {
			p.t.Errorf("%s: splat %q blamed on %q; logs in %s", job.ID, s.Title, s.Test, dir)
		}
	}
}

// withControls adds the quiet tests that stand between the tests in the suite,
// and the one after them, which is run by a VM of its own.
func (p *proof) withControls(names []string) []string {
	out := slices.Clone(names)
	left := len(names)
	for _, t := range p.suite.Tests {
		switch {
		case slices.Contains(names, t):
			left--
		case strings.HasPrefix(t, "TestQuiet") && left < len(names) && len(names) > 1:
			if out = append(out, t); left == 0 {
				return out
			}
		}
	}
	return out
}

// judge makes a row of the table.
func (p *proof) judge(r row, job result.Job, took time.Duration, dir string) {
	name, repro := "Test"+r.test, "again -run '^Test"+r.test+"$'"
	if r.boot {
		name, repro = "", "again"
	}
	if r.verdict == 0 {
		r.verdict = result.VerdictKernelFailed
	}
	var cases []result.Case
	for _, c := range job.Cases {
		if c.Name == name {
			cases = append(cases, c)
		}
	}
	var splats []result.Splat
	for _, s := range job.Splats {
		if s.Test == name {
			splats = append(splats, s)
		}
	}
	why := job.Reason
	status := result.StatusFail
	if r.expected {
		status = result.StatusPass
	}
	failed := len(cases) == 1 && cases[0].Status == status
	if failed && !r.boot {
		why += "\n" + cases[0].Reason + "\n" + cases[0].Output
	}
	failed = failed || r.boot // there is no case
	detected, attributed := failed, failed
	title, found := false, ""
	matches := func(expr, s string) bool { return regexp.MustCompile("^(?:" + expr + ")$").MatchString(s) }
	if r.title != "" {
		detected, attributed = failed || len(splats) > 0, failed && len(splats) > 0
		if len(splats) > 0 {
			s := splats[0]
			found = s.Title
			title = matches(r.title, s.Title) && s.Kind == string(r.kind) && (!s.Corrupted || r.corrupted)
			if failed && !r.expected && !r.boot && cases[0].Reason == "" {
				title = false
			}
			attributed = attributed && s.Expected == r.expected && s.Where != "" && s.Repro == repro
		}
	} else {
		title = len(splats) == 0
		if failed && !r.boot {
			found = cases[0].Reason
		}
		if r.verdict == result.VerdictHung || r.verdict == result.VerdictInfra {
			found = job.Reason
		}
	}
	if r.also != "" {
		title = title && slices.ContainsFunc(splats[min(1, len(splats)):], func(s result.Splat) bool { return matches(r.also, s.Title) })
	}
	if r.reason != "" && !regexp.MustCompile(r.reason).MatchString(why) {
		title = false
	}
	if r.autopsy != "" && !inAutopsy(dir, r.autopsy) {
		title = false
	}
	code := result.Run{Jobs: []result.Job{job}}.ExitCode()
	want := result.ExitFail
	switch r.verdict {
	case result.VerdictInfra:
		want = result.ExitInfra
	case result.VerdictPass:
		want = result.ExitPass
	}
	verdict := job.Verdict == r.verdict && code == want
	if !detected || !title || !attributed || !verdict {
		p.bad++
		p.t.Errorf("%s: detected %v, title %v, attributed %v, verdict %v: job %v (%s), exit status %d; logs in %s",
			r.test, detected, title, attributed, verdict, job.Verdict, job.Reason, code, dir)
		for _, c := range cases {
			p.t.Logf("%s: case %v: %s", r.test, c.Status, c.Reason)
		}
		for _, s := range splats[:min(len(splats), 3)] {
			p.t.Logf("%s: splat %q %s corrupted %v [%s]", r.test, s.Title, s.Kind, s.Corrupted, s.Log)
		}
	}
	p.lines = append(p.lines, fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%.1f\t%s",
		r.test, yes(detected), yes(title), yes(attributed), verdictCell(verdict, job.Verdict, code), took.Seconds(), found))
}

// inAutopsy says whether one of the autopsies in dir matches.
func inAutopsy(dir, expr string) bool {
	files, _ := filepath.Glob(filepath.Join(dir, "autopsy*.txt"))
	return slices.ContainsFunc(files, func(f string) bool {
		b, err := os.ReadFile(f)
		return err == nil && regexp.MustCompile(expr).Match(b)
	})
}

func yes(ok bool) string {
	if ok {
		return "yes"
	}
	return "NO"
}

func verdictCell(ok bool, v result.Verdict, code int) string {
	s := fmt.Sprintf("%v %d", v, code)
	if !ok {
		s = "WRONG: " + s
	}
	return s
}

// killQEMU ends this process's only QEMU as the host's OOM killer would.
func killQEMU(t *testing.T) {
	procs, _ := filepath.Glob("/proc/[0-9]*/stat")
	killed := 0
	for _, f := range procs {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // gone
		}
		// pid (comm) state ppid, proc_pid_stat(5)
		head, rest, _ := strings.Cut(string(b), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 2 || fields[1] != strconv.Itoa(os.Getpid()) || !strings.Contains(head, "(qemu-system") {
			continue
		}
		pid, err := strconv.Atoi(strings.Fields(head)[0])
		if err == nil && syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	if killed != 1 {
		t.Errorf("killed %d QEMUs, not one", killed)
	}
}
