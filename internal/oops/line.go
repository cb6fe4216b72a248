package oops

import "bytes"

// Limits that keep memory constant whatever the input is.
const (
	// maxLine is how many bytes of a line are looked at; the rest is skipped,
	// but counted, so that offsets stay right.
	maxLine = 4096
	// maxPrefix is how far into a line a log shipper's prefix may reach.
	maxPrefix = 160
)

// line is one line of input, stripped of everything that is not the message.
// raw, msg and caller are shared with the splitter until own is called.
type line struct {
	start, end int64  // offsets of the first byte and of the byte after the end
	raw        []byte // the line as it came, at most maxLine bytes, no newline
	msg        []byte // the message
	caller     []byte // printk caller, "T123" or "C0", nil if not printed
	time       float64
	source     source
	text       string // msg, set by own

	// What follows is of use while the prefixes are read.
	inside   bool   // a prefix of the kernel's own was read
	foreign  bool   // the facility is not the kernel's
	named    bool   // an identity was read behind the kernel's prefix
	escaped  bool   // the message is escaped as in /dev/kmsg
	record   bool   // a record whose fields may follow on lines of their own
	frag     []byte // netconsole: "offset/length" of this piece of a message
	seq      []byte // and the message's number
	parts    []line // unfinished messages before this one on the same line
	unpacked []byte // the message, where its bytes are not those of the line
}

// fromKernel reports whether the kernel wrote the line for certain.
func (l *line) fromKernel() bool { return l.source == srcKernel }

// own returns a copy that is independent of the splitter's buffer.
func (l *line) own() line {
	return line{
		start: l.start, end: l.end, time: l.time, source: l.source,
		raw: bytes.Clone(l.raw), text: string(l.msg), caller: bytes.Clone(l.caller),
	}
}

// clean removes escape sequences and control characters other than tab. It
// returns raw itself when there is nothing to remove.
func clean(raw []byte) []byte {
	dirty := false
	for _, c := range raw {
		if c < ' ' && c != '\t' || c == 0x7f {
			dirty = true
			break
		}
	}
	if !dirty {
		return raw
	}
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case c == 0x1b:
			i += escapeLen(raw[i:]) - 1
		case c < ' ' && c != '\t' || c == 0x7f:
		default:
			out = append(out, c)
		}
	}
	return out
}

// escapeLen returns the length of the terminal escape sequence s begins with,
// at least 1.
func escapeLen(s []byte) int {
	if len(s) < 2 {
		return 1
	}
	switch s[1] {
	case '[': // CSI: parameters, then one final byte
		for i := 2; i < len(s); i++ {
			if s[i] >= 0x40 && s[i] <= 0x7e {
				return i + 1
			}
			if s[i] < 0x20 || s[i] > 0x7e {
				return i
			}
		}
		return len(s)
	case ']', '_': // OSC, APC: up to BEL or ST
		for i := 2; i < len(s) && i < 256; i++ {
			if s[i] == 0x07 {
				return i + 1
			}
			if s[i] == 0x1b {
				return i
			}
		}
		return 2
	}
	return 2
}

// timestampLen returns the length of the timestamp s begins with, 0 if none.
func timestampLen(s []byte) (int, float64) {
	i := 1
	for i < len(s) && i < 16 && s[i] == ' ' {
		i++
	}
	first := i
	for i < len(s) && i-first < 12 && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	if i == first || i >= len(s) || s[i] != '.' {
		return 0, 0
	}
	dot := i
	i++
	for i < len(s) && i-dot < 10 && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	end := i
	if i-dot >= 4 && i < len(s) && s[i] == '@' { // and the CPU: "[    7.910564@0]" of Amlogic's kernels
		i++
		for i < len(s) && i-end < 4 && s[i] >= '0' && s[i] <= '9' {
			i++
		}
	}
	if end-dot < 4 || i == end+1 || i >= len(s) || s[i] != ']' {
		return 0, 0
	}
	return i + 1, seconds(s[first:dot], s[dot+1:end])
}

// seconds reads the digits before and behind a decimal point.
func seconds(whole, fraction []byte) float64 {
	sec, unit := 0.0, 1.0
	for _, c := range whole {
		sec = sec*10 + float64(c-'0')
	}
	for _, c := range fraction {
		unit /= 10
		sec += unit * float64(c-'0')
	}
	return sec
}

// callerLen returns the length of the PRINTK_CALLER field s begins with, as in
// "[ T1234]" or "[    C0]", and the caller; 0 if there is none.
func callerLen(s []byte) (int, []byte) {
	if len(s) < 4 || s[0] != '[' {
		return 0, nil
	}
	i := 1
	for i < len(s) && i < 12 && s[i] == ' ' {
		i++
	}
	first := i
	if i >= len(s) || s[i] != 'T' && s[i] != 'C' {
		return 0, nil
	}
	i++
	for i < len(s) && i-first < 12 && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	if i-first < 2 || i >= len(s) || s[i] != ']' {
		return 0, nil
	}
	return i + 1, s[first:i]
}

// splitter cuts a stream into lines of bounded length.
type splitter struct {
	buf   []byte // the beginning of the current line
	start int64  // offset of the current line
	pos   int64  // offset of the next byte
	recs  records
}

// write feeds p and calls fn for each finished line. The raw bytes given to fn
// are valid during the call only.
func (s *splitter) write(p []byte, fn func(line)) {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		chunk := p
		if i >= 0 {
			chunk = p[:i]
		}
		if room := maxLine - len(s.buf); room > 0 {
			s.buf = append(s.buf, chunk[:min(room, len(chunk))]...)
		}
		s.pos += int64(len(chunk))
		p = p[len(chunk):]
		if i < 0 {
			return
		}
		s.pos++
		p = p[1:]
		s.finish(fn)
	}
}

// finish ends the current line at pos.
func (s *splitter) finish(fn func(line)) {
	s.recs.feed(s.buf, s.start, s.pos, fn)
	s.buf = s.buf[:0]
	s.start = s.pos
}

// close ends the last line if it has no newline.
func (s *splitter) close(fn func(line)) {
	if s.pos > s.start {
		s.finish(fn)
	}
	s.recs.flush(fn)
}
