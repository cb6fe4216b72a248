// SPDX-License-Identifier: Apache-2.0

package sweep_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/sweep"
)

// TestParseDumps reads what a 6.12 kernel printed, cut in its third message.
func TestParseDumps(t *testing.T) {
	log, err := os.ReadFile("testdata/listing.log")
	assert.NilError(t, err)
	got := sweep.ParseDumps(log)
	assert.Equal(t, len(got), 3)
	assert.Equal(t, got[0].Name, "failslab")
	assert.Equal(t, got[0].Times, int64(sweep.Start))
	assert.Equal(t, got[1].Times, int64(sweep.Start-1))
	assert.DeepEqual(t, got[0].Stack, []string{
		"kmem_cache_alloc_noprof+0x47/0x2a0", "__sigqueue_alloc+0x110/0x2e0", "__send_signal_locked+0x41d/0x980",
		"send_signal_locked+0x302/0x410", "do_notify_parent_cldstop+0x3f8/0x4a0", "get_signal+0xd14/0x1d70",
		"arch_do_signal_or_restart+0x74/0x450", "syscall_exit_to_user_mode+0x7f/0xd0", "do_syscall_64+0x43/0xb0",
		"entry_SYSCALL_64_after_hwframe+0x4b/0x53",
	})
	// In pieces of any size the same.
	for _, size := range []int{1, 7, 100} {
		var again []sweep.Dump
		d := sweep.Dumps{Each: func(x sweep.Dump) { again = append(again, x) }}
		for b := range slices.Chunk(log, size) {
			_, _ = d.Write(b)
		}
		assert.NilError(t, d.Close())
		assert.DeepEqual(t, again, got)
	}
}

func FuzzParseDumps(f *testing.F) {
	log, err := os.ReadFile("testdata/listing.log")
	assert.NilError(f, err)
	f.Add(log)
	f.Fuzz(func(t *testing.T, log []byte) {
		dumps := sweep.ParseDumps(log)
		l := sweep.Learn("failslab", dumps, sweep.Start)
		for _, p := range l.PerSite(func(string) bool { return true }) {
			_, _ = sweep.ParseAt(p.At())
		}
	})
}

// dump is the n-th call.
func dump(n int, stack ...string) sweep.Dump {
	return sweep.Dump{Name: "failslab", Times: sweep.Start - int64(n) + 1, Stack: stack}
}

func TestPoints(t *testing.T) {
	l := sweep.Learn("failslab", []sweep.Dump{
		dump(1, "alloc", "open", "entry"),
		dump(2, "alloc", "read", "entry"),
		// 3 printed nothing
		dump(4, "alloc", "open", "entry"),
		dump(5, "alloc", "open", "entry"),
		{Name: "fail_futex", Stack: []string{"x"}},
		dump(6, "alloc", "tail", "open", "entry"),
		dump(8, "alloc", "__alloc_object+0x2a/0x2a0", "__create_object+0x1d/0xb0", "open", "entry"),
	}, sweep.Start-8)
	assert.Equal(t, l.Total, uint64(8))
	assert.Equal(t, l.Own, uint64(1))
	assert.Equal(t, l.Silent, uint64(2))
	assert.Equal(t, len(l.Sites), 3)
	at := func(list []sweep.Point) (out []string) {
		for i, p := range list {
			assert.Equal(t, p.ID, i+1)
			out = append(out, fmt.Sprintf("%s site %d %s", p.At(), p.Site, p.Which))
			back, err := sweep.ParseAt(strings.Replace(p.At(), "#", "+0x1/0x2#", 1))
			assert.NilError(t, err)
			assert.Equal(t, back.Nth, p.Nth)
		}
		return out
	}
	// "open" is shared by two sites, hence the ranks.
	assert.DeepEqual(t, at(l.PerSite(func(string) bool { return true })), []string{
		"open#1 site 1 first", "open#2 site 1 second", "open#3 site 1 last", "read#1 site 2 first", "tail#1 site 3 first",
	})
	assert.DeepEqual(t, at(l.PerSite(func(f string) bool { return f == "alloc" })), []string{
		"alloc#1 site 1 first", "alloc#3 site 1 second", "alloc#4 site 1 last", "alloc#2 site 2 first", "alloc#5 site 3 first",
	})
	assert.DeepEqual(t, at(l.PerSite(func(string) bool { return false }))[:3], []string{"1 site 1 first", "4 site 1 second", "5 site 1 last"})
	assert.DeepEqual(t, at(l.Every(7, 0)), []string{"1 site 1 ", "2 site 2 ", "3 site 0 ", "4 site 1 ", "5 site 1 ", "6 site 3 ", "7 site 0 "})
	assert.DeepEqual(t, at(l.Every(7, 3)), []string{"2 site 2 ", "4 site 1 ", "6 site 3 "})
	assert.Equal(t, len(l.Every(7, 100)), 7)
	for _, bad := range []string{"", "0", "x", "-1", "f#1", "f+0x1", "f+0x1#0", "99999999999999999999", "f+0x1 #2"} {
		_, err := sweep.ParseAt(bad)
		assert.ErrorContains(t, err, "want a number", "%q", bad)
	}
}

// kernel is a simulated target: what comes of a fault at the n-th call.
type kernel struct {
	mu    sync.Mutex
	calls map[uint64]int
	at    func(n uint64, try int) sweep.Facts
}

func (k *kernel) Run(_ context.Context, p *sweep.Point, keep func(sweep.Facts) bool) (sweep.Facts, error) {
	var n uint64
	if p != nil {
		n = p.Nth
	}
	k.mu.Lock()
	k.calls[n]++
	try := k.calls[n]
	k.mu.Unlock()
	f := k.at(n, try)
	keep(f)
	return f, nil
}

func simulated() *kernel {
	return &kernel{calls: map[uint64]int{}, at: func(n uint64, try int) sweep.Facts {
		f := sweep.Facts{Fired: 1, Stack: []string{"alloc", "open"}, Objects: map[string]int{"inode": 3, "other": 100}, Log: "log"}
		f.Leaks = []sweep.Leak{{At: "boot+0x1/0x2", Objects: 2, Title: "memory leak in boot"}}
		switch n {
		case 0:
			f.Fired = 0
		case 1:
			f.Failed = "ended with status 1"
		case 2:
			f.Splats, f.Raw, f.Failed = []string{"KASAN: bad", "second"}, "BUG: KASAN: bad\r\n", "too"
		case 3:
			f.Panicked, f.Infra = true, "the control port is gone"
		case 4:
			f.Hang = "nothing was said for 1m"
		case 5:
			f.Broken = []string{"e2fsck: bad"}
		case 6:
			f.Objects["inode"] = 4
		case 7:
			if try == 1 { // freed late
				f.Objects["inode"] = 9
			}
		case 8:
			f.Fired, f.Stack = 0, nil
		case 9:
			f.Infra = "no memory for QEMU"
		case 11:
			f.Leaks = append(f.Leaks, sweep.Leak{At: "alloc+0x1/0x2", Objects: 1, Title: "memory leak in open", Raw: "unreferenced object"})
		}
		return f
	}}
}

func TestRun(t *testing.T) {
	k := simulated()
	base, err := sweep.DryRun(t.Context(), k, 2)
	assert.NilError(t, err)
	assert.DeepEqual(t, base, map[string]int{"inode": 3, "other": 100, "lost: boot+0x1/0x2": 2})
	l := sweep.Learn("failslab", []sweep.Dump{dump(1, "alloc", "open"), dump(2, "__alloc_object")}, sweep.Start-11)
	var told []int
	c := sweep.Config{Target: k, Listing: l, Points: l.Every(11, 0), Baseline: base, Jobs: 3, OnResult: func(r sweep.Result) error {
		told = append(told, r.ID)
		return nil
	}}
	results, err := c.Run(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, len(told), 11)
	var got []string
	for _, r := range results {
		got = append(got, fmt.Sprintf("%d %s: %s", r.Nth, r.Verdict, r.Title))
	}
	assert.DeepEqual(t, got, []string{
		"1 degraded: ended with status 1", "2 splat: KASAN: bad (and 1 more)", "3 splat: the kernel died without a report",
		"4 hang: nothing was said for 1m", "5 broken file system: e2fsck: bad",
		"6 leak: 4 objects of inode are left, 3 without a fault", "7 clean: ", "8 unreached: ", "9 infra: no memory for QEMU", "10 clean: ",
		"11 leak: memory leak in open",
	})
	assert.Equal(t, k.calls[11], 2)
	assert.Equal(t, k.calls[6], 2, "a leak has to show twice")
	assert.Equal(t, k.calls[2], 1)
	assert.Equal(t, results[0].Hit, 1)
	assert.Equal(t, results[10].Raw, "unreferenced object")

	r := sweep.Report{Subject: "ext4 TestX", Fault: "failslab", Repro: "kvmrun sweep -at %s -- x", PerSecond: 2}
	r.Fill(sweep.Header{Listing: l, Points: c.Points, Spread: 1}, results)
	assert.Assert(t, r.Failed())
	assert.Equal(t, len(r.Findings()), 6)
	var text bytes.Buffer
	assert.NilError(t, r.Text(&text, func(s []string) []string { return append(s, "at file.c:1") }))
	for _, want := range []string{
		"splat: KASAN: bad (and 1 more) (1 point)\n  injected at 2:\n    alloc\n    open\n    at file.c:1\n  the kernel:\n    BUG: KASAN: bad\n  kernel log: log\n  again: kvmrun sweep -at '2' -- x\n",
		"11 calls (or 1 fewer: the number varies) from 1 site (9 calls are of unknown sites, which do not count here) (1 calls are kmemleak's own, and left out); 1 sites tried, 1 hit\n",
		"11 of 11 points: 2 splat, 1 hang, 1 broken file system, 2 leak, 1 infra, 1 unreached, 1 degraded, 2 clean; 2.0 points a second\n",
	} {
		assert.Assert(t, cmp.Contains(text.String(), want))
	}
}

func TestRefused(t *testing.T) {
	k := simulated()
	k.at = func(uint64, int) sweep.Facts {
		return sweep.Facts{Failed: "it ended with status 1", Output: "--- FAIL: TestX\n", Log: "l"}
	}
	_, err := sweep.DryRun(t.Context(), k, 2)
	var refused *sweep.Refused
	assert.Assert(t, errors.As(err, &refused))
	assert.ErrorContains(t, err, "the test fails without any fault")
	assert.ErrorContains(t, err, "--- FAIL: TestX\nkernel log: l")
	assert.Equal(t, k.calls[0], 1)
}

// TestInterrupted interrupts a sweep and continues it: every point runs once,
// and the report is that of one that was not interrupted.
func TestInterrupted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state")
	_, _, _, err := sweep.Resume(file, "key")
	assert.Assert(t, errors.Is(err, fs.ErrNotExist))
	k := simulated()
	points := sweep.Listing{}.Every(20, 0)
	h := sweep.Header{Key: "key", Points: points, Baseline: map[string]int{"inode": 3}, Spread: 2}
	st, err := sweep.Create(file, h)
	assert.NilError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	c := sweep.Config{Target: k, Points: points, Baseline: h.Baseline, Jobs: 2, OnResult: func(r sweep.Result) error {
		if n++; n == 7 {
			cancel()
		}
		return st.Add(r)
	}}
	some, err := c.Run(ctx)
	assert.Assert(t, errors.Is(err, context.Canceled), "%v", err)
	assert.Assert(t, len(some) >= 7 && len(some) < 10, "%d", len(some))
	assert.NilError(t, st.Close())
	// It was killed in the middle of a line.
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	assert.NilError(t, err)
	_, err = f.WriteString(`{"id":20,"verd`)
	assert.NilError(t, err)
	assert.NilError(t, f.Close())

	_, _, _, err = sweep.Resume(file, "other")
	assert.Assert(t, errors.Is(err, sweep.ErrChanged), "%v", err)
	st, back, done, err := sweep.Resume(file, "key")
	assert.NilError(t, err)
	assert.Equal(t, len(done), len(some))
	_, _, _, err = sweep.Resume(file, "key")
	assert.ErrorContains(t, err, "another sweep is writing it")
	_, err = sweep.Create(file, h)
	assert.ErrorContains(t, err, "another sweep is writing it")
	assert.DeepEqual(t, back.Points, points)
	k.calls = map[uint64]int{}
	c.Done, c.OnResult = done, st.Add
	all, err := c.Run(t.Context())
	assert.NilError(t, err)
	assert.NilError(t, st.Close())
	assert.Equal(t, len(all), 20)
	for _, d := range done {
		assert.Equal(t, k.calls[d.Nth], 0, "point %d ran again", d.ID)
	}
	st, _, done, err = sweep.Resume(file, "key")
	assert.NilError(t, err)
	assert.NilError(t, st.Close())
	assert.Equal(t, len(done), 20)

	assert.NilError(t, os.WriteFile(file, []byte("garbage\n"), 0o644))
	_, _, _, err = sweep.Resume(file, "key")
	assert.ErrorContains(t, err, "no sweep's state")
}

// TestBrokenTarget: an error of the target ends the sweep at once.
func TestBrokenTarget(t *testing.T) {
	c := sweep.Config{Target: broken{}, Points: sweep.Listing{}.Every(100, 0), Jobs: 2}
	got, err := c.Run(t.Context())
	assert.ErrorContains(t, err, "no such function")
	assert.Equal(t, len(got), 0)
}

type broken struct{}

func (broken) Run(context.Context, *sweep.Point, func(sweep.Facts) bool) (sweep.Facts, error) {
	return sweep.Facts{}, errors.New("no such function")
}
