// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/kimage"
)

// The cache of this test process, removed at its end.
var (
	cacheDir  string
	cacheOnce sync.Once
)

// TestMain lets the test binary be three things: a guest's init, a program that
// the agent under test starts, and the tests.
func TestMain(m *testing.M) {
	if IsInit() {
		if os.Getenv(ownEnv) != "" { // a kernel parameter
			RunAsInit(own)
		}
		Main()
	}
	if name := os.Getenv(helperEnv); name != "" {
		os.Exit(helper(name, os.Args[1:]))
	}
	code := m.Run()
	if cacheDir != "" {
		if err := os.RemoveAll(cacheDir); err != nil {
			fmt.Fprintln(os.Stderr, "remove cache:", err)
			code = 1
		}
	}
	os.Exit(code)
}

func openCache(t testing.TB) *cache.Cache {
	t.Helper()
	cacheOnce.Do(func() {
		var err error
		cacheDir, err = os.MkdirTemp("", "kvmrun-guest-test-")
		assert.NilError(t, err)
	})
	c, err := cache.Open(cacheDir)
	assert.NilError(t, err)
	return c
}

// kernel returns the kernel for tests with a real machine, extracted: that
// boots faster.
func kernel(t testing.TB) string {
	t.Helper()
	k := os.Getenv("KVMRUN_KERNEL")
	if k == "" {
		t.Skip("needs a kernel: set KVMRUN_KERNEL to the path of a vmlinuz (make test does)")
	}
	img, err := kimage.Open(k)
	assert.NilError(t, err)
	d, err := img.Details(context.Background(), openCache(t))
	assert.NilError(t, err)
	if d.PVH() && d.VmlinuxPath != "" {
		return d.VmlinuxPath
	}
	return k
}
