// SPDX-License-Identifier: Apache-2.0

package gotest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/gotest"
	"github.com/kvmrun/kvmrun/internal/result"
)

// buildSample builds the test binary of testdata/sample once and returns the
// directory it is in.
var buildSample = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gotest-sample-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "test", "-c", "-o", filepath.Join(dir, "sample.test"), ".")
	cmd.Dir = "testdata/sample"
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, errors.New(string(out))
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, _ := buildSample(); dir != "" {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// runSample runs the sample binary with package testing's lines marked and
// returns what it wrote.
func runSample(t *testing.T, args ...string) (stdout, stderr []byte) {
	t.Helper()
	dir, err := buildSample()
	assert.NilError(t, err)
	cmd := exec.Command("./sample.test", append([]string{"-test.v=test2json"}, args...)...)
	cmd.Dir = dir
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	var exit *exec.ExitError
	assert.Assert(t, err == nil || errors.As(err, &exit), "%v", err)
	return o.Bytes(), e.Bytes()
}

// event is the part of a test2json event that both sides have.
type event struct {
	Action  string
	Test    string
	Elapsed float64
	Output  string
	Key     string
	Value   string
}

// merge joins the pieces of neighbouring output, which the two parsers cut
// differently, and takes out what one of them adds.
func merge(events []event) []event {
	var out []event
	for _, e := range events {
		last := len(out) - 1
		switch {
		case e.Action == "start" || e.Test == "" && (e.Action == "pass" || e.Action == "fail"):
		case e.Action == "output" && last >= 0 && out[last].Action == "output" && out[last].Test == e.Test:
			out[last].Output += e.Output
		default:
			out = append(out, e)
		}
	}
	return out
}

func reference(t *testing.T, stdout []byte) []event {
	t.Helper()
	cmd := exec.Command("go", "tool", "test2json", "-t")
	cmd.Stdin = bytes.NewReader(stdout)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	assert.NilError(t, err)
	var events []event
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var e event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return merge(events)
		} else if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
}

func parse(stdout []byte, chunk int) []event {
	var events []event
	p := gotest.NewParser(func(e gotest.Event) {
		// test2json's JSON has U+FFFD for each invalid byte.
		var b []byte
		b, _ = json.Marshal(string(e.Output))
		var output string
		_ = json.Unmarshal(b, &output)
		events = append(events, event{e.Action.String(), e.Test, e.Elapsed.Seconds(), output, e.Key, e.Value})
	})
	for len(stdout) > 0 {
		n := min(chunk, len(stdout))
		_, _ = p.Write(stdout[:n])
		stdout = stdout[n:]
	}
	_ = p.Close()
	return merge(events)
}

var sampleRuns = map[string][]string{
	"all":       nil,
	"one":       {"-test.run=TestParallel/a"},
	"count":     {"-test.count=3", "-test.run=TestFa"},
	"bench":     {"-test.bench=.", "-test.benchtime=3x", "-test.run=Fuzz"},
	"benchonly": {"-test.bench=.", "-test.benchtime=3x", "-test.run=^$", "-test.cpu=1,2"},
	"none":      {"-test.run=NoSuchTest"},
	"list":      {"-test.list=."},
	"short":     {"-test.short", "-test.failfast"},
	"exit":      {"-die=exit"},
}

func TestParityWithTest2JSON(t *testing.T) {
	for name, args := range sampleRuns {
		t.Run(name, func(t *testing.T) {
			stdout, _ := runSample(t, args...)
			want := reference(t, stdout)
			for _, chunk := range []int{1 << 30, 4096, 7, 1} {
				if diff := cmp.Diff(want, parse(stdout, chunk)); diff != "" {
					if len(diff) > 4000 {
						diff = diff[:4000]
					}
					t.Fatalf("chunks of %d: (-test2json +ours)\n%s", chunk, diff)
				}
			}
		})
	}
}

// fold runs the sample and folds what it prints.
func fold(t *testing.T, args ...string) gotest.Summary {
	t.Helper()
	stdout, stderr := runSample(t, args...)
	f := gotest.NewFolder(gotest.FoldConfig{})
	p := gotest.NewParser(f.Event)
	_, _ = p.Write(stdout)
	_ = p.Close()
	_, _ = f.Stderr().Write(stderr)
	return f.Finish()
}

// outcome is a case in one line, without times and output.
func outcome(cases []result.Case) string {
	var b strings.Builder
	for _, c := range cases {
		b.WriteString(c.Status.String() + " " + c.Name)
		if c.Unearned {
			b.WriteString(" (unearned)")
		}
		if c.Reason != "" {
			b.WriteString(": " + c.Reason)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestFoldSample(t *testing.T) {
	const before = `pass TestParallel
pass TestParallel/a_b
skip TestParallel/skipped: needs CONFIG_X
pass TestParallel/deep
pass TestParallel/deep/er
pass TestFake
pass TestOdd
`
	const failing = `fail TestFail: sample_test.go:43: want 1
fail TestFail/sub: sample_test.go:45: sub failed
fail TestParent: a subtest failed
fail TestParent/sub: sample_test.go:50: sub failed
skip TestSilentSkip (unearned)
`
	const early = `fail TestFail: sample_test.go:43: want 1
fail TestParent: a subtest failed
fail TestParent/sub: sample_test.go:50: sub failed
skip TestSilentSkip (unearned)
`
	for _, test := range []struct {
		name  string
		args  []string
		want  string
		panic string
		final result.Status
	}{
		{"complete", nil, before + failing + `pass TestZ
pass TestWithDelay
pass FuzzSeed
pass FuzzSeed/seed#0
pass Example
fail Example_wrong: the example's output differs from its comment
`, "", result.StatusFail},
		{"panic", []string{"-die=panic"}, before + early + "fail TestZ: panic: boom\n", "panic: boom", 0},
		{"panic in a subtest", []string{"-die=subpanic"}, before + early +
			"fail TestZ: panic: inner boom\nfail TestZ/inner: panic: inner boom\n",
			"panic: inner boom", 0},
		{"panic in a goroutine", []string{"-die=goroutine"}, before + early +
			"fail TestZ: did not finish: the test binary ended with panic: elsewhere\n", "panic: elsewhere", 0},
		{"exit", []string{"-die=exit"}, before + early + "fail TestZ: did not finish\n", "", 0},
		{"timeout", []string{"-die=hang", "-test.timeout=2s"}, before + early +
			"fail TestZ: did not finish: panic: test timed out after 2s\n" +
			"fail TestZ/hung: did not finish: panic: test timed out after 2s\n", "panic: test timed out after 2s", 0},
		{"benchmarks", []string{"-test.bench=.", "-test.run=^$", "-test.benchtime=1x"}, `pass BenchmarkPlain
pass BenchmarkGroup
pass BenchmarkGroup/one
skip BenchmarkGroup/skip: why not
pass BenchmarkGroup/two
fail BenchmarkFail: sample_test.go:85: no
`, "", result.StatusFail},
		{"repeated", []string{"-test.count=2", "-test.run=TestWith"}, "pass TestWithDelay\npass TestWithDelay\n", "", result.StatusPass},
		{"none", []string{"-test.run=NoSuchTest"}, "", "", result.StatusPass},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := fold(t, test.args...)
			assert.Equal(t, outcome(s.Cases), test.want)
			assert.Equal(t, s.Panic, test.panic)
			assert.Equal(t, s.Final, test.final)
			assert.Equal(t, len(s.Notes), 0)
		})
	}
}

func TestFoldSampleOutput(t *testing.T) {
	s := fold(t, "-test.run=TestFail|TestOdd|TestFake|TestWithDelay")
	byName := make(map[string]result.Case)
	for _, c := range s.Cases {
		byName[c.Name] = c
	}
	assert.Equal(t, byName["TestFail"].Output,
		"    sample_test.go:42: before\n    sample_test.go:43: want 1\n        more of it\n")
	assert.Equal(t, byName["TestFail/sub"].Output, "    sample_test.go:45: sub failed\n")
	assert.Assert(t, strings.Contains(byName["TestFake"].Output, "--- PASS: TestNever (0.00s)\n=== RUN   TestNever\nPASS\n"))
	odd := byName["TestOdd"].Output
	assert.Assert(t, strings.HasPrefix(odd, "nul \x00 invalid \xff\xfe cut \xe2\x82 esc \x1b[31m cr\r\nlong long "))
	assert.Assert(t, strings.Contains(odd, "bytes left out"))
	assert.Assert(t, len(odd) < 5<<10, "%d bytes of a test that passed", len(odd))
	assert.Assert(t, byName["TestWithDelay"].Elapsed > 0)
}
