// SPDX-License-Identifier: Apache-2.0

package testmain_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// TestGoTestKeepsNoResult: what the go command keeps of a package's tests is not
// shown for another kernel, environment or content of a file. The arguments are
// those with which go test keeps results.
func TestGoTestKeepsNoResult(t *testing.T) {
	// Each step says what go test must not answer from its cache; the first is a
	// run without a kernel, which the cache would offer to all others.
	junk := filepath.Join(t.TempDir(), "bzImage")
	write := func(text string) {
		assert.NilError(t, os.WriteFile(junk, []byte(text), 0o600))
	}
	write("not a kernel")
	none := func() outcome { return goTest(t, nil, sample, "-run", "TestPass") }
	missing := func() outcome {
		return goTest(t, []string{"KVMRUN_KERNEL=/nonexistent"}, sample, "-run", "TestPass")
	}
	broken := func() outcome {
		return goTest(t, []string{"KVMRUN_KERNEL=" + junk}, sample, "-run", "TestPass")
	}
	nothing := func(got outcome) {
		t.Helper()
		assert.Check(t, is.Equal(got.code, 0), "%s%s", got.stdout, got.stderr)
		assert.Check(t, is.Contains(got.stdout, "[no tests to run]"))
		assert.Check(t, !strings.Contains(got.stdout, "(cached)"), "%s", got.stdout)
	}
	refused := func(got outcome, why string) {
		t.Helper()
		assert.Check(t, is.Equal(got.code, 1), "%s%s", got.stdout, got.stderr)
		assert.Check(t, is.Contains(got.stdout+got.stderr, why))
	}
	nothing(none())
	nothing(none())
	refused(missing(), "/nonexistent")
	refused(broken(), junk)
	nothing(none())
	refused(goTest(t, nil, sample, "-run", "TestPass", "-kernel", "/nonexistent"), "/nonexistent")

	kernel := os.Getenv("KVMRUN_KERNEL")
	if kernel == "" {
		t.Log("the orders with a real kernel were left out: KVMRUN_KERNEL is not set; name a kernel, as make test does")
		return
	}
	passed := func(env ...string) {
		t.Helper()
		got := goTest(t, env, sample, "-run", "TestPass")
		assert.Check(t, is.Equal(got.code, 0), "%s%s", got.stdout, got.stderr)
		assert.Check(t, is.Contains(got.stdout, "ok "))
		assert.Check(t, !strings.Contains(got.stdout, "(cached)"), "%s", got.stdout)
		assert.Check(t, !strings.Contains(got.stdout, "[no tests to run]"), "%s", got.stdout)
	}
	// A kernel that is changed in place, at the same path, is not the one that
	// passed.
	image, err := os.ReadFile(kernel)
	assert.NilError(t, err)
	write(string(image))
	passed("KVMRUN_KERNEL=" + junk)
	write("not a kernel any more")
	refused(broken(), junk)
	nothing(none())
	// Another cache directory, with no kernels and VMs in it.
	passed("KVMRUN_KERNEL=" + kernel)
	passed("KVMRUN_KERNEL="+kernel, "XDG_CACHE_HOME="+t.TempDir(), "GOCACHE="+goEnv(t, "GOCACHE"))
	passed("KVMRUN_KERNEL=" + kernel)
	refused(missing(), "/nonexistent")
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	assert.NilError(t, err)
	return strings.TrimSpace(string(out))
}
