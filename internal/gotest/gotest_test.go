// SPDX-License-Identifier: Apache-2.0

package gotest_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/gotest"
	"github.com/kvmrun/kvmrun/internal/result"
)

// foldText folds text in which @ stands for the marker.
func foldText(cfg gotest.FoldConfig, text string) gotest.Summary {
	f := gotest.NewFolder(cfg)
	p := gotest.NewParser(f.Event)
	_, _ = p.Write([]byte(strings.ReplaceAll(text, "@", "\x16")))
	_ = p.Close()
	return f.Finish()
}

func TestFoldHostile(t *testing.T) {
	for _, test := range []struct {
		name, in, want string
		final          result.Status
		notes          int
	}{
		{"nothing", "", "", 0, 0},
		{"unmarked lines are output",
			"=== RUN   TestA\n--- PASS: TestA (0.00s)\nPASS\n", "", 0, 0},
		{"a result is not believed when the test never began",
			"@--- PASS: TestA (0.00s)\n@PASS\n",
			"fail TestA: reported a result without having begun\n", result.StatusPass, 1},
		{"the worse of two results stands, pass first",
			"@=== RUN   TestA\n@--- PASS: TestA (0.00s)\n@--- FAIL: TestA (0.00s)\n@PASS\n",
			"fail TestA: reported two results: pass, then fail\n", result.StatusPass, 1},
		{"the worse of two results stands, fail first",
			"@=== RUN   TestA\n@--- FAIL: TestA (0.00s)\n@--- PASS: TestA (0.00s)\n@FAIL\n@PASS\n",
			"fail TestA: reported two results: fail, then pass\n", result.StatusFail, 1},
		{"skip is no way out of a failure",
			"@=== RUN   TestA\nx.go:1: why\n@--- SKIP: TestA (0.00s)\n@--- FAIL: TestA (0.00s)\n",
			"fail TestA: reported two results: skip, then fail\n", 0, 1},
		{"run twice while running",
			"@=== RUN   TestA\n@=== RUN   TestA\n@--- PASS: TestA (0.00s)\n@PASS\n", "pass TestA\n", result.StatusPass, 0},
		{"marker within a line", "@=== RUN   TestA\nabc@--- PASS: TestA (0.00s)\n@PASS\n", "pass TestA\n", result.StatusPass, 0},
		{"carriage returns", "@=== RUN   TestA\r\n@--- PASS: TestA (0.00s)\r\n@PASS\r\n", "pass TestA\n", result.StatusPass, 0},
		{"markers only", "@@@@\n@\n@@", "", 0, 0},
		{"cut within the final line", "@=== RUN   TestA\n@--- PASS: TestA (0.00s)\n@PASS", "pass TestA\n", 0, 0},
		{"cut within a result", "@=== RUN   TestA\n@--- PASS: TestA (0.0", "fail TestA: did not finish\n", 0, 0},
		{"nested in nothing", "@=== RUN   TestA\n@        --- PASS: TestA (0.00s)\n", "fail TestA: did not finish\n", 0, 0},
		{"absurd times", "@=== RUN   TestA\n@--- PASS: TestA (NaNs)\n@=== RUN   TestB\n@--- PASS: TestB (1e300s)\n@=== RUN   TestC\n@--- PASS: TestC (-1s)\n",
			"pass TestA\npass TestB\npass TestC\n", 0, 0},
		{"paused tests do not pass", "@=== RUN   TestA\n@=== PAUSE TestA\n@PASS\n", "fail TestA: did not finish\n", result.StatusPass, 0},
		{"a panic that was only printed", "@=== RUN   TestA\npanic: no\n@--- FAIL: TestA (0.00s)\n@FAIL\n", "fail TestA: panic: no\n", result.StatusFail, 0},
		{"subtests of a benchmark", "@=== RUN   BenchmarkA\n@=== RUN   BenchmarkA/b\n@=== RUN   BenchmarkB\n",
			"pass BenchmarkA\npass BenchmarkA/b\nfail BenchmarkB: did not finish\n", 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := foldText(gotest.FoldConfig{}, test.in)
			assert.Equal(t, outcome(s.Cases), test.want)
			assert.Equal(t, s.Final, test.final)
			assert.Equal(t, len(s.Notes), test.notes, "%q", s.Notes)
			for _, c := range s.Cases {
				assert.Equal(t, c.Elapsed, 0*c.Elapsed)
			}
		})
	}
}

func TestFolderRunning(t *testing.T) {
	f := gotest.NewFolder(gotest.FoldConfig{})
	p := gotest.NewParser(f.Event)
	steps := []struct {
		in      string
		running string
	}{
		{"", ""},
		{"\x16=== RUN   TestA\n", "TestA"},
		{"\x16=== RUN   TestA/x\n", "TestA/x"},
		{"\x16=== PAUSE TestA/x\n", "TestA"},
		{"\x16=== RUN   TestAB\n", "TestA TestAB"},
		{"\x16=== CONT  TestA/x\n", "TestA/x TestAB"},
		{"\x16--- PASS: TestA/x (0.00s)\n\x16=== NAME  TestA\n", "TestA TestAB"},
		{"\x16--- PASS: TestAB (0.00s)\n\x16=== NAME  \n", "TestA"},
	}
	for _, s := range steps {
		_, _ = p.Write([]byte(s.in))
		assert.Equal(t, strings.Join(f.Running(), " "), s.running, "%q", s.in)
	}
	n := f.Counts()
	assert.Equal(t, n, result.Counts{Run: 2, Pass: 2})
}

func TestFoldBounds(t *testing.T) {
	cfg := gotest.FoldConfig{MaxOutput: 1000, MaxPassed: 100, MaxTotal: 5000, MaxCases: 50, MaxNames: 2000}
	var in strings.Builder
	for i := range 100 {
		fmt.Fprintf(&in, "@=== RUN   Test%03d\n%s\n@--- FAIL: Test%03d (0.00s)\n", i, strings.Repeat("o", 3000), i)
	}
	s := foldText(cfg, in.String()+"@FAIL\n")
	assert.Equal(t, len(s.Cases), 51)
	last := s.Cases[50]
	assert.Equal(t, last.Status, result.StatusFail)
	assert.Equal(t, last.Reason, "50 more tests than can be remembered (50)")
	total := 0
	for _, c := range s.Cases {
		total += len(c.Output)
		assert.Assert(t, strings.Contains(c.Output, "bytes left out") || c.Output == "", "%q", c.Output)
	}
	assert.Assert(t, total < 5000+51*len("[... 123456 bytes left out ...]\n\n"), "%d bytes kept", total)
}

func TestFoldKeepsFailuresOverPasses(t *testing.T) {
	var in strings.Builder
	out := strings.Repeat("line of output\n", 20)
	for i := range 100 {
		fmt.Fprintf(&in, "@=== RUN   TestP%03d\n%s@--- PASS: TestP%03d (0.00s)\n", i, out, i)
		if i%20 == 0 {
			fmt.Fprintf(&in, "@=== RUN   TestF%03d\n%s@--- FAIL: TestF%03d (0.00s)\n", i, out, i)
		}
	}
	s := foldText(gotest.FoldConfig{MaxTotal: 4000}, in.String()+"@FAIL\n")
	for _, c := range s.Cases {
		if c.Status == result.StatusFail {
			assert.Equal(t, c.Output, out)
		}
	}
	assert.Equal(t, s.Cases[0].Output, "[... 300 bytes left out ...]\n")
	assert.Equal(t, s.Cases[len(s.Cases)-1].Output, out)
}

func TestFoldOutputHeadAndTail(t *testing.T) {
	var in strings.Builder
	in.WriteString("@=== RUN   TestA\n")
	for i := range 100000 {
		fmt.Fprintf(&in, "%06d\n", i)
	}
	s := foldText(gotest.FoldConfig{MaxOutput: 70}, in.String())
	assert.Equal(t, s.Cases[0].Output, "000000\n000001\n000002\n000003\n000004\n"+
		"[... 699930 bytes left out ...]\n099995\n099996\n099997\n099998\n099999\n")
}

// A test name may be as long as the longest line; a longer line is output.
func TestParserLongLines(t *testing.T) {
	for _, n := range []int{100, 4096, 60000, 70000, 3 << 20} {
		name := strings.Repeat("n", n)
		s := foldText(gotest.FoldConfig{}, "@=== RUN   "+name+"\n@=== RUN   TestB\n@--- PASS: TestB (0.00s)\n@PASS\n")
		want := 2
		if n > 65000 {
			want = 1
		}
		assert.Equal(t, len(s.Cases), want, "%d", n)
		assert.Equal(t, s.Cases[want-1].Status, result.StatusPass)
	}
}

// FuzzFold writes anything in any pieces: no output may be lost or invented,
// the pieces must not matter, and no case may be left undecided.
func FuzzFold(f *testing.F) {
	f.Add([]byte("\x16=== RUN   TestA\nout\x16--- PASS: TestA (0.00s)\n\x16=== NAME  \n\x16PASS\n"), uint16(3))
	f.Add([]byte("\x16=== RUN   TestA\n\x16=== PAUSE TestA\n\x16=== CONT  TestA\n\x16--- FAIL: TestA (0.00s)\n    x_test.go:1: log\n\x16FAIL\n"), uint16(1))
	f.Add([]byte("\x16=== ATTR  TestA k v\n\x16=== RUN   BenchmarkA\n\x16--- BENCH: BenchmarkA\n    \xe2\x82"), uint16(70))
	f.Add([]byte("panic: x\nrunning tests:\n\tTestA (1s)\n"), uint16(9))
	f.Fuzz(func(t *testing.T, in []byte, chunk uint16) {
		if chunk == 0 {
			return
		}
		whole, pieces := parse(in, len(in)), parse(in, int(chunk))
		assert.DeepEqual(t, whole, pieces)

		var output []byte
		folder := gotest.NewFolder(gotest.FoldConfig{MaxOutput: 64, MaxPassed: 8, MaxTotal: 200, MaxCases: 5, MaxNames: 100})
		p := gotest.NewParser(func(e gotest.Event) {
			output = append(output, e.Output...)
			folder.Event(e)
		})
		_, _ = p.Write(in)
		_ = p.Close()
		_, _ = folder.Stderr().Write(in)
		// All that may be missing from the output are markers and lines that
		// only name a test.
		rest := in
		for _, c := range output {
			i := bytes.IndexByte(rest, c)
			if i < 0 {
				if c == ' ' || c == '\n' { // of a completed NAME line
					continue
				}
				t.Fatalf("output has bytes that the input has not: %q", output)
			}
			rest = rest[i+1:]
		}
		folder.Running()
		s := folder.Finish()
		assert.Assert(t, len(s.Cases) <= 6)
		for _, c := range s.Cases {
			assert.Assert(t, c.Status != result.StatusInvalid)
			assert.Assert(t, len(c.Output) < 300)
			assert.Assert(t, len(c.Reason) < 2000)
		}
	})
}
