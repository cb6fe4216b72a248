// SPDX-License-Identifier: Apache-2.0

package kfetch

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/kimage"
)

// realFetcher uses the machine's own archive, over the network.
func realFetcher(t *testing.T) *Fetcher {
	t.Helper()
	release, err := os.ReadFile("/etc/os-release")
	if err != nil || !strings.Contains(string(release), "\nID=debian\n") {
		t.Skip("this is not a Debian machine; its archive has no Debian kernels (try: run the tests on Debian)")
	}
	f := New(Config{Cache: openCache(t)})
	if out, _ := exec.Command("apt-cache", "pkgnames", "linux-image-").Output(); !strings.Contains(string(out), "-cloud-") {
		t.Skip("apt has no package lists (try: apt-get update)")
	}
	return f
}

// What this machine's Debian offers has the names that the table expects.
func TestRealVersions(t *testing.T) {
	list, err := realFetcher(t).Versions(ctx, "debian")
	assert.NilError(t, err)
	assert.Assert(t, len(list) > 0)
	for i, v := range list {
		assert.Assert(t, strings.HasSuffix(v.Release, "-cloud-amd64"), v.Release)
		assert.Assert(t, i == 0 || CompareVersions(list[i-1].Version, v.Version) <= 0)
	}
}

// The newest kernel of this Debian, with its signatures, from its archive.
func TestRealFetch(t *testing.T) {
	if os.Getenv("KVMRUN_TEST_FETCH") == "" {
		t.Skip("KVMRUN_TEST_FETCH is not set; this test downloads 40 MB from the Debian archive (try: KVMRUN_TEST_FETCH=1 go test ./internal/kfetch)")
	}
	f := realFetcher(t)
	k, err := f.Fetch(ctx, "debian:6")
	assert.NilError(t, err)
	img, err := kimage.Open(k.Path)
	assert.NilError(t, err)
	info, err := img.Info(ctx, f.cfg.Cache)
	assert.NilError(t, err)
	assert.Equal(t, info.Release, k.Release)
	assert.Equal(t, info.Problem, "")
	rel, err := filepath.Rel(k.Dir, info.ModulesDir)
	assert.NilError(t, err)
	assert.Equal(t, filepath.Base(rel), k.Release)
}
