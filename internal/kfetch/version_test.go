// SPDX-License-Identifier: Apache-2.0

package kfetch

import (
	"fmt"
	"os/exec"
	"testing"

	"gotest.tools/v3/assert"
)

// The order is dpkg's, by asking dpkg about each pair.
func TestCompareVersions(t *testing.T) {
	if _, err := exec.LookPath("dpkg"); err != nil {
		t.Skip("dpkg is not installed (try: apt-get install dpkg)")
	}
	versions := []string{
		"6.12.9-1", "6.12.10-1", "6.12.117-1~deb12u1", "6.12.117-1", "6.12.117-1+b1", "6.12.115-2~deb12u1", "6.1.192-2",
		"6.8.0-31.31", "6.8.0-100.1", "1:1.0-1", "6.12~rc1-1~exp1", "6.12-1", "6.12", "6.12.0", "06.12", "6.12a", "6.12+x", "6.12.~1", "0",
		"6.12.117-1~", "6.12.117-1~~", "6.12-a-1", "6.12-a.2",
	}
	sign := func(n int) int { return max(-1, min(1, n)) }
	for _, a := range versions {
		for _, b := range versions {
			want := -2
			for op, v := range map[string]int{"lt": -1, "eq": 0, "gt": 1} {
				if exec.Command("dpkg", "--compare-versions", a, op, b).Run() == nil {
					want = v
				}
			}
			assert.Equal(t, sign(CompareVersions(a, b)), want, fmt.Sprintf("%s %s", a, b))
		}
	}
}

func FuzzCompareVersions(f *testing.F) {
	f.Add("6.12.117-1~deb12u1", "1:6.8.0-31.31", "0~")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		if CompareVersions(a, b) < 0 != (CompareVersions(b, a) > 0) {
			t.Fatalf("%q and %q are not ordered", a, b)
		}
		if CompareVersions(a, a) != 0 {
			t.Fatalf("%q is not equal to itself", a)
		}
		if CompareVersions(a, b) < 0 && CompareVersions(b, c) < 0 && CompareVersions(a, c) >= 0 {
			t.Fatalf("%q < %q < %q is not transitive", a, b, c)
		}
	})
}
