// SPDX-License-Identifier: Apache-2.0

package ktap_test

import (
	"testing"

	"gotest.tools/v3/assert"
)

// TestHard has what TAP 12 to 14 and KTAP leave open or nobody prints on purpose,
// with the counts that the specifications demand, or a failure.
func TestHard(t *testing.T) {
	const k2 = "KTAP version 1\n1..2\nok 1 a\nok 2 b\n"
	for _, row := range []struct{ name, in, want string }{
		// Bytes.
		{"byte order mark", "\ufeffTAP version 13\n1..1\nok 1 a\n", "1 0 0 0 0 ok"},
		{"byte order mark before a plan", "\ufeff1..2\nok 1 a\nok 2 b\n", "2 0 0 0 0 ok"},
		{"byte order mark before a failure", "\ufeffnot ok 1 a\nok 2 b\n1..2\n", "1 1 0 0 0 failed"},
		{"UTF-16", "T\x00A\x00P\x00 \x00v\x00e\x00r\x00s\x00i\x00o\x00n\x00 \x001\x003\x00\n\x001\x00.\x00.\x001\x00\n\x00n\x00o\x00t\x00 \x00o\x00k\x00 \x001\x00\n\x00", "0 1 0 0 0 failed"},
		{"CRLF", "TAP version 13\r\n1..2\r\nok 1 a\r\nok 2 b # SKIP x\r\n", "1 0 1 0 0 ok"},
		{"CRCRLF", "TAP version 13\r\r\n1..1\r\r\nok 1 a # TODO\r\r\n", "1 0 0 0 0 ok"},
		{"CR alone", "TAP version 13\r1..2\rok 1 a\rnot ok 2 b\r", "0 0 0 0 0 empty"},
		{"NUL before a result", "TAP version 13\n1..1\n\x00\x00ok 1 a\n", "1 0 0 0 0 ok"},
		{"NUL in not ok", "TAP version 13\n1..1\nnot\x00 ok 1 a\n", "0 1 0 0 0 failed"},
		{"no-break space in not ok", "1..1\nnot\u00a0ok 1 a\n", "0 0 0 0 1 failed"},
		{"a dash in not ok", "1..1\nnot-ok 1 a\n", "0 0 0 0 1 failed"},
		{"colours", "TAP version 13\n1..2\n\x1b[32mok 1 a\x1b[0m\n\x1b[31mnot ok 2 b\x1b[0m\n", "1 1 0 0 0 failed"},
		{"progress overwritten", "TAP version 13\n1..1\n10%\r99%\rok 1 a\n", "1 0 0 0 0 ok"},
		{"progress overwritten by a failure", "TAP version 13\n1..2\nok 1 a\n99%\rnot ok 2 a\n", "1 1 0 0 0 failed"},
		{"tabs", "KTAP version 1\n1..1\n\tKTAP version 1\n\t1..2\n\tok 1 a\n\tok 2 b\nok 1 g\n", "2 0 0 0 0 ok"},
		{"tabs in a line", "1..2\nok\t1\ta\nnot ok\t2\tb\n", "1 1 0 0 0 failed"},
		{"blanks at the end", "1..2 \nok 1 a \nok 2 b\t\n", "2 0 0 0 0 ok"},
		{"capitals", "1..2\nOK 1 a\nNOT OK 2 b\n", "0 0 0 0 2 failed"},

		// Directives.
		{"skip in all forms", "1..6\nok 1 # skip\nok 2 # SKIP x\nok 3 #skip y\nok 4 # Skipped: z\nok 5 - n # SKIP: w\nok 6 - m #SKIP\n", "0 0 6 0 0 ok"},
		{"skip in a word", "1..1\nok 1 foo#skip bar\n", "1 0 0 0 0 ok"},
		{"todo", "1..2\nnot ok 1 a # TODO later\nok 2 b # todo x\n", "1 0 0 1 0 ok"},
		{"kselftest's", "TAP version 13\n1..5\nok 1 # XFAIL a\nok 2 # XPASS b\nnot ok 3 x # TIMEOUT 45 seconds\nnot ok 4 x # exit=1\nok 5 # ERROR y\n", "0 4 0 1 0 failed"},
		{"escaped", "TAP version 14\n1..1\nnot ok 1 a \\# TODO x\n", "0 1 0 0 0 failed"},
		{"escaped backslash", "TAP version 14\n1..1\nnot ok 1 a \\\\# TODO x\n", "0 0 0 1 0 ok"},

		// Plans and numbers.
		{"skipped as a whole, and a result", "1..0 # SKIP no\nok 1 a\n", "1 0 0 0 0 failed"},
		{"two plans", "1..2\nok 1\n1..3\nok 2\nok 3\n", "3 0 0 0 0 failed"},
		{"a plan of more, at the end", "ok 1\nok 2\n1..3\n", "2 0 0 0 1 failed"},
		{"a plan of fewer, at the end", "ok 1\nok 2\nok 3\n1..2\n", "3 0 0 0 0 failed"},
		{"a plan from 2", "2..3\nok 2\nok 3\n", "2 0 0 0 1 failed"},
		{"a huge plan", "1..99999999999999999999\nok 1\n", "1 0 0 0 0 failed"},
		{"a plan with a comment", "1..2 # two of them\nok 1\nok 2\n", "2 0 0 0 0 ok"},
		{"beyond the plan", "1..2\nok 1 a\nok 3 b\n", "2 0 0 0 0 failed"},
		{"in another order", "1..3\nok 2 b\nok 1 a\nok 3 c\n", "3 0 0 0 0 ok"},
		{"no dash and no number", "1..3\nok foo\nnot ok bar\nok baz\n", "2 1 0 0 0 failed"},
		{"KTAP without numbers", "KTAP version 1\n1..2\nok a\nok b\n", "0 0 0 0 2 failed"},

		// Nesting.
		{"a failure in a group that passed", "TAP version 14\n1..1\n    1..1\n    not ok 1 x\nok 1 a\n", "0 1 0 0 0 failed"},
		{"a group that lacks tests", "TAP version 14\n1..1\n    1..3\n    ok 1 x\nok 1 a\n", "1 0 0 0 2 failed"},
		{"a group that may fail", "TAP version 14\n1..1\n    1..1\n    not ok 1 x\nnot ok 1 a # TODO later\n", "0 0 0 1 0 ok"},
		{"a group that is skipped", "TAP version 14\n1..1\n    1..0 # SKIP x\nok 1 a # SKIP x\n", "0 0 1 0 0 ok"},
		{"bail out in a group", "TAP version 14\n1..2\nok 1\n    1..2\n    ok 1\n    Bail out! dead\n", "2 0 0 0 1 failed"},
		{"braces", "TAP version 14\n1..2\nok 1 - a {\n  ok 1 x\n  ok 2 y\n  1..2\n}\nnot ok 2 - b {\n  not ok 1 z\n  1..1\n}\n", "2 1 0 0 0 failed"},
		{"a group that lacks its announcement", "# Subtes\nt: a\n    ok 1 x\n    1..1\nok 1 a\n1..1\n", "1 0 0 0 0 failed"},
		{"a group announced, and lost", "1..1\nok 1 a\n# Subtest: b\n", "1 0 0 0 0 failed"},
		{"a group's result broken before the next group", "1..2\n# Subtest: a\n    ok 1 x\n    1..1\nxyz ok 1 a\n# Subtest: b\n    ok 1 y\n    1..1\nok 2 b\n", "2 2 0 0 0 failed"},
		{"two groups, and one result", "KTAP version 1\n1..2\n    KTAP version 1\n    # Subtest: a\n    1..1\n    ok 1 x\n    KTAP version 1\n    # Subtest: b\n    1..1\n    ok 1 y\nok 2 b\n", "2 1 0 0 0 failed"},
		{"a brace broken off", "TAP version 14\n1..2\nok 1 - a\n - a {\n    1..1\n    ok 1 x\n}\nok 2 - b {\n    1..1\n    ok 1 y\n}\n", "3 1 0 0 0 failed"},
		{"braces without results", "1..1\nok 1 - a {\n  foreign\n}\n", "1 0 0 0 0 failed"},
		{"failures in a group that was skipped", "TAP version 14\n1..1\n    1..1\n    not ok 1 x\nok 1 a # SKIP y\n", "0 1 0 0 0 failed"},
		{"a foreign line between not and ok", "1..1\nnot \n\nok 1 a\n", "0 1 0 0 0 failed"},
		{"the console behind a directive", "1..1\nok 1 a # SKIP[    0.123456] usb 1-1: new\n no device\n", "0 0 1 0 0 ok"},
		{"a comment before a broken directive", "1..1\nok 1 a\n# words\n # SKIP no device\n", "0 0 1 0 0 ok"},
		{"YAML in a group", "TAP version 14\n1..1\n    1..1\n    ok 1 x\n      ---\n      a: |\n        1..5\n        not ok 2\n      ...\nok 1 a\n", "1 0 0 0 0 ok"},
		{"YAML to the end", "TAP version 13\n1..1\nok 1 a\n  ---\n  x: 1\n", "1 0 0 0 0 failed"},

		// Totals against results, and lines in two.
		{"a skip that was lost", "TAP version 13\n1..2\nok 1 a\nok 2 b\n# Totals: pass:1 fail:0 xfail:0 xpass:0 skip:1 error:0\n", "2 0 0 0 0 failed"},
		{"a skip that was lost in the runner", "TAP version 13\n1..1\n# TAP version 13\n# 1..2\n# ok 1 a\n# ok 2 b\n# # Totals: pass:1 fail:0 xfail:0 xpass:0 skip:1 error:0\nok 1 selftests: x: y\n", "2 0 0 0 0 failed"},
		{"the console in a line", "TAP version 13\n1..2\nok 1 a\nok 2 b[   12.345678] usb 1-1: new device\n # SKIP no dev\n", "1 0 1 0 0 ok"},
		{"the console in a directive", "TAP version 13\n1..2\nok 1 a\nok 2 b # SK[   12.345678] usb 1-1: new device\nIP no dev\n", "1 1 0 0 0 failed"},
		{"a directive cut in the kernel's log", "[    1.0] KTAP version 1\n[    1.0] 1..1\n[    1.0] ok 1 a # SK\n[    1.1] usb: x\n", "0 1 0 0 0 failed"},
		{"a splat", "TAP version 13\n1..2\nok 1 a\n[    2.0] BUG: KASAN: slab-out-of-bounds in f+0x1/0x2\n[    2.1]  ok+0x10/0x20\nok 2 b\n", "2 0 0 0 0 ok"},

		// Several documents.
		{"three documents", k2 + k2 + k2, "6 0 0 0 0 ok"},
		{"one of four broken off", "TAP version 13\n1..1\nok 1 a\nTAP version 13\n1..2\nok 1 a\nTAP version 13\n1..1\nok 1 a\n", "3 0 0 0 1 failed"},
		{"without versions", "1..2\nok 1 a\nok 2 b\n1..1\nok 1 c\n", "3 0 0 0 0 ok"},
		{"a version and no more", "ok 1 a\n1..1\nTAP version 13\n", "1 0 0 0 0 failed"},
		{"prove's next file does not make up", "t/a.t .. \n1..2\nok 1 a\nt/b.t .. \nok 1 b\n1..1\nok\n", "2 0 0 0 1 failed"},
		{"dots of a program", "1..2\nok 1 a\nx/loading ..\nok 2 b\n", "2 0 0 0 0 ok"},

		// Transports.
		{"netconsole, extended, with the release", "6.12.0-rc1,6,1,1000,-;KTAP version 1\n6.12.0-rc1,6,2,1001,-;1..1\n6.12.0-rc1,6,3,1002,-;not ok 1 a\n", "0 1 0 0 0 failed"},
		{"dmesg in colours", "\x1b[32m[    1.000000] \x1b[0mKTAP version 1\n\x1b[32m[    1.000000] \x1b[0m1..1\n\x1b[32m[    1.000001] \x1b[0mnot ok 1 a\n", "0 1 0 0 0 failed"},
		{"go test", "=== RUN   TestA\n--- PASS: TestA (0.00s)\nPASS\nok  \tx/y\t0.1s\n", "0 0 0 0 0 empty"},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := parseString(t, row.in)
			assert.Equal(t, short(d), row.want, "%q\n%s", row.in, dump(d))
			checkLaws(t, []byte(row.in))
		})
	}
}

// TestWhy: what is shown beside a failed test is what its producer says of it.
func TestWhy(t *testing.T) {
	for in, want := range map[string]string{
		"1..2\nnot ok 1 a\n#   Failed test 'a'\n#   at x.t line 3.\nnot ok 2 b\n":                                      "Failed test 'a'",
		"1..1\nnot ok 1 a # time=3ms\n  ---\n  error:\n    name: \"AssertionError\"\n    message: \"1 is 2\"\n  ...\n": "1 is 2",
		"TAP version 13\n1..1\nnot ok 1 a\n  ---\n  error: |-\n    it broke\n    badly\n  ...\n":                       "it broke",
		"# Start of x tests\n# real words\nnot ok 1 a\n1..1\n":                                                         "real words",
		"1..1\n# selftests: x: y\n# it is missing\nnot ok 1 selftests: x: y\n":                                         "it is missing",
	} {
		d := parseString(t, in)
		assert.Equal(t, d.Tests[0].Why(), want, "%s", in)
		if len(d.Tests) > 1 {
			assert.Equal(t, d.Tests[1].Why(), "", "%s", in)
		}
	}
}
