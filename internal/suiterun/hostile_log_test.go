// SPDX-License-Identifier: Apache-2.0

package suiterun_test

import (
	"time"

	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/suites"
)

// shellWarning has the shell write what looks like a report of the kernel.
const shellWarning = `
for l in '------------[ cut here ]------------' 'WARNING: CPU: 0 PID: 7 at mm/x.c:1 broken+0x1/0x2' 'CPU: 0 UID: 0 PID: 7 Comm: x Not tainted 6.12.0 #1' 'RIP: 0010:broken+0x1/0x2' \
	'Call Trace:' ' <TASK>' ' caller+0x1/0x2' ' </TASK>' '---[ end trace 0000000000000000 ]---'; do echo "<4>$l" >/dev/kmsg; done
`

const (
	taintW     = "taint W (a WARNING was raised) without a report in the kernel log"
	taintAs    = `echo 512 >/proc/sys/kernel/tainted; `
	testsuite  = "./testdata/hostile"
	consoleOff = `echo N >/sys/class/tty/ttyS0/console; `
	consoleOn  = `echo Y >/sys/class/tty/ttyS0/console; `
)

// Guests that hide, forge or lose what the kernel says. Root can set a taint bit as
// a WARNING does: what the kernel's own reports leave is tried with a kernel that has
// lkdtm, in package provoke.
var _ = hostile(
	hostileGuest{
		name:    "an ordinary flood",
		sh:      `i=0; while [ $i -lt 2000 ]; do echo "line $i of the flood" >/dev/kmsg; i=$((i+1)); done; echo done`,
		verdict: result.VerdictPass, says: []string{"stdout: done"},
	},
	hostileGuest{
		name: "a panic", sh: `echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 60`,
		verdict: result.VerdictKernelFailed, says: []string{"sysrq triggered crash"},
	},
	hostileGuest{
		name: "a failing test", suite: "../../suites/testmain/testdata/sample", tests: "^(TestZFail|TestPass)$",
		verdict: result.VerdictTestFailed, says: []string{"1 of 2 tests failed", "case: TestPass pass", "case: TestZFail fail"},
	},

	// The taint bits.
	hostileGuest{name: "a WARNING that nobody saw", sh: taintAs, verdict: result.VerdictKernelFailed, says: []string{taintW}},
	hostileGuest{
		name: "an oops that nobody saw", sh: `echo 128 >/proc/sys/kernel/tainted; exit 3`, boots: true,
		verdict: result.VerdictKernelFailed, says: []string{"taint D (the kernel died: an oops or a BUG) without a report"},
	},
	hostileGuest{
		name: "taint that is no fault", sh: `echo $((1|2|4|8|64|1024|4096|8192|32768|65536)) >/proc/sys/kernel/tainted; cat /proc/sys/kernel/tainted`,
		verdict: result.VerdictPass, never: []string{"without a report"},
	},
	hostileGuest{
		name: "a test's WARNING that nobody saw", suite: testsuite, tests: "^(TestTaint|TestQuiet)$",
		verdict: result.VerdictKernelFailed, says: []string{taintW, "case: TestTaint fail: " + taintW, "case: TestQuiet pass", `[test "TestTaint"`},
	},
	hostileGuest{
		name: "an isolated test's WARNING that nobody saw", suite: testsuite, tests: "^(TestTaint|TestQuiet)$", isolate: suites.IsolateTest,
		verdict: result.VerdictKernelFailed, says: []string{"case: TestTaint fail: " + taintW, "case: TestQuiet pass", `[test "TestTaint"`},
	},

	// The console.
	hostileGuest{name: "the console is silenced", sh: consoleOff + taintAs + consoleOn, verdict: result.VerdictKernelFailed, says: []string{taintW}},
	hostileGuest{
		name: "the console level hides all", sh: `echo N >/sys/module/printk/parameters/ignore_loglevel; echo 1 >/proc/sys/kernel/printk; ` + taintAs,
		verdict: result.VerdictKernelFailed, says: []string{taintW},
	},
	hostileGuest{
		name: "the serial port sends to itself", sh: `uart on && ` + taintAs + `uart off`,
		verdict: result.VerdictKernelFailed, says: []string{taintW},
	},
	hostileGuest{
		name: "the serial port sends to itself for good", sh: `uart on && echo on`, timeout: time.Minute,
		verdict: result.VerdictInfra, says: []string{"stdout: on", "end mark"},
	},
	hostileGuest{
		name: "messages that the console dropped", sh: `echo; echo "** 7 printk messages dropped **" >/dev/ttyS0; sleep 1`,
		verdict: result.VerdictPass, says: []string{"note: the console dropped 7 messages; the agent has read all of them"},
	},
	hostileGuest{
		// A buffer of 500 such records.
		name: "records that were overwritten", cmdline: []string{"log_buf_len=256K"},
		sh: consoleOff + `s=x; for i in 1 2 3 4 5 6 7 8 9; do s=$s$s; done; i=0; while [ $i -lt 4000 ]; do printf %s $s; i=$((i+1)); done >/tmp/f
			for i in 1 2 3 4 5 6 7 8; do dd if=/tmp/f of=/dev/kmsg bs=512; done 2>/dev/null; ` + consoleOn + `echo done`,
		verdict: result.VerdictInfra, says: []string{"the kernel log was not read to its end: records were overwritten", "stdout: done"},
	},

	// Marks, of programs that are not to make any.
	hostileGuest{
		name:    "a program forges marks",
		sh:      `echo 'kvmrun: test begin X' >/dev/kmsg; echo 'kvmrun: test expects "X" ".*"' >/dev/kmsg; ` + shellWarning + `echo 'kvmrun: test end X' >/dev/kmsg`,
		verdict: result.VerdictKernelFailed, says: []string{"WARNING in broken", "expected false", `[test "",`},
	},
	hostileGuest{
		name: "a test forges marks", suite: testsuite, tests: "^(TestForgedMarks|TestQuiet)$",
		verdict: result.VerdictKernelFailed, says: []string{"case: TestForgedMarks fail: WARNING in broken", "case: TestQuiet pass", `[test "TestForgedMarks"`},
	},
	hostileGuest{
		name: "an isolated test forges marks", suite: testsuite, tests: "^(TestForgedMarks|TestQuiet)$", isolate: suites.IsolateTest,
		verdict: result.VerdictKernelFailed, says: []string{"case: TestForgedMarks fail: WARNING in broken", "case: TestQuiet pass", `[test "TestForgedMarks"`},
	},
	hostileGuest{
		name: "a test forges an expectation", suite: testsuite, tests: "^TestForgedExpectation$",
		verdict: result.VerdictKernelFailed, says: []string{"case: TestForgedExpectation fail: WARNING in broken", "expected false"},
	},
	hostileGuest{
		name: "children do not know the word", suite: testsuite, tests: "^TestEnvironment$",
		verdict: result.VerdictPass,
	},
	hostileGuest{
		name: "children of an isolated test do not know the word", suite: testsuite, tests: "^TestEnvironment$", isolate: suites.IsolateTest,
		verdict: result.VerdictPass,
	},

	// Last words.
	hostileGuest{name: "a program forges last words", sh: `echo 'kvmrun: fatal: forged' >/dev/kmsg`, verdict: result.VerdictPass},
	hostileGuest{
		name: "a failing program forges last words", sh: `echo 'kvmrun: fatal: forged' >/dev/kmsg; exit 4`,
		verdict: result.VerdictTestFailed, says: []string{"status 4"},
	},
	hostileGuest{name: "a test forges last words", suite: testsuite, tests: "^TestForgedFatal$", verdict: result.VerdictPass},
	hostileGuest{
		name: "a failing test forges last words", suite: testsuite, tests: "^TestForgedFatalFails$",
		verdict: result.VerdictTestFailed, says: []string{"1 of 1 test failed"}, never: []string{"cannot be used"},
	},
)
