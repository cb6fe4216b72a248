// SPDX-License-Identifier: Apache-2.0

package sweeprun_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/runnertest"
	"github.com/kvmrun/kvmrun/internal/sweep"
	"github.com/kvmrun/kvmrun/internal/sweeprun"
	"github.com/kvmrun/kvmrun/internal/wire"
)

// BenchmarkSweep measures fresh machines a second, and the processor time of
// each: of a program that stands still before it makes a pipe, without a fault on
// KVMRUN_KERNEL, and at points of failslab on KVMRUN_DEBUG_KERNEL, beside that
// kernel's boot.
func BenchmarkSweep(b *testing.B) {
	for _, c := range []struct{ name, env string }{{"plain", "KVMRUN_KERNEL"}, {"points", "KVMRUN_DEBUG_KERNEL"}} {
		b.Run(c.name, func(b *testing.B) {
			path := os.Getenv(c.env)
			if path == "" {
				b.Skip(c.env + " is not set: name a kernel, as make bench and .ci/kernels do")
			}
			ch, err := cache.Open(b.TempDir())
			assert.NilError(b, err)
			m := &runner.Machine{Host: machine.Host{Cache: ch}}
			k, err := m.OpenKernel(b.Context(), path, "", "")
			assert.NilError(b, err)
			s, err := sweeprun.NewSweeper(b.Context(), m, sweeprun.SweepJob{
				Program: runner.Program{Kernel: k, Init: runnertest.Build(b, "build", "-ldflags=-s -w", "../runner/testdata/pipes"), Dir: b.TempDir(), Run: wire.Run{Argv: []string{"/init", "held"}, Hold: wire.HoldStop}},
				Fault:   fault.Fault{Kind: fault.Slab},
			}, false)
			assert.NilError(b, err)
			defer s.Close()
			assert.Equal(b, s.Note, "")
			run := func(n int) {
				var p *sweep.Point
				if c.name == "points" {
					p = &sweep.Point{ID: n, Nth: uint64(n)}
				}
				f, err := s.Run(b.Context(), p, func(sweep.Facts) bool { return false })
				assert.Check(b, err == nil && f.Infra == "" && f.Hang == "" && len(f.Splats) == 0, "%+v", f)
			}
			run(1) // warms the host's caches
			const points = 40
			before, began := cpu(b), time.Now()
			var wg sync.WaitGroup
			next := make(chan int)
			for range s.AtATime(2) {
				wg.Go(func() {
					for n := range next {
						run(n)
					}
				})
			}
			for n := range points {
				next <- n + 1
			}
			close(next)
			wg.Wait()
			took := time.Since(began)
			for b.Loop() { // the figures above are the benchmark
				runtime.Gosched()
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(points/took.Seconds(), "points/s")
			b.ReportMetric(float64((cpu(b)-before).Milliseconds())/points, "cpu-ms/point")
			b.ReportMetric(float64(s.Boot.Milliseconds()), "ms-boot")
			b.ReportMetric(s.Boot.Seconds()/(took.Seconds()*2/points), "boots/point")
		})
	}
}

// BenchmarkSweepMany sweeps KVMRUN_SWEEP_POINTS points of a program of some
// hundred allocations on KVMRUN_DEBUG_KERNEL, two at a time, and compares the
// first tenth with the last: what does not stay the same there would not for
// more points either.
func BenchmarkSweepMany(b *testing.B) {
	points, _ := strconv.Atoi(os.Getenv("KVMRUN_SWEEP_POINTS"))
	path := os.Getenv("KVMRUN_DEBUG_KERNEL")
	if points < 20 || path == "" {
		b.Skip("set KVMRUN_SWEEP_POINTS to a number from 20 and KVMRUN_DEBUG_KERNEL to a kernel with failslab; 5000 points take a quarter of an hour under TCG")
	}
	ch, err := cache.Open(b.TempDir())
	assert.NilError(b, err)
	m := &runner.Machine{Host: machine.Host{Cache: ch}}
	k, err := m.OpenKernel(b.Context(), path, "", "")
	assert.NilError(b, err)
	dir := b.TempDir()
	s, err := sweeprun.NewSweeper(b.Context(), m, sweeprun.SweepJob{
		Program: runner.Program{Kernel: k, Init: runnertest.Build(b, "build", "-ldflags=-s -w", "../runner/testdata/pipes"), Dir: dir, Run: wire.Run{Argv: []string{"/init", "many"}, Hold: wire.HoldStop}},
		Fault:   fault.Fault{Kind: fault.Slab},
	}, false)
	assert.NilError(b, err)
	defer s.Close()
	assert.Equal(b, s.Note, "")
	state, err := sweep.Create(filepath.Join(b.TempDir(), "state"), sweep.Header{})
	assert.NilError(b, err)
	c := sweep.Config{Target: s, Jobs: s.AtATime(2)}
	for i := range points {
		const calls = 400 // the program has more
		c.Points = append(c.Points, sweep.Point{ID: i + 1, Nth: uint64(i%calls + 1)})
	}
	type sample struct {
		at                             time.Time
		cpu                            time.Duration
		rss, available, fds, gor, logs int
	}
	look := func() (o sample) {
		runtime.GC()
		o.at, o.cpu, o.rss, o.available, o.gor = time.Now(), cpu(b), residentKiB(b, "VmRSS"), m.FreeMiB(), runtime.NumGoroutine()
		for d, n := range map[string]*int{"/proc/self/fd": &o.fds, dir: &o.logs} {
			entries, err := os.ReadDir(d)
			assert.NilError(b, err)
			*n = len(entries)
		}
		return o
	}
	verdicts := map[sweep.Verdict]int{}
	var at []sample // each tenth's end
	began := look()
	c.OnResult = func(r sweep.Result) error {
		verdicts[r.Verdict]++
		n := 0
		for _, k := range verdicts {
			n += k
		}
		if n%(points/10) == 0 {
			at = append(at, look())
			o := at[len(at)-1]
			b.Logf("%d points after %v: %d KiB resident, %d MiB available, %d descriptors, %d goroutines, %d files; %v",
				n, o.at.Sub(began.at).Round(time.Second), o.rss, o.available, o.fds, o.gor, o.logs, verdicts)
		}
		return state.Add(r)
	}
	results, err := c.Run(b.Context())
	assert.NilError(b, err)
	assert.NilError(b, state.Close())
	assert.Equal(b, len(results), points)
	ended := look()
	for b.Loop() { // the figures above are the benchmark
		runtime.Gosched()
	}
	first, before, last := at[0], at[8], at[9]
	rate := func(from, to sample) float64 { return float64(points/10) / to.at.Sub(from.at).Seconds() }
	each := func(from, to sample) float64 { return float64((to.cpu - from.cpu).Milliseconds()) / float64(points/10) }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(rate(began, first), "points/s-first")
	b.ReportMetric(rate(before, last), "points/s-last")
	b.ReportMetric(each(began, first), "cpu-ms/point-first")
	b.ReportMetric(each(before, last), "cpu-ms/point-last")
	b.ReportMetric(float64(residentKiB(b, "VmHWM"))/1024, "MiB-peak")
	b.ReportMetric(float64(last.rss-first.rss)/1024, "MiB-grown")
	b.ReportMetric(float64(began.available-ended.available), "MiB-available-less")
	// Two machines are under way at each tenth's end, each with some of these.
	assert.Check(b, ended.fds <= began.fds && ended.gor <= began.gor+2, "descriptors: %d, then %d; goroutines: %d, then %d", began.fds, ended.fds, began.gor, ended.gor)
}

// residentKiB is a line of proc_pid_status(5) of this process: VmRSS or VmHWM.
func residentKiB(b *testing.B, name string) (kib int) {
	b.Helper()
	text, err := os.ReadFile("/proc/self/status")
	assert.NilError(b, err)
	_, rest, _ := strings.Cut(string(text), name+":")
	_, err = fmt.Sscan(rest, &kib)
	assert.NilError(b, err)
	return kib
}

// cpu is the processor time of this process and of those that have ended.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var sum time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var r syscall.Rusage
		assert.NilError(b, syscall.Getrusage(who, &r))
		sum += time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	return sum
}
