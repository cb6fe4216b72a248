// SPDX-License-Identifier: Apache-2.0

package sweep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Verdict is what became of the kernel at one point.
type Verdict string

// The verdicts, the gravest first.
const (
	// Splat: the kernel printed a report, or panicked.
	Splat Verdict = "splat"
	// Hang: the machine or the test did not come to an end.
	Hang Verdict = "hang"
	// Broken: a file system did not survive.
	Broken Verdict = "broken file system"
	// Leaked: memory was not given back.
	Leaked Verdict = "leak"
	// Infra: kvmrun, QEMU or the host failed; the point says nothing.
	Infra Verdict = "infra"
	// Unreached: the test did not get to the point this time.
	Unreached Verdict = "unreached"
	// Degraded: the kernel is fine, the test failed.
	Degraded Verdict = "degraded"
	// Clean: the kernel is fine and the test did not mind.
	Clean Verdict = "clean"
)

// Verdicts lists all of them, the gravest first.
var Verdicts = []Verdict{Splat, Hang, Broken, Leaked, Infra, Unreached, Degraded, Clean}

// Bad says whether the verdict is a finding about the kernel.
func (v Verdict) Bad() bool { return v == Splat || v == Hang || v == Broken || v == Leaked }

// Facts are what a Target saw in one run.
type Facts struct {
	// Fired is how many faults were injected.
	Fired int
	// Stack is the call stack of the first one.
	Stack []string
	// Splats are the titles of the kernel's reports, and Raw the first one's
	// text, with positions where they are known.
	Splats []string
	Raw    string
	// Panicked says that the kernel is gone.
	Panicked bool
	// Hang and Infra say why the run did not come to an end, "" for neither.
	Hang, Infra string
	// Broken are the complaints of the checks of file systems.
	Broken []string
	// Objects are the slab caches' objects that are left, by cache.
	Objects map[string]int
	// Leaks are what the kernel itself says is lost.
	Leaks []Leak
	// Failed is why the test failed, "" for one that passed.
	Failed string
	// Output is the end of what the test printed.
	Output string
	// Log is the file with the kernel log, which belongs to the Target.
	Log string
}

// Leak is memory that nothing refers to any more.
type Leak struct {
	// At is the call stack that allocated it, innermost first.
	At string
	// Objects is how many there are.
	Objects int
	// Title names it in one line, Raw is the kernel's report.
	Title, Raw string
}

// key is the leak's in a baseline.
func (l Leak) key() string { return "lost: " + l.At }

// leak returns the first leak that there is more of than without a fault.
func (f Facts) leak(baseline map[string]int) (Leak, bool) {
	for _, l := range f.Leaks {
		if l.Objects > baseline[l.key()] {
			return l, true
		}
	}
	return Leak{}, false
}

// Target runs the test once. Its methods are called from several goroutines.
type Target interface {
	// Run runs the test in a fresh machine with the fault at the point armed,
	// or with none for nil. keep says, of its own facts, whether the logs have
	// to stay. An error ends the sweep.
	Run(ctx context.Context, p *Point, keep func(Facts) bool) (Facts, error)
}

// Result is what came of one point.
type Result struct {
	Point
	Verdict Verdict `json:"verdict"`
	// Title says in one line what happened, "" for clean.
	Title string `json:"title,omitempty"`
	// Raw is the kernel's report.
	Raw string `json:"raw,omitempty"`
	// Stack is the call stack at which the fault was injected, and Hit its
	// site, 0 for one that the listing had not.
	Stack []string `json:"stack,omitempty"`
	Hit   int      `json:"hit,omitempty"`
	// Failed is why the test failed, "" for one that passed.
	Failed  string        `json:"failed,omitempty"`
	Log     string        `json:"log,omitempty"`
	Elapsed time.Duration `json:"elapsed"`
}

// Config is one sweep.
type Config struct {
	Target  Target
	Listing Listing
	Points  []Point
	// Baseline is what is left of each cache, and lost, after the test without
	// a fault, as DryRun returns it.
	Baseline map[string]int
	// Done are results of an earlier run of this sweep.
	Done []Result
	// Jobs is how many points run at a time, at least 1.
	Jobs int
	// OnResult, when set, is told of every result, one at a time. An error
	// ends the sweep.
	OnResult func(Result) error
}

// Refused says that a test cannot be swept because it already fails by itself.
type Refused struct{ Facts Facts }

func (r *Refused) Error() string {
	v, title := judge(r.Facts, nil)
	if v == Clean || v == Unreached {
		title = "for no reason that is known"
	}
	text := "the test fails without any fault, which is no place to look for others: " + title
	if o := strings.TrimSpace(r.Facts.Output); o != "" && v == Degraded {
		text += "\n" + o
	}
	if r.Facts.Log != "" {
		text += "\nkernel log: " + r.Facts.Log
	}
	return text
}

// DryRun runs the test without a fault, n times, and returns how many objects
// are left of each cache, and of each leak. The error is a [*Refused] when the test does not
// pass.
func DryRun(ctx context.Context, t Target, n int) (map[string]int, error) {
	most := map[string]int{}
	for range n {
		f, err := t.Run(ctx, nil, func(Facts) bool { return true })
		if err != nil {
			return nil, err
		}
		for _, l := range f.Leaks {
			most[l.key()] = max(most[l.key()], l.Objects)
		}
		f.Fired, f.Leaks = 1, nil // as if, so that only failures count
		if v, _ := judge(f, nil); v != Clean {
			return nil, &Refused{f}
		}
		for c, n := range f.Objects {
			most[c] = max(most[c], n)
		}
	}
	return most, nil
}

// judge finds the verdict and says why.
func judge(f Facts, baseline map[string]int) (Verdict, string) {
	switch {
	case len(f.Splats) > 0:
		title := f.Splats[0]
		if n := len(f.Splats) - 1; n > 0 {
			title += fmt.Sprintf(" (and %d more)", n)
		}
		return Splat, title
	case f.Panicked:
		return Splat, "the kernel died without a report"
	case f.Infra != "":
		return Infra, f.Infra
	case f.Hang != "":
		return Hang, f.Hang
	case len(f.Broken) > 0:
		return Broken, f.Broken[0]
	}
	if l, ok := f.leak(baseline); ok {
		return Leaked, l.Title
	}
	var caches []string
	for c := range f.Objects {
		caches = append(caches, c)
	}
	slices.Sort(caches)
	for _, c := range caches {
		if base, ok := baseline[c]; ok && f.Objects[c] > base {
			return Leaked, fmt.Sprintf("%d objects of %s are left, %d without a fault", f.Objects[c], c, base)
		}
	}
	switch {
	case f.Fired == 0:
		return Unreached, f.Failed
	case f.Failed != "":
		return Degraded, f.Failed
	}
	return Clean, ""
}

// Run runs all points that are not done and returns all results, in the order
// of the points. When it is interrupted it returns those it has, and the
// reason.
func (c Config) Run(ctx context.Context) ([]Result, error) {
	results := map[int]Result{}
	for _, r := range c.Done {
		results[r.ID] = r
	}
	var todo []Point
	for _, p := range c.Points {
		if _, done := results[p.ID]; !done {
			todo = append(todo, p)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan Point)
	go func() {
		defer close(next)
		for _, p := range todo {
			select {
			case next <- p:
			case <-ctx.Done():
				return
			}
		}
	}()
	var mu sync.Mutex
	var wg sync.WaitGroup
	stacks := map[string][]string{} // thousands of points have dozens of stacks
	for range max(1, c.Jobs) {
		wg.Go(func() {
			for p := range next {
				r, err := c.one(ctx, p)
				mu.Lock()
				if err == nil && ctx.Err() == nil {
					key := strings.Join(r.Stack, "\n")
					if same, ok := stacks[key]; ok {
						r.Stack = same
					} else {
						stacks[key] = r.Stack
					}
					results[p.ID] = r
					if c.OnResult != nil {
						err = c.OnResult(r)
					}
				}
				mu.Unlock()
				if err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	var out []Result
	for _, p := range c.Points {
		if r, ok := results[p.ID]; ok {
			out = append(out, r)
		}
	}
	return out, context.Cause(ctx)
}

// one runs one point. What is no finding may come of bad luck, and is tried
// twice: a leak, which a delayed free looks like, an unreached point and a
// failure of the host.
func (c Config) one(ctx context.Context, p Point) (r Result, err error) {
	began := time.Now()
	for range 2 {
		f, err := c.Target.Run(ctx, &p, func(f Facts) bool { v, _ := judge(f, c.Baseline); return v.Bad() || v == Infra })
		if err != nil {
			return r, err
		}
		if ctx.Err() != nil {
			return r, context.Cause(ctx)
		}
		r = Result{Point: p, Stack: f.Stack, Hit: c.Listing.SiteOf(f.Stack), Raw: f.Raw, Failed: f.Failed, Log: f.Log}
		r.Verdict, r.Title = judge(f, c.Baseline)
		if l, ok := f.leak(c.Baseline); ok && r.Verdict == Leaked {
			r.Raw = l.Raw
		}
		if f.Fired > 0 && len(f.Stack) == 0 {
			r.Hit = p.Site // the caller wants no message; the count has to do
			for _, s := range c.Listing.Sites {
				if s.ID == p.Site {
					r.Stack = s.Stack
				}
			}
		}
		if !r.Verdict.Bad() && r.Verdict != Infra {
			r.Log = ""
		}
		if r.Verdict != Leaked && r.Verdict != Unreached && r.Verdict != Infra {
			break
		}
	}
	r.Elapsed = time.Since(began)
	return r, nil
}

// ErrNothing says that there is no point at which a fault could be injected.
var ErrNothing = errors.New("nothing to sweep")

// ErrChanged says that a sweep cannot be continued because it is another one.
var ErrChanged = errors.New("it is of another kernel, test or fault")
