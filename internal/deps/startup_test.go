// SPDX-License-Identifier: Apache-2.0

package deps

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// eager are functions that cost too much to be called before main: all that is
// linked into a test binary starts three times under TCG.
var eager = map[string]bool{
	"regexp.MustCompile": true, "regexp.Compile": true, "regexp.MustCompilePOSIX": true,
	"template.Must": true, "template.New": true,
}

// TestNothingIsCompiledAtStartUp counts the expressions and templates that are
// compiled before main in the programs that run in guests, by the package's
// variables and init functions: there must be none. A function of the package
// itself that compiles what it is given counts like what it calls.
func TestNothingIsCompiledAtStartUp(t *testing.T) {
	// The suites' tests are linked too, and kvmrun is the guest's init for exec. The
	// tests of suites/testmain run on the host.
	args := append([]string{"list", "-deps", "-test", "-f", "{{.ImportPath}}\t{{.Dir}}\t{{range .GoFiles}}{{.}} {{end}}", "./cmd/kvmrun"}, packages(t, "./suites/...")...)
	cmd := exec.Command("go", args...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	assert.NilError(t, err)
	seen, files := map[string]bool{}, 0
	for l := range strings.SplitSeq(strings.TrimSpace(string(out)), "\n") {
		pkg, rest, _ := strings.Cut(l, "\t")
		dir, names, _ := strings.Cut(rest, "\t")
		if !strings.HasPrefix(pkg, module) || seen[dir+names] || strings.HasSuffix(pkg, ".test") || strings.Contains(pkg, "testmain.test]") {
			continue
		}
		seen[dir+names] = true
		files += len(strings.Fields(names))
		for _, found := range compiledEarly(t, dir, strings.Fields(names)) {
			t.Errorf("%s: compiled before main, in every guest: use sync.OnceValue", found)
		}
	}
	assert.Assert(t, len(seen) > 30 && files > 150, "%d packages with %d files were looked at", len(seen), files)
}

// compiledEarly returns the calls of eager functions in a package's variables and
// init functions.
func compiledEarly(t *testing.T, dir string, names []string) (found []string) {
	t.Helper()
	set := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		f, err := parser.ParseFile(set, filepath.Join(dir, name), nil, parser.SkipObjectResolution)
		assert.NilError(t, err)
		files = append(files, f)
	}
	return compiledEarlyIn(set, files)
}

func compiledEarlyIn(set *token.FileSet, files []*ast.File) (found []string) {
	compiles := map[string]bool{} // functions of the package that call an eager one
	calls := func(n ast.Node, hit func(ast.Node)) {
		ast.Inspect(n, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncLit: // runs later, if at all
				return false
			case *ast.CallExpr:
				switch f := n.Fun.(type) {
				case *ast.FuncLit: // runs here
					ast.Inspect(f.Body, func(inner ast.Node) bool {
						if c, ok := inner.(*ast.CallExpr); ok && eager[name(c.Fun)] {
							hit(c)
						}
						return true
					})
				default:
					if eager[name(f)] || compiles[name(f)] {
						hit(n)
					}
				}
			}
			return true
		})
	}
	for again := true; again; {
		again = false
		for _, f := range files {
			for _, d := range f.Decls {
				if d, ok := d.(*ast.FuncDecl); ok && d.Body != nil && d.Recv == nil && !compiles[d.Name.Name] {
					calls(d.Body, func(ast.Node) { again, compiles[d.Name.Name] = true, true })
				}
			}
		}
	}
	for _, f := range files {
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.GenDecl:
				if d.Tok == token.VAR {
					calls(d, func(n ast.Node) { found = append(found, set.Position(n.Pos()).String()) })
				}
			case *ast.FuncDecl:
				if d.Name.Name == "init" && d.Recv == nil {
					calls(d.Body, func(n ast.Node) { found = append(found, set.Position(n.Pos()).String()) })
				}
			}
		}
	}
	return found
}

// name returns what is called, "regexp.MustCompile" or "pattern".
func name(f ast.Expr) string {
	switch f := f.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		if x, ok := f.X.(*ast.Ident); ok {
			return x.Name + "." + f.Sel.Name
		}
	}
	return ""
}

func TestCompiledEarly(t *testing.T) {
	for _, c := range []struct {
		src  string
		want int
	}{
		{`var re = regexp.MustCompile("a")`, 1},
		{`var re = []*regexp.Regexp{regexp.MustCompile("a"), regexp.MustCompile("b")}`, 2},
		{`var re = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile("a") })`, 0},
		{`var re = func() *regexp.Regexp { return regexp.MustCompile("a") }()`, 1},
		{`func must(s string) *regexp.Regexp { return regexp.MustCompile(s) }; var re = must("a")`, 1},
		{`func a(s string) any { return b(s) }; func b(s string) any { return regexp.MustCompile(s) }; var re = a("a")`, 1},
		{`func later(s string) func() any { return func() any { return regexp.MustCompile(s) } }; var re = later("a")`, 0},
		{`func use() { regexp.MustCompile("a") }`, 0},
		{`func init() { regexp.MustCompile("a") }`, 1},
	} {
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, "x.go", "package p\n"+c.src, parser.SkipObjectResolution)
		assert.NilError(t, err)
		got := compiledEarlyIn(set, []*ast.File{f})
		assert.Check(t, len(got) == c.want, "%s: %v", c.src, got)
	}
}
