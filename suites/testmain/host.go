// SPDX-License-Identifier: Apache-2.0

package testmain

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/internal/testlist"
	"github.com/kvmrun/kvmrun/vmtest"
)

// Exit statuses as of cmd/kvmrun.
const (
	exitFail  = 1
	exitUsage = 2
	exitInfra = 3
)

const howTo = "no kernel given, nothing tested; run: go test ./suites/... -kernel bzImage (or set KVMRUN_KERNEL)"

// hostFlags are the flags that end here; all others go on to the guest.
type hostFlags struct {
	kernel, modules, kconfig, accel, logs string
	allow                                 files
	vmcore                                runner.CoreFormat
	keepGoing, panicOnWarn                bool
	isolate                               string
	jobs                                  int
	hang                                  time.Duration
	faults                                fault.Flag
	allowNothing                          bool
}

func (h *hostFlags) register(flags *flag.FlagSet) {
	flags.StringVar(&h.kernel, "kernel", "", "boot this kernel and run the tests in it: a bzImage, a vmlinux, the directory of a build, or debian:6.12 for a fetched one")
	flags.StringVar(&h.modules, "modules", "", "the kernel's lib/modules/RELEASE directory; default: found beside the kernel")
	flags.StringVar(&h.kconfig, "kconfig", "", "the kernel's .config; default: found in or beside the kernel")
	flags.StringVar(&h.accel, "accel", "auto", "what runs the guest: kvm, tcg or auto")
	flags.DurationVar(&h.hang, "hang", 0, "limit for a guest that says nothing at all, e.g. 2m; default: none")
	flags.BoolVar(&h.keepGoing, "keep-going", false, "go on in the same VM after a kernel splat, instead of a fresh one")
	flags.BoolVar(&h.panicOnWarn, "panic-on-warn", false, "let the kernel panic at its first warning")
	flags.Var(&h.allow, "allow", "tolerate the kernel splats that this allow-list file names; repeatable")
	flags.BoolVar(&h.allowNothing, "allow-nothing", false, "do not fail where nothing is tested because the kernel lacks what the suite needs, or every test is skipped")
	flags.Var(&h.faults, "fault", "inject this fault while the tests run, e.g. failslab,nth=3; repeatable, see kvmrun help run")
	flags.Var(&h.vmcore, "vmcore", "write the memory of a guest that hangs or dies to a file beside its kernel log: an ELF core, or kdump-zlib")
	flags.StringVar(&h.isolate, "isolate", "", "keep tests apart: none, suite (a fresh VM after a kernel splat) or test (a VM each); default: suite, or what the suite says")
	flags.IntVar(&h.jobs, "j", 0, "VMs at a time with -isolate test; default: as many as CPUs")
	flags.StringVar(&h.logs, "logs", "", "keep the kernel log in this directory; default: in the user's cache")
}

func (h *hostFlags) own(name string) bool {
	switch name {
	case "kernel", "modules", "kconfig", "accel", "logs", "keep-going", "panic-on-warn", "hang", "allow", "fault", "vmcore",
		"isolate", "j", "allow-nothing":
		return true
	}
	return false
}

// files is a flag that may be given several times.
type files []string

func (f *files) String() string { return strings.Join(*f, " ") }

func (f *files) Set(s string) error { *f = append(*f, s); return nil }

func runHost(m *testing.M, spec suites.Spec) int {
	var h hostFlags
	h.register(flag.CommandLine)
	flag.Parse()
	if h.kernel == "" {
		h.kernel = os.Getenv("KVMRUN_KERNEL")
	}
	if f := flag.Lookup("test.list"); f != nil && f.Value.String() != "" {
		return m.Run() // lists, and runs nothing
	}
	if h.kernel == "" {
		return skipAll(m, howTo)
	}
	code, err := h.boot(m, spec)
	var usage usageError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintln(visible.Writer(os.Stderr), "kvmrun:", err)
		return exitUsage
	case err != nil:
		fmt.Fprintln(visible.Writer(os.Stderr), "kvmrun:", err)
		return exitInfra
	}
	return code
}

// usageError is an error in what the user typed.
type usageError struct{ error }

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
		return 0, usageError{errors.New("-fuzz: fuzzing needs a corpus that outlives the VM; run the seeds with -run instead")}
	}
	switch vmtest.Accel(h.accel) {
	case vmtest.AccelAuto, vmtest.AccelKVM, vmtest.AccelTCG:
	default:
		return 0, usageError{fmt.Errorf("-accel %s: want kvm, tcg or auto", h.accel)}
	}
	isolate, err := suites.ParseIsolation(h.isolate)
	if err != nil {
		return 0, usageError{fmt.Errorf("-isolate: %w", err)}
	}
	for i, f := range h.allow {
		if h.allow[i], err = findFile("-allow", f); err != nil {
			return 0, usageError{err}
		}
	}
	known, err := runner.ReadAllowLists(h.allow)
	if err != nil {
		return 0, usageError{fmt.Errorf("-allow: %w", err)}
	}
	mach, err := runner.NewMachine("", vmtest.Accel(h.accel))
	if err != nil {
		return 0, err
	}
	mach.Allow, mach.VMCore = known, h.vmcore
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	kernel, err := h.findKernel(ctx, mach)
	if errors.Is(err, runner.ErrBadKernel) {
		err = usageError{err}
	}
	if err != nil {
		return 0, err
	}
	k, err := mach.OpenKernel(ctx, kernel, h.modules, h.kconfig)
	if err != nil {
		return 0, usageError{err}
	}
	args, fetch, err := guestArgs(flag.CommandLine, h.own)
	if err != nil {
		return 0, usageError{err}
	}
	if missing := k.Config.Missing(spec.Kconfig); len(missing) > 0 {
		why := fmt.Sprintf("suite %s skipped: %s (%s)", spec.Name,
			suites.KconfigReason(missing[0], k.Config[strings.TrimSuffix(missing[0], "=y")]), kernel)
		selected := runner.Selected(testlist.Names(m), args)
		if code := skipAll(m, why); code != 0 || h.allowNothing || len(selected) == 0 {
			return code, nil
		}
		fmt.Fprintf(os.Stderr, "kvmrun: %s: nothing tested: %s; where that is wanted, say -allow-nothing\n", result.VerdictNothingTested, why)
		return exitFail, nil
	}
	if err := k.CheckFaults(ctx, mach, h.faults.Plan, spec.Disks); err != nil {
		return 0, usageError{err}
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
	if isolate == suites.IsolateTest {
		if err := runner.NotIsolable(args); err != nil {
			return 0, usageError{err}
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
	job := runner.SuiteJob{
		ID: spec.Name, Kernel: k, Suite: runner.Suite{Binary: self, Spec: spec, Tests: testlist.Names(m), Rest: testlist.Rest(m)},
		Args: args, Env: passedEnv(), Merge: merge, Fetch: fetch,
		Raw: os.Stdout, RawErr: os.Stderr,
		Timeout: limit, NoLimit: true, Short: testing.Short(), Dir: dir, Transient: true,
	}
	job.Isolate, job.Jobs = isolate, h.jobs
	job.KeepGoing, job.Idle, job.Faults = h.keepGoing, h.hang, h.faults.Plan
	if h.panicOnWarn {
		job.Cmdline = append(job.Cmdline, "panic_on_warn=1")
	}
	again(&job, flag.CommandLine, kernel)
	res, exited := mach.RunRaw(ctx, job)
	for _, c := range known.Complaints(time.Now()) {
		fmt.Fprintln(visible.Writer(os.Stderr), "kvmrun:", c)
	}
	if res.Verdict == result.VerdictNothingTested && h.allowNothing {
		fmt.Fprintln(os.Stderr, "kvmrun:", res.Reason)
		return 0, nil
	}
	return report(os.Stderr, res, exited, dir)
}

// report turns the verdict into an exit status. A run whose tests decided
// prints nothing but what was tolerated: the guest has said it all.
func report(w io.Writer, res result.Job, e *runner.Exited, dir string) (int, error) {
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
		if e != nil && e.Signal != 0 {
			die(syscall.Signal(e.Signal))
		}
		if e != nil && e.Code != 0 {
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
	for _, c := range res.Cases {
		if c.Status == result.StatusFail || c.Status == result.StatusNotRun {
			fmt.Fprintf(w, "kvmrun: %s: %s\n%s\n", visible.Line(c.Name), visible.Line(c.Reason), c.Output)
		}
	}
	if res.Repro != "" && !slices.ContainsFunc(res.Splats, func(s result.Splat) bool { return s.Repro == res.Repro && !s.Excused() }) {
		fmt.Fprintf(w, "kvmrun: again: %s\n", res.Repro)
	}
	fmt.Fprintf(w, "kvmrun: kernel log: %s\n", filepath.Join(dir, "console.log"))
	if res.Verdict == result.VerdictInfra {
		return exitInfra, nil
	}
	return exitFail, nil
}

// die ends this process as the test binary ended in the guest, so that go test
// says "signal: segmentation fault" here too.
func die(s syscall.Signal) {
	signal.Reset(s)
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	_ = syscall.Kill(syscall.Getpid(), s)
	time.Sleep(time.Second) // the signal is on its way; Go's runtime keeps a few for itself
}

// findKernel makes a path of what the user calls a kernel, as kvmrun does. A
// fetch says what it does on standard error, since it takes a while.
func (h *hostFlags) findKernel(ctx context.Context, m *runner.Machine) (string, error) {
	name, err := findFile("-kernel", h.kernel)
	if err != nil {
		// A name with a colon is hardly a path: it is looked at for what it is.
		if h.kernel != "" && !strings.Contains(h.kernel, ":") && !errors.Is(err, fs.ErrPermission) {
			return "", usageError{err}
		}
		name = h.kernel
	}
	m.Progress = func(line string) { fmt.Fprintln(os.Stderr, "kvmrun:", line) }
	defer func() { m.Progress = nil }()
	return m.FindKernel(ctx, name)
}

// findFile resolves the path as the user typed it, as far as that is known:
// go test runs a test binary in its package's directory.
func findFile(name, path string) (string, error) {
	if filepath.IsAbs(path) {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		return path, nil
	}
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	tried := []string{filepath.Join(wd, path)}
	for d := wd; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			if d != wd {
				tried = append(tried, filepath.Join(d, path))
			}
			break
		}
		if d == filepath.Dir(d) {
			break
		}
	}
	for _, p := range tried {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s %s: no such file; tried %s; go test runs tests in their package's directory, an absolute path always works", name, path, strings.Join(tried, ", "))
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
