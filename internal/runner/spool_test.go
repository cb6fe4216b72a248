// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

func TestSpoolKeepsTheOrder(t *testing.T) {
	for _, size := range []int{0, 10, spoolMemory - 1, spoolMemory, 3*spoolMemory + 5} {
		s := NewSpool(t.TempDir())
		var want, got bytes.Buffer
		for want.Len() < size {
			part := bytes.Repeat([]byte{byte('a' + want.Len()%26)}, min(100_001, size-want.Len()))
			want.Write(part)
			n, err := s.Write(part)
			assert.NilError(t, err)
			assert.Equal(t, n, len(part))
		}
		s.Live(&got)
		want.WriteString("later")
		_, err := s.Write([]byte("later"))
		assert.NilError(t, err)
		s.Close()
		assert.Assert(t, bytes.Equal(got.Bytes(), want.Bytes()), "%d bytes", size)
	}
}

// TestSpoolIsBounded: of what is too much, the end and all results are kept.
func TestSpoolIsBounded(t *testing.T) {
	for _, piece := range []int{1000, 70_001} {
		s := NewSpool(t.TempDir())
		s.n = SpoolLimit - 10
		_, err := s.Write([]byte("beginning\n"))
		assert.NilError(t, err)
		s.n = SpoolLimit
		var text bytes.Buffer
		for i := range 3000 {
			fmt.Fprintf(&text, "%d\x16--- PASS: TestA/%d (0.00s)\n%s\n", i, i, strings.Repeat("x", 500))
		}
		for part := range slices.Chunk(text.Bytes(), piece) {
			n, err := s.Write(part)
			assert.NilError(t, err)
			assert.Equal(t, n, len(part))
			assert.Assert(t, len(s.tail) <= 2*spoolTail+piece && len(s.ours) <= spoolOwn)
		}
		s.n = 0 // there is no such file
		var got bytes.Buffer
		lost := s.Lost()
		s.Live(&got)
		s.Close()
		for i := range 3000 {
			assert.Equal(t, strings.Count(got.String(), fmt.Sprintf("\x16--- PASS: TestA/%d (", i)), 1)
		}
		assert.Assert(t, bytes.HasPrefix(got.Bytes(), []byte("beginning\n\n[kvmrun: ")), "%.100s", got.String())
		assert.Assert(t, bytes.HasSuffix(text.Bytes(), got.Bytes()[got.Len()-spoolTail:]))
		assert.Assert(t, lost > 1_000_000 && lost < int64(text.Len()), "%d", lost)
	}
}
