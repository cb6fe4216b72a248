package oops

import (
	"bytes"
	"strings"
)

// scripts/decode_stacktrace.sh replaces "func+0x1/0x2" by "func (file.c:12)",
// with more positions where functions were inlined and "(discriminator 3)"
// behind a position. The offset is what every rule of this package knows a
// symbol by; it is put back as zero, which stands for "not said".
const unsaid = "+0x0/0x0"

// spellOffsets puts an offset behind each symbol that has positions in its
// place. It returns s itself when there is none.
func spellOffsets(s []byte) []byte {
	var out []byte
	done := 0
	for from := 0; ; {
		i := bytes.Index(s[from:], []byte(" ("))
		if i < 0 {
			break
		}
		i += from
		from = i + 2
		if !symbolEnds(s[:i]) || positionsLen(s[i+1:]) == 0 {
			continue
		}
		out = append(append(out, s[done:i]...), unsaid...)
		done = i
	}
	if out == nil {
		return s
	}
	return append(out, s[done:]...)
}

// symbolEnds reports whether s ends in a symbol without an offset.
func symbolEnds(s []byte) bool {
	i := len(s)
	for i > 0 && s[i-1] > ' ' && s[i-1] != '(' {
		i--
	}
	name := s[i:]
	if j := bytes.IndexByte(name, ':'); j >= 0 && digits(name, 0) == j && !bytes.HasPrefix(name[j:], []byte("::")) {
		name = name[j+1:] // the segment, "0010:"
	}
	switch string(name) {
	case "at", "by", "from", "in", "of", "on": // a sentence about a position
		return false
	}
	if len(name) == 0 || !letter(name[0]) && bytes.IndexByte([]byte("_.<$"), name[0]) < 0 {
		return false
	}
	for _, c := range name {
		if !word(c) && bytes.IndexByte([]byte(".$<>:@"), c) < 0 {
			return false
		}
	}
	return true
}

// positionsLen returns the length of "(file.c:12 (discriminator 3) file.h:4)".
func positionsLen(s []byte) int {
	if len(s) == 0 || s[0] != '(' {
		return 0
	}
	i, n := 1, 0
	for i < len(s) {
		if e := positionLen(s[i:]); e > 0 {
			n++
			i += e
		} else if !bytes.HasPrefix(s[i:], []byte("(discriminator ")) && !bytes.HasPrefix(s[i:], []byte("[inline]")) || n == 0 {
			return 0
		} else if e = bytes.IndexAny(s[i:], ")]"); e < 0 {
			return 0
		} else {
			i += e + 1
		}
		switch {
		case i < len(s) && s[i] == ')':
			return i + 1
		case i < len(s) && s[i] == ' ':
			i++
		default:
			return 0
		}
	}
	return 0
}

// positionLen returns the length of "dir/file.c:12" or "dir/file.c:?".
func positionLen(s []byte) int {
	i := 0
	for i < len(s) && s[i] > ' ' && s[i] != ':' && s[i] != '(' && s[i] != ')' {
		i++
	}
	dot := bytes.LastIndexByte(s[:i], '.')
	if i+1 >= len(s) || s[i] != ':' || dot < 1 || i-dot > 5 || i-dot < 2 || !letter(s[dot+1]) {
		return 0
	}
	if s[i+1] == '?' {
		return i + 2
	}
	end := digits(s, i+1)
	if end == i+1 {
		return 0
	}
	return end
}

// rawFrame is a frame's text as the log had it.
func rawFrame(text string) string {
	return strings.TrimSpace(strings.ReplaceAll(text, unsaid+" (", " ("))
}

var (
	// file.c:12 inside the parentheses that follow a decoded symbol.
	positionRe = compile(`([^\s()]+\.[A-Za-z]+):(\d+)`)
	// The module behind them, in brackets with a build id, or bare.
	decodedModRe = compile(`^\s*\[?([A-Za-z]\w*)(?: [0-9a-f]{16,})?\]?\s*$`)
	// func at file.c:12, with "(inlined by)" before it, of addr2line and faddr2line.
	inlinedRe = compile(`^\s*(?:\(inlined by\) )?([A-Za-z_$<][\w.$<>:]*) (?:at )?\(?([^\s()]+\.[A-Za-z]{1,4}):(\d+|\?)\)?(?: \(discriminator \d+\))?(?: \[inline\])?\)?\s*$`)
)

// decorateDecoded reads "(file.c:12 file.h:3) [module]" behind a symbol. Of
// several positions the last is the one in the symbol itself; those before it
// are in what was inlined there.
func decorateDecoded(f *Frame, rest string) bool {
	text := strings.TrimLeft(rest, " ")
	n := positionsLen([]byte(text))
	if n == 0 {
		return false
	}
	if all := positionRe.FindAllStringSubmatch(text[:n], -1); len(all) > 0 {
		last := all[len(all)-1]
		f.File, f.Line = last[1], number(last[2])
	}
	if m := decodedModRe.FindStringSubmatch(text[n:]); m != nil && m[1] != "inline" {
		f.Module = m[1]
	}
	if strings.Contains(rest, "[inline]") || strings.Contains(rest, "(inlined by)") {
		f.Inline = true
	}
	return true
}

// inlinedLook is a cheap test for lines that inlinedRe may match.
func inlinedLook(s string) bool {
	return strings.Contains(s, "(inlined by)") || strings.Contains(s, " at ") && strings.Contains(s, ".") && strings.Contains(s, ":")
}
