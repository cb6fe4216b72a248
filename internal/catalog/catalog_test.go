// SPDX-License-Identifier: Apache-2.0

package catalog_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/catalog"
)

// TestEverySuiteIsListed compares the list with the directories that suiterun.Source
// takes for suites.
func TestEverySuiteIsListed(t *testing.T) {
	dirs, err := filepath.Glob("../../suites/*/main_test.go")
	assert.NilError(t, err)
	var want, got []string
	for _, d := range dirs { // sorted
		want = append(want, filepath.Base(filepath.Dir(d)))
	}
	assert.Assert(t, len(want) > 0)
	for _, s := range catalog.Specs() {
		assert.NilError(t, s.Validate())
		got = append(got, s.Name)
	}
	assert.DeepEqual(t, got, want)
}

// TestSetupInstallsWhatTheSuitesNeed: the lines that .ci/setup reads.
func TestSetupInstallsWhatTheSuitesNeed(t *testing.T) {
	out, err := exec.Command("go", "run", "./hostneeds").Output()
	assert.NilError(t, err)
	lines := map[string]bool{}
	for l := range strings.SplitSeq(strings.TrimSpace(string(out)), "\n") {
		assert.Check(t, !lines[l], "twice: %s", l)
		lines[l] = true
		assert.Check(t, len(strings.Fields(l)) >= 3, l)
	}
	for _, s := range catalog.Specs() {
		for _, n := range append(s.HostNeeds(), s.BuildNeeds()...) {
			assert.Check(t, n.Package != "", "suite %s: no package for %s%v: give it in the Spec", s.Name, n.Command, n.Files)
		}
	}
	assert.Check(t, lines["command e2fsprogs mkfs.ext4"] && lines["command e2fsprogs e2fsck"], "%s", out)
	assert.Check(t, strings.Contains(string(out), "file libpam-cap /lib/*-linux-gnu/security/pam_cap.so /usr/lib"), "%s", out)
	assert.Check(t, lines["command gcc cc"] && lines["file libpam0g-dev /usr/include/security/pam_modules.h"], "%s", out)
}
