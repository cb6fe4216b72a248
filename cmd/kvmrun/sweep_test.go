// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// TestSweepOfKernelSelftests sweeps what knows nothing of faults: the kernel's
// own tests of landlock. It takes some minutes.
func TestSweepOfKernelSelftests(t *testing.T) {
	k := os.Getenv("KVMRUN_DEBUG_KERNEL")
	if k == "" {
		t.Skip("KVMRUN_DEBUG_KERNEL is not set: name the vmlinux that `kvmrun kernel build -src debian:6.12 -profile kasan` makes")
	}
	dir := t.TempDir()
	cmd := command(t, "sweep", "-kernel", k, "-fault", "failslab", "-points", "sites", "-o", dir, "--", filepath.Join(selftests(t), "base_test"))
	got := finish(t, cmd)
	t.Logf("%s%s", got.stderr, got.stdout)
	assert.Equal(t, got.code, 0)
	text, err := os.ReadFile(filepath.Join(dir, "report.json"))
	assert.NilError(t, err)
	var rep struct {
		Total, Sites, SitesTried, SitesHit, Planned int
		Counts                                      map[string]int
		Results                                     []struct{ Stack []string }
	}
	assert.NilError(t, json.Unmarshal(text, &rep))
	assert.Assert(t, rep.Sites >= 50 && rep.SitesTried == rep.Sites && rep.SitesHit*10 >= rep.Sites*9, "%+v", rep)
	assert.Equal(t, len(rep.Results), rep.Planned)
	assert.Check(t, is.Equal(rep.Counts["infra"], 0))
	landlock := 0
	for _, r := range rep.Results {
		for _, f := range r.Stack {
			if len(f) > 14 && f[:14] == "__x64_sys_land" {
				landlock++
			}
		}
	}
	assert.Assert(t, landlock > 0, "no fault hit a system call of landlock")
}
