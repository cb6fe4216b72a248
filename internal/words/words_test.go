// SPDX-License-Identifier: Apache-2.0

package words_test

import (
	"os/exec"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/words"
)

func TestNearest(t *testing.T) {
	have := []string{"ext4", "ipe", "landlock", "pamcap", "uffdwp"}
	assert.Equal(t, words.Nearest("ext", have), "; nearest: ext4")
	assert.Assert(t, is.Contains(words.Nearest("landlok", have), "landlock"))
	assert.Equal(t, words.Nearest("zzzzzzzzzzzz", have), "")
}

// TestQuote asks a shell what becomes of its words.
func TestQuote(t *testing.T) {
	assert.Equal(t, words.Quote("TestA/b"), "TestA/b")
	assert.Equal(t, words.Quote("Test(A|B)"), "'Test(A|B)'")
	all := []string{"TestA/b", "Test(A|B)", "it's", "", "a b", "$HOME", "~", "*", "{a,b}", "-n", "`id`", "a\nb", `\`, "#x", "!", "a=b", "%1"}
	out, err := exec.Command("sh", "-c", "printf '%s\\0' "+words.QuoteAll(all)).Output()
	assert.NilError(t, err)
	want := ""
	for _, w := range all {
		want += w + "\x00"
	}
	assert.Equal(t, string(out), want)
}
