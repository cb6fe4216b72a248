// SPDX-License-Identifier: Apache-2.0

package kconfig

import (
	"slices"
	"strings"
)

// tri is a value of Kconfig's three-valued logic; && is the minimum and || the
// maximum (Documentation/kbuild/kconfig-language.rst, "Menu dependencies").
type tri int

const (
	no tri = iota
	mod
	yes
)

// expr is a parsed dependency.
type expr struct {
	op          string // "sym", "&&", "||", "!", "=", "!=", "<", ">", "<=", ">=", "?"
	name        string // of a symbol, or the text of what is not understood
	left, right *expr
}

// parseExpr parses a dependency. What is not understood, such as a macro call,
// becomes "?", which counts as met: an explanation must not blame it.
func parseExpr(text string) *expr {
	p := &exprParser{tokens: tokenize(text)}
	e := p.or()
	if p.pos < len(p.tokens) {
		return &expr{op: "?", name: text}
	}
	return e
}

type exprParser struct {
	tokens []string
	pos    int
}

func (p *exprParser) peek() string {
	if p.pos < len(p.tokens) {
		return p.tokens[p.pos]
	}
	return ""
}

func (p *exprParser) next() string {
	t := p.peek()
	p.pos++
	return t
}

func (p *exprParser) or() *expr {
	e := p.and()
	for p.peek() == "||" {
		p.next()
		e = &expr{op: "||", left: e, right: p.and()}
	}
	return e
}

func (p *exprParser) and() *expr {
	e := p.unary()
	for p.peek() == "&&" {
		p.next()
		e = &expr{op: "&&", left: e, right: p.unary()}
	}
	return e
}

func (p *exprParser) unary() *expr {
	switch t := p.peek(); t {
	case "!":
		p.next()
		return &expr{op: "!", left: p.unary()}
	case "(":
		p.next()
		e := p.or()
		if p.next() != ")" {
			return &expr{op: "?", name: "("}
		}
		return e
	}
	left := atom(p.next())
	switch p.peek() {
	case "=", "!=", "<", ">", "<=", ">=":
		op := p.next()
		return &expr{op: op, left: left, right: atom(p.next())}
	}
	return left
}

func atom(t string) *expr {
	if validSymbol(t) || t != "" && (t[0] == '"' || t[0] == '\'') {
		return &expr{op: "sym", name: t}
	}
	return &expr{op: "?", name: t}
}

func tokenize(s string) []string {
	var out []string
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == ' ' || c == '\t':
			i++
		case strings.HasPrefix(s[i:], "&&"), strings.HasPrefix(s[i:], "||"), strings.HasPrefix(s[i:], "!="),
			strings.HasPrefix(s[i:], "<="), strings.HasPrefix(s[i:], ">="):
			out = append(out, s[i:i+2])
			i += 2
		case strings.IndexByte("!()=<>", c) >= 0:
			out = append(out, s[i:i+1])
			i++
		case c == '"' || c == '\'':
			end := strings.IndexByte(s[i+1:], c)
			if end < 0 {
				return append(out, s[i:])
			}
			out = append(out, s[i:i+end+2])
			i += end + 2
		case c == '$':
			end := macroEnd(s, i)
			out = append(out, s[i:end])
			i = end
		default:
			end := i
			for end < len(s) && strings.IndexByte(" \t!()=<>&|\"'$", s[end]) < 0 {
				end++
			}
			if end == i { // a lone & or |
				end++
			}
			out = append(out, s[i:end])
			i = end
		}
	}
	return out
}

// macroEnd returns the end of $(...) at i, with its nested parentheses.
func macroEnd(s string, i int) int {
	depth := 0
	for j := i; j < len(s); j++ {
		switch s[j] {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return j + 1
			}
		}
	}
	return len(s)
}

// eval computes an expression over a configuration.
func (e *expr) eval(c Config) tri {
	switch e.op {
	case "sym":
		switch e.value(c) {
		case "y":
			return yes
		case "m":
			return mod
		}
		return no
	case "!":
		return yes - e.left.eval(c)
	case "&&":
		return min(e.left.eval(c), e.right.eval(c))
	case "||":
		return max(e.left.eval(c), e.right.eval(c))
	case "=":
		return truth(e.left.value(c) == e.right.value(c))
	case "!=":
		return truth(e.left.value(c) != e.right.value(c))
	}
	return yes // "?" and the comparisons of numbers: not to be blamed
}

func truth(b bool) tri {
	if b {
		return yes
	}
	return no
}

// value is a symbol's value, or a constant's own text.
func (e *expr) value(c Config) string {
	if e.constant() {
		return strings.Trim(e.name, `"'`)
	}
	return strings.Trim(c.Get(e.name), `"`)
}

// constant says whether an atom is a value and not a symbol. A symbol may begin
// with a digit (64BIT), but has a letter.
func (e *expr) constant() bool {
	switch e.name {
	case "", "y", "m", "n":
		return true
	}
	return e.name[0] == '"' || e.name[0] == '\'' || strings.HasPrefix(e.name, "0x") ||
		strings.Trim(e.name, "0123456789") == ""
}

// conjuncts splits at the outermost &&.
func (e *expr) conjuncts() []*expr {
	if e.op != "&&" {
		return []*expr{e}
	}
	return append(e.left.conjuncts(), e.right.conjuncts()...)
}

// symbols returns the symbols of the expression, each once, in their order.
func (e *expr) symbols() []string {
	var out []string
	var walk func(*expr)
	walk = func(x *expr) {
		if x == nil {
			return
		}
		if x.op == "sym" && !x.constant() && !slices.Contains(out, x.name) {
			out = append(out, x.name)
		}
		walk(x.left)
		walk(x.right)
	}
	walk(e)
	return out
}

// String writes the expression in Kconfig's syntax.
func (e *expr) String() string {
	switch e.op {
	case "sym", "?":
		return e.name
	case "!":
		return "!" + e.left.group()
	}
	if e.op == "&&" || e.op == "||" {
		return e.left.groupUnless(e.op) + " " + e.op + " " + e.right.groupUnless(e.op)
	}
	return e.left.String() + e.op + e.right.String()
}

func (e *expr) group() string {
	if e.op == "sym" || e.op == "?" || e.op == "!" {
		return e.String()
	}
	return "(" + e.String() + ")"
}

func (e *expr) groupUnless(op string) string {
	if (e.op == "&&" || e.op == "||") && e.op != op {
		return "(" + e.String() + ")"
	}
	return e.String()
}
