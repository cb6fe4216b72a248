// SPDX-License-Identifier: Apache-2.0

package kimage

import (
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// realKernel is the kernel given by the user of the tests: a bzImage with
// config-* beside it and ../lib/modules/<release>.
func realKernel(t testing.TB) string {
	t.Helper()
	path := os.Getenv("KVMRUN_KERNEL")
	if path == "" {
		t.Skip("KVMRUN_KERNEL is not set to a vmlinuz (try: make test)")
	}
	return path
}

func TestRealKernel(t *testing.T) {
	path := realKernel(t)
	img := mustOpen(t, path)
	assert.Equal(t, img.Format, BzImage)
	release, ok := strings.CutPrefix(filepath.Base(path), "vmlinuz-")
	if !ok {
		t.Skipf("KVMRUN_KERNEL %s is not named vmlinuz-<release> (try: make test)", path)
	}
	c := openCache(t)
	info, err := img.Info(ctx, c)
	assert.NilError(t, err)
	assert.Equal(t, info.Problem, "")
	assert.Equal(t, info.Release, release)
	assert.Assert(t, is.Contains(info.Version, "Linux version "+release+" "))
	assert.Assert(t, is.Contains(info.Version, " #1 "))
	assert.Assert(t, is.Contains(info.Compiler, "gcc"))
	assert.Assert(t, info.PVH)
	assert.Equal(t, len(info.BuildID), 40)
	assert.Equal(t, filepath.Base(info.ModulesDir), release)
	assert.Equal(t, filepath.Base(info.Config), "config-"+release)

	cfg, err := img.Config(ctx, c)
	assert.NilError(t, err)
	assert.Equal(t, cfg.Value("PVH"), "y")
	assert.Equal(t, cfg.Value("KERNEL_"+strings.ToUpper(string(img.Compression))), "y")

	// What was extracted is an ELF file with all of its segments, and itself
	// a kernel with the same details.
	vmlinux, err := img.Vmlinux(ctx, c)
	assert.NilError(t, err)
	f, err := elf.Open(vmlinux)
	assert.NilError(t, err)
	defer f.Close()
	assert.Equal(t, f.Machine, elf.EM_X86_64)
	inner := mustOpen(t, vmlinux)
	assert.Equal(t, inner.Format, Vmlinux)
	d, err := inner.Details(ctx, c)
	assert.NilError(t, err)
	assert.Equal(t, d.BuildID, info.BuildID)
	assert.Equal(t, d.PVHEntry, info.PVHEntry)
}

// BenchmarkWarm is what every run pays: a kernel that is in the cache already.
func BenchmarkWarm(b *testing.B) {
	path := realKernel(b)
	c := openCache(b)
	_, err := mustOpen(b, path).Vmlinux(ctx, c)
	assert.NilError(b, err)
	for b.Loop() {
		img := mustOpen(b, path)
		if _, err := img.Vmlinux(ctx, c); err != nil {
			b.Fatal(err)
		}
		if _, err := img.Config(ctx, c); err != nil {
			b.Fatal(err)
		}
		if _, err := img.ModulesDir(ctx, c, ""); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCold is what the first run of a kernel pays.
func BenchmarkCold(b *testing.B) {
	path := realKernel(b)
	for b.Loop() {
		if _, err := mustOpen(b, path).Vmlinux(ctx, openCache(b)); err != nil {
			b.Fatal(err)
		}
	}
}
