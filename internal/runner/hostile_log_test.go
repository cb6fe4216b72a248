// SPDX-License-Identifier: Apache-2.0

package runner_test

import "github.com/kvmrun/kvmrun/internal/result"

// Guests that hide, forge or lose what the kernel says.
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
)
