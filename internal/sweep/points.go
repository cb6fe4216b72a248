// SPDX-License-Identifier: Apache-2.0

package sweep

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Start is the value of the injector's counter "times" in the run that lists
// the points: what is printed with each stack is then its number. Calls whose
// caller asked for no messages (__GFP_NOWARN) print nothing and are counted
// all the same.
const Start = math.MaxInt32

// filterDepth is how many return addresses, from the injector's caller on, are
// sure to be seen by the kernel's filter, which looks at 32 and begins with
// the injector's own (fail_stacktrace in lib/fault-inject.c).
const filterDepth = 26

// Site is a call stack that reaches the injector.
type Site struct {
	// ID counts from 1, in the order of the first call.
	ID    int      `json:"id"`
	Stack []string `json:"stack"`
	// Points are the numbers of its calls in the run that was listed.
	Points []uint64 `json:"points"`
}

// Point is one place to inject a fault at.
type Point struct {
	// ID counts from 1 within a sweep.
	ID int `json:"id"`
	// Nth is the point's number among all calls, or, with Frame, among those
	// with that return address in their stack.
	Nth   uint64 `json:"nth"`
	Frame string `json:"frame,omitempty"`
	// Site is the call stack that is meant, 0 when it is not known.
	Site int `json:"site,omitempty"`
	// Which call of its site it is: "first", "second" or "last".
	Which string `json:"which,omitempty"`
}

// At names the point independently of any sweep: "17", or
// "alloc_pipe_info+0x8d/0x210#2". [ParseAt] reads it.
func (p Point) At() string {
	n := strconv.FormatUint(p.Nth, 10)
	if p.Frame == "" {
		return n
	}
	return p.Frame + "#" + n
}

var atRE = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(?:([A-Za-z_][\w.]*\+0x[0-9a-f]+(?:/0x[0-9a-f]+)?)#)?([1-9][0-9]{0,17})$`)
})

// ParseAt is the inverse of [Point.At].
func ParseAt(s string) (Point, error) {
	m := atRE().FindStringSubmatch(s)
	if m == nil {
		return Point{}, fmt.Errorf("point %q: want a number, or FUNCTION+0xOFFSET/0xSIZE#NUMBER as a report prints it", s)
	}
	n, err := strconv.ParseUint(m[2], 10, 64)
	return Point{ID: 1, Nth: n, Frame: m[1]}, err
}

// Listing is what an undisturbed run goes through.
type Listing struct {
	// Total is the number of calls, Silent of those that printed no stack, Own
	// of those that are no site because kmemleak made them, to remember others:
	// it has a reserve and does not mind.
	Total  uint64 `json:"total"`
	Silent uint64 `json:"silent"`
	Own    uint64 `json:"own,omitempty"`
	Sites  []Site `json:"sites"`
}

// Learn sorts the messages of a run whose counter began at [Start] and ended
// at left.
func Learn(injector string, dumps []Dump, left int64) Listing {
	l := Listing{Total: uint64(max(0, Start-left))}
	seen := map[string]int{}
	for _, d := range dumps {
		if d.Name != injector || len(d.Stack) == 0 {
			continue
		}
		if kmemleaks(d.Stack) {
			l.Own++
			continue
		}
		key := strings.Join(d.Stack, "\n")
		i, ok := seen[key]
		if !ok {
			i = len(l.Sites)
			seen[key] = i
			l.Sites = append(l.Sites, Site{ID: i + 1, Stack: d.Stack})
		}
		l.Sites[i].Points = append(l.Sites[i].Points, uint64(Start-d.Times)+1)
	}
	heard := l.Own
	for _, s := range l.Sites {
		heard += uint64(len(s.Points))
	}
	l.Total = max(l.Total, heard)
	l.Silent = l.Total - heard
	return l
}

// kmemleaks says whether kmemleak itself is what allocates: the functions are
// those of mm/kmemleak.c before and since 6.7, just above the allocator's.
func kmemleaks(stack []string) bool {
	return slices.ContainsFunc(stack[:min(len(stack), 4)], func(frame string) bool {
		fn := function(frame)
		return fn == "mem_pool_alloc" || fn == "__alloc_object" || fn == "__create_object" || fn == "create_object"
	})
}

// Every returns all points up to total, or n of them, evenly spread, when n is
// more than 0 and less than total.
func (l Listing) Every(total uint64, n int) (out []Point) {
	site := map[uint64]int{}
	for _, s := range l.Sites {
		for _, p := range s.Points {
			site[p] = s.ID
		}
	}
	count := total
	if n > 0 {
		count = min(total, uint64(n))
	}
	for i := range count {
		nth := i + 1
		if count < total {
			// The middle of the i-th of count equal parts.
			nth = 1 + (2*i+1)*total/(2*count)
		}
		out = append(out, Point{ID: len(out) + 1, Nth: nth, Site: site[nth]})
	}
	return out
}

// PerSite returns the first, second and last point of every site. filter says
// whether the kernel can filter by a return address.
func (l Listing) PerSite(filter func(frame string) bool) (out []Point) {
	// How many calls have an address in their stack, and when.
	calls := map[string][]uint64{}
	for _, s := range l.Sites {
		for _, f := range unique(s.Stack) {
			calls[f] = append(calls[f], s.Points...)
		}
	}
	for _, s := range l.Sites {
		best := ""
		for _, f := range unique(s.Stack) {
			if (best == "" || len(calls[f]) < len(calls[best])) && filter(f) {
				best = f
			}
		}
		at := calls[best]
		slices.Sort(at)
		add := func(which string, n uint64) {
			p := Point{ID: len(out) + 1, Nth: n, Site: s.ID, Which: which}
			if best != "" {
				rank, _ := slices.BinarySearch(at, n)
				p.Frame, p.Nth = best, uint64(rank)+1
			}
			out = append(out, p)
		}
		add("first", s.Points[0])
		if len(s.Points) > 2 {
			add("second", s.Points[1])
		}
		if len(s.Points) > 1 {
			add("last", s.Points[len(s.Points)-1])
		}
	}
	return out
}

// unique returns the addresses that the kernel's filter sees, each once.
func unique(stack []string) (out []string) {
	for _, f := range stack[:min(len(stack), filterDepth)] {
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}

// SiteOf returns the site with this stack, 0 for none.
func (l Listing) SiteOf(stack []string) int {
	for _, s := range l.Sites {
		if slices.Equal(s.Stack, stack) {
			return s.ID
		}
	}
	return 0
}
