// SPDX-License-Identifier: Apache-2.0

package suiterun

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/output"
	"github.com/kvmrun/kvmrun/internal/plan"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/internal/words"
	"github.com/kvmrun/kvmrun/vmtest"
)

// replayFile is what a job's directory keeps so that one of its tests can be run
// again.
const replayFile = "replay.json"

// Recorded is a suite's job as it was run.
type Recorded struct {
	plan.JobSpec
	Dir string // where it was read from
}

// kernelRef names a kernel that was opened.
func kernelRef(k *machine.Kernel) plan.Kernel {
	r := plan.Kernel{File: k.Path, Modules: k.ModulesDir}
	if isFile(k.ConfigSource) {
		r.Config = k.ConfigSource
	}
	return r
}

// programRef names a suite's test binary.
func programRef(s Suite) plan.Program {
	return plan.Program{File: s.Binary, Suite: s.Spec.Name, Tests: s.Tests}
}

// shape is what all VMs of this process have in common.
func (m Runner) shape() plan.Shape {
	return plan.Shape{QEMU: m.QEMU, Accel: string(m.Accel), MemoryMiB: m.MemoryMiB, CPUs: m.CPUs, Append: m.Append}
}

// record writes what is to be known of the job into its directory.
func (m Runner) record(ctx context.Context, j SuiteJob) error {
	spec := plan.JobSpec{Kernel: kernelRef(j.Kernel), Program: programRef(j.Suite), Shape: m.shape(), Task: j.Task}
	spec.Task.Allow = string(m.Allow.Active(time.Now()))
	var err error
	if spec.Kernel.SHA256, err = m.Cache.HashFile(spec.Kernel.File); err == nil {
		spec.Program.SHA256, err = m.Cache.HashFile(spec.Program.File)
	}
	if err == nil && j.Transient {
		spec.Program.File, err = m.keepBinary(ctx, spec.Program.File, spec.Program.SHA256)
	}
	var text []byte
	if err == nil {
		text, err = spec.Encode()
	}
	if err == nil {
		err = output.Save(filepath.Join(j.Dir, replayFile), text)
	}
	if err != nil {
		return fmt.Errorf("record the job: %w", err)
	}
	return nil
}

// The test binaries of go test, which deletes its own, are kept in the cache by
// their content: what has not changed is there once, at some 10 MiB.
const (
	binaryKind   = "binary"
	binaryFile   = "suite.test"
	keepBinaries = 16
)

// keepBinary keeps a test binary and returns where.
func (m Runner) keepBinary(ctx context.Context, path, sum string) (string, error) {
	dir, hit, err := m.Cache.Get(ctx, binaryKind, sum, func(_ context.Context, dir string) error {
		from, err := os.Open(path)
		if err != nil {
			return err
		}
		defer from.Close() //nolint:errcheck // only read
		to, err := os.OpenFile(filepath.Join(dir, binaryFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
		if err != nil {
			return err
		}
		_, err = io.Copy(to, from)
		return errors.Join(err, to.Close())
	})
	if err != nil {
		return "", fmt.Errorf("keep the test binary: %w", err)
	}
	if !hit {
		m.Cache.Trim(binaryKind, keepBinaries, 0)
	}
	return filepath.Join(dir, binaryFile), nil
}

// FindRecorded finds the job that ran the test: path is a run's directory, that
// of one of its jobs, or a file of results in JSON.
func FindRecorded(path, test string) (*Recorded, error) {
	top, _, _ := strings.Cut(test, "/")
	dirs, err := jobDirs(path)
	if err != nil {
		return nil, err
	}
	var found []*Recorded
	var all []string
	jobs := 0
	for _, d := range dirs {
		r, err := readRecorded(d)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read results: %s: %w", filepath.Join(d, replayFile), err)
		}
		jobs++
		all = append(all, r.Program.Tests...)
		if slices.Contains(r.Program.Tests, top) {
			found = append(found, r)
		}
	}
	switch {
	case jobs == 0:
		return nil, fmt.Errorf("no results of a suite in %s: name the directory that kvmrun run or go test printed as logs", path)
	case len(found) == 0:
		return nil, fmt.Errorf("no test %s in the results in %s%s", top, path, words.Nearest(top, all))
	case len(found) > 1:
		var names []string
		for _, r := range found {
			names = append(names, r.Dir)
		}
		return nil, fmt.Errorf("%d jobs ran %s: name one of %s", len(found), top, strings.Join(names, ", "))
	}
	r := found[0]
	if !isFile(r.Program.File) {
		return nil, fmt.Errorf("the test binary %s is gone (the last %d are kept): run the suite again, and replay that", r.Program.File, keepBinaries)
	}
	return r, nil
}

// jobDirs are the directories of jobs that path may stand for.
func jobDirs(path string) ([]string, error) {
	if !isFile(path) {
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, fmt.Errorf("read results: %w", err)
		}
		dirs := []string{path}
		for _, e := range entries {
			if e.IsDir() {
				dirs = append(dirs, filepath.Join(path, e.Name()))
			}
		}
		return dirs, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var run struct {
		Jobs []struct {
			Dir string `json:"dir"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal(text, &run); err != nil {
		return nil, fmt.Errorf("read results: %s: %w", path, err)
	}
	var dirs []string
	for _, j := range run.Jobs {
		// The file may have been moved with the jobs' directories beside it.
		if beside := filepath.Join(filepath.Dir(path), filepath.Base(j.Dir)); !isFile(filepath.Join(j.Dir, replayFile)) && isFile(filepath.Join(beside, replayFile)) {
			j.Dir = beside
		}
		dirs = append(dirs, j.Dir)
	}
	return dirs, nil
}

// readRecorded reads what record wrote. The error wraps os.ErrNotExist for a directory
// without it.
func readRecorded(dir string) (*Recorded, error) {
	text, err := os.ReadFile(filepath.Join(dir, replayFile))
	if err != nil {
		return nil, err
	}
	r := &Recorded{Dir: dir}
	r.JobSpec, err = plan.Decode(text)
	return r, err
}

// Machine sets up a machine as for the job.
func (r *Recorded) Machine(m *runner.Machine) error {
	v := r.Shape
	m.QEMU, m.Accel, m.MemoryMiB, m.CPUs, m.Append = v.QEMU, vmtest.Accel(v.Accel), v.MemoryMiB, v.CPUs, v.Append
	var err error
	if m.Allow, err = oops.ParseAllowList(filepath.Join(r.Dir, replayFile), []byte(r.Task.Allow)); err != nil {
		return fmt.Errorf("read results: %w", err)
	}
	return nil
}

// Replay is how a test is run again.
type Replay struct {
	Test string // with the subtest, if one is meant
	// Dir is an existing directory for the kernel log and the trace.
	Dir            string
	Stdout, Stderr io.Writer
	// Trace names events as /sys/kernel/tracing/set_event takes them
	// (Documentation/trace/events.rst), to be traced while the test runs; the
	// trace is then in Dir as trace.txt.
	Trace []string
	// GDB, when set, is told the debugger's command line. The machine stands still
	// until a debugger lets it go, and no time limit applies.
	GDB func(command string)
	// Shell, when set, runs an interactive shell in place of the test, where ./test
	// runs it.
	Shell *Shell
}

// Shell is a terminal of the host's.
type Shell struct {
	Stdin   io.Reader
	Size    wire.Winsize
	Term    string // the TERM of Replay's shell, "" for none
	Resize  <-chan wire.Winsize
	OnReady func(wire.Ready)
}

// tracing is where ftrace is in the guest.
const tracing = "/sys/kernel/tracing/"

// traceBuffer is the size of the trace buffer per CPU, in KiB.
const traceBuffer = "16384"

// Replay runs a test again, from the template of its suite that the run used or
// would have used.
func (m Runner) Replay(ctx context.Context, r *Recorded, y Replay) (out runner.Outcome) {
	p, err := m.replayProgram(ctx, r, y)
	if err != nil {
		out.Infra = err
		return out
	}
	if y.Shell == nil {
		p = heldProgram(p)
	}
	if y.Shell == nil {
		p = y.added(p)
	}
	if p.GDB = y.GDB; y.GDB != nil {
		p.Timeout, p.Patient = 0, true
	}
	if len(p.Faults.Host()) > 0 { // a VM must be booted with them
		p.Stdout, p.Stderr = y.Stdout, y.Stderr
		return m.Exec(ctx, p)
	}
	tmpl, boot, err := m.Template(ctx, template(p))
	if err != nil {
		boot.Infra = err
		return boot
	}
	defer tmpl.Close() //nolint:errcheck // nothing to be written
	p.From, p.Log, p.Stdout, p.Stderr = tmpl, "replay.log", y.Stdout, y.Stderr
	if y.Shell != nil {
		p.Stdin, p.Resize, p.OnReady = y.Shell.Stdin, y.Shell.Resize, y.Shell.OnReady
	}
	return m.Exec(ctx, p)
}

// added returns the held program with the choice of the test, the faults in the
// guest and the trace added to what it is let go with.
func (y Replay) added(p runner.Program) runner.Program {
	rel := wire.Release{Args: []string{exactly(y.Test)}}
	if r := p.Armed(fault.Line).Release; r != nil {
		rel.Arm = r.Arm
	}
	p.Faults = p.Faults.Host()
	if len(y.Trace) > 0 {
		before := []wire.Write{{Path: tracing + "buffer_size_kb", Text: traceBuffer}}
		for _, e := range y.Trace { // one write takes one (kernel/trace/trace_events.c: ftrace_event_write)
			before = append(before, wire.Write{Path: tracing + "set_event", Text: e + "\n"})
		}
		before = append(before, wire.Write{Path: tracing + "tracing_on", Text: "1"})
		rel.Arm.Before = append(before, rel.Arm.Before...)
		rel.Arm.After = append(rel.Arm.After, wire.Write{Path: tracing + "tracing_on", Text: "0"})
		p.Fetch = []runner.Fetch{{Guest: tracing + "trace", Host: filepath.Join(y.Dir, "trace.txt")}}
	}
	p.Release = &rel
	return p
}

// replayProgram is the job's program for one test.
func (m Runner) replayProgram(ctx context.Context, r *Recorded, y Replay) (runner.Program, error) {
	for _, f := range []struct{ what, path, sum string }{{"kernel", r.Kernel.File, r.Kernel.SHA256}, {"test binary", r.Program.File, r.Program.SHA256}} {
		switch sum, err := m.Cache.HashFile(f.path); {
		case err != nil:
			return runner.Program{}, fmt.Errorf("find the run's %s: %w", f.what, err)
		case sum != f.sum:
			return runner.Program{}, fmt.Errorf("the %s %s has changed since that run, so the test cannot be run again as it was: run the suite anew, and replay that", f.what, f.path)
		}
	}
	k, err := m.OpenKernel(ctx, r.Kernel.File, r.Kernel.Modules, r.Kernel.Config)
	if err != nil {
		return runner.Program{}, err
	}
	if len(y.Trace) > 0 && !k.Config.Has("EVENT_TRACING=y") {
		return runner.Program{}, fmt.Errorf("trace events: kernel %s lacks CONFIG_EVENT_TRACING", r.Kernel.File)
	}
	s, err := Describe(ctx, r.Program.File)
	if err != nil {
		return runner.Program{}, err
	}
	j := SuiteJob{Kernel: k, Suite: s, Dir: y.Dir, Task: r.Task}
	j.Timeout, j.Idle = SuiteTimeout(s.Spec, m.Accel), 0 // of one test, which somebody may watch
	p := j.program()
	if y.Shell != nil {
		p.Faults = nil
		p.Run.Env = slices.DeleteFunc(p.Run.Env, func(kv string) bool { return strings.HasPrefix(kv, wire.HoldEnv+"=") }) // nobody would let it go
		p.Shell = true
		if y.Shell.Term != "" { // by which a shell knows what it can do
			p.Run.Env = append(p.Run.Env, "TERM="+y.Shell.Term)
		}
		script := "#!/bin/sh\nexec /init -test.v -test.run '" + exactly(y.Test) + "'\n"
		p.Files = append(p.Files, initramfs.File{Data: []byte(script), Guest: "/root/test", Mode: 0o755})
		// The host's shell, as for kvmrun shell; where it has none, u-root's is there.
		const sh = "/bin/sh"
		if isFile(sh) {
			p.Files = append(p.Files, initramfs.File{Host: sh, Guest: sh})
		}
		p.Run = wire.Run{Argv: []string{sh}, Env: p.Run.Env, Dir: "/root", TTY: &y.Shell.Size}
	}
	return p, nil
}

// exactly is the expression for -test.run that selects one test or subtest.
func exactly(test string) string {
	parts := strings.Split(test, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// WithoutMarks passes on output without the bytes by which package testing marks
// its own lines for test2json.
type WithoutMarks struct{ W io.Writer }

// Write implements io.Writer.
func (w WithoutMarks) Write(p []byte) (int, error) {
	if _, err := w.W.Write(bytes.ReplaceAll(p, []byte{0x16}, nil)); err != nil {
		return 0, err
	}
	return len(p), nil
}
