// SPDX-License-Identifier: Apache-2.0

package runner_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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

// rounds of every figure; the median is quoted.
const rounds = 7

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// firstWrite notes when the first byte came.
type firstWrite struct {
	once sync.Once
	at   time.Time
}

func (f *firstWrite) Write(p []byte) (int, error) {
	f.once.Do(func() { f.at = time.Now() })
	return len(p), nil
}

// bare boots the same kernel by plain QEMU with a one-process initramfs, on the
// same machine type and with the same console, and returns the time from
// QEMU's start until that process's output.
func bare(b *testing.B, vmlinux, initrd string, args []string) time.Duration {
	b.Helper()
	argv := []string{"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-kernel", vmlinux, "-initrd", initrd}
	for i := 0; i+1 < len(args); i++ {
		switch args[i] {
		case "-machine", "-accel", "-cpu", "-smp", "-m", "-append":
			argv = append(argv, args[i], args[i+1])
		}
	}
	cmd := exec.Command("qemu-system-x86_64", argv...)
	out, err := cmd.StdoutPipe()
	assert.NilError(b, err)
	start := time.Now()
	assert.NilError(b, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	r := bufio.NewReader(out)
	for {
		line, err := r.ReadString('\n')
		assert.NilError(b, err)
		if strings.Contains(line, "BARE INIT") {
			return time.Since(start)
		}
	}
}

// BenchmarkMainJob measures one trivial test from end to end, beside the floor
// of plain QEMU, in turn, and prints medians and their ratios.
func BenchmarkMainJob(b *testing.B) {
	ctx := context.Background()
	c, err := cache.Open(b.TempDir())
	assert.NilError(b, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	k := runnertest.Kernel(b, &m.Host)
	bin := runnertest.Build(b, "test", "-c", "-ldflags=-s -w", "./testdata/trivial")
	s, err := suiterun.Describe(ctx, bin)
	assert.NilError(b, err)
	vmlinux, err := k.Image.Vmlinux(ctx, c)
	assert.NilError(b, err)
	initrd, err := initramfs.Build(ctx, initramfs.Spec{Init: runnertest.Build(b, "build", "./testdata/bareinit")}, initramfs.Options{CacheDir: c.Root()})
	assert.NilError(b, err)

	var prepare, first, teardown, floor []time.Duration
	for i := range rounds + 1 {
		// As a process of its own would: the kernel is examined anew.
		began := time.Now()
		k, err := m.OpenKernel(ctx, k.Path, "", "")
		assert.NilError(b, err)
		open := time.Since(began)
		var fw firstWrite
		out := m.Exec(ctx, runner.Program{
			Kernel: k, Spec: s.Spec, Init: bin, Dir: b.TempDir(), Stdout: &fw,
			Run: wire.Run{Argv: []string{"/init", "-test.v"}, Env: []string{wire.GuestEnv + "=1"}},
		})
		assert.NilError(b, out.Infra)
		assert.Assert(b, out.EndMarker && out.Exited.Code == 0, "%+v", out)
		f := bare(b, vmlinux, initrd, out.Args)
		if i == 0 {
			continue // warms the caches
		}
		prepare = append(prepare, open+out.Prepare)
		first = append(first, out.First)
		teardown = append(teardown, out.Teardown)
		floor = append(floor, f)
	}
	for b.Loop() { // the figures above are the benchmark
		runtime.Gosched()
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(median(prepare)), "ms-prepare")
	b.ReportMetric(ms(median(first)), "ms-to-output")
	b.ReportMetric(ms(median(floor)), "ms-bare-qemu")
	b.ReportMetric(float64(median(first))/float64(median(floor)), "x-bare-qemu")
	b.ReportMetric(ms(median(teardown)), "ms-teardown")
}

// BenchmarkMemory4VMs reports the peak memory of kvmrun itself while it runs
// four VMs at once, with what it needs in the cache.
func BenchmarkMemory4VMs(b *testing.B) {
	kernel := os.Getenv("KVMRUN_KERNEL")
	if kernel == "" {
		b.Skip("KVMRUN_KERNEL is not set: name a kernel, as make bench does")
	}
	kvmrun := runnertest.Build(b, "build", "../../cmd/kvmrun")
	suite := runnertest.Build(b, "test", "-c", "-ldflags=-s -w", "./testdata/trivial")
	dir := b.TempDir()
	var kib float64
	for range 2 { // the first run fills the cache
		cmd := exec.Command(kvmrun, "run", "-cache", dir, "-kernel", kernel, "-kernel", kernel, "-kernel", kernel, "-kernel", kernel, "-suite", suite, "-j", "4")
		assert.NilError(b, cmd.Start())
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		tick := time.NewTicker(20 * time.Millisecond)
	poll:
		for {
			select {
			case err := <-done:
				assert.NilError(b, err)
				break poll
			case <-tick.C:
				// VmHWM is the peak resident set (proc_pid_status(5)).
				status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
				for _, l := range bytes.Split(status, []byte("\n")) {
					if _, err := fmt.Sscanf(string(l), "VmHWM: %f kB", &kib); err == nil {
						break
					}
				}
			}
		}
		tick.Stop()
	}
	for b.Loop() {
		runtime.Gosched()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(kib/1024, "MiB-peak")
}

// BenchmarkWarm measures a program from the request to its end, in turn in a machine
// that boots and in a fork of a warm one, and prints medians and their ratio. The
// program is another one each time.
func BenchmarkWarm(b *testing.B) {
	dir := b.TempDir()
	bin := runnertest.Build(b, "test", "-c", "-ldflags=-s -w", "./testdata/trivial")
	text, err := os.ReadFile(bin)
	assert.NilError(b, err)
	var cold, warm, first []time.Duration
	for i := range rounds + 1 {
		for _, how := range []string{"cold", "warm"} {
			// As a process of its own would: nothing is remembered but in the cache.
			m, err := runner.NewMachine(dir, "")
			assert.NilError(b, err)
			prog := filepath.Join(b.TempDir(), "program")
			assert.NilError(b, os.WriteFile(prog, append(text[:len(text):len(text)], how+strconv.Itoa(i)...), 0o700))
			began := time.Now()
			var fw firstWrite
			p := runner.Program{
				Kernel: runnertest.Kernel(b, &m.Host), Init: bin, Dir: b.TempDir(), Stdout: &fw,
				Files: []initramfs.File{{Host: prog, Guest: "/program", Runs: true}},
				Run:   wire.Run{Argv: []string{"/program", "-test.v"}, Env: []string{wire.GuestEnv + "=1"}},
			}
			exec := m.ExecWarm
			if how == "cold" {
				exec = m.Exec
			}
			out := exec(b.Context(), p)
			took := time.Since(began)
			assert.NilError(b, out.Infra)
			assert.Assert(b, out.EndMarker && out.Exited.Code == 0, "%+v", out)
			switch {
			case i == 0: // the caches are filled, and the warm machine is made
			case how == "cold":
				cold = append(cold, took)
			default:
				assert.Equal(b, out.Start, runner.StartedWarm)
				warm, first = append(warm, took), append(first, fw.at.Sub(began))
			}
		}
	}
	c, w := median(cold), median(warm)
	fmt.Printf("a changed program: %v when its VM boots, %v in a fork of a warm machine (first output after %v), ratio %.2f\n",
		c.Round(time.Millisecond), w.Round(time.Millisecond), median(first).Round(time.Millisecond), float64(w)/float64(c))
	b.ReportMetric(float64(w)/float64(c), "warm/cold")
}
