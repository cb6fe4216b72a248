// SPDX-License-Identifier: Apache-2.0

package suiterun

import (
	"os"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/ext4"
	"github.com/kvmrun/kvmrun/suites/ipe"
	"github.com/kvmrun/kvmrun/suites/landlock"
	"github.com/kvmrun/kvmrun/suites/pamcap"
	"github.com/kvmrun/kvmrun/suites/uffdwp"
)

// The suites' own source: what a test asks for directly, through a helper, in a
// table, and by a fault's kind.
func TestTestsNeeding(t *testing.T) {
	src, err := FindSource(here(t))
	assert.NilError(t, err)
	got, err := src.TestsNeeding("uffdwp", []string{"KSM", "SWAP", "PTE_MARKER_UFFD_WP", "NO_SUCH_OPTION"})
	assert.NilError(t, err)
	assert.DeepEqual(t, got["KSM"], []string{"TestMergedPage"})
	assert.Check(t, len(got["SWAP"]) > 0 && len(got["SWAP"]) < 10, "%q", got["SWAP"])
	assert.Check(t, is.Contains(got, "PTE_MARKER_UFFD_WP"))
	assert.Check(t, is.Len(got["NO_SUCH_OPTION"], 0))

	got, err = src.TestsNeeding("ext4", []string{"FAILSLAB", "FAIL_PAGE_ALLOC", "SWAP"})
	assert.NilError(t, err)
	assert.Check(t, len(got["FAILSLAB"]) > 0)
	assert.Check(t, len(got["SWAP"]) > 0 && len(got["SWAP"]) < 4, "%q", got["SWAP"])

	got, err = src.TestsNeeding("landlock", []string{"MPTCP=y", "SMC=y", "IPV6=y"})
	assert.NilError(t, err)
	assert.Check(t, len(got["IPV6=y"]) > 0 && len(got["MPTCP=y"]) > 0 && len(got["SMC=y"]) > 0)
}

// An option that no test names would make every kernel look short of something.
func TestEveryOptionIsNeeded(t *testing.T) {
	src, err := FindSource(here(t))
	assert.NilError(t, err)
	for _, s := range []suites.Spec{ext4.Spec, ipe.Spec, landlock.Spec, pamcap.Spec, uffdwp.Spec} {
		got, err := src.TestsNeeding(s.Name, s.OptionalKconfig)
		assert.NilError(t, err)
		for _, o := range s.OptionalKconfig {
			assert.Check(t, len(got[o]) > 0, "suite %s: no test names %s", s.Name, o)
		}
	}
}

func TestTestsNeedingWithoutSource(t *testing.T) {
	_, err := Source{Dir: t.TempDir()}.TestsNeeding("ext4", []string{"KASAN"})
	assert.ErrorContains(t, err, "read what the tests of suite ext4 need")
}

func here(t *testing.T) string {
	t.Helper()
	wd, err := os.Getwd()
	assert.NilError(t, err)
	return wd
}
