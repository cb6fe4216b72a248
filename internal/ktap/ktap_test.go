// SPDX-License-Identifier: Apache-2.0

package ktap_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"

	"github.com/kvmrun/kvmrun/internal/ktap"
)

// dump prints all of a document that tests look at.
func dump(d *ktap.Doc) string {
	var b strings.Builder
	fmt.Fprintf(&b, "failed: %v\ncount: %+v\n", d.Failed(), d.Count())
	dumpDoc(&b, d, "")
	return b.String()
}

func dumpDoc(b *strings.Builder, d *ktap.Doc, indent string) {
	line := func(format string, args ...any) { fmt.Fprintf(b, indent+format+"\n", args...) }
	line("doc %q planned=%d missing=%d", d.Version, d.Planned, d.Missing)
	if d.SkipAll != "" {
		line("skip all: %q", d.SkipAll)
	}
	if d.Bailed {
		line("bail out: %q", d.BailOut)
	}
	if d.Totals != nil {
		line("totals: %s", d.Totals)
	}
	for _, p := range d.Problems {
		line("problem: %s", p)
	}
	if d.Refused != nil {
		line("refused: %s", d.Refused)
	}
	for _, n := range d.Notes {
		line("note: %s", n)
	}
	for _, t := range d.Tests {
		line("- %s #%d %q ok=%v %s %q why=%q", t.Status(), t.Number, t.Label(), t.OK, t.Directive, t.Reason, t.Why())
		if t.Output != "" {
			line("  output %q", t.Output)
		}
		if t.YAML != "" {
			line("  yaml %q", t.YAML)
		}
		if t.Sub != nil {
			dumpDoc(b, t.Sub, indent+"    ")
		}
	}
	if d.Output != "" {
		line("output: %q", d.Output)
	}
}

func parseString(t *testing.T, s string) *ktap.Doc {
	t.Helper()
	d, err := ktap.Parse(strings.NewReader(s))
	assert.NilError(t, err)
	return d
}

func write(t *testing.T, d *ktap.Doc) string {
	t.Helper()
	var b bytes.Buffer
	assert.NilError(t, ktap.Emit(&b, d))
	return b.String()
}

func TestParse(t *testing.T) {
	files, err := filepath.Glob("testdata/parse/*.txt")
	assert.NilError(t, err)
	assert.Assert(t, len(files) > 0)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(name, func(t *testing.T) {
			in, err := os.ReadFile(file)
			assert.NilError(t, err)
			d := parseString(t, string(in))
			golden.Assert(t, dump(d), "parse/"+name+".golden")
			checkLaws(t, in)
		})
	}
}

// checkLaws checks what holds for any input.
func checkLaws(t *testing.T, in []byte) {
	t.Helper()
	p := ktap.NewParser(ktap.Config{})
	for _, b := range in {
		_, _ = p.Write([]byte{b})
	}
	d := p.Finish()
	whole := parseString(t, string(in))
	assert.Equal(t, dump(d), dump(whole), "pieces must not matter")

	// What was written parses to the same, and stays failed.
	once := write(t, d)
	back := parseString(t, once)
	assert.Equal(t, write(t, back), once)
	assert.Equal(t, back.Failed(), d.Failed(), "%s", once)
	assert.Equal(t, len(back.Problems), 0, "%q\n%s", back.Problems, once)
	assert.Equal(t, back.Missing, 0, "%s", once)
	if !d.Bailed && !d.Failed() {
		assert.Equal(t, back.Count(), d.Count(), "%s", once)
	}
}

func TestParseReadError(t *testing.T) {
	broken := errors.New("broken")
	d, err := ktap.Parse(iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("ok 1 a\n"))))
	assert.ErrorContains(t, err, "read TAP: ")
	assert.Equal(t, d.Failed(), false)
	d, err = ktap.Parse(iotest.ErrReader(broken))
	assert.ErrorIs(t, err, broken)
	assert.Assert(t, d.Empty())
}

func TestBounds(t *testing.T) {
	cfg := ktap.Config{MaxLine: 100, MaxTests: 10, MaxOutput: 50, MaxTotal: 1 << 20}
	parse := func(in string) *ktap.Doc {
		p := ktap.NewParser(cfg)
		_, _ = p.Write([]byte(in))
		return p.Finish()
	}
	d := parse("1..1\nok 1 " + strings.Repeat("n", 1<<20) + "\n")
	assert.Equal(t, d.Tests[0].Name, strings.Repeat("n", 95)+" [...]")
	assert.Assert(t, !d.Failed())

	d = parse("1..1\n" + strings.Repeat("out\n", 100) + "ok 1 a\n  ---\n" + strings.Repeat("  y: 1\n", 100) + "  ...\n")
	assert.Equal(t, d.Tests[0].Output, strings.Repeat("out\n", 12)+"[... the rest is left out ...]\n")
	assert.Assert(t, len(d.Tests[0].YAML) <= 50)
	assert.Assert(t, !d.Failed())

	var in strings.Builder
	in.WriteString("1..1000\n")
	for i := range 1000 {
		fmt.Fprintf(&in, "ok %d a\n", i+1)
	}
	d = parse(in.String())
	assert.Equal(t, len(d.Tests), 10)
	assert.Assert(t, d.Failed())
	assert.Equal(t, d.Problems[len(d.Problems)-1], "more than can be kept; 10 results were")

	// Nesting has an end too.
	in.Reset()
	for i := range 1000 {
		in.WriteString(strings.Repeat(" ", i) + "TAP version 13\n")
	}
	cfg = ktap.Config{}
	assert.Assert(t, parse(in.String()).Failed())

	// A huge plan costs nothing.
	d = parse("1..999999999\n")
	assert.Equal(t, d.Missing, 999999999)
	assert.Assert(t, len(write(t, d)) < 10000)
}

func TestEmit(t *testing.T) {
	d := &ktap.Doc{
		Tests: []*ktap.Test{
			{Name: "plain", OK: true},
			{Name: "evil # SKIP \\ name\nok 9 - injected\x1b[31m\xff", OK: false,
				YAML: "...\nok 3 - injected\n" + ktap.YAML([]ktap.Field{
					{"one", "a \"quoted\" <line>\x00"},
					{"many", "  first\n\n\tlast\n...\n"},
					{"open", "no\nnewline"},
					{"blank", "x\n\n"},
					{"nothing", "\n"},
				})},
			{Name: "why", OK: true, Directive: ktap.Skip, Reason: "needs # CONFIG_X"},
			{Directive: ktap.Skip, OK: true},
			{Name: "todo", Directive: ktap.Todo, Reason: "later"},
			{Name: "xfail", OK: true, Directive: ktap.XFail},
			{Name: "timeout", OK: true, Directive: ktap.Timeout, Reason: "45 seconds"},
			{Name: "group", OK: true, Sub: &ktap.Doc{Tests: []*ktap.Test{
				{Name: "inner", OK: true, Sub: &ktap.Doc{Tests: []*ktap.Test{{Name: "innermost", OK: true}}}},
			}}},
			{Name: "empty group", OK: true, Sub: &ktap.Doc{}},
		},
		Missing:  2,
		Problems: []string{"planned 3, saw 1"},
		Bailed:   true, BailOut: "no more\nok 1",
	}
	out := write(t, d)
	golden.Assert(t, out, "emit.golden")
	checkLaws(t, []byte(out))

	assert.ErrorContains(t, ktap.Emit(failingWriter{}, d), "write TAP: full")
	assert.Equal(t, write(t, &ktap.Doc{}), "TAP version 14\n1..0 # SKIP no tests\n")
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("full") }

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/parse/*.txt")
	assert.NilError(f, err)
	for _, file := range files {
		in, err := os.ReadFile(file)
		assert.NilError(f, err)
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < 4096 {
			checkLaws(t, in)
		}
		// With room for next to nothing it must stay as small as that.
		p := ktap.NewParser(ktap.Config{MaxLine: 30, MaxTests: 3, MaxOutput: 20, MaxTotal: 3000})
		_, _ = p.Write(in)
		d := p.Finish()
		assert.Assert(t, len(d.Tests) <= 3)
	})
}
