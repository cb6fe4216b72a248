// SPDX-License-Identifier: Apache-2.0

package sweeprun_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/runnertest"
	"github.com/kvmrun/kvmrun/internal/suiterun"
	"github.com/kvmrun/kvmrun/internal/sweep"
	"github.com/kvmrun/kvmrun/internal/sweeprun"
	"github.com/kvmrun/kvmrun/internal/wire"
)

func pipesJob(t *testing.T, k *machine.Kernel, arg string) sweeprun.SweepJob {
	t.Helper()
	return sweeprun.SweepJob{
		Program: runner.Program{Kernel: k, Init: runnertest.Build(t, "build", "../runner/testdata/pipes"), Dir: runnertest.LogDir(t), Run: wire.Run{Argv: []string{"/init", arg}}},
		Fault:   fault.Fault{Kind: fault.Slab, In: "do_pipe2"},
	}
}

// TestFaultsSweep sweeps a program that makes one pipe: where each fault hits is
// known.
func TestFaultsSweep(t *testing.T) {
	m, k := runnertest.DebugKernel(t)
	j := pipesJob(t, k, "one")
	o := sweeprun.SweepOptions{Points: sweeprun.PointsAll, Jobs: 2, Repro: "again %s"}
	ctx, cancel := context.WithCancel(t.Context())
	o.Progress = func(done, total, findings int, _ float64, _ time.Duration) {
		if done == 2 {
			cancel() // and continue
		}
	}
	part, err := sweeprun.Sweep(ctx, m, j, o)
	assert.Assert(t, errors.Is(err, context.Canceled), "%v", err)
	assert.Assert(t, len(part.Results) >= 2 && len(part.Results) < part.Planned, "%d of %d", len(part.Results), part.Planned)
	o.Resume = true
	rep, err := sweeprun.Sweep(t.Context(), m, j, o)
	assert.NilError(t, err)
	assert.Equal(t, rep.Spread, uint64(0), "the number of a pipe's allocations varies")
	assert.Assert(t, rep.Total >= 4 && rep.Planned == int(rep.Total), "%+v", rep)
	assert.Equal(t, rep.Silent, uint64(0))
	assert.Equal(t, len(rep.Findings()), 0, "%+v", rep.Findings())
	assert.Equal(t, rep.Counts[sweep.Infra]+rep.Counts[sweep.Unreached], 0, "%+v", rep.Counts)
	assert.Assert(t, rep.Counts[sweep.Degraded] >= 4, "%+v", rep.Counts)
	assert.Equal(t, rep.SitesHit, rep.Sites)
	for _, r := range rep.Results {
		assert.Equal(t, r.Hit, r.Site, "%+v", r)
		assert.Assert(t, cmp.Contains(strings.Join(r.Stack, "\n"), "do_pipe2+0x"))
	}
	left, err := filepath.Glob(filepath.Join(j.Program.Dir, "point-*"))
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0, "logs of clean points are kept: %v", left)
	j.Fault.Narrow = true
	_, err = sweeprun.Sweep(t.Context(), m, j, o)
	assert.Assert(t, errors.Is(err, sweep.ErrChanged), "%v", err)
}

// TestFaultsSweepRefused: a program that fails by itself is not swept, and its
// failure is shown.
func TestFaultsSweepRefused(t *testing.T) {
	m, k := runnertest.DebugKernel(t)
	_, err := sweeprun.Sweep(t.Context(), m, pipesJob(t, k, "fail"), sweeprun.SweepOptions{Points: sweeprun.PointsSites, Jobs: 1})
	var refused *sweep.Refused
	assert.Assert(t, errors.As(err, &refused), "%v", err)
	assert.ErrorContains(t, err, "it ended with status 3\n0 failed on purpose")
}

// TestFaultsSweepCaches: the objects of a slab cache that a fault makes more are a
// leak, without kmemleak. A file in /tmp is what is left.
func TestFaultsSweepCaches(t *testing.T) {
	m, k := runnertest.DebugKernel(t)
	j := pipesJob(t, k, "messy")
	j.Caches = []string{"shmem_inode_cache", "no_such_cache"}
	rep, err := sweeprun.Sweep(t.Context(), m, j, sweeprun.SweepOptions{Points: sweeprun.PointsN, Spread: 1, Jobs: 1})
	assert.NilError(t, err)
	f := rep.Findings()
	assert.Equal(t, len(f), 1, "%+v", rep.Results)
	assert.Equal(t, f[0].Verdict, sweep.Leaked)
	assert.Assert(t, cmp.Contains(f[0].Title, " objects of shmem_inode_cache are left, "))
}

// TestSweepFindsLeak: a test that passes on a kernel which loses memory for want
// of memory finds out by the sweep, and kmemleak says what is lost.
func TestSweepFindsLeak(t *testing.T) {
	path := os.Getenv("KVMRUN_LEAK_KERNEL")
	if path == "" {
		t.Skip("KVMRUN_LEAK_KERNEL is not set: name the vmlinux that `kvmrun kernel build -src debian:6.12 -profile debug -patch internal/sweeprun/testdata/leak.patch` makes")
	}
	c, err := cache.Open(filepath.Join(t.TempDir(), "cache"))
	assert.NilError(t, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	k, err := m.OpenKernel(t.Context(), path, "", "")
	assert.NilError(t, err)
	s, err := suiterun.Describe(t.Context(), runnertest.Build(t, "test", "-c", "../../suites/landlock"))
	assert.NilError(t, err)
	p := suiterun.SuiteProgram(k, s, nil)
	p.Dir = runnertest.LogDir(t)
	rep, err := sweeprun.Sweep(t.Context(), m, sweeprun.SweepJob{Program: p, Test: "^TestRulesetDescriptor$", Fault: fault.Fault{Kind: fault.Slab, In: "__x64_sys_landlock_create_ruleset"}},
		sweeprun.SweepOptions{Points: sweeprun.PointsSites, Jobs: 2})
	assert.NilError(t, err)
	f := rep.Findings()
	assert.Equal(t, len(f), 1, "%+v", rep.Counts)
	assert.Equal(t, f[0].Verdict, sweep.Leaked)
	assert.Equal(t, f[0].Title, "memory leak in create_ruleset")
	assert.Assert(t, cmp.Contains(strings.Join(f[0].Stack, "\n"), "anon_inode_getfd+0x"), "the fault")
	assert.Assert(t, cmp.Contains(f[0].Raw, "landlock_create_ruleset"), "the report")
	// The fault before there is a ruleset loses nothing.
	assert.Assert(t, rep.Counts[sweep.Leaked] == len(rep.Results)-1 && rep.Counts[sweep.Degraded] == 1, "%+v", rep.Counts)
	for _, r := range rep.Results {
		assert.Assert(t, !strings.Contains(strings.Join(r.Stack, "\n"), "__alloc_object"), "%+v", r)
	}
}

// TestSweepFindsMutant is the proof: a plain test, which passes on a kernel with
// a bug, finds it by the sweep.
func TestSweepFindsMutant(t *testing.T) {
	path := os.Getenv("KVMRUN_MUTANT_KERNEL")
	if path == "" {
		t.Skip("KVMRUN_MUTANT_KERNEL is not set: name the vmlinux that `kvmrun kernel build -src debian:6.12 -profile kasan -patch suites/ext4/mutants/E1-es-use-after-free.patch` makes")
	}
	c, err := cache.Open(filepath.Join(t.TempDir(), "cache"))
	assert.NilError(t, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	k, err := m.OpenKernel(t.Context(), path, "", "")
	assert.NilError(t, err)
	s, err := suiterun.Describe(t.Context(), runnertest.Build(t, "test", "-c", "../../suites/ext4"))
	assert.NilError(t, err)
	p := suiterun.SuiteProgram(k, s, nil)
	p.Dir = runnertest.LogDir(t)
	rep, err := sweeprun.Sweep(t.Context(), m, sweeprun.SweepJob{Program: p, Test: "^TestZeroRangeOfTheReport$/^4k$", Fault: fault.Fault{Kind: fault.Slab, Narrow: true}},
		sweeprun.SweepOptions{Points: sweeprun.PointsSites, Jobs: 2, Repro: "kvmrun sweep -at %s"})
	assert.NilError(t, err)
	f := rep.Findings()
	assert.Equal(t, len(f), 1, "%+v", rep.Counts)
	assert.Equal(t, f[0].Title, "KASAN: slab-use-after-free Read in ext4_es_insert_extent")
	assert.Assert(t, cmp.Contains(strings.Join(f[0].Stack, "\n"), "__es_remove_extent+0x"))
	assert.Equal(t, rep.Silent, uint64(0), "calls of unknown sites")
	t.Logf("%d calls, %d sites, %d hit; %v; %.2f points a second", rep.Total, rep.Sites, rep.SitesHit, rep.Counts, rep.PerSecond)

	at, err := sweep.ParseAt(f[0].At())
	assert.NilError(t, err)
	p.Dir = runnertest.LogDir(t)
	again, err := sweeprun.Sweep(t.Context(), m, sweeprun.SweepJob{Program: p, Test: "^TestZeroRangeOfTheReport$/^4k$", Fault: fault.Fault{Kind: fault.Slab, Narrow: true}},
		sweeprun.SweepOptions{At: &at, Jobs: 1})
	assert.NilError(t, err)
	assert.Equal(t, again.Findings()[0].Title, f[0].Title, "the point cannot be repeated")
}

// TestFaultsListing: every call that can fail is listed with its stack, also
// where the caller wants no message.
func TestFaultsListing(t *testing.T) {
	m, k := runnertest.DebugKernel(t)
	for _, f := range []fault.Fault{{Kind: fault.Slab}, {Kind: fault.Page}} {
		t.Run(f.String(), func(t *testing.T) {
			j := pipesJob(t, k, "one")
			j.Fault = f
			s, err := sweeprun.NewSweeper(t.Context(), m, j, true)
			assert.NilError(t, err)
			defer s.Close()
			l, again, err := s.List(t.Context())
			assert.NilError(t, err)
			t.Logf("%d calls (%d in another run), %d sites, %d of no known site", l.Total, again, len(l.Sites), l.Silent)
			assert.Assert(t, l.Total > 10 && len(l.Sites) > 5, "%+v", l)
			assert.Equal(t, l.Silent, uint64(0))
		})
	}
}
