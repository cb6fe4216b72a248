// SPDX-License-Identifier: Apache-2.0

package kmsg

import (
	"testing"

	"gotest.tools/v3/assert"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Record
		ok   bool
	}{
		{"6,339,5140900,-;NET: Registered protocol family 10\n", Record{6, 0, 339, "NET: Registered protocol family 10"}, true},
		{"4,340,5140901,c,caller=T1;first\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n", Record{4, 0, 340, "first"}, true},
		{"12,341,5140902,-;user: a, b; c\n", Record{4, 1, 341, "user: a, b; c"}, true},
		{"6,0,0,-;", Record{Level: 6}, true},
		{"6,18446744073709551615,0,-;x", Record{6, 0, 1<<64 - 1, "x"}, true},
		{"", Record{}, false},
		{"6", Record{}, false},
		{"6,1", Record{}, false},
		{"6,1,2,-", Record{}, false},
		{"x,1,2,-;text", Record{}, false},
		{"-1,1,2,-;text", Record{}, false},
		{"6,x,2,-;text", Record{}, false},
		{"6,18446744073709551616,0,-;x", Record{}, false},
		{"99999999999,1,2,-;text", Record{}, false},
	} {
		got, ok := Parse([]byte(c.in))
		assert.Equal(t, ok, c.ok, "%q", c.in)
		assert.Equal(t, got, c.want, "%q", c.in)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("6,339,5140900,-;NET: Registered protocol family 10\n SUBSYSTEM=x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, ok := Parse(b); ok && (r.Level < 0 || r.Level > 7 || r.Facility < 0 || len(r.Text) > len(b)) {
			t.Errorf("%q: %+v", b, r)
		}
	})
}
