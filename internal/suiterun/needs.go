// SPDX-License-Identifier: Apache-2.0

package suiterun

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// TestsNeeding reads a suite's source and returns, for each of the options
// (without CONFIG_), the top-level tests that a kernel without it would skip, in
// whole or in part: those whose code, as far as it can be reached by name, has
// the option as a string, the way kit.NeedKconfig takes it, in any case. What a switch does
// for some value counts for those who name the value. A suite whose source is
// not there, such as a test binary, is an error that wraps fs.ErrNotExist.
func (s Source) TestsNeeding(suite string, options []string) (map[string][]string, error) {
	kit := filepath.Join(s.Dir, "suites", "kit")
	dirs := []string{filepath.Join(s.Dir, "suites", suite), kit}
	parts, _ := filepath.Glob(filepath.Join(kit, "*", "doc.go")) // fault and others
	for _, p := range parts {
		dirs = append(dirs, filepath.Dir(p))
	}
	g := sourceGraph{uses: map[string][]string{}, literals: map[string][]string{}}
	for i, dir := range dirs {
		if err := g.add(dir, i == 0); err != nil {
			return nil, fmt.Errorf("read what the tests of suite %s need: %w", suite, err)
		}
	}
	want := map[string]string{}
	for _, o := range options {
		want[strings.TrimSuffix(o, "=y")] = o
	}
	out := map[string][]string{}
	for _, test := range g.tests {
		for literal := range g.reach(test) {
			literal = strings.ToUpper(strings.TrimSuffix(literal, "=y"))
			if o, ok := want[literal]; ok && !contains(out[o], test) {
				out[o] = append(out[o], test)
			}
		}
	}
	return out, nil
}

// sourceGraph is what a few packages' declarations say, by bare name: two
// things of one name are one. That can only find too much.
type sourceGraph struct {
	tests    []string // in order of their names
	uses     map[string][]string
	literals map[string][]string
}

func (g *sourceGraph) add(dir string, suite bool) error {
	pkgs, err := parser.ParseDir(token.NewFileSet(), dir, func(i fs.FileInfo) bool { //nolint:staticcheck // build tags do not matter here
		return suite || !strings.HasSuffix(i.Name(), "_test.go")
	}, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, pkg := range pkgs {
		for _, file := range pkg.Files {
			for _, d := range file.Decls {
				g.declare(d, suite)
			}
		}
	}
	sort.Strings(g.tests)
	return nil
}

func (g *sourceGraph) declare(d ast.Decl, suite bool) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		name := d.Name.Name
		if suite && d.Recv == nil && strings.HasPrefix(name, "Test") && name != "TestMain" {
			g.tests = append(g.tests, name)
		}
		g.note(name, d)
	case *ast.GenDecl:
		for _, s := range d.Specs {
			v, ok := s.(*ast.ValueSpec)
			if !ok {
				continue // imports and types run nothing
			}
			for i, n := range v.Names {
				if i < len(v.Values) {
					g.note(n.Name, v.Values[i])
				}
			}
		}
	}
}

// note records what is below a declaration.
func (g *sourceGraph) note(name string, n ast.Node) {
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CaseClause:
			// What is done for a value concerns who names the value.
			for _, e := range n.List {
				if sel, ok := e.(*ast.SelectorExpr); ok {
					e = sel.Sel
				}
				if id, ok := e.(*ast.Ident); ok {
					for _, s := range n.Body {
						g.note(id.Name, s)
					}
				}
			}
			return false
		case *ast.Ident:
			g.uses[name] = append(g.uses[name], n.Name)
		case *ast.BasicLit:
			if v, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
				g.literals[name] = append(g.literals[name], v)
			}
		}
		return true
	})
}

// reach returns the literals in everything that can be reached from a name.
func (g *sourceGraph) reach(name string) map[string]bool {
	found := map[string]bool{}
	seen := map[string]bool{name: true}
	for todo := []string{name}; len(todo) > 0; {
		n := todo[0]
		todo = todo[1:]
		for _, l := range g.literals[n] {
			found[l] = true
		}
		for _, u := range g.uses[n] {
			// The Spec lists everything and needs nothing.
			if !seen[u] && u != "Spec" {
				seen[u] = true
				todo = append(todo, u)
			}
		}
	}
	return found
}
