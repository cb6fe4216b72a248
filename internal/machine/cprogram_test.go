// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/shipped"
	"github.com/kvmrun/kvmrun/suites"
)

// TestCompileC: a program runs, is compiled once, and what is wrong is said with
// the cure.
func TestCompileC(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	m := &Host{Cache: c}
	good := suites.CProgram{Source: "int main(void) { return CODE; }", Flags: []string{"-DCODE=7"}, Guest: "/x/prog"}
	path, err := m.CompileC(t.Context(), good)
	assert.NilError(t, err)
	err = exec.Command(path).Run()
	assert.ErrorContains(t, err, "exit status 7")
	before, err := os.Stat(path)
	assert.NilError(t, err)
	again, err := m.CompileC(t.Context(), good)
	assert.NilError(t, err)
	after, err := os.Stat(again)
	assert.NilError(t, err)
	assert.Check(t, os.SameFile(before, after), "compiled again")

	_, err = m.CompileC(t.Context(), suites.CProgram{Source: "int main(void) { return nothing; }", Guest: "/x/prog"})
	assert.Check(t, cmp.ErrorContains(err, "compile the suite's C program prog"))
	assert.Check(t, cmp.ErrorContains(err, "nothing"))
	_, err = m.CompileC(t.Context(), suites.CProgram{Source: "int x;", Guest: "/x/prog", Needs: []suites.HostNeed{{Files: []string{"/nosuch/*.h"}, Package: "nosuch-dev"}}})
	assert.Check(t, cmp.ErrorContains(err, "this host lacks /nosuch/*.h; install it with: apt-get install nosuch-dev"))
}

// TestCompileCInstalled: what was installed with this very program needs no compiler.
func TestCompileCInstalled(t *testing.T) {
	exe, err := os.Executable()
	assert.NilError(t, err)
	id, err := shipped.BuildID(exe)
	assert.NilError(t, err)
	c := suites.CProgram{Source: "not C", Guest: "/x/prog"}
	dir := exe + ".d"
	t.Cleanup(func() { assert.NilError(t, os.RemoveAll(dir)) })
	installed := filepath.Join(dir, shipped.C, c.Key())
	assert.NilError(t, os.MkdirAll(filepath.Dir(installed), 0o755))
	assert.NilError(t, os.WriteFile(installed, nil, 0o755))
	ca, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	h := &Host{Cache: ca}

	assert.NilError(t, os.WriteFile(filepath.Join(dir, shipped.Stamp), []byte(id+"\n"), 0o644))
	path, err := h.CompileC(t.Context(), c)
	assert.NilError(t, err)
	assert.Equal(t, path, installed)

	assert.NilError(t, os.WriteFile(filepath.Join(dir, shipped.Stamp), []byte("another\n"), 0o644))
	_, err = h.CompileC(t.Context(), c)
	assert.ErrorContains(t, err, "compile the suite's C program prog")
}
