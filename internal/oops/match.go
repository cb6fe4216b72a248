package oops

import (
	"bytes"
	"sync"
)

// special lines that are no reports but steer the scanner.
const (
	markNone  = iota
	markBoot  // a kernel begins to boot
	markDown  // the kernel says that it goes down
	markDump  // a task prints its stack that has no bug
	markEntry // a boot loader jumps into a kernel
)

// pattern is a literal the matcher looks for.
type pattern struct {
	text string
	oops *oops
	mark int
}

// matcher finds all patterns in one pass over a line (Aho-Corasick).
type matcher struct {
	pats []pattern
	next [][256]uint16
	out  [][]uint16 // patterns that end in a state
}

// starts returns the matcher for the whole table, made at its first use.
var starts = sync.OnceValue(func() *matcher { return newMatcher(buildTable()) })

func newMatcher(all []*oops) *matcher {
	m := &matcher{}
	for _, o := range all {
		m.pats = append(m.pats, pattern{text: o.header, oops: o})
	}
	m.pats = append(m.pats,
		pattern{text: "Linux version ", mark: markBoot},
		pattern{text: "Booting the kernel.", mark: markEntry},
		pattern{text: "FAULT_INJECTION: forcing a failure", mark: markDump},
		pattern{text: "reboot: ", mark: markDown},
		pattern{text: "Rebooting in ", mark: markDown},
	)
	m.next = append(m.next, [256]uint16{})
	m.out = append(m.out, nil)
	for i, p := range m.pats {
		s := uint16(0)
		for _, c := range []byte(p.text) {
			if m.next[s][c] == 0 {
				m.next = append(m.next, [256]uint16{})
				m.out = append(m.out, nil)
				m.next[s][c] = uint16(len(m.next) - 1)
			}
			s = m.next[s][c]
		}
		m.out[s] = append(m.out[s], uint16(i))
	}
	// Breadth first: fill in where a mismatch leads to.
	fail := make([]uint16, len(m.next))
	var queue []uint16
	for _, s := range m.next[0] {
		if s != 0 {
			queue = append(queue, s)
		}
	}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		m.out[s] = append(m.out[s], m.out[fail[s]]...)
		for c, t := range m.next[s] {
			if t == 0 {
				m.next[s][c] = m.next[fail[s]][c]
				continue
			}
			fail[t] = m.next[fail[s]][c]
			queue = append(queue, t)
		}
	}
	return m
}

// hit is a pattern found in a line.
type hit struct {
	pattern *pattern
	pos     int
}

// find returns the pattern that says what the line is: the one that stands
// first, of those at the same place the one first in the table, which accepts
// the line. ok is false if there is none.
func (m *matcher) find(msg []byte, kernel bool) (best hit, ok bool) {
	var found [8]hit
	n, tried := 0, 0
	s := uint16(0)
	for i, c := range msg {
		s = m.next[s][c]
		for _, id := range m.out[s] {
			p := &m.pats[id]
			pos := i + 1 - len(p.text)
			if n == len(found) {
				continue
			}
			if pos > 0 && wordByte(msg[pos-1]) {
				if p.oops == nil || !glued(msg[pos-1]) || tried == maxGlued {
					continue
				}
				if tried++; !p.oops.known(msg, pos) {
					continue
				}
			}
			found[n] = hit{p, pos}
			n++
		}
	}
	if n == 0 || shouted(msg) {
		return best, false
	}
	for range n {
		best := -1
		for i, h := range found[:n] {
			if h.pattern == nil {
				continue
			}
			if best < 0 || h.pos < found[best].pos || h.pos == found[best].pos && m.order(h.pattern) < m.order(found[best].pattern) {
				best = i
			}
		}
		h := found[best]
		found[best].pattern = nil
		if h.pattern.mark != markNone || h.pattern.oops.accepts(msg, h.pos, kernel) {
			return h, true
		}
	}
	return best, false
}

func (m *matcher) order(p *pattern) int {
	for i := range m.pats {
		if &m.pats[i] == p {
			return i
		}
	}
	return len(m.pats)
}

// maxGlued is how many headers of a line that stand in the middle of a word are
// looked at.
const maxGlued = 2

// glued reports whether a message can begin behind c, which is in the middle of
// another console's line: not behind what makes one word with it, as in DEBUG.
func glued(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
}

// shouted reports whether a line of some length has no small letter: a terminal
// in upper case mode repeats kernel lines that way.
func shouted(msg []byte) bool {
	letters := 0
	for _, c := range msg {
		if c >= 'a' && c <= 'z' {
			return false
		}
		if c >= 'A' && c <= 'Z' {
			letters++
		}
	}
	return letters > 30
}

// accepts reports whether a line with the header at pos begins a report. kernel
// tells whether the kernel printed the line, as far as one can know.
func (o *oops) accepts(msg []byte, pos int, kernel bool) bool {
	if o.strict && !kernel && !o.known(msg, pos) {
		return false
	}
	msg = bytes.TrimRight(msg, " \t")
	if pos > len(msg) {
		pos = len(msg)
	}
	if o.not != nil && (o.not.Match(msg[pos:]) || o.not.Match(msg)) {
		return false
	}
	f := o.format(string(msg[pos:]))
	if f != nil && f.loose() && o.notice != nil && (o.notice.Match(msg[pos:]) || o.notice.Match(msg)) {
		return false
	}
	return f != nil
}

// known reports whether the line fits one of the rows that no program prints:
// all but those which accept any text.
func (o *oops) known(msg []byte, pos int) bool {
	f := o.format(string(bytes.TrimRight(msg[pos:], " \t")))
	return f != nil && !f.loose()
}

// oneLine reports whether a line with the header at pos is all of its report.
func (o *oops) oneLine(msg []byte, pos int) bool {
	f := o.format(string(bytes.TrimRight(msg[pos:], " \t")))
	return f != nil && f.noStack && f.rule == nil && f.body == nil && !f.loose()
}

// loose reports whether the row accepts any text after the header.
func (f *format) loose() bool {
	switch f.title {
	case "BUG: {1}", "WARNING: {1}", "INFO: {1}", "BUG: corrupted", "WARNING: corrupted", "INFO: corrupted":
		return true
	}
	return false
}

// format returns the first row whose first line fits, nil if none does.
func (o *oops) format(head string) *format {
	for i := range o.formats {
		if o.formats[i].start.MatchString(head) {
			return &o.formats[i]
		}
	}
	return nil
}
