// SPDX-License-Identifier: Apache-2.0

package ktap_test

import (
	"fmt"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/ktap"
)

// short is a document in one line.
func short(d *ktap.Doc) string {
	n := d.Count()
	s := fmt.Sprintf("%d %d %d %d %d", n.Pass, n.Fail, n.Skip, n.XFail, n.Missing)
	switch {
	case d.Refused != nil:
		return s + " refused"
	case d.Empty():
		return s + " empty"
	case d.Failed():
		return s + " failed"
	}
	return s + " ok"
}

const (
	kunitFailed = "KTAP version 1\n1..1\n    KTAP version 1\n    # Subtest: hw\n    1..2\n    ok 1 a\n    not ok 2 b\n# hw: pass:1 fail:1 skip:0 total:2\nnot ok 1 hw\n"
	kunitGood   = "KTAP version 1\n1..1\n    KTAP version 1\n    # Subtest: hw\n    1..2\n        KTAP version 1\n        # Subtest: p\n        ok 1 x\n        ok 2 y\n" +
		"    # p: pass:2 fail:0 skip:0 total:2\n    ok 1 p\n    ok 2 b # SKIP no\n# hw: pass:1 fail:0 skip:1 total:2\n# Totals: pass:2 fail:0 skip:1 total:3\nok 1 hw\n"
	// Linux before 6.2: no nested versions, and modules without a plan.
	kunitOld = "    # Subtest: old\n    1..2\n    # p: ok 1 - x\n    # p: pass:1 fail:0 skip:0 total:1\n    ok 1 - p\n    ok 2 - q\n# old: pass:2 fail:0 skip:0 total:2\nok 1 - old\n"

	ltpNew = "tst_test.c:1690: TINFO: Timeout per run is 0h 00m 30s\nabort01.c:60: TPASS: abort() dumped core\nabort01.c:63: TCONF: no core here\n\nSummary:\npassed   1\nfailed   0\nbroken   0\nskipped  1\nwarnings 0\n"

	progs = "#1       align:OK\n#2/1     btf/one:OK\n#2/2     btf/two:SKIP\n#2       btf:OK (SKIP: 1/2)\n#3       tc:SKIP\n"

	kunitPy = "[12:00:01] =================== example (2 subtests) ===================\n[12:00:01] [PASSED] one\n[12:00:01] [SKIPPED] two\n[12:00:01] ===================== [PASSED] example =====================\n" +
		"[12:00:01] ============================================================\n"
)

// TestForms is the table of what the tolerant side of the parser takes, and of
// what it must not take for a pass: counts are pass, fail, skip, xfail, missing.
func TestForms(t *testing.T) {
	for _, row := range []struct{ name, in, want string }{
		{"kunit failed", kunitFailed, "1 1 0 0 0 failed"},
		{"kunit good", kunitGood, "2 0 1 0 0 ok"},
		{"kunit totals too many", strings.Replace(kunitGood, "# hw: pass:1", "# hw: pass:2", 1), "2 0 1 0 0 failed"},
		{"kunit totals of all", strings.Replace(kunitGood, "# Totals: pass:2", "# Totals: pass:3", 1), "2 0 1 0 0 failed"},
		{"kunit parameters lost", strings.Replace(strings.Replace(kunitGood, "        ok 2 y\n", "", 1), "# Totals: pass:2 fail:0 skip:1 total:3\n", "", 1), "1 0 1 0 0 failed"},
		{"kunit before 6.2", onLines(kunitOld, "[   12.345678] "), "2 0 0 0 0 ok"},
		{"kunit executor", "[    1.000000] kunit executor: error filtering suites: -22\n", "0 0 0 0 0 empty"},

		{"version only", "TAP version 13\n", "0 0 0 0 0 failed"},
		{"plan only", "1..3\n", "0 0 0 0 3 failed"},
		{"no plan", "ok 1 - a\nok 2 - b\n", "2 0 0 0 0 failed"},
		{"skip all", "1..0 # SKIP no device\n", "0 0 0 0 0 ok"},
		{"plan last", "ok 1 - a\nok 2 - b\n1..2\n", "2 0 0 0 0 ok"},
		{"result after the last plan", "ok 1 - a\n1..1\nok 2 - b\n", "2 0 0 0 0 failed"},
		{"two files", "ok 1 - a\n1..1\nok\nt/b.t ..\nok 1 - a\n1..1\nok\n", "2 0 0 0 0 ok"},
		{"todo in the plan", "1..3 todo 2;\nok 1\nnot ok 2\nok 3\n", "2 0 0 1 0 ok"},
		{"bare", "1..3\nok\nnot ok\nok\n", "2 1 0 0 0 failed"},
		{"bare too many", "1..1\nok\nok\n", "2 0 0 0 0 failed"},
		{"bare among numbers", "1..4\nok 1\nok basset hounds\nok\nok 4\n", "4 0 0 0 0 ok"},
		{"words among numbers", "1..3\nok 1 a\nok then\nok 2 b\nok 3 c\nok\n", "3 0 0 0 0 ok"},
		{"bare failure alone", "not ok\n", "0 1 0 0 0 failed"},
		{"an indented failure alone", "  not ok 3 x\n", "0 1 0 0 2 failed"},
		{"huge numbers", "1..2\nok 1\nok 2\nok 136211425\n", "3 0 0 0 0 failed"},
		{"duplicate", "1..2\nok 1 a\nok 1 b\n", "1 0 0 0 1 failed"},

		{"directives", "1..7\nok 1 # Skip contract\nok 2 x # skipping: y\nnot ok 3 # TODO z\nnot ok 4 # TODOORNOT\nok 5 a # b # SKIP c\nnot ok 6 a \\# TODO b\nnot ok 7 a # b # TODO c\n", "0 3 3 1 0 failed"},
		{"a cut directive", "1..1\nok 1 a # SKI\n", "0 1 0 0 0 failed"},
		{"a broken directive", "1..1\nok 1 a \n# SKIP b\n", "0 0 1 0 0 ok"},
		{"no newline", "1..1\nok 1 a", "0 1 0 0 0 failed"},
		{"no newline at the plan", "ok 1 a\n1..1", "1 0 0 0 0 ok"},
		{"bail out", "1..2\nok 1\nBAIL OUT! no\n", "1 0 0 0 1 failed"},
		{"broken between not and ok", "1..2\nnot \nok 1\nno\nt ok 2 x\n", "0 2 0 0 0 failed"},
		{"the kernel between not and ok", "1..1\nnot [    1.234567] usb 1-1: new\n[    1.234568] usb 1-2: new\nok 1 x\n", "0 1 0 0 0 failed"},
		{"strict", "TAP version 14\npragma +strict\n1..1\nwords\nok 1\n", "1 0 0 0 0 failed"},
		{"not strict", "TAP version 14\npragma +strict\npragma -strict\n1..1\nwords\nok 1\n", "1 0 0 0 0 ok"},

		{"unnumbered in a group", "TAP version 14\n# Subtest: a\n    ok - x\n    1..1\nok 1 - a\n1..1\n", "1 0 0 0 0 ok"},
		{"group without results", "    # Subtest: a\nok 1 - a\n1..1\n", "0 1 0 0 0 failed"},
		{"group behind its result", "1..2\nok 1 - a\n    # Subtest: a\n    1..1\n    ok 1 x\nok 2 - b\n    # Subtest: b\n    1..1\n    not ok 1 x\n", "1 1 0 0 0 failed"},
		{"braces", "TAP version 13\n1..2\nok 1 - a # time=1ms {\n    1..1\n    ok 1 - x\n}\nok 2 - b {\n}\n", "2 0 0 0 0 failed"},
		{"braces after the diagnostics", "TAP version 14\n1..1\nok 1 - a\n  ---\n  at: x\n  ...\n{\n    1..1\n    not ok 1 - x\n}\n", "0 1 0 0 0 failed"},
		{"braces without an end", "TAP version 13\n1..2\nok 1 - a {\n    1..1\n    ok 1 - x\nok 2 - b\n", "2 0 0 0 0 failed"},
		{"yaml", "TAP version 13\n1..2\nok 1\n  ---\n  x: |\n    TAP version 13\n    1..3\n    not ok 7\n\nforeign\n  ...\nok 2\n", "2 0 0 0 0 ok"},
		{"yaml without an end", "TAP version 13\n1..2\nok 1\n  ---\n  x: 1\nok 2\n", "2 0 0 0 0 failed"},
		{"node's summary", "TAP version 13\nok 1 - a\n1..1\n# tests 2\n# pass 2\n# fail 0\n", "1 0 0 0 0 failed"},
		{"tape's summary", "TAP version 13\nok 1 a\n\n1..1\n# tests 1\n# pass  1\n\n# ok\n", "1 0 0 0 0 ok"},
		{"Test::More's last words", "1..1\nok 1\n# Looks like your test exited with 255 just after 1.\n", "1 0 0 0 0 failed"},
		{"the harness's last words", "TAP version 13\n1..1\n#  RUN           a.b ...\n#            OK  a.b\nok 1 a.b\n# PASSED: 2 / 2 tests passed.\n", "1 0 0 0 0 failed"},
		{"kselftest's totals", "TAP version 13\n1..1\nok 1 a\n# Totals: pass:2 fail:0 xfail:0 xpass:0 skip:0 error:0\n", "1 0 0 0 0 failed"},
		{"kselftest 4.18", "TAP version 13\nselftests: x: y\nok 1..1 selftests: x: y [PASS]\nnot ok 1..2 selftests: x: z [SKIP]\n", "1 0 1 0 0 failed"},
		{"kselftest 4.17", "selftests: test_a [PASS]\nselftests: test_b [FAIL]\n", "1 1 0 0 0 failed"},

		{"an unknown prefix", onLines(kunitFailed, "box-1  | 17 "), "1 1 0 0 0 failed"},
		{"an echo of a version", "+ echo TAP version 13\nTAP version 13\n1..1\nok 1\n", "1 0 0 0 0 ok"},
		{"both streams", "TAP version 13\n1..2\n[    1.000001] KTAP version 1\nok 1 a\n[    1.000002] 1..1\n[    1.000003] BUG: bad\nok 2 b\n[    1.000004] not ok 1 k\n", "2 1 0 0 0 failed"},
		{"printed twice", onTimes(kunitFailed) + onTimes(kunitFailed), "1 1 0 0 0 failed"},
		{"two boots", onTimes(kunitFailed) + strings.ReplaceAll(onTimes(kunitFailed), "[    1.", "[    0."), "2 2 0 0 0 failed"},

		{"ltp", ltpNew, "1 0 1 0 0 ok"},
		{"ltp failed", strings.ReplaceAll(strings.Replace(ltpNew, "TPASS", "TFAIL", 1), "passed   1\nfailed   0", "passed   0\nfailed   1"), "0 1 1 0 0 failed"},
		{"ltp contradicts", strings.Replace(ltpNew, "passed   1", "passed   2", 1), "1 0 1 0 0 failed"},
		{"ltp cut", ltpNew[:strings.Index(ltpNew, "broken")], "1 0 1 0 0 failed"},
		{"ltp old", "abort01    1  TPASS  :  fine\n", "0 0 0 0 0 refused"},
		{"runltp", "<<<test_start>>>\ntag=abort01 stime=1\n<<<test_output>>>\n" + ltpNew + "<<<execution_status>>>\n", "0 0 0 0 0 refused"},
		{"kirk", "Starting suite: math\n\x1b[1;37mabs01: \x1b[0m\x1b[1;32mpass\x1b[0m  (0.004s)\n\n\tTotal runs:  1\n\tFailed:  0\n", "0 0 0 0 0 refused"},
		{"test_progs", progs + "Summary: 3/1 PASSED, 2 SKIPPED, 0 FAILED\n", "2 0 2 0 0 ok"},
		{"test_progs cut", progs, "2 0 2 0 0 failed"},
		{"test_progs contradicts", progs + "Summary: 4/1 PASSED, 2 SKIPPED, 0 FAILED\n", "2 0 2 0 0 failed"},
		{"test_progs failed", strings.Replace(progs, "one:OK", "one:FAIL", 1) + "#4/1     x/y:FAIL\n#4       x:FAIL\n\nAll error logs:\n#4/1     x/y:FAIL\n#4       x:FAIL\nSummary: 3/0 PASSED, 2 SKIPPED, 1 FAILED\n", "1 2 2 0 0 failed"},
		{"test_verifier", "#0/u first OK\n#0/p first OK\n#1/p second SKIP (unsupported map type 17)\n#2/p third FAIL\nSummary: 2 PASSED, 1 SKIPPED, 1 FAILED\n", "2 1 1 0 0 failed"},
		{"kunit.py", kunitPy + "[12:00:01] Testing complete. Ran 2 tests: passed: 1, skipped: 1\n", "1 0 1 0 0 ok"},
		{"kunit.py cut", kunitPy, "1 0 1 0 0 failed"},
		{"kunit.py contradicts", kunitPy + "[12:00:01] Testing complete. Passed: 1, Failed: 1, Crashed: 0, Skipped: 1, Errors: 0\n", "1 0 1 0 0 failed"},
		{"kunit.py lost", strings.Replace(kunitPy, "[12:00:01] [PASSED] one\n", "", 1) + "[12:00:01] Testing complete. Ran 1 tests: skipped: 1\n", "0 0 1 0 1 failed"},
		{"prove", "t/a.t .. ok\nt/b.t .. skipped: no\nAll tests successful.\nFiles=2, Tests=3,  0 wallclock secs\nResult: PASS\n", "1 0 1 0 0 ok"},
		{"prove failed", "t/a.t .. ok\nt/b.t .. Failed 1/2 subtests\nFiles=2, Tests=3,  0 wallclock secs\nResult: FAIL\n", "1 1 0 0 0 failed"},
		{"prove lost a file", "t/a.t .. ok\nFiles=2, Tests=3,  0 wallclock secs\nResult: PASS\n", "1 0 0 0 0 failed"},
		{"prove -v", "t/a.t ..\n1..1\nok 1 - x\nok\nFiles=1, Tests=1,  0 wallclock secs\nResult: FAIL\n", "1 0 0 0 0 failed"},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := parseString(t, row.in)
			assert.Equal(t, short(d), row.want, "%s\n%s", row.in, dump(d))
			checkLaws(t, []byte(row.in))
		})
	}
}

// onLines puts a prefix before each line.
func onLines(s, prefix string) string {
	return prefix + strings.ReplaceAll(strings.TrimSuffix(s, "\n"), "\n", "\n"+prefix) + "\n"
}

// onTimes puts printk times before the lines.
func onTimes(s string) string {
	var b strings.Builder
	n := 0
	for l := range strings.Lines(s) {
		n++
		fmt.Fprintf(&b, "[    1.%06d] %s", n*137, l)
	}
	return b.String()
}

// prefixes are what logs put before the kernel's messages, and before anything.
var prefixes = []string{
	"", "[    1.234567] ", "[    1.234567][   T43] ", "[    1.234567] [   T43] ", "<6>[    1.234567] ", "<6>", "[   T43] ",
	"[Mon Jan  1 00:00:00 2024] ", "[Nov28 00:35] ", "[  +0.000123] ", "[    1.234567 <    0.000123>] ", "2024-01-01T00:00:00,123456+00:00 ",
	"kern  :info  : [    1.234567] ", "6,1234,5678901,-;", "6,1234,5678901,-,caller=T43;",
	"Jan  1 00:00:00 box kernel: [    1.234567] ", "Jan  1 00:00:00 box kernel: ", "[    1.234567] box kernel: ",
	"2024-01-01T00:00:00.123456+00:00 box kernel: ", "1700000000.123456 box kernel: ", "kernel: ",
	"Jan  1 00:00:00 box run[123]: ", "01-02 03:04:05.678  1234  5678 I kernel  : ",
	"2024-01-01T00:00:00.1234567Z ", "2024-01-01T00:00:00.123456Z 00O ", "[2024-01-01T00:00:00.123Z] ", "2024-01-01 00:00:00.123 | ",
	"2024-01-01T00:00:00.123456  ", "2024/01/01 00:00:00 ", "2020-05-14 10:32:44 ", "00:00:01.234  ", "[12:34:56] ", "> ", "> > [    1.234567] ",
	"2024-01-01T00:00:00.1234567Z [    1.234567] ", "box-1  | ",
}

// TestPrefixes dresses documents in every prefix, and in those of a CI system on
// top: the same counts and names.
func TestPrefixes(t *testing.T) {
	count := 0
	for _, doc := range []string{kunitFailed, kunitGood, strings.ReplaceAll(kunitGood, "    ", "\t"), "TAP version 14\n# Subtest: a\n    1..2\n    ok 1 - x\n    not ok 2 - y\n      ---\n      z: 1\n      ...\nnot ok 1 - a\n1..1\n"} {
		plain := parseString(t, doc)
		for _, inner := range prefixes {
			for _, outer := range []string{"", "2024-01-01T00:00:00.1234567Z ", "[2024-01-01T00:00:00.123Z] "} {
				if outer != "" && inner == "box-1  | " {
					continue // a prefix that is learned is the outermost
				}
				in := onLines(doc, outer+inner)
				got := parseString(t, in)
				text := dump(got)
				if strings.Contains(inner, "box-1 ") {
					// A prefix is learned from this line, which then is no version.
					version, _, _ := strings.Cut(doc, "\n")
					text = strings.Replace(text, inner+version+`\n`, "", 1)
					text = strings.Replace(text, "\n  output \"\"", "", 1)
					text = strings.Replace(text, `doc ""`, fmt.Sprintf("doc %q", plain.Version), 1)
				}
				assert.Equal(t, text, dump(plain), "%s", in)
				count++
			}
		}
	}
	t.Logf("%d dressed documents", count)
}
