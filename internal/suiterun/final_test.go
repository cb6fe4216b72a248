// SPDX-License-Identifier: Apache-2.0

package suiterun

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/gotest"
)

// TestFinalOfARealBinary reads the final word out of what a test binary of this Go
// version prints, in all of its modes.
func TestFinalOfARealBinary(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "sample.test")
	out, err := exec.Command("go", "test", "-c", "-o", bin, "../../suites/testmain/testdata/sample").CombinedOutput()
	assert.NilError(t, err, "%s", out)
	for _, c := range []struct{ args, final string }{
		{"-test.run=^(Test[^Z].*|Example.*)$", "PASS"},
		{"-test.run=TestPass", "PASS"}, // its output does not end in a newline
		{"-test.run=TestNothingHasThisName", "PASS"},
		{"-test.run=^$ -test.bench=. -test.benchtime=1x", "PASS"},
		{"-test.run=TestZFail", "FAIL"},
		{"-test.run=TestZPanic$", ""},
		{"-test.run=TestZExit$", ""},
		{"-test.run=TestZExitGroup$", ""},
	} {
		for _, v := range []string{"false", "true", "test2json"} {
			args := append([]string{"-test.v=" + v}, strings.Fields(c.args)...)
			cmd := exec.Command(bin, args...)
			cmd.Env = append(os.Environ(), "SAMPLE_PLAIN=1")
			text, err := cmd.CombinedOutput()
			assert.Assert(t, cmd.ProcessState != nil, "%v", err)
			s := gotest.NewJoiner(nil, args, false)
			alone := &withoutFinal{w: &bytes.Buffer{}, finals: s.Finals()}
			for _, b := range text { // in the smallest pieces
				_, _ = s.Write([]byte{b})
				_, _ = alone.Write([]byte{b})
			}
			assert.Check(t, is.Equal(s.End(false, false), c.final), "%q: %q", args, text)
			assert.Check(t, is.Equal(alone.end(), c.final), "%q: %q", args, text)
		}
	}
}
