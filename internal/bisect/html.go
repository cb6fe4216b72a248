// SPDX-License-Identifier: Apache-2.0

package bisect

import (
	"fmt"
	"html/template"
	"io"
)

// HTML writes the report as one page that needs nothing else: no script, no
// style sheet, no font and no picture from elsewhere. The path taken is drawn:
// the history from left to right, the runs from top to bottom.
func (r Report) HTML(w io.Writer) error {
	page := struct {
		Report
		Headline string
		Facts    []fact
		Path     []step
		Shown    *Observation
		At, As   string
		Pic      picture
		Noun     string
		Answer   []Point
	}{Report: r, Headline: upper(r.headline()), Facts: r.facts(), Path: r.path(), Shown: r.shown(), Pic: r.draw(), Noun: r.noun()}
	if page.Shown != nil {
		page.As, page.At = r.shownAs(), r.Name(r.point(page.Shown.Point))
	}
	if r.Result != nil && (r.Result.Kind == Culprit || r.Result.Kind == Range || r.Result.Kind == Options) {
		page.Answer = r.Result.Found
	}
	t, err := template.New("page").Parse(pageText)
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return t.Execute(w, page)
}

// picture is the path taken, in SVG's user units.
type picture struct {
	Width, Height   int
	Left, Right     int
	Bottom          int
	BandX, BandW    float64 // the answer
	BandH           int
	HasBand         bool
	Dots            []dot
	Lines           []segment
	GoodName, BadID string
	Legend          []legend
	LegendY         int
}

type dot struct {
	X, Y float64
	Word Word
	Text string
	N    int // of the run, 0 where there is no room for it
}

type segment struct{ X1, Y1, X2, Y2 float64 }

type legend struct {
	X    int
	Word Word
}

// draw places the runs. Rows share the height when there are many.
func (r Report) draw() picture {
	const width, left, right, top = 960, 50, 930, 40
	p := picture{Width: width, Left: left, Right: right, GoodName: tail(r.GoodName), BadID: tail(r.BadName)}
	last := max(1, len(r.History.Points)-1)
	index := map[string]int{}
	for i, q := range r.History.Points {
		index[q.ID] = i
	}
	x := func(i int) float64 { return left + float64(right-left)*float64(i)/float64(last) }
	row := 18.0
	if n := len(r.Observations); n > 60 {
		row = 18.0 * 60 / float64(n)
	}
	y := float64(top)
	var prev *dot
	seen := map[Word]bool{}
	lastN := y
	for i, o := range r.Observations {
		k, ok := index[o.Point]
		if !ok || o.Phase == Revert {
			continue
		}
		y += row
		seen[o.Word] = true
		d := dot{X: x(k), Y: y, Word: o.Word, Text: fmt.Sprintf("%d. %s: %s: %s", i+1, o.Phase, o.Word, r.Name(r.History.Points[k]))}
		if y-lastN >= 12 {
			d.N, lastN = i+1, y
		}
		if prev != nil {
			p.Lines = append(p.Lines, segment{prev.X, prev.Y, d.X, d.Y})
		}
		p.Dots = append(p.Dots, d)
		prev = &p.Dots[len(p.Dots)-1]
	}
	if 2*len(p.Dots) < len(r.Observations) {
		return picture{} // sets of options are no places in a history
	}
	p.Bottom = int(y) + 20
	if r.Result != nil && (r.Result.Kind == Culprit || r.Result.Kind == Range) && len(r.Result.Found) > 0 {
		first, end := last, 0
		for _, q := range r.Result.Found {
			first, end = min(first, index[q.ID]), max(end, index[q.ID])
		}
		p.HasBand, p.BandX = true, x(first)-3
		p.BandW, p.BandH = x(end)-x(first)+6, p.Bottom-30
	}
	for _, w := range append(words[:len(words):len(words)], Same) {
		if seen[w] {
			p.Legend = append(p.Legend, legend{X: left + len(p.Legend)*130, Word: w})
		}
	}
	p.LegendY = p.Bottom + 24
	p.Height = p.LegendY + 16
	return p
}

// tail is the end of a name that would run into the other end's.
func tail(name string) string {
	const most = 60
	if r := []rune(name); len(r) > most {
		return "…" + string(r[len(r)-most+1:])
	}
	return name
}

const pageText = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<title>{{.Headline}}</title>
<style>
/* The words' colors are told apart by people who cannot tell red from green, too (Okabe and Ito, 2008). */
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --rule: #ddd; --soft: #f4f4f4; --path: #bbb; --band: #f0e442;
 --good: #0072b2; --bad: #d55e00; --badtext: #b34700; --infra: #000; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #16181c; --rule: #3a3d44; --soft: #22252b; --path: #6a6d74; --band: #8a8200;
 --good: #56b4e9; --bad: #f0802f; --badtext: #f0802f; --infra: #fff; } }
body { font: 15px/1.45 sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin-top: 1.6em; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; vertical-align: top; padding: 2px 10px 2px 0; border-bottom: 1px solid var(--rule); }
td, pre { overflow-wrap: anywhere; } th, .path td:nth-child(-n+3) { white-space: nowrap; overflow-wrap: normal; } pre { background: var(--soft); padding: 8px; white-space: pre-wrap; } code { font-size: .95em; }
svg { width: 100%; height: auto; border: 1px solid var(--rule); } svg text { font: 12px sans-serif; fill: var(--ink); }
svg line { stroke: var(--path); } svg line.history { stroke: var(--ink); stroke-width: 2; } svg rect { fill: var(--band); fill-opacity: .6; }
td.good { color: var(--good); } td.bad { color: var(--badtext); }
circle.good { fill: var(--good); } circle.bad { fill: var(--bad); } circle.other { fill: #cc79a7; } circle.boot-failed { fill: #e69f00; }
circle.build-failed { fill: #999; } circle.infra { fill: var(--infra); } circle.same { fill: #009e73; }
</style>
</head>
<body>
<h1>{{.Headline}}</h1>
<p>{{.Symptom}}</p>
{{range .Answer}}<p><code>{{.ID}}</code>{{if .Subject}}<br/><b>{{.Subject}}</b>{{end}}{{if .Author}}<br/>{{.Author}}{{end}}{{if .Date}}, {{.Date}}{{end}}</p>
{{end}}<table>
{{range .Facts}}<tr><th>{{.Label}}</th><td>{{.Text}}</td></tr>
{{end}}</table>
<h2>The path taken</h2>
{{if .Pic.Dots}}<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{.Pic.Width}} {{.Pic.Height}}" role="img" aria-label="the runs, from top to bottom, at their places in the history, from left to right">
{{with .Pic}}{{if .HasBand}}<rect x="{{printf "%.1f" .BandX}}" y="30" width="{{printf "%.1f" .BandW}}" height="{{.BandH}}"/>
{{end}}<line class="history" x1="{{.Left}}" y1="36" x2="{{.Right}}" y2="36"/>
<text x="{{.Left}}" y="24">{{.GoodName}}</text>
<text x="{{.Right}}" y="24" text-anchor="end">{{.BadID}}</text>
{{range .Lines}}<line x1="{{printf "%.1f" .X1}}" y1="{{printf "%.1f" .Y1}}" x2="{{printf "%.1f" .X2}}" y2="{{printf "%.1f" .Y2}}"/>
{{end}}{{range .Dots}}{{if .N}}<text x="8" y="{{printf "%.1f" .Y}}" dy="4">{{.N}}</text>
{{end}}<circle class="{{.Word}}" cx="{{printf "%.1f" .X}}" cy="{{printf "%.1f" .Y}}" r="5"><title>{{.Text}}</title></circle>
{{end}}{{$y := .LegendY}}{{range .Legend}}<circle class="{{.Word}}" cx="{{.X}}" cy="{{$y}}" r="5"/><text x="{{.X}}" y="{{$y}}" dx="10" dy="4">{{.Word}}</text>
{{end}}{{end}}</svg>
{{end}}<table class="path">
<tr><th></th><th>for</th><th>word</th><th>{{.Noun}}</th><th>why</th></tr>
{{range .Path}}<tr><td>{{.N}}</td><td>{{.Phase}}</td><td class="{{.Word}}">{{.Word}}</td><td>{{.Name}}</td><td>{{.Reason}}</td></tr>
{{end}}</table>
{{with .Shown}}<h2>{{$.As}}</h2>
<p>At {{$.At}}: {{.Reason}}</p>
{{if .Evidence}}<pre>{{.Evidence}}</pre>
{{end}}{{if .Repro}}<h2>To reproduce it</h2>
<pre>{{.Repro}}</pre>
{{end}}{{end}}<h2>The bisection</h2>
<pre>{{.Command}}</pre>
</body>
</html>
`
