package oops

import (
	"bytes"
	"strconv"
	"unicode/utf8"
)

// maxFragment is the most bytes of a message that netconsole sent in pieces. It
// is above what the kernel's own buffers hold (CONSOLE_EXT_LOG_MAX).
const maxFragment = 16 << 10

// records reads what tells one message on several lines: the records of
// journalctl -o verbose, export and json-pretty, of logcat -v long, the fields
// that follow a record of /dev/kmsg, and the pieces of netconsole's long
// messages. A message has the offsets of the lines of its record.
type records struct {
	own  bool // the log is a console of one's own: a line is a message
	kmsg bool // the last line was a record of /dev/kmsg

	journal journal
	long    struct {
		open   bool
		source source
		start  int64
	}
	frag struct {
		open bool
		line line
		text []byte
		all  int
	}
}

// journal is a record with a field per line.
type journal struct {
	open       bool
	start, end int64
	line       line // the message's
	found      bool
	kernel     bool
	program    bool
	time       float64
}

// feed takes the next line of the stream and calls fn for each message that is
// complete. raw is valid during the call only.
func (r *records) feed(raw []byte, start, end int64, fn func(line)) {
	text := clean(raw)
	if r.own {
		l := line{start: start, end: end, raw: raw, time: -1}
		l.stripOwn(text)
		emit(&l, fn)
		return
	}
	if r.readJournal(text, raw, start, end, fn) || r.readLong(text, start) || r.kmsg && kmsgField(text) {
		return
	}
	l := line{start: start, end: end, raw: raw, time: -1}
	if r.long.open {
		l.source, l.inside = r.long.source, r.long.source == srcKernel
		l.start = min(l.start, r.long.start)
		r.long.start = start
	}
	l.strip(text)
	r.kmsg = l.record
	if l.frag != nil {
		r.fragment(&l, text, fn)
		return
	}
	r.flushFragment(fn)
	emit(&l, fn)
}

// flush hands out what is not complete, at the end of the stream.
func (r *records) flush(fn func(line)) {
	r.flushFragment(fn)
	r.closeJournal(fn)
}

// emit hands out a message, one line at a time if it holds several.
func emit(l *line, fn func(line)) {
	for _, p := range l.parts {
		fn(p)
	}
	l.parts = nil
	if l.unpacked == nil {
		fn(*l)
		return
	}
	for part := range bytes.SplitSeq(l.unpacked, []byte("\n")) {
		p := line{start: l.start, end: l.end, raw: l.raw, time: l.time, caller: l.caller, source: l.source, inside: l.inside, foreign: l.foreign}
		p.strip(clean(part))
		if p.unpacked != nil { // packed twice
			p.msg = clean(p.unpacked)
		}
		for _, q := range p.parts {
			fn(q)
		}
		p.parts = nil
		fn(p)
	}
}

// kmsgField reports whether the line is a field of the record before it, as in
// " SUBSYSTEM=usb".
func kmsgField(s []byte) bool {
	if len(s) < 4 || s[0] != ' ' {
		return false
	}
	i := 1
	for i < len(s) && (word(s[i]) || s[i] == '/' || s[i] == '-') {
		i++
	}
	return i > 1 && i < len(s) && s[i] == '='
}

// fragment takes a piece of a message that netconsole has split. Pieces come one
// after the other, without a newline between them.
func (r *records) fragment(l *line, text []byte, fn func(line)) {
	const key = ",ncfrag="
	const most = 16 // pieces on a line
	cur := *l
	for range most {
		head := text[:bytes.Index(text, []byte(key))+len(key)]
		i := bytes.Index(cur.msg, head)
		if i <= 0 {
			break
		}
		next := line{start: l.start, end: l.end, time: -1}
		text = bytes.Clone(cur.msg[i:])
		cur.msg = cur.msg[:i]
		r.piece(&cur, fn)
		next.strip(text)
		if cur = next; cur.frag == nil {
			return
		}
	}
	r.piece(&cur, fn)
}

func (r *records) piece(l *line, fn func(line)) {
	offset, total, _ := bytes.Cut(l.frag, []byte("/"))
	at, all := number(string(offset)), number(string(total))
	f := &r.frag
	if at == 0 || !f.open || !bytes.Equal(f.line.seq, l.seq) || len(f.text)+len(l.msg) > maxFragment {
		r.flushFragment(fn)
		f.open, f.all = true, all
		f.text = append(f.text[:0], l.msg...)
		f.line = *l
		f.line.raw, f.line.caller, f.line.seq = bytes.Clone(l.raw), bytes.Clone(l.caller), bytes.Clone(l.seq)
		f.line.msg, f.line.frag = nil, nil
	} else {
		f.text = append(f.text, l.msg...)
		if l.raw != nil && len(f.line.raw) < maxLine {
			f.line.raw = append(append(f.line.raw, '\n'), l.raw...)
		}
		f.line.end = l.end
	}
	if len(f.text) >= f.all-1 { // the length counts the newline at the end
		r.flushFragment(fn)
	}
}

func (r *records) flushFragment(fn func(line)) {
	f := &r.frag
	if !f.open {
		return
	}
	f.open = false
	f.line.unpacked = unescape(f.text)
	emit(&f.line, fn)
}

// readLong reads the header of a message of logcat -v long, "[ 10-28
// 04:36:09.123     0:    0 W/tag ]", and the empty line behind it.
func (r *records) readLong(s []byte, start int64) bool {
	if len(s) == 0 {
		r.long.open = false
		return false
	}
	if len(s) < 24 || s[0] != '[' || s[1] != ' ' || s[len(s)-1] != ']' || s[4] != '-' || !digit(s[2]) {
		return false
	}
	slash := bytes.IndexByte(s, '/')
	colon := bytes.LastIndexByte(s[:max(slash, 0)], ':')
	if slash < 0 || colon < 20 {
		return false
	}
	r.long.open, r.long.start, r.long.source = true, start, srcProgram
	tag := bytes.TrimSpace(s[slash+1 : len(s)-1])
	if pid := bytes.TrimRight(s[:colon], " "); bytes.HasSuffix(pid, []byte(" 0")) || string(tag) == "kernel" {
		r.long.source = srcKernel
	}
	return true
}

// readJournal reads a line of a record with one field per line.
func (r *records) readJournal(text, raw []byte, start, end int64, fn func(line)) bool {
	j := &r.journal
	if journalHead(text) {
		r.closeJournal(fn)
		j.open, j.start, j.end, j.time = true, start, end, -1
		return true
	}
	if !j.open {
		return false
	}
	key, value, packed, ok := journalField(text)
	if !ok {
		body := bytes.TrimRight(text, ",")
		last := len(body) == 0 || string(body) == "}"
		if last {
			j.end = end
		}
		r.closeJournal(fn)
		return last
	}
	j.end = end
	switch string(key) {
	case "MESSAGE":
		j.found = true
		j.line = line{raw: bytes.Clone(raw)}
		if packed {
			j.line.unpacked = unpackJSON(value)
		} else {
			j.line.unpacked = bytes.Clone(value)
		}
	case "_TRANSPORT", "SYSLOG_IDENTIFIER":
		switch string(bytes.Trim(value, `"`)) {
		case "kernel":
			j.kernel = true
		case "syslog", "stdout", "journal", "audit", "driver":
		default:
			j.program = true
		}
	case "_SOURCE_MONOTONIC_TIMESTAMP":
		if v := bytes.Trim(value, `"`); len(v) > 0 && len(v) < 18 && digits(v, 0) == len(v) {
			j.time = seconds(v, nil) / 1e6
		}
	}
	return true
}

// closeJournal hands out the record that was read.
func (r *records) closeJournal(fn func(line)) {
	j := &r.journal
	if !j.open {
		return
	}
	rec := *j
	*j = journal{}
	if !rec.found {
		return
	}
	l := rec.line
	l.start, l.end, l.time = rec.start, rec.end, rec.time
	if rec.kernel {
		l.kernel()
	} else if rec.program {
		l.source = srcProgram
	}
	emit(&l, fn)
}

// journalHead reports whether a line begins a record: the cursor of the export
// format, the date and cursor of the verbose one, the brace of json-pretty.
func journalHead(s []byte) bool {
	if len(s) == 0 {
		return false
	}
	switch s[0] {
	case '{':
		return len(s) == 1
	case '_':
		return bytes.HasPrefix(s, []byte("__CURSOR="))
	}
	if s[len(s)-1] != ']' || !letter(s[0]) && s[0] < 0x80 {
		return false
	}
	i := bytes.Index(s, []byte(" [s="))
	return i > 0 && bytes.Contains(s[i:], []byte(";i=")) && bytes.Contains(s[i:], []byte(";b="))
}

// journalField reads "    KEY=value" and json-pretty's `	"KEY" : "value",`, of
// which it says that the value is packed.
func journalField(s []byte) (key, value []byte, packed, ok bool) {
	s = bytes.TrimLeft(s, " \t")
	if len(s) > 2 && s[0] == '"' {
		end := bytes.IndexByte(s[1:], '"')
		if end < 0 {
			return nil, nil, false, false
		}
		key = s[1 : 1+end]
		rest := bytes.TrimLeft(s[end+2:], " ")
		if len(rest) == 0 || rest[0] != ':' {
			return nil, nil, false, false
		}
		return key, bytes.TrimRight(bytes.TrimLeft(rest[1:], " "), ","), true, true
	}
	i := 0
	for i < len(s) && (s[i] == '_' || s[i] >= 'A' && s[i] <= 'Z' || digit(s[i])) {
		i++
	}
	if i == 0 || i >= len(s) || s[i] != '=' {
		return nil, nil, false, false
	}
	return s[:i], s[i+1:], false, true
}

// cutJSON reads an object on one line: journalctl -o json, the logs of docker
// and LAVA, and others with a message in them.
func cutJSON(s []byte, l *line) int {
	if len(s) < 8 || s[1] != '"' && s[1] != ' ' {
		return 0
	}
	var message []byte
	found, kernel, program := false, false, false
	when := -1.0
	i := 1
	for i < len(s) {
		for i < len(s) && (s[i] == ' ' || s[i] == ',') {
			i++
		}
		if i >= len(s) || s[i] != '"' {
			break
		}
		n := jsonLen(s[i:])
		key := bytes.Trim(s[i:i+n], `"`)
		i = spaces(s, i+n)
		if i >= len(s) || s[i] != ':' {
			break
		}
		i = spaces(s, i+1)
		if i >= len(s) {
			break
		}
		n = jsonLen(s[i:])
		value := s[i : i+n]
		i += n
		switch string(key) {
		case "MESSAGE", "message", "msg", "log":
			if value[0] == '"' || value[0] == '[' {
				message, found = unpackJSON(value), true
			}
		case "_TRANSPORT", "SYSLOG_IDENTIFIER":
			kernel = kernel || string(value) == `"kernel"`
			program = program || string(key) == "SYSLOG_IDENTIFIER" && string(value) != `"kernel"`
		case "_SOURCE_MONOTONIC_TIMESTAMP":
			if v := bytes.Trim(value, `"`); len(v) > 0 && len(v) < 18 && digits(v, 0) == len(v) {
				when = seconds(v, nil) / 1e6
			}
		}
	}
	if !found {
		return 0
	}
	if kernel {
		l.kernel()
		l.time = when
	} else if program {
		l.source = srcProgram
	}
	l.unpacked = bytes.TrimRight(message, "\r\n")
	return len(s)
}

// jsonLen returns the length of the JSON value s begins with, all of s if it is
// cut; at least 1.
func jsonLen(s []byte) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			for i++; i < len(s) && s[i] != '"'; i++ {
				if s[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return min(i+1, len(s))
			}
		case '{', '[':
			depth++
		case '}', ']':
			depth--
			if depth <= 0 {
				return max(1, i+depth+1)
			}
		case ',', ' ':
			if depth == 0 {
				return max(1, i)
			}
		}
	}
	return len(s)
}

// unpackJSON reads a JSON string, or the array of bytes that journalctl prints
// for a text with control characters in it.
func unpackJSON(s []byte) []byte {
	out := []byte{}
	if len(s) > 0 && s[0] == '[' {
		for word := range bytes.SplitSeq(bytes.Trim(s, "[] "), []byte(",")) {
			if n, err := strconv.ParseUint(string(bytes.TrimSpace(word)), 10, 8); err == nil {
				out = append(out, byte(n))
			}
		}
		return out
	}
	s = bytes.TrimPrefix(s, []byte(`"`))
	for i := 0; i < len(s) && s[i] != '"'; i++ {
		if s[i] != '\\' || i+1 >= len(s) {
			out = append(out, s[i])
			continue
		}
		i++
		switch s[i] {
		case 'n':
			out = append(out, '\n')
		case 't':
			out = append(out, '\t')
		case 'r', 'b', 'f':
		case 'u':
			if i+4 < len(s) {
				if n, err := strconv.ParseUint(string(s[i+1:i+5]), 16, 32); err == nil {
					out = utf8.AppendRune(out, rune(n))
					i += 4
				}
			}
		default:
			out = append(out, s[i])
		}
	}
	return out
}
