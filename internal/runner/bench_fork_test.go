// SPDX-License-Identifier: Apache-2.0

package runner_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
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

// bareTemplate is what one would do by hand: a plain QEMU with its memory in a
// file, its state saved by the monitor.
type bareTemplate struct {
	args       []string // machine, processor and so on, as ours
	ram, state string
}

// bareQEMU starts a plain QEMU with its serial port on standard input and output
// and its monitor on a socket.
func bareQEMU(b *testing.B, args ...string) (qmp net.Conn, in io.Writer, out *bufio.Reader, end func()) {
	b.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	assert.NilError(b, err)
	mine, theirs := os.NewFile(uintptr(fds[0]), "mine"), os.NewFile(uintptr(fds[1]), "theirs")
	qmp, err = net.FileConn(mine)
	assert.NilError(b, err)
	assert.NilError(b, mine.Close())
	cmd := exec.Command("qemu-system-x86_64", append([]string{
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
		"-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control",
	}, args...)...)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	in, err = cmd.StdinPipe()
	assert.NilError(b, err)
	stdout, err := cmd.StdoutPipe()
	assert.NilError(b, err)
	assert.NilError(b, cmd.Start())
	assert.NilError(b, theirs.Close())
	return qmp, in, bufio.NewReader(stdout), func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = qmp.Close()
	}
}

func awaitLine(b *testing.B, r *bufio.Reader, want string) {
	b.Helper()
	for {
		line, err := r.ReadString('\n')
		assert.NilError(b, err)
		if strings.Contains(line, want) {
			return
		}
	}
}

const ignoreShared = `{"execute":"qmp_capabilities"}
{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"x-ignore-shared","state":true},{"capability":"events","state":true}]}}
`

func makeBareTemplate(b *testing.B, vmlinux, initrd string, args []string) bareTemplate {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "kvmrun-bench-")
	assert.NilError(b, err)
	b.Cleanup(func() { assert.NilError(b, os.RemoveAll(dir)) })
	t := bareTemplate{ram: filepath.Join(dir, "ram"), state: filepath.Join(dir, "state")}
	var boot []string
	memory := ""
	for i := 0; i+1 < len(args); i++ {
		switch args[i] {
		case "-machine", "-accel", "-cpu", "-smp", "-m":
			t.args = append(t.args, args[i], args[i+1])
			if args[i] == "-m" {
				memory = args[i+1]
			}
		case "-append":
			boot = append(boot, args[i], args[i+1])
		}
	}
	t.args = append(t.args, "-object", "memory-backend-file,id=mem,size="+memory+",mem-path="+t.ram)
	boot = append(append(slices.Clone(t.args), boot...), "-kernel", vmlinux, "-initrd", initrd)
	for i, a := range boot {
		if strings.HasPrefix(a, "memory-backend-file") {
			boot[i] += ",share=on"
		}
	}
	qmp, _, out, end := bareQEMU(b, boot...)
	defer end()
	awaitLine(b, out, "BARE INIT")
	_, err = io.WriteString(qmp, ignoreShared+`{"execute":"migrate","arguments":{"uri":"exec:cat > `+t.state+`"}}`+"\n")
	assert.NilError(b, err)
	awaitLine(b, bufio.NewReader(qmp), `"completed"`)
	return t
}

// restore returns the time from a bare QEMU's start until its restored guest has
// answered.
func (t bareTemplate) restore(b *testing.B) time.Duration {
	b.Helper()
	began := time.Now()
	qmp, in, out, end := bareQEMU(b, append(slices.Clone(t.args), "-incoming", "defer", "-option-rom", "pvh.bin")...)
	defer end()
	_, err := io.WriteString(qmp, ignoreShared+`{"execute":"migrate-incoming","arguments":{"uri":"exec:cat `+t.state+`"}}`+"\n")
	assert.NilError(b, err)
	awaitLine(b, bufio.NewReader(qmp), `"completed"`)
	_, err = io.WriteString(in, "x\n")
	assert.NilError(b, err)
	awaitLine(b, out, "BARE ECHO")
	return time.Since(began)
}

// BenchmarkFork measures one trivial test from the request to its first output:
// in a fork, in one that was made ahead of need as in a run with -isolate test,
// and in a VM that boots; beside the floor, a bare QEMU that restores a guest of
// the same kind. In turn, as medians and ratios.
func BenchmarkFork(b *testing.B) {
	ctx := context.Background()
	c, err := cache.Open(b.TempDir())
	assert.NilError(b, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	p := trivialProgram(b, m)
	held := p
	held.Log = "template.log"
	held.Run.Hold, held.Run.Env = wire.HoldStop, append(slices.Clone(p.Run.Env), wire.HoldEnv+"=1")
	tmpl, boot, err := m.MakeTemplate(ctx, held)
	assert.NilError(b, err)
	defer tmpl.Close()
	vmlinux, err := p.Kernel.Image.Vmlinux(ctx, c)
	assert.NilError(b, err)
	initrd, err := initramfs.Build(ctx, initramfs.Spec{Init: runnertest.Build(b, "build", "./testdata/bareinit")}, initramfs.Options{CacheDir: c.Root()})
	assert.NilError(b, err)
	bare := makeBareTemplate(b, vmlinux, initrd, boot.Args)

	var booted, forked, ahead, all, floor []time.Duration
	check := func(o runner.Outcome) {
		b.Helper()
		assert.NilError(b, o.Infra)
		assert.Assert(b, o.EndMarker && o.Exited.Code == 0 && len(o.Splats) == 0, "%+v", o)
	}
	held.From = tmpl
	for i := range rounds + 1 {
		o := m.Exec(ctx, p)
		check(o)
		booted = append(booted, o.First)
		held.Log = fmt.Sprintf("fork-%d.log", i)
		began := time.Now()
		o = m.Exec(ctx, held)
		all = append(all, time.Since(began))
		check(o)
		forked = append(forked, o.First)
		f, err := tmpl.Fork(ctx, m, p.Dir, fmt.Sprintf("ahead-%d.log", i))
		assert.NilError(b, err)
		floor = append(floor, bare.restore(b)) // while the fork comes up
		o = m.ExecIn(ctx, held, f)
		check(o)
		ahead = append(ahead, o.First)
		if i == 0 { // warms the caches
			booted, forked, ahead, all, floor = nil, nil, nil, nil, nil
		}
	}
	for b.Loop() { // the figures above are the benchmark
		runtime.Gosched()
	}
	ms := func(d []time.Duration) float64 { return float64(median(d).Microseconds()) / 1000 }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(floor), "ms-bare-restore")
	b.ReportMetric(ms(forked), "ms-fork-to-output")
	b.ReportMetric(ms(ahead), "ms-ahead-to-output")
	b.ReportMetric(ms(all), "ms-fork-to-end")
	b.ReportMetric(ms(booted), "ms-boot-to-output")
	b.ReportMetric(ms(ahead)/ms(floor), "x-bare-ahead")
	b.ReportMetric(ms(forked)/ms(floor), "x-bare-on-demand")
	b.ReportMetric(ms(booted)/ms(ahead), "x-boot-ahead")
	b.ReportMetric(ms(booted)/ms(forked), "x-boot-on-demand")
}

// BenchmarkForks50 has 50 forks of one template at once.
func BenchmarkForks50(b *testing.B) {
	ctx := context.Background()
	c, err := cache.Open(b.TempDir())
	assert.NilError(b, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	p := trivialProgram(b, m)
	p.Run.Hold, p.Run.Env = wire.HoldStop, append(slices.Clone(p.Run.Env), wire.HoldEnv+"=1")
	tmpl, _, err := m.MakeTemplate(ctx, p)
	assert.NilError(b, err)
	defer tmpl.Close()
	const n = 50
	before := memAvailable(b)
	began := time.Now()
	var forks []*runner.Forked
	for i := range n {
		f, err := tmpl.Fork(ctx, m, p.Dir, fmt.Sprintf("%d.log", i))
		assert.NilError(b, err)
		forks = append(forks, f)
	}
	took := time.Since(began)
	cost := before - memAvailable(b)
	sum := 0
	for _, f := range forks {
		sum += f.HostMiB()
	}
	for i, f := range forks {
		o := m.ExecIn(ctx, p, f)
		assert.Assert(b, o.Infra == nil && o.EndMarker && o.Exited.Code == 0, "%d: %+v", i, o)
	}
	for b.Loop() {
		runtime.Gosched()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(tmpl.Bytes()>>20), "MiB-template")
	b.ReportMetric(float64(cost)/n, "MiB-available/fork")
	b.ReportMetric(float64(sum)/n, "MiB-private/fork")
	b.ReportMetric(took.Seconds()*1000/n, "ms/fork")
}

// memAvailable is MemAvailable in MiB (proc_meminfo(5)).
func memAvailable(b *testing.B) int {
	b.Helper()
	text, err := os.ReadFile("/proc/meminfo")
	assert.NilError(b, err)
	_, rest, _ := strings.Cut(string(text), "MemAvailable:")
	var kib int
	_, err = fmt.Sscan(rest, &kib)
	assert.NilError(b, err)
	return kib >> 10
}

// trivialProgram is a run of the suite testdata/trivial.
func trivialProgram(tb testing.TB, m *runner.Machine) runner.Program {
	tb.Helper()
	bin := runnertest.Build(tb, "test", "-c", "-ldflags=-s -w", "./testdata/trivial")
	s, err := suiterun.Describe(tb.Context(), bin)
	assert.NilError(tb, err)
	return runner.Program{
		Kernel: runnertest.Kernel(tb, &m.Host), Spec: s.Spec, Init: bin, Dir: runnertest.LogDir(tb),
		Run: wire.Run{Argv: []string{"/init", "-test.v"}, Env: []string{wire.GuestEnv + "=1"}},
	}
}
