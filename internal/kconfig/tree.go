// SPDX-License-Identifier: Apache-2.0

package kconfig

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// maxFiles bounds how many Kconfig files are read; 6.12 has about 1500. A tree
// whose files source each other in a circle ends here.
const maxFiles = 20000

// Tree is what the Kconfig files of a kernel tree say about dependencies
// (Documentation/kbuild/kconfig-language.rst). It is read-only once made.
type Tree struct {
	symbols map[string][]*definition
	// selects and implies: target to who forces it.
	selects map[string][]reverse
}

// definition is one "config X" block. A symbol may have several.
type definition struct {
	file    string
	line    int
	depends []condition // own and of every enclosing if, menu and choice
	// prompt is the text shown to a user, "" for a symbol nobody can set.
	prompt   string
	promptIf *expr
	choice   *choice
}

type condition struct {
	text string
	e    *expr
	file string
	line int
}

type reverse struct {
	by   string
	cond *expr
}

type choice struct {
	members []string
}

// ReadTree reads the Kconfig file at the root of a kernel tree and everything
// it sources. srcarch is the name of the directory below arch/ ("x86").
// Missing sourced files are ignored: some are made by the build.
func ReadTree(tree fs.FS, srcarch string) (*Tree, error) {
	r := &reader{
		fsys: tree,
		vars: map[string]string{"SRCARCH": srcarch, "HEADER_ARCH": srcarch},
		tree: &Tree{symbols: map[string][]*definition{}, selects: map[string][]reverse{}},
	}
	text, err := fs.ReadFile(tree, "Kconfig")
	if err != nil {
		return nil, fmt.Errorf("read kernel tree: %w", err)
	}
	r.file("Kconfig", string(text))
	return r.tree, nil
}

// Known says whether the tree has the symbol.
func (t *Tree) Known(symbol string) bool { return len(t.symbols[symbol]) > 0 }

// Settable says whether a user can set the symbol: it has a prompt. What has none
// follows from others.
func (t *Tree) Settable(symbol string) bool {
	for _, d := range t.symbols[symbol] {
		if d.prompt != "" {
			return true
		}
	}
	return false
}

// DependsOn returns the symbols that the symbol's dependencies mention, sorted.
func (t *Tree) DependsOn(symbol string) []string {
	var out []string
	for _, d := range t.symbols[symbol] {
		for _, c := range d.depends {
			if c.e != nil {
				out = append(out, c.e.symbols()...)
			}
		}
		if d.choice != nil {
			out = append(out, d.choice.members...)
		}
	}
	slices.Sort(out)
	return slices.DeleteFunc(slices.Compact(out), func(s string) bool { return s == symbol })
}

// SelectedBy returns the symbols that force the symbol on, sorted.
func (t *Tree) SelectedBy(symbol string) []string {
	var out []string
	for _, r := range t.selects[symbol] {
		out = append(out, r.by)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// reader walks the files.
type reader struct {
	fsys  fs.FS
	vars  map[string]string
	tree  *Tree
	files int
	// scopes are the enclosing if, menu and choice blocks.
	scopes []*scope
	cur    *definition // the block being read, nil between blocks
	curSym string
}

type scope struct {
	kind    string // if, menu, choice
	depends []condition
	choice  *choice
}

func (r *reader) source(name string) {
	name = r.expand(strings.Trim(name, `"`))
	names := []string{name}
	if strings.ContainsAny(name, "*?[") {
		names, _ = fs.Glob(r.fsys, name)
	}
	for _, n := range names {
		if text, err := fs.ReadFile(r.fsys, path.Clean(n)); err == nil {
			r.file(n, string(text))
		}
	}
}

// expand replaces $(NAME) by what is known; the rest stays.
func (r *reader) expand(s string) string {
	for name, v := range r.vars {
		s = strings.ReplaceAll(s, "$("+name+")", v)
		s = strings.ReplaceAll(s, "$"+name, v)
	}
	return s
}

func (r *reader) file(name, text string) {
	if r.files++; r.files > maxFiles {
		return
	}
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		at := i + 1
		line := lines[i]
		for strings.HasSuffix(line, "\\") && i+1 < len(lines) {
			i++
			line = strings.TrimSuffix(line, "\\") + " " + lines[i]
		}
		line = strings.TrimSpace(stripComment(line))
		if line == "" {
			continue
		}
		word, rest, _ := strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
		rest = strings.TrimSpace(rest)
		if word == "help" || word == "---help---" {
			i = skipHelp(lines, i)
			continue
		}
		r.statement(name, at, word, rest)
	}
	r.cur = nil
}

// skipHelp returns the index of the last line of a help text: it ends before
// the first line that is indented less than its own first line.
func skipHelp(lines []string, i int) int {
	indent := -1
	for ; i+1 < len(lines); i++ {
		next := lines[i+1]
		if strings.TrimSpace(next) == "" {
			continue
		}
		n := indentation(next)
		if indent < 0 {
			indent = n
		}
		if n < indent || n == 0 {
			return i
		}
	}
	return i
}

func indentation(s string) int {
	n := 0
	for _, c := range s {
		switch c {
		case ' ':
			n++
		case '\t':
			n += 8 - n%8
		default:
			return n
		}
	}
	return n
}

func stripComment(s string) string {
	quote := byte(0)
	for i := range len(s) {
		switch c := s[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '#':
			return s[:i]
		}
	}
	return s
}

func (r *reader) statement(file string, line int, word, rest string) {
	switch word {
	case "source", "rsource", "osource", "orsource":
		if strings.Contains(word, "rs") {
			rest = path.Join(path.Dir(file), strings.Trim(rest, `"`))
		}
		r.cur = nil
		r.source(rest)
	case "config", "menuconfig":
		r.define(file, line, rest)
	case "if":
		r.cur = nil
		r.scopes = append(r.scopes, &scope{kind: word, depends: []condition{r.cond(file, line, rest)}})
	case "menu":
		r.cur = nil
		r.scopes = append(r.scopes, &scope{kind: word})
	case "choice":
		r.cur = nil
		r.scopes = append(r.scopes, &scope{kind: word, choice: &choice{}})
	case "endif", "endmenu", "endchoice":
		r.cur = nil
		if n := len(r.scopes); n > 0 {
			r.scopes = r.scopes[:n-1]
		}
	case "comment", "mainmenu":
		r.cur = &definition{} // takes the attributes and is forgotten
		r.curSym = ""
	case "depends":
		c := r.cond(file, line, strings.TrimSpace(strings.TrimPrefix(rest, "on ")))
		switch {
		case r.cur != nil:
			r.cur.depends = append(r.cur.depends, c)
		case len(r.scopes) > 0:
			s := r.scopes[len(r.scopes)-1]
			s.depends = append(s.depends, c)
		}
	case "bool", "tristate", "string", "int", "hex", "prompt":
		if r.cur != nil && strings.HasPrefix(rest, `"`) {
			r.prompt(rest)
		}
	case "select", "imply":
		if word == "select" && r.curSym != "" {
			target, cond, _ := strings.Cut(rest, " if ")
			rev := reverse{by: r.curSym}
			if cond != "" {
				rev.cond = parseExpr(r.expand(cond))
			}
			target = strings.TrimSpace(target)
			r.tree.selects[target] = append(r.tree.selects[target], rev)
		}
	}
}

func (r *reader) cond(file string, line int, text string) condition {
	return condition{text: strings.Join(strings.Fields(text), " "), e: parseExpr(r.expand(text)), file: file, line: line}
}

func (r *reader) define(file string, line int, symbol string) {
	d := &definition{file: file, line: line}
	for _, s := range r.scopes {
		d.depends = append(d.depends, s.depends...)
		if s.choice != nil {
			d.choice = s.choice
			s.choice.members = append(s.choice.members, symbol)
		}
	}
	r.tree.symbols[symbol] = append(r.tree.symbols[symbol], d)
	r.cur, r.curSym = d, symbol
}

// prompt reads `"text" [if cond]`.
func (r *reader) prompt(rest string) {
	end := strings.Index(rest[1:], `"`)
	if end < 0 {
		return
	}
	r.cur.prompt = rest[1 : end+1]
	if cond, ok := strings.CutPrefix(strings.TrimSpace(rest[end+2:]), "if "); ok {
		r.cur.promptIf = parseExpr(r.expand(cond))
	}
}

// Explain tells why symbol does not have the value want in a configuration: the
// unmet dependencies where it is missing, the symbols that select it where it
// is in the way. The answer is empty when the Kconfig files do not tell.
func (t *Tree) Explain(symbol, want string, c Config) []string {
	defs := t.symbols[symbol]
	if len(defs) == 0 {
		if near := t.near(symbol); near != "" {
			return []string{fmt.Sprintf("no Kconfig file of this tree defines %s; is %s meant?", symbol, near)}
		}
		return []string{fmt.Sprintf("no Kconfig file of this tree defines %s", symbol)}
	}
	if want == No || want == "m" && c.Get(symbol) == "y" {
		return t.explainForced(symbol, defs, c)
	}
	var out []string
	for _, d := range defs {
		out = append(out, t.explainUnmet(symbol, d, c)...)
	}
	return slices.Compact(out)
}

func (t *Tree) explainForced(symbol string, defs []*definition, c Config) []string {
	var out []string
	for _, rev := range t.selects[symbol] {
		if v := c.Get(rev.by); v != No && (rev.cond == nil || rev.cond.eval(c) != no) {
			out = append(out, fmt.Sprintf("selected by %s=%s", rev.by, v))
		}
	}
	visible := false
	for _, d := range defs {
		visible = visible || d.prompt != "" && (d.promptIf == nil || d.promptIf.eval(c) != no)
	}
	if len(out) == 0 && !visible {
		d := defs[0]
		out = append(out, fmt.Sprintf("%s:%d: it cannot be set by hand and has a default", d.file, d.line))
	}
	return out
}

func (t *Tree) explainUnmet(symbol string, d *definition, c Config) []string {
	var out []string
	for _, dep := range d.depends {
		for _, part := range dep.e.conjuncts() {
			if part.eval(c) != no {
				continue
			}
			out = append(out, fmt.Sprintf("%s:%d: needs %s, where %s", dep.file, dep.line, part, t.values(part, c)))
		}
	}
	if len(out) > 0 {
		return out
	}
	switch {
	case d.prompt == "":
		var by []string
		for _, rev := range t.selects[symbol] {
			by = append(by, rev.by)
		}
		slices.Sort(by)
		by = slices.Compact(by)
		if len(by) > 6 {
			by = append(by[:6], "...")
		}
		if len(by) > 0 {
			return []string{fmt.Sprintf("%s:%d: it cannot be set by hand, only be selected by one of %s", d.file, d.line, strings.Join(by, ", "))}
		}
		return []string{fmt.Sprintf("%s:%d: it cannot be set by hand", d.file, d.line)}
	case d.promptIf != nil && d.promptIf.eval(c) == no:
		return []string{fmt.Sprintf("%s:%d: it can only be set if %s, where %s", d.file, d.line, d.promptIf, t.values(d.promptIf, c))}
	case d.choice != nil:
		for _, m := range d.choice.members {
			if m != symbol && c.Get(m) == "y" {
				return []string{fmt.Sprintf("%s:%d: it is one of a choice, and %s was chosen", d.file, d.line, m)}
			}
		}
	}
	return nil
}

// values names the symbols of an expression with the values they have, and for
// those that are off in the way, who holds them there.
func (t *Tree) values(e *expr, c Config) string {
	var out []string
	for _, s := range e.symbols() {
		v := c.Get(s)
		text := s + "=" + v
		if !t.Known(s) {
			text = s + " is unknown to this tree"
		}
		out = append(out, text)
	}
	if len(out) == 0 {
		return "it is constant"
	}
	return strings.Join(out, ", ")
}

// near finds a known symbol that differs by at most two characters.
func (t *Tree) near(symbol string) string {
	best, dist := "", 3
	for _, s := range slices.Sorted(maps.Keys(t.symbols)) {
		if d := distance(symbol, s, dist); d < dist {
			best, dist = s, d
		}
	}
	return best
}

// distance is the edit distance of two names, or limit when it is not smaller.
func distance(a, b string, limit int) int {
	if max(len(a), len(b))-min(len(a), len(b)) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return min(row[len(b)], limit)
}
