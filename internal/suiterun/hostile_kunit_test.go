// SPDX-License-Identifier: Apache-2.0

package suiterun_test

import (
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/suites"
)

// A test in the kernel that fails has failed, whoever loaded its module.
var _ = hostile(
	hostileGuest{
		name: "KUnit passes during a test", suite: testsuite, tests: "^TestKUnitPasses$",
		verdict: result.VerdictPass, says: []string{"note: KUnit in the kernel log: 2 run, 2 passed, 0 skipped, 0 failed, 0 missing"}, never: []string{"case: kunit"},
	},
	hostileGuest{
		name: "KUnit fails during a test", suite: testsuite, tests: "^(TestKUnitFails|TestQuiet)$",
		verdict: result.VerdictTestFailed, says: []string{"1 of 3 tests failed", "case: kunit/hw/second fail: ", "case: TestKUnitFails pass", "case: TestQuiet pass"},
	},
	hostileGuest{
		name: "KUnit fails during an isolated test", suite: testsuite, tests: "^(TestKUnitFails|TestQuiet)$", isolate: suites.IsolateTest,
		verdict: result.VerdictTestFailed, says: []string{"1 of 3 tests failed", "case: kunit/hw/second fail: ", "case: TestKUnitFails pass"},
	},
	hostileGuest{
		name: "KUnit breaks off", suite: testsuite, tests: "^TestKUnitBreaksOff$",
		verdict: result.VerdictTestFailed, says: []string{"case: kunit"},
	},
)
