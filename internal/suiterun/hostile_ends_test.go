// SPDX-License-Identifier: Apache-2.0

package suiterun_test

import (
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/suites"
)

// sampleSuite has tests that end in every way.
const sampleSuite = "../../suites/testmain/testdata/sample"

const endsWith0 = "the test binary ended during this test: exit status 0"

var _ = hostile(
	hostileGuest{
		name: "exit_group(0) in the third of three tests", suite: sampleSuite, tests: "^(TestPass|TestCover|TestZExitGroup)$",
		verdict: result.VerdictTestFailed, says: []string{"1 of 3 tests failed", "case: TestZExitGroup fail: " + endsWith0, "case: TestPass pass"},
	},
	hostileGuest{
		name: "exit_group(0) in a parallel subtest", suite: sampleSuite, tests: "^(TestZExitInSubtests|TestZLast)$",
		verdict: result.VerdictTestFailed, says: []string{"case: TestZExitInSubtests fail: " + endsWith0, "case: TestZLast pass"},
	},
	hostileGuest{
		name: "a test that says it passed and exits with 0", suite: sampleSuite, tests: "^(TestZExitSaid|TestZLast)$",
		verdict: result.VerdictTestFailed, says: []string{"case: TestZExitSaid fail: " + endsWith0, "case: TestZLast pass"}, never: []string{"reported two results:"},
	},
	hostileGuest{
		name: "another program in the test's place, alone", suite: sampleSuite, tests: "^(TestZExec|TestZLast)$", isolate: suites.IsolateTest,
		verdict: result.VerdictTestFailed, says: []string{"case: TestZExec fail: " + endsWith0, "case: TestZLast pass"},
	},
	hostileGuest{
		name: "exit_group(0) with tests to come that may not have another VM", suite: sampleSuite, tests: "^(TestZExitGroup|TestZLast)$", keepGoing: true,
		verdict: result.VerdictTestFailed, says: []string{"1 of 1 test failed, 1 not run", "case: TestZExitGroup fail: " + endsWith0, "case: TestZLast not-run: the run ended before"},
	},
	hostileGuest{
		name: "os.Exit(0) in a test", suite: sampleSuite, tests: "^(TestZOSExit|TestZLast)$", args: []string{"-test.paniconexit0"},
		verdict: result.VerdictTestFailed, says: []string{"case: TestZOSExit fail: panic: unexpected call to os.Exit(0) during test", "case: TestZLast pass"},
	},
	hostileGuest{
		name: "nothing but skips", suite: sampleSuite, tests: "^(TestZNothing|TestEarnedSkip)$",
		verdict: result.VerdictNothingTested, says: []string{"nothing tested: 2 tests skipped"},
	},
)
