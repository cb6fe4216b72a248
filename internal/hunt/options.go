// SPDX-License-Identifier: Apache-2.0

package hunt

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/kvmrun/kvmrun/internal/bisect"
	"github.com/kvmrun/kvmrun/internal/kbuild"
	"github.com/kvmrun/kvmrun/internal/kconfig"
	"github.com/kvmrun/kvmrun/internal/kfetch"
	"github.com/kvmrun/kvmrun/internal/output"
)

// options are the differences between two configurations.
type options struct {
	plain
	q         *Question
	dir       string // of the hunt
	conf      kbuild.Config
	good, bad kconfig.Config
	goodText  []byte
	badText   []byte
	// changes are those that a user can make; needs are what each needs of the
	// others.
	changes []kconfig.Change
	needs   [][]int

	mu    sync.Mutex // builds share the tree
	sets  map[string][]int
	built map[string]bisect.Build
}

// newOptions compares the configurations and reads the tree's dependencies.
func newOptions(ctx context.Context, q *Question, t Tools) (*options, error) {
	o := &options{q: q, conf: q.Build, sets: map[string][]int{}, built: map[string]bisect.Build{}}
	if len(q.Build.Fragments) > 0 {
		return nil, refusef("bisect: -configs: a fragment would be the same in both configurations: leave -fragment out")
	}
	for i, name := range q.Configs {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, refuse(fmt.Errorf("bisect: -configs: %w", err))
		}
		c, err := kconfig.ParseConfig(name, text)
		if err != nil {
			return nil, refuse(fmt.Errorf("bisect: -configs: %w", err))
		}
		if i == 0 {
			o.good, o.goodText = c, text
		} else {
			o.bad, o.badText = c, text
		}
	}
	dir := q.Build.Source
	if kfetch.IsRef(dir) {
		src, err := t.Machine.Fetcher().FetchSource(ctx, dir)
		if err != nil {
			return nil, err
		}
		dir = src.Dir
	}
	tree, err := kconfig.ReadTree(os.DirFS(dir), "x86")
	if err != nil {
		return nil, refuse(fmt.Errorf("bisect: -src %s: %w", dir, err))
	}
	o.compare(tree)
	if len(o.changes) == 0 {
		return nil, refusef("bisect: -configs: no option that can be set differs between %s and %s", q.Configs[0], q.Configs[1])
	}
	return o, nil
}

// compare lists the changes and what they need. An option that is switched on
// needs the changes of what it depends on, one that is switched off those of what
// selects it. What has no prompt follows by itself.
func (o *options) compare(tree *kconfig.Tree) {
	index := map[string]int{}
	for _, c := range kconfig.Diff(o.good, o.bad) {
		if tree.Settable(c.Symbol) {
			index[c.Symbol] = len(o.changes)
			o.changes = append(o.changes, c)
		}
	}
	for i, c := range o.changes {
		from := tree.DependsOn(c.Symbol)
		if c.New == kconfig.No {
			from = tree.SelectedBy(c.Symbol)
		}
		var needs []int
		for _, s := range from {
			if j, ok := index[s]; ok && j != i {
				needs = append(needs, j)
			}
		}
		o.needs = append(o.needs, needs)
	}
}

// id names a set of changes.
func (o *options) id(set []int) string {
	var id string
	switch len(set) {
	case 0:
		id = o.q.Configs[0]
	case len(o.changes):
		id = o.q.Configs[1]
	default:
		h := sha256.New()
		for _, i := range set {
			fmt.Fprintln(h, o.changes[i])
		}
		id = fmt.Sprintf("%d of %d options (%x)", len(set), len(o.changes), h.Sum(nil)[:6])
		if len(set) <= 3 {
			var names []string
			for _, i := range set {
				names = append(names, o.changes[i].Symbol)
			}
			id = fmt.Sprintf("%d of %d options (%s)", len(set), len(o.changes), strings.Join(names, ", "))
		}
	}
	o.sets[id] = set
	return id
}

// text is the configuration with a set of changes.
func (o *options) text(set []int) []byte {
	switch len(set) {
	case 0:
		return o.goodText
	case len(o.changes):
		return o.badText
	}
	c := kconfig.Config{}
	for s, v := range o.good {
		c[s] = v
	}
	for _, i := range set {
		c[o.changes[i].Symbol] = o.changes[i].New
	}
	return c.Format()
}

// Build builds the kernel with a set of changes.
func (o *options) Build(ctx context.Context, id string) (bisect.Build, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if b, ok := o.built[id]; ok {
		b.Seconds = 0
		return b, nil
	}
	conf := o.conf
	conf.Complete = filepath.Join(o.dir, "try.config")
	if err := output.Replace(conf.Complete, func(w io.Writer) error { _, err := w.Write(o.text(o.sets[id])); return err }); err != nil {
		return bisect.Build{}, err
	}
	b, err := buildOne(ctx, conf)
	if err == nil && b.Word != bisect.Infra {
		o.built[id] = b
	}
	return b, err
}

func (o *options) history(context.Context, string) (bisect.History, error) {
	ps := []bisect.Point{{ID: o.q.Configs[0]}}
	for _, c := range o.changes {
		ps = append(ps, bisect.Point{ID: "CONFIG_" + c.Symbol, Subject: fmt.Sprintf("CONFIG_%s: %s -> %s", c.Symbol, shown(c.Old), shown(c.New))})
	}
	return bisect.Linear(append(ps, bisect.Point{ID: o.q.Configs[1]})), nil
}

// shown is a value as it reads in a report.
func shown(v string) string {
	if v == kconfig.No {
		return "n"
	}
	return v
}

func (o *options) report(r *bisect.Report) {
	r.Noun, r.Source, r.Kernel = "option", o.q.Build.Source, "as configured"
	r.GoodName, r.BadName = o.q.Configs[0], o.q.Configs[1]
}

func (o *options) keep(dir string) { o.dir = dir }

func (o *options) cost() float64 { return buildCost }

// minimize finds the options that make the difference.
func (h *Hunt) minimize(ctx context.Context, o *options) (none bisect.Report, err error) {
	all := make([]int, len(o.changes))
	for i := range all {
		all[i] = i
	}
	bad, good := o.id(all), o.id(nil)
	points, err := o.history(ctx, "")
	if err != nil {
		return none, err
	}
	p, err := bisect.NewProber(h.q.Search, h.job(), bad, h.journal.Seen())
	if err != nil {
		return none, refuse(fmt.Errorf("bisect: %w", err))
	}
	end := func(r *bisect.Result, found []int) (bisect.Report, error) {
		r.Candidates = len(o.changes)
		for _, i := range found {
			r.Found = append(r.Found, points.Points[1+i])
		}
		report := bisect.Report{Result: r, History: points, Observations: p.Observations()}
		err := h.write(&report)
		return report, err
	}
	h.t.Tell(fmt.Sprintf("%d options differ", len(o.changes)))
	if r, err := p.Measure(ctx); r != nil || err != nil {
		if err != nil {
			return none, err
		}
		return end(r, nil)
	}
	switch w, err := p.Probe(ctx, good, bisect.GoodEnd); {
	case err != nil:
		return none, err
	case w == bisect.Bad:
		return end(p.Result(bisect.GoodFails, good, "the good end shows the symptom"), nil)
	case w != bisect.Good:
		return end(p.Result(bisect.EndUntestable, good, "the good end says nothing about the symptom: "+string(w)), nil)
	}
	found, err := p.Minimize(ctx, len(o.changes), o.needs, o.id)
	if err != nil {
		return none, err
	}
	// Once more, what is said to be bad, and what is said to be good.
	bad = o.id(bisect.Closure(found, o.needs))
	again, err := p.Again(ctx, bad, bisect.Confirm)
	if err != nil {
		return none, err
	}
	fine, err := p.Again(ctx, good, bisect.Confirm)
	if err != nil {
		return none, err
	}
	r := p.Result(bisect.Options, bad, "")
	r.Confirmed, r.Confidence = again && fine, p.Confidence()
	return end(r, found)
}
