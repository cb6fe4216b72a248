// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/term"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/ktap"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/output"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/suiterun"
	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/internal/words"
	"github.com/kvmrun/kvmrun/vmtest"
)

var execCommand = command{
	name: "exec", args: "-- PROGRAM [ARGUMENT...]",
	short: "run one program in a VM",
	long: `Runs a program of this host, with its shared libraries, in a VM: standard
input, output and error and the exit status are as if it ran here. A PROGRAM
that this host does not have is looked up among the guest's own tools (u-root:
sh, ip, ls, mount, dmesg ...).

The working directory has the same name in the guest, and holds the files named
by -file. Output in TAP or KTAP is counted, as kvmrun tap does it, and so are
KUnit's results in the kernel log: a failed, missing or unplanned test makes the
exit status 1, whatever the program says. So does a kernel splat, and
a plan whose tests are all skipped or none (1..0), unless -allow-nothing is given.

Nothing boots where a VM was booted before for the same kernel, VM, QEMU and build of
kvmrun: it was frozen when it was ready, and the program's VM goes on from there, with
the program, its files and modules, the time and random numbers of its own. What all
programs then share was decided at that boot: the kernel's address (KASLR), and what
the kernel drew from its random numbers until then. A splat in the boot fails every
run. The kernel log begins with the boot's, result.json says "boot": "warm", or "cold"
and why. -boot cold boots, for a program that cares. So do -vmcore and the faults of
the host's side, and KVM, under which a boot is short.

` + faultHelp + `

Exit status: the program's; 128+N when signal N killed it; 126 and 127 when it
could not be started, as in a shell; 1 when the kernel or a TAP test failed, or
nothing was tested; 2 wrong usage; 3 when the infrastructure failed. Where the
program's own is 3, that is said on standard error, and result.json beside the
kernel log has both: exit_code is kvmrun's, program how the program ended, null
where that is not known.`,
	flags: execFlags,
}

// guestFlags are those of what runs in a guest and is no suite.
type guestFlags struct {
	v                   vmFlags
	files, modules, env front.Multi
	dir                 string
}

func (g *guestFlags) register(fs *flag.FlagSet) {
	g.v.register(fs, false)
	fs.Var(&g.files, "file", "take a host `file` or directory along, at the same place in the guest, or HOST:GUEST; PATTERN[:DIR] those that match, @LIST those in a file, a line each; repeatable")
	fs.Var(&g.modules, "module", "load a kernel `module` first, with what it depends on: a name, or a file as ./x.ko; repeatable")
	fs.StringVar(&g.dir, "o", "", "keep the kernel log in this `directory`; default: in the cache")
}

// Check refuses what needs no look at any file.
func (g *guestFlags) Check() error {
	if err := g.v.Check(); err != nil {
		return err
	}
	return front.CheckEnv(g.env)
}

func execFlags(fs *flag.FlagSet) action {
	var g guestFlags
	var p front.Policy
	g.register(fs)
	fs.Var(&g.env, "env", "set `NAME=VALUE` in the program's environment; repeatable")
	p.Register(fs, "allow", "vmcore", "timeout", "allow-nothing", "fault", "boot")
	front.Explain(fs, "timeout", "limit for the program, e.g. `5m`; default: none")
	tapFile := fs.String("tap", "", "write the tests the program reported as TAP 14 to this `file`")
	return func(ctx context.Context, io IO, fs *flag.FlagSet, _ []string) error {
		switch {
		case p.Boot == front.BootWarm && fs.NArg() > 0:
			return front.Usagef("exec: -boot warm makes the machine that programs go on from and runs none: leave out %s", words.Quote(fs.Arg(0)))
		case p.Boot != front.BootWarm && fs.NArg() == 0:
			return front.Usagef("exec: no program; usage: kvmrun exec -kernel K -- PROGRAM [ARGUMENT...]")
		}
		if err := check(&g, &p); err != nil {
			return err
		}
		return doExec(ctx, io, g, p, fs.Args(), *tapFile)
	}
}

func doExec(ctx context.Context, io IO, flags guestFlags, p front.Policy, argv []string, tapFile string) error {
	tap, err := output.Open(tapFile)
	if err != nil {
		return front.Usage(err)
	}
	known, err := p.AllowList(front.Resolver{})
	if err != nil {
		return err
	}
	g := guestProgram{guestFlags: flags, argv: argv, policy: p, allow: known}
	if g.policy.Boot == front.BootWarm {
		return g.warm(ctx, io)
	}
	doc := ktap.NewParser(ktap.Config{})
	g.stdout = teeWriter(io.Out, doc)
	out, err := g.run(ctx, io)
	if err != nil {
		return err
	}
	defer complain(io.Err, known)
	if err := addKernelLog(doc, g.dir); err != nil {
		return err
	}
	return g.conclude(io, out, doc.Finish(), tap)
}

// guestProgram is what exec and shell have in common.
type guestProgram struct {
	guestFlags
	argv    []string
	policy  front.Policy
	allow   *oops.AllowList
	tty     *wire.Winsize
	resize  <-chan wire.Winsize
	stdout  io.Writer
	onReady func(wire.Ready)
}

// prepare examines the kernel, and returns what decides about the machine.
func (g *guestProgram) prepare(ctx context.Context, io IO) (*runner.Machine, runner.Program, error) {
	ui := newProgress(io.Err)
	var none runner.Program
	m, err := g.v.machine(ui.say)
	if err != nil {
		return nil, none, err
	}
	m.Allow, m.VMCore = g.allow, machine.CoreFormat(g.policy.VMCore)
	ks, err := g.v.open(ctx, io, m)
	if err != nil {
		return nil, none, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, none, err
	}
	return m, runner.Program{Kernel: ks[0], Init: self, Shell: true}, nil
}

// makeDir makes the directory of the run's logs.
func (g *guestProgram) makeDir(m *runner.Machine) (err error) {
	if g.dir == "" {
		g.dir, err = m.NewRunDir("exec")
		return err
	}
	return os.MkdirAll(g.dir, 0o755)
}

// warm makes the machine that programs go on from.
func (g *guestProgram) warm(ctx context.Context, io IO) error {
	m, p, err := g.prepare(ctx, io)
	if err != nil {
		return err
	}
	if err := g.makeDir(m); err != nil {
		return err
	}
	p.Dir = front.Absolute(g.dir)
	if err := m.Warm(ctx, p); err != nil {
		return fmt.Errorf("make a warm machine: %w", err)
	}
	return nil
}

func (g *guestProgram) run(ctx context.Context, io IO) (runner.Outcome, error) {
	var none runner.Outcome
	m, p, err := g.prepare(ctx, io)
	if err != nil {
		return none, err
	}
	wd, err := os.Getwd()
	if err != nil {
		return none, err
	}
	if err := p.Kernel.CheckFaults(ctx, &m.Host, g.policy.Faults.Plan, nil); err != nil {
		return none, front.Usage(err)
	}
	p.Faults, p.Modules, p.Timeout = g.policy.Faults.Plan, g.modules, g.policy.Timeout
	p.Stdin, p.Stdout, p.Stderr, p.Resize, p.OnReady = programInput(io.In), g.stdout, io.Err, g.resize, g.onReady
	p.Run = wire.Run{Argv: g.argv, Env: g.environ(io), Dir: wd, TTY: g.tty}
	if f, ok := io.Out.(*os.File); ok && g.tty == nil {
		if e, ok := io.Err.(*os.File); ok && sameFile(f, e) {
			p.Run.Merge = true // keeps the order of both, as on a terminal here
		}
	}
	if err := g.pack(&p, wd); err != nil {
		return none, front.Usage(err)
	}
	if err := g.makeDir(m); err != nil {
		return none, err
	}
	p.Dir = front.Absolute(g.dir)
	// The program decides what an interrupt means; a second one, or TERM,
	// ends the VM.
	if g.tty == nil {
		sig := make(chan int, 4)
		p.Signals = sig
		stop := forwardInterrupt(sig)
		defer stop()
		ctx = context.WithoutCancel(ctx)
		var cancel context.CancelFunc
		ctx, cancel = signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGHUP)
		defer cancel()
	}
	exec := m.ExecWarm
	if g.policy.Boot == front.BootCold {
		exec = m.Exec
	}
	out := exec(ctx, p)
	if g.v.vm.MemoryMiB > 0 && errors.Is(out.Infra, vmtest.ErrTooLittleMemory) {
		return none, front.Usagef("-memory: %w", out.Infra)
	}
	return out, nil
}

// forwardInterrupt passes Ctrl-C on to the guest.
func forwardInterrupt(to chan<- int) (stop func()) {
	c := make(chan os.Signal, 4)
	signal.Notify(c, os.Interrupt)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-c:
				select {
				case to <- int(syscall.SIGINT):
				default:
				}
			case <-done:
				return
			}
		}
	}()
	return func() { signal.Stop(c); close(done) }
}

func (g *guestProgram) environ(io IO) []string {
	env := []string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:/bbin", "HOME=/root", "TMPDIR=/tmp", "USER=root"}
	for _, k := range []string{"TERM", "LANG", "TZ"} {
		if v := io.getenv(k); v != "" {
			env = append(env, k+"="+v)
		}
	}
	return append(env, g.env...)
}

// pack puts the program and the files into the initramfs.
func (g *guestProgram) pack(p *runner.Program, wd string) error {
	name := g.argv[0]
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
		path = front.Absolute(path)
		if err := initramfs.CheckProgram(path, ""); err != nil {
			return fmt.Errorf("program %s: %w; exec runs programs of the guest's own kind", name, err)
		}
		p.Files = append(p.Files, initramfs.File{Host: path, Guest: path, Runs: true})
		p.Run.Argv = append([]string{path}, g.argv[1:]...)
		for _, i := range interpreters(path) {
			p.Files = append(p.Files, initramfs.File{Host: i, Guest: i, Runs: true})
		}
	case strings.Contains(name, "/") && !filepath.IsAbs(name):
		return fmt.Errorf("program %s: %w", name, err)
	}
	for i, mod := range p.Modules {
		if initramfs.IsModuleFile(mod) {
			p.Modules[i] = front.Absolute(mod)
			if err := initramfs.CheckModule(p.Modules[i], p.Kernel.Release); err != nil {
				return fmt.Errorf("-module: %w", err)
			}
		}
	}
	if g.files, err = expandFiles(g.files); err != nil {
		return err
	}
	for _, f := range g.files {
		host, guest, given := strings.Cut(f, ":")
		if !given {
			guest = host
		}
		if !filepath.IsAbs(guest) {
			guest = filepath.Join(wd, guest)
		}
		host = front.Absolute(host)
		st, err := os.Stat(host)
		if err != nil {
			return fmt.Errorf("-file %s: %w", f, err)
		}
		if !st.IsDir() {
			p.Files = append(p.Files, initramfs.File{Host: host, Guest: guest})
			continue
		}
		if err := filepath.WalkDir(host, func(h string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, err := filepath.Rel(host, h)
			if err == nil {
				p.Files = append(p.Files, initramfs.File{Host: h, Guest: filepath.Join(guest, rel)})
			}
			return err
		}); err != nil {
			return fmt.Errorf("-file %s: %w", f, err)
		}
	}
	return nil
}

// interpreters are the host's programs that a script names in its first line:
// execve(2) reads 255 bytes of it, the interpreter and at most one argument,
// and env looks for its argument in PATH.
func interpreters(script string) (out []string) {
	f, err := os.Open(script)
	if err != nil {
		return nil
	}
	defer f.Close() //nolint:errcheck // only read
	head := make([]byte, 255)
	n, _ := io.ReadFull(f, head)
	line, _, _ := strings.Cut(string(head[:n]), "\n")
	line, ok := strings.CutPrefix(line, "#!")
	if !ok {
		return nil
	}
	words := strings.Fields(line)
	if len(words) > 0 && filepath.Base(words[0]) != "env" {
		words = words[:1]
	}
	for _, w := range words {
		// What is not here may be in the guest; if not, the guest says so.
		if path, err := exec.LookPath(w); err == nil && filepath.IsAbs(path) {
			out = append(out, path)
		}
	}
	return out
}

// execResult is result.json of a program's run. Program is how it ended, nil when
// that is not known: then the exit status is kvmrun's alone.
type execResult struct {
	Format   string         `json:"format"`
	Verdict  result.Verdict `json:"verdict"`
	Reason   string         `json:"reason,omitempty"`
	ExitCode int            `json:"exit_code"`
	Program  *execEnd       `json:"program"`
	// Boot says where the machine came from: warm, or cold and maybe why.
	Boot string `json:"boot"`
}

type execEnd struct {
	Code   int `json:"code"` // -1 when killed by a signal
	Signal int `json:"signal,omitempty"`
}

// conclude turns facts into an exit status, and says in result.json whose it is.
func (g *guestProgram) conclude(io IO, out runner.Outcome, doc *ktap.Doc, tap *output.File) error {
	verdict, reason, err := g.judge(io, out, doc, tap)
	r := execResult{Format: "kvmrun-exec/1", Verdict: verdict, Reason: reason, ExitCode: result.ExitPass, Boot: cmp.Or(out.Start, front.BootCold)}
	var exit *front.Error
	switch {
	case errors.As(err, &exit):
		r.ExitCode = exit.Code
	case err != nil:
		r.ExitCode = result.ExitInfra
	}
	if e := out.Exited; e != nil && e.Err == "" && !e.NotFound && !e.NotExecutable {
		r.Program = &execEnd{e.Code, e.Signal}
	}
	if werr := output.Replace(filepath.Join(g.dir, "result.json"), func(w io2) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}); werr != nil && err == nil {
		return fmt.Errorf("write the result: %w", werr)
	}
	return err
}

// judge asks the one verdict function and makes an exit status of its answer.
func (g *guestProgram) judge(io IO, out runner.Outcome, doc *ktap.Doc, tap *output.File) (result.Verdict, string, error) {
	facts := out.Facts()
	facts.Program = true
	if r := doc.Refused; r != nil {
		fmt.Fprintf(io.Err, "kvmrun: tests: %s\n", visible.Line(r.String()))
		if r.Failed {
			facts.TestsRun, facts.TestsFailed = 1, 1
		}
	}
	if !doc.Empty() {
		n := doc.Count()
		facts.TestsRun, facts.TestsFailed, facts.TestsSkipped = n.Total(), doc.Failures(), n.Skip
		fmt.Fprintf(io.Err, "kvmrun: tests: %d run, %d passed, %d skipped, %d failed as expected, %d failed, %d missing\n",
			n.Total(), n.Pass, n.Skip, n.XFail, n.Fail, n.Missing)
		for _, p := range append(doc.AllProblems(), doc.Notes...) {
			fmt.Fprintf(io.Err, "kvmrun: tests: %q\n", p)
		}
		if n.Total() == 0 && facts.TestsFailed == 0 {
			facts.NothingTested = "its plan is 1..0"
		}
		if tap != nil {
			if err := tap.Write(func(w io2) error { return ktap.Emit(w, doc) }); err != nil {
				return result.VerdictInfra, err.Error(), err
			}
		}
	}
	verdict, reason := result.Judge(facts)
	for _, n := range out.Remarks() {
		fmt.Fprintln(io.Err, "kvmrun:", visible.Line(n))
	}
	for _, s := range facts.Splats {
		if s.Excused() {
			fmt.Fprintf(io.Err, "kvmrun: kernel splat, allowed: %s: %s\n", visible.Line(s.Title), visible.Line(s.Allowed))
		}
	}
	switch {
	case verdict == result.VerdictPass:
		return verdict, reason, nil
	case verdict == result.VerdictNothingTested && g.policy.AllowNothing:
		fmt.Fprintf(io.Err, "kvmrun: %s\n", visible.Line(reason))
		return verdict, reason, nil
	}
	if e := out.Exited; verdict == result.VerdictTestFailed && e != nil {
		switch {
		case e.NotFound:
			return verdict, reason, &front.Error{Code: 127, Err: fmt.Errorf("%s: not found on this host or in the guest", g.argv[0])}
		case e.NotExecutable:
			return verdict, reason, &front.Error{Code: 126, Err: fmt.Errorf("%s: cannot be executed in the guest: %s", g.argv[0], e.Err)}
		}
		if f := g.leftHere(); f != "" {
			fmt.Fprintf(io.Err, "kvmrun: %s is a file of this host and was not in the guest; take it along: kvmrun exec -file %s ...\n", visible.Line(f), visible.Line(words.Quote(f)))
		}
		switch {
		case e.Signal != 0:
			return verdict, reason, &front.Error{Code: 128 + e.Signal}
		case e.Code == result.ExitInfra:
			// What kvmrun says for itself, too: which of both it is must be known.
			return verdict, reason, &front.Error{Code: e.Code, Err: errors.New("the program exited with status 3; the VM was in order")}
		case e.Code > 0:
			return verdict, reason, &front.Error{Code: e.Code}
		}
	}
	for _, s := range facts.Splats {
		if s.Excused() {
			continue
		}
		fmt.Fprintf(io.Err, "kvmrun: kernel splat: %s\n%s\n", visible.Line(s.Title), strings.TrimRight(visible.Lines(s.Raw), "\n"))
	}
	code := result.ExitFail
	if verdict == result.VerdictInfra {
		code = result.ExitInfra
	}
	log := filepath.Join(g.dir, "console.log")
	if _, err := os.Stat(log); err != nil { // no VM was started
		return verdict, reason, &front.Error{Code: code, Err: fmt.Errorf("%s: %s", verdict, reason)}
	}
	return verdict, reason, &front.Error{Code: code, Err: fmt.Errorf("%s: %s; kernel log: %s", verdict, reason, log)}
}

// leftHere is an argument that names a file in the working directory which was
// not taken along, "" when there is none: a script for sh, for example.
func (g *guestProgram) leftHere() string {
	wd, err := os.Getwd()
	if err != nil {
		return ""
	}
	taken := map[string]bool{}
	for _, f := range g.files {
		host, _, _ := strings.Cut(f, ":")
		taken[front.Absolute(host)] = true
	}
	for _, a := range g.argv[1:] {
		path := front.Absolute(a)
		if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() || taken[path] || !strings.HasPrefix(path, wd+"/") {
			continue
		}
		inDir := false
		for dir := filepath.Dir(path); len(dir) > 1; dir = filepath.Dir(dir) {
			inDir = inDir || taken[dir]
		}
		if !inDir {
			return a
		}
	}
	return ""
}

// addKernelLog has doc read the kernel log of a run as well: a KUnit test that
// fails has failed, whoever loaded its module. What the program printed of that
// log itself does not count twice.
func addKernelLog(doc *ktap.Parser, dir string) error {
	f, err := os.Open(filepath.Join(dir, "console.log"))
	if errors.Is(err, os.ErrNotExist) {
		return nil // no VM was started
	}
	if err != nil {
		return fmt.Errorf("read the kernel log: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	return doc.KernelLog(f)
}

func sameFile(a, b *os.File) bool {
	x, err := a.Stat()
	if err != nil {
		return false
	}
	y, err := b.Stat()
	return err == nil && os.SameFile(x, y)
}

func teeWriter(a, b io.Writer) io.Writer { return io.MultiWriter(a, b) }

var shellCommand = command{
	name:  "shell",
	short: "an interactive shell in a VM",
	long: `Starts this host's sh in a VM (u-root's where it has none), with u-root's tools,
modules and files as for kvmrun exec. Leave it with exit or Ctrl-D.`,
	flags: shellFlags,
}

func shellFlags(fs *flag.FlagSet) action {
	var g guestFlags
	var p front.Policy
	g.register(fs)
	p.Register(fs, "boot")
	return func(ctx context.Context, io IO, fs *flag.FlagSet, _ []string) error {
		if err := front.CheckDone(fs, "shell", "kvmrun exec runs programs"); err != nil {
			return err
		}
		if err := check(&g, &p); err != nil {
			return err
		}
		return doShell(ctx, io, g, p)
	}
}

func doShell(ctx context.Context, io IO, flags guestFlags, p front.Policy) error {
	g := guestProgram{guestFlags: flags, argv: []string{"/bin/sh"}, policy: p, stdout: io.Out}
	if p.Boot == front.BootWarm {
		return g.warm(ctx, io)
	}
	var out runner.Outcome
	if err := onTerminal(io, "shell", func(s *suiterun.Shell) (err error) {
		g.tty, g.resize, g.onReady = &s.Size, s.Resize, s.OnReady
		out, err = g.run(ctx, io)
		return err
	}); err != nil {
		return err
	}
	return g.conclude(io, out, ktap.NewParser(ktap.Config{}).Finish(), nil)
}

// onTerminal calls run with this process's terminal, which it puts into raw mode
// when the guest is ready, and restores.
func onTerminal(io IO, what string, run func(*suiterun.Shell) error) error {
	if io.In == nil || !term.IsTerminal(int(io.In.Fd())) {
		return front.Usagef("%s: standard input is not a terminal; for a script: kvmrun exec -kernel K -- sh -c '...'", what)
	}
	fd := int(io.In.Fd())
	cols, rows, err := term.GetSize(fd)
	if err != nil {
		return fmt.Errorf("ask the terminal for its size: %w", err)
	}
	resize := make(chan wire.Winsize, 1)
	winch := make(chan os.Signal, 1)
	signal.Notify(winch, syscall.SIGWINCH)
	defer signal.Stop(winch)
	go func() {
		for range winch {
			if c, r, err := term.GetSize(fd); err == nil {
				select {
				case resize <- wire.Winsize{Rows: uint16(r), Cols: uint16(c)}:
				default:
				}
			}
		}
	}()
	// Until the guest is up, Ctrl-C ends kvmrun and messages look as usual.
	var raw *term.State
	var rawErr error
	err = run(&suiterun.Shell{
		Stdin: io.In, Size: wire.Winsize{Rows: uint16(rows), Cols: uint16(cols)}, Resize: resize,
		Term:    io.getenv("TERM"),
		OnReady: func(wire.Ready) { raw, rawErr = term.MakeRaw(fd) },
	})
	if raw != nil {
		_ = term.Restore(fd, raw)
	}
	if err == nil && rawErr != nil {
		err = fmt.Errorf("put the terminal into raw mode: %w", rawErr)
	}
	return err
}
