// SPDX-License-Identifier: Apache-2.0

package sweeprun

import (
	"encoding/hex"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// TestFlags finds the test of FAULT_NOWARN in code as compilers write it, and
// nothing else.
func TestFlags(t *testing.T) {
	for _, c := range []struct {
		name, code string
		want       []int
	}{
		// gcc 12 with KASAN and UBSAN (6.12): the first test is of task_filter.
		{"kept in r12", "4157 4156 4155 4154 4189d4 55 4889f5 4183e501 7449 4183e401 0f84b2000000 b801000000", []int{24}},
		{"the same, tested only", "41 89d4 41 f6c401 7520", []int{6}},
		{"kept in ebp", "89d5 83e501 7402", []int{4}},
		{"kept in ebp, tested only", "89d5 40f6c501 7402", []int{5}},
		{"kept on the stack", "89542414 f644241401 7510", []int{8}},
		{"another place on the stack", "89542414 f644241801 7510", nil},
		{"kept below the frame", "8955d4 f645d401 0f8500010000", []int{6}},
		{"no jump", "4189d4 4183e401 4489e0", nil},
		{"another bit", "4189d4 4183e402 7400", nil},
		{"another register", "4189d4 83e401 7400", nil},
		{"a pointer", "4889d4 83e401 7400", nil},
		{"cut", "4189d4 4183e401", nil},
		{"nothing", "", nil},
	} {
		code, err := hex.DecodeString(strings.ReplaceAll(c.code, " ", ""))
		assert.NilError(t, err)
		assert.DeepEqual(t, testOfFlags(code), c.want)
		for i := range code { // no length of it is too short
			testOfFlags(code[:i])
		}
	}
	assert.DeepEqual(t, returnTrue([]byte("\xb8\x01\x00\x00\x00\xb8\x01\x00\x00\x00\xb8\x01")), []int{1, 6})
}
