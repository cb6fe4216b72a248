// SPDX-License-Identifier: Apache-2.0

package sweep

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/internal/visible"
)

// Report is what a sweep found.
type Report struct {
	Kernel  string `json:"kernel"`
	Release string `json:"release,omitempty"`
	Subject string `json:"subject"`
	Fault   string `json:"fault"`
	// Total is the number of calls of an undisturbed run, Spread how far two
	// of them were apart, Silent those of an unknown stack.
	Total  uint64 `json:"total"`
	Spread uint64 `json:"spread"`
	Silent uint64 `json:"silent"`
	// Own is the number of calls by kmemleak itself, which are no sites.
	Own uint64 `json:"own,omitempty"`
	// Sites is the number of call stacks, SitesTried of those a point was
	// meant for, SitesHit of those at which a fault was injected.
	Sites      int             `json:"sites"`
	SitesTried int             `json:"sitesTried"`
	SitesHit   int             `json:"sitesHit"`
	Planned    int             `json:"planned"`
	Counts     map[Verdict]int `json:"counts"`
	Elapsed    time.Duration   `json:"elapsed"`
	// PerSecond is the rate of this run, without what was done before.
	PerSecond float64 `json:"perSecond"`
	// Repro is the command that repeats a point, with %s for it.
	Repro   string   `json:"repro"`
	Results []Result `json:"results"`
}

// Fill computes the numbers from the results.
func (r *Report) Fill(h Header, results []Result) {
	r.Total, r.Silent, r.Own, r.Spread = h.Listing.Total, h.Listing.Silent, h.Listing.Own, h.Spread
	r.Sites, r.Planned, r.Results = len(h.Listing.Sites), len(h.Points), results
	r.Counts = map[Verdict]int{}
	tried, hit := map[int]bool{}, map[int]bool{}
	for _, x := range results {
		r.Counts[x.Verdict]++
		if x.Site > 0 {
			tried[x.Site] = true
		}
		if x.Hit > 0 {
			hit[x.Hit] = true
		}
	}
	r.SitesTried, r.SitesHit = len(tried), len(hit)
}

// Findings are the results that say something about the kernel, one for each
// title, with the number of points that have it.
func (r *Report) Findings() (out []Finding) {
	for _, x := range r.Results {
		if !x.Verdict.Bad() {
			continue
		}
		i := slices.IndexFunc(out, func(f Finding) bool { return f.Verdict == x.Verdict && f.Title == x.Title })
		if i < 0 {
			out = append(out, Finding{Result: x})
			i = len(out) - 1
		}
		out[i].Points++
	}
	return out
}

// Again is the command that repeats a point.
func (r *Report) Again(p Point) string {
	return strings.Replace(r.Repro, "%s", "'"+p.At()+"'", 1)
}

// Finding is the first of all results with one title.
type Finding struct {
	Result
	Points int
}

// JSON writes the report.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// Text writes the report for people. stack renders a call stack, one frame a
// line; nil prints it as it is.
func (r *Report) Text(w io.Writer, stack func([]string) []string) error {
	var b strings.Builder
	for _, f := range r.Findings() {
		fmt.Fprintf(&b, "%s: %s (%s)\n", f.Verdict, clean(f.Title), plural(f.Points, "point"))
		fmt.Fprintf(&b, "  injected at %s:\n", f.At())
		lines := f.Stack
		if stack != nil {
			lines = stack(lines)
		}
		for _, l := range lines {
			fmt.Fprintf(&b, "    %s\n", clean(l))
		}
		if f.Raw != "" {
			b.WriteString("  the kernel:\n")
			for _, l := range strings.Split(strings.TrimRight(f.Raw, "\n"), "\n") {
				fmt.Fprintf(&b, "    %s\n", clean(l))
			}
		}
		if f.Log != "" {
			fmt.Fprintf(&b, "  kernel log: %s\n", f.Log)
		}
		fmt.Fprintf(&b, "  again: %s\n\n", r.Again(f.Point))
	}
	fmt.Fprintf(&b, "%s, %s", r.Subject, r.Fault)
	if r.Total > 0 { // not with -at, which counts nothing
		fmt.Fprintf(&b, ": %s", plural(int(r.Total), "call"))
	}
	if r.Spread > 0 {
		fmt.Fprintf(&b, " (or %d fewer: the number varies)", r.Spread)
	}
	if r.Sites > 0 {
		fmt.Fprintf(&b, " from %s", plural(r.Sites, "site"))
		if r.Silent > 0 {
			fmt.Fprintf(&b, " (%d calls are of unknown sites, which do not count here)", r.Silent)
		}
		if r.Own > 0 {
			fmt.Fprintf(&b, " (%d calls are kmemleak's own, and left out)", r.Own)
		}
		fmt.Fprintf(&b, "; %d sites tried, %d hit", r.SitesTried, r.SitesHit)
	}
	fmt.Fprintf(&b, "\n%d of %s:", len(r.Results), plural(r.Planned, "point"))
	sep := " "
	for _, v := range Verdicts {
		if n := r.Counts[v]; n > 0 {
			fmt.Fprintf(&b, "%s%d %s", sep, n, v)
			sep = ", "
		}
	}
	fmt.Fprintf(&b, "; %.1f points a second\n", r.PerSecond)
	_, err := io.WriteString(w, visible.Text(b.String()))
	return err
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// clean makes text of a guest fit for a terminal.
func clean(s string) string { return visible.Text(strings.TrimRight(s, "\r\n\t ")) }

// Failed says whether the sweep found something.
func (r *Report) Failed() bool { return len(r.Findings()) > 0 }
