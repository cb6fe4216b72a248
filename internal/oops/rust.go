package oops

import (
	"strings"
)

// demangleRust reads a symbol of Rust's v0 mangling and returns its path in
// source form, e.g. "<rust_binder::process::Process>::update_ref". It returns
// false for anything else. Generic arguments, types that are no paths and
// signatures are left out: a title needs the path only.
func demangleRust(sym string) (string, bool) {
	if !strings.HasPrefix(sym, "_R") || len(sym) > 2048 {
		return "", false
	}
	p := &rustParser{s: sym[2:], budget: 4096}
	out := p.path()
	if p.bad || out == "" {
		return "", false
	}
	return out, true
}

// rustParser reads one v0 symbol. budget bounds the work that back references
// in a hostile symbol could cause.
type rustParser struct {
	s      string
	pos    int
	depth  int
	budget int
	bad    bool
}

func (p *rustParser) fail() string {
	p.bad = true
	return ""
}

func (p *rustParser) next() byte {
	p.budget--
	if p.pos >= len(p.s) || p.budget < 0 {
		p.bad = true
		return 0
	}
	c := p.s[p.pos]
	p.pos++
	return c
}

func (p *rustParser) peek() byte {
	if p.pos >= len(p.s) {
		return 0
	}
	return p.s[p.pos]
}

// base62 reads "_" (0) or digits closed by "_" (value + 1).
func (p *rustParser) base62() int {
	if p.peek() == '_' {
		p.pos++
		return 0
	}
	n := 0
	for !p.bad {
		c := p.next()
		switch {
		case c == '_':
			return n + 1
		case c >= '0' && c <= '9':
			n = n*62 + int(c-'0')
		case c >= 'a' && c <= 'z':
			n = n*62 + int(c-'a') + 10
		case c >= 'A' && c <= 'Z':
			n = n*62 + int(c-'A') + 36
		default:
			p.bad = true
		}
		n = min(n, 1<<40) // crate hashes are larger; only positions matter
	}
	return 0
}

func (p *rustParser) disambiguator() {
	if p.peek() == 's' {
		p.pos++
		p.base62()
	}
}

func (p *rustParser) ident() string {
	p.disambiguator()
	if p.peek() == 'u' {
		p.pos++
	}
	n := 0
	for p.peek() >= '0' && p.peek() <= '9' {
		n = n*10 + int(p.next()-'0')
		if n > len(p.s) {
			return p.fail()
		}
		if n == 0 {
			break
		}
	}
	if p.peek() == '_' {
		p.pos++
	}
	if p.pos+n > len(p.s) {
		return p.fail()
	}
	id := p.s[p.pos : p.pos+n]
	p.pos += n
	return id
}

// backref runs fn at an earlier position of the symbol.
func (p *rustParser) backref(fn func() string) string {
	here := p.pos - 1
	to := p.base62()
	if p.bad || to >= here {
		return p.fail()
	}
	back := p.pos
	p.pos = to
	out := fn()
	p.pos = back
	return out
}

func (p *rustParser) path() string {
	p.depth++
	defer func() { p.depth-- }()
	if p.depth > 64 {
		return p.fail()
	}
	switch p.next() {
	case 'C':
		return p.ident()
	case 'N':
		ns := p.next()
		parent := p.path()
		id := p.ident()
		if ns == 'C' {
			return parent + "::{closure}"
		}
		if id == "" {
			return parent
		}
		return parent + "::" + id
	case 'M': // inherent impl: <Type>
		p.disambiguator()
		p.path()
		return "<" + p.typ() + ">"
	case 'X': // trait impl: <Type as Trait>
		p.disambiguator()
		p.path()
		t := p.typ()
		return "<" + t + " as " + p.path() + ">"
	case 'Y':
		t := p.typ()
		return "<" + t + " as " + p.path() + ">"
	case 'I':
		out := p.path()
		for !p.bad && p.peek() != 'E' {
			p.generic()
		}
		p.next()
		return out
	case 'B':
		return p.backref(p.path)
	}
	return p.fail()
}

func (p *rustParser) generic() {
	switch p.peek() {
	case 'L':
		p.pos++
		p.base62()
	case 'K':
		p.pos++
		p.constant()
	default:
		p.typ()
	}
}

func (p *rustParser) constant() {
	switch c := p.next(); c {
	case 'p':
	case 'B':
		p.backref(func() string { p.constant(); return "" })
	default:
		for !p.bad && p.next() != '_' {
			continue
		}
	}
}

// rustBasic names the basic types that may stand for a type in a path.
var rustBasic = map[byte]string{
	'a': "i8", 'b': "bool", 'c': "char", 'd': "f64", 'e': "str", 'f': "f32", 'h': "u8", 'i': "isize",
	'j': "usize", 'l': "i32", 'm': "u32", 'n': "i128", 'o': "u128", 's': "i16", 't': "u16", 'u': "()",
	'v': "...", 'x': "i64", 'y': "u64", 'z': "!", 'p': "_",
}

func (p *rustParser) typ() string {
	p.depth++
	defer func() { p.depth-- }()
	if p.depth > 64 {
		return p.fail()
	}
	c := p.peek()
	if name, ok := rustBasic[c]; ok {
		p.pos++
		return name
	}
	switch c {
	case 'A':
		p.pos++
		t := p.typ()
		p.constant()
		return "[" + t + "]"
	case 'S':
		p.pos++
		return "[" + p.typ() + "]"
	case 'R', 'Q':
		p.pos++
		if p.peek() == 'L' {
			p.pos++
			p.base62()
		}
		return "&" + p.typ()
	case 'P', 'O':
		p.pos++
		return "*" + p.typ()
	case 'T':
		p.pos++
		for !p.bad && p.peek() != 'E' {
			p.typ()
		}
		p.next()
		return "(..)"
	case 'B':
		p.pos++
		return p.backref(p.typ)
	case 'F', 'D':
		return p.fail() // function pointers and trait objects name no method
	}
	return p.path()
}
