// SPDX-License-Identifier: Apache-2.0

package gotest

import (
	"bytes"
	"io"
	"testing"

	"gotest.tools/v3/assert"
)

// TestJoinerJoinsTwoVMs compares whole output, written in pieces of every size.
func TestJoinerJoinsTwoVMs(t *testing.T) {
	first := "=== RUN   TestA\nPASS\nhello\n--- FAIL: TestA (0.00s)\n=== RUN   TestB\n"
	second := "=== RUN   TestB\nno newline--- PASS: TestB (0.00s)\nPASS\n"
	want := "=== RUN   TestA\nPASS\nhello\n--- FAIL: TestA (0.00s)\n=== RUN   TestB\nno newline--- PASS: TestB (0.00s)\nFAIL\n"
	for size := 1; size < 40; size++ {
		var b bytes.Buffer
		s := NewJoiner(&b, nil, false)
		for _, vm := range []struct {
			text     string
			poisoned bool
		}{{first, true}, {second, false}} {
			for i := 0; i < len(vm.text); i += size {
				_, err := s.Write([]byte(vm.text[i:min(len(vm.text), i+size)]))
				assert.NilError(t, err)
			}
			s.End(vm.poisoned, true)
		}
		assert.Equal(t, b.String(), want, "in pieces of %d", size)
	}
}

func TestJoinerLeavesAGoodRunAlone(t *testing.T) {
	const text = "\x16=== RUN   TestA\nPASS\npartial \x16--- PASS: TestA (0.00s)\n\x16PASS\ncoverage: 3%\n"
	for size := 1; size < 20; size++ {
		var b bytes.Buffer
		s := NewJoiner(&b, []string{"-test.v=test2json"}, false)
		for i := 0; i < len(text); i += size {
			_, _ = s.Write([]byte(text[i:min(len(text), i+size)]))
		}
		s.End(false, false)
		assert.Equal(t, b.String(), text)
	}
}

// TestJoinerPassesAtOnce: what cannot be one of the held lines is not delayed.
func TestJoinerPassesAtOnce(t *testing.T) {
	var b bytes.Buffer
	s := NewJoiner(&b, nil, false)
	_, _ = s.Write([]byte("progress..."))
	assert.Equal(t, b.String(), "progress...")
	_, _ = s.Write([]byte("\n=== RU"))
	assert.Equal(t, b.String(), "progress...\n")
	_, _ = s.Write([]byte("LE\n"))
	assert.Equal(t, b.String(), "progress...\n=== RULE\n")
}

// TestJoinerBegun: a test that did begin, by the kernel log, is shown at once.
func TestJoinerBegun(t *testing.T) {
	for _, first := range []bool{true, false} {
		r, w := io.Pipe()
		s := NewJoiner(w, nil, false)
		write := func() { _, _ = s.Write([]byte("=== RUN   TestA\n")) }
		if first {
			s.Began("TestA")
			go write()
		} else {
			write()
			s.Began("TestA")
		}
		b := make([]byte, 100)
		n, err := r.Read(b)
		assert.NilError(t, err)
		assert.Equal(t, string(b[:n]), "=== RUN   TestA\n")
	}
	var b bytes.Buffer
	s := NewJoiner(&b, nil, false)
	_, _ = s.Write([]byte("=== RUN   TestA/sub\n=== RUN   TestB\n"))
	assert.Equal(t, b.String(), "=== RUN   TestA/sub\n")
}

// TestJoinerFails: that a test began is said once, wherever it got lost.
func TestJoinerFails(t *testing.T) {
	for _, c := range []struct{ v, before, want string }{
		{"true", "=== RUN   TestA\n", "=== RUN   TestA\n--- FAIL: TestA (0.00s)\n    kvmrun: why\n        a\n        b\n"},
		{"true", "", "=== RUN   TestA\n--- FAIL: TestA (0.00s)\n    kvmrun: why\n        a\n        b\n"},
		{"false", "", "--- FAIL: TestA (0.00s)\n    kvmrun: why\n        a\n        b\n"},
		{"test2json", "", "\x16=== RUN   TestA\n\x16=== NAME  TestA\n    kvmrun: why\n        a\n        b\n\x16--- FAIL: TestA (0.00s)\n"},
	} {
		for size := 1; size < 20; size++ {
			var b bytes.Buffer
			s := NewJoiner(&b, []string{"-test.v=" + c.v}, false)
			for i := 0; i < len(c.before); i += size {
				_, _ = s.Write([]byte(c.before[i:min(len(c.before), i+size)]))
			}
			s.End(false, false)
			s.Fail("TestA", "why", "a\r\n\nb")
			assert.Equal(t, b.String(), c.want)
		}
	}
}
