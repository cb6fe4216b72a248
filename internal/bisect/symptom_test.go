// SPDX-License-Identifier: Apache-2.0

package bisect

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/result"
)

func TestSymptom(t *testing.T) {
	t.Parallel()
	const kasan = "KASAN: slab-use-after-free in f"
	pass := result.Case{Name: "TestA", Status: result.StatusPass}
	fail := result.Case{Name: "TestA", Status: result.StatusFail, Reason: "a_test.go:1: got 1, want 2", Output: "lots"}
	skip := result.Case{Name: "TestB", Status: result.StatusSkip, Reason: "needs CONFIG_X"}
	splat := result.Splat{Title: kasan, Fingerprint: "0123456789abcdef", Raw: "BUG: KASAN\x1b[0m"}
	test := Symptom{Suite: "s", Run: "TestA"}
	for _, tc := range []struct {
		name   string
		s      Symptom
		job    result.Job
		want   Word
		reason string
	}{
		{"pass", test, result.Job{Verdict: result.VerdictPass, Cases: []result.Case{pass}}, Good, ""},
		{"fail", test, result.Job{Verdict: result.VerdictTestFailed, Cases: []result.Case{fail}}, Bad, "TestA: a_test.go:1"},
		{"subtest", test, result.Job{Verdict: result.VerdictTestFailed, Cases: []result.Case{
			{Name: "TestA", Status: result.StatusFail}, {Name: "TestA/x", Status: result.StatusFail, Reason: "why"}}}, Bad, "TestA/x: why"},
		{"in this way", Symptom{Suite: "s", Run: "TestA", Output: "want 2"}, result.Job{Verdict: result.VerdictTestFailed, Cases: []result.Case{fail}}, Bad, ""},
		{"in another way", Symptom{Suite: "s", Run: "TestA", Output: "want 3"}, result.Job{Verdict: result.VerdictTestFailed, Cases: []result.Case{fail}}, Other, "TestA failed in another way"},
		{"a splat is no failing test", test, result.Job{Verdict: result.VerdictKernelFailed, Cases: []result.Case{fail}, Splats: []result.Splat{splat}}, Other, "-symptom"},
		{"title", Symptom{Suite: "s", Splat: kasan}, result.Job{Verdict: result.VerdictKernelFailed, Splats: []result.Splat{{Title: "WARNING in g"}, splat}}, Bad, kasan},
		{"fingerprint", Symptom{Suite: "s", Splat: "0123456789abcdef"}, result.Job{Verdict: result.VerdictKernelFailed, Splats: []result.Splat{splat}}, Bad, kasan},
		{"at boot", Symptom{Suite: "s", Splat: kasan}, result.Job{Verdict: result.VerdictKernelFailed, BootFailed: true, Splats: []result.Splat{splat}}, Bad, kasan},
		{"another title", Symptom{Suite: "s", Splat: "KASAN: slab-use-after-free"}, result.Job{Verdict: result.VerdictKernelFailed, Splats: []result.Splat{splat}}, Other, kasan},
		{"expected", test, result.Job{Verdict: result.VerdictPass, Cases: []result.Case{pass}, Splats: []result.Splat{{Title: "W", Expected: true}}}, Good, ""},
		{"allowed, and another", test, result.Job{Verdict: result.VerdictKernelFailed, Cases: []result.Case{pass}, Splats: []result.Splat{{Title: "W", Allowed: "old"}, splat}}, Other, kasan},
		{"no splat", Symptom{Suite: "s", Splat: kasan}, result.Job{Verdict: result.VerdictPass, Cases: []result.Case{pass}}, Good, ""},
		{"no splat, but a failure", Symptom{Suite: "s", Splat: kasan}, result.Job{Verdict: result.VerdictTestFailed, Cases: []result.Case{fail}}, Other, ""},
		{"skipped", test, result.Job{Verdict: result.VerdictPass, Cases: []result.Case{pass, skip}}, Other, "TestB was skipped"},
		{"skipped below", test, result.Job{Verdict: result.VerdictPass, Cases: []result.Case{pass, {Name: "TestA/x", Status: result.StatusSkip}}}, Good, ""},
		{"skipped as named", Symptom{Suite: "s", Run: "TestA/x"}, result.Job{Verdict: result.VerdictPass, Cases: []result.Case{pass, {Name: "TestA/x", Status: result.StatusSkip}}}, Other, "TestA/x was skipped"},
		{"nothing ran", test, result.Job{Verdict: result.VerdictTestFailed, Reason: "no tests ran"}, Other, "no tests ran"},
		{"exit status", test, result.Job{Verdict: result.VerdictTestFailed, Cases: []result.Case{pass}, Reason: "status 2"}, Other, "status 2"},
		{"panic at boot", test, result.Job{Verdict: result.VerdictKernelFailed, BootFailed: true, Splats: []result.Splat{splat}}, BootFailed, ""},
		{"no sign of life", test, result.Job{Verdict: result.VerdictInfra, BootFailed: true, Reason: "did not boot"}, BootFailed, "did not boot"},
		{"no QEMU", test, result.Job{Verdict: result.VerdictInfra, Reason: "no QEMU"}, Infra, "no QEMU"},
		{"nobody judged", test, result.Job{Cases: []result.Case{fail}}, Infra, ""},
		{"hung", test, result.Job{Verdict: result.VerdictHung, Cases: []result.Case{fail}}, Other, "hung"},
		{"no end", test, result.Job{Verdict: result.VerdictNoEndMarker}, Other, "no-end-marker"},
	} {
		o := tc.s.Judge(tc.job)
		assert.Equal(t, o.Word, tc.want, "%s: %+v", tc.name, o)
		assert.Assert(t, strings.Contains(o.Reason, tc.reason), "%s: %+v", tc.name, o)
		assert.Assert(t, !strings.ContainsAny(o.Reason+o.Evidence, "\x1b\x00"), "%s: %q", tc.name, o)
	}
}

func TestSymptomCheck(t *testing.T) {
	t.Parallel()
	assert.NilError(t, Symptom{Suite: "s", Run: "T"}.Check())
	assert.NilError(t, Symptom{Suite: "s", Splat: "T"}.Check())
	assert.ErrorIs(t, Symptom{Suite: "s"}.Check(), ErrNoSymptom)
	assert.ErrorContains(t, Symptom{Run: "T"}.Check(), "-suite")
	assert.ErrorContains(t, Symptom{Suite: "s", Run: "T", Output: "("}.Check(), "bad -output")
	assert.ErrorContains(t, Symptom{Suite: "s", Splat: "T", Output: "x"}.Check(), "exclude")
	assert.Equal(t, Symptom{Suite: "s", Run: "T"}.String(), "s: T fails")
	assert.Equal(t, Symptom{Suite: "s", Run: "T", Output: "x"}.String(), `s: T fails saying "x"`)
	assert.Equal(t, Symptom{Suite: "s", Run: "T", Splat: "W"}.String(), `the kernel says "W" in s: T`)
	assert.Equal(t, Symptom{Suite: "s", Splat: "W"}.String(), `the kernel says "W"`)
}
