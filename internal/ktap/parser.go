// SPDX-License-Identifier: Apache-2.0

package ktap

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Config bounds a [Parser]. A zero field means the default.
type Config struct {
	// OnTest, if not nil, is called for every result as its line is read,
	// with the nesting depth (0 at the top). Subtests come before the test
	// they belong to. Results that are found within other lines come when
	// their document ends, and may correct what was said of their line.
	OnTest func(depth int, t *Test)

	// MaxLine is how many bytes of a line are looked at; the rest is left
	// out. Default 64 KiB.
	MaxLine int
	// MaxTests is how many results are kept at all levels together. More of
	// them are a failure. Default 20000.
	MaxTests int
	// MaxOutput is how many bytes of output, and how many of YAML, are kept
	// for one test. Default 16 KiB.
	MaxOutput int
	// MaxTotal is how many bytes are kept altogether. Beyond half of it,
	// output is left out; when it is used up, results are, and that is a
	// failure. Default 16 MiB.
	MaxTotal int
}

// maxDepth is the deepest nesting that is followed. It is far beyond what
// KTAP sees in practice (runner, program, group, parameter).
const maxDepth = 32

// maxRemarks bounds problems, notes and run-together results, for each
// document.
const maxRemarks = 100

// Parse reads r to its end. The error is r's; what was read until then is in
// the document all the same.
func Parse(r io.Reader) (*Doc, error) {
	p := NewParser(Config{})
	_, err := io.Copy(p, r)
	if err != nil {
		err = fmt.Errorf("read TAP: %w", err)
	}
	return p.Finish(), err
}

// A Parser parses TAP as it arrives. Make one with [NewParser].
type Parser struct {
	cfg    Config
	line   []byte // the line in progress
	cut    bool   // bytes of it were left out
	frames []*frame
	tests  int // results kept
	text   int // bytes kept
	full   bool
}

// A frame is a document that is being read: the outermost one, or one nested
// in the frame before it.
type frame struct {
	prefix string // what each line begins with, after the outer frame's prefix
	doc    *Doc
	name   string // from "# Subtest: name"
	// escapes is whether the version has escapes; the outer frame's holds
	// until there is a version line.
	escapes bool
	next    string // name announced for the frame to be nested here

	// The segment: one of several documents in a row.
	first   int           // index of its first test in doc.Tests
	planned int           // its plan, -1 before it
	seen    map[int]*Test // its results by number
	found   []embedded    // results within its other lines

	totals *Totals // its "# Totals:" line

	output  []byte // lines since the last result
	dropped bool   // some did not fit
	running string // the harness's test that has no result yet

	last       *Test  // the result on the line before this one
	yaml       *Test  // whose YAML block is being read
	yamlText   []byte // the block up to now
	yamlIndent string // what the block's lines begin with
}

// NewParser returns a parser of an empty document.
func NewParser(cfg Config) *Parser {
	for _, d := range []struct {
		field *int
		value int
	}{
		{&cfg.MaxLine, 64 << 10},
		{&cfg.MaxTests, 20_000},
		{&cfg.MaxOutput, 16 << 10},
		{&cfg.MaxTotal, 16 << 20},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	p := &Parser{cfg: cfg}
	p.frames = []*frame{newFrame("")}
	return p
}

func newFrame(prefix string) *frame {
	return &frame{prefix: prefix, doc: &Doc{Planned: -1}, planned: -1, seen: make(map[int]*Test)}
}

// Write parses b. It takes all of it and returns no error.
func (p *Parser) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		piece := b
		if i >= 0 {
			piece = b[:i]
		}
		room := p.cfg.MaxLine - len(p.line)
		if len(piece) > room {
			piece, p.cut = piece[:room], true
		}
		p.line = append(p.line, piece...)
		if i < 0 {
			break
		}
		p.endLine()
		b = b[i+1:]
	}
	return n, nil
}

// Finish ends the input and returns the document. Nothing may be written
// afterwards.
func (p *Parser) Finish() *Doc {
	if len(p.line) > 0 {
		p.endLine()
	}
	p.closeTo(0)
	root := p.frames[0]
	p.endSegment(root)
	root.doc.Output = root.takeOutput()
	if p.full {
		// Not by way of problem: there may be no room left for it.
		root.doc.Problems = append(root.doc.Problems, fmt.Sprintf("more than can be kept; %d results were", p.tests))
	}
	return root.doc
}

func (p *Parser) endLine() {
	line := strings.TrimSuffix(string(p.line), "\r")
	if p.cut {
		line += " [...]"
	}
	p.line, p.cut = p.line[:0], false
	p.handle(line)
}

// handle takes one line without its newline.
func (p *Parser) handle(line string) {
	// Find the innermost open document whose prefix the line has.
	depth, rest := 0, line
	for depth+1 < len(p.frames) {
		inner, ok := cutPrefix(rest, p.frames[depth+1].prefix)
		if !ok {
			break
		}
		depth, rest = depth+1, inner
	}
	f := p.frames[depth]
	last := f.last
	f.last = nil
	if p.inYAML(f, rest) || f.startYAML(last, rest) {
		return
	}
	if prefix, inner, ok := opens(f, rest); ok && depth+1 < maxDepth {
		p.closeTo(depth) // of another prefix, so the new one comes after it
		nested := newFrame(prefix)
		nested.name, nested.escapes, f.next = f.next, f.escapes, ""
		p.frames = append(p.frames, nested)
		f, rest = nested, inner
		depth++
	}
	p.content(depth, f, rest)
}

// cutPrefix is strings.CutPrefix for lines that may have lost trailing blanks.
func cutPrefix(line, prefix string) (string, bool) {
	if rest, ok := strings.CutPrefix(line, prefix); ok {
		return rest, true
	}
	return "", line != "" && line == strings.TrimRight(prefix, " \t")
}

// opens reports whether line begins a document nested in f, and splits it into
// the nested document's prefix and content.
func opens(f *frame, line string) (prefix, rest string, ok bool) {
	n, comment := 0, false
	for n < len(line) {
		switch {
		case isBlank(line[n]):
			n++
			continue
		case strings.HasPrefix(line[n:], "# ") && !strings.HasPrefix(line[n:], "# Subtest: "):
			comment = true
			n += 2
			continue
		}
		break
	}
	if n == 0 {
		return "", "", false
	}
	prefix, rest = line[:n], line[n:]
	if _, ok := parseVersion(rest); ok {
		return prefix, rest, true
	}
	// Anything else might be a program's own words unless TAP is spoken here.
	if f.doc.Empty() {
		return "", "", false
	}
	if strings.HasPrefix(rest, "# Subtest: ") {
		return prefix, rest, true
	}
	if _, _, ok := parsePlan(rest, false); ok {
		return prefix, rest, true
	}
	// A comment that looks like a result is one only in a document that was
	// begun properly.
	if t, ok := parseResult(rest, false); ok && t.Number > 0 && !comment {
		return prefix, rest, true
	}
	return "", "", false
}

// content handles a line of f without its prefix. Only lines that mean
// something at f's level end the documents nested in it: foreign lines may come
// at any time.
func (p *Parser) content(depth int, f *frame, line string) {
	if v, ok := parseVersion(line); ok {
		p.closeTo(depth)
		if f.planned >= 0 || len(f.doc.Tests) > f.first {
			p.endSegment(f)
		}
		f.escapes = v == "TAP 14"
		if f.doc.Version == "" {
			f.doc.Version = v
		}
		return
	}
	if n, skip, ok := parsePlan(line, f.escapes); ok {
		p.plan(f, n, skip)
		return
	}
	if t, ok := parseResult(line, f.escapes); ok && f.believes(t, line) {
		p.result(depth, f, t, line)
		return
	}
	if reason, ok := strings.CutPrefix(line, "Bail out!"); ok {
		f.doc.Bailed = true
		f.doc.BailOut = p.keep(strings.TrimSpace(reason))
		return
	}
	if text, ok := strings.CutPrefix(line, "#"); ok {
		p.comment(f, text)
		return
	}
	p.look(f, line, nil)
	p.output(f, line)
}

// believes reports whether a result line is one, or some program's own words.
// Results without a number are rare among the kernel's, and "ok" is not.
func (f *frame) believes(t *Test, line string) bool {
	switch {
	case t.Number > 0:
		return true
	case f.doc.Empty():
		return strings.HasPrefix(line, "ok - ") || strings.HasPrefix(line, "not ok - ")
	}
	return len(f.seen) == 0
}

func (p *Parser) plan(f *frame, n int, skip string) {
	switch {
	case f.planned < 0:
	case f.planned == len(f.doc.Tests)-f.first && f.planned > 0:
		p.endSegment(f) // of a document that was complete
	case f.planned == n:
		return
	default:
		p.problem(f, fmt.Sprintf("planned %d tests, and then %d", f.planned, n))
		return
	}
	f.planned = n
	f.doc.Planned = max(f.doc.Planned, 0) + n
	if n == 0 {
		f.doc.SkipAll = p.keep(skip)
	}
}

func (p *Parser) result(depth int, f *frame, t *Test, line string) {
	// The innermost open documents end, and the group nested directly in f is
	// this test's.
	var sub *frame
	if depth+1 < len(p.frames) {
		p.closeTo(depth + 1)
		sub = p.frames[depth+1]
		p.endSegment(sub)
		sub.doc.Output = sub.takeOutput()
		t.Sub = sub.doc
		p.frames = p.frames[:depth+1]
	}
	f.running, f.next = "", ""
	t.Output = f.takeOutput()
	if before := f.seen[t.Number]; t.Number > 0 && before != nil {
		if before.Name == t.Name && before.OK == t.OK && before.Directive == t.Directive && t.Sub == nil {
			// A process that forks with text in its stdio buffer prints it
			// twice. Nothing is lost with the copy.
			p.note(f, fmt.Sprintf("result %d was printed twice", t.Number))
			return
		}
		p.problem(f, fmt.Sprintf("two tests have the number %d", t.Number))
	}
	if !p.add(f, t) {
		return
	}
	if t.Number > 0 {
		f.seen[t.Number] = t
	}
	f.last = t
	p.look(f, line, t)
	if p.cfg.OnTest != nil {
		p.cfg.OnTest(depth, t)
	}
}

// add keeps a result and reports whether there is room for it.
func (p *Parser) add(f *frame, t *Test) bool {
	// The constant is about what a Test, and its Doc, take without texts.
	if p.tests >= p.cfg.MaxTests || !p.take(len(t.Name)+len(t.Reason)+600) {
		p.full = true
		return false
	}
	p.tests++
	// As parts of their line they would keep all of it in memory.
	t.Name, t.Reason = strings.Clone(t.Name), strings.Clone(t.Reason)
	f.doc.Tests = append(f.doc.Tests, t)
	return true
}

// take accounts for n bytes to be kept, or refuses to.
func (p *Parser) take(n int) bool {
	if p.text+n > p.cfg.MaxTotal {
		return false
	}
	p.text += n
	return true
}

// takeOutput is take for what may be left out.
func (p *Parser) takeOutput(n int) bool { return p.text+n <= p.cfg.MaxTotal/2 && p.take(n) }

// keep returns a copy of a text that is kept besides output, "" for want of
// room.
func (p *Parser) keep(s string) string {
	if !p.take(len(s)) {
		p.full = true
		return ""
	}
	return strings.Clone(s)
}

// look remembers the results within a line, should they be missing later.
func (p *Parser) look(f *frame, line string, host *Test) {
	if len(f.found) >= maxRemarks {
		return
	}
	found := findEmbedded(line)
	if len(found) == 0 || !p.takeOutput(len(line)) {
		return
	}
	for _, e := range found {
		e.host = host
		f.found = append(f.found, e)
	}
}

func (p *Parser) comment(f *frame, text string) {
	if name, ok := harnessRun(text); ok {
		f.running = name
	}
	text = strings.TrimPrefix(text, " ")
	if name, ok := strings.CutPrefix(text, "Subtest: "); ok {
		name = strings.TrimSpace(name)
		// Printed within the group, or right before it.
		if f.name == "" && f.doc.Empty() && f.prefix != "" {
			f.name = p.keep(name)
		} else {
			f.next = p.keep(name)
		}
		return
	}
	if totals, ok := parseTotals(text); ok {
		f.doc.Totals, f.totals = totals, totals
	}
	p.output(f, text)
}

// output keeps a line that belongs to the next result.
func (p *Parser) output(f *frame, line string) {
	if line == "" && len(f.output) == 0 {
		return
	}
	size := len(line) + 1
	if len(f.output)+size > p.cfg.MaxOutput || !p.takeOutput(size) {
		f.dropped = true
		return
	}
	f.output = append(append(f.output, line...), '\n')
}

// takeOutput returns the lines since the last result, and forgets them.
func (f *frame) takeOutput() string {
	s := string(f.output)
	if f.dropped {
		s += "[... the rest is left out ...]\n"
	}
	f.output, f.dropped = f.output[:0], false
	return s
}

// startYAML reports whether line begins the diagnostic block of the result on
// the line before it.
func (f *frame) startYAML(last *Test, line string) bool {
	indent, ok := strings.CutSuffix(strings.TrimRight(line, " \t"), "---")
	if last == nil || !ok || indent == "" || strings.Trim(indent, " \t") != "" {
		return false
	}
	f.yaml, f.yamlIndent = last, indent
	return true
}

// inYAML reports whether line belongs to the diagnostic block being read.
func (p *Parser) inYAML(f *frame, line string) bool {
	if f.yaml == nil {
		return false
	}
	body, ok := cutPrefix(line, f.yamlIndent)
	switch {
	case !ok && line != "":
		p.note(f, fmt.Sprintf("the diagnostics of test %d have no end", f.yaml.Number))
		f.endYAML()
		return false
	case strings.TrimRight(body, " \t") == "...":
		f.endYAML()
	case len(f.yamlText)+len(body) < p.cfg.MaxOutput && p.takeOutput(len(body)+1):
		f.yamlText = append(append(f.yamlText, body...), '\n')
	}
	return true
}

func (f *frame) endYAML() {
	if f.yaml != nil {
		f.yaml.YAML = string(f.yamlText)
		f.yaml, f.yamlText = nil, f.yamlText[:0]
	}
}

// closeTo ends the documents nested deeper than depth, for want of a result
// that would have claimed them.
func (p *Parser) closeTo(depth int) {
	for len(p.frames) > depth+1 {
		last := len(p.frames) - 1
		f, outer := p.frames[last], p.frames[last-1]
		p.frames = p.frames[:last]
		p.endSegment(f)
		if f.doc.Empty() {
			continue
		}
		name := clip(f.name)
		if name == "" {
			name = "(unnamed group)"
		}
		f.doc.Output = f.takeOutput()
		// Whoever was to sum the group up did not live to do it.
		t := &Test{Name: name, Reason: "the group of tests has no result", Sub: f.doc, Output: outer.takeOutput()}
		if p.add(outer, t) && p.cfg.OnTest != nil {
			p.cfg.OnTest(last-1, t)
		}
	}
}

// endSegment checks a document that has ended and makes f ready for another.
func (p *Parser) endSegment(f *frame) {
	p.salvage(f)
	tests := f.doc.Tests[f.first:]
	saw, promised := len(tests), f.planned
	if promised < 0 {
		if saw > 0 {
			p.note(f, "no plan")
		}
		// Without a plan the numbers tell at least about gaps.
		highest, numbered := 0, 0
		for n := range f.seen {
			highest, numbered = max(highest, n), numbered+1
		}
		promised = saw + highest - numbered
		if promised > saw {
			p.problem(f, fmt.Sprintf("the numbers go up to %d, saw %d", highest, numbered))
		}
	} else if saw != promised {
		p.problem(f, fmt.Sprintf("planned %d, saw %d", promised, saw))
	}
	missing := max(promised-saw, 0)
	if f.running != "" && (f.planned < 0 || missing > 0) {
		t := &Test{Name: f.running, Reason: "did not finish", Output: f.takeOutput()}
		if p.add(f, t) {
			missing = max(missing-1, 0)
			if p.cfg.OnTest != nil {
				p.cfg.OnTest(len(p.frames)-1, t)
			}
		}
	}
	f.doc.Missing = min(f.doc.Missing+missing, maxNumber)
	for n := range f.seen {
		if f.planned >= 0 && n > f.planned {
			p.problem(f, fmt.Sprintf("there are numbers beyond the plan of %d", f.planned))
			break
		}
	}
	if f.totals != nil {
		if differs := f.totals.check(tests); differs != "" {
			p.problem(f, differs)
		}
	}
	f.endYAML()
	f.first, f.planned, f.running = len(f.doc.Tests), -1, ""
	f.seen, f.found, f.totals, f.last = make(map[int]*Test), nil, nil, nil
}

// salvage looks in other lines for results whose numbers are missing. Two
// processes that write to one pipe can end up on one line.
func (p *Parser) salvage(f *frame) {
	highest := f.planned
	for n := range f.seen {
		if f.planned < 0 {
			highest = max(highest, n)
		}
	}
	var prev embedded // the result before e on its line
	var prevTest *Test
	for _, e := range f.found {
		if f.seen[e.number] != nil || e.number > highest {
			continue
		}
		t, ok := parseResult(e.line[e.at:], f.escapes)
		if !ok || !p.add(f, t) {
			continue
		}
		f.seen[e.number] = t
		p.note(f, fmt.Sprintf("result %d was found within another line", e.number))
		if e.line != prev.line || e.host != prev.host {
			prev, prevTest = embedded{}, e.host
		}
		// What was taken for the name and directive of the result before
		// it goes with the result found.
		if prevTest != nil {
			if rest, ok := parseResult(e.line[prev.at:e.at], f.escapes); ok {
				prevTest.Name = strings.Clone(rest.Name)
				prevTest.Directive, prevTest.Reason = rest.Directive, strings.Clone(rest.Reason)
			}
		}
		prev, prevTest = e, t
		tests := f.doc.Tests[f.first:]
		slices.SortStableFunc(tests, func(a, b *Test) int { return a.Number - b.Number })
		if p.cfg.OnTest != nil {
			p.cfg.OnTest(len(p.frames)-1, t)
		}
	}
}

func (p *Parser) problem(f *frame, text string) { p.remark(&f.doc.Problems, text) }

func (p *Parser) note(f *frame, text string) { p.remark(&f.doc.Notes, text) }

func (p *Parser) remark(list *[]string, text string) {
	if len(*list) < maxRemarks {
		if text = p.keep(text); text != "" {
			*list = append(*list, text)
		}
	}
}

// clip shortens a name for use in a remark.
func clip(name string) string {
	const most = 200
	if len(name) > most {
		return name[:most] + "[...]"
	}
	return name
}
