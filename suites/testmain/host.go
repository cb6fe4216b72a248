// SPDX-License-Identifier: Apache-2.0

package testmain

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/gotest"
	"github.com/kvmrun/kvmrun/internal/kfetch"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/plan"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/suiterun"
	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/internal/testlist"
	"github.com/kvmrun/kvmrun/vmtest"
)

const howTo = "no kernel given, nothing tested; run: go test ./suites/... -kernel bzImage (or set KVMRUN_KERNEL)"

// hint is where the flags are described.
const hint = "usage: go test PACKAGE -kernel KERNEL [flags]; kvmrun help run describes those of the VM"

// hostFlags are the flags that end here; all others go on to the guest.
type hostFlags struct {
	kernels front.Kernels
	vm      front.VM
	policy  front.Policy
	logs    string

	own *flag.FlagSet // all of them
}

func newHostFlags() *hostFlags {
	h := &hostFlags{own: flag.NewFlagSet("", flag.ContinueOnError)}
	h.kernels.Register(h.own, false)
	h.vm.Register(h.own)
	h.policy.RegisterWithout(h.own, "timeout") // go test has its own, which the test binary keeps
	front.Explain(h.own, "fault", "inject the fault `SPEC`, or those in @FILE, while the tests run; repeatable, see kvmrun help run")
	h.own.StringVar(&h.logs, "logs", "", "keep the kernel log in this `directory`; default: in the user's cache")
	return h
}

// isOwn says whether a flag ends here.
func (h *hostFlags) isOwn(name string) bool { return h.own.Lookup(name) != nil }

// parse parses the command line, which package testing's flags and the suite's own
// belong to as well, and refuses what needs no look at anything.
func (h *hostFlags) parse(all *flag.FlagSet, args []string) error {
	h.own.VisitAll(func(f *flag.Flag) { all.Var(f.Value, f.Name, f.Usage) })
	all.Init(all.Name(), flag.ContinueOnError)
	if err := front.Parse(all, args, "", hint); err != nil {
		return err
	}
	for _, g := range []interface{ Check() error }{&h.vm, &h.kernels, &h.policy} {
		if err := g.Check(); err != nil {
			return err
		}
	}
	return nil
}

func runHost(m *testing.M, spec suites.Spec) int {
	h := newHostFlags()
	if err := h.parse(flag.CommandLine, os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flag.Usage()
		}
		return front.Status(os.Stderr, err)
	}
	if f := flag.Lookup("test.list"); f != nil && f.Value.String() != "" {
		return m.Run() // lists, and runs nothing
	}
	if !h.kernels.Default(os.Getenv) {
		return skipAll(m, howTo)
	}
	code, err := h.boot(m, spec)
	if err != nil {
		return front.Status(os.Stderr, err)
	}
	return code
}

// skipAll runs no test and says why, for people, for -v and for -json. The
// first line makes go test print "[no tests to run]" behind its ok, so that it
// does not look like a pass without -v either.
func skipAll(m *testing.M, why string) int {
	neverCached()
	fmt.Println("testing: warning: no tests to run")
	fmt.Println("kvmrun:", why)
	testlist.KeepTestsOnly(m)
	testlist.Wrap(m, func(t *testing.T, _ string, _ func(*testing.T)) { t.Skip(why) })
	return m.Run()
}

// neverCached keeps the go command from keeping this run's result, which says
// nothing of a run with another kernel, environment or host. It would have to be
// told in the test log of all that decides; without a test log it keeps nothing
// (cmd/go/internal/test: runCache.saveOutput). A run with a kernel has none either,
// as m.Run writes it, which is then called in the guest alone.
func neverCached() {
	if f := flag.Lookup("test.testlogfile"); f != nil {
		_ = f.Value.Set("")
	}
}

func (h *hostFlags) boot(m *testing.M, spec suites.Spec) (int, error) {
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		return 0, front.Usagef("-fuzz: fuzzing needs a corpus that outlives the VM; run the seeds with -run instead")
	}
	if h.policy.Boot == front.BootWarm {
		return 0, front.Usagef("-boot warm is for kvmrun exec and shell; a run makes the machine that it needs by itself")
	}
	find, err := resolver()
	if err != nil {
		return 0, err
	}
	known, err := h.policy.AllowList(find)
	if err != nil {
		return 0, err
	}
	mach, err := runner.NewMachine(find.File(h.vm.Cache), vmtest.Accel(h.vm.Accel))
	if err != nil {
		return 0, err
	}
	if mach.QEMU = h.vm.QEMU; strings.Contains(mach.QEMU, "/") { // no name for PATH
		mach.QEMU = find.File(mach.QEMU)
	}
	mach.MemoryMiB, mach.CPUs, mach.Append = h.vm.MemoryMiB, h.vm.CPUs, h.vm.Append
	mach.Allow, mach.VMCore = known, machine.CoreFormat(h.policy.VMCore)
	find.IsRef, find.CheckRef, find.Fetch = kfetch.IsRef, kfetch.CheckRef, mach.FetchKernel
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// A fetch says what it does, since it takes a while.
	mach.Progress = func(line string) { fmt.Fprintln(os.Stderr, "kvmrun:", line) }
	kernel, err := find.Kernel(ctx, h.kernels.Refs[0])
	mach.Progress = nil
	if err != nil {
		return 0, err
	}
	k, err := mach.OpenKernel(ctx, kernel, find.File(h.kernels.Modules), find.File(h.kernels.Kconfig))
	if err != nil {
		return 0, front.Usage(err)
	}
	if h.policy.Strict {
		if err := front.Lacks(k.Path, k.Config, spec); err != nil {
			return 0, front.Fail(fmt.Errorf("-strict: %w", err))
		}
	}
	if err := h.vm.Append.Contradict(spec.Name, spec.Cmdline); err != nil {
		return 0, front.Usage(err)
	}
	args, fetch, err := guestArgs(flag.CommandLine, h.isOwn)
	if err != nil {
		return 0, front.Usage(err)
	}
	if missing := k.Config.Missing(spec.Kconfig); len(missing) > 0 {
		why := fmt.Sprintf("suite %s skipped: %s (%s)", spec.Name,
			suites.KconfigReason(missing[0], k.Config[strings.TrimSuffix(missing[0], "=y")]), kernel)
		selected := gotest.Args(args).Remaining(testlist.Names(m), nil)
		if code := skipAll(m, why); code != 0 || h.policy.AllowNothing || len(selected) == 0 {
			return code, nil
		}
		fmt.Fprintf(os.Stderr, "kvmrun: %s: nothing tested: %s; where that is wanted, say -allow-nothing\n", result.VerdictNothingTested, why)
		return result.ExitFail, nil
	}
	if err := k.CheckFaults(ctx, &mach.Host, h.policy.Faults.Plan, spec.Disks); err != nil {
		return 0, front.Usage(err)
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	dir := h.logs
	if dir == "" {
		if dir, err = mach.NewRunDir("test-" + spec.Name); err != nil {
			return 0, err
		}
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	if h.policy.Isolate == suites.IsolateTest {
		if err := suiterun.NotIsolable(args); err != nil {
			return 0, front.Usage(err)
		}
	}
	merge := sameFile(os.Stdout, os.Stderr)
	// The test binary's own -test.timeout comes first: it knows which test
	// hangs and prints its goroutines.
	var limit time.Duration
	if f := flag.Lookup("test.timeout"); f != nil {
		if d, err := time.ParseDuration(f.Value.String()); err == nil && d > 0 {
			limit = d + 30*time.Second
		}
	}
	suite := suiterun.Suite{Binary: self, Spec: spec, Tests: testlist.Names(m), Rest: testlist.Rest(m)}
	if err := suiterun.New(mach).CheckMemory(ctx, []*machine.Kernel{k}, []suiterun.Suite{suite}); err != nil {
		return 0, front.Usage(err)
	}
	job := suiterun.SuiteJob{
		ID: spec.Name, Kernel: k, Suite: suite, Fetch: fetch,
		Raw: os.Stdout, RawErr: os.Stderr, Short: testing.Short(), Dir: dir, Transient: true,
		Task: plan.Task{Args: args, Env: passedEnv(), Merge: merge, Policy: plan.Policy{Timeout: limit, NoLimit: true}},
	}
	job.Isolate, job.Jobs, job.Warm = h.policy.Isolate, h.policy.Jobs, h.policy.Boot == front.BootAuto
	job.KeepGoing, job.PanicOnWarn, job.Idle, job.Faults = h.policy.KeepGoing, h.policy.PanicOnWarn, h.policy.Hang, h.policy.Faults.Plan
	again(&job, flag.CommandLine, h.isOwn, kernel)
	res, exited := suiterun.New(mach).RunRaw(ctx, job)
	for _, c := range known.Complaints(time.Now()) {
		fmt.Fprintln(visible.Writer(os.Stderr), "kvmrun:", c)
	}
	if res.Verdict == result.VerdictNothingTested && h.policy.AllowNothing {
		fmt.Fprintln(os.Stderr, "kvmrun:", res.Reason)
		return 0, nil
	}
	return report(os.Stderr, res, exited, dir)
}

// report turns the verdict into an exit status. A run whose tests decided
// prints little, for the guest has said it all: what was tolerated, what failed
// beside the tests, and the command that runs what failed again.
func report(w io.Writer, res result.Job, e *wire.Exited, dir string) (int, error) {
	w = visible.Writer(w)
	for _, s := range res.Splats {
		if s.Allowed != "" {
			fmt.Fprintf(w, "kvmrun: kernel splat, allowed: %s: %s\n", visible.Line(s.Title), visible.Line(s.Allowed))
		}
	}
	switch res.Verdict {
	case result.VerdictPass:
		return 0, nil
	case result.VerdictTestFailed:
		if e != nil && (e.Signal != 0 || e.Code != 0) {
			cases(w, res)
			if res.Repro != "" {
				fmt.Fprintf(w, "kvmrun: again: %s\n", res.Repro)
			}
			if e.Signal != 0 {
				die(syscall.Signal(e.Signal))
			}
			return e.Code, nil
		}
	}
	fmt.Fprintf(w, "kvmrun: %s: %s\n", res.Verdict, visible.Line(res.Reason))
	for _, s := range res.Splats {
		if s.Excused() {
			continue
		}
		where := "in no test: " + s.Phase
		if s.Test != "" {
			where = "during " + s.Test
		}
		if s.Where != "" {
			where += " (" + s.Where + ")"
		}
		if s.Count > 1 {
			where += fmt.Sprintf(", %d times", s.Count)
		}
		fmt.Fprintf(w, "kvmrun: kernel splat %s: %s\n%s\n", where, visible.Line(s.Title), strings.TrimRight(s.Raw, "\n"))
		if s.Repro != "" {
			fmt.Fprintf(w, "kvmrun: again: %s\n", s.Repro)
		}
	}
	for _, n := range res.Notes {
		fmt.Fprintln(w, "kvmrun:", visible.Line(n))
	}
	cases(w, res)
	if res.Repro != "" && !slices.ContainsFunc(res.Splats, func(s result.Splat) bool { return s.Repro == res.Repro && !s.Excused() }) {
		fmt.Fprintf(w, "kvmrun: again: %s\n", res.Repro)
	}
	fmt.Fprintf(w, "kvmrun: kernel log: %s\n", filepath.Join(dir, "console.log"))
	if res.Verdict == result.VerdictInfra {
		return result.ExitInfra, nil
	}
	return result.ExitFail, nil
}

// cases prints what failed beside the test binary's own tests, of which it has
// told.
func cases(w io.Writer, res result.Job) {
	for _, c := range res.Cases {
		if c.Status == result.StatusFail || c.Status == result.StatusNotRun {
			fmt.Fprintf(w, "kvmrun: %s: %s\n%s", visible.Line(c.Name), visible.Line(c.Reason), lines(c.Output))
		}
	}
}

// lines ends a text by a newline, unless it is empty.
func lines(s string) string {
	if s == "" || strings.HasSuffix(s, "\n") {
		return s
	}
	return s + "\n"
}

// die ends this process as the test binary ended in the guest, so that go test
// says "signal: segmentation fault" here too.
func die(s syscall.Signal) {
	signal.Reset(s)
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	_ = syscall.Kill(syscall.Getpid(), s)
	time.Sleep(time.Second) // the signal is on its way; Go's runtime keeps a few for itself
}

// resolver finds files as the user typed them, as far as that is known: go test
// runs a test binary in its package's directory.
func resolver() (front.Resolver, error) {
	wd, err := os.Getwd()
	if err != nil {
		return front.Resolver{}, err
	}
	r := front.Resolver{Dirs: []string{wd}, Why: "go test runs tests in their package's directory, an absolute path always works"}
	for d := wd; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			if d != wd {
				r.Dirs = append(r.Dirs, d)
			}
			break
		}
		if d == filepath.Dir(d) {
			break
		}
	}
	return r, nil
}

// sameFile says whether both go to the same place, as under go test. Then the
// guest merges them, which alone keeps their order.
func sameFile(a, b *os.File) bool {
	x, err := a.Stat()
	if err != nil {
		return false
	}
	y, err := b.Stat()
	return err == nil && os.SameFile(x, y)
}

// passed are the environment variables that change how a Go test runs.
var passed = []string{"GODEBUG", "GOTRACEBACK", "GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GORACE", "TZ"}

func passedEnv() []string {
	var out []string
	for _, k := range passed {
		if v, ok := os.LookupEnv(k); ok {
			out = append(out, k+"="+v)
		}
	}
	return out
}
