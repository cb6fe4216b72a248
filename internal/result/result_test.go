// SPDX-License-Identifier: Apache-2.0

package result_test

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/result"
)

func TestJudge(t *testing.T) {
	splat := result.Splat{Title: "KASAN: use-after-free Read in f"}
	good := func(change func(*result.Facts)) result.Facts {
		f := result.Facts{EndMarker: true, TestsRun: 3}
		if change != nil {
			change(&f)
		}
		return f
	}
	for _, test := range []struct {
		name    string
		facts   result.Facts
		verdict result.Verdict
		reason  string
	}{
		{"nothing known", result.Facts{}, result.VerdictNoEndMarker, "the guest ended without saying that it was done"},
		{"end marker only", result.Facts{EndMarker: true}, result.VerdictTestFailed, "no tests ran"},
		{"tests but no end marker", result.Facts{TestsRun: 3}, result.VerdictNoEndMarker, "the guest ended without saying that it was done"},
		{"negative count", result.Facts{EndMarker: true, TestsRun: -1}, result.VerdictTestFailed, "no tests ran"},

		{"pass", good(nil), result.VerdictPass, "3 tests passed"},
		{"pass of one", result.Facts{EndMarker: true, TestsRun: 1}, result.VerdictPass, "1 test passed"},
		{"pass with skips", good(func(f *result.Facts) { f.TestsSkipped = 2 }), result.VerdictPass, "1 test passed, 2 skipped"},
		{"only skips", good(func(f *result.Facts) { f.TestsSkipped = 3 }), result.VerdictNothingTested, "nothing tested: 3 tests skipped"},
		{"no subtest", good(func(f *result.Facts) { f.NothingTested = "no subtest matches" }), result.VerdictNothingTested, "nothing tested: no subtest matches"},
		{"plan of nothing", result.Facts{EndMarker: true, Program: true, NothingTested: "the plan is 1..0"}, result.VerdictNothingTested, "nothing tested: the plan is 1..0"},
		{"skips by the kernel's configuration", result.Facts{EndMarker: true, TestsRun: 1, TestsSkipped: 1}, result.VerdictNothingTested, "nothing tested: 1 test skipped"},
		{"not run", good(func(f *result.Facts) { f.NotRun = []string{"TestB", "TestC"} }), result.VerdictTestFailed, "not run: TestB, TestC"},
		{"not run but skips", good(func(f *result.Facts) { f.TestsSkipped, f.NotRun = 3, []string{"TestB"} }), result.VerdictTestFailed, "not run: TestB"},
		{"unended", good(func(f *result.Facts) {
			f.Unended, f.NotRun = []string{"TestA"}, []string{"B", "C", "D", "E", "F", "G", "H"}
		}), result.VerdictTestFailed, "did not end: TestA; not run: B, C, D, E, F and 2 more"},
		{"failed and not run", good(func(f *result.Facts) { f.TestsFailed, f.NotRun = 1, []string{"TestB", "TestC"} }), result.VerdictTestFailed, "1 of 3 tests failed, 2 not run"},
		{"program", result.Facts{EndMarker: true, Program: true}, result.VerdictPass, "the program exited with status 0"},
		{"program with tests", good(func(f *result.Facts) { f.Program = true }), result.VerdictPass, "3 tests passed"},

		{"failed test", good(func(f *result.Facts) { f.TestsFailed = 1 }), result.VerdictTestFailed, "1 of 3 tests failed"},
		{"failed test of a program", good(func(f *result.Facts) { f.Program = true; f.TestsFailed = 1 }), result.VerdictTestFailed, "1 of 3 tests failed"},
		{"unearned skip", good(func(f *result.Facts) { f.UnearnedSkips = 1 }), result.VerdictTestFailed, "1 test skipped without a reason"},
		{"exit status", good(func(f *result.Facts) { f.ExitCode = 3 }), result.VerdictTestFailed, "the program exited with status 3 although no test failed"},
		{"exit status of a program", result.Facts{EndMarker: true, Program: true, ExitCode: 3}, result.VerdictTestFailed, "the program exited with status 3"},
		{"signal", good(func(f *result.Facts) { f.Signal = "SIGSEGV" }), result.VerdictTestFailed, "the program was killed by SIGSEGV"},

		{"no final line", good(func(f *result.Facts) { f.Unconcluded = true }), result.VerdictTestFailed, "the test output has no final PASS or FAIL"},
		{"hang", good(func(f *result.Facts) { f.Hung = "no output for 60s" }), result.VerdictHung, "no output for 60s"},
		{"deadline", good(func(f *result.Facts) { f.DeadlineExceeded = "ran out of 5m" }), result.VerdictHung, "ran out of 5m"},
		{"infra", good(func(f *result.Facts) { f.InfraErr = "no QEMU" }), result.VerdictInfra, "no QEMU"},
		{"unread log", good(func(f *result.Facts) { f.ScannerErr = "disk full" }), result.VerdictInfra, "the kernel log was not read to its end: disk full"},
		{"guest's fault", good(func(f *result.Facts) { f.GuestFault = "its agent failed" }), result.VerdictInfra, "its agent failed"},
		{"guest's fault after a failure", good(func(f *result.Facts) { f.GuestFault, f.TestsFailed = "its agent failed", 1 }), result.VerdictTestFailed, "1 of 3 tests failed"},
		{"unread log after a failure", good(func(f *result.Facts) { f.ScannerErr, f.ExitCode = "cut", 4 }), result.VerdictTestFailed, "the program exited with status 4"},
		{"panic", good(func(f *result.Facts) { f.Panicked = true }), result.VerdictKernelFailed, "the kernel panicked"},
		{"splat", good(func(f *result.Facts) { f.Splats = []result.Splat{splat} }), result.VerdictKernelFailed, splat.Title},
		{"splats", good(func(f *result.Facts) { f.Splats = []result.Splat{splat, {}, {}} }), result.VerdictKernelFailed, splat.Title + " (and 2 more)"},
		{"nameless splat", good(func(f *result.Facts) { f.Splats = []result.Splat{{}} }), result.VerdictKernelFailed, "kernel splat without a title"},
	} {
		t.Run(test.name, func(t *testing.T) {
			verdict, reason := result.Judge(test.facts)
			assert.Equal(t, verdict, test.verdict)
			assert.Equal(t, reason, test.reason)
		})
	}
}

// Every cause outranks all of those below it, whatever else is the case.
func TestJudgePrecedence(t *testing.T) {
	causes := []struct {
		verdict result.Verdict
		add     func(*result.Facts)
	}{
		{result.VerdictKernelFailed, func(f *result.Facts) { f.Splats = []result.Splat{{Title: "splat"}} }},
		{result.VerdictKernelFailed, func(f *result.Facts) { f.Panicked = true }},
		{result.VerdictInfra, func(f *result.Facts) { f.InfraErr = "infra" }},
		{result.VerdictInfra, func(f *result.Facts) { f.GuestFault = "its word" }},
		{result.VerdictInfra, func(f *result.Facts) { f.ScannerErr = "scanner" }},
		{result.VerdictHung, func(f *result.Facts) { f.Hung = "hung" }},
		{result.VerdictHung, func(f *result.Facts) { f.DeadlineExceeded = "deadline" }},
		{result.VerdictNoEndMarker, func(f *result.Facts) { f.EndMarker = false }},
		{result.VerdictTestFailed, func(f *result.Facts) { f.TestsFailed = 1 }},
		{result.VerdictTestFailed, func(f *result.Facts) { f.UnearnedSkips = 1 }},
		{result.VerdictTestFailed, func(f *result.Facts) { f.Signal = "SIGKILL" }},
		{result.VerdictTestFailed, func(f *result.Facts) { f.ExitCode = 1 }},
		{result.VerdictTestFailed, func(f *result.Facts) { f.Unconcluded = true }},
		{result.VerdictTestFailed, func(f *result.Facts) { f.NotRun = []string{"TestA"} }},
		{result.VerdictTestFailed, func(f *result.Facts) { f.TestsRun = 0 }},
		{result.VerdictNothingTested, func(f *result.Facts) { f.NothingTested = "nothing" }},
	}
	// All sets of causes: a set's verdict is that of its first member, and
	// only the empty set passes.
	for set := range 1 << len(causes) {
		f := result.Facts{EndMarker: true, TestsRun: 1}
		want := result.VerdictPass
		for i := len(causes) - 1; i >= 0; i-- {
			if set&(1<<i) != 0 {
				causes[i].add(&f)
				want = causes[i].verdict
			}
		}
		// But for one: the guest's word does not excuse what is known to have failed.
		seen := len(f.Splats) > 0 || f.Panicked || f.InfraErr != ""
		failed := f.TestsFailed > 0 || f.EndMarker && (f.ExitCode != 0 || f.Signal != "")
		if !seen && failed && f.GuestFault+f.ScannerErr != "" {
			want = result.VerdictTestFailed
		}
		got, reason := result.Judge(f)
		assert.Equal(t, got, want, "%+v", f)
		assert.Assert(t, reason != "")
	}
	for i := 1; i < len(causes); i++ {
		assert.Assert(t, causes[i-1].verdict >= causes[i].verdict, "the verdicts' order is not the rules'")
	}
}

func TestExitCode(t *testing.T) {
	job := func(vs ...result.Verdict) result.Run {
		var r result.Run
		for _, v := range vs {
			r.Jobs = append(r.Jobs, result.Job{Verdict: v})
		}
		return r
	}
	for _, test := range []struct {
		run  result.Run
		want int
	}{
		{job(), 3},
		{job(result.VerdictInvalid), 3},
		{job(result.Verdict(99)), 3},
		{job(result.VerdictPass), 0},
		{job(result.VerdictPass, result.VerdictPass), 0},
		{job(result.VerdictPass, result.VerdictInvalid), 3},
		{job(result.VerdictNothingTested), 1},
		{job(result.VerdictPass, result.VerdictNothingTested), 1},
		{result.Run{AllowNothing: true, Jobs: job(result.VerdictPass, result.VerdictNothingTested).Jobs}, 0},
		{result.Run{AllowNothing: true, Jobs: job(result.VerdictNothingTested, result.VerdictTestFailed).Jobs}, 1},
		{job(result.VerdictTestFailed), 1},
		{job(result.VerdictNoEndMarker), 1},
		{job(result.VerdictHung), 1},
		{job(result.VerdictKernelFailed), 1},
		{job(result.VerdictInfra), 3},
		{job(result.VerdictInfra, result.VerdictPass), 3},
		{job(result.VerdictPass, result.VerdictInfra, result.VerdictTestFailed), 1},
		{job(result.VerdictTestFailed, result.VerdictInfra), 1},
	} {
		assert.Equal(t, test.run.ExitCode(), test.want, "%+v", test.run)
	}
}

func TestNames(t *testing.T) {
	for s := result.StatusInvalid; s <= result.StatusNotRun; s++ {
		text, err := s.MarshalText()
		assert.NilError(t, err)
		var back result.Status
		assert.NilError(t, back.UnmarshalText(text))
		assert.Equal(t, back, s)
	}
	for v := result.VerdictInvalid; v <= result.VerdictKernelFailed; v++ {
		text, err := v.MarshalText()
		assert.NilError(t, err)
		var back result.Verdict
		assert.NilError(t, back.UnmarshalText(text))
		assert.Equal(t, back, v)
	}
	assert.Equal(t, result.Status(200).String(), "invalid")
	assert.Equal(t, result.Verdict(200).String(), "invalid")
	var s result.Status
	assert.ErrorContains(t, s.UnmarshalText([]byte("passed")), `parse status: unknown name "passed"`)
	var v result.Verdict
	assert.ErrorContains(t, v.UnmarshalText([]byte("")), `parse verdict: unknown name ""`)
}

func TestCount(t *testing.T) {
	got := result.Count([]result.Case{
		{Status: result.StatusPass}, {Status: result.StatusFail}, {}, {Status: 77},
		{Status: result.StatusSkip}, {Status: result.StatusSkip, Unearned: true}, {Status: result.StatusNotRun},
	})
	assert.Equal(t, got, result.Counts{Run: 6, Pass: 1, Fail: 3, Skip: 2, NotRun: 1, Unearned: 1})
}

// The JSON form keeps everything but a clock's location.
func TestJSONRoundTrip(t *testing.T) {
	want := result.Run{
		ID: "r1", Started: time.Unix(1700000000, 5).UTC(), Elapsed: time.Second, AllowNothing: true,
		Jobs: []result.Job{{
			ID: "6.12-ext4", Kernel: "/k/vmlinuz", Release: "6.12", Suite: "ext4", BootFailed: true, Accel: "tcg",
			Verdict: result.VerdictKernelFailed, Reason: "splat",
			Cases: []result.Case{{
				Name: "TestA/b", Status: result.StatusSkip, Reason: "needs CONFIG_X", Unearned: true,
				Output: "o\n", Elapsed: 3, Splats: []result.Splat{{Title: "t"}},
			}},
			TAP: &result.TAPCounts{Pass: 1, Fail: 2, Skip: 3, XFail: 4, Missing: 5},
			Splats: []result.Splat{{
				Title: "t", Kind: "KASAN", Frame: "f", Fingerprint: "p", Corrupted: true,
				Test: "TestA", Raw: "raw", Log: "console.log", Repro: "kvmrun run -run TestA", Start: 1, End: 2,
				Where: "CPU 0, init/1", Phase: "boot", Expected: true, Allowed: "known", Count: 2, Report: json.RawMessage(`{"title":"t"}`),
			}},
			Started: time.Unix(1700000001, 0).UTC(), BootTime: 1, Elapsed: 2, Dir: "/d",
			Notes: []string{"n"}, Repro: "kvmrun run",
		}},
	}
	b, err := json.Marshal(want)
	assert.NilError(t, err)
	var got result.Run
	assert.NilError(t, json.Unmarshal(b, &got))
	assert.DeepEqual(t, got, want)
	// A field that the sample above leaves out would go untested.
	for _, v := range []any{want, want.Jobs[0], want.Jobs[0].Cases[0], want.Jobs[0].Splats[0]} {
		rv := reflect.ValueOf(v)
		for i := range rv.NumField() {
			assert.Assert(t, !rv.Field(i).IsZero(), "%s.%s is zero in this test", rv.Type(), rv.Type().Field(i).Name)
		}
	}
}

// TestExcusedSplats: they fail nothing, but hide nothing either.
func TestExcusedSplats(t *testing.T) {
	good := result.Facts{EndMarker: true, TestsRun: 1}
	good.Splats = []result.Splat{{Title: "a", Expected: true}, {Title: "b", Allowed: "known"}}
	v, reason := result.Judge(good)
	assert.Equal(t, v, result.VerdictPass, reason)
	bad := good
	bad.Splats = append(bad.Splats, result.Splat{Title: "c"}, result.Splat{Title: "d"})
	v, reason = result.Judge(bad)
	assert.Equal(t, v, result.VerdictKernelFailed)
	assert.Equal(t, reason, "c (and 1 more)")
	good.Panicked = true
	v, _ = result.Judge(good)
	assert.Equal(t, v, result.VerdictKernelFailed)
}
