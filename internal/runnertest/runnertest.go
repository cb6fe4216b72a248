// SPDX-License-Identifier: Apache-2.0

// Package runnertest has what tests that run real VMs share. It is for tests only, and
// must not know what any of them is about.
package runnertest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/runner"
)

// Kernel opens the kernel that the environment names, and skips the test without one.
func Kernel(tb testing.TB, h *machine.Host) *machine.Kernel {
	tb.Helper()
	path := os.Getenv("KVMRUN_KERNEL")
	if path == "" {
		tb.Skip("KVMRUN_KERNEL is not set: name a kernel, as make test and make bench do")
	}
	k, err := h.OpenKernel(context.Background(), path, "", "")
	assert.NilError(tb, err)
	return k
}

// LogDir is a directory for a test's logs, which stays when the test fails.
func LogDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "kvmrun-test-")
	assert.NilError(tb, err)
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("the logs are kept in %s", dir)
			return
		}
		assert.Check(tb, os.RemoveAll(dir))
	})
	return dir
}

// Build runs the go command with args, whose last is a package, and returns the
// static binary that it makes.
func Build(tb testing.TB, args ...string) string {
	tb.Helper()
	bin := filepath.Join(tb.TempDir(), "out")
	cmd := exec.Command("go", append(args[:len(args)-1:len(args)-1], "-o", bin, args[len(args)-1])...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	assert.NilError(tb, err, "%s", out)
	return bin
}

// DebugKernel opens a kernel with fault injection, with a cache of its own, and skips
// the test without one.
func DebugKernel(t *testing.T) (*runner.Machine, *machine.Kernel) {
	t.Helper()
	path := os.Getenv("KVMRUN_DEBUG_KERNEL")
	if path == "" {
		t.Skip("KVMRUN_DEBUG_KERNEL is not set: name the vmlinux that `kvmrun kernel build -src debian:6.12 -profile kasan` makes")
	}
	c, err := cache.Open(filepath.Join(t.TempDir(), "cache"))
	assert.NilError(t, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	k, err := m.OpenKernel(t.Context(), path, "", "")
	assert.NilError(t, err)
	return m, k
}
