// SPDX-License-Identifier: Apache-2.0

package ktap_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// TestReal reads what producers of TAP and KTAP have printed, as it was but for
// the names of directories. The counts are by hand: pass, fail, skip, xfail,
// missing of the tests without subtests.
func TestReal(t *testing.T) {
	for file, c := range map[string]struct{ made, want string }{
		"prove-v":     {"prove -v nested.t fails.t skipall.t noplan.t, Test::More 1.302190; fails.t lacks a test that noplan.t does not make up for", "12 3 4 3 1 failed"},
		"prove-timer": {"prove --timer noplan.t old.t", "2 0 0 0 0 ok"},
		"prove-j":     {"prove -j3, of which a file bails out", "1 2 0 0 0 failed"},
		"node20":      {"node --test --test-reporter tap node.mjs and others, v20.20.2, which gives a file that throws the wrong number", "10 4 3 1 0 failed"},
		"tape":        {"node tape.js, tape 5", "3 1 1 1 0 failed"},
		"nodetap":     {"node tap.js, tap 16", "9 1 1 1 0 failed"},
		"nodetapbail": {"the same, t.bailout in a subtest", "1 1 0 0 0 failed"},
		"mocha13":     {"mocha --reporter tap --reporter-options tapVersion=13", "1 1 2 0 0 failed"},
		"qunit":       {"qunit -r tap", "1 1 1 1 0 failed"},
		"ava":         {"ava --tap, ava 4", "2 1 1 1 0 failed"},
		"vitest":      {"vitest run --reporter=tap", "2 1 1 0 0 failed"},
		"vitestflat":  {"vitest run --reporter=tap-flat", "2 1 1 0 0 failed"},
		"bats":        {"bats --tap, 1.8.2", "1 1 2 0 0 failed"},
		"bats13":      {"bats --formatter tap13", "1 1 2 0 0 failed"},
		"sharness":    {"a test of sharness 1.0.0", "2 1 1 1 0 failed"},
		"cmocka":      {"CMOCKA_MESSAGE_OUTPUT=TAP, two groups, cmocka 1.1.5", "2 1 1 0 0 failed"},
		"glib":        {"g_test --tap, GLib 2.74, which stops at the first failure", "1 1 1 1 1 failed"},
		"runner":      {"run_kselftest.sh -c core -c exec -c pidfd, Linux 6.12", "26 1 0 0 0 failed"},
		"seccomp_bpf": {"tools/testing/selftests/seccomp/seccomp_bpf, Linux 6.12", "98 1 0 0 0 failed"},
		"clone3":      {"tools/testing/selftests/clone3/clone3", "19 0 0 0 0 ok"},
		"posix_timers": {"timeout 60 tools/testing/selftests/timers/posix_timers, which it did not come to the end of",
			"4 4 0 0 10 failed"},
	} {
		t.Run(file, func(t *testing.T) {
			in, err := os.ReadFile(filepath.Join("testdata/real", file+".txt"))
			assert.NilError(t, err)
			d := parseString(t, string(in))
			assert.Equal(t, short(d), c.want, "%s\n%s", c.made, dump(d))
			checkLaws(t, in)
			// In a serial log with another console's lines between its own.
			noisy := strings.ReplaceAll(string(in), "\n", "\n[   12.345678] usb 1-1: new high-speed USB device\n")
			if !strings.HasPrefix(d.Version, "prove") {
				assert.Equal(t, short(parseString(t, noisy)), c.want)
			}
		})
	}
}

// TestProducers runs those that a machine has: their next version is read, too.
func TestProducers(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"perl", "nested.t"}, "5 0 4 3 0 ok"},
		{[]string{"perl", "fails.t"}, "3 3 0 0 1 failed"},
		{[]string{"perl", "bail.t"}, "2 0 0 0 3 failed"},
		{[]string{"perl", "skipall.t"}, "0 0 0 0 0 ok"},
		{[]string{"perl", "dies.t"}, "1 0 0 0 2 failed"},
		{[]string{"perl", "buf.t"}, "4 1 0 0 0 failed"},
		{[]string{"prove", "-v", "nested.t", "buf.t"}, "9 1 4 3 0 failed"},
		{[]string{"prove", "-v", "nested.t", "dies.t"}, "6 0 4 3 2 failed"},
		{[]string{"prove", "nested.t", "skipall.t"}, "1 0 1 0 0 ok"},
		{[]string{"prove", "nested.t", "fails.t"}, "1 1 0 0 0 failed"},
		{[]string{"node", "--test", "--test-reporter", "tap", "node.mjs"}, "7 2 3 1 0 failed"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			path, err := exec.LookPath(c.args[0])
			if errors.Is(err, exec.ErrNotFound) {
				t.Skip("no " + c.args[0] + " here: install it (perl, nodejs of Debian 12 or newer) to read what it prints now")
			}
			assert.NilError(t, err)
			cmd := exec.Command(path, c.args[1:]...)
			cmd.Dir = "testdata/producers"
			out, err := cmd.CombinedOutput() // most of them fail
			var exit *exec.ExitError
			assert.Assert(t, err == nil || errors.As(err, &exit), "%v", err)
			d := parseString(t, string(out))
			assert.Equal(t, short(d), c.want, "%s\n%s", out, dump(d))
			checkLaws(t, out)
		})
	}
}

// TestKUnitLogs reads the logs with which the kernel tests kunit_parser.py, from
// tools/testing/kunit/test_data of Linux 6.12. The counts are those of
// kunit_tool_test.py where it has them; where a plan is missing we are stricter.
func TestKUnitLogs(t *testing.T) {
	for file, want := range map[string]string{
		"config_printk_time":                      "10 0 0 0 0 ok",
		"interrupted_tap_output":                  "10 0 0 0 0 ok",
		"multiple_prefixes":                       "10 0 0 0 0 ok",
		"pound_sign":                              "10 0 0 0 0 ok",
		"pound_no_prefix":                         "10 0 0 0 0 ok", // indented as a whole
		"output_with_prefix_isolated_correctly":   "10 0 0 0 0 failed",
		"output_isolated_correctly":               "2 0 0 0 0 failed",
		"is_test_passed-all_passed":               "10 0 0 0 0 ok",
		"is_test_passed-all_passed_nested":        "7 0 0 0 0 ok",
		"is_test_passed-failure":                  "9 1 0 0 0 failed",
		"is_test_passed-kselftest":                "4 0 0 0 0 ok",
		"is_test_passed-missing_plan":             "10 0 0 0 0 failed",
		"is_test_passed-no_tests_no_plan":         "0 1 0 0 0 failed",
		"is_test_passed-no_tests_run_no_header":   "0 0 0 0 0 empty",
		"is_test_passed-no_tests_run_with_header": "0 0 0 0 0 ok",
		"kernel_panic_interrupt":                  "8 0 0 0 2 failed",
		"parse_attributes":                        "1 0 0 0 0 ok",
		"parse_ktap_output":                       "3 0 0 0 0 ok",
		"parse_subtest_header":                    "1 0 0 0 0 ok",
		"skip_all_tests":                          "0 0 5 0 0 ok",
		"skip_tests":                              "4 0 1 0 0 ok",
		"strip_hyphen":                            "2 0 0 0 0 ok",
	} {
		t.Run(file, func(t *testing.T) {
			in, err := os.ReadFile(filepath.Join("testdata/kunit", file+".log"))
			assert.NilError(t, err)
			if in[len(in)-1] != '\n' {
				in = append(in, '\n') // kunit.py reads lines, and these lack their end
			}
			d := parseString(t, string(in))
			assert.Equal(t, short(d), want, "%s", dump(d))
			checkLaws(t, in)
		})
	}
}
