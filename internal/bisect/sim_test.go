// SPDX-License-Identifier: Apache-2.0

package bisect

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"

	"gotest.tools/v3/assert"
)

// world is a simulated history with a culprit in it, and everything that can
// be wrong with it. It is Builder and Tester.
type world struct {
	h       History
	g       *graph
	culprit int
	p       float64
	boot    map[int]bool    // does not boot
	build   map[int]bool    // does not build
	other   map[int]float64 // another bug shows first, with this probability
	kernel  []string
	infra   float64 // chance of an accident

	mu      sync.Mutex
	rng     *rand.Rand
	runs    map[Phase]int
	kernels map[string]bool
}

func (w *world) Build(_ context.Context, id string) (Build, error) {
	x, err := strconv.Atoi(id[1:])
	if err != nil {
		return Build{}, err
	}
	if w.build[x] {
		return Build{Word: BuildFailed, Reason: "a.c:1: error"}, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kernels[w.kernel[x]] = true
	return Build{Kernel: w.kernel[x], Path: id}, nil
}

func (w *world) Test(_ context.Context, id string, b Build) (Observation, error) {
	x, err := strconv.Atoi(id[1:])
	if err != nil {
		return Observation{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.rng.Float64() < w.infra:
		return Observation{Word: Infra}, nil
	case w.boot[x]:
		return Observation{Word: BootFailed}, nil
	case w.rng.Float64() < w.other[x]:
		return Observation{Word: Other}, nil
	case w.g.bad(w.culprit, x) && w.rng.Float64() < w.p:
		return Observation{Word: Bad}, nil
	}
	return Observation{Word: Good}, nil
}

// linearHistory has n candidates.
func linearHistory(n int) History {
	ps := make([]Point, n+1)
	for i := range ps {
		ps[i].ID = "c" + strconv.Itoa(i)
	}
	return Linear(ps)
}

// mergedHistory has n candidates on branches that fork and merge at random, some
// from before the good end.
func mergedHistory(rng *rand.Rand, n int) History {
	h := History{Points: []Point{{ID: "c0", Base: true}, {ID: "c1", Base: true}}, Good: 0}
	heads := []int{0}
	for len(h.Points) < n+2 {
		i := len(h.Points)
		p := Point{ID: "c" + strconv.Itoa(i)}
		left := n + 2 - i
		switch r := rng.Float64(); {
		case len(heads) > 1 && (r < 0.15 || left <= len(heads)):
			a, b := rng.IntN(len(heads)), rng.IntN(len(heads)-1)
			if b >= a {
				b++
			}
			p.Parents = []int{heads[a], heads[b]}
			heads[a] = i
			heads = slices.Delete(heads, b, b+1)
		case r < 0.3 && left > len(heads)+2:
			from := rng.IntN(i)
			p.Parents = []int{from}
			heads = append(heads, i)
		default:
			a := rng.IntN(len(heads))
			p.Parents = []int{heads[a]}
			heads[a] = i
		}
		h.Points = append(h.Points, p)
	}
	// As git's A..B: only what the bad end descends from.
	g := newGraph(&h)
	bad := h.Bad()
	keep := map[int]int{0: 0}
	out := History{Points: []Point{h.Points[0]}}
	for i := 1; i <= bad; i++ {
		if !h.Points[i].Base && !g.bad(i, bad) {
			continue
		}
		p := h.Points[i]
		p.ID = "c" + strconv.Itoa(len(out.Points))
		var parents []int
		for _, q := range p.Parents {
			parents = append(parents, keep[q])
		}
		p.Parents = parents
		keep[i] = len(out.Points)
		out.Points = append(out.Points, p)
	}
	return out
}

func newWorld(rng *rand.Rand, h History, p float64) *world {
	w := &world{
		h: h, g: newGraph(&h), p: p, rng: rng, runs: map[Phase]int{}, kernels: map[string]bool{},
		boot: map[int]bool{}, build: map[int]bool{}, other: map[int]float64{}, kernel: make([]string, len(h.Points)),
	}
	for i := range w.kernel {
		w.kernel[i] = "k" + strconv.Itoa(i)
	}
	var cs []int
	for i, p := range h.Points {
		if !p.Base {
			cs = append(cs, i)
		}
	}
	switch rng.IntN(10) {
	case 0:
		w.culprit = cs[0]
	case 1:
		w.culprit = cs[len(cs)-1]
	default:
		w.culprit = cs[rng.IntN(len(cs))]
	}
	return w
}

// spoil adds what makes bisecting hard. The ends stay as they are.
func (w *world) spoil() {
	n := len(w.h.Points)
	span := func() (int, int) {
		from := rng1(w.rng, n)
		return from, min(n-1, from+1+w.rng.IntN(max(1, n/5)))
	}
	mark := func(from, to int, f func(x int)) {
		for x := from; x < to; x++ {
			if !w.h.Points[x].Base && x != w.h.Bad() {
				f(x)
			}
		}
	}
	if w.rng.IntN(3) == 0 {
		from, to := span()
		mark(from, to, func(x int) { w.boot[x] = true })
	}
	if w.rng.IntN(3) == 0 {
		from, to := span()
		sometimes := 1.0
		if w.rng.IntN(2) == 0 {
			sometimes = 0.5
		}
		mark(from, to, func(x int) { w.other[x] = sometimes })
	}
	for range w.rng.IntN(4) {
		x := rng1(w.rng, n)
		mark(x, x+1, func(x int) { w.build[x] = true })
	}
	for i, p := range w.h.Points {
		if len(p.Parents) == 1 && i != w.culprit && w.rng.IntN(5) == 0 {
			w.kernel[i] = w.kernel[p.Parents[0]]
			// The same kernel behaves the same.
			q := p.Parents[0]
			if w.boot[q] != w.boot[i] || w.build[q] != w.build[i] || w.other[q] != w.other[i] || w.h.Points[q].Base {
				w.kernel[i] = "k" + strconv.Itoa(i)
			}
		}
	}
	w.infra = 0.01
}

// twins counts the points that no run can tell from the culprit.
func (w *world) twins() int {
	class := w.g.classes(func(x int) bool { return !w.h.Points[x].Base && !w.boot[x] && !w.build[x] && w.other[x] < 1 })
	n := 0
	for k, p := range w.h.Points {
		if !p.Base && class[k] == class[w.culprit] {
			n++
		}
	}
	return n
}

func rng1(rng *rand.Rand, n int) int { return 1 + rng.IntN(max(1, n-1)) }

// bisect searches a world to its end.
func (w *world) bisect(t *testing.T, c Config) *Result {
	t.Helper()
	s, err := New(w.h, c)
	assert.NilError(t, err)
	r, err := Run(t.Context(), s, Job{Builder: w, Tester: w, Record: func(o Observation) error {
		w.runs[o.Phase]++
		if len(s.obs) > 20000 {
			t.Fatalf("the search does not end: %s", stuck(w, s))
		}
		return nil
	}})
	assert.NilError(t, err)
	return r
}

// TestCulpritsAreRight holds the promise of the stated confidence.
func TestCulpritsAreRight(t *testing.T) {
	t.Parallel()
	const worlds = 2000
	ps := []float64{1, 1, 1, 1, 0.95, 0.8, 0.5, 0.3, 0.1, 0.05}
	type sum struct{ n, named, right, ranges, inRange, runs, noEnd, wide, vain int }
	total := map[float64]*sum{}
	for _, p := range ps {
		total[p] = &sum{}
	}
	var all sum
	for i := range worlds {
		rng := rand.New(rand.NewPCG(1, uint64(i)))
		n := 1 + int(math.Exp(rng.Float64()*math.Log(120)))
		h := linearHistory(n)
		if i%2 == 1 {
			h = mergedHistory(rng, n)
		}
		p := ps[rng.IntN(len(ps))]
		w := newWorld(rng, h, p)
		if rng.IntN(2) == 0 {
			w.spoil()
		}
		r := w.bisect(t, Config{Repeat: 100, Parallel: 1 + i%3})
		s := total[p]
		for _, s := range []*sum{s, &all} {
			s.n++
			for _, k := range w.runs {
				s.runs += k
			}
			hit := slices.ContainsFunc(r.Found, func(q Point) bool { return q.ID == h.Points[w.culprit].ID })
			switch r.Kind {
			case Culprit:
				s.named++
				if hit {
					s.right++
				}
			case Range:
				s.ranges++
				if hit {
					s.inRange++
				}
				if w.infra == 0 {
					s.vain++
				}
				if len(r.Found) > w.twins() {
					s.wide++
				}
			default:
				s.noEnd++
			}
		}
		if r.Kind == Culprit {
			assert.Assert(t, r.Confidence >= DefaultConfidence, "%+v", r)
			k := h.Points[w.culprit]
			named, err := strconv.Atoi(r.Found[0].ID[1:])
			assert.NilError(t, err)
			for _, q := range h.Points[named].Parents {
				assert.Assert(t, w.kernel[q] != w.kernel[named], "%s has its parent's kernel", k.ID)
			}
			assert.Assert(t, !r.Confirmed || !w.boot[named] && !w.build[named], "confirmed a point that cannot be tested")
		}
	}
	for _, p := range slices.Compact(slices.Clone(ps)) {
		t.Logf("p %.2f: %+v", p, *total[p])
	}
	t.Logf("all: %+v", all)
	assert.Assert(t, float64(all.right) >= DefaultConfidence*float64(all.named), "%+v", all)
	assert.Assert(t, float64(all.inRange) >= DefaultConfidence*float64(all.ranges), "%+v", all)
	// A range needs a reason, and an answer is owed.
	assert.Equal(t, all.vain, 0)
	assert.Assert(t, float64(all.wide) <= (1-DefaultConfidence)*float64(all.ranges), "%+v", all)
	assert.Assert(t, all.named > worlds*3/4, "%+v", all)
	assert.Assert(t, all.noEnd < worlds/100, "%+v", all)
}

// TestFewRuns holds the number of runs against the information bound, log2 of
// the candidates.
func TestFewRuns(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		p    float64 // as given
		h    func(n int) History
	}{
		{"linear, p given", 1, linearHistory},
		{"linear, p measured", 0, linearHistory},
		{"merged, p given", 1, func(n int) History { return mergedHistory(rand.New(rand.NewPCG(2, uint64(n))), n) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for _, n := range []int{2, 3, 10, 100, 1000} {
				h := tc.h(n)
				sum, worst, worlds := 0, 0, 0
				for k := range h.Points {
					if h.Points[k].Base || n == 1000 && k%97 != 0 {
						continue
					}
					w := newWorld(rand.New(rand.NewPCG(3, uint64(k))), h, 1)
					w.culprit = k
					r := w.bisect(t, Config{P: tc.p})
					assert.Equal(t, r.Kind, Culprit)
					assert.Equal(t, r.Found[0].ID, h.Points[k].ID)
					// All but what is always made: once the ends, or what it takes to
					// measure p, and the culprit and its parents once more.
					search := -1 - len(h.Points[k].Parents)
					for phase, runs := range w.runs {
						if phase != BadEnd && phase != GoodEnd {
							search += runs
						}
					}
					sum, worst, worlds = sum+search, max(worst, search), worlds+1
				}
				bound := math.Log2(float64(h.Candidates()))
				mean := float64(sum) / float64(worlds)
				t.Logf("%d candidates: mean %.2f runs, worst %d, bound %.2f, ratio %.3f", h.Candidates(), mean, worst, bound, mean/max(bound, 1))
				assert.Assert(t, n < 10 && tc.p == 0 || mean <= 1.25*bound+1e-9, "%d candidates: %.2f runs, bound %.2f", h.Candidates(), mean, bound)
			}
		})
	}
}

// stuck describes a search that does not end.
func stuck(w *world, s *Search) string {
	b := s.believe(nil)
	found, mass := s.answer(b)
	gain, _ := b.gains(s.g)
	out := fmt.Sprintf("p %v culprit %d found %v mass %v next %v\n", w.p, w.culprit, found, mass, s.Next(1))
	for x := range s.at {
		out += fmt.Sprintf("%d %v parents %v post %.3g gain %.3g seen %v kernel %s\n", x, s.h.Points[x].Base, s.h.Points[x].Parents, b.post[x], gain[x], s.at[x].count, s.at[x].kernel)
	}
	return out
}
