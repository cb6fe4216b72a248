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
	text       string // msg, set by own
}

// fromKernel reports whether the line carries a printk timestamp.
func (l *line) fromKernel() bool { return l.time >= 0 }

// own returns a copy that is independent of the splitter's buffer.
func (l *line) own() line {
	c := *l
	c.raw = bytes.Clone(l.raw)
	c.text = string(l.msg)
	c.msg, c.caller = nil, bytes.Clone(l.caller)
	return c
}

// parseLine strips raw. time is -1 for a line without a printk timestamp.
func parseLine(raw []byte, start, end int64) line {
	l := line{start: start, end: end, raw: raw, time: -1}
	text := clean(raw)
	if rest, caller, when, ok := cutTimestamp(text); ok {
		l.msg, l.caller, l.time = rest, caller, when
		return l
	}
	l.msg = cutPrefix(text)
	return l
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
	case ']': // OSC: up to BEL or ST
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

// cutTimestamp finds the last printk timestamp of the line, "[   12.345678]",
// and what follows it. The last one counts: an unfinished line of one CPU may
// be followed by a fresh one of another on the same console line.
func cutTimestamp(s []byte) (rest, caller []byte, when float64, ok bool) {
	for from := 0; from < len(s); {
		i := bytes.IndexByte(s[from:], '[')
		if i < 0 {
			break
		}
		from += i
		n, sec := timestampLen(s[from:])
		if n == 0 {
			from++
			continue
		}
		from += n
		when, ok = sec, true
		caller = nil
		if n, c := callerLen(s[from:]); n > 0 {
			caller = c
			from += n
		}
		rest = s[from:]
		if len(rest) > 0 && rest[0] == ' ' {
			rest = rest[1:]
		}
	}
	return rest, caller, when, ok
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
	if i-dot < 4 || i >= len(s) || s[i] != ']' {
		return 0, 0
	}
	sec, unit := 0.0, 1.0
	for _, c := range s[first:dot] {
		sec = sec*10 + float64(c-'0')
	}
	for _, c := range s[dot+1 : i] {
		unit /= 10
		sec += unit * float64(c-'0')
	}
	return i + 1, sec
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

// cutPrefix strips what log collectors put before a message without a printk
// timestamp: a level, a date, "host kernel:".
func cutPrefix(s []byte) []byte {
	s = cutLevel(s)
	head := s[:min(len(s), maxPrefix)]
	if i := bytes.Index(head, []byte(" kernel: ")); i >= 0 && bytes.Count(head[:i], []byte(":")) >= 2 {
		return s[i+len(" kernel: "):] // "Jan  2 03:04:05 host kernel: "
	}
	if bytes.HasPrefix(head, []byte("kernel: ")) {
		return s[len("kernel: "):]
	}
	if n := dateLen(s); n > 0 {
		return cutLevel(s[n:])
	}
	return s
}

// cutLevel strips a "<4>" level.
func cutLevel(s []byte) []byte {
	if len(s) < 3 || s[0] != '<' {
		return s
	}
	for i := 1; i < len(s) && i < 5; i++ {
		if s[i] == '>' && i > 1 {
			return s[i+1:]
		}
		if s[i] < '0' || s[i] > '9' {
			break
		}
	}
	return s
}

// dateLen returns the length of a leading "2018/01/09 14:28:48 ",
// "2024-05-06T07:08:09.123Z " or "[Thu Jan  1 00:00:00 2026] ", 0 if none.
func dateLen(s []byte) int {
	if len(s) > 27 && s[0] == '[' && s[25] == ']' && s[14] == ':' && s[17] == ':' {
		return 27
	}
	if len(s) < 20 || s[13] != ':' || s[16] != ':' {
		return 0
	}
	for i, c := range s[:10] {
		if i == 4 || i == 7 {
			if c != '-' && c != '/' {
				return 0
			}
			continue
		}
		if c < '0' || c > '9' {
			return 0
		}
	}
	for i := 19; i < len(s) && i < 40; i++ {
		if s[i] == ' ' {
			return i + 1
		}
	}
	return 0
}

// splitter cuts a stream into lines of bounded length.
type splitter struct {
	buf   []byte // the beginning of the current line
	start int64  // offset of the current line
	pos   int64  // offset of the next byte
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
	fn(parseLine(s.buf, s.start, s.pos))
	s.buf = s.buf[:0]
	s.start = s.pos
}

// close ends the last line if it has no newline.
func (s *splitter) close(fn func(line)) {
	if s.pos > s.start {
		s.finish(fn)
	}
}
