// SPDX-License-Identifier: Apache-2.0

package runner_test

import (
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/sweep"
	"github.com/kvmrun/kvmrun/internal/wire"
)

// BenchmarkSweep measures fresh machines a second, and the processor time of
// each: of a program that stands still before it makes a pipe, without a fault on KVMRUN_KERNEL, and at
// points of failslab on KVMRUN_DEBUG_KERNEL, beside that kernel's boot.
func BenchmarkSweep(b *testing.B) {
	for _, c := range []struct{ name, env string }{{"plain", "KVMRUN_KERNEL"}, {"points", "KVMRUN_DEBUG_KERNEL"}} {
		b.Run(c.name, func(b *testing.B) {
			path := os.Getenv(c.env)
			if path == "" {
				b.Skip(c.env + " is not set: name a kernel, as make bench and .ci/kernels do")
			}
			ch, err := cache.Open(b.TempDir())
			assert.NilError(b, err)
			m := &runner.Machine{Cache: ch}
			k, err := m.OpenKernel(b.Context(), path, "", "")
			assert.NilError(b, err)
			s, err := m.NewSweeper(b.Context(), runner.SweepJob{
				Program: runner.Program{Kernel: k, Init: goBuild(b, "build", "-ldflags=-s -w", "./testdata/pipes"), Dir: b.TempDir(), Run: wire.Run{Argv: []string{"/init", "held"}, Hold: wire.HoldStop}},
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
			for range 2 {
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
