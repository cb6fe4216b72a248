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
	c, err := c.withDefaults()
	if err != nil {
		return "", nil, err
	}
	if len(h.Points) < 2 {
		return "", nil, errors.New("there is nothing before the bad end")
	}
	l := &lookback{h: h, c: c, j: j, rate: rate{known: c.P}, at: map[string]map[Word]int{}}
	for _, o := range seen {
		l.note(o)
	}
	bad := h.Points[h.Bad()]
	s := &Search{h: h, cfg: c}
	for l.at[bad.ID][Bad] < s.needBad() && l.total(bad.ID) < s.repeat() {
		w, err := l.try(ctx, bad.ID, BadEnd)
		if err != nil {
			return "", nil, err
		}
		if n := strikes[w]; n > 0 && l.at[bad.ID][w] >= n+3*(l.at[bad.ID][Good]+l.at[bad.ID][Bad]) {
			return "", l.result(EndUntestable, bad, "the bad end says nothing about the symptom: "+string(w)), nil
		}
	}
	if l.at[bad.ID][Bad] == 0 {
		return "", l.result(BadPasses, bad, fmt.Sprintf("the bad end did not show the symptom in %d runs", l.at[bad.ID][Good])), nil
	}
	for step, x := 1, h.Bad()-1; ; step, x = step*2, h.Bad()-step*2 {
		x = max(x, 0)
		for ; x >= 0; x-- {
			word, err := l.probe(ctx, h.Points[x].ID)
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
			return "", l.result(NoGood, h.Points[0], fmt.Sprintf("none of the points that were tried, back to the first of %d, is good", len(h.Points))), nil
		}
	}
}

type lookback struct {
	h    History
	c    Config
	j    Job
	rate rate
	at   map[string]map[Word]int
	obs  []Observation
}

func (l *lookback) note(o Observation) {
	l.obs = append(l.obs, o)
	if l.at[o.Point] == nil {
		l.at[o.Point] = map[Word]int{}
	}
	l.at[o.Point][o.Word]++
}

func (l *lookback) total(id string) int { return l.at[id][Good] + l.at[id][Bad] }

func (l *lookback) try(ctx context.Context, id string, p Phase) (Word, error) {
	step := Step{id, p}
	if l.j.Progress != nil {
		l.j.Progress(Event{Step: step})
	}
	o, err := l.j.Try(ctx, step)
	if err != nil {
		return "", err
	}
	if l.j.Record != nil {
		if err := l.j.Record(o); err != nil {
			return "", err
		}
	}
	l.note(o)
	if l.j.Progress != nil {
		l.j.Progress(Event{Step: step, Done: &o})
	}
	return o.Word, nil
}

// probe runs a point until it is known to be good or bad, or to say nothing.
func (l *lookback) probe(ctx context.Context, id string) (Word, error) {
	bad := l.h.Points[l.h.Bad()].ID
	for {
		c := l.at[id]
		if c[Bad] > 0 {
			return Bad, nil
		}
		for w, n := range strikes {
			if c[w] >= n+3*c[Good] {
				return w, nil
			}
		}
		b, g := l.at[bad][Bad], l.at[bad][Good]
		// So improbable, if it were bad.
		if c[Good] > 0 && math.Exp(l.rate.log(b, g+c[Good])-l.rate.log(b, g)) <= 1-l.c.Confidence {
			return Good, nil
		}
		if _, err := l.try(ctx, id, LookBack); err != nil {
			return "", err
		}
	}
}

func (l *lookback) result(k Kind, at Point, why string) *Result {
	r := &Result{Kind: k, Found: []Point{at}, Candidates: len(l.h.Points), Tested: len(l.at), Runs: map[Word]int{}, Reason: why}
	for _, o := range l.obs {
		r.Runs[o.Word]++
		if o.Point == at.ID {
			r.Evidence = append(r.Evidence, o)
		}
	}
	return r
}
