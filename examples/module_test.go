// SPDX-License-Identifier: Apache-2.0

package examples

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
)

// inModule runs a command in the example module, as a user would.
func inModule(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = "module"
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
	out, err := cmd.CombinedOutput()
	assert.NilError(t, err, "%s %s (where go.mod is not up to date: go mod tidy in examples/module):\n%s", name, strings.Join(args, " "), out)
	return string(out)
}

// TestModuleIsSound: it compiles against the public packages alone.
func TestModuleIsSound(t *testing.T) {
	inModule(t, "go", "vet", "./...")
	for dep := range strings.FieldsSeq(inModule(t, "go", "list", "-f", `{{join .Imports "\n"}}{{"\n"}}{{join .TestImports "\n"}}`, "./...")) {
		assert.Check(t, !strings.Contains(dep, "kvmrun/internal/"), dep)
	}
	out := inModule(t, "gofmt", "-l", ".")
	assert.Check(t, cmp.Equal(out, ""))
	// Without a kernel nothing fails, and nothing looks like a pass.
	t.Setenv("KVMRUN_KERNEL", "")
	out = inModule(t, "go", "test", "-v", "./...")
	assert.Check(t, cmp.Contains(out, "--- SKIP: TestTalk"))
	assert.Check(t, cmp.Contains(out, "no kernel given, nothing tested"))
}

// TestModuleRuns runs its tests with a kernel: the one that boots a machine itself,
// and the suite.
func TestModuleRuns(t *testing.T) {
	if os.Getenv("KVMRUN_KERNEL") == "" {
		t.Skip("needs a kernel: set KVMRUN_KERNEL to the path of a vmlinuz (make test does)")
	}
	out := inModule(t, "go", "test", "-count=1", "-v", "./...")
	for _, want := range []string{"--- PASS: TestTalk", "--- PASS: TestEnd", "--- PASS: TestOtherUser", "--- PASS: TestReadOnly", "--- PASS: TestHole"} {
		assert.Check(t, cmp.Contains(out, want))
	}
	out = inModule(t, "go", "test", "./tmpfs", "-kernel", os.Getenv("KVMRUN_KERNEL"), "-run", "TestReadOnly")
	assert.Check(t, cmp.Contains(out, "ok"))
	assert.Check(t, !strings.Contains(out, "no tests to run"), out)
}

// TestFifteenLines: booting a kernel and talking to a program in it stays short.
func TestFifteenLines(t *testing.T) {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, "module/boot_test.go", nil, 0)
	assert.NilError(t, err)
	for _, d := range f.Decls {
		if d, ok := d.(*ast.FuncDecl); ok && d.Name.Name == "TestTalk" {
			lines := set.Position(d.End()).Line - set.Position(d.Pos()).Line + 1
			assert.Assert(t, lines <= 15, "%d lines", lines)
			return
		}
	}
	t.Fatal("no TestTalk")
}
