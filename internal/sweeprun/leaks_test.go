// SPDX-License-Identifier: Apache-2.0

package sweeprun

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/sweep"
)

// lost is what 6.12's kmemleak prints about an object.
func lost(addr string, stack ...string) string {
	s := "unreferenced object 0x" + addr + ` (size 128):
  comm "pipes", pid 52, jiffies 4294894521
  hex dump (first 32 bytes):
    00 01 00 00 00 00 ad de 22 01 00 00 00 00 ad de  ........".......
  backtrace (crc 8d2f4b1e):
`
	for _, f := range stack {
		s += "    [<00000000f2e1b3c4>] " + f + "\n"
	}
	return s
}

func TestParseLeaks(t *testing.T) {
	a := []string{"__kmalloc_noprof+0x1f4/0x2b0", "alloc_pipe_info+0x12/0x340", "do_pipe2+0x1/0x20"}
	b := []string{"kmem_cache_alloc_noprof+0x1f4/0x2b0", "ext4_es_insert+0x1/0x2 [ext4]"}
	got := parseLeaks(lost("ffff888005c0c000", a...) + lost("ffff888005c0c100", b...) + lost("ffff888005c0c200", a...))
	assert.DeepEqual(t, got, []sweep.Leak{
		{At: strings.Join(a, " < "), Objects: 2, Title: "memory leak in do_pipe2", Raw: lost("ffff888005c0c000", a...)},
		{At: strings.Join(b, " < "), Objects: 1, Title: "memory leak in ext4_es_insert", Raw: lost("ffff888005c0c100", b...)},
	})
	assert.Equal(t, len(parseLeaks("")), 0)
	// The file was cut in front, and an object has no stack.
	got = parseLeaks("    [<0000000000000001>] x+0x1/0x2\n" + lost("1") + lost("2"))
	assert.Equal(t, len(got), 1)
	assert.Equal(t, got[0].Objects, 2)
	many := ""
	for i := range 2 * maxLost {
		many += lost("1", "f+0x1/0x2", strings.Repeat("g", i+1)+"+0x1/0x2")
	}
	assert.Equal(t, len(parseLeaks(many)), maxLost)
}

func FuzzParseLeaks(f *testing.F) {
	f.Add(lost("ffff888005c0c000", "a+0x1/0x2", "b+0x1/0x2 [m]"))
	f.Fuzz(func(t *testing.T, text string) {
		n := 0
		for _, l := range parseLeaks(text) {
			n += l.Objects
		}
		assert.Assert(t, n <= strings.Count(text, lostObject))
	})
}
