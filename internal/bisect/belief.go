// SPDX-License-Identifier: Apache-2.0

package bisect

import (
	"math"
	"math/bits"
)

const (
	// falseAlarm is the probability of the symptom at a good point.
	falseAlarm = 1e-6
	// priorBefore is the prior of the good end's being bad.
	priorBefore = 0.02
	// priorSure is the prior of p = 1, the rest is uniform.
	priorSure = 0.5
)

// graph answers which points descend from which.
type graph struct {
	n     int
	good  int
	chain bool
	base  []bool
	anc   [][]uint64 // of each point, itself included, without base points; nil for a chain
}

func newGraph(h *History) *graph {
	g := &graph{n: len(h.Points), good: h.Good, chain: h.linear(), base: make([]bool, len(h.Points))}
	for i, p := range h.Points {
		g.base[i] = p.Base
	}
	if g.chain {
		return g
	}
	words := (g.n + 63) / 64
	g.anc = make([][]uint64, g.n)
	for i, p := range h.Points {
		b := make([]uint64, words)
		if !p.Base {
			b[i/64] |= 1 << (i % 64)
		}
		for _, q := range p.Parents {
			for w, v := range g.anc[q] {
				b[w] |= v
			}
		}
		g.anc[i] = b
	}
	return g
}

// bad says whether point x is bad if k is the culprit. The good end as the
// culprit stands for one before it: then everything is bad.
func (g *graph) bad(k, x int) bool {
	switch {
	case k == g.good:
		return true
	case g.chain:
		return k <= x
	}
	return g.anc[x][k/64]>>(k%64)&1 != 0
}

// sums adds up w over the ancestors of every point, itself included, and w of
// the good end everywhere.
func (g *graph) sums(w []float64) []float64 {
	out := make([]float64, g.n)
	if g.chain {
		sum := 0.0
		for i := range out {
			sum += w[i]
			out[i] = sum
		}
		return out
	}
	for x := range out {
		sum := w[g.good]
		for i, v := range g.anc[x] {
			for ; v != 0; v &= v - 1 {
				sum += w[i*64+bits.TrailingZeros64(v)]
			}
		}
		out[x] = sum
	}
	return out
}

// classes says which culprits no test can tell apart, given which points can
// be tested: equal numbers are one class.
func (g *graph) classes(testable func(x int) bool) []uint64 {
	out := make([]uint64, g.n)
	if g.chain {
		next := uint64(0)
		for x := g.n - 1; x > 0; x-- {
			if testable(x) {
				next = uint64(x)
			}
			out[x] = next
		}
		out[0] = math.MaxUint64
		return out
	}
	for x := range out {
		if !testable(x) {
			continue
		}
		r := mix(uint64(x))
		for i, v := range g.anc[x] {
			for ; v != 0; v &= v - 1 {
				out[i*64+bits.TrailingZeros64(v)] ^= r
			}
		}
	}
	out[g.good] = math.MaxUint64
	return out
}

// mix is splitmix64's output function (Steele, Lea, Flood: Fast splittable
// pseudorandom number generators, 2014): sets of points get distinct sums.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// tally is what the runs of one kernel showed.
type tally struct {
	points    []int // that have this kernel
	good, bad int
}

// rate is what is believed of p.
type rate struct {
	known float64 // 0: not known
	memo  map[[2]int]float64
}

// log is the logarithm of the probability of a certain sequence of b bad and g
// good runs at bad points.
func (r *rate) log(b, g int) float64 {
	if r.known > 0 {
		// A p of exactly 1 would make one wrong run impossible.
		p := min(r.known, 1-falseAlarm)
		return float64(b)*math.Log(p) + float64(g)*math.Log(1-p)
	}
	key := [2]int{b, g}
	if v, ok := r.memo[key]; ok {
		return v
	}
	lb, _ := math.Lgamma(float64(b + 1))
	lg, _ := math.Lgamma(float64(g + 1))
	ls, _ := math.Lgamma(float64(b + g + 2))
	v := math.Log(1-priorSure) + lb + lg - ls
	if g == 0 {
		v = math.Log(priorSure + math.Exp(v))
	}
	if r.memo == nil {
		r.memo = map[[2]int]float64{}
	}
	r.memo[key] = v
	return v
}

// next is the probability that the next run at a bad point is bad.
func (r *rate) next(b, g int) float64 { return math.Exp(r.log(b+1, g) - r.log(b, g)) }

// belief is the posterior over the culprits.
type belief struct {
	post []float64 // by culprit; the good end stands for what is before it
	bad  []float64 // probability of the symptom at a bad point, by culprit
}

// believe computes the posterior from all runs.
func believe(g *graph, r *rate, tallies []tally) belief {
	b := belief{post: make([]float64, g.n), bad: make([]float64, g.n)}
	logs := make([]float64, g.n)
	top := math.Inf(-1)
	n := 0
	for _, base := range g.base {
		if !base {
			n++
		}
	}
	for k := range logs {
		logs[k] = math.Inf(-1)
		if g.base[k] && k != g.good {
			continue
		}
		bads, goods, alarms, possible := 0, 0, 0, true
		for i := range tallies {
			t := &tallies[i]
			state := g.bad(k, t.points[0])
			for _, x := range t.points[1:] {
				possible = possible && g.bad(k, x) == state
			}
			if state {
				bads, goods = bads+t.bad, goods+t.good
			} else {
				alarms += t.bad
			}
		}
		if !possible {
			continue // one kernel cannot be both good and bad
		}
		prior := (1 - priorBefore) / float64(n)
		if k == g.good {
			prior = priorBefore
		}
		logs[k] = math.Log(prior) + r.log(bads, goods) + float64(alarms)*math.Log(falseAlarm)
		b.bad[k] = r.next(bads, goods)
		top = max(top, logs[k])
	}
	if math.IsInf(top, -1) {
		return b // nothing fits: all zero
	}
	sum := 0.0
	for k, l := range logs {
		b.post[k] = math.Exp(l - top)
		sum += b.post[k]
	}
	for k := range b.post {
		b.post[k] /= sum
	}
	return b
}

// gains is how many bits one run at each point is expected to tell about the
// culprit, and the probability that it is bad.
func (b belief) gains(g *graph) (gain, bad []float64) {
	m, e := make([]float64, g.n), make([]float64, g.n)
	for k := range m {
		m[k] = b.post[k] * b.bad[k]
		e[k] = b.post[k] * entropy(b.bad[k])
	}
	bad, gain = g.sums(m), g.sums(e)
	for x := range gain {
		bad[x] = min(bad[x], 1)
		gain[x] = max(0, entropy(bad[x])-gain[x])
	}
	return gain, bad
}

// bitsLeft is the entropy of the belief.
func (b belief) bitsLeft() float64 {
	sum := 0.0
	for _, p := range b.post {
		if p > 0 {
			sum -= p * math.Log2(p)
		}
	}
	return sum
}

// entropy of a coin, in bits.
func entropy(p float64) float64 {
	if p <= 0 || p >= 1 {
		return 0
	}
	return -p*math.Log2(p) - (1-p)*math.Log2(1-p)
}
