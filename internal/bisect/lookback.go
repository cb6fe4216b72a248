// SPDX-License-Identifier: Apache-2.0

package bisect

import (
	"context"
	"errors"
	"fmt"
	"math"
)

// FindGood looks for a good end: at 1, 2, 4, 8 and so on points before the bad
// end, the last one, in a history that is a line. A point that says nothing is
// replaced by one before it. Seen are observations of an earlier session.
//
// It returns the good point's ID, or "" and a result that says why there is
// none. Errors are those of [Run].
func FindGood(ctx context.Context, h History, c Config, j Job, seen []Observation) (string, *Result, error) {
	if len(h.Points) < 2 {
		return "", nil, errors.New("there is nothing before the bad end")
	}
	bad := h.Points[h.Bad()]
	l, err := NewProber(c, j, bad.ID, seen)
	if err != nil {
		return "", nil, err
	}
	if r, err := l.Measure(ctx); r != nil || err != nil {
		if r != nil {
			r.Found, r.Candidates = []Point{bad}, len(h.Points)
		}
		return "", r, err
	}
	for step, x := 1, h.Bad()-1; ; step, x = step*2, h.Bad()-step*2 {
		x = max(x, 0)
		for ; x >= 0; x-- {
			word, err := l.Probe(ctx, h.Points[x].ID, LookBack)
			if err != nil {
				return "", nil, err
			}
			if word == Good {
				return h.Points[x].ID, nil, nil
			}
			if word == Bad {
				break
			}
		}
		if x <= 0 {
			r := l.Result(NoGood, h.Points[0].ID, fmt.Sprintf("none of the points that were tried, back to the first of %d, is good", len(h.Points)))
			r.Found, r.Candidates = h.Points[:1], len(h.Points)
			return "", r, nil
		}
	}
}

// Prober tells good points from bad ones, one at a time, without a history. It is
// not safe for concurrent use.
type Prober struct {
	c    Config
	j    Job
	rate rate
	bad  string
	at   map[string]map[Word]int
	obs  []Observation
	// nth is the place of each point in the order of their first Probe.
	nth map[string]int
	// asked are the points of the last Minimize.
	asked map[string]bool
}

// NewProber makes a Prober that knows the point that is bad. Seen are
// observations of an earlier session.
func NewProber(c Config, j Job, bad string, seen []Observation) (*Prober, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	l := &Prober{c: c, j: j, bad: bad, rate: rate{known: c.P}, at: map[string]map[Word]int{}, nth: map[string]int{}, asked: map[string]bool{}}
	for _, o := range seen {
		l.note(o)
	}
	return l, nil
}

func (l *Prober) note(o Observation) {
	l.obs = append(l.obs, o)
	if l.at[o.Point] == nil {
		l.at[o.Point] = map[Word]int{}
	}
	l.at[o.Point][o.Word]++
}

func (l *Prober) try(ctx context.Context, id string, p Phase) error {
	step := Step{id, p}
	if l.j.Progress != nil {
		l.j.Progress(Event{Step: step})
	}
	o, err := l.j.Try(ctx, step)
	if err != nil {
		return err
	}
	if l.j.Record != nil {
		if err := l.j.Record(o); err != nil {
			return err
		}
	}
	l.note(o)
	if l.j.Progress != nil {
		l.j.Progress(Event{Step: step, Done: &o})
	}
	return nil
}

// silent returns the word of a point that says nothing, "" for others.
func (l *Prober) silent(id string) Word {
	c := l.at[id]
	for _, w := range words {
		if n := strikes[w]; n > 0 && c[w] >= n+3*(c[Good]+c[Bad]) {
			return w
		}
	}
	return ""
}

// Measure verifies the bad point and measures how often it fails. A result says
// that it is not what it should be.
func (l *Prober) Measure(ctx context.Context) (*Result, error) {
	s := &Search{cfg: l.c}
	for l.at[l.bad][Bad] < s.needBad() && l.at[l.bad][Good]+l.at[l.bad][Bad] < s.repeat() {
		if w := l.silent(l.bad); w != "" && l.at[l.bad][Bad] == 0 {
			return l.Result(EndUntestable, l.bad, "the bad end says nothing about the symptom: "+string(w)), nil
		} else if w != "" {
			break
		}
		if err := l.try(ctx, l.bad, BadEnd); err != nil {
			return nil, err
		}
	}
	if l.at[l.bad][Bad] == 0 {
		return l.Result(BadPasses, l.bad, fmt.Sprintf("the bad end did not show the symptom in %d runs", l.at[l.bad][Good])), nil
	}
	return nil, nil
}

// doubt is the probability that a point, if it were bad, had passed as often as it
// did, by what the points that are known to be bad show of p.
func (l *Prober) doubt(id string) float64 {
	b, g := 0, 0
	for other, c := range l.at {
		if other != id && c[Bad] > 0 {
			b, g = b+c[Bad], g+c[Good]
		}
	}
	return math.Exp(l.rate.log(b, g+l.at[id][Good]) - l.rate.log(b, g))
}

// Minimize is [Minimize] over points that fail at times. It begins again as long
// as what is known of p by then asks for more runs.
func (l *Prober) Minimize(ctx context.Context, n int, needs [][]int, id func(set []int) string) ([]int, error) {
	for {
		clear(l.asked)
		before := len(l.obs)
		found, err := Minimize(ctx, n, needs, func(ctx context.Context, set []int) (Word, error) {
			l.asked[id(set)] = true
			return l.Probe(ctx, id(set), Narrow)
		})
		if err != nil || len(l.obs) == before {
			return found, err
		}
	}
}

// Confidence is the probability that no point that the last Minimize took for good
// is bad.
func (l *Prober) Confidence() float64 {
	sure := 1.0
	for id := range l.asked {
		if c := l.at[id]; c[Good] > 0 && c[Bad] == 0 {
			sure *= 1 - l.doubt(id)
		}
	}
	return sure
}

// Probe runs a point until it is known to be good or bad, or to say nothing. The
// n-th of all points that are asked about may be called good wrongly with 1/n(n+1)
// of what the confidence leaves, which sums up to all of it. Looking back, there is
// one good point, about which the search will have doubts of its own.
func (l *Prober) Probe(ctx context.Context, id string, phase Phase) (Word, error) {
	n := l.nth[id]
	if n == 0 {
		n = len(l.nth) + 1
		l.nth[id] = n
	}
	most := (1 - l.c.Confidence) / float64(n*(n+1))
	if phase == LookBack {
		most = 1 - l.c.Confidence
	}
	for {
		c := l.at[id]
		if c[Bad] > 0 {
			return Bad, nil
		}
		if w := l.silent(id); w != "" {
			return w, nil
		}
		if c[Good] > 0 && l.doubt(id) <= most {
			return Good, nil
		}
		if err := l.try(ctx, id, phase); err != nil {
			return "", err
		}
	}
}

// Again runs a point once more, whatever is known, and one that is bad until that
// shows; it says whether it is as it was.
func (l *Prober) Again(ctx context.Context, id string, phase Phase) (bool, error) {
	s := &Search{cfg: l.c}
	was := l.at[id][Bad] > 0
	for range s.repeat() {
		if err := l.try(ctx, id, phase); err != nil {
			return false, err
		}
		switch w := l.obs[len(l.obs)-1].Word; {
		case w == Bad:
			return was, nil
		case w == Good && !was:
			return true, nil
		}
	}
	return false, nil
}

// Result makes a result of what was seen, with the runs at a point as evidence.
func (l *Prober) Result(k Kind, at, why string) *Result {
	r := &Result{Kind: k, Tested: len(l.at), Runs: map[Word]int{}, Reason: why}
	for _, o := range l.obs {
		r.Runs[o.Word]++
		if o.Point == at {
			r.Evidence = append(r.Evidence, o)
		}
	}
	r.PBad, r.PGood = l.at[l.bad][Bad], l.at[l.bad][Good]
	if n := r.PBad + r.PGood; n > 0 {
		r.P = float64(r.PBad) / float64(n)
	}
	return r
}

// Observations are all that were seen.
func (l *Prober) Observations() []Observation { return l.obs }
