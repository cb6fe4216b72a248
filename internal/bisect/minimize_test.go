// SPDX-License-Identifier: Apache-2.0

package bisect

import (
	"context"
	"fmt"
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

// sets are configurations that fail at times. It is Builder and Tester.
type sets struct {
	rng      *rand.Rand
	p        float64
	culprits []int
	of       map[string][]int
	runs     int
}

func (s *sets) id(set []int) string {
	id := fmt.Sprint(set)
	s.of[id] = slices.Clone(set)
	return id
}

func (s *sets) Build(_ context.Context, id string) (Build, error) { return Build{Kernel: id}, nil }

func (s *sets) Test(_ context.Context, id string, _ Build) (Observation, error) {
	s.runs++
	for _, c := range s.culprits {
		if !slices.Contains(s.of[id], c) {
			return Observation{Word: Good}, nil
		}
	}
	if s.rng.Float64() < s.p {
		return Observation{Word: Bad}, nil
	}
	return Observation{Word: Good}, nil
}

// TestMinimizeFlaky holds the confidence where a bad set passes at times: a set
// that is wrongly called good leaves too many options in the answer.
func TestMinimizeFlaky(t *testing.T) {
	t.Parallel()
	const worlds = 400
	right, runs := 0, 0
	for i := range worlds {
		rng := rand.New(rand.NewPCG(6, uint64(i)))
		n := 2 + rng.IntN(60)
		w := &sets{rng: rng, p: []float64{1, 0.9, 0.5, 0.3}[i%4], culprits: []int{rng.IntN(n), rng.IntN(n)}, of: map[string][]int{}}
		slices.Sort(w.culprits)
		w.culprits = slices.Compact(w.culprits)
		all := make([]int, n)
		for x := range all {
			all[x] = x
		}
		l, err := NewProber(Config{Repeat: 60}, Job{Builder: w, Tester: w}, w.id(all), nil)
		assert.NilError(t, err)
		r, err := l.Measure(t.Context())
		assert.NilError(t, err)
		assert.Assert(t, r == nil)
		got, err := l.Minimize(t.Context(), n, nil, w.id)
		assert.NilError(t, err)
		assert.Assert(t, l.Confidence() >= DefaultConfidence && l.Confidence() <= 1, "%v", l.Confidence())
		if runs += w.runs; slices.Equal(got, w.culprits) {
			right++
		}
	}
	t.Logf("%d of %d right, %d runs each", right, worlds, runs/worlds)
	assert.Assert(t, float64(right) >= DefaultConfidence*worlds, "%d of %d", right, worlds)
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
