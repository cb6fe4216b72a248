// SPDX-License-Identifier: Apache-2.0

package bisect

import (
	"context"
	"slices"
)

// Minimize finds a smallest set of n changes that makes a good thing bad, by
// delta debugging (Zeller and Hildebrandt, Simplifying and isolating
// failure-inducing input, 2002): all of them do, none do not, and without any one
// of the set it is not bad any more. needs are what a change is not possible
// without, by index; they come along and are not in the result. test is asked
// about sorted sets that are closed in that sense, each once; a word that says
// nothing counts as not bad.
func Minimize(ctx context.Context, n int, needs [][]int, test func(ctx context.Context, set []int) (Word, error)) ([]int, error) {
	m := &minimizer{needs: needs, test: test, known: map[string]Word{}}
	set := make([]int, n)
	for i := range set {
		set[i] = i
	}
	parts := 2
	for len(set) > 1 {
		smaller, err := m.reduce(ctx, set, parts)
		if err != nil {
			return nil, err
		}
		switch {
		case smaller.set != nil:
			set, parts = smaller.set, max(2, min(smaller.parts, len(smaller.set)))
		case parts >= len(set):
			return m.trim(ctx, set)
		default:
			parts = min(2*parts, len(set))
		}
	}
	return m.trim(ctx, set)
}

type minimizer struct {
	needs [][]int
	test  func(ctx context.Context, set []int) (Word, error)
	known map[string]Word
}

func (m *minimizer) closure(set []int) []int { return Closure(set, m.needs) }

// Closure adds to a set of changes what they need, and sorts it.
func Closure(set []int, needs [][]int) []int {
	in := map[int]bool{}
	var add func(i int)
	add = func(i int) {
		if in[i] {
			return
		}
		in[i] = true
		if i < len(needs) {
			for _, j := range needs[i] {
				add(j)
			}
		}
	}
	for _, i := range set {
		add(i)
	}
	out := make([]int, 0, len(in))
	for i := range in {
		out = append(out, i)
	}
	slices.Sort(out)
	return out
}

func (m *minimizer) bad(ctx context.Context, set []int) (bool, error) {
	set = m.closure(set)
	key := make([]byte, 0, 4*len(set))
	for _, i := range set {
		key = append(key, byte(i), byte(i>>8), byte(i>>16), byte(i>>24))
	}
	w, ok := m.known[string(key)]
	if !ok {
		var err error
		if w, err = m.test(ctx, set); err != nil {
			return false, err
		}
		m.known[string(key)] = w
	}
	return w == Bad, nil
}

type reduced struct {
	set   []int
	parts int
}

// reduce tries each of the parts alone, then all but each.
func (m *minimizer) reduce(ctx context.Context, set []int, parts int) (reduced, error) {
	whole := len(m.closure(set))
	var chunks [][]int
	for i := range parts {
		chunks = append(chunks, set[i*len(set)/parts:(i+1)*len(set)/parts])
	}
	for _, c := range chunks {
		if len(c) == 0 || len(m.closure(c)) == whole {
			continue // the same thing again
		}
		if bad, err := m.bad(ctx, c); bad || err != nil {
			return reduced{slices.Clone(c), 2}, err
		}
	}
	if parts == 2 {
		return reduced{}, nil // all but one is the other
	}
	for i := range chunks {
		rest := slices.Concat(slices.Concat(chunks[:i]...), slices.Concat(chunks[i+1:]...))
		if len(m.closure(rest)) == whole {
			continue
		}
		if bad, err := m.bad(ctx, rest); bad || err != nil {
			return reduced{rest, parts - 1}, err
		}
	}
	return reduced{}, nil
}

// trim takes away, one at a time, what nothing else in the set needs, as long as
// it stays bad: the culprit may be what came along. It returns what the rest of
// the set does not need.
func (m *minimizer) trim(ctx context.Context, set []int) ([]int, error) {
	set = m.closure(set)
	top := func(i int) bool {
		rest := m.closure(slices.Concat(set[:i], set[i+1:]))
		return len(rest) < len(set)
	}
	for i := 0; i < len(set) && len(set) > 1; {
		if !top(i) {
			i++
			continue
		}
		rest := slices.Concat(set[:i], set[i+1:])
		bad, err := m.bad(ctx, rest)
		if err != nil {
			return nil, err
		}
		if i++; bad {
			set, i = rest, 0
		}
	}
	var out []int
	for i, x := range set {
		if top(i) {
			out = append(out, x)
		}
	}
	if len(out) == 0 {
		out = set // they need each other
	}
	return out, nil
}
