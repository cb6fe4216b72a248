// SPDX-License-Identifier: Apache-2.0

package bisect

import (
	"fmt"
	"math"
	"slices"
)

// Step is one run to be made.
type Step struct {
	Point string
	Phase Phase
}

// Search is a bisection's state: what was observed, and what follows from it.
// It is made of observations alone, so that replaying them restores it.
type Search struct {
	h     History
	cfg   Config
	g     *graph
	rate  rate
	index map[string]int
	at    []seen
	obs   []Observation
	// patient says that a range is about to be the answer: points are given up
	// less easily then.
	patient bool
}

// seen is what was observed at one point.
type seen struct {
	count     map[Word]int
	confirmed map[Word]int // of those, in the phase Confirm
	kernel    string
}

// New prepares a search. Its errors are the user's.
func New(h History, c Config) (*Search, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	s := &Search{h: h, cfg: c, g: newGraph(&h), rate: rate{known: c.P}, index: map[string]int{}, at: make([]seen, len(h.Points))}
	for i, p := range h.Points {
		s.index[p.ID] = i
		s.at[i] = seen{count: map[Word]int{}, confirmed: map[Word]int{}}
	}
	return s, nil
}

// History returns what is searched. It must not be changed.
func (s *Search) History() *History { return &s.h }

// Observe takes note of a try. One at a point that the history does not have is
// kept for the report only.
func (s *Search) Observe(o Observation) {
	s.obs = append(s.obs, o)
	i, ok := s.index[o.Point]
	if !ok {
		return
	}
	s.at[i].count[o.Word]++
	if o.Phase == Confirm {
		s.at[i].confirmed[o.Word]++
	}
	if o.Kernel != "" {
		s.at[i].kernel = o.Kernel
	}
}

// twin returns the point that was tested with a kernel that was just built to be
// searched, "" if there is none, or if the step is a repeat.
func (s *Search) twin(step Step, kernel string) string {
	x, ok := s.index[step.Point]
	if !ok || step.Phase != Narrow || kernel == "" || s.at[x].kernel != "" {
		return ""
	}
	for y := range s.at {
		if s.at[y].kernel == kernel && s.at[y].count[Good]+s.at[y].count[Bad] > 0 {
			return s.h.Points[y].ID
		}
	}
	return ""
}

// strikes is how often a word that says nothing is believed to be bad luck.
var strikes = map[Word]int{Other: 2, BootFailed: 2, BuildFailed: 1, Infra: 2}

// patience is how many more of a word it takes where the answer would otherwise
// be a range: what another bug hides half of the time is not to be given up after
// two runs. What does not boot twice, or does not build, will not.
var patience = map[Word]int{Other: 2, Infra: 2}

// untestable says whether a point is known to say nothing, and why.
func (s *Search) untestable(x int) (Word, bool) {
	c := s.at[x].count
	for _, w := range words {
		n := strikes[w]
		if s.patient {
			n += patience[w]
		}
		// A point that told something before may do so again.
		if n > 0 && c[w] >= n+3*(c[Good]+c[Bad]) {
			return w, true
		}
	}
	return "", false
}

// silent returns the word of a point that was tried and said nothing, "" for
// others.
func (s *Search) silent(x int) Word {
	if w, un := s.untestable(x); un {
		return w
	}
	c := s.at[x].count
	for _, w := range words {
		if c[w] > 0 && c[Good]+c[Bad] == 0 {
			return w
		}
	}
	return ""
}

// guess is a run that was not made, with its outcome.
type guess struct {
	x   int
	bad bool
}

// believe computes the belief after all runs and some guessed ones.
func (s *Search) believe(guesses []guess) belief {
	byKernel := map[string]int{}
	var tallies []tally
	of := make(map[int]int, len(s.obs))
	for x := range s.at {
		a := &s.at[x]
		if a.kernel == "" && a.count[Good]+a.count[Bad] == 0 {
			continue
		}
		t, ok := byKernel[a.kernel]
		if !ok || a.kernel == "" {
			t = len(tallies)
			tallies = append(tallies, tally{})
			byKernel[a.kernel] = t
		}
		of[x] = t
		tallies[t].points = append(tallies[t].points, x)
		tallies[t].good += a.count[Good]
		tallies[t].bad += a.count[Bad]
	}
	for _, u := range guesses {
		t, ok := of[u.x]
		if !ok {
			t = len(tallies)
			tallies = append(tallies, tally{points: []int{u.x}})
			of[u.x] = t
		}
		if u.bad {
			tallies[t].bad++
		} else {
			tallies[t].good++
		}
	}
	return believe(s.g, &s.rate, tallies)
}

// Next returns up to n runs to be made now, in any order or at once. None means
// that the search has ended, see Result.
func (s *Search) Next(n int) []Step {
	steps, _ := s.decide(max(n, 1))
	return steps
}

// Result returns the answer, nil as long as there are runs to be made.
func (s *Search) Result() *Result {
	_, r := s.decide(1)
	return r
}

func (s *Search) decide(n int) ([]Step, *Result) {
	over := s.cfg.MaxRuns > 0 && len(s.obs) >= s.cfg.MaxRuns
	steps, r := s.judge(n, over)
	if r != nil && r.Kind == Range && !over {
		s.patient = true
		steps, r = s.judge(n, over)
		s.patient = false
	}
	return steps, r
}

func (s *Search) judge(n int, over bool) ([]Step, *Result) {
	if r := s.wrongEnd(); r != nil {
		return nil, r
	}
	if steps := s.ends(n); len(steps) > 0 {
		if over {
			return nil, s.result(OutOfRuns, nil, belief{})
		}
		return steps, nil
	}
	b := s.believe(nil)
	found, mass := s.answer(b)
	if mass >= s.cfg.Confidence {
		if len(found) > 1 {
			return nil, s.result(Range, found, b)
		}
		steps := s.confirm(found[0], n)
		if len(steps) == 0 || over {
			return nil, s.result(Culprit, found, b)
		}
		return steps, nil
	}
	if over {
		return nil, s.result(OutOfRuns, s.credible(b), b)
	}
	if steps := s.settle(found, mass, n); len(steps) > 0 {
		return steps, nil
	}
	if steps := s.narrow(b, n); len(steps) > 0 {
		return steps, nil
	}
	if mass < falseAlarm {
		r := s.result(Range, nil, b)
		r.Reason = "what was seen fits no point between the ends: the good end may be bad as well, or the ends may have the same kernel"
		return nil, r
	}
	return nil, s.result(Range, s.credible(b), b)
}

// needBad is how many bad runs at the bad end begin the measurement of p.
func (s *Search) needBad() int {
	if s.cfg.P > 0 {
		return 1
	}
	return 3
}

// repeat bounds the runs at the bad end: with a known p, as many as leave one
// chance in a hundred of not seeing the symptom.
func (s *Search) repeat() int {
	n := s.cfg.Repeat
	if s.cfg.P > 0 && s.cfg.P < 1 {
		n = max(n, int(math.Ceil(math.Log(1-s.cfg.Confidence)/math.Log(1-s.cfg.P))))
	}
	return n
}

// wrongEnd says that an end is not what it should be.
func (s *Search) wrongEnd() *Result {
	bad, good := s.at[s.h.Bad()], s.at[s.h.Good]
	if good.count[Bad] > 0 {
		return s.result(GoodFails, nil, belief{})
	}
	if bad.count[Bad] == 0 && bad.count[Good] >= s.repeat() {
		return s.result(BadPasses, nil, belief{})
	}
	for _, end := range []int{s.h.Bad(), s.h.Good} {
		if _, un := s.untestable(end); un && s.at[end].count[Good]+s.at[end].count[Bad] == 0 {
			return s.result(EndUntestable, []int{end}, belief{})
		}
	}
	return nil
}

// ends are the runs that the ends still need: once each, then p is measured.
func (s *Search) ends(n int) []Step {
	var out []Step
	bad, good := s.at[s.h.Bad()], s.at[s.h.Good]
	step := func(x int, p Phase, times int) {
		for ; times > 0 && len(out) < n; times-- {
			out = append(out, Step{s.h.Points[x].ID, p})
		}
	}
	left := min(s.needBad()-bad.count[Bad], s.repeat()-bad.count[Bad]-bad.count[Good])
	if _, un := s.untestable(s.h.Bad()); un {
		left = 0 // it was bad once; the rest is found on the way
	}
	if bad.count[Bad] == 0 {
		step(s.h.Bad(), BadEnd, min(1, left))
	}
	if good.count[Good] == 0 {
		step(s.h.Good, GoodEnd, 1)
	}
	step(s.h.Bad(), BadEnd, left-len(out))
	return out
}

// answer returns the most probable set of culprits that no test can tell apart,
// and its probability.
func (s *Search) answer(b belief) ([]int, float64) {
	skips := false
	for x := range s.at {
		_, un := s.untestable(x)
		skips = skips || un
	}
	if !skips {
		best := -1
		for k, p := range b.post {
			if !s.g.base[k] && (best < 0 || p > b.post[best]) {
				best = k
			}
		}
		return []int{best}, b.post[best]
	}
	class := s.g.classes(func(x int) bool { _, un := s.untestable(x); return !un && !s.g.base[x] })
	mass := map[uint64]float64{}
	for k, p := range b.post {
		if !s.g.base[k] {
			mass[class[k]] += p
		}
	}
	var best uint64
	top := -1.0
	for k := range b.post { // in order, so that the answer does not depend on a map's
		if !s.g.base[k] && mass[class[k]] > top {
			best, top = class[k], mass[class[k]]
		}
	}
	var out []int
	for k, p := range b.post {
		if !s.g.base[k] && class[k] == best && p > top*falseAlarm {
			out = append(out, k)
		}
	}
	return out, top
}

// credible is the smallest set of culprits that has the confidence.
func (s *Search) credible(b belief) []int {
	var ks []int
	for k := range b.post {
		if !s.g.base[k] {
			ks = append(ks, k)
		}
	}
	slices.SortStableFunc(ks, func(x, y int) int {
		switch {
		case b.post[x] > b.post[y]:
			return -1
		case b.post[x] < b.post[y]:
			return 1
		}
		return 0
	})
	sum := 0.0
	for i, k := range ks {
		if sum += b.post[k]; sum >= s.cfg.Confidence {
			ks = ks[:i+1]
			break
		}
	}
	slices.Sort(ks)
	return ks
}

// confirm are the runs that a culprit still needs: itself and its parents, once
// more. Where branches meet, the culprit can be known without having been
// tested, and it may be that it cannot be.
func (s *Search) confirm(k, n int) []Step {
	var out []Step
	if _, un := s.untestable(k); !un && s.at[k].confirmed[Bad] == 0 {
		out = append(out, Step{s.h.Points[k].ID, Confirm})
	}
	for _, q := range s.h.Points[k].Parents {
		if _, un := s.untestable(q); !un && s.at[q].confirmed[Good] == 0 && len(out) < n {
			out = append(out, Step{s.h.Points[q].ID, Confirm})
		}
	}
	return out
}

// probable is when a culprit is worth confirming.
const probable = 0.75

// settle are the confirming runs of a culprit that is probable, if they will make
// it certain enough when they show what is expected: they are needed in any case,
// and what they tell need not be found out twice.
func (s *Search) settle(found []int, mass float64, n int) []Step {
	if len(found) != 1 || mass < probable {
		return nil
	}
	k := found[0]
	steps := s.confirm(k, math.MaxInt)
	var guesses []guess
	for _, st := range steps {
		x := s.index[st.Point]
		guesses = append(guesses, guess{x, x == k})
	}
	if len(steps) == 0 || s.believe(guesses).post[k] < s.cfg.Confidence {
		return nil
	}
	// The parents first: they are what there is doubt about.
	slices.Reverse(steps)
	return steps[:min(n, len(steps))]
}

// narrow chooses the runs that tell most: the best one, then what would be the
// best after its probable outcomes.
func (s *Search) narrow(b belief, n int) []Step {
	type leaf struct {
		prob    float64
		guesses []guess
		x       int
		score   float64
		bad     float64
	}
	avoid := s.avoid()
	look := func(prob float64, guesses []guess, b belief) leaf {
		l := leaf{prob: prob, guesses: guesses, x: -1}
		l.x, l.score, l.bad = s.best(b, avoid, len(guesses) > 0)
		return l
	}
	leaves := []leaf{look(1, nil, b)}
	var out []Step
	for len(out) < n {
		pick := -1
		for i, l := range leaves {
			if l.x >= 0 && (pick < 0 || l.prob*l.score > leaves[pick].prob*leaves[pick].score) {
				pick = i
			}
		}
		if pick < 0 {
			break
		}
		l := leaves[pick]
		out = append(out, Step{s.h.Points[l.x].ID, Narrow})
		if len(out) == n {
			break
		}
		leaves = slices.Delete(leaves, pick, pick+1)
		for _, bad := range []bool{true, false} {
			p := l.bad
			if !bad {
				p = 1 - p
			}
			gs := append(slices.Clone(l.guesses), guess{l.x, bad})
			leaves = append(leaves, look(l.prob*p, gs, s.believe(gs)))
		}
	}
	return out
}

// enough is the gain, in bits, below which a run is not worth making: it is well
// above the error of the sums, and below what any confidence leaves open.
const enough = 1e-9

// best returns the point whose run tells most for its cost, -1 if none does. A
// speculative run never builds a kernel for which a run must be given up.
func (s *Search) best(b belief, avoid []float64, speculative bool) (x int, score, bad float64) {
	gain, bads := b.gains(s.g)
	x = -1
	for i := range gain {
		if s.g.base[i] && i != s.g.good || gain[i] < enough {
			continue
		}
		if _, un := s.untestable(i); un {
			continue
		}
		cost := 1.0
		if s.at[i].kernel == "" && s.at[i].count[Good]+s.at[i].count[Bad] == 0 {
			if cost += s.cfg.BuildCost; speculative && s.cfg.BuildCost > 0 {
				continue
			}
		}
		// The middle one of equals: neighbours of a tested point tell least.
		if v := gain[i] * (1 - avoid[i]) / cost; v > score*(1+1e-12) {
			x, score, bad = i, v, bads[i]
		}
	}
	return x, score, bad
}

// avoid guesses, for every point, the probability that it cannot be tested
// either: breakage lasts for a while, and of a length of which only the order of
// magnitude can be guessed.
func (s *Search) avoid() []float64 {
	out := make([]float64, len(s.at))
	last, lastUn := -1, false // the last point before x that was tried
	var between []int
	flush := func(next int, nextUn bool) {
		for _, x := range between {
			switch {
			case lastUn && nextUn:
				out[x] = 0.9
			case lastUn:
				out[x] = 1 - math.Log(float64(1+x-last))/math.Log(float64(1+next-last))
			case nextUn:
				out[x] = 1 - math.Log(float64(1+next-x))/math.Log(float64(1+next-last))
			}
		}
		between = between[:0]
		last, lastUn = next, nextUn
	}
	for x := range s.at {
		c := s.at[x].count
		_, un := s.untestable(x)
		switch {
		case un:
			flush(x, true)
		case c[Good]+c[Bad]+c[Same] > 0:
			flush(x, false)
		case len(c) > 0:
			out[x] = 0.5
		default:
			between = append(between, x)
		}
	}
	return out
}

// Left estimates how many runs and, of these, how many of kernels that were not
// yet built are to come.
func (s *Search) Left() (runs, builds float64) {
	if len(s.ends(1)) > 0 {
		bad, good := s.at[s.h.Bad()], s.at[s.h.Good]
		runs = float64(max(0, s.needBad()-bad.count[Bad]) + max(0, 1-good.count[Good]))
		bits := math.Log2(float64(s.h.Candidates()))
		return runs + math.Ceil(bits) + 2, bits + 2
	}
	b := s.believe(nil)
	found, mass := s.answer(b)
	if mass >= s.cfg.Confidence && len(found) == 1 {
		return float64(len(s.confirm(found[0], math.MaxInt))), 0
	}
	gain, _ := b.gains(s.g)
	top := slices.Max(gain)
	if top < enough {
		return 0, 0
	}
	bits := b.bitsLeft()
	runs = math.Ceil(bits/top) + 2
	return runs, min(bits, runs)
}

// Kind is the kind of an answer.
type Kind string

// The kinds.
const (
	Culprit       Kind = "culprit"        // one point
	Range         Kind = "range"          // one of several points, which cannot be tested
	GoodFails     Kind = "good-fails"     // the good end is bad
	BadPasses     Kind = "bad-passes"     // the bad end does not show the symptom
	EndUntestable Kind = "end-untestable" // an end says nothing
	OutOfRuns     Kind = "out-of-runs"    // not found within the runs that were allowed
	NoGood        Kind = "no-good"        // looking back found no good end
	Options       Kind = "options"        // all of these together
)

// Result is the answer.
type Result struct {
	Kind Kind `json:"kind"`
	// Found are the culprit, the range, or the end that is at fault.
	Found []Point `json:"found,omitempty"`
	// Confidence is the probability that the culprit is the one, or in the range.
	Confidence float64 `json:"confidence,omitempty"`
	// P is the estimate of the rate of failure at bad points, PGood and PBad the
	// runs it is made of.
	P     float64 `json:"p,omitempty"`
	PBad  int     `json:"p_bad"`
	PGood int     `json:"p_good"`
	// Confirmed says that the culprit and all its parents were run again.
	Confirmed bool `json:"confirmed"`
	// Candidates is how many points there were; Tested how many were tried.
	Candidates int `json:"candidates"`
	Tested     int `json:"tested"`
	// Runs counts the tries by word.
	Runs map[Word]int `json:"runs"`
	// Skipped are the points that said nothing, and why.
	Skipped map[string]Word `json:"skipped,omitempty"`
	// Same are pairs of points with the same kernel.
	Same [][2]string `json:"same,omitempty"`
	// Evidence are the tries at the points found, and at their parents.
	Evidence []Observation `json:"evidence,omitempty"`
	// Reason says in a line what stopped the search where it is no answer.
	Reason string `json:"reason,omitempty"`
}

func (s *Search) result(kind Kind, found []int, b belief) *Result {
	r := &Result{Kind: kind, Candidates: s.h.Candidates(), Runs: map[Word]int{}}
	for _, o := range s.obs {
		if o.Word != Same {
			r.Runs[o.Word]++
		}
	}
	kernels := map[string]string{}
	for x, p := range s.h.Points {
		if len(s.at[x].count) > 0 {
			r.Tested++
		}
		if w := s.silent(x); w != "" {
			if r.Skipped == nil {
				r.Skipped = map[string]Word{}
			}
			r.Skipped[p.ID] = w
		}
		if k := s.at[x].kernel; k != "" {
			if first, ok := kernels[k]; ok {
				r.Same = append(r.Same, [2]string{first, p.ID})
			} else {
				kernels[k] = p.ID
			}
		}
	}
	show := map[string]bool{}
	for _, k := range found {
		r.Found = append(r.Found, s.h.Points[k])
		show[s.h.Points[k].ID] = true
		for _, q := range s.h.Points[k].Parents {
			show[s.h.Points[q].ID] = true
		}
		if b.post != nil {
			r.Confidence += b.post[k]
		}
	}
	r.Confidence = min(r.Confidence, 1)
	if kind == Culprit {
		r.Confirmed = s.at[found[0]].confirmed[Bad] > 0
		for _, q := range s.h.Points[found[0]].Parents {
			r.Confirmed = r.Confirmed && s.at[q].confirmed[Good] > 0
		}
	}
	switch kind {
	case GoodFails:
		show[s.h.Points[s.h.Good].ID] = true
		r.Found = []Point{s.h.Points[s.h.Good]}
		r.Reason = "the good end shows the symptom"
	case BadPasses:
		show[s.h.Points[s.h.Bad()].ID] = true
		r.Found = []Point{s.h.Points[s.h.Bad()]}
		r.Reason = fmt.Sprintf("the bad end did not show the symptom in %d runs", s.at[s.h.Bad()].count[Good])
	case EndUntestable:
		w, _ := s.untestable(found[0])
		r.Reason = fmt.Sprintf("an end says nothing about the symptom: %s", w)
	case OutOfRuns:
		r.Reason = fmt.Sprintf("%d runs were made, as many as allowed", len(s.obs))
	}
	for _, o := range s.obs {
		if show[o.Point] {
			r.Evidence = append(r.Evidence, o)
		}
	}
	s.estimate(r, found)
	return r
}

// estimate fills in what the runs at points that are bad say about p.
func (s *Search) estimate(r *Result, found []int) {
	for x := range s.at {
		bad := x == s.h.Bad()
		for _, k := range found {
			bad = bad || !s.g.base[k] && s.g.bad(k, x)
		}
		if bad && r.Kind != EndUntestable {
			r.PBad += s.at[x].count[Bad]
			r.PGood += s.at[x].count[Good]
		}
	}
	if n := r.PBad + r.PGood; n > 0 {
		r.P = float64(r.PBad) / float64(n)
	}
}
