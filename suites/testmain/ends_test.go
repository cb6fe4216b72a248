// SPDX-License-Identifier: Apache-2.0

package testmain_test

import (
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// TestStatus0IsNotEnough: a process that ends with status 0 in a test, as if all were
// well, has failed that test in every mode; the others run, or are said not to.
func TestStatus0IsNotEnough(t *testing.T) {
	kernel := needKernel(t)
	bin := build(t)
	for _, c := range []struct {
		name, args string
		want, not  []string
	}{
		{
			"the third of three", "-test.run=^(TestPass|TestCover|TestZExitGroup)$",
			[]string{"--- FAIL: TestZExitGroup", "the test binary ended during this test: exit status 0"}, nil,
		},
		{
			"in parallel subtests, verbose", "-test.v -test.run=^(TestZExitInSubtests|TestZExec|TestZLast)$",
			[]string{"--- FAIL: TestZExitInSubtests", "--- FAIL: TestZExec", "--- PASS: TestZLast"}, nil,
		},
		{
			"counted, so that all stay in one VM", "-test.count=2 -test.parallel=3 -test.run=^(TestCover|TestZExitParallel|TestZLast)$",
			[]string{"--- FAIL: TestZExitParallel", "the test binary ended during this test: exit status 0"}, nil,
		},
		{
			"it says that it passed", "-test.v=test2json -test.run=^TestZExitSaid$",
			[]string{"--- FAIL: TestZExitSaid", "the test binary ended during this test: exit status 0"}, nil,
		},
		{
			"each test alone", "-isolate test -test.run=^(TestCover|TestZExitGroup|TestZExec|TestZExitSaid|TestZLast)$",
			[]string{"--- FAIL: TestZExitGroup", "--- FAIL: TestZExec", "--- FAIL: TestZExitSaid", "exit status 0", "FAIL\n"}, []string{"FAIL: TestCover", "FAIL: TestZLast"},
		},
		{
			"in an example", "-test.run=^(TestPass|Example_zExit)$",
			[]string{"kvmrun: the test binary ended without a final PASS: exit status 0"}, nil,
		},
		{
			"os.Exit", "-test.paniconexit0 -test.run=^TestZOSExit$",
			[]string{"unexpected call to os.Exit(0) during test"}, nil,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := exec.Command(bin, append([]string{"-kernel", kernel}, strings.Fields(c.args)...)...).CombinedOutput()
			var e *exec.ExitError
			assert.Assert(t, errors.As(err, &e), "%v: %s", err, out)
			assert.Check(t, e.ExitCode() == 1 || e.ExitCode() == 2, "%d", e.ExitCode())
			for _, w := range c.want {
				assert.Check(t, is.Contains(string(out), w))
			}
			for _, w := range c.not {
				assert.Check(t, !strings.Contains(string(out), w), "%s", out)
			}
		})
	}
}

// TestNothingTestedFails, unless it is allowed.
func TestNothingTestedFails(t *testing.T) {
	kernel := needKernel(t)
	bin := build(t)
	for _, c := range []struct {
		name, args, env string
		code            int
		say             string
	}{
		{"all skipped", "-test.run=^TestZNothing$", "", 1, "nothing-tested"},
		{"all skipped, allowed", "-allow-nothing -test.run=^TestZNothing$", "", 0, "nothing tested"},
		{"no subtest", "-test.run=^TestZGroup$/^nope$", "", 1, "nothing-tested"},
		{"no subtest, isolated", "-isolate test -test.run=^TestZGroup$/^nope$", "", 1, "nothing-tested"},
		{"a subtest", "-test.run=^TestZGroup$/^one$", "", 0, ""},
		{"a skip among others", "-test.run=^(TestZNothing|TestCover)$", "", 0, ""},
		{"the kernel lacks it", "-test.run=^TestCover$", "SAMPLE_KCONFIG=NO_SUCH_OPTION", 1, "needs CONFIG_NO_SUCH_OPTION"},
		{"the kernel lacks it, allowed", "-allow-nothing -test.run=^TestCover$", "SAMPLE_KCONFIG=NO_SUCH_OPTION", 0, "needs CONFIG_NO_SUCH_OPTION"},
		{"nothing selected", "-test.run=^TestNothingHasThisName$", "", 0, "no tests to run"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command(bin, append([]string{"-kernel", kernel}, strings.Fields(c.args)...)...)
			cmd.Env = append(cmd.Environ(), c.env)
			out, err := cmd.CombinedOutput()
			assert.Assert(t, cmd.ProcessState != nil, "%v", err)
			assert.Check(t, is.Equal(cmd.ProcessState.ExitCode(), c.code), "%s", out)
			assert.Check(t, is.Contains(string(out), c.say))
		})
	}
}

// TestJSONOfStatus0: go test -json says what failed, by name.
func TestJSONOfStatus0(t *testing.T) {
	kernel := needKernel(t)
	got := goTest(t, nil, sample, "-kernel", kernel, "-json", "-run", "^(TestCover|TestZExitGroup|TestZLast)$")
	assert.Equal(t, got.code, 1)
	last := map[string]string{}
	for l := range strings.Lines(got.stdout) {
		var e struct{ Action, Test string }
		if json.Unmarshal([]byte(l), &e) == nil && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip") {
			last[e.Test] = e.Action
		}
	}
	assert.DeepEqual(t, last, map[string]string{"TestCover": "pass", "TestZExitGroup": "fail", "TestZLast": "pass", "": "fail"})
}
