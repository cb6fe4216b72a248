// SPDX-License-Identifier: Apache-2.0

package bisect

import (
	"testing"

	"gotest.tools/v3/assert"
)

func TestFindGood(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		set  func(w *world)
		p    float64
		want string
		kind Kind
	}{
		{"near", func(w *world) { w.culprit = 100 }, 1, "c99", ""},
		{"far", func(w *world) { w.culprit = 60 }, 1, "c36", ""}, // 100-64
		{"the first", func(w *world) { w.culprit = 1 }, 1, "c0", ""},
		{"rare", func(w *world) { w.culprit = 97; w.p = 0.2 }, 0, "c96", ""},
		{"holes", func(w *world) { w.culprit = 60; w.build[36], w.boot[35] = true, true }, 1, "c34", ""},
		{"none", func(w *world) { w.culprit = 0 }, 1, "", NoGood},
		{"passes", func(w *world) { w.p = 0 }, 0, "", BadPasses},
		{"untestable", func(w *world) { w.build[100] = true }, 0, "", EndUntestable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := testWorld(100, 50, 1)
			tc.set(w)
			var seen []Observation
			job := Job{Builder: w, Tester: w, Record: func(o Observation) error { seen = append(seen, o); return nil }}
			c := Config{P: tc.p, Repeat: 60}
			good, r, err := FindGood(t.Context(), w.h, c, job, nil)
			assert.NilError(t, err)
			assert.Equal(t, good, tc.want)
			if tc.kind != "" {
				assert.Equal(t, r.Kind, tc.kind, "%+v", r)
				return
			}
			// What was seen is not seen again, and helps.
			n := len(seen)
			again, _, err := FindGood(t.Context(), w.h, c, job, seen)
			assert.NilError(t, err)
			assert.Equal(t, again, good)
			assert.Equal(t, len(seen), n)
		})
	}
}
