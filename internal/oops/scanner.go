package oops

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Bounds of what is kept at one moment.
const (
	maxOpen     = 16        // reports open or waiting for an earlier one
	maxLines    = 3000      // lines of one report
	maxBytes    = 256 << 10 // bytes of one report's lines
	maxIdle     = 256       // own lines in a row that are no part of a report
	maxGrace    = 16        // the same after the report's end mark
	maxForeign  = 2048      // lines of other contexts in a row
	maxOverlap  = 100       // lines after another report began in the same stream
	maxDump     = 64        // lines of a stack that another report interrupts
	maxPreamble = 8         // lines between "[ cut here ]" and the first line
	// bootTime is the age in seconds a kernel must have for a boot that follows to
	// be a reboot.
	bootTime = 1.0
)

// Scanner finds reports in a stream. The zero value is not usable; see
// [NewScanner]. It is not safe for concurrent use.
type Scanner struct {
	// Own says that the log is the console of a machine whose tests the caller
	// knows. Errors of file systems on loop devices are reports then: others mount
	// broken images there all the time. And no prefix but printk's is read, for
	// nothing but the machine's programs could have printed another. To be set
	// before the first Write.
	Own bool

	emit   func(*Report)
	split  splitter
	queue  []*pending // in order of their first lines
	recent [maxDump]line
	nth    int  // lines seen, for recent
	dump   int  // nth after a task without a bug began to print its stack, 0 if none did
	stamps bool // the stream holds lines that the kernel wrote for certain
	last   line // the last line the kernel printed
	down   bool // the kernel said that it goes down
	seen   seen // the reports handed out
	closed bool
}

// NewScanner returns a Scanner that calls emit for every report, in the order
// of the reports' first lines, from within Write, Flush and Close. A report is
// handed out once it is finished: by its end, by the next one, by enough
// further lines, or by Flush or Close. The report is emit's to keep.
func NewScanner(emit func(*Report)) *Scanner {
	return &Scanner{emit: emit, last: line{time: -1}}
}

// errClosed is what Write returns after Close.
var errClosed = errors.New("scan console: scanner is closed")

// Write feeds console output, cut anywhere. It keeps no reference to p.
func (s *Scanner) Write(p []byte) (int, error) {
	if s.closed {
		return 0, errClosed
	}
	s.split.recs.own = s.Own
	s.split.write(p, s.line)
	return len(p), nil
}

// Flush finishes the reports that have begun. Call it when the console has been
// silent for so long that nothing more will come. An unfinished last line stays
// unread.
func (s *Scanner) Flush() {
	s.split.recs.flush(s.line)
	for _, p := range s.queue {
		p.finish()
	}
	s.drain()
}

// Close reads the last line if it has no newline and finishes the reports that
// have begun. Closing twice does nothing.
func (s *Scanner) Close() error {
	if s.closed {
		return nil
	}
	s.closed = true
	s.split.close(s.line)
	s.Flush()
	return nil
}

// Pending reports whether a report has begun that was not handed out yet.
func (s *Scanner) Pending() bool { return len(s.queue) > 0 }

// Parse returns all reports in log, in order.
func Parse(log []byte) []*Report { return parse(log, false) }

// ParseOwn is Parse for the log of a machine of the caller's own, see
// [Scanner.Own].
func ParseOwn(log []byte) []*Report { return parse(log, true) }

func parse(log []byte, own bool) []*Report {
	var out []*Report
	s := NewScanner(func(r *Report) { out = append(out, r) })
	s.Own = own
	s.split.recs.own = own
	s.split.write(log, s.line)
	s.split.close(s.line)
	s.Flush()
	return out
}

// ParseFirst returns the first report in log, nil if there is none.
func ParseFirst(log []byte) *Report {
	if all := Parse(log); len(all) > 0 {
		return all[0]
	}
	return nil
}

// ContainsCrash reports whether log holds a report: whether Parse finds one.
func ContainsCrash(log []byte) bool {
	found := false
	s := NewScanner(func(*Report) { found = true })
	s.split.write(log, s.line)
	s.split.close(s.line)
	s.Flush()
	return found
}

// Reader reads r to its end and calls emit for every report, in order. It
// returns r's error, with the reports found up to there handed out.
func Reader(r io.Reader, emit func(*Report)) error {
	s := NewScanner(emit)
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		s.split.write(buf[:n], s.line)
		if err == nil {
			continue
		}
		s.split.close(s.line)
		s.Flush()
		if errors.Is(err, io.EOF) {
			return nil
		}
		return fmt.Errorf("read console log: %w", err)
	}
}

// line takes the next line of the stream.
func (s *Scanner) line(l line) {
	if l.source == srcProgram {
		return // what a program says is no report, and no part of one
	}
	if l.fromKernel() {
		s.stamps = true
	}
	h, ok := s.find(l.msg, l.fromKernel() || !s.stamps)
	if ok && h.pattern.mark != markNone {
		s.mark(&l, h.pattern.mark)
		ok = false
	}
	if ok && h.pattern.oops != nil && h.pattern.oops.program && (s.Own || l.fromKernel() || h.pos > 0) {
		ok = false
	}
	var owner *pending // the newest report of this line's context
	if len(s.queue) > 0 {
		for _, p := range s.queue {
			if !p.done && p.owns(l.caller) {
				owner = p
			}
		}
	}
	begin := ok && (!owner.trusted(&l) || !s.joins(owner, h))
	if ok && h.pattern.oops.tail {
		s.panicked(l.caller)
		s.down = true
	}
	for _, p := range s.queue {
		if begin && !p.done && p.owns(l.caller) {
			p.overtaken(len(l.caller) > 0, h.pattern.oops.oneLine(l.msg, h.pos))
		}
		if !p.done {
			p.add(&l)
		}
	}
	if begin {
		s.begin(&l, h)
	}
	if s.dump > 0 && isBottom(l.msg) {
		s.dump = 0
	}
	s.remember(&l)
	if len(s.queue) > 0 {
		s.settle()
	}
}

// find looks for what begins a report, or a mark.
func (s *Scanner) find(msg []byte, kernel bool) (hit, bool) {
	h, ok := starts().find(msg, kernel)
	if ok && !s.Own && h.pattern.mark == markNone && h.pattern.oops.abroad != nil {
		ok = !h.pattern.oops.abroad.Match(msg)
	}
	return h, ok
}

// joins reports whether a line that could begin a report belongs to owner.
func (s *Scanner) joins(owner *pending, h hit) bool {
	if owner == nil {
		return false
	}
	o := h.pattern.oops
	switch {
	case o.tail:
		return !owner.oops.repeat && !owner.oops.program
	case o.repeat && owner.oops == o:
		return true
	case o.trap || o.header == "kernel BUG" || o.header == "WARNING: ":
		first := owner.lines[owner.first].text
		return !owner.frames && (detects.MatchString(first) || o.header != "WARNING: " && announces.MatchString(first))
	}
	return false
}

// detects matches first lines that a BUG or a warning follows.
var detects = compile(`CFI failure at|VFS: Close: file count|VFS: Busy inodes`)

// announces matches first lines that a processor exception's own line follows.
var announces = compile(`(?i)unable to handle|NULL pointer|kernel BUG|Unhandled fault|Alignment trap|stack guard|double fault|panicked at|memory leak`)

// mark handles lines that are no reports but tell where the kernel is.
func (s *Scanner) mark(l *line, mark int) {
	if mark == markDump {
		s.dump = s.nth + 1
		return
	}
	if mark == markDown {
		s.down = true
		return
	}
	if mark == markEntry {
		// arch/x86/boot/compressed/misc.c prints it on a line of its own.
		if l.fromKernel() || !bytes.HasPrefix(bytes.TrimLeft(l.msg, " \t"), []byte("Booting the kernel.")) {
			return
		}
		s.boot(l, s.last.time > bootTime && !s.down)
		s.down = true // the banner of the same boot is no reboot again
		return
	}
	if !bytes.HasPrefix(l.msg, []byte("Linux version ")) {
		return
	}
	s.boot(l, s.last.time > bootTime && l.time >= 0 && l.time < s.last.time && !s.down)
	s.down = false
}

// boot closes what the kernel before left open, for at l another begins.
// unexpected says that the one before had not gone down.
func (s *Scanner) boot(l *line, unexpected bool) {
	for _, p := range s.queue {
		p.finish()
	}
	if !unexpected {
		s.drain()
		s.seen = seen{} // another kernel's reports are other ones
		return
	}
	r := &Report{
		Title: "unexpected kernel reboot", Kind: Reboot, CPU: -1, PID: -1,
		Start: s.last.start, End: l.end, Context: string(s.last.caller), Time: s.last.time,
		Raw: bytes.Join([][]byte{s.last.raw, bytes.Clone(l.raw), nil}, []byte("\n")),
	}
	r.Fingerprint = fingerprint(r.Kind, r.Title)
	reboot := &pending{done: true, report: r}
	// A program may have crashed after the kernel's last line, where this begins.
	later := slices.IndexFunc(s.queue, func(p *pending) bool { return p.report != nil && p.report.Start > r.Start })
	if later >= 0 {
		s.queue = slices.Insert(s.queue, later, reboot)
	}
	s.drain()
	s.seen = seen{}
	if later < 0 {
		s.queue = append(s.queue, reboot)
	}
}

// panicked notes a panic on the reports of its context.
func (s *Scanner) panicked(caller []byte) {
	for _, p := range s.queue {
		if p.oops != nil && p.oops.program {
			continue
		}
		if p.report != nil {
			if len(p.report.Context) == 0 || p.report.Context == string(caller) {
				p.report.Panicked = true
			}
		} else if p.owns(caller) {
			p.panicked = true
		}
	}
}

// begin opens a report at l.
func (s *Scanner) begin(l *line, h hit) {
	p := &pending{oops: h.pattern.oops, pos: h.pos, panicked: h.pattern.oops.tail}
	p.known = p.oops.known(l.msg, h.pos)
	// Without a time where the log has times, a line is the kernel's if no program
	// prints it: that of a trap has the number of the oops at its end (die, on every
	// architecture).
	alone := !s.Own && (!p.oops.trap || bytes.Contains(l.msg, []byte("[#")))
	p.doubt = l.source == srcUnknown && !p.oops.echoed() && (s.stamps && !alone || !p.known && (s.stamps || p.oops.header != "BUG: "))
	if p.oops.program {
		p.known, p.doubt = false, true // it is to be witnessed by what follows
	}
	p.foreignLines = slices.ContainsFunc(p.oops.formats, func(f format) bool { return f.allContexts })
	before := s.dumped(l)
	p.dumped = len(before) > 0
	if !p.dumped {
		before = s.preamble(l)
	}
	for _, r := range before {
		p.keep(r)
	}
	p.first = len(p.lines)
	p.keep(l.own())
	p.caller = p.lines[p.first].caller
	p.last = p.first
	s.queue = append(s.queue, p)
}

// preamble returns the lines before l that belong to its report: those from
// "[ cut here ]" on.
func (s *Scanner) preamble(l *line) []line {
	var out []line
	for i := 1; i <= maxPreamble && i <= s.nth; i++ {
		r := &s.recent[(s.nth-i)%maxDump]
		if h, ok := s.find(r.msg, true); ok && h.pattern.mark != markDump {
			return nil // another report or a boot lies between
		}
		if !bytes.Equal(r.caller, l.caller) {
			continue
		}
		out = append(out, r.own())
		if isCutHere(r.msg) {
			slices.Reverse(out)
			return out
		}
	}
	return nil
}

// dumped returns the lines before l from where a task without a bug began to
// print its stack, nil if none did or came to its end. They belong to the report
// that begins at l: without them it would read as if the stack were its own.
func (s *Scanner) dumped(l *line) []line {
	if s.dump == 0 || s.nth-s.dump >= maxDump || len(l.caller) > 0 {
		return nil
	}
	var out []line
	for n := s.dump - 1; n < s.nth; n++ {
		r := &s.recent[n%maxDump]
		if h, ok := s.find(r.msg, true); ok && h.pattern.mark != markDump {
			return nil // another report or a boot lies between
		}
		out = append(out, r.own())
	}
	return out
}

// remember keeps l for preamble.
func (s *Scanner) remember(l *line) {
	slot := &s.recent[s.nth%maxDump]
	s.nth++
	copyLine(slot, l)
	if l.fromKernel() {
		copyLine(&s.last, l)
	}
}

// copyLine copies src into dst, reusing dst's memory.
func copyLine(dst, src *line) {
	raw, msg, caller := dst.raw[:0], dst.msg[:0], dst.caller[:0]
	*dst = line{start: src.start, end: src.end, time: src.time, source: src.source}
	dst.raw = append(raw, src.raw...)
	dst.msg = append(msg, src.msg...)
	dst.caller = append(caller, src.caller...)
}

// settle closes what must not grow further and hands out what is finished.
func (s *Scanner) settle() {
	open := 0
	for _, p := range s.queue {
		if !p.done {
			open++
		}
	}
	if open > 0 && len(s.queue) < maxOpen {
		return
	}
	if open > 0 {
		s.queue[0].finish()
		for len(s.queue) > 0 && s.queue[0].done {
			s.hand(s.queue[0])
			s.queue = s.queue[1:]
		}
		s.queue = slices.Clone(s.queue)
		return
	}
	s.drain()
}

func (s *Scanner) drain() {
	queue := s.queue
	s.queue = nil
	for _, p := range queue {
		s.hand(p)
	}
}

func (s *Scanner) hand(p *pending) {
	if p.report == nil || s.seen.before(p) {
		return
	}
	if s.emit != nil {
		s.emit(p.report)
	}
}

// pending is a report that has begun.
type pending struct {
	oops   *oops
	pos    int    // of the header in the first line's text
	caller []byte // printk caller of the first line
	lines  []line
	first  int // index of the report's first line, after the preamble
	last   int // index of the last line that belongs to it
	bytes  int

	known        bool // the first line is one that no program prints
	doubt        bool // nothing but its words says that the kernel wrote the first line
	foreignLines bool // lines of other contexts are kept as well
	frames       bool // a stack frame was seen
	whole        bool // the stack came to its end
	ruled        bool // the last line was a rule: the end of this report, or the beginning of another
	ended        bool // the end mark was seen
	overlap      int  // lines since another report began in the same stream
	mixedAt      int  // index of the first of them
	dumped       bool // another task was printing its stack when this began
	idle         int
	foreign      int
	panicked     bool
	done         bool
	prints       prints // of the lines, to know the report again
	report       *Report
}

// owns reports whether a line with the given printk caller can be the report's.
func (p *pending) owns(caller []byte) bool {
	if len(p.caller) == 0 {
		return true
	}
	return bytes.Equal(p.caller, caller)
}

func (p *pending) keep(l line) {
	p.bytes += len(l.raw) + len(l.text)
	p.lines = append(p.lines, l)
}

// finish closes the report.
func (p *pending) finish() {
	if p.done {
		return
	}
	p.done = true
	if !p.doubt || p.witnessed() {
		p.report = p.analyze()
		p.report.Suppressed = p.oops.program
		p.prints = printsOf(p.texts(true))
	}
	p.lines = nil
}

// overtaken is told that another report begins in the same context. known says
// that the context is certain, oneLine that the other has no stack: what follows it
// is still this one's.
func (p *pending) overtaken(known, oneLine bool) {
	if oneLine && !p.whole {
		return
	}
	if p.whole || known && p.frames || p.oops.repeat {
		p.finish()
		return
	}
	if p.overlap == 0 {
		p.overlap = 1
		p.mixedAt = len(p.lines)
	}
}

// add offers a line to the report.
func (p *pending) add(l *line) {
	if p.oops.program && l.fromKernel() {
		return // the kernel says nothing about it
	}
	if !p.owns(l.caller) {
		p.foreign++
		if p.foreign > maxForeign {
			p.finish()
			return
		}
		if p.foreignLines && isPart(l.msg) {
			p.keep(l.own())
			p.last = len(p.lines) - 1
		}
		p.bound()
		return
	}
	p.foreign = 0
	p.keep(l.own())
	part := isPart(l.msg)
	if part {
		p.idle = 0
		p.last = len(p.lines) - 1
	} else {
		p.idle++
	}
	if text := p.lines[len(p.lines)-1].text; !p.frames && frameLook(text) {
		_, p.frames = parseFrame(text)
	}
	if p.ruled || p.frames && (isBottom(l.msg) || isEndMark(l.msg) && !isRule(l.msg) || p.idle > 3) {
		p.whole = true
	}
	p.ruled = p.frames && isRule(l.msg)
	if isEndMark(l.msg) && p.last > p.first+2 {
		p.ended = true
	}
	if isOver(l.msg) {
		p.finish()
		return
	}
	if p.overlap > 0 {
		p.overlap++
	}
	limit := maxIdle
	if p.ended || p.oops.repeat {
		limit = maxGrace
	}
	if p.idle > limit || p.overlap > maxOverlap {
		p.finish()
		return
	}
	p.bound()
}

// bound closes a report that has grown too large.
func (p *pending) bound() {
	if len(p.lines) >= maxLines || p.bytes >= maxBytes {
		p.finish()
	}
}
