// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/fs"
)

func TestExpandFiles(t *testing.T) {
	dir := fs.NewDir(t, "files", fs.WithFile("a.img", ""), fs.WithFile("b.img", ""), fs.WithFile("[x].img", ""), fs.WithFile("@at", ""),
		fs.WithFile("list", "# comment\n\na.img:/x\r\n?.img\n"), fs.WithFile("bad", "a.img\nnone*\n"), fs.WithFile("long", strings.Repeat("a\n", 1<<20)),
		fs.WithDir("d", fs.WithFile("c:d", "")))
	t.Chdir(dir.Path())
	for in, want := range map[string][]string{
		"a.img":    {"a.img"},
		"none":     {"none"}, // said where it is opened
		"[ab].img": {"a.img", "b.img"},
		"?.img:/g": {"a.img:/g/a.img", "b.img:/g/b.img"},
		"[x].img":  {"[x].img"},
		"@at":      {"@at"},
		"@list":    {"a.img:/x", "a.img", "b.img"},
		"d":        {"d"},
	} {
		got, err := expandFiles([]string{in})
		assert.Check(t, err, in)
		assert.Check(t, is.DeepEqual(got, want), in)
	}
	for in, want := range map[string]string{
		"none*":   "-file none*: no file matches",
		"[":       "-file [: syntax error in pattern",
		"@none":   "-file @none: stat none: no such file",
		"@d":      "want a regular file of at most 1048576 bytes",
		"@long":   "want a regular file of at most 1048576 bytes",
		"@bad":    "bad:2: -file none*: no file matches",
		"d/c*:/x": "d/c:d has a colon",
	} {
		_, err := expandFiles([]string{in})
		assert.Check(t, is.ErrorContains(err, want), in)
	}
}
