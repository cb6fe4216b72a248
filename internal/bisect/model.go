// SPDX-License-Identifier: Apache-2.0

package bisect

import (
	"errors"
	"fmt"
	"time"
)

// Point is one state of the kernel: a commit, or a kernel that exists.
type Point struct {
	// ID names it: a commit's hash, a kernel's path.
	ID string `json:"id"`
	// Parents are the points it was made from, by index; they come before it.
	Parents []int `json:"parents,omitempty"`
	// Base says that it lies before the good end, and is good as the good end
	// is: it is tested only to confirm a culprit whose parent it is.
	Base bool `json:"base,omitempty"`
	// Subject, Author and Date are for readers.
	Subject string `json:"subject,omitempty"`
	Author  string `json:"author,omitempty"`
	Date    string `json:"date,omitempty"`
}

// History is what is searched: a graph of points, parents before children.
type History struct {
	Points []Point `json:"points"`
	// Good is the index of the good end, a base point. The bad end is the last
	// point.
	Good int `json:"good"`
}

// MaxPoints bounds a history with merges: what is known of it takes a bit for
// each pair of points.
const MaxPoints = 30000

// Bad is the index of the bad end.
func (h *History) Bad() int { return len(h.Points) - 1 }

// Candidates counts the points that may be the culprit.
func (h *History) Candidates() int {
	n := 0
	for _, p := range h.Points {
		if !p.Base {
			n++
		}
	}
	return n
}

// Linear makes a history of points in order, the first being the good end.
func Linear(points []Point) History {
	h := History{Points: points}
	for i := range h.Points {
		h.Points[i].Parents = nil
		if i > 0 {
			h.Points[i].Parents = []int{i - 1}
		}
		h.Points[i].Base = i == 0
	}
	return h
}

// Graph makes a history of commits, parents before children, whose parents are
// given by ID. Parents that are not among the commits lie before the good end; a
// commit that has none follows it. A bad end that is not the last commit, because
// the commits are a choice, follows all of them.
func Graph(good Point, commits []Point, parents [][]string, bad Point) History {
	good.Base, good.Parents = true, nil
	h := History{Points: []Point{good}}
	index := map[string]int{good.ID: 0}
	among := map[string]bool{good.ID: true}
	for _, c := range commits {
		among[c.ID] = true
	}
	for _, ps := range parents {
		for _, p := range ps {
			if !among[p] {
				among[p] = true
				index[p] = len(h.Points)
				h.Points = append(h.Points, Point{ID: p, Base: true})
			}
		}
	}
	tips := map[string]bool{}
	for i, c := range commits {
		c.Base, c.Parents = false, nil
		for _, p := range parents[i] {
			c.Parents = append(c.Parents, index[p])
			delete(tips, p)
		}
		if len(c.Parents) == 0 {
			c.Parents = []int{0}
		}
		tips[c.ID] = true
		index[c.ID] = len(h.Points)
		h.Points = append(h.Points, c)
	}
	if len(commits) == 0 || commits[len(commits)-1].ID != bad.ID {
		bad.Base, bad.Parents = false, nil
		for i, p := range h.Points {
			if tips[p.ID] {
				bad.Parents = append(bad.Parents, i)
			}
		}
		if len(bad.Parents) == 0 {
			bad.Parents = []int{0}
		}
		if bad.ID != good.ID {
			h.Points = append(h.Points, bad)
		}
	}
	return h
}

// check says what is wrong with a history.
func (h *History) check() error {
	switch {
	case len(h.Points) < 2 || h.Points[h.Bad()].Base:
		return errors.New("the range is empty: there is nothing between the good and the bad end")
	case h.Good < 0 || h.Good >= len(h.Points) || !h.Points[h.Good].Base:
		return errors.New("the history has no good end")
	case !h.linear() && len(h.Points) > MaxPoints:
		return fmt.Errorf("%d points with merges are too many (at most %d): narrow the range with -kernels or -first-parent first", len(h.Points), MaxPoints)
	}
	seen := map[string]bool{}
	for i, p := range h.Points {
		if seen[p.ID] || p.ID == "" {
			return fmt.Errorf("the history has the point %q twice", p.ID)
		}
		seen[p.ID] = true
		if !p.Base && len(p.Parents) == 0 {
			return fmt.Errorf("the history's point %s has no parent", p.ID)
		}
		for _, q := range p.Parents {
			if q < 0 || q >= i {
				return fmt.Errorf("the history's point %s comes before its parent", p.ID)
			}
		}
	}
	return nil
}

func (h *History) linear() bool {
	for i, p := range h.Points {
		if p.Base != (i == 0) || i > 0 && (len(p.Parents) != 1 || p.Parents[0] != i-1) {
			return false
		}
	}
	return true
}

// Word says what one try at a point showed.
type Word string

// The words. Only the first two say something about the symptom.
const (
	Good        Word = "good"
	Bad         Word = "bad"
	Other       Word = "other"        // another bug came first, or the test did not run
	BootFailed  Word = "boot-failed"  // the kernel did not come up
	BuildFailed Word = "build-failed" // there is no kernel
	Infra       Word = "infra"        // this machine failed, not the kernel
	// Same is no run: the kernel that was built is that of a point that was
	// tested, and what was seen there holds here.
	Same Word = "same"
)

// Words are all words of runs, in the order in which they are reported.
var words = []Word{Good, Bad, Other, BootFailed, BuildFailed, Infra}

// Phase is what a try is for.
type Phase string

// The phases.
const (
	LookBack Phase = "look back" // for a good end
	BadEnd   Phase = "bad end"
	GoodEnd  Phase = "good end"
	Narrow   Phase = "search"
	Confirm  Phase = "confirm"
	Revert   Phase = "revert" // the bad end without the culprit
)

// Observation is one try at one point.
type Observation struct {
	Point string `json:"point"`
	Word  Word   `json:"word"`
	Phase Phase  `json:"phase"`
	// Kernel identifies what was booted: two points with the same are the same.
	// "" when nothing was built, or when it is not known.
	Kernel string `json:"kernel,omitempty"`
	// Reason says why, in a line.
	Reason string `json:"reason,omitempty"`
	// Evidence is what was seen, a splat or a test's output, bounded by
	// whoever filled it in.
	Evidence string `json:"evidence,omitempty"`
	// Log is a directory or a file with everything.
	Log string `json:"log,omitempty"`
	// Repro is a command line that does the run again.
	Repro string `json:"repro,omitempty"`
	// Build and Run are how long it took.
	Build   time.Duration `json:"build_ns,omitempty"`
	Run     time.Duration `json:"run_ns,omitempty"`
	Started time.Time     `json:"started"`
}

// Config says how to search. The zero value is usable.
type Config struct {
	// Confidence is how sure the answer must be, between 0.5 and 1, both
	// excluded; 0 is 0.99.
	Confidence float64 `json:"confidence"`
	// P is the probability that a run at a bad point shows the symptom; 0 is
	// unknown, and measured.
	P float64 `json:"p,omitempty"`
	// Repeat bounds the runs at the bad end until the symptom shows; 0 is 20.
	Repeat int `json:"repeat"`
	// BuildCost is what a kernel that was not yet built costs, in runs.
	BuildCost float64 `json:"build_cost"`
	// Parallel is how many runs are made at once; 0 is 1.
	Parallel int `json:"-"`
	// MaxRuns ends the search with what is known then; 0 is no bound.
	MaxRuns int `json:"max_runs,omitempty"`
}

// Defaults of Config.
const (
	DefaultConfidence = 0.99
	DefaultRepeat     = 20
)

func (c Config) withDefaults() (Config, error) {
	if c.Confidence == 0 {
		c.Confidence = DefaultConfidence
	}
	if c.Repeat == 0 {
		c.Repeat = DefaultRepeat
	}
	c.Parallel = max(c.Parallel, 1)
	switch {
	case !(c.Confidence > 0.5 && c.Confidence < 1):
		return c, fmt.Errorf("bad confidence %v: want more than 0.5 and less than 1, such as 0.99", c.Confidence)
	case !(c.P >= 0 && c.P <= 1):
		return c, fmt.Errorf("bad failure rate %v: want more than 0 and at most 1", c.P)
	case c.Repeat < 1 || c.MaxRuns < 0 || c.BuildCost < 0:
		return c, errors.New("bad number of runs: want 1 or more")
	}
	return c, nil
}
