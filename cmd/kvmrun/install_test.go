// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// TestInstalled: a kvmrun that was installed needs no Go, no module proxy and no
// checkout, whoever runs it from wherever.
func TestInstalled(t *testing.T) {
	t.Parallel()
	k := kernel(t)
	prefix := t.TempDir()
	bin, lib := filepath.Join(prefix, "bin", "kvmrun"), filepath.Join(prefix, "lib", "kvmrun")
	assert.NilError(t, os.MkdirAll(filepath.Dir(lib), 0o755))
	for _, args := range [][]string{{"build", "-o", bin, "."}, {"run", "../../internal/dist", bin, lib}} {
		out, err := exec.Command("go", args...).CombinedOutput()
		assert.NilError(t, err, "%s", out)
	}
	// Everything that a kvmrun of the checkout could have used is out of reach.
	var path []string
	for _, d := range filepath.SplitList(os.Getenv("PATH")) {
		if _, err := os.Stat(filepath.Join(d, "go")); err != nil {
			path = append(path, d)
		}
	}
	home := t.TempDir()
	run := func(args ...string) outcome {
		t.Helper()
		cmd := exec.Command(bin, args...)
		cmd.Dir = t.TempDir()
		cmd.Env = []string{"PATH=" + strings.Join(path, ":"), "HOME=" + home, "GOFLAGS=-mod=mod", "GOPROXY=off", "TMPDIR=" + filepath.Join(shared.dir, "tmp")}
		return finish(t, cmd)
	}
	static := must(t, prog)
	got := run("exec", "-kernel", k, "--", static, "flood", "10")
	assert.Equal(t, got.code, 0, "%s", got.stderr)
	assert.Equal(t, len(got.stdout), 10)
	got = run("exec", "-kernel", k, "--", "sh", "-c", "uname -r")
	assert.Equal(t, got.code, 0, "%s", got.stderr)
	assert.Equal(t, got.stdout, must(t, kernelRelease)+"\n")
	got = run("run", "-kernel", k, "-suite", "ipe", "-short", "-o", "out")
	assert.Equal(t, got.code, 0, "%s%s", got.stdout, got.stderr)
	assert.Check(t, is.Contains(got.stdout, "ipe"))
	got = run("run", "-kernel", k, "-suite", "pie")
	assert.Equal(t, got.code, 2)
	assert.Check(t, is.Contains(got.stderr, `no suite "pie"; there are: ext4, ipe, landlock, pamcap, uffdwp; nearest: ipe`))

	// What belongs to another build is not used, and that is said.
	assert.NilError(t, os.WriteFile(filepath.Join(lib, "build-id"), []byte("another\n"), 0o600))
	got = run("run", "-kernel", k, "-suite", "ipe")
	assert.Equal(t, got.code, 2)
	assert.Check(t, is.Contains(got.stderr, lib+" was made for another build of kvmrun"))
	got = run("exec", "-kernel", k, "-cache", t.TempDir(), "--", "true")
	assert.Equal(t, got.code, 3)
	assert.Check(t, is.Contains(got.stderr, "was made for another build of kvmrun"))
	assert.Check(t, is.Contains(got.stderr, "make install"))
}
