// SPDX-License-Identifier: Apache-2.0

package oops

import "testing"

// TestPatternsCompile compiles what is otherwise compiled at its first use.
func TestPatternsCompile(t *testing.T) {
	buildTable()
	if len(lazyREs) < 70 {
		t.Errorf("only %d patterns are known", len(lazyREs))
	}
	for _, p := range lazyREs {
		p.get() // panics, naming the expression
	}
}
