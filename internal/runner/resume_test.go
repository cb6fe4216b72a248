// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"bytes"
	"testing"

	"gotest.tools/v3/assert"
)

func TestRemaining(t *testing.T) {
	tests := []string{"TestA", "TestB", "TestAB", "TestC"}
	for _, c := range []struct {
		args, done, want []string
	}{
		{nil, nil, tests},
		{nil, []string{"TestA", "TestC"}, []string{"TestB", "TestAB"}},
		{[]string{"-test.run=^TestA"}, []string{"TestA"}, []string{"TestAB"}},
		{[]string{"-test.run=B$/sub"}, nil, []string{"TestB", "TestAB"}},
		{[]string{"-test.skip=B"}, nil, []string{"TestA", "TestC"}},
		{[]string{"-test.skip=B/sub"}, nil, tests},
		{[]string{"-test.run=C"}, []string{"TestC"}, nil},
	} {
		assert.DeepEqual(t, remaining(tests, c.args, c.done), c.want)
	}
}

func TestResumable(t *testing.T) {
	assert.Assert(t, resumable([]string{"-test.v=true", "-test.count=1", "-test.run=X", "-test.failfast=false"}))
	for _, a := range []string{"-test.count=2", "-test.bench=.", "-test.failfast=true", "-test.coverprofile=/x", "-test.shuffle=on", "-test.cpu=1,2"} {
		assert.Check(t, !resumable([]string{a}), a)
	}
}

// TestStreamJoinsTwoVMs compares whole output, written in pieces of every size.
func TestStreamJoinsTwoVMs(t *testing.T) {
	first := "=== RUN   TestA\nPASS\nhello\n--- FAIL: TestA (0.00s)\n=== RUN   TestB\n"
	second := "=== RUN   TestB\nno newline--- PASS: TestB (0.00s)\nPASS\n"
	want := "=== RUN   TestA\nPASS\nhello\n--- FAIL: TestA (0.00s)\n=== RUN   TestB\nno newline--- PASS: TestB (0.00s)\nFAIL\n"
	for size := 1; size < 40; size++ {
		var b bytes.Buffer
		s := newStream(&b, nil)
		for _, vm := range []struct {
			text     string
			poisoned bool
		}{{first, true}, {second, false}} {
			for i := 0; i < len(vm.text); i += size {
				_, err := s.Write([]byte(vm.text[i:min(len(vm.text), i+size)]))
				assert.NilError(t, err)
			}
			s.end(vm.poisoned, true)
		}
		assert.Equal(t, b.String(), want, "in pieces of %d", size)
	}
}

func TestStreamLeavesAGoodRunAlone(t *testing.T) {
	const text = "\x16=== RUN   TestA\nPASS\npartial \x16--- PASS: TestA (0.00s)\n\x16PASS\ncoverage: 3%\n"
	for size := 1; size < 20; size++ {
		var b bytes.Buffer
		s := newStream(&b, []string{"-test.v=test2json"})
		for i := 0; i < len(text); i += size {
			_, _ = s.Write([]byte(text[i:min(len(text), i+size)]))
		}
		s.end(false, false)
		assert.Equal(t, b.String(), text)
	}
}

// TestStreamPassesAtOnce: what cannot be one of the held lines is not delayed.
func TestStreamPassesAtOnce(t *testing.T) {
	var b bytes.Buffer
	s := newStream(&b, nil)
	_, _ = s.Write([]byte("progress..."))
	assert.Equal(t, b.String(), "progress...")
	_, _ = s.Write([]byte("\n=== RU"))
	assert.Equal(t, b.String(), "progress...\n")
	_, _ = s.Write([]byte("LE\n"))
	assert.Equal(t, b.String(), "progress...\n=== RULE\n")
}
