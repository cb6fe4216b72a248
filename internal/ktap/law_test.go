// SPDX-License-Identifier: Apache-2.0

package ktap_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/ktap"
)

// maker makes random documents, as the kernel and its tools print them.
type maker struct{ *rand.Rand }

func (m maker) doc(depth int) *ktap.Doc {
	d := &ktap.Doc{}
	for i := range 1 + m.IntN(4) {
		t := &ktap.Test{Name: fmt.Sprintf("t%d.%c", i, 'a'+m.IntN(26)), OK: true}
		switch m.IntN(12) {
		case 0:
			t.OK = false
		case 1:
			t.Directive, t.Reason = ktap.Skip, "no device"
		case 2:
			t.OK, t.Directive, t.Reason = false, ktap.Todo, "later"
		}
		if depth > 0 && m.IntN(3) == 0 {
			t.Sub = m.doc(depth - 1)
			t.OK, t.Directive = !t.Sub.Failed(), ktap.None
		}
		if m.IntN(6) == 0 {
			t.YAML = "at: \"x.c:1\"\ntext: |\n  some words\n\n  more words\n"
		}
		d.Tests = append(d.Tests, t)
	}
	return d
}

// print prints d in the given form.
func (m maker) print(form string, d *ktap.Doc) string {
	var b strings.Builder
	switch form {
	case "tap14":
		var out bytes.Buffer
		_ = ktap.Emit(&out, d)
		return out.String()
	case "kunit":
		noTodo(d)
		m.kunit(&b, d, "", "")
		return b.String()
	case "dmesg": // with a time and a caller on each line
		noTodo(d)
		m.kunit(&b, d, "", "")
		out, n := "", 0
		for l := range strings.Lines(b.String()) {
			n += m.IntN(3)
			out += fmt.Sprintf("[   12.%06d][  T%d] %s", n, 100+m.IntN(2), l)
		}
		return out
	case "perl":
		m.perl(&b, d, "")
		return b.String()
	case "node":
		b.WriteString("TAP version 13\n")
		m.node(&b, d, "")
		all := countLines(d)
		fmt.Fprintf(&b, "# tests %d\n# suites 0\n# pass %d\n# fail %d\n# cancelled 0\n", all.Total(), all.Pass, all.Fail)
		return b.String()
	case "braces":
		if m.IntN(2) == 0 {
			b.WriteString("TAP version 14\n")
		}
		m.braces(&b, d, "")
		return b.String()
	}
	// kselftest's runner, the groups of the second level flat.
	fmt.Fprintf(&b, "TAP version 13\n1..%d\n", len(d.Tests))
	for i, t := range d.Tests {
		fmt.Fprintf(&b, "# timeout set to 45\n# selftests: x: %s\n", t.Name)
		if t.Sub != nil {
			fmt.Fprintf(&b, "# TAP version 13\n# 1..%d\n", len(t.Sub.Tests))
			var pass, fail, skip, xfail int
			for j, s := range t.Sub.Tests {
				s.Sub, s.YAML = nil, ""
				if s.Directive == ktap.Todo {
					s.Directive, s.OK = ktap.XFail, true
				}
				fmt.Fprintf(&b, "# %s\n", m.result(j+1, s))
				switch s.Status() {
				case ktap.StatusPass:
					pass++
				case ktap.StatusSkip:
					skip++
				case ktap.StatusXFail:
					xfail++
				default:
					fail++
				}
			}
			fmt.Fprintf(&b, "# # Totals: pass:%d fail:%d xfail:%d xpass:0 skip:%d error:0\n", pass, fail, xfail, skip)
			t.OK = fail == 0
		}
		t.YAML = ""
		fmt.Fprintf(&b, "%s\n", m.result(i+1, t))
	}
	return b.String()
}

// perl prints what Test::More does, whose plan may come first or last.
func (m maker) perl(b *strings.Builder, d *ktap.Doc, indent string) {
	first := m.IntN(2) == 0
	if first {
		fmt.Fprintf(b, "%s1..%d\n", indent, len(d.Tests))
	}
	for i, t := range d.Tests {
		t.YAML = ""
		if t.Sub != nil {
			fmt.Fprintf(b, "%s# Subtest: %s\n", indent, t.Name)
			m.perl(b, t.Sub, indent+"    ")
		}
		fmt.Fprintf(b, "%s%s\n", indent, m.dashed(i+1, t))
		if !t.OK {
			fmt.Fprintf(b, "%s#   Failed test '%s'\n%s#   at x.t line %d.\n", indent, t.Name, indent, i)
		}
	}
	if !first {
		fmt.Fprintf(b, "%s1..%d\n", indent, len(d.Tests))
	}
}

// node prints what node's test runner does: an announcement and diagnostics for
// each test, and the plan last.
func (m maker) node(b *strings.Builder, d *ktap.Doc, indent string) {
	for i, t := range d.Tests {
		fmt.Fprintf(b, "%s# Subtest: %s\n", indent, t.Name)
		if t.Sub != nil {
			m.node(b, t.Sub, indent+"    ")
		}
		fmt.Fprintf(b, "%s%s\n%[1]s  ---\n%[1]s  duration_ms: 0.5\n", indent, m.dashed(i+1, t))
		if !t.OK {
			fmt.Fprintf(b, "%s  error: |-\n%[1]s    1..3\n%[1]s    not ok 7 - fake\n", indent)
		}
		fmt.Fprintf(b, "%s  ...\n", indent)
		t.YAML = ""
	}
	fmt.Fprintf(b, "%s1..%d\n", indent, len(d.Tests))
}

// braces prints what Test2 does for buffered subtests, and node-tap where a result
// has diagnostics.
func (m maker) braces(b *strings.Builder, d *ktap.Doc, indent string) {
	// Where the last result has subtests after a plan, one cannot tell a document that
	// ends before the brace from a complete one.
	first := m.IntN(2) == 0 && (indent != "" || d.Tests[len(d.Tests)-1].Sub == nil)
	if first {
		fmt.Fprintf(b, "%s1..%d\n", indent, len(d.Tests))
	}
	for i, t := range d.Tests {
		t.YAML = ""
		switch {
		case t.Sub == nil:
			fmt.Fprintf(b, "%s%s\n", indent, m.dashed(i+1, t))
			continue
		case m.IntN(2) == 0:
			fmt.Fprintf(b, "%s%s {\n", indent, m.dashed(i+1, t))
		default:
			fmt.Fprintf(b, "%s%s\n%[1]s  ---\n%[1]s  at: x.c\n%[1]s  ...\n%[1]s{\n", indent, m.dashed(i+1, t))
		}
		m.braces(b, t.Sub, indent+"    ")
		fmt.Fprintf(b, "%s}\n", indent)
	}
	if !first {
		fmt.Fprintf(b, "%s1..%d\n", indent, len(d.Tests))
	}
}

// dashed is result with Perl's dash.
func (m maker) dashed(n int, t *ktap.Test) string {
	return strings.Replace(m.result(n, t), fmt.Sprintf("ok %d ", n), fmt.Sprintf("ok %d - ", n), 1)
}

// countLines counts the results of all levels, as node's summary does.
func countLines(d *ktap.Doc) (c ktap.Counts) {
	for _, t := range d.Tests {
		if t.Sub != nil {
			below := countLines(t.Sub)
			c.Pass, c.Fail, c.Skip, c.XFail = c.Pass+below.Pass, c.Fail+below.Fail, c.Skip+below.Skip, c.XFail+below.XFail
		}
		switch t.Status() {
		case ktap.StatusPass:
			c.Pass++
		case ktap.StatusSkip:
			c.Skip++
		case ktap.StatusXFail:
			c.XFail++
		default:
			c.Fail++
		}
	}
	return c
}

// noTodo takes out what KUnit does not have.
func noTodo(d *ktap.Doc) {
	for _, t := range d.Tests {
		if t.YAML = ""; t.Directive == ktap.Todo {
			t.Directive, t.Reason, t.OK = ktap.None, "", true
		}
		if t.Sub != nil {
			noTodo(t.Sub)
		}
	}
}

func (m maker) kunit(b *strings.Builder, d *ktap.Doc, indent, name string) {
	fmt.Fprintf(b, "%sKTAP version 1\n", indent)
	if name != "" {
		fmt.Fprintf(b, "%s# Subtest: %s\n", indent, name)
	}
	fmt.Fprintf(b, "%s1..%d\n", indent, len(d.Tests))
	for i, t := range d.Tests {
		if t.Sub != nil {
			m.kunit(b, t.Sub, indent+"    ", t.Name)
			var pass, fail, skip int
			for _, s := range t.Sub.Tests {
				switch s.Status() {
				case ktap.StatusPass:
					pass++
				case ktap.StatusSkip:
					skip++
				case ktap.StatusFail:
					fail++
				}
			}
			fmt.Fprintf(b, "%s# %s: pass:%d fail:%d skip:%d total:%d\n", indent, t.Name, pass, fail, skip, pass+fail+skip)
		}
		fmt.Fprintf(b, "%s%s\n", indent, m.result(i+1, t))
	}
}

func (m maker) result(n int, t *ktap.Test) string {
	s := fmt.Sprintf("ok %d %s", n, t.Name)
	if !t.OK {
		s = "not " + s
	}
	if t.Directive != ktap.None {
		s += fmt.Sprintf(" # %s %s", t.Directive, t.Reason)
	}
	return s
}

// userPrefixes are what logs put before a program's lines.
var userPrefixes = []string{
	"Jan  1 00:00:00 box run[123]: ", "2024-01-01T00:00:00.1234567Z ", "2024-01-01T00:00:00.123456Z 00O ", "[2024-01-01T00:00:00.123Z] ",
	"2024-01-01 00:00:00.123 | ", "2024-01-01T00:00:00.123456  ", "2024/01/01 00:00:00 ", "[12:34:56] ", "> ",
}

// disturb does to a log what serial lines, ring buffers and log shippers do, and
// says what. user is whether no kernel prints such.
func (m maker) disturb(lines []string, user bool) (out []string, did []string) {
	out = lines
	lost := 0
	for range m.IntN(4) {
		if len(out) == 0 {
			return out, did
		}
		at := m.IntN(len(out))
		what := m.IntN(8)
		if what == 4 || what == 7 {
			// A version, a plan and a result lost leave no trace of a group.
			if lost++; lost > 2 {
				continue
			}
		}
		switch what {
		case 7:
			// The rest of a line is lost, as where a buffer was full. Of a directive
			// the word must be left, or part of it: nothing tells otherwise.
			l := out[at]
			from, to := 0, len(l)
			if i := strings.LastIndex(l, " # "); i > 0 && strings.Contains(l[:i], "ok ") {
				from = i + len(" # S")
			}
			if from >= to || strings.Contains(strings.Join(did, " "), "split") {
				continue
			}
			cut := from + m.IntN(to-from)
			out = append(out[:at:at], append([]string{l[:cut]}, out[at+1:]...)...)
			did = append(did, fmt.Sprintf("lose %q of %q", l[cut:], l))
		case 6:
			// Another console's message in a line, whose rest follows it.
			l := out[at]
			if len(l) == 0 || strings.Contains(strings.Join(did, " "), "split") {
				continue
			}
			cut := m.IntN(len(l))
			out = append(out[:at:at], append([]string{l[:cut] + "[    0.123456] usb 1-1: new device", l[cut:]}, out[at+1:]...)...)
			did = append(did, fmt.Sprintf("split by the console %q %q", l[:cut], l[cut:]))
		case 0:
			noise := []string{
				"[    0.123456] usb 1-1: new high-speed USB device", "random: crng init done", "[    0.123457] BUG: KASAN: slab-out-of-bounds in f+0x1/0x2",
				"        Expected 1 == 2, but", "==================", "# a comment", "[    0.123458] Call Trace:", "it is okay", "", "[    0.123459]  <TASK>",
			}[m.IntN(10)]
			out = append(out[:at:at], append([]string{noise}, out[at:]...)...)
			did = append(did, "interleave")
		case 1:
			of := prefixes[:len(prefixes)-1] // but for the learned one
			if user {
				of = userPrefixes
			}
			p := of[m.IntN(len(of))]
			next := make([]string, len(out))
			for i, l := range out {
				next[i] = p + l
			}
			out = next
			did = append(did, "prefix "+p)
		case 2, 3:
			l := out[at]
			if len(l) == 0 || strings.Contains(strings.Join(did, " "), "split") {
				continue // a line broken in three, and a part lost, reads as another
			}
			cut := m.IntN(len(l))
			out = append(out[:at:at], append([]string{l[:cut], l[cut:]}, out[at+1:]...)...)
			did = append(did, fmt.Sprintf("split %q %q", l[:cut], l[cut:]))
		case 4:
			if strings.Contains(strings.Join(did, " "), "split") {
				continue // of a line in two, the half that says it is skipped
			}
			out = append(out[:at:at], out[at+1:]...)
			did = append(did, fmt.Sprintf("drop %q", lines[min(at, len(lines)-1)]))
		case 5:
			if strings.Contains(strings.Join(did, " "), "split") {
				continue
			}
			out = out[:at]
			did = append(did, "truncate")
		}
	}
	return out, did
}

// law checks what holds for a document that was printed and disturbed: never more
// passes than were printed, and a pass only for what is all there.
func law(t *testing.T, seed uint64) {
	t.Helper()
	m := maker{rand.New(rand.NewPCG(seed, 1))}
	form := []string{"tap14", "kunit", "kselftest", "dmesg", "perl", "node", "braces"}[m.IntN(7)]
	made := m.doc(2)
	text := m.print(form, made)
	whole := parseString(t, text)
	want := whole.Count()
	assert.Equal(t, whole.Failed(), made.Failed(), "%s", text)
	assert.DeepEqual(t, want, made.Count())

	lines, did := m.disturb(strings.Split(strings.TrimSuffix(text, "\n"), "\n"), form == "perl" || form == "node" || form == "braces")
	in := strings.Join(lines, "\n")
	if m.IntN(8) == 0 && len(in) > 0 && !strings.Contains(strings.Join(did, " "), "split") {
		in = in[:m.IntN(len(in))]
		did = append(did, "cut")
	} else {
		in += "\n"
	}
	d := parseString(t, in)
	got := d.Count()
	say := func() string {
		return fmt.Sprintf("seed %d, %s, %q\n--- printed\n%s--- read\n%s--- as\n%s", seed, form, did, text, in, dump(d))
	}
	printed := want.Pass
	if form == "braces" || form == "perl" || len(did) > 1 || strings.Contains(strings.Join(did, " "), "split") {
		// A line without its indentation, or whose group is lost, may be a group's
		// result or a test's: each line that says ok counts once.
		printed = passLines(made)
	}
	if got.Pass > printed {
		t.Fatalf("%d passes, and %d were printed: %s", got.Pass, printed, say())
	}
	if form == "node" && got.XFail > want.XFail {
		got.XFail = want.XFail // the diagnostics of what may fail, without their beginning
	}
	if !d.Empty() && !d.Failed() && (got.Total() != want.Total() || whole.Failed()) {
		t.Fatalf("passed with %+v instead of %+v: %s", got, want, say())
	}
}

// passLines counts the results that pass, those of groups included.
func passLines(d *ktap.Doc) (n int) {
	for _, t := range d.Tests {
		if t.Status() == ktap.StatusPass {
			n++
		}
		if t.Sub != nil {
			n += passLines(t.Sub)
		}
	}
	return n
}

func TestLaw(t *testing.T) {
	n := 20_000
	if v, err := strconv.Atoi(os.Getenv("KVMRUN_LAWS")); err == nil {
		n = v
	}
	if testing.Short() {
		n = 2000
	}
	for seed := range uint64(n) {
		law(t, seed)
	}
	t.Logf("%d documents", n)
}

func FuzzLaw(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	f.Fuzz(law)
}
