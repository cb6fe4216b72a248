// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// TestAppend: parameters reach the kernel in each way to run a test, replays
// included, and whatever a VM has of kvmrun's own cannot be given another value, but
// for the patience of the kernel's watchdogs.
func TestAppend(t *testing.T) {
	t.Parallel()
	binary := must(t, sample)
	got := finish(t, command(t, "exec", "-kernel", kernel(t), "-append", "x.y=1 z", "--", "cat", "/proc/cmdline"))
	assert.Equal(t, got.code, 0, "%s%s", got.stdout, got.stderr)
	line := strings.TrimSpace(got.stdout)
	assert.Check(t, is.Contains(line, " x.y=1 z "))
	patience := []string{"watchdog_thresh", "rcupdate.rcu_cpu_stall_timeout", "workqueue.watchdog_thresh"}
	for _, param := range strings.Fields(line) {
		name, _, _ := strings.Cut(param, "=")
		if slices.Contains(patience, name) || param == "x.y=1" || param == "z" {
			continue
		}
		refused := finish(t, command(t, "exec", "-kernel", kernel(t), "-append", name+"=0", "--", "true"))
		assert.Check(t, is.Equal(refused.code, 2), "%s: %s", name, refused.stderr)
		assert.Check(t, is.Contains(refused.stderr, "-append: "+name+"=0: "))
	}

	// go test's own front end, and its test again.
	dir := t.TempDir()
	test := exec.Command(binary, "-kernel", kernel(t), "-append", "x.y=1 z", "-test.run", "^TestZFail$", "-logs", "logs")
	test.Dir = dir
	test.Env = command(t).Env
	got = finish(t, test)
	assert.Equal(t, got.code, 1, "%s%s", got.stdout, got.stderr)
	assert.Check(t, is.Contains(got.stdout+got.stderr, "-append='x.y=1 z'"))
	again := command(t, "replay", "-o", filepath.Join(dir, "again"), filepath.Join(dir, "logs"), "TestZFail")
	got = finish(t, again)
	assert.Equal(t, got.code, 1, "%s%s", got.stdout, got.stderr)
	for _, d := range []string{"logs", "again"} {
		text, err := os.ReadFile(filepath.Join(dir, d, "console.log"))
		assert.NilError(t, err)
		assert.Check(t, is.Contains(string(text), " x.y=1 z "), "%s", d)
	}
}
