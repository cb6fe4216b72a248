package oops

import (
	"bytes"
	"sync"
)

// A line of a kernel log reaches the reader through several hands, and each may
// put something of its own before it: printk its time and caller, dmesg a level
// and another time, syslog and the journal a date, a host and who spoke, a CI
// system its clock, a mail its "> ". The table below has one row per such
// prefix. Rows are tried again on what is left, in any order and number, until
// none fits: prefixes stack, and nothing is remembered from line to line, so
// they may change in the middle of a log.
//
// What a prefix is, is taken from the program that prints it: kernel/printk,
// util-linux' sys-utils/dmesg.c, systemd's logs-show.c, RFC 3164 and RFC 5424,
// Documentation/ABI/testing/dev-kmsg, Documentation/networking/netconsole.rst,
// Android's liblog/logprint.

// source says who wrote a line, as far as its prefixes tell.
type source int8

const (
	srcUnknown source = iota // no prefix tells
	srcKernel                // printk's time, a kernel record, or "kernel:"
	srcProgram               // another syslog identity or facility
)

// maxStack bounds how many prefixes are cut from one line.
const maxStack = 16

// grammar is one row of the table.
type grammar struct {
	name string
	// begins are the bytes the prefix can begin with; empty means letters and
	// bytes of UTF-8 sequences.
	begins string
	// inner rows are tried behind a kernel's own prefix only, the others before.
	inner bool
	// cut returns the length of the prefix s begins with, 0 if s does not, and
	// notes in l what the prefix says.
	cut func(s []byte, l *line) int
}

const decimal = "0123456789"

var grammars = []grammar{
	{name: "printk time", begins: "[", cut: cutPrintkTime},
	{name: "dmesg -T, -e, -d", begins: "[", cut: cutBracketDate},
	{name: "level", begins: "<", cut: cutLevel},
	{name: "kmsg record", begins: decimal, cut: cutKmsg},
	{name: "logcat", begins: decimal + " VDIWEF", cut: cutLogcat},
	{name: "date", begins: decimal, cut: cutDate},
	{name: "syslog date", cut: cutNamedDate},
	{name: "dmesg -x", cut: cutDecodedLevel},
	{name: "kernel:", begins: "k", cut: cutKernelTag},
	{name: "JSON", begins: "{", cut: cutJSON},
	{name: "python logging", begins: "DIWEC", cut: cutPython},
	{name: "quote", begins: ">", cut: cutQuote},
	{name: "job, step and date", cut: cutTabs},

	{name: "printk time", begins: "[", inner: true, cut: cutPrintkTime},
	{name: "caller", begins: "[ ", inner: true, cut: cutCaller},
	{name: "pid, cpu, comm", begins: "[", inner: true, cut: cutVendorTask},
	{name: "(cpu)[pid:comm]", begins: "(.- ", inner: true, cut: cutVendorMTK},
	{name: "[date_time]@cpu", begins: "[", inner: true, cut: cutVendorDate},
	{name: "[cpu: comm: pid]", begins: "[I ", inner: true, cut: cutVendorSamsung},
	{name: "[name:file&]", begins: "[", inner: true, cut: cutVendorName},
	{name: "<c0>, c0", begins: "<c", inner: true, cut: cutVendorCPU},
	{name: "host and identity", inner: true, cut: cutInnerIdentity},
	{name: "kernel:", begins: "k", inner: true, cut: cutKernelTag},
}

// byFirst lists the rows that can begin with a byte: before a kernel's prefix
// and behind it. It is made at its first use: see lazyRE.
var byFirst = sync.OnceValue(func() *[2][256][]func([]byte, *line) int {
	t := &[2][256][]func([]byte, *line) int{}
	for _, g := range grammars {
		side := 0
		if g.inner {
			side = 1
		}
		for c := range 256 {
			b := byte(c)
			if bytes.IndexByte([]byte(g.begins), b) >= 0 || g.begins == "" && (letter(b) || b >= 0x80) {
				t[side][c] = append(t[side][c], g.cut)
			}
		}
	}
	return t
})

// strip cuts all prefixes off text and fills in l.
func (l *line) strip(text []byte) {
	s := l.stripHere(text)
	// The last printk time of a line counts: an unfinished line, of a program or
	// of another CPU, may be followed by a fresh one on the same console line.
	for l.source != srcProgram && l.unpacked == nil {
		from, n := 0, 0
		for {
			i := bytes.IndexByte(s[from:], '[')
			if i < 0 {
				break
			}
			from += i
			if n, _ = timestampLen(s[from:]); n > 0 {
				break
			}
			from++
		}
		if n == 0 {
			break
		}
		l.unfinished(s[:from])
		l.caller = nil
		s = l.stripHere(s[from:])
	}
	if l.source == srcUnknown {
		// A date that no row knows, before "host kernel: ".
		const tag = " kernel: "
		head := s[:min(len(s), maxPrefix)]
		if i := bytes.Index(head, []byte(tag)); i >= 0 && bytes.Count(head[:i], []byte(":")) >= 2 {
			l.kernel()
			s = l.stripHere(s[i+len(tag):])
		}
	}
	if n := len(s); n > 2 && s[n-1] == '}' && s[n-2] == '"' && bytes.IndexByte(s, '{') < 0 {
		s = s[:n-2] // the rest of a JSON object of which the line was a part
	}
	if l.escaped && l.unpacked == nil && bytes.Contains(s, []byte(`\x`)) {
		l.unpacked = unescape(s)
	}
	l.msg = spellOffsets(s)
}

// stripHere cuts the prefixes that s begins with.
func (l *line) stripHere(s []byte) []byte {
	for range maxStack {
		if len(s) == 0 {
			return s
		}
		n := l.cutOne(s)
		if n == 0 {
			// Markup and indentation are cut only from before a prefix: a message may
			// begin with them as well.
			if l.inside {
				return s
			}
			lead := leadLen(s)
			if lead == 0 || lead >= len(s) {
				return s
			}
			try := *l
			if try.cutOne(s[lead:]) == 0 {
				return s
			}
			n = lead
		}
		if l.unpacked != nil {
			return s
		}
		s = s[n:]
	}
	return s
}

// unfinished notes a message that another one has followed on the same line.
func (l *line) unfinished(msg []byte) {
	const most = 8
	if l.source == srcKernel && len(l.parts) < most && len(bytes.TrimSpace(msg)) > 0 {
		l.parts = append(l.parts, line{start: l.start, end: l.end, raw: l.raw, msg: msg, caller: l.caller, time: l.time, source: srcKernel})
	}
}

// stripOwn is strip for the console of a machine of one's own. Nobody stands
// between its kernel and the reader, so only printk's prefix is one: whatever
// else is before it on the line was written by a program, which must not be able
// to make the kernel's words look like a program's.
func (l *line) stripOwn(text []byte) {
	s := text
	for from := 0; ; {
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
		l.unfinished(s[:from])
		l.source, l.inside, l.named, l.time, l.caller = srcKernel, true, false, sec, nil
		s, from = s[from+n:], 0
		if c, caller := callerLen(s); c > 0 {
			l.caller = caller
			s = s[c:]
		}
		s = l.stripHere(s[oneSpace(s):])
	}
	if l.source == srcUnknown {
		var level line
		if n := cutLevel(text, &level); len(text) > 0 && text[0] == '<' {
			s = text[n:]
		}
	}
	l.msg = s
}

// cutOne tries the rows of the table.
func (l *line) cutOne(s []byte) int {
	side := 0
	if l.inside {
		side = 1
	}
	for _, cut := range byFirst()[side][s[0]] {
		if n := cut(s, l); n > 0 {
			return n
		}
	}
	return 0
}

// kernel notes that the line has a prefix of the kernel's own, behind which
// fewer others can stand. A record of another facility was written by a program
// through /dev/kmsg.
func (l *line) kernel() {
	l.source, l.inside = srcKernel, true
	if l.foreign {
		l.source = srcProgram
	}
}

// leadLen returns the length of the markup and indentation s begins with.
func leadLen(s []byte) int {
	i := 0
	for i < len(s) && i < 24 && bytes.IndexByte([]byte(" \t#*|`-"), s[i]) >= 0 {
		i++
	}
	// pytest marks the lines of a failed assertion's message.
	if i == 0 && len(s) > 3 && s[0] == 'E' && s[1] == ' ' && s[2] == ' ' {
		i = 3
		for i < len(s) && s[i] == ' ' {
			i++
		}
	}
	// docker compose and others: "name  | ".
	if i == 0 {
		for i < len(s) && i < 32 && (word(s[i]) || s[i] == '-' || s[i] == '.') {
			i++
		}
		j := spaces(s, i)
		if i == 0 || j == i || j+1 >= len(s) || s[j] != '|' || s[j+1] != ' ' {
			return 0
		}
		return j + 2
	}
	return i
}

func letter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
func digit(c byte) bool  { return c >= '0' && c <= '9' }
func word(c byte) bool   { return letter(c) || digit(c) || c == '_' }

// spaces returns the index of the first byte from i on that is no space.
func spaces(s []byte, i int) int {
	for i < len(s) && s[i] == ' ' {
		i++
	}
	return i
}

// digits returns the index of the first byte from i on that is no digit.
func digits(s []byte, i int) int {
	for i < len(s) && digit(s[i]) {
		i++
	}
	return i
}

// cutPrintkTime cuts "[   12.345678] ", with the caller that may follow and the
// one space that printk prints. dmesg -d adds the time since the line before,
// "[   12.345678 <    0.000007>] "; some vendors add an "s".
func cutPrintkTime(s []byte, l *line) int {
	n, sec := timestampLen(s)
	if n == 0 {
		if n, sec = looseTimestampLen(s); n == 0 {
			return 0
		}
	}
	// What a program says may be a kernel's line that it passes on, or begin with
	// a time of its own, which rarely has microseconds.
	if l.source == srcProgram && !l.foreign && bytes.IndexByte(s[:n], ']')-bytes.IndexByte(s[:n], '.') != 7 {
		return 0
	}
	l.kernel()
	l.time = sec
	if c, caller := callerLen(s[n:]); c > 0 {
		l.caller = caller
		n += c
	}
	return n + oneSpace(s[n:])
}

func oneSpace(s []byte) int {
	if len(s) > 0 && s[0] == ' ' {
		return 1
	}
	return 0
}

// looseTimestampLen is timestampLen for what stands at the beginning of a line
// only: fewer digits, a difference, "[+0.000007]".
func looseTimestampLen(s []byte) (int, float64) {
	i := spaces(s, 1)
	delta := i < len(s) && s[i] == '+'
	if delta {
		i++
	}
	first := i
	dot := digits(s, i)
	if dot == first || dot-first > 12 || dot+1 >= len(s) || s[dot] != '.' {
		return 0, 0
	}
	end := digits(s, dot+1)
	if end == dot+1 || end-dot > 10 {
		return 0, 0
	}
	sec := seconds(s[first:dot], s[dot+1:end])
	if delta {
		sec = -1
	}
	if end < len(s) && s[end] == 's' {
		end++
	}
	if i := spaces(s, end); i < len(s) && s[i] == '<' {
		for i < len(s) && i < end+24 && s[i] != '>' {
			i++
		}
		if i >= len(s) || s[i] != '>' {
			return 0, 0
		}
		end = i + 1
	}
	if end >= len(s) || s[end] != ']' {
		return 0, 0
	}
	return end + 1, sec
}

// cutBracketDate cuts a date in brackets: "[Thu Sep 14 07:36:11 2023] " and
// "[Sep14 07:36] " of dmesg, in whatever language, and the "[2024-05-06
// 07:08:09] " of terminals and CI systems, which does not tell who wrote the
// line.
func cutBracketDate(s []byte, l *line) int {
	end := bytes.IndexByte(s[:min(len(s), 64)], ']')
	if end < 8 {
		return 0
	}
	in := s[1:end]
	clock := false
	for i, c := range in {
		if c < 0x80 && !word(c) && bytes.IndexByte([]byte(" :.,+-/<>"), c) < 0 {
			return 0
		}
		if c == ':' && i >= 2 && i+2 < len(in) && digit(in[i-1]) && digit(in[i-2]) && digit(in[i+1]) && digit(in[i+2]) {
			clock = true
		}
	}
	if !clock || l.source == srcProgram && !l.foreign {
		return 0
	}
	if !digit(in[0]) && (letter(in[0]) || in[0] >= 0x80) {
		l.kernel()
		l.time = -1
	}
	n := end + 1
	if l.inside {
		if c, caller := callerLen(s[n:]); c > 0 {
			l.caller = caller
			n += c
		}
	}
	return n + oneSpace(s[n:])
}

// cutLevel cuts a "<4>" level and what RFC 5424 puts behind it. A number of 8
// and more holds another facility than the kernel's.
func cutLevel(s []byte, l *line) int {
	i := digits(s, 1)
	if i == 1 || i > 4 || i >= len(s) || s[i] != '>' {
		return 0
	}
	n := i + 1
	if i > 2 || s[1] > '7' {
		l.foreign = true
	}
	if h := rfc5424Len(s[n:], l); h > 0 {
		return n + h
	}
	if n < len(s) && s[n] == '[' {
		return n
	}
	if l.foreign {
		l.source = srcProgram
	}
	return n
}

// rfc5424Len returns the length of "1 TIME HOST APP PROCID MSGID SD ".
func rfc5424Len(s []byte, l *line) int {
	if len(s) < 20 || s[0] != '1' || s[1] != ' ' {
		return 0
	}
	i := 2
	var app []byte
	for field := range 5 {
		end := bytes.IndexByte(s[i:], ' ')
		if end <= 0 || end > 128 {
			return 0
		}
		if field == 0 && (end < 20 || s[i+10] != 'T') && string(s[i:i+end]) != "-" {
			return 0
		}
		if field == 2 {
			app = s[i : i+end]
		}
		i += end + 1
	}
	switch {
	case i < len(s) && s[i] == '-':
		i++
	case i < len(s) && s[i] == '[':
		for i < len(s) && s[i] == '[' {
			end := bytes.IndexByte(s[i:], ']')
			if end < 0 {
				return 0
			}
			i += end + 1
		}
	default:
		return 0
	}
	i += oneSpace(s[i:])
	if bytes.HasPrefix(s[i:], []byte("\xef\xbb\xbf")) {
		i += 3
	}
	l.identify(app)
	return i
}

// identify notes who spoke by the name of a syslog identity.
func (l *line) identify(tag []byte) {
	if i := bytes.IndexByte(tag, '['); i > 0 {
		tag = tag[:i]
	}
	switch string(tag) {
	case "kernel", "klogd", "klog", "vmunix":
		l.kernel()
	default:
		l.source = srcProgram
	}
}

// cutKmsg cuts a record's header as /dev/kmsg and extended netconsole have it,
// "level,seq,usec,flags[,key=value];", netconsole with the release before it.
func cutKmsg(s []byte, l *line) int {
	if n := kmsgLen(s, l); n > 0 {
		return n
	}
	i := bytes.IndexByte(s[:min(len(s), 72)], ',')
	if i < 3 || bytes.IndexByte(s[:i], ' ') >= 0 || bytes.IndexByte(s[:i], '.') < 0 {
		return 0
	}
	if n := kmsgLen(s[i+1:], l); n > 0 {
		return i + 1 + n
	}
	return 0
}

func kmsgLen(s []byte, l *line) int {
	var numbers [3][]byte
	i := 0
	for k := range numbers {
		end := digits(s, i)
		if end == i || end-i > 20 || end >= len(s) || s[end] != ',' {
			return 0
		}
		numbers[k] = s[i:end]
		i = end + 1
	}
	semi := bytes.IndexByte(s[i:min(len(s), i+256)], ';')
	if semi < 1 || !bytes.ContainsAny(s[i:i+1], "-c+") {
		return 0
	}
	if len(numbers[0]) > 4 {
		return 0
	}
	l.foreign = len(numbers[0]) > 1 || numbers[0][0] > '7'
	l.kernel()
	l.time = seconds(numbers[2], nil) / 1e6
	l.escaped, l.record = true, true
	for _, kv := range bytes.Split(s[i:i+semi], []byte(","))[1:] {
		key, value, _ := bytes.Cut(kv, []byte("="))
		switch string(key) {
		case "caller":
			l.caller = value
		case "ncfrag":
			l.frag, l.seq = value, numbers[1]
		}
	}
	return i + semi + 1
}

// unescape replaces the \xNN of /dev/kmsg.
func unescape(s []byte) []byte {
	if !bytes.Contains(s, []byte(`\x`)) {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && s[i+1] == 'x' {
			hi, lo := nibble(s[i+2]), nibble(s[i+3])
			if hi >= 0 && lo >= 0 {
				out = append(out, byte(hi<<4|lo))
				i += 3
				continue
			}
		}
		out = append(out, s[i])
	}
	return out
}

func nibble(c byte) int {
	switch {
	case digit(c):
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// clockLen returns the length of "07:36:11", with a fraction and a zone if they
// follow at once; 0 if s begins otherwise. fraction is the separator and the
// digits of the fraction.
func clockLen(s []byte) (n int, fraction []byte) {
	if len(s) < 8 || s[2] != ':' || s[5] != ':' {
		return 0, nil
	}
	for _, i := range []int{0, 1, 3, 4, 6, 7} {
		if !digit(s[i]) {
			return 0, nil
		}
	}
	n = 8
	if n+1 < len(s) && (s[n] == '.' || s[n] == ',') && digit(s[n+1]) {
		end := digits(s, n+1)
		fraction = s[n:end]
		n = end
	}
	if n < len(s) && s[n] == 'Z' {
		n++
	} else if n+4 < len(s) && (s[n] == '+' || s[n] == '-') && digit(s[n+1]) {
		n++
		for n < len(s) && (digit(s[n]) || s[n] == ':' && n+1 < len(s) && digit(s[n+1])) {
			n++
		}
	}
	if n < len(s) && s[n] != ' ' && s[n] != '\t' {
		return 0, nil
	}
	return n, fraction
}

// dayLen returns the length of "2024-05-06" or "2024/05/06".
func dayLen(s []byte) int {
	if len(s) < 10 || s[4] != '-' && s[4] != '/' || s[7] != s[4] {
		return 0
	}
	for i, c := range s[:10] {
		if i != 4 && i != 7 && !digit(c) {
			return 0
		}
	}
	return 10
}

// cutDate cuts a date in digits, "2024-05-06T07:08:09.123Z ", "2024/05/06
// 07:08:09 ", "07:08:09 ", "1714979289.123456 ", and what may stand behind it.
func cutDate(s []byte, l *line) int {
	comma := false
	n := dayLen(s)
	if n > 0 {
		if n >= len(s) || s[n] != 'T' && s[n] != ' ' && s[n] != '_' {
			return 0
		}
		iso := s[n] == 'T'
		c, fraction := clockLen(s[n+1:])
		if c == 0 {
			return 0
		}
		n += 1 + c
		comma = iso && len(fraction) == 7 && fraction[0] == ','
	} else if c, _ := clockLen(s); c > 0 {
		n = c
	} else if n = epochLen(s); n == 0 {
		return 0
	}
	if comma { // dmesg --time-format iso is alone in this
		l.kernel()
		n += oneSpace(s[n:])
		if c, caller := callerLen(s[n:]); c > 0 {
			l.caller = caller
			n += c
			n += oneSpace(s[n:])
		}
		return n
	}
	return n + afterDate(s[n:], l)
}

// epochLen returns the length of seconds since 1970 with a fraction.
func epochLen(s []byte) int {
	i := digits(s, 0)
	if i < 9 || i > 11 || i+1 >= len(s) || s[i] != '.' {
		return 0
	}
	end := digits(s, i+1)
	if end-i < 4 || end >= len(s) || s[end] != ' ' {
		return 0
	}
	return end
}

// afterDate cuts what stands between a date and the message: separators, the
// streams of GitLab, a level, a zone, a host and an identity.
func afterDate(s []byte, l *line) int {
	n := oneSpace(s)
	// GitLab: a stream in hexadecimal, O or E, and " " or "+".
	if r := s[n:]; len(r) > 3 && nibble(r[0]) >= 0 && nibble(r[1]) >= 0 && (r[2] == 'O' || r[2] == 'E') && (r[3] == ' ' || r[3] == '+') {
		return n + 4
	}
	for _, sep := range []string{"- ", "| ", "[-] "} {
		if bytes.HasPrefix(s[n:], []byte(sep)) {
			n += len(sep)
		}
	}
	if c := pythonLevelLen(s[n:]); c > 0 {
		n += c
	}
	return n + identityLen(s[n:], l)
}

// pythonLevelLen returns the length of a level as loggers print it, "INFO - ",
// "INFO | ", "DEBUG| ", "[INFO] ".
func pythonLevelLen(s []byte) int {
	i := 0
	bracket := len(s) > 0 && s[0] == '['
	if bracket {
		i = spaces(s, 1)
	}
	first := i
	for i < len(s) && s[i] >= 'A' && s[i] <= 'Z' {
		i++
	}
	switch string(s[first:i]) {
	case "DEBUG", "INFO", "WARNING", "WARN", "ERROR", "CRITICAL", "NOTICE":
	default:
		return 0
	}
	if bracket {
		if i+1 < len(s) && s[i] == ']' && s[i+1] == ' ' {
			return i + 2
		}
		return 0
	}
	i = spaces(s, i)
	if i+1 < len(s) && (s[i] == '-' || s[i] == '|') && s[i+1] == ' ' {
		return i + 2
	}
	return 0
}

// cutPython cuts what pytest prints before a captured log line, "INFO
// name:file.py:12 ".
func cutPython(s []byte, _ *line) int {
	i := 0
	for i < len(s) && s[i] >= 'A' && s[i] <= 'Z' {
		i++
	}
	if i < 4 || i >= len(s) || s[i] != ' ' {
		return 0
	}
	i = spaces(s, i)
	end := bytes.IndexByte(s[i:min(len(s), i+96)], ' ')
	if end < 0 {
		return 0
	}
	token := s[i : i+end]
	colon := bytes.LastIndexByte(token, ':')
	if colon < 0 || colon+1 == len(token) || digits(token, colon+1) != len(token) || !bytes.Contains(token, []byte(".py:")) {
		return 0
	}
	return i + end + 1
}

// identityLen returns the length of "host kernel: " and its like, of what a
// program's line has in its place, and notes who spoke. It is 0 if s does not
// name anybody for certain: the beginning of a message looks like a host.
func identityLen(s []byte, l *line) int {
	i := 0
	for range 3 { // host and facility may stand before
		end := bytes.IndexByte(s[i:min(len(s), i+96)], ' ')
		token := s[i:]
		if end >= 0 {
			token = s[i : i+end]
		}
		if n := len(token); n > 1 && token[n-1] == ':' {
			tag := token[:n-1]
			if kernelTag(tag) || numberedTag(tag) {
				l.identify(tag)
				if end < 0 {
					return len(s)
				}
				return i + end + 1
			}
			return 0
		}
		if end <= 0 || !hostName(token) {
			return 0
		}
		i += end + 1
	}
	return 0
}

func kernelTag(tag []byte) bool {
	return string(tag) == "kernel" || string(tag) == "klogd" || string(tag) == "kernel[0]"
}

// numberedTag reports whether tag is a program's name with its process id.
func numberedTag(tag []byte) bool {
	n := len(tag)
	i := bytes.LastIndexByte(tag, '[')
	if n < 4 || i < 1 || tag[n-1] != ']' || digits(tag, i+1) != n-1 || i+1 == n-1 {
		return false
	}
	return tag[0] != '['
}

func hostName(s []byte) bool {
	for _, c := range s {
		if !word(c) && bytes.IndexByte([]byte("-.()@"), c) < 0 && c < 0x80 {
			return false
		}
	}
	return true
}

// cutNamedDate cuts a date with names in it, as syslog, the journal and ctime
// print them, in any language: "Sep 14 07:36:11 ", "Thu 2023-09-14 07:36:11
// CEST ", "Thu Sep 14 07:36:11 2023 ".
func cutNamedDate(s []byte, l *line) int {
	i, names, numbers := 0, 0, 0
	for range 4 {
		if n, _ := clockLen(s[i:]); n > 0 {
			if names == 0 || numbers == 0 {
				return 0
			}
			i += n
			if y := zoneLen(s[i:]); y > 0 {
				i += y
			}
			return i + afterDate(s[i:], l)
		}
		if n := dayLen(s[i:]); n > 0 {
			i += n
			numbers++
		} else {
			first := i
			for i < len(s) && i-first < 16 && (word(s[i]) || s[i] >= 0x80 || s[i] == '.') {
				i++
			}
			if i == first {
				return 0
			}
			switch d := digits(s, first); {
			case d == first || d < i && s[d] >= 0x80: // a name, or a month like "9" and a sign
				names++
			case d-first <= 4 && (d == i || s[d] == '.'):
				numbers++
			default:
				return 0
			}
		}
		j := spaces(s, i)
		if j == i || j-i > 2 {
			return 0
		}
		i = j
	}
	return 0
}

// zoneLen returns the length of the zone and year that may follow a clock, with
// the space before each.
func zoneLen(s []byte) int {
	n := 0
	for range 2 {
		if n >= len(s) || s[n] != ' ' {
			break
		}
		i := n + 1
		for i < len(s) && (s[i] >= 'A' && s[i] <= 'Z') {
			i++
		}
		zone := i - n - 1
		year := digits(s, n+1) - n - 1
		if zone >= 2 && zone <= 5 && i < len(s) && s[i] == ' ' && !bytes.HasPrefix(s[n+1:], []byte("BUG ")) {
			n = i
		} else if year == 4 && (s[n+1] == '1' || s[n+1] == '2') && n+5 < len(s) && s[n+5] == ' ' {
			n += 5
		} else {
			break
		}
	}
	return n
}

// facilities are syslog's, as dmesg -x prints them.
var facilities = []string{"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"}

// cutDecodedLevel cuts dmesg -x's "kern  :warn  : ".
func cutDecodedLevel(s []byte, l *line) int {
	for i, f := range facilities {
		if !bytes.HasPrefix(s, []byte(f)) {
			continue
		}
		n := spaces(s, len(f))
		if n >= len(s) || s[n] != ':' || n < 6 {
			continue
		}
		n++
		first := n
		for n < len(s) && s[n] >= 'a' && s[n] <= 'z' {
			n++
		}
		if n == first || n-first > 6 {
			return 0
		}
		n = spaces(s, n)
		if n+1 >= len(s) || s[n] != ':' || s[n+1] != ' ' {
			return 0
		}
		if i > 0 {
			l.foreign = true
			l.source = srcProgram
		} else if !l.foreign {
			l.source = srcKernel
		}
		return n + 2
	}
	return 0
}

// cutKernelTag cuts "kernel: ", and "kernel:" as a broadcast to all terminals
// has it.
func cutKernelTag(s []byte, l *line) int {
	const tag = "kernel:"
	if !bytes.HasPrefix(s, []byte(tag)) || l.source == srcProgram {
		return 0
	}
	l.kernel()
	return len(tag) + oneSpace(s[len(tag):])
}

// cutInnerIdentity cuts "host kernel: " behind a time, as journalctl -o
// short-monotonic prints it, and what a program that writes to /dev/kmsg puts
// there.
func cutInnerIdentity(s []byte, l *line) int {
	if bytes.IndexByte(s[:min(len(s), 128)], ':') < 0 || l.named {
		return 0
	}
	n := identityLen(s, l)
	l.named = n > 0
	return n
}

// cutQuote cuts a mail's mark of quoted text, "> " or "> > ". KASAN marks a line
// of memory with ">" as well, but without a space.
func cutQuote(s []byte, _ *line) int {
	i := 0
	for i < len(s) && s[i] == '>' {
		i++
	}
	if i < len(s) && s[i] != ' ' {
		return 0
	}
	return min(len(s), i+1)
}

// cutTabs cuts "job\tstep\t" before a date, as gh run view --log prints it.
func cutTabs(s []byte, _ *line) int {
	head := s[:min(len(s), 200)]
	i := bytes.IndexByte(head, '\t')
	if i < 1 {
		return 0
	}
	j := bytes.IndexByte(head[i+1:], '\t')
	if j < 1 {
		return 0
	}
	n := i + j + 2
	rest := bytes.TrimPrefix(s[n:], []byte("\xef\xbb\xbf"))
	if dayLen(rest) == 0 {
		return 0
	}
	return len(s) - len(rest)
}

// cutCaller cuts printk's caller where it stands apart from the time: "[
// T43] ".
func cutCaller(s []byte, l *line) int {
	i := spaces(s, 0)
	if i > 1 {
		return 0
	}
	n, caller := callerLen(s[i:])
	if n == 0 {
		return 0
	}
	l.caller = caller
	n += i
	return n + oneSpace(s[n:])
}

// cutVendorTask cuts "[pid:10974,cpu1,grep]", with more fields or without.
func cutVendorTask(s []byte, _ *line) int {
	if !bytes.HasPrefix(s, []byte("[pid:")) {
		return 0
	}
	end := bytes.IndexByte(s[:min(len(s), 96)], ']')
	if end < 0 || bytes.IndexByte(s[:end], ',') < 0 {
		return 0
	}
	return end + 1
}

// cutVendorMTK cuts "(3)[43:kworker/3:1] ", with "." or "-" before it or
// without.
func cutVendorMTK(s []byte, _ *line) int {
	i := spaces(s, 0)
	if i > 1 {
		return 0
	}
	if i < len(s) && s[i] != '(' {
		i++
	}
	if i >= len(s) || s[i] != '(' {
		return 0
	}
	j := digits(s, i+1)
	if j == i+1 || j+1 >= len(s) || s[j] != ')' || s[j+1] != '[' {
		return 0
	}
	k := digits(s, j+2)
	if k == j+2 || k >= len(s) || s[k] != ':' {
		return 0
	}
	end := bytes.IndexByte(s[k:min(len(s), k+64)], ']')
	if end < 0 {
		return 0
	}
	n := k + end + 1
	return n + oneSpace(s[n:])
}

// cutVendorSamsung cuts "[0:      swapper/0:    1] ", with a letter before it or
// without.
func cutVendorSamsung(s []byte, _ *line) int {
	i := spaces(s, 0)
	if i < len(s) && s[i] == 'I' {
		i++
	}
	if i > 2 || i >= len(s) || s[i] != '[' {
		return 0
	}
	j := digits(s, i+1)
	if j == i+1 || j >= len(s) || s[j] != ':' {
		return 0
	}
	end := bytes.IndexByte(s[j:min(len(s), j+64)], ']')
	if end < 0 {
		return 0
	}
	in := s[j+1 : j+end]
	colon := bytes.LastIndexByte(in, ':')
	if colon < 1 {
		return 0
	}
	pid := bytes.TrimLeft(in[colon+1:], " ")
	if len(pid) == 0 || digits(pid, 0) != len(pid) {
		return 0
	}
	n := j + end + 1
	return n + oneSpace(s[n:])
}

// cutVendorDate cuts "[20170824_13:51:39.356848]@0 ".
func cutVendorDate(s []byte, _ *line) int {
	end := bytes.IndexByte(s[:min(len(s), 40)], ']')
	if end < 18 || digits(s, 1) != 9 || s[9] != '_' || end+1 >= len(s) || s[end+1] != '@' {
		return 0
	}
	for _, c := range s[10:end] {
		if !digit(c) && c != ':' && c != '.' {
			return 0
		}
	}
	n := digits(s, end+2)
	if n == end+2 {
		return 0
	}
	return n + oneSpace(s[n:])
}

// cutVendorName cuts "[name:panic&]".
func cutVendorName(s []byte, _ *line) int {
	if !bytes.HasPrefix(s, []byte("[name:")) {
		return 0
	}
	end := bytes.IndexByte(s[:min(len(s), 64)], ']')
	if end < 2 || s[end-1] != '&' {
		return 0
	}
	return end + 1
}

// cutVendorCPU cuts "<c0>", "c0 " and "c0 17 ".
func cutVendorCPU(s []byte, _ *line) int {
	i := 0
	if s[0] == '<' {
		i++
	}
	if i+1 >= len(s) || s[i] != 'c' {
		return 0
	}
	j := digits(s, i+1)
	if j == i+1 || j-i > 4 || j >= len(s) {
		return 0
	}
	if i == 1 {
		if s[j] != '>' {
			return 0
		}
		return j + 1 + oneSpace(s[j+1:])
	}
	if s[j] != ' ' {
		return 0
	}
	k := spaces(s, j)
	if d := digits(s, k); d > k && d < len(s) && s[d] == ' ' && d-k <= 7 {
		return d + 1
	}
	return j + 1
}

// cutLogcat cuts the formats of Android's logcat: threadtime "10-28
// 04:36:09.123     0     0 W tag : ", time "10-28 04:36:09.123 W/tag(  0): ",
// brief "W/tag(  0): ", epoch and monotonic instead of the date.
func cutLogcat(s []byte, l *line) int {
	i := spaces(s, 0)
	dated := false
	if dayLen(s[i:]) > 0 && len(s) > i+5 {
		i += 5 // a year
	}
	if len(s) > i+6 && digit(s[i]) && digit(s[i+1]) && s[i+2] == '-' && digit(s[i+3]) && digit(s[i+4]) && s[i+5] == ' ' {
		n, _ := clockLen(s[i+6:])
		if n == 0 {
			return 0
		}
		dated = true
		i += 6 + n
		if i+5 < len(s) && s[i] == ' ' && (s[i+1] == '+' || s[i+1] == '-') && digit(s[i+2]) {
			i = digits(s, i+2)
		}
	} else if d := digits(s, i); d > i {
		if d >= len(s) || s[d] != '.' {
			return 0
		}
		end := digits(s, d+1)
		if end-d < 4 || end >= len(s) || s[end] != ' ' {
			return 0
		}
		dated = true
		i = end
	}
	i = spaces(s, i)
	pid := []byte(nil)
	if dated {
		// uid, pid and tid; the uid may be a name or missing.
		for range 3 {
			end := i
			for end < len(s) && word(s[end]) {
				end++
			}
			if end == i || end >= len(s) || s[end] != ' ' || end-i == 1 && letter(s[i]) {
				break
			}
			if digit(s[i]) {
				pid = s[i:end]
			} else if pid != nil {
				return 0
			}
			i = spaces(s, end)
		}
	}
	if i+2 >= len(s) || bytes.IndexByte([]byte("VDIWEF"), s[i]) < 0 {
		return 0
	}
	var tag []byte
	switch {
	case s[i+1] == '/': // W/tag(  0): text
		open := bytes.IndexByte(s[i:min(len(s), i+96)], '(')
		if open < 0 {
			return 0
		}
		tag = s[i+2 : i+open]
		j := spaces(s, i+open+1)
		end := digits(s, j)
		if end == j || end+1 >= len(s) || s[end] != ')' || s[end+1] != ':' {
			return 0
		}
		pid = s[j:end]
		i = end + 2
	case s[i+1] == ' ' && dated && pid != nil: // W tag     : text
		colon := bytes.Index(s[i:min(len(s), i+96)], []byte(": "))
		if colon < 0 {
			if n := len(s); s[n-1] != ':' || n-i > 96 {
				return 0
			}
			colon = len(s) - 1 - i
		}
		tag = s[i+2 : i+colon]
		i += colon + 1
	default:
		return 0
	}
	i += oneSpace(s[i:])
	switch name := string(bytes.TrimRight(tag, " ")); {
	case name == "" || name == "kernel":
		l.kernel()
	case string(pid) == "0":
		// logd takes what stands before a message's first colon for its tag.
		l.kernel()
		l.unpacked = append([]byte(name+": "), s[i:]...)
	default:
		l.source = srcProgram
	}
	return i
}
