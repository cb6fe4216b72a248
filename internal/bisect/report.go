// SPDX-License-Identifier: Apache-2.0

package bisect

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// Report is a bisection as it is told to people. All text in it that comes from
// a guest was cleaned by [Symptom.Judge]; commits' texts are cleaned when
// written.
type Report struct {
	// Git says that the points are commits; otherwise they are kernels.
	Git bool `json:"git"`
	// Noun is what the points are called if neither.
	Noun string `json:"noun,omitempty"`
	// Symptom is what was looked for.
	Symptom string `json:"symptom"`
	// GoodName and BadName are what the user called the ends.
	GoodName string `json:"good"`
	BadName  string `json:"bad"`
	// Source is the repository, or where the kernels are from.
	Source string `json:"source,omitempty"`
	// Kernel says how the kernels were built: profile, fragments, patches.
	Kernel string `json:"kernel,omitempty"`
	// Command is the command line that asked.
	Command string `json:"command"`
	// Result is nil as long as there is none.
	Result       *Result       `json:"result"`
	Observations []Observation `json:"observations"`
	// History is what was searched.
	History History `json:"history"`
	// Notes are remarks, a line each.
	Notes []string `json:"notes,omitempty"`
}

// NewReport takes a search's part of a report; the caller fills in the rest.
func (s *Search) NewReport() Report {
	return Report{Result: s.Result(), Observations: s.obs, History: s.h}
}

// JSON writes the report as one indented object.
func (r Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// noun is what a point is called.
func (r Report) noun() string {
	switch {
	case r.Noun != "":
		return r.Noun
	case r.Git:
		return "commit"
	}
	return "kernel"
}

// tested is what was tested of points.
func (r Report) tested() string {
	if r.Noun != "" {
		return "configuration"
	}
	return r.noun()
}

// Name is what a point is called in a line of text: a commit's way is the
// kernel's own (Documentation/process/submitting-patches.rst).
func (r Report) Name(p Point) string {
	subject := clean(p.Subject, 200)
	switch {
	case r.Git && subject != "":
		return abbrev(p.ID) + " (\"" + subject + "\")"
	case r.Git:
		return abbrev(p.ID)
	case subject != "":
		return subject
	}
	return clean(p.ID, 500)
}

// abbrev shortens a commit's hash to the 12 digits that the kernel asks for.
func abbrev(id string) string {
	if len(id) == 40 || len(id) == 64 {
		return id[:12]
	}
	return id
}

func (r Report) point(id string) Point {
	for _, p := range r.History.Points {
		if p.ID == id {
			return p
		}
	}
	return Point{ID: id}
}

// headline says the outcome in a line.
func (r Report) headline() string {
	res := r.Result
	if res == nil {
		return "the bisection has not ended"
	}
	switch res.Kind {
	case Culprit:
		return "bisected to " + r.Name(res.Found[0])
	case Range:
		if len(res.Found) == 0 {
			return "bisected, but no " + r.noun() + " fits what was seen"
		}
		return fmt.Sprintf("bisected to %d %ss", len(res.Found), r.noun())
	case Options:
		return fmt.Sprintf("bisected to %s", plural(len(res.Found), r.noun()))
	case GoodFails:
		return r.GoodName + ", said to be good, is bad"
	case BadPasses:
		return r.BadName + ", said to be bad, is good"
	case EndUntestable:
		return "an end of the range cannot be tested"
	case NoGood:
		return "no good " + r.noun() + " was found"
	}
	return "not found within the runs that were allowed"
}

// percent never says more than is known: it rounds down, and never to 100.
func percent(p float64) string {
	return fmt.Sprintf("%.2f %%", math.Min(math.Floor(p*1e4)/100, 99.99))
}

// count says what became of the runs at a point: "bad in 3 of 4 runs".
func (r Report) count(id string) string {
	n, total := map[Word]int{}, 0
	for _, o := range r.Observations {
		if o.Point == id && o.Phase != Revert && o.Word != Same {
			n[o.Word]++
			total++
		}
	}
	var parts []string
	for _, w := range words {
		if n[w] > 0 {
			parts = append(parts, fmt.Sprintf("%s in %d", w, n[w]))
		}
	}
	if total == 0 {
		return "not tested"
	}
	return fmt.Sprintf("%s of %s", strings.Join(parts, ", "), plural(total, "run"))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// fact is one labelled line.
type fact struct{ Label, Text string }

// facts are what a report says besides the symptom and the path.
func (r Report) facts() []fact {
	var out []fact
	add := func(label, format string, a ...any) { out = append(out, fact{label, fmt.Sprintf(format, a...)}) }
	if len(r.History.Points) > 0 {
		add("Good", "%s: %s", r.GoodName, r.count(r.History.Points[r.History.Good].ID))
		add("Bad", "%s: %s", r.BadName, r.count(r.History.Points[r.History.Bad()].ID))
	}
	if r.Source != "" {
		add("Source", "%s", r.Source)
	}
	if r.Kernel != "" {
		add("Kernel", "%s", r.Kernel)
	}
	res := r.Result
	if res == nil {
		return out
	}
	if res.Reason != "" {
		add("Reason", "%s", res.Reason)
	}
	if res.Confidence > 0 {
		add("Confidence", "%s, of %s", percent(res.Confidence), plural(res.Candidates, "candidate"))
	}
	if n := res.PBad + res.PGood; n > 0 && res.Kind != BadPasses {
		add("Failure rate", "%.2f (the symptom showed in %d of %s where it is bad)", res.P, res.PBad, plural(n, "run"))
	}
	if res.Kind == Culprit {
		k := res.Found[0]
		add("Culprit", "%s", r.count(k.ID))
		for _, q := range k.Parents {
			p := r.History.Points[q]
			add("Its parent", "%s: %s", r.Name(p), r.count(p.ID))
		}
		if !res.Confirmed {
			add("Not confirmed", "the %s or a parent of it cannot be tested; it follows from the others", r.noun())
		}
	}
	if res.Kind == Options && !res.Confirmed {
		add("Not confirmed", "once more, one of the ends of the search did not show what it had shown")
	}
	if s := r.reverted(); s != "" {
		add("Reverted", "%s", s)
	}
	var tries []string
	for _, w := range words {
		if res.Runs[w] > 0 {
			tries = append(tries, fmt.Sprintf("%d %s", res.Runs[w], w))
		}
	}
	if len(tries) > 0 {
		add("Runs", "%s at %s", strings.Join(tries, ", "), plural(res.Tested, r.tested()))
	}
	for _, s := range res.Same {
		add("Same kernel", "%s as %s", r.Name(r.point(s[1])), r.Name(r.point(s[0])))
	}
	for _, p := range r.History.Points {
		if w, ok := res.Skipped[p.ID]; ok {
			add("Skipped", "%s: %s: %s", r.Name(p), w, r.lastReason(p.ID, w))
		}
	}
	for _, n := range r.Notes {
		add("Note", "%s", n)
	}
	return out
}

// reverted says what became of the bad end without the culprit.
func (r Report) reverted() string {
	n, total := map[Word]int{}, 0
	reason := ""
	for _, o := range r.Observations {
		if o.Phase == Revert {
			n[o.Word]++
			total++
			reason = o.Reason
		}
	}
	switch {
	case total == 0:
		return ""
	case n[Bad] > 0:
		return fmt.Sprintf("the bad end without the culprit still shows the symptom, in %d of %s", n[Bad], plural(total, "run"))
	case n[Good] == total:
		return fmt.Sprintf("the bad end without the culprit is good in %s", plural(total, "run"))
	}
	return "the bad end without the culprit could not be tested: " + reason
}

func (r Report) lastReason(id string, w Word) string {
	for i := len(r.Observations) - 1; i >= 0; i-- {
		if o := r.Observations[i]; o.Point == id && o.Word == w {
			return o.Reason
		}
	}
	return ""
}

// shown is the observation that shows the symptom best: at the culprit, or at
// the bad end, or whatever stopped the search.
func (r Report) shown() *Observation {
	var best *Observation
	rank := 0
	for i := range r.Observations {
		o := &r.Observations[i]
		n := 0
		switch {
		case o.Word == Bad && r.Result != nil && len(r.Result.Found) == 1 && o.Point == r.Result.Found[0].ID:
			n = 4
		case o.Word == Bad:
			n = 3
		case o.Word != Good && r.Result != nil && r.Result.Kind == EndUntestable:
			n = 2
		}
		if n > rank {
			best, rank = o, n
		}
	}
	return best
}

// shownAs says what the observation shown is.
func (r Report) shownAs() string {
	if o := r.shown(); o != nil && o.Word != Bad {
		return "What was seen"
	}
	return "Symptom"
}

// step is a line of the path taken.
type step struct {
	N      int
	Phase  Phase
	Word   Word
	Name   string
	Reason string
	Time   time.Duration
}

func (r Report) path() []step {
	var out []step
	for i, o := range r.Observations {
		out = append(out, step{N: i + 1, Phase: o.Phase, Word: o.Word, Name: r.Name(r.point(o.Point)), Reason: o.Reason, Time: (o.Build + o.Run).Round(time.Second)})
	}
	return out
}

// GitLog writes what git bisect replay reads (git-bisect(1)): one line for each
// commit, whatever the number of its runs. What git would contradict, a commit
// that passed by luck, is skipped.
func (r Report) GitLog(w io.Writer) error {
	var b strings.Builder
	b.WriteString("git bisect start\n")
	line := func(word string, p Point) {
		fmt.Fprintf(&b, "# %s: [%s] %s\ngit bisect %s %s\n", word, p.ID, clean(p.Subject, 200), word, p.ID)
	}
	g := newGraph(&r.History)
	count := map[string]map[Word]int{}
	var order []int
	index := map[string]int{}
	for i, p := range r.History.Points {
		index[p.ID] = i
	}
	for _, o := range r.Observations {
		x, ok := index[o.Point]
		if !ok || o.Phase == Revert || o.Word == Same {
			continue
		}
		if count[o.Point] == nil {
			count[o.Point] = map[Word]int{}
			if x != r.History.Good && x != r.History.Bad() {
				order = append(order, x)
			}
		}
		count[o.Point][o.Word]++
	}
	// The ends are bad and good by what the user said, if not by a run: git
	// needs both before anything else.
	for _, e := range []struct {
		x    int
		word string
	}{{r.History.Bad(), "bad"}, {r.History.Good, "good"}} {
		line(e.word, r.History.Points[e.x])
	}
	// The last bad one is the only one that git knows: one that does not lead
	// on from there tells it nothing.
	bad := r.History.Bad()
	var bads []int
	for _, x := range order {
		if count[r.History.Points[x].ID][Bad] > 0 {
			bads = append(bads, x)
		}
	}
	for _, x := range order {
		p := r.History.Points[x]
		if p.Base {
			continue // below the good end; git knows
		}
		word := "skip"
		switch c := count[p.ID]; {
		case c[Bad] > 0:
			if g.base[x] || !g.bad(x, bad) {
				fmt.Fprintf(&b, "# also bad: [%s] %s\n", p.ID, clean(p.Subject, 200))
				continue
			}
			word, bad = "bad", x
		case c[Good] > 0:
			word = "good"
			for _, y := range bads {
				if !g.base[y] && g.bad(y, x) {
					word = "skip" // it descends from a bad one
				}
			}
			if r.Result != nil && r.Result.Kind == Culprit && g.bad(index[r.Result.Found[0].ID], x) {
				word = "skip"
			}
		}
		line(word, p)
	}
	if r.Result != nil && r.Result.Kind == Culprit {
		p := r.Result.Found[0]
		fmt.Fprintf(&b, "# first bad commit: [%s] %s\n", p.ID, clean(p.Subject, 200))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
