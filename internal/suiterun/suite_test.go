// SPDX-License-Identifier: Apache-2.0

package suiterun

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kvmrun/kvmrun/internal/plan"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// TestSelected: a suite is only left out when none of its tests can match.
func TestSelected(t *testing.T) {
	x := Matrix{Suites: []Suite{{Tests: []string{"TestA", "TestB"}}, {Tests: []string{"TestC"}}}}
	for run, want := range map[string]int{"": 2, "TestA": 1, "TestC/sub": 1, "TestA/x|TestC": 2, "TestC|TestA/x": 2, "A|B": 1, "^Test": 2} {
		x.Run = run
		got, err := selected(x)
		assert.NilError(t, err)
		assert.Check(t, is.Len(got, want), "-run %s", run)
	}
	for _, bad := range []Matrix{{Selection: plan.Selection{Run: "TestD"}}, {Selection: plan.Selection{Run: "Test("}}, {Selection: plan.Selection{Run: "TestA/("}}, {Selection: plan.Selection{Skip: "("}}, {Selection: plan.Selection{Run: "TestA", Skip: "b/("}}} {
		bad.Suites = x.Suites
		_, err := selected(bad)
		assert.Check(t, err != nil, "%+v", bad)
	}
}

func TestLogFilesAreBoundedAndReportErrors(t *testing.T) {
	dir := t.TempDir()
	var l logFiles
	f := l.create(dir, "a")
	f.left = 10
	_, _ = f.Write([]byte("0123456"))
	_, _ = f.Write([]byte("789abc"))
	_, _ = f.Write([]byte("more"))
	assert.NilError(t, l.close())
	b, err := os.ReadFile(filepath.Join(dir, "a"))
	assert.NilError(t, err)
	assert.Equal(t, string(b), "0123456789\n[kvmrun: cut here, the rest was not kept]\n")

	var bad logFiles
	_, err = bad.create(filepath.Join(dir, "missing"), "a").Write([]byte("x"))
	assert.NilError(t, err, "a stream must go on")
	assert.ErrorContains(t, bad.close(), "no such file")
	if _, err := os.Stat("/dev/full"); err == nil {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		assert.NilError(t, err)
		l := logFiles{{f: full, left: 10}}
		_, _ = l[0].Write([]byte("x"))
		assert.ErrorContains(t, l.close(), "no space left")
	}
}
