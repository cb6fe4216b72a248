// SPDX-License-Identifier: Apache-2.0

package machine_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/machine"
)

// TestOpenKernelHoldsIt: another command that bounds the cache takes no kernel
// away from one that may boot it again.
func TestOpenKernelHoldsIt(t *testing.T) {
	t.Parallel()
	c, err := cache.OpenUser(t.TempDir(), nil)
	assert.NilError(t, err)
	m := machine.Host{Cache: c}
	ctx := context.Background()
	dirs := map[string]string{}
	for _, key := range []string{"used", "unused"} {
		dirs[key], _, err = m.Cache.Get(ctx, "kernel", key, func(_ context.Context, tmp string) error {
			return os.WriteFile(filepath.Join(tmp, "vmlinux"), []byte("no kernel"), 0o600)
		})
		assert.NilError(t, err)
	}
	for range 2 {
		_, err = m.OpenKernel(ctx, filepath.Join(dirs["used"], "vmlinux"), "", "")
		assert.ErrorContains(t, err, "vmlinux") // it is none
	}
	_, err = m.Cache.Prune(0, 0)
	assert.NilError(t, err)
	_, err = os.Stat(dirs["used"])
	assert.NilError(t, err)
	_, err = os.Stat(dirs["unused"])
	assert.ErrorIs(t, err, os.ErrNotExist)
}
