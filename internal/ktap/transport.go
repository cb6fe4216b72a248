// SPDX-License-Identifier: Apache-2.0

package ktap

import "strings"

// maxPrefix is how far into a line what a log puts before a message may reach.
const maxPrefix = 256

// A carried line is one without what a log or a CI system puts before it.
type carried struct {
	text string
	// kernel is whether the prefix is one that only the kernel's messages
	// have: a printk time, a caller, a level, "host kernel:".
	kernel bool
	// time is the printk time in microseconds, -1 if there is none.
	time int64
}

// carry cuts the prefixes of a line. Several may be stacked: a CI system's time
// before syslog's date before printk's time.
func carry(s string) carried {
	c := carried{text: s, time: -1}
	named := false // a date was cut, so that a host and a program may follow
	for range 6 {
		if c.text == "" {
			break
		}
		n, kind := prefixLen(c.text, named)
		if n == 0 || n > maxPrefix {
			break
		}
		switch kind {
		case prefixPrintk:
			c.time = printkTime(c.text)
			c.kernel = true
		case prefixRecord:
			c.time = recordTime(c.text)
			c.kernel = true
		case prefixKernel:
			c.kernel = true
		case prefixPlain:
			c.kernel = c.kernel && !named // of a program in journalctl -o short-monotonic
		}
		named = kind == prefixDate || kind == prefixPrintk
		c.text = c.text[n:]
	}
	if c.kernel && strings.HasPrefix(c.text, "#011") {
		// rsyslog writes control characters in octal.
		for strings.HasPrefix(c.text, "#011") {
			c.text = "\t" + c.text[len("#011"):]
		}
	}
	return c
}

type prefixKind uint8

const (
	prefixNone   prefixKind = iota
	prefixDate              // a date or time of a log, no kernel's
	prefixPlain             // anything else that says nothing about the origin
	prefixKernel            // of the kernel's log, without a time that counts
	prefixPrintk            // "[    1.234567] "
	prefixRecord            // "6,12,1234567,-;"
)

// prefixLen returns the length of the prefix that s begins with, 0 if none.
// named is whether a date stood before it.
func prefixLen(s string, named bool) (int, prefixKind) {
	switch c := s[0]; {
	case c == '[':
		return bracketLen(s)
	case c == '<':
		if n := digits(s[1:]); n > 0 && n < 4 && n+1 < len(s) && s[n+1] == '>' {
			return n + 2, prefixKernel
		}
	case c == '>':
		// A mail's quotation.
		if strings.HasPrefix(s, "> ") {
			return 2, prefixPlain
		}
	case isDigit(c):
		if n := recordLen(s); n > 0 {
			return n, prefixRecord
		}
		if n, kind := dateLen(s); n > 0 {
			return n, kind
		}
	case c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z':
		if n := syslogDateLen(s); n > 0 {
			return n, prefixDate
		}
		if n := levelNamesLen(s); n > 0 {
			return n, prefixKernel
		}
		if strings.HasPrefix(s, "kernel: ") {
			return len("kernel: "), prefixKernel
		}
	}
	if named {
		return identLen(s)
	}
	return 0, prefixNone
}

// bracketLen is prefixLen for what begins with a bracket.
func bracketLen(s string) (int, prefixKind) {
	if n := printkLen(s); n > 0 {
		return n, prefixPrintk
	}
	if n := callerLen(s); n > 0 {
		return blank(s, n), prefixKernel
	}
	end := strings.IndexByte(s[:min(len(s), 48)], ']')
	if end < 8 {
		return 0, prefixNone
	}
	in := s[1:end]
	switch {
	case in[2] == ':' && clockLen(in) == len(in):
		return blank(s, end+1), prefixDate // [12:34:56] of kunit.py
	case isDigit(in[0]) && isDate(in):
		return blank(s, end+1), prefixDate // [2024-01-01T00:00:00.000Z] of Jenkins
	case len(in) == 24 && in[13] == ':' && in[16] == ':' && month(in[4:]):
		return blank(s, end+1), prefixKernel // [Mon Jan  1 00:00:00 2024] of dmesg -T
	case len(in) == 11 && in[8] == ':' && month(in):
		return blank(s, end+1), prefixKernel // [Jan 1 00:00] of dmesg -e: "%b%e %H:%M"
	case deltaOnly(in):
		return blank(s, end+1), prefixKernel // [  +0.000123] and [<    0.000123>]
	}
	return 0, prefixNone
}

// blank adds the one blank that follows a prefix that is n long.
func blank(s string, n int) int {
	if n < len(s) && s[n] == ' ' {
		return n + 1
	}
	return n
}

// printkLen returns the length of "[    1.234567] ", with the time since the
// line before, as dmesg -d has it, and the caller, 0 if s begins otherwise.
func printkLen(s string) int {
	i := 1
	for i < len(s) && i < 16 && s[i] == ' ' {
		i++
	}
	n := digits(s[i:])
	i += n
	if n == 0 || n > 12 || i >= len(s) || s[i] != '.' {
		return 0
	}
	i++
	n = digits(s[i:])
	i += n
	if n < 3 || n > 9 {
		return 0
	}
	if strings.HasPrefix(s[i:], " <") {
		end := strings.IndexByte(s[i:min(len(s), i+24)], '>')
		if end < 0 || !number(strings.TrimSpace(s[i+2:i+end])) {
			return 0
		}
		i += end + 1
	}
	if i >= len(s) || s[i] != ']' {
		return 0
	}
	i++
	if i < len(s) && s[i] == '[' {
		i += callerLen(s[i:])
	} else if i+1 < len(s) && s[i] == ' ' && s[i+1] == '[' {
		if c := callerLen(s[i+1:]); c > 0 {
			i += 1 + c
		}
	}
	return blank(s, i)
}

// printkTime returns the time of a line for which printkLen is not 0.
func printkTime(s string) int64 {
	s = strings.TrimLeft(s[1:], " ")
	n := digits(s)
	return micros(s[:n], s[n+1:])
}

// micros returns seconds and the digits behind the point in microseconds.
func micros(sec, fraction string) int64 {
	t := decimal(sec)
	fraction = fraction[:digits(fraction)]
	for i := range 6 {
		t *= 10
		if i < len(fraction) {
			t += int64(fraction[i] - '0')
		}
	}
	return t
}

// callerLen returns the length of PRINTK_CALLER's "[ T1234]" or "[    C0]".
func callerLen(s string) int {
	i := 1
	for i < len(s) && i < 16 && s[i] == ' ' {
		i++
	}
	if s[0] != '[' || i >= len(s) || s[i] != 'T' && s[i] != 'C' {
		return 0
	}
	i++
	n := digits(s[i:])
	i += n
	if n == 0 || n > 10 || i >= len(s) || s[i] != ']' {
		return 0
	}
	return i + 1
}

// recordLen returns the length of the header of a /dev/kmsg record or an
// extended netconsole message: level, sequence number, microseconds, flag and
// more fields (Documentation/ABI/testing/dev-kmsg).
func recordLen(s string) int {
	head, _, ok := strings.Cut(s[:min(len(s), maxPrefix)], ";")
	if !ok || strings.Count(head, ",") < 3 {
		return 0
	}
	i := releaseLen(head)
	for range 3 {
		n := digits(head[i:])
		if n == 0 || n > 18 || i+n >= len(head) || head[i+n] != ',' {
			return 0
		}
		i += n + 1
	}
	if i >= len(head) || head[i] != '-' && head[i] != 'c' && head[i] != '+' {
		return 0
	}
	return len(head) + 1
}

// releaseLen returns the length of "6.12.0-rc1,", which netconsole puts before a
// record if it is told to (drivers/net/netconsole.c: extended, release).
func releaseLen(s string) int {
	n := digits(s)
	if release, _, ok := strings.Cut(s, ","); ok && n > 0 && n < len(s) && s[n] == '.' && !strings.Contains(release, " ") {
		return len(release) + 1
	}
	return 0
}

func recordTime(s string) int64 {
	return decimal(strings.SplitN(s[releaseLen(s):], ",", 4)[2])
}

// decimal returns the value of a string of at most 18 digits.
func decimal(s string) int64 {
	var n int64
	for i := range len(s) {
		n = n*10 + int64(s[i]-'0')
	}
	return n
}

// dateLen returns the length of a date, a time of the day or a Unix time at the
// beginning of s.
func dateLen(s string) (int, prefixKind) {
	if len(s) > 19 && isDate(s) {
		i := 19
		// A fraction and a zone.
		for i < len(s) && i < 40 && s[i] != ' ' {
			if !isDigit(s[i]) && !strings.ContainsRune(".,:+-Z", rune(s[i])) {
				return 0, prefixNone
			}
			i++
		}
		if i == len(s) {
			return i, prefixDate
		}
		lava := s[10] == 'T' && !strings.ContainsAny(s[19:i], ",+-Z")
		if i = blank(s, i); lava {
			i = blank(s, i) // it has two
		}
		switch rest := s[i:]; {
		case strings.HasPrefix(rest, "| "):
			i += 2 // Zuul
		case len(rest) > 3 && isDigit(rest[0]) && isDigit(rest[1]) && (rest[2] == 'O' || rest[2] == 'E') && (rest[3] == ' ' || rest[3] == '+'):
			i += 4 // GitLab: stream and continuation
		}
		return i, prefixDate
	}
	if n := clockLen(s); n >= 8 && n < len(s) && s[n] == ' ' {
		return blank(s, blank(s, n)), prefixDate // Jenkins
	}
	if len(s) > 18 && s[2] == '-' && s[5] == ' ' && s[8] == ':' && s[11] == ':' {
		return logcatLen(s)
	}
	// journalctl -o short-unix.
	if n := digits(s); n >= 9 && n < len(s) && s[n] == '.' {
		if m := digits(s[n+1:]); m >= 3 && n+1+m < len(s) && s[n+1+m] == ' ' {
			at := n + 1 + m + 1
			if at < len(s) {
				if id, kind := identLen(s[at:]); id > 0 {
					return at + id, kind
				}
			}
		}
	}
	return 0, prefixNone
}

// isDate reports whether s begins with "2024-01-02T03:04:05", with slashes or
// with a blank between date and time.
func isDate(s string) bool {
	return len(s) >= 19 && digits(s[:4]) == 4 && (s[4] == '-' || s[4] == '/') && digits(s[5:7]) == 2 && s[7] == s[4] &&
		digits(s[8:10]) == 2 && (s[10] == 'T' || s[10] == ' ') && s[13] == ':' && s[16] == ':' && clockLen(s[11:]) >= 8
}

// clockLen returns the length of "12:34:56" with an optional fraction.
func clockLen(s string) int {
	if len(s) < 8 || digits(s[:2]) != 2 || s[2] != ':' || digits(s[3:5]) != 2 || s[5] != ':' || digits(s[6:8]) != 2 {
		return 0
	}
	n := 8
	if n+1 < len(s) && (s[n] == '.' || s[n] == ',') {
		if m := digits(s[n+1:]); m > 0 && m <= 9 {
			n += 1 + m
		}
	}
	return n
}

// logcatLen returns the length of "01-02 03:04:05.678  123  456 I kernel  : ".
func logcatLen(s string) (int, prefixKind) {
	n := clockLen(s[6:])
	if n == 0 {
		return 0, prefixNone
	}
	head := s[:min(len(s), 96)]
	i := strings.Index(head, ": ")
	if i < 6+n {
		return 0, prefixNone
	}
	f := strings.Fields(head[6+n : i])
	if len(f) < 4 || !number(f[0]) || !number(f[1]) || len(f[2]) != 1 {
		return 0, prefixNone
	}
	if f[3] == "kernel" {
		return i + 2, prefixKernel
	}
	return i + 2, prefixPlain
}

// syslogDateLen returns the length of RFC 3164's "Jan  2 03:04:05 ".
func syslogDateLen(s string) int {
	if len(s) < 16 || !month(s) || s[3] != ' ' || s[6] != ' ' {
		return 0
	}
	n := clockLen(s[7:])
	if n == 0 || 7+n >= len(s) || s[7+n] != ' ' {
		return 0
	}
	return 7 + n + 1
}

// identLen returns the length of "host program[123]: ", which follows a date.
func identLen(s string) (int, prefixKind) {
	head := s[:min(len(s), 128)]
	host := strings.IndexByte(head, ' ')
	if host <= 0 {
		return 0, prefixNone
	}
	// A host's name, not a word of TAP: "ok foo: bar".
	if w := head[:host]; w == "ok" || w == "not" || strings.ContainsAny(w, "#[]{}()=;,'\"") {
		return 0, prefixNone
	}
	ident, _, ok := strings.Cut(head[host+1:], ": ")
	if !ok || ident == "" || strings.ContainsAny(ident, " \t#") {
		return 0, prefixNone
	}
	n := host + 1 + len(ident) + 2
	if ident == "kernel" {
		return n, prefixKernel
	}
	if strings.HasSuffix(ident, "]") {
		return n, prefixPlain
	}
	return 0, prefixNone
}

// levelNamesLen returns the length of dmesg -x's "kern  :info  : ".
func levelNamesLen(s string) int {
	if len(s) < 15 || s[6] != ':' || s[13] != ':' || s[14] != ' ' {
		return 0
	}
	for i, c := range s[:13] {
		if c != ' ' && (c < 'a' || c > 'z') && i != 6 {
			return 0
		}
	}
	return 15
}

func month(s string) bool {
	return len(s) >= 3 && strings.Contains("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec", s[:3]) && s[0] >= 'A' && s[0] <= 'Z'
}

// deltaOnly reports whether s is what dmesg puts between its brackets for a
// time that counts from the line before.
func deltaOnly(s string) bool {
	s = strings.TrimSpace(s)
	if t, ok := strings.CutPrefix(s, "+"); ok {
		return number(t)
	}
	t, ok := strings.CutPrefix(s, "<")
	return ok && strings.HasSuffix(t, ">") && number(strings.TrimSpace(strings.TrimSuffix(t, ">")))
}

// number reports whether s is a decimal number, with a point or without.
func number(s string) bool {
	n := digits(s)
	if n == 0 {
		return false
	}
	if n == len(s) {
		return true
	}
	return s[n] == '.' && n+1 < len(s) && n+1+digits(s[n+1:]) == len(s)
}

// digits returns how many digits s begins with.
func digits(s string) int {
	n := 0
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	return n
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// plain returns line without terminal escape sequences and control characters
// other than the tab, in which colours and cursor movements of a console end.
func plain(line []byte) string {
	dirty := false
	for _, c := range line {
		if c < ' ' && c != '\t' || c == 0x7f {
			dirty = true
			break
		}
	}
	if !dirty {
		return string(line)
	}
	out := make([]byte, 0, len(line))
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == 0x1b:
			i += escapeLen(line[i:]) - 1
		case c < ' ' && c != '\t' || c == 0x7f:
		default:
			out = append(out, c)
		}
	}
	return string(out)
}

// escapeLen returns the length of the escape sequence s begins with, at least 1.
func escapeLen(s []byte) int {
	if len(s) < 2 {
		return 1
	}
	if s[1] != '[' {
		return 2
	}
	for i := 2; i < len(s) && i < 64; i++ {
		if s[i] >= 0x40 && s[i] <= 0x7e {
			return i + 1
		}
		if s[i] < 0x20 || s[i] > 0x7e {
			return i
		}
	}
	return 2
}

// A learned prefix is what stood before a version line and is no prefix that
// carry knows. Lines that begin with the same, digits aside, have it too: that
// is how kunit_parser.py finds KTAP in any log.
type learned string

// learn returns the prefix of a line that ends in a version line.
func learn(s string) learned {
	for _, v := range []string{"KTAP version ", "TAP version "} {
		at := strings.LastIndex(s, v)
		if at <= 0 || at > maxPrefix {
			continue
		}
		if _, ok := parseVersion(s[at:]); ok && strings.Trim(s[:at], " \t#") != "" && isBlank(s[at-1]) && !isTAP(strings.TrimLeft(s, " \t")) {
			return learned(strings.Clone(s[:at]))
		}
	}
	return ""
}

// cut removes the prefix from s.
func (l learned) cut(s string) (string, bool) {
	if l == "" || len(s) < len(l) {
		return s, false
	}
	for i := range len(l) {
		if a, b := l[i], s[i]; a != b && (!isDigit(a) || !isDigit(b)) {
			return s, false
		}
	}
	return s[len(l):], true
}
