// SPDX-License-Identifier: Apache-2.0

package ktap

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"strings"
)

// Config bounds a [Parser]. A zero field means the default.
type Config struct {
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
	// Kernel says that what is written is a kernel's log, as for
	// [Parser.KernelLog]: all in it is the kernel's, with printk times or without.
	Kernel bool
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
	cfg     Config
	line    []byte // the line in progress
	cut     bool   // bytes of it were left out
	user    *stream
	kernel  *stream
	foreign foreign
	// file is whether prove has named the next file: what follows is a document of
	// its own.
	file    bool
	learned learned
	log     bool // what is written is the kernel's

	// begun is what a line ended with that may be the beginning of "not ok"
	// on the next one, and whose it was.
	begun      string
	begunS     *stream
	begunLines int // foreign lines since

	// passed is the result of the line before, if it passes without a
	// directive, and passedBlank whether that line ended in a blank.
	passed      *Test
	passedS     *stream
	passedBlank bool
	passedLines int // since

	// What the kernel's lines of results said, by time: a log may hold its
	// console and then dmesg's copy of the same.
	said   map[uint64]struct{}
	latest int64

	started bool // there was a line

	tests int // results kept
	text  int // bytes kept
	full  bool
}

// A stream is the lines of one origin: the kernel's messages, or everything
// else. The two are interleaved line by line in a serial log, and each has TAP
// of its own.
type stream struct {
	*Parser
	frames []*frame
	// ends is whether the line in progress has no newline.
	ends bool
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
	strict  bool   // "pragma +strict"
	next    string // name announced for the frame to be nested here
	// headless is whether the frame is the first of the outer one, and nothing
	// came before it there: the log may lack its beginning.
	headless bool
	begin    *Test // the result before the frame began, in the outer frame

	// The segment: one of several documents in a row.
	first    int           // index of its first test in doc.Tests
	planned  int           // its plan, -1 before it
	trailing bool          // the plan came after results, and ends the segment
	version  bool          // it has a version line
	numbered bool          // it has results with a number
	number   int           // the last result's
	seen     map[int]*Test // its results by number
	assumed  map[*Test]int // the numbers of those that have none
	todo     []int         // from the plan
	found    []embedded    // results within its other lines
	strays   string        // the first line of a group that nothing began
	claims   claims

	output  []byte // lines since the last result
	after   *Test  // whose diagnostics the lines are that come now: Perl prints them behind
	dropped bool   // some did not fit
	running string // the harness's test that has no result yet

	last       *Test  // the result, if nothing of TAP's came after it
	brace      *Test  // whose subtests in braces are being read
	yaml       *Test  // whose YAML block is being read
	yamlText   []byte // the block up to now
	yamlIndent string // what the block's lines begin with
}

// claims are what a segment's comments say about its results.
type claims struct {
	totals *Totals // kselftest.h: of the results
	group  *Totals // KUnit: of the results
	leaves *Totals // KUnit: of the tests at any depth

	// kselftest_harness.h: "PASSED: 2 / 2 tests passed."
	harness                 bool
	harnessOK               bool
	harnessPass, harnessAll int

	// node and tape: "# tests 3", "# pass 3", "# fail 0"; -1 without.
	tests, pass, fail int

	looks string // Test::More: "Looks like your test exited with 255"
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
	p := &Parser{cfg: cfg, latest: -1, log: cfg.Kernel}
	p.user = &stream{Parser: p, frames: []*frame{newFrame("")}}
	p.kernel = &stream{Parser: p, frames: []*frame{newFrame("")}}
	return p
}

func newFrame(prefix string) *frame {
	f := &frame{prefix: prefix, doc: &Doc{Planned: -1}}
	f.reset()
	return f
}

// reset makes f ready for a segment.
func (f *frame) reset() {
	f.first, f.planned, f.running = len(f.doc.Tests), -1, ""
	f.trailing, f.version, f.numbered, f.number = false, false, false, 0
	f.seen, f.assumed, f.todo, f.found = make(map[int]*Test), nil, nil, nil
	f.claims = claims{tests: -1, pass: -1, fail: -1}
	f.last, f.brace, f.after, f.strays = nil, nil, nil, ""
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
		p.endLine(false)
		b = b[i+1:]
	}
	return n, nil
}

// Finish ends the input and returns the document. Nothing may be written
// afterwards. What the kernel's messages say comes after everything else.
func (p *Parser) Finish() *Doc {
	if len(p.line) > 0 {
		p.endLine(true)
	}
	doc, kernel := p.user.finish(), p.kernel.finish()
	if doc.Empty() {
		if other := p.foreign.finish(); other != nil {
			other.Output = doc.Output
			doc = other
		}
	} else {
		doc.Problems = append(doc.Problems, p.foreign.contradicts(doc)...)
	}
	if !kernel.Empty() {
		// Results without a version and a plan beside the kernel's: parts of its
		// broken lines, or at least nothing that is known to be complete.
		(&frame{doc: doc}).disown()
	}
	switch {
	case kernel.Empty() && len(kernel.Problems) == 0:
	case doc.Empty() && doc.Refused == nil:
		kernel.Output = doc.Output + kernel.Output
		doc = kernel
	default:
		doc.join(kernel)
	}
	if p.full {
		// Not by way of problem: there may be no room left for it.
		doc.Problems = append(doc.Problems, fmt.Sprintf("more than can be kept; %d results were", p.tests))
	}
	return doc
}

// KernelLog reads a kernel's log to its end, after everything that was written:
// all in it is the kernel's, whether there are printk times or not. Lines that
// were written before, with their times, are known again. The error is r's.
func (p *Parser) KernelLog(r io.Reader) error {
	if len(p.line) > 0 {
		p.endLine(true)
	}
	p.log = true
	if _, err := io.Copy(p, r); err != nil {
		return fmt.Errorf("read the kernel log: %w", err)
	}
	if len(p.line) > 0 {
		p.endLine(true)
	}
	p.log = false
	return nil
}

func (s *stream) finish() *Doc {
	root, depth := s.frames[0], 0
	if len(s.frames) > 1 && s.frames[1].whole(root) {
		root, depth = s.frames[1], 1 // all of it is indented
	}
	s.closeTo(depth)
	s.endSegment(root, 0)
	root.doc.Output = root.takeOutput()
	return root.doc
}

// whole reports whether f is a document of its own, and not a group of outer, which
// has nothing else.
func (f *frame) whole(outer *frame) bool {
	return outer.doc.Empty() && f.headless && f.version && f.name == "" && strings.Trim(f.prefix, " \t") == ""
}

func (p *Parser) endLine(ends bool) {
	raw := p.line
	if !p.started {
		raw = bytes.TrimPrefix(raw, []byte("\ufeff")) // of an editor on Windows
		p.started = true
	}
	if n := len(raw); n > 0 && raw[n-1] == '\r' {
		raw = raw[:n-1]
	}
	line := plain(raw)
	if p.cut {
		line += " [...]"
	}
	p.line, p.cut = p.line[:0], false
	if rest, ok := p.learned.cut(line); ok {
		line = rest
	} else if l := learn(line); l != "" {
		if c := carry(line); len(c.text) == len(line) {
			p.learned = l // what follows says whether it was meant
		}
	}
	c := carry(line)
	s := p.user
	if c.kernel || p.log {
		s = p.kernel
		if p.repeats(c) {
			return
		}
	}
	s.ends = ends
	p.whole(s, c.text)
}

// whole puts "not" and "ok" together where a line was broken between them: what
// is left would pass. Perl does the same for VMS.
func (p *Parser) whole(s *stream, line string) {
	p.late(s, line)
	if p.begun != "" {
		begun, t := p.begun, strings.TrimLeft(line, " \t")
		joined := begun + line
		if !resultAt(joined) {
			if joined = begun + " " + t; !resultAt(joined) {
				joined = ""
			}
		}
		of := p.begunS
		if joined != "" {
			p.begun = ""
			of.ends = s.ends
			of.handle(joined)
			return
		}
		if of == s {
			if p.begunLines++; p.begunLines == 1 {
				s.handle(begun)
			}
			if p.begunLines > 3 || isTAP(t) {
				p.begun = "" // otherwise a foreign line came in between
			}
		}
	}
	head := line
	inner := ""
	if strings.TrimLeft(head, " \t#") != "" && strings.TrimLeft(head, " \t#")[0] == 'n' {
		// The kernel's console does not wait for the end of a line.
		if i := strings.IndexByte(line, '['); i > 0 && i < maxPrefix && printkLen(line[i:]) > 0 {
			head, inner = line[:i], line[i:]
		}
		switch strings.TrimSpace(strings.TrimLeft(head, " \t#")) {
		case "n", "no", "not", "not o":
			p.begun, p.begunS, p.begunLines = strings.Clone(head), s, 0
			if inner != "" {
				c := carry(inner)
				p.kernel.ends = s.ends
				p.kernel.handle(c.text)
			}
			return
		}
	}
	s.handle(line)
}

// resultAt reports whether a line is a failed result, at any depth.
func resultAt(line string) bool {
	t, ok := parseResult(strings.TrimLeft(line, " \t#"), false)
	return ok && !t.OK
}

// repeats reports whether a line with a result was printed before with the same
// time. Only where time went back is there a copy; a clock that stands still
// makes none.
func (p *Parser) repeats(c carried) bool {
	if c.time < 0 {
		return false
	}
	text := strings.TrimLeft(c.text, " \t")
	if text == "" || !strings.ContainsRune("okn1KT#B", rune(text[0])) {
		return false
	}
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, c.time, c.text)
	sum := h.Sum64()
	_, known := p.said[sum]
	if known && c.time < p.latest {
		return true
	}
	p.latest = max(p.latest, c.time)
	if p.said == nil {
		p.said = make(map[uint64]struct{})
	}
	if len(p.said) < 4*p.cfg.MaxTests {
		p.said[sum] = struct{}{}
	}
	return false
}

// handle takes one line without its newline.
func (s *stream) handle(line string) {
	// Find the innermost open document whose prefix the line has.
	depth, rest := 0, line
	for depth+1 < len(s.frames) {
		inner, ok := cutPrefix(rest, s.frames[depth+1].prefix)
		if !ok {
			break
		}
		depth, rest = depth+1, inner
	}
	f := s.frames[depth]
	if s.inYAML(f, rest) || s.startYAML(f, rest) {
		return
	}
	if prefix, inner, ok := s.opens(f, rest); ok && len(s.frames) < maxDepth && s.between(depth, prefix) {
		depth++
		f, rest = s.frames[depth], inner
	} else if ok && depth+1 < maxDepth {
		s.closeTo(depth) // of another prefix, so the new one comes after it
		nested := newFrame(prefix)
		nested.name, nested.escapes, nested.strict, f.next = f.next, f.escapes, f.strict, ""
		nested.headless = f.doc.Empty()
		if n := len(f.doc.Tests); n > f.first {
			nested.begin = f.doc.Tests[n-1]
		}
		f.last = nil
		s.frames = append(s.frames, nested)
		f, rest = nested, inner
		depth++
	}
	s.content(depth, f, rest)
}

// between opens a document around the one nested in that at depth, if prefix is the
// beginning of its prefix: what began it was lost.
func (s *stream) between(depth int, prefix string) bool {
	if depth+1 >= len(s.frames) {
		return false
	}
	sub := s.frames[depth+1]
	deeper, ok := strings.CutPrefix(sub.prefix, prefix)
	if !ok || deeper == "" || sub.version {
		return false
	}
	f := newFrame(prefix)
	f.name, f.escapes, f.strict, f.headless, f.begin = sub.name, sub.escapes, sub.strict, sub.headless, sub.begin
	sub.prefix, sub.name, sub.headless, sub.begin = deeper, "", false, nil
	s.frames = slices.Insert(s.frames, depth+1, f)
	return true
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
func (s *stream) opens(f *frame, line string) (prefix, rest string, ok bool) {
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
	if n == 0 || n == len(line) {
		return "", "", false
	}
	prefix, rest = line[:n], line[n:]
	switch rest[0] {
	case 'o', 'n', '1', 'K', 'T', '#', 'B', 'p':
	default:
		return "", "", false
	}
	if _, ok := parseVersion(rest); ok {
		return prefix, rest, true
	}
	// KUnit in the kernel's log may lack its beginning. Elsewhere anything else
	// might be a program's own words unless TAP is spoken here.
	spoken := !f.doc.Empty() || f.name != "" || s == s.kernel || s.frames[len(s.frames)-1] != f
	if strings.HasPrefix(rest, "# Subtest: ") {
		return prefix, rest, spoken || !comment
	}
	if f.brace != nil && !comment {
		return prefix, rest, true
	}
	if _, _, _, ok := parsePlan(rest, false); ok {
		if spoken = spoken || f.next != ""; !spoken && !comment {
			s.stray(f, line)
		}
		return prefix, rest, spoken
	}
	// A comment that looks like a result is one only in a document that was
	// begun properly.
	t, ok := parseResult(rest, false)
	switch {
	case !ok, comment:
		return "", "", false
	case t.Number > 0:
		if spoken = spoken || !t.OK || f.next != ""; !spoken {
			s.stray(f, line)
		}
		return prefix, rest, spoken
	case f.next != "":
		return prefix, rest, true
	}
	// Without a number it needs a dash, or to be nothing else.
	dashed := strings.HasPrefix(rest, "ok - ") || strings.HasPrefix(rest, "not ok - ") || rest == "not ok"
	if dashed && f.doc.Empty() {
		s.stray(f, line)
	}
	return prefix, rest, dashed && !f.doc.Empty()
}

// stray remembers the first indented line that would be TAP in a group, where nothing
// began one. It is a program's own words unless f turns out to have results.
func (p *Parser) stray(f *frame, line string) {
	if f.strays == "" {
		f.strays = p.keep(clip(line))
	}
}

// content handles a line of f without its prefix. Only lines that mean
// something at f's level end the documents nested in it: foreign lines may come
// at any time.
func (s *stream) content(depth int, f *frame, line string) {
	if line == "" {
		s.output(f, line)
		return
	}
	if s == s.user && depth == 0 {
		s.foreign.line(line)
		s.fileBegins(f, line)
	}
	switch line[0] {
	case 'T', 'K':
		if v, ok := parseVersion(line); ok {
			s.closeTo(depth)
			if f.planned >= 0 || f.version || len(f.doc.Tests) > f.first {
				f = s.another(depth)
			}
			f.escapes, f.version, f.last = v == "TAP 14" || v == "TAP 13", true, nil
			if f.doc.Version == "" {
				f.doc.Version = v
			}
			return
		}
	case '1':
		if n, skip, todo, ok := parsePlan(line, f.escapes); ok {
			f.last = nil
			s.plan(depth, f, n, skip, todo)
			return
		}
	case 'o', 'n':
		if t, ok := parseResult(line, f.escapes); ok && s.result(depth, f, t, line) {
			return
		}
	case 'B', 'b':
		if bail := "bail out!"; len(line) >= len(bail) && strings.EqualFold(line[:len(bail)], bail) && (line[0] == 'B' || !f.doc.Empty()) {
			f.doc.Bailed = true
			f.doc.BailOut = s.keep(strings.TrimSpace(line[len(bail):]))
			return
		}
	case '#':
		s.comment(depth, f, line)
		return
	case 'p':
		if on, ok := strings.CutSuffix(line, "strict"); ok && (on == "pragma +" || on == "pragma -") {
			f.strict = on == "pragma +"
			return
		}
	case '}':
		if f.brace != nil && strings.TrimRight(line, " \t") == "}" {
			s.endBrace(depth, f)
			return
		}
		if depth+1 < len(s.frames) && strings.TrimRight(line, " \t") == "}" {
			s.problem(f, "the end of subtests that nothing began")
		}
	case '{':
		// node-tap: after the result and its diagnostics.
		if f.last != nil && strings.TrimRight(line, " \t") == "{" && f.last.Sub == nil {
			f.brace, f.last = f.last, nil
			return
		}
	case 'k':
		if s == s.kernel && strings.HasPrefix(line, "kunit executor: ") {
			s.problem(f, clip(line)) // KUnit says so where it could not run
		}
	}
	if f.strict && strings.TrimSpace(line) != "" {
		s.problem(f, "strict, and no TAP: "+clip(line))
	}
	s.look(f, line, nil, depth+1 < len(s.frames) && !s.frames[depth+1].doc.Empty())
	s.output(f, line)
}

// fileBegins ends the document before where prove -v has named another file, even
// if it lacks results that this file's would make up for.
func (s *stream) fileBegins(f *frame, line string) {
	if proveHeader(line) {
		s.file = true
		return
	}
	if !s.file || !strings.ContainsRune("1okT", rune(line[0])) {
		return
	}
	_, version := parseVersion(line)
	_, _, _, plan := parsePlan(line, false)
	t, result := parseResult(line, false)
	if !version && !plan && !result {
		return
	}
	s.file = false
	if (version || plan || t.Number <= 1) && (f.planned >= 0 || f.version || len(f.doc.Tests) > f.first) {
		s.closeTo(0)
		s.endSegment(f, 0)
	}
}

// proveHeader reports whether a line is "t/file.t .. ", with which prove -v begins
// what a file prints.
func proveHeader(line string) bool {
	name, dots, ok := strings.Cut(strings.TrimRight(line, " "), " ")
	return ok && len(dots) > 1 && strings.Trim(dots, ".") == "" && strings.ContainsAny(name, "./")
}

// late finds the directive of a result whose line was broken before it: a skip
// must not read as passed.
func (p *Parser) late(s *stream, line string) {
	t, blank := p.passed, p.passedBlank
	if t == nil || line == "" {
		return
	}
	if s != p.passedS && s == p.kernel {
		return // the kernel's console wrote in between
	}
	p.passed = nil
	text := strings.TrimLeft(line, " \t")
	rest := ""
	switch {
	case strings.HasPrefix(text, "#"):
		if blank || isBlank(line[0]) {
			rest = strings.TrimLeft(text[1:], " \t")
		}
	case isTAP(text), len(findEmbedded(line)) > 0:
		return
	default:
		_, after, _ := cutComment(text, true)
		rest = strings.TrimLeft(after, " \t")
	}
	if p.passedLines++; p.passedLines < 3 {
		p.passed = t // foreign lines may come in between
	}
	if d, reason := parseDirective(rest); d != None {
		t.Directive, t.Reason = d, p.keep(reason)
		p.passed = nil
	} else if rest != "" && cutDirective(" #"+rest) {
		t.OK, t.Reason = false, p.keep("the directive is cut: "+clip(line))
		p.passed = nil
	}
}

func (s *stream) plan(depth int, f *frame, n int, skip string, todo []int) {
	saw := len(f.doc.Tests) - f.first
	switch {
	case f.planned < 0:
	case f.planned == saw && f.planned > 0:
		f = s.another(depth) // the one before was complete
		saw = 0
	case f.planned == n:
		return
	default:
		s.problem(f, fmt.Sprintf("planned %d tests, and then %d", f.planned, n))
		return
	}
	f.planned, f.todo = n, todo
	f.trailing = saw > 0
	f.doc.Planned = max(f.doc.Planned, 0) + n
	if n == 0 {
		f.doc.SkipAll = s.keep(skip)
	}
}

// result takes a result line, and reports whether it is one, or some program's
// own words: results without a number are rare among the kernel's, and "ok" is
// not.
func (s *stream) result(depth int, f *frame, t *Test, line string) bool {
	empty := f.doc.Empty() && len(s.frames) == depth+1
	if t.Number == 0 && t.OK {
		switch {
		case strings.HasPrefix(f.doc.Version, "KTAP"), s == s.kernel:
			return false // which demands numbers
		case empty && f.next == "" && !strings.HasPrefix(line, "ok - "):
			return false
		case f.numbered && f.planned < 0 && !strings.HasPrefix(line, "ok - ") && line != "ok":
			return false
		case f.numbered && f.planned >= 0 && f.number >= f.planned:
			return false // prove -v: the test file is ok
		}
	}
	if f.trailing && len(f.doc.Tests)-f.first == f.planned && t.Number == 1 && f.numbered {
		s.closeTo(depth) // what is nested here came behind the end
		s.endSegment(f, depth)
	} else if f.trailing {
		s.problem(f, "results after the plan: "+clip(line))
		f.trailing = false
	}
	if f.brace != nil {
		s.problem(f, fmt.Sprintf("the subtests of test %d have no end", f.brace.Number))
		s.endBrace(depth, f)
	}
	switch {
	case s.ends && t.Status() == StatusPass:
		// The number, the name or a directive may be cut.
		t.OK, t.Reason = false, "the output ends within this line: "+clip(line)
	case t.OK && t.Directive == None && endsInDirective(untilPrintk(line), f.escapes) != None:
		t.Directive, t.Reason = endsInDirective(untilPrintk(line), f.escapes), "" // the console wrote behind its word
	case t.OK && t.Directive == None && (cutDirective(line) || cutDirective(untilPrintk(line))):
		t.OK, t.Reason = false, "the directive is cut: "+clip(line)
	}
	braced := false
	if name, ok := strings.CutSuffix(strings.TrimRight(line, " \t"), " {"); ok && !strings.HasPrefix(f.doc.Version, "KTAP") {
		if inner, ok := parseResult(name, f.escapes); ok {
			inner.OK = inner.OK && t.OK
			if t.OK != inner.OK {
				inner.Reason = t.Reason
			}
			t, braced = inner, true
		}
	}
	if n := depth + 2; n < len(s.frames) && t.Name != "" && s.frames[depth+1].name != t.Name {
		// A result whose indentation is lost: its group is open, deeper.
		for ; n < len(s.frames); n++ {
			if s.frames[n].name == t.Name {
				return s.result(n-1, s.frames[n-1], t, line)
			}
		}
	}
	// The innermost open documents end, and the group nested directly in f is
	// this test's.
	if depth+1 < len(s.frames) {
		s.closeTo(depth + 1)
		sub := s.frames[depth+1]
		switch {
		case braced, sub.belongsBefore(t):
			s.closeTo(depth) // not this test's, whose subtests are yet to come
		default:
			s.endSegment(sub, depth+1)
			sub.doc.Output = sub.takeOutput()
			if sub.doc.Empty() && sub.name != "" {
				s.problem(sub, "a group without results")
			}
			if !sub.headless {
				sub.disown()
			}
			t.Sub = sub.doc
			s.frames = s.frames[:depth+1]
		}
	}
	if f.name != "" && f.name == t.Name && f.doc.Empty() {
		// Not of f: the test's own announcement, as node prints it.
		f.name = ""
	}
	f.running, f.next = "", ""
	t.Output = f.takeOutput()
	number := t.Number
	if number == 0 {
		number = f.number + 1
	}
	if before := f.seen[number]; before != nil {
		_, guessed := f.assumed[before]
		switch {
		case t.Number == 0:
			number = 0
		case guessed && before.OK && before.Sub == nil:
			// The line without a number was none.
			f.doc.Tests = slices.DeleteFunc(f.doc.Tests, func(t *Test) bool { return t == before })
		case guessed && before.Sub == nil:
		case before.Name == t.Name && before.OK == t.OK && before.Directive == t.Directive && t.Sub == nil:
			// A process that forks with text in its stdio buffer prints it
			// twice. Nothing is lost with the copy.
			s.note(f, fmt.Sprintf("result %d was printed twice", t.Number))
			return true
		default:
			s.problem(f, fmt.Sprintf("two tests have the number %d", t.Number))
			if t.Status() == StatusPass && t.Sub == nil {
				return true // no number passes twice
			}
		}
	}
	if !s.add(f, t) {
		return true
	}
	f.numbered = f.numbered || t.Number > 0
	if number > 0 {
		f.seen[number], f.number = t, number
		if t.Number == 0 {
			if f.assumed == nil {
				f.assumed = make(map[*Test]int)
			}
			f.assumed[t] = number
		}
	}
	for _, n := range f.todo {
		if n == number && t.Directive == None {
			t.Directive = Todo
		}
	}
	f.last = t
	if t.OK && t.Directive == None {
		before := untilPrintk(line)
		s.passed, s.passedS, s.passedLines, s.passedBlank = t, s, 0, isBlank(before[len(before)-1])
	}
	if braced {
		f.brace, f.last = t, nil
	}
	s.look(f, line, t, false)
	return true
}

// another begins a document behind the one at depth, which has ended, and returns its
// frame. Only programs print several in a row; of two groups the first lacks its
// result.
func (s *stream) another(depth int) *frame {
	f := s.frames[depth]
	if depth == 0 || strings.Contains(f.prefix, "#") {
		s.endSegment(f, depth)
		return f
	}
	s.closeTo(depth - 1)
	next := newFrame(f.prefix)
	outer := s.frames[depth-1]
	next.name, next.escapes, next.strict, outer.next = outer.next, outer.escapes, outer.strict, ""
	if n := len(outer.doc.Tests); n > outer.first {
		next.begin = outer.doc.Tests[n-1]
	}
	s.frames = append(s.frames, next)
	return next
}

// belongsBefore reports whether f is the group of the result before it rather
// than of t.
func (f *frame) belongsBefore(t *Test) bool {
	b := f.begin
	return f.name != "" && f.name != t.Name && b != nil && b.Sub == nil && b.Name == f.name
}

// untilPrintk returns what stands before a message that the kernel's console put
// into a line, the whole line if there is none.
func untilPrintk(line string) string {
	for i := 1; i < min(len(line), maxPrefix); i++ {
		if line[i] == '[' && printkLen(line[i:]) > 0 {
			return line[:i]
		}
	}
	return line
}

// endsInDirective returns the directive of a result line, or of the beginning of one.
func endsInDirective(line string, escapes bool) Directive {
	t, ok := parseResult(line, escapes)
	if !ok {
		return None
	}
	return t.Directive
}

// cutDirective reports whether a line's comment is the beginning of a directive
// and nothing else.
func cutDirective(line string) bool {
	i := strings.LastIndexByte(line, '#')
	if i <= 0 || !isBlank(line[i-1]) {
		return false
	}
	word := strings.ToUpper(strings.TrimSpace(line[i+1:]))
	if len(word) > 6 {
		return false
	}
	for _, d := range directiveNames[1:] {
		if len(word) < len(d) && strings.HasPrefix(d, word) {
			return true
		}
	}
	return false
}

// endBrace ends the subtests in braces.
func (s *stream) endBrace(depth int, f *frame) {
	t := f.brace
	f.brace = nil
	if depth+1 >= len(s.frames) || s.frames[depth+1].doc.Empty() {
		s.closeTo(depth)
		s.problem(f, fmt.Sprintf("test %d has no subtests", t.Number))
		return
	}
	s.closeTo(depth + 1)
	sub := s.frames[depth+1]
	s.endSegment(sub, depth+1)
	sub.doc.Output = sub.takeOutput()
	t.Sub = sub.doc
	s.frames = s.frames[:depth+1]
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

// look remembers the results within a line, should they be missing later. group is
// whether one may be that of a group that is open.
func (p *Parser) look(f *frame, line string, host *Test, group bool) {
	if len(f.found) >= maxRemarks {
		return
	}
	found := findEmbedded(line)
	if len(found) == 0 || !p.takeOutput(len(line)) {
		return
	}
	for _, e := range found {
		e.host, e.group = host, group
		f.found = append(f.found, e)
	}
}

func (s *stream) comment(depth int, f *frame, line string) {
	text := line[1:]
	if name, ok := harnessRun(text); ok {
		f.running = name
	}
	text = strings.TrimPrefix(text, " ")
	if name, ok := strings.CutPrefix(text, "Subtest: "); ok {
		f.last = nil
		name = strings.TrimSpace(name)
		// Printed within the group, or right before it.
		if f.name == "" && f.doc.justVersion() && f.prefix != "" {
			f.name = s.keep(name)
		} else {
			if depth+1 < len(s.frames) && s.frames[depth+1].name != name {
				s.closeTo(depth) // the group before it lacks its result
			}
			f.next = s.keep(name)
		}
		return
	}
	f.last = nil
	s.claim(depth, f, text)
	if said := strings.TrimLeft(text, " "); strings.HasPrefix(said, "Failed test") || strings.HasPrefix(said, "Failed (TODO) test") {
		// Test::More and Test2, of the result before.
		if n := len(f.doc.Tests); n > f.first && !f.doc.Tests[n-1].OK {
			t := f.doc.Tests[n-1]
			t.Output += f.takeOutput()
			f.after = t
		}
	}
	s.output(f, text)
}

// claim notes what a comment says about the results.
func (s *stream) claim(depth int, f *frame, text string) {
	if text == "" {
		return
	}
	if inner, ok := strings.CutPrefix(text, "# Totals: pass:"); ok && depth+1 == len(s.frames) && !strings.Contains(inner, "total:") {
		// Of a program under kselftest's runner whose version line is lost.
		s.problem(f, "totals of results that are missing: "+clip(text))
		return
	}
	if totals, total, kunit, ok := parseTotals(text); ok {
		if !kunit {
			f.doc.Totals, f.claims.totals = totals, totals
			return
		}
		if totals.Pass+totals.Fail+totals.Skip != total {
			s.problem(f, "totals that do not add up: "+clip(text))
		}
		switch {
		case depth+1 < len(s.frames):
			c := &s.frames[depth+1].claims
			if strings.HasPrefix(text, "Totals: ") {
				c.leaves = totals
			} else {
				c.group = totals
			}
		case total > 0 && f.version && strings.HasPrefix(f.doc.Version, "KTAP") && f.prefix != "":
			// Before Linux 6.2, which brought nested versions, a test's
			// parameters were comments.
			s.problem(f, "totals of results that are missing: "+clip(text))
		}
		return
	}
	if strings.HasPrefix(text, "PASSED: ") || strings.HasPrefix(text, "FAILED: ") {
		// "PASSED: 5 / 5 tests passed."
		w := strings.Fields(text)
		if len(w) == 6 && w[2] == "/" && w[4] == "tests" && w[5] == "passed." {
			pass, ok1 := parseNumber(w[1])
			all, ok2 := parseNumber(w[3])
			if ok1 && ok2 {
				f.claims.harness, f.claims.harnessOK = true, w[0] == "PASSED:"
				f.claims.harnessPass, f.claims.harnessAll = pass, all
			}
		}
		return
	}
	if strings.HasPrefix(text, "Looks like ") {
		// Test::More, of what no result line says.
		for _, bad := range []string{"Looks like you failed ", "Looks like you planned ", "Looks like your test "} {
			if strings.HasPrefix(text, bad) && f.claims.looks == "" {
				f.claims.looks = s.keep(clip(text))
			}
		}
		return
	}
	for _, c := range []struct {
		word string
		n    *int
	}{{"tests ", &f.claims.tests}, {"pass ", &f.claims.pass}, {"fail ", &f.claims.fail}} {
		if rest, ok := strings.CutPrefix(text, c.word); ok {
			if n, ok := parseNumber(strings.TrimSpace(rest)); ok {
				*c.n = n
			}
		}
	}
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
	if t := f.after; t != nil {
		f.after = nil
		t.Output += s
		return ""
	}
	return s
}

// startYAML reports whether line begins the diagnostic block of the last
// result.
func (s *stream) startYAML(f *frame, line string) bool {
	if f.last == nil && f.brace == nil || line == "" || !isBlank(line[0]) {
		return false
	}
	indent, ok := strings.CutSuffix(strings.TrimRight(line, " \t"), "---")
	if !ok || strings.Trim(indent, " \t") != "" || indent == "" || f.last == nil || f.last.YAML != "" {
		return false
	}
	f.yaml, f.yamlIndent = f.last, indent
	return true
}

// inYAML reports whether line belongs to the diagnostic block being read.
// Foreign lines may come within one.
func (s *stream) inYAML(f *frame, line string) bool {
	if f.yaml == nil {
		return false
	}
	body, ok := cutPrefix(line, f.yamlIndent)
	switch {
	case !ok && line != "":
		if !isTAP(line) {
			return false
		}
		s.problem(f, fmt.Sprintf("the diagnostics of test %d have no end", f.yaml.Number))
		f.endYAML()
		return false
	case strings.TrimRight(body, " \t") == "...":
		f.endYAML()
	case len(f.yamlText)+len(body) < s.cfg.MaxOutput && s.takeOutput(len(body)+1):
		f.yamlText = append(append(f.yamlText, body...), '\n')
	}
	return true
}

// isTAP reports whether a line means something.
func isTAP(line string) bool {
	if line == "" || !strings.ContainsRune("on1TKB}#", rune(line[0])) {
		return false
	}
	if _, ok := parseResult(line, false); ok {
		return true
	}
	if _, _, _, ok := parsePlan(line, false); ok {
		return true
	}
	_, version := parseVersion(line)
	return version || line == "}" || strings.HasPrefix(line, "Bail out!") || strings.HasPrefix(line, "# Subtest: ")
}

func (f *frame) endYAML() {
	if f.yaml != nil {
		f.yaml.YAML = string(f.yamlText)
		f.yaml, f.yamlText = nil, f.yamlText[:0]
	}
}

// closeTo ends the documents nested deeper than depth, for want of a result
// that would have claimed them.
func (s *stream) closeTo(depth int) {
	for len(s.frames) > depth+1 {
		last := len(s.frames) - 1
		f, outer := s.frames[last], s.frames[last-1]
		s.endSegment(f, last)
		s.frames = s.frames[:last]
		if f.doc.Empty() {
			continue
		}
		f.doc.Output = f.takeOutput()
		if b := outer.brace; b != nil {
			outer.brace = nil
			s.problem(outer, fmt.Sprintf("the subtests of test %d have no end", b.Number))
			b.Sub = f.doc
			continue
		}
		if f.belongsBefore(&Test{}) {
			f.begin.Sub = f.doc
			continue
		}
		name := clip(f.name)
		if name == "" {
			name = "(unnamed group)"
			f.disown()
		}
		// Whoever was to sum the group up did not live to do it.
		s.add(outer, &Test{Name: name, Reason: "the group of tests has no result", Sub: f.doc, Output: outer.takeOutput()})
	}
}

// disown lets nothing pass in a group without version, name and plan: whose
// results they are nobody knows; perhaps they are parts of broken lines, and were
// counted with their group.
func (f *frame) disown() {
	if f.doc.Version != "" || f.doc.Planned >= 0 || f.name != "" {
		return
	}
	for _, t := range f.doc.Tests {
		if t.Status() == StatusPass {
			t.OK, t.Reason = false, "a result outside of any group"
		}
	}
}

// endSegment checks a document that has ended and makes f, at depth, ready for
// another.
func (s *stream) endSegment(f *frame, depth int) {
	if f.yaml != nil {
		s.problem(f, fmt.Sprintf("the diagnostics of test %d have no end", f.yaml.Number))
		f.endYAML()
	}
	if f.brace != nil {
		s.problem(f, fmt.Sprintf("the subtests of test %d have no end", f.brace.Number))
		if t := f.brace; t.Status() == StatusPass {
			t.OK, t.Reason = false, "its subtests are missing"
		}
		f.brace = nil
	}
	s.settle(f)
	s.salvage(f)
	tests := f.doc.Tests[f.first:]
	saw, promised := len(tests), f.planned
	if promised < 0 {
		// Without a plan the numbers tell at least about gaps.
		highest, numbered := 0, 0
		for n := range f.seen {
			highest, numbered = max(highest, n), numbered+1
		}
		promised = saw + highest - numbered
		if promised > saw {
			s.problem(f, fmt.Sprintf("the numbers go up to %d, saw %d", highest, numbered))
		}
		s.unplanned(f, depth, tests)
	} else if saw != promised {
		s.problem(f, fmt.Sprintf("planned %d, saw %d", promised, saw))
	}
	if f.strays != "" && saw > 0 {
		s.problem(f, "indented as in a group, and nothing begins one: "+f.strays)
	}
	if f.next != "" && saw > 0 {
		s.problem(f, "the subtest "+clip(f.next)+" has no result")
	}
	f.next = ""
	missing := max(promised-saw, 0)
	if f.running != "" && (f.planned < 0 || missing > 0) {
		t := &Test{Name: f.running, Reason: "did not finish", Output: f.takeOutput()}
		if s.add(f, t) {
			missing = max(missing-1, 0)
		}
	}
	f.doc.Missing = min(f.doc.Missing+missing, maxNumber)
	for n := range f.seen {
		if f.planned >= 0 && n > f.planned {
			s.problem(f, fmt.Sprintf("there are numbers beyond the plan of %d", f.planned))
			break
		}
	}
	if differs := f.claims.check(tests); differs != "" {
		s.problem(f, differs)
	}
	f.reset()
}

// unplanned judges a document without a plan.
func (s *stream) unplanned(f *frame, depth int, tests []*Test) {
	switch {
	case len(tests) == 0:
		if f.version && !f.doc.Bailed {
			s.problem(f, "a version, and neither a plan nor results")
		}
	case depth > 0 && (f.claims.group != nil || f.claims.totals != nil || f.claims.harness),
		depth > 0 && strings.HasPrefix(f.doc.Version, "KTAP") && f.name != "" && len(tests) == 1,
		depth > 0 && strings.Contains(f.prefix, "#"),
		s == s.kernel && depth == 0 && !f.version && grouped(tests):
		// KUnit's parameters have totals, unless there is but one; programs
		// that kselftest's runner runs have an exit status; and KUnit's modules
		// had no plan of their own before Linux 6.0.
		s.note(f, "no plan")
	default:
		s.problem(f, "no plan says that these were all")
	}
}

// grouped reports whether all results are of groups with a plan and without a
// version, as KUnit printed them before Linux 6.2.
func grouped(tests []*Test) bool {
	for _, t := range tests {
		if t.Sub == nil || t.Sub.Planned < 0 || t.Sub.Version != "" {
			return false
		}
	}
	return true
}

// settle decides which lines without a number were results: those that make the
// numbers full.
func (s *stream) settle(f *frame) {
	if len(f.assumed) == 0 || !f.numbered {
		return
	}
	fits := len(f.doc.Tests)-f.first == f.planned
	f.doc.Tests = slices.DeleteFunc(f.doc.Tests, func(t *Test) bool {
		n, guessed := f.assumed[t]
		drop := guessed && t.OK && t.Sub == nil && (!fits || n > f.planned)
		if drop && f.seen[n] == t {
			delete(f.seen, n)
		}
		return drop
	})
}

// check compares what was said about results with them, and says what differs,
// "" if nothing does.
func (c *claims) check(tests []*Test) string {
	if c.totals != nil {
		if differs := c.totals.check(tests); differs != "" {
			return differs
		}
	}
	if c.group != nil {
		if got := sum(tests); got.Pass != c.group.Pass || got.Skip != c.group.Skip || got.Fail+got.XPass+got.Error != c.group.Fail {
			return fmt.Sprintf("the totals say pass:%d fail:%d skip:%d, the results pass:%d fail:%d skip:%d",
				c.group.Pass, c.group.Fail, c.group.Skip, got.Pass, got.Fail, got.Skip)
		}
	}
	if c.leaves == nil && !c.harness && c.tests < 0 && c.fail < 0 && c.looks == "" {
		return ""
	}
	d := Doc{Tests: tests, Planned: -1}
	n := d.Count()
	if c.looks != "" && !d.Failed() {
		return c.looks
	}
	if c.leaves != nil {
		comments := n.Total() < c.leaves.Pass+c.leaves.Fail+c.leaves.Skip && !versioned(tests)
		if !comments && (n.Pass != c.leaves.Pass || n.Skip != c.leaves.Skip || n.Fail != c.leaves.Fail) || c.leaves.Fail > 0 && !d.Failed() {
			return fmt.Sprintf("the totals of all say pass:%d fail:%d skip:%d, the results pass:%d fail:%d skip:%d",
				c.leaves.Pass, c.leaves.Fail, c.leaves.Skip, n.Pass, n.Fail, n.Skip)
		}
	}
	if c.harness {
		got := sum(tests)
		good := got.Pass + got.Skip + got.XFail
		if c.harnessAll != len(tests) || c.harnessPass != good || c.harnessOK != (good == len(tests)) {
			return fmt.Sprintf("the harness says %d / %d tests passed, the results %d / %d", c.harnessPass, c.harnessAll, good, len(tests))
		}
	}
	all, passed := lines(tests)
	switch {
	case c.tests > all:
		return fmt.Sprintf("the summary says tests %d, saw %d", c.tests, all)
	case c.pass > passed && c.tests >= 0:
		return fmt.Sprintf("the summary says pass %d, saw %d", c.pass, passed)
	case c.fail > 0 && !d.Failed():
		return fmt.Sprintf("the summary says fail %d, and no result does", c.fail)
	}
	return ""
}

// versioned reports whether a group below has a version.
func versioned(tests []*Test) bool {
	for _, t := range tests {
		if t.Sub != nil && t.Sub.Version != "" {
			return true
		}
	}
	return false
}

// lines counts result lines at any depth, and those that do not fail.
func lines(tests []*Test) (all, passed int) {
	for _, t := range tests {
		all++
		if t.Status() != StatusFail {
			passed++
		}
		if t.Sub != nil {
			a, p := lines(t.Sub.Tests)
			all, passed = all+a, passed+p
		}
	}
	return all, passed
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
		if t.OK && (e.group || strings.HasSuffix(t.Name, " {")) {
			t.OK, t.Reason = false, "its subtests are missing"
		}
		if t.OK && t.Directive == None && cutDirective(e.line[e.at:]) {
			t.OK, t.Reason = false, "the directive is cut: "+clip(e.line)
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
