// SPDX-License-Identifier: Apache-2.0

package visible_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/visible"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "",
		"plain\ttext\n":           "plain\ttext\n",
		"Grüße, 世界 ½ 😀":           "Grüße, 世界 ½ 😀",
		"\x1b[2J\x1b]0;title\x07": `\x1b[2J\x1b]0;title\x07`,
		"over\rwritten":           `over\x0dwritten`,
		"back\bspace\x7f\x00":     `back\x08space\x7f\x00`,
		"\u009b31m":               `\u009b31m`,              // CSI as a C1 control
		"\x9b31m":                 `\x9b31m`,                // the same, not UTF-8
		"a\u202eb\u2066c\u200fd":  `a\u202eb\u2066c\u200fd`, // bidirectional
		"a\u200bb\ufeffc\u00add":  `a\u200bb\ufeffc\u00add`, // invisible
		"a\u2028b\u2029":          `a\u2028b\u2029`,         // ends of lines
		"\U000e0041\U0010ffff":    `\U000e0041\U0010ffff`,
		"\xff\xc3(\xed\xa0\x80":   `\xff\xc3(\xed\xa0\x80`,
		"\uFFFD":                  "\uFFFD", // a character like others
	} {
		assert.Equal(t, visible.Text(in), want, "%q", in)
	}
	assert.Equal(t, visible.Line("a\nb\r\n\tc\x1b"), `a b c\x1b`)
	assert.Equal(t, visible.Lines("a\r\nb\rc\n"), "a\nb\\x0dc\n")
	var b strings.Builder
	n, err := visible.Writer(&b).Write([]byte("x\x1b\r\n"))
	assert.NilError(t, err)
	assert.Equal(t, n, 4)
	assert.Equal(t, b.String(), "x\\x1b\n")
}

func TestShort(t *testing.T) {
	for in, want := range map[string]string{
		" a\x1b[31m\nb\xff\x7f\n":        "a [31m b?",
		strings.Repeat("x", 500):         strings.Repeat("x", 500),
		strings.Repeat("x", 499) + "äöü": strings.Repeat("x", 499) + "...", // no half letter
	} {
		assert.Equal(t, visible.Short(in), want)
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"", "plain\n", "\x1b[31m", "\u202e\u009b", "\xff\xfe", "\U000e0041", "a\r\nb"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out := visible.Text(s)
		if !utf8.ValidString(out) {
			t.Errorf("%q is not UTF-8", out)
		}
		for _, r := range out {
			// Said otherwise than Safe says it.
			if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Cs, unicode.Co, unicode.Zl, unicode.Zp)) {
				t.Errorf("%q has %U", out, r)
			}
		}
		if visible.Text(out) != out {
			t.Errorf("%q changes again", out)
		}
		if line := visible.Line(s); strings.ContainsAny(line, "\n\r\t") {
			t.Errorf("%q is not one line", line)
		}
	})
}
