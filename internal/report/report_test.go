// SPDX-License-Identifier: Apache-2.0

package report_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"

	"github.com/kvmrun/kvmrun/internal/ktap"
	"github.com/kvmrun/kvmrun/internal/report"
	"github.com/kvmrun/kvmrun/internal/result"
)

// reporters are all formats in all variants.
var reporters = []struct {
	name  string
	write func(io.Writer, result.Run) error
}{
	{"tap", report.TAP},
	{"json", report.JSON},
	{"junit.xml", report.JUnit},
	{"md", report.GitHub},
	{"table", func(w io.Writer, r result.Run) error { return report.Table(w, r, report.TableOptions{}) }},
	{"table80", func(w io.Writer, r result.Run) error { return report.Table(w, r, report.TableOptions{Width: 80}) }},
	{"color", func(w io.Writer, r result.Run) error { return report.Table(w, r, report.TableOptions{Color: true}) }},
}

var start = time.Date(2025, 11, 23, 4, 5, 6, 7, time.UTC)

// evil is what a hostile guest might put into any text.
const evil = "e\x1b[2J\x9b\xff\x00\u009b\u202e\u2028\ufffe\r<!--]]>|`*_@x #1 \\"

func pass(name string, d time.Duration) result.Case {
	return result.Case{Name: name, Status: result.StatusPass, Elapsed: d}
}

func runs() map[string]result.Run {
	passed := result.Job{
		ID: "6.12-pamcap", Kernel: "/k/vmlinuz-6.12.117", Release: "6.12.117-cloud-amd64", Suite: "pamcap", Accel: "tcg",
		Verdict: result.VerdictPass, Reason: "3 tests passed", Started: start,
		Cases:    []result.Case{pass("TestA", time.Second), pass("TestA/sub", 10*time.Millisecond), pass("TestB", 0)},
		BootTime: 2100 * time.Millisecond, Elapsed: 4 * time.Second, Dir: "/runs/r1/6.12-pamcap",
	}
	skipped := passed
	skipped.ID, skipped.Suite, skipped.Dir = "6.12-ipe", "ipe", "/runs/r1/6.12-ipe"
	skipped.Reason = "nothing tested: 2 tests skipped"
	skipped.Cases = []result.Case{
		{Name: "TestBoot", Status: result.StatusSkip, Reason: "needs CONFIG_SECURITY_IPE"},
		{Name: "TestPolicy", Status: result.StatusSkip, Reason: "needs CONFIG_SECURITY_IPE"},
	}
	failedJob := result.Job{
		ID: "6.12-landlock", Kernel: "/k/vmlinuz-6.12.117", Release: "6.12.117-cloud-amd64", Suite: "landlock", Accel: "tcg",
		Verdict: result.VerdictTestFailed, Reason: "3 of 6 tests failed", Started: start.Add(time.Second),
		Cases: []result.Case{
			pass("TestFS", time.Second),
			{Name: "TestNet", Status: result.StatusFail, Reason: "a subtest failed", Elapsed: 75 * time.Second},
			pass("TestNet/connect", 0),
			{Name: "TestNet/bind", Status: result.StatusFail, Reason: "net_test.go:12: bind: got <nil>, want EACCES",
				Output: "    net_test.go:10: binding\n\n    net_test.go:12: bind: got <nil>, want EACCES\n    \ttabbed\n", Elapsed: 20 * time.Millisecond},
			{Name: "TestTSYNC", Status: result.StatusSkip, Reason: "needs Linux 7.0, this is 6.12.117"},
			{Name: "TestQuiet", Status: result.StatusSkip, Unearned: true},
		},
		BootTime: 2 * time.Second, Elapsed: 90 * time.Second, Dir: "/runs/r1/6.12-landlock",
		Notes: []string{"no KVM: /dev/kvm: permission denied"}, Repro: "kvmrun run -kernel /k/vmlinuz-6.12.117 -suite landlock",
	}
	splat := result.Splat{
		Title: "KASAN: slab-use-after-free Read in ext4_lookup", Kind: "KASAN", Frame: "ext4_lookup", Fingerprint: "abc123",
		Test: "TestRename", Repro: "kvmrun run -kernel /build/bzImage -suite ext4 -run ^TestRename$", Raw: "BUG: KASAN: slab-use-after-free in ext4_lookup+0x1/0x2\nCall Trace:\n ext4_lookup+0x1/0x2\n", Start: 100, End: 200,
	}
	kernelFailed := result.Job{
		ID: "7.0-ext4", Kernel: "/build/bzImage", Release: "7.0.0-rc1", Suite: "ext4", Accel: "kvm",
		Verdict: result.VerdictKernelFailed, Reason: splat.Title, Started: start,
		Cases:   []result.Case{{Name: "TestRename", Status: result.StatusFail, Reason: "did not finish", Splats: []result.Splat{splat}}},
		Splats:  []result.Splat{splat, {Title: "kernel BUG at fs/ext4/inode.c:1!", Corrupted: true}},
		Elapsed: 3700 * time.Second, Dir: "/runs/r1/7.0-ext4",
	}
	infra := result.Job{
		ID: "other-ext4", Kernel: "/other/bzImage", Release: "7.0.0-rc1", Suite: "ext4",
		Verdict: result.VerdictInfra, Reason: "start QEMU: qemu-system-x86_64: not found in PATH; apt-get install qemu-system-x86",
	}
	hung := result.Job{ID: "x", Kernel: "/k/vmlinuz-old", Suite: "uffdwp", Verdict: result.VerdictHung, Reason: "ran out of 5m0s", Elapsed: 300 * time.Second}

	hostileSplat := result.Splat{Title: evil, Kind: evil, Frame: evil, Test: evil, Raw: evil + "\n```\n" + evil}
	hostile := result.Job{
		ID: evil, Kernel: evil, Release: evil, Suite: evil, Accel: evil,
		Verdict: result.VerdictTestFailed, Reason: evil + "\nok 7 - two lines",
		Cases: []result.Case{
			{Name: evil, Status: result.StatusFail, Reason: evil + "\n" + evil, Output: evil + "\n...\nok 9 - injected\n", Splats: []result.Splat{hostileSplat}},
			{Name: "/", Status: result.StatusPass, Output: evil}, {Name: "", Status: result.StatusSkip, Reason: evil},
			{Name: "///a", Status: 77}, {Name: evil + "/sub", Status: result.StatusPass},
		},
		Splats: []result.Splat{hostileSplat}, Dir: evil, Notes: []string{evil}, Repro: evil,
	}
	diff := "    policy_test.go:5: audit records differ (-want +got):\n"
	for i := range 300 {
		diff += fmt.Sprintf("        + line %d\n", i)
	}
	unrun := result.Job{
		ID: "6.12-five", Kernel: "/k/vmlinuz-6.12.117", Release: "6.12.117-cloud-amd64", Suite: "five", Accel: "tcg",
		Verdict: result.VerdictTestFailed, Reason: "1 of 2 tests failed, 3 not run", Started: start,
		Cases: []result.Case{
			pass("TestA", time.Second),
			{Name: "TestB", Status: result.StatusFail, Reason: "policy_test.go:5: audit records differ (-want +got):", Output: diff},
			{Name: "TestC", Status: result.StatusNotRun, Reason: "the suite's time of 20s was used up"},
			{Name: "TestD", Status: result.StatusNotRun, Reason: "the suite's time of 20s was used up"},
			{Name: "TestE", Status: result.StatusNotRun},
		},
		Elapsed: 20 * time.Second, Dir: "/runs/r1/6.12-five",
	}
	nothing := skipped
	nothing.Verdict, nothing.Reason = result.VerdictNothingTested, "nothing tested: 2 tests skipped"
	return map[string]result.Run{
		"notrun":  {ID: "r5", Started: start, Elapsed: time.Second, Jobs: []result.Job{unrun}},
		"nothing": {ID: "r6", Started: start, Elapsed: time.Second, Jobs: []result.Job{passed, nothing}},
		"allowed": {ID: "r7", Started: start, Elapsed: time.Second, AllowNothing: true, Jobs: []result.Job{passed, nothing}},
		"empty":   {ID: "r0"},
		"passed":  {ID: "r1", Started: start, Elapsed: 8 * time.Second, Jobs: []result.Job{passed, skipped}},
		"one":     {ID: "r2", Started: start, Elapsed: 4 * time.Second, Jobs: []result.Job{passed}},
		"failed":  {ID: "r3", Started: start, Elapsed: time.Hour + 2*time.Minute, Jobs: []result.Job{passed, failedJob, kernelFailed, infra, hung}},
		"infra":   {ID: "r4", Started: start, Elapsed: time.Second, Jobs: []result.Job{passed, infra}},
		"hostile": {ID: evil, Started: start, Jobs: []result.Job{hostile, {}}},
	}
}

func TestGolden(t *testing.T) {
	for name, run := range runs() {
		for _, r := range reporters {
			t.Run(name+"."+r.name, func(t *testing.T) {
				var b bytes.Buffer
				assert.NilError(t, r.write(&b, run))
				checkSafe(t, b.String(), r.name == "color")
				golden.Assert(t, b.String(), name+"."+r.name)
			})
		}
	}
}

// checkSafe checks that out holds nothing that a terminal would act on.
func checkSafe(t *testing.T, out string, color bool) {
	t.Helper()
	assert.Assert(t, utf8.ValidString(out), "%q", out)
	if color {
		for _, sgr := range []string{"0", "1", "2", "31", "32", "33"} {
			out = strings.ReplaceAll(out, "\x1b["+sgr+"m", "")
		}
	}
	for _, r := range out {
		bad := r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r == 0x2028 || r == 0xfffe
		assert.Assert(t, !bad, "%U in %q", r, out)
	}
}

// checkAgree checks that no format says anything else than the exit status.
func checkAgree(t *testing.T, run result.Run) {
	t.Helper()
	var b bytes.Buffer
	assert.NilError(t, report.TAP(&b, run))
	doc, err := ktap.Parse(bytes.NewReader(b.Bytes()))
	assert.NilError(t, err)
	assert.Equal(t, len(doc.AllProblems()), 0, "%q", doc.AllProblems())
	assert.Equal(t, len(doc.Tests), max(1, len(run.Jobs)))
	bad := run.ExitCode() != result.ExitPass
	for _, j := range run.Jobs {
		for _, c := range j.Cases {
			bad = bad || c.Status != result.StatusPass && c.Status != result.StatusSkip || c.Unearned && c.Status == result.StatusSkip
		}
	}
	assert.Equal(t, doc.Failed(), bad, "%s", b.String())

	b.Reset()
	assert.NilError(t, report.JUnit(&b, run))
	var suites struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
		Suites   []struct {
			Cases []struct {
				Name string `xml:"name,attr"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	assert.NilError(t, xml.Unmarshal(b.Bytes(), &suites), "%s", b.String())
	assert.Equal(t, suites.Failures+suites.Errors > 0, bad)
	cases := 0
	for _, s := range suites.Suites {
		cases += len(s.Cases)
	}
	assert.Equal(t, suites.Tests, cases)

	b.Reset()
	assert.NilError(t, report.JSON(&b, run))
	var file struct {
		ExitCode int `json:"exit_code"`
	}
	assert.NilError(t, json.Unmarshal(b.Bytes(), &file))
	assert.Equal(t, file.ExitCode, run.ExitCode())
}

func TestFormatsAgree(t *testing.T) {
	for name, run := range runs() {
		t.Run(name, func(t *testing.T) { checkAgree(t, run) })
	}
}

func TestJSONRoundTrip(t *testing.T) {
	for name, run := range runs() {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			assert.NilError(t, report.JSON(&b, run))
			got, err := report.ReadJSON(bytes.NewReader(b.Bytes()))
			assert.NilError(t, err)
			if name != "hostile" && name != "empty" {
				assert.DeepEqual(t, got, run)
			}
			var again bytes.Buffer
			assert.NilError(t, report.JSON(&again, got))
			assert.Equal(t, again.String(), b.String())
		})
	}
}

func TestReadJSONErrors(t *testing.T) {
	for in, want := range map[string]string{
		"":                          "read run: EOF",
		"{":                         "read run: unexpected EOF",
		"[]":                        "read run: json: cannot unmarshal array",
		`{"format":"kvmrun-run/9"}`: `read run: format is "kvmrun-run/9", not "kvmrun-run/1"`,
		`{"format":"kvmrun-run/1","jobs":[{"verdict":"great"}]}`: `parse verdict: unknown name "great"`,
	} {
		_, err := report.ReadJSON(strings.NewReader(in))
		assert.ErrorContains(t, err, want)
	}
}

type failingWriter struct{}

var errFull = errors.New("no space left on device")

func (failingWriter) Write([]byte) (int, error) { return 0, errFull }

func TestWriteErrors(t *testing.T) {
	for _, r := range reporters {
		assert.ErrorIs(t, r.write(failingWriter{}, runs()["failed"]), errFull, r.name)
	}
}

func TestReportersDoNotChangeTheRun(t *testing.T) {
	for name := range runs() {
		run := runs()[name]
		for _, r := range reporters {
			assert.NilError(t, r.write(io.Discard, run))
		}
		assert.DeepEqual(t, run, runs()[name])
	}
}

// GitHub drops a step summary of more than 1 MiB.
func TestGitHubIsBounded(t *testing.T) {
	var run result.Run
	out := strings.Repeat(strings.Repeat("`x", 50)+"\n", 1000)
	for i := range 3000 {
		j := result.Job{Suite: fmt.Sprint("s", i), Verdict: result.VerdictTestFailed, Reason: strings.Repeat("|", 2000)}
		for k := range 20 {
			j.Cases = append(j.Cases, result.Case{Name: fmt.Sprint("Test", k), Status: result.StatusFail, Output: out})
		}
		run.Jobs = append(run.Jobs, j)
	}
	var b bytes.Buffer
	assert.NilError(t, report.GitHub(&b, run))
	assert.Assert(t, b.Len() < 1<<20, "%d bytes", b.Len())
	assert.Assert(t, strings.Contains(b.String(), "more jobs are left out here"))
	assert.Assert(t, strings.Contains(b.String(), "Further details are left out here"))
}

func TestTableIsBounded(t *testing.T) {
	j := result.Job{Suite: "s", Release: strings.Repeat("long", 50), Verdict: result.VerdictKernelFailed, Reason: strings.Repeat("word ", 50)}
	for i := range 100 {
		j.Splats = append(j.Splats, result.Splat{Title: fmt.Sprint("splat ", i)})
		j.Cases = append(j.Cases, result.Case{Name: fmt.Sprint("TestF", i), Status: result.StatusFail},
			result.Case{Name: fmt.Sprint("TestS", i), Status: result.StatusSkip, Reason: fmt.Sprint("needs ", i)})
	}
	var b bytes.Buffer
	assert.NilError(t, report.Table(&b, result.Run{Jobs: []result.Job{j}}, report.TableOptions{Width: 80}))
	golden.Assert(t, b.String(), "bounded.table80")
}

func TestFromTAP(t *testing.T) {
	const in = `TAP version 13
1..7
# selftests: landlock: base_test
# TAP version 13
# 1..3
# ok 1 a
# # why not
# not ok 2 b
ok 1 selftests: landlock: base_test
ok 2 # SKIP unsupported
ok 3 x # SKIP
not ok 4 y # XFAIL some day
# TAP version 13
# 1..1
# not ok 1 inner
not ok 5 group # TODO later
ok 6
`
	doc, err := ktap.Parse(strings.NewReader(in))
	assert.NilError(t, err)
	var b strings.Builder
	for _, c := range report.FromTAP(doc) {
		fmt.Fprintf(&b, "%s %s", c.Status, c.Name)
		if c.Unearned {
			b.WriteString(" (unearned)")
		}
		fmt.Fprintf(&b, ": %s\n", c.Reason)
	}
	golden.Assert(t, b.String(), "fromtap.txt")

	for in, want := range map[string]string{
		"TAP version 13\n1..0 # SKIP no Landlock\n": "skip (all tests): no Landlock",
		"1..2\nok 1 a\nBail out! no disk\n":         "fail (plan): bailed out: no disk",
	} {
		doc, err := ktap.Parse(strings.NewReader(in))
		assert.NilError(t, err)
		cases := report.FromTAP(doc)
		c := cases[len(cases)-1]
		assert.Equal(t, fmt.Sprintf("%s %s: %s", c.Status, c.Name, c.Reason), want)
	}
	assert.Equal(t, len(report.FromTAP(&ktap.Doc{Planned: -1})), 0)
}

// What TAP prints can be read back as the same cases.
func TestTAPRoundTrip(t *testing.T) {
	run := runs()["failed"]
	var b bytes.Buffer
	assert.NilError(t, report.TAP(&b, run))
	doc, err := ktap.Parse(&b)
	assert.NilError(t, err)
	for i, j := range run.Jobs {
		if len(j.Cases) == 0 {
			continue
		}
		want := make(map[string]result.Status)
		for _, c := range j.Cases {
			want[c.Name] = c.Status
			if c.Unearned {
				want[c.Name] = result.StatusFail
			}
		}
		got := make(map[string]result.Status)
		for _, c := range report.FromTAP(doc.Tests[i].Sub) {
			got[c.Name] = c.Status
		}
		assert.DeepEqual(t, got, want)
	}
}

// FuzzReporters puts anything into all texts: every format must stay safe,
// valid and of one opinion.
func FuzzReporters(f *testing.F) {
	f.Add(evil, "TestA/b", uint8(2), uint8(2))
	f.Add("plain", "TestA", uint8(1), uint8(1))
	f.Fuzz(func(t *testing.T, text, name string, status, verdict uint8) {
		splat := result.Splat{Title: text, Test: name, Raw: text}
		run := result.Run{ID: text, Jobs: []result.Job{{
			ID: text, Kernel: text, Release: name, Suite: text, Accel: name, Verdict: result.Verdict(verdict), Reason: text,
			Cases: []result.Case{
				{Name: "TestA", Status: result.StatusPass, Output: text},
				{Name: name, Status: result.Status(status), Reason: text, Output: text, Splats: []result.Splat{splat}},
				{Name: name + "/" + text, Status: result.StatusSkip, Reason: text, Unearned: status > 100},
			},
			Splats: []result.Splat{splat}, Dir: text, Notes: []string{text, name}, Repro: name,
		}}}
		for _, r := range reporters {
			var b bytes.Buffer
			assert.NilError(t, r.write(&b, run))
			checkSafe(t, b.String(), r.name == "color")
		}
		checkAgree(t, run)
	})
}
