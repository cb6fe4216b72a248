// SPDX-License-Identifier: Apache-2.0

package bisect

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"gotest.tools/v3/assert"
)

// TestMinimize finds random sets of culprits among options that depend on each
// other, some of which cannot be tested.
func TestMinimize(t *testing.T) {
	t.Parallel()
	total := 0
	for i := range 500 {
		rng := rand.New(rand.NewPCG(5, uint64(i)))
		n := 1 + rng.IntN(200)
		needs := make([][]int, n)
		for x := range needs {
			for range rng.IntN(3) {
				if y := rng.IntN(n); y < x { // no circles here
					needs[x] = append(needs[x], y)
				}
			}
		}
		var culprits []int
		for range 1 + rng.IntN(3) {
			culprits = append(culprits, rng.IntN(n))
		}
		broken := -1 // a subset with this one and without the next says nothing
		if rng.IntN(3) == 0 && n > 1 {
			broken = rng.IntN(n - 1)
		}
		m := &minimizer{needs: needs}
		want := m.closure(culprits)
		tests := 0
		test := func(_ context.Context, set []int) (Word, error) {
			tests++
			assert.DeepEqual(t, set, m.closure(set))
			if broken >= 0 && slices.Contains(set, broken) && !slices.Contains(set, broken+1) {
				return BuildFailed, nil
			}
			for _, c := range culprits {
				if !slices.Contains(set, c) {
					return Good, nil
				}
			}
			return Bad, nil
		}
		got, err := Minimize(t.Context(), n, needs, test)
		assert.NilError(t, err)
		total += tests
		closed := m.closure(got)
		for _, c := range want {
			assert.Assert(t, slices.Contains(closed, c), "%d: %v has no %d", i, got, c)
		}
		if broken < 0 {
			assert.DeepEqual(t, closed, want)
		}
	}
	t.Logf("%d tests for each on average", total/500)
}

func TestMinimizeOne(t *testing.T) {
	t.Parallel()
	tests := 0
	got, err := Minimize(t.Context(), 1024, nil, func(_ context.Context, set []int) (Word, error) {
		tests++
		if slices.Contains(set, 700) {
			return Bad, nil
		}
		return Good, nil
	})
	assert.NilError(t, err)
	assert.DeepEqual(t, got, []int{700})
	assert.Assert(t, tests <= 20, "%d tests", tests) // two for each halving
}
