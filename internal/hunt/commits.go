// SPDX-License-Identifier: Apache-2.0

package hunt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/kvmrun/kvmrun/internal/bisect"
	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/gitrepo"
	"github.com/kvmrun/kvmrun/internal/kbuild"
	"github.com/kvmrun/kvmrun/internal/kfetch"
	"github.com/kvmrun/kvmrun/internal/output"
	"github.com/kvmrun/kvmrun/kconfigs"
)

// commits are those of a git repository, built one at a time.
type commits struct {
	q     *Question
	cache *cache.Cache
	dir   string // of the hunt
	repo  *gitrepo.Repo
	tree  *gitrepo.Worktree
	conf  kbuild.Config
	bad   string
	// names are what commits are called in progress.
	names map[string]string

	mu     sync.Mutex // builds share the tree
	built  map[string]bisect.Build
	revert []byte // the patch of the point named reverted
	merge  bool   // the culprit is one
}

// reverted is the point that is the bad end without the culprit.
const reverted = "the bad end without the culprit"

// newCommits opens the repository and checks the build's request.
func newCommits(ctx context.Context, q *Question, t Tools) (*commits, error) {
	if kfetch.IsRef(q.Build.Source) {
		return nil, refusef("bisect: -src %s: a distribution's source has no history; name a git repository, or go through its kernels: -kernels %s", q.Build.Source, q.Build.Source)
	}
	repo, err := gitrepo.Open(ctx, q.Build.Source, t.Env)
	if err != nil {
		return nil, refuse(fmt.Errorf("bisect: -src: %w", err))
	}
	c := &commits{q: q, cache: t.Machine.Cache, repo: repo, conf: q.Build, names: map[string]string{}, built: map[string]bisect.Build{}}
	name := q.Bad
	if name == "" {
		name = "HEAD"
	}
	if c.bad, err = repo.Resolve(ctx, name); err != nil {
		return nil, refuse(fmt.Errorf("bisect: -bad: %w", err))
	}
	if _, err := kconfigs.FindProfile(c.conf.Profile); err != nil {
		return nil, refuse(fmt.Errorf("bisect: -profile: %w", err))
	}
	for _, f := range append(append([]string{}, q.Build.Fragments...), q.Build.Patches...) {
		if _, err := os.Stat(f); err != nil {
			return nil, refuse(fmt.Errorf("bisect: %w", err))
		}
	}
	return c, nil
}

// worktree opens the work tree when it is first needed. It lies among the build
// trees: kvmrun kernel list shows it and prune removes it.
func (c *commits) worktree() (*gitrepo.Worktree, error) {
	if c.tree == nil {
		sum := sha256.Sum256([]byte(c.repo.Dir()))
		tree, err := kbuild.WorkTree(c.cache, fmt.Sprintf("commits-%x", sum[:8]), c.repo.Dir(), c.repo.Worktree)
		if err != nil {
			return nil, err
		}
		c.tree = tree
	}
	return c.tree, nil
}

func (c *commits) keep(dir string) { c.dir = dir }

func (c *commits) close() {
	if c.tree != nil {
		_ = c.tree.Close()
	}
}

func (c *commits) cost() float64 { return buildCost }

// buildCost is what an incremental build costs, in runs: minutes for seconds.
const buildCost = 20

// mainLine is how far -good auto looks back at most, in commits of the main line.
const mainLine = 1 << 16

func (c *commits) point(p gitrepo.Commit) bisect.Point {
	q := bisect.Point{ID: p.ID, Subject: p.Subject, Author: p.Author, Date: p.Date}
	c.names[p.ID] = bisect.Report{Git: true}.Name(q)
	return q
}

func (c *commits) history(ctx context.Context, good string) (bisect.History, error) {
	if good == "" {
		line, err := c.repo.MainLine(ctx, c.bad, mainLine)
		if err != nil {
			return bisect.History{}, err
		}
		var points []bisect.Point
		for _, p := range line {
			points = append(points, c.point(p))
		}
		return bisect.Linear(points), nil
	}
	from, err := c.repo.Resolve(ctx, good)
	if err != nil {
		return bisect.History{}, fmt.Errorf("bisect: -good: %w", err)
	}
	if from == c.bad {
		return bisect.History{}, errors.New("bisect: the range is empty: -good and -bad are the same commit")
	}
	if err := c.repo.CheckAncestor(ctx, from, c.bad); err != nil {
		var not *gitrepo.NotAncestorError
		if errors.As(err, &not) {
			not.Good, not.Bad = good, c.badName()
		}
		return bisect.History{}, fmt.Errorf("bisect: %w", err)
	}
	list, err := c.repo.Range(ctx, from, c.bad, c.q.FirstParent, c.q.Paths)
	if err != nil {
		return bisect.History{}, fmt.Errorf("bisect: %w", err)
	}
	if len(list) == 0 {
		return bisect.History{}, fmt.Errorf("bisect: the range is empty: no commit between %s and %s touches %s", good, c.badName(), strings.Join(c.q.Paths, ", "))
	}
	points := make([]bisect.Point, len(list))
	parents := make([][]string, len(list))
	for i, p := range list {
		points[i], parents[i] = c.point(p), p.Parents
	}
	ends := make([]bisect.Point, 2)
	for i, id := range []string{from, c.bad} {
		one, err := c.repo.MainLine(ctx, id, 1)
		if err != nil || len(one) != 1 {
			return bisect.History{}, fmt.Errorf("bisect: read commit %s: %w", id, err)
		}
		ends[i] = c.point(one[0])
	}
	return bisect.Graph(ends[0], points, parents, ends[1]), nil
}

func (c *commits) badName() string {
	if c.q.Bad != "" {
		return c.q.Bad
	}
	return "HEAD"
}

// learn takes the names of commits from a history that was kept.
func (c *commits) learn(h bisect.History) {
	for _, p := range h.Points {
		c.names[p.ID] = bisect.Report{Git: true}.Name(p)
	}
}

func (c *commits) name(id string) string {
	if n := c.names[id]; n != "" {
		return n
	}
	return id[:min(12, len(id))]
}

func (c *commits) report(r *bisect.Report) {
	r.Git, r.Source = true, c.q.Build.Source
	r.BadName = c.badName()
	r.Kernel = "profile " + c.conf.Profile
	for _, f := range c.conf.Fragments {
		r.Kernel += ", with " + filepath.Base(f)
	}
	for _, p := range c.conf.Patches {
		r.Kernel += ", patched by " + filepath.Base(p)
	}
	if c.merge {
		r.Notes = append(r.Notes, "the culprit is a merge: reverted are the other branch and how it was joined (git revert -m 1)")
	}
	if len(c.q.Paths) > 0 {
		r.Notes = append(r.Notes, "only commits that touch "+strings.Join(c.q.Paths, ", "))
		if r.Result != nil && r.Result.Kind == bisect.Culprit && r.Result.Found[0].ID == c.bad {
			r.Notes = append(r.Notes, "the culprit is the bad end itself: no commit that touches these paths is, unless it does")
		}
	}
}

// Build checks a commit out and builds it.
func (c *commits) Build(ctx context.Context, id string) (bisect.Build, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b, ok := c.built[id]; ok {
		b.Seconds = 0
		return b, nil
	}
	tree, err := c.worktree()
	if err != nil {
		return bisect.Build{}, err
	}
	conf := c.conf
	commit := id
	if id == reverted {
		commit = c.bad
		patch := filepath.Join(c.dir, "revert.patch")
		if err := output.Replace(patch, func(w io.Writer) error { _, err := w.Write(c.revert); return err }); err != nil {
			return bisect.Build{}, err
		}
		conf.Patches = append(conf.Patches[:len(conf.Patches):len(conf.Patches)], patch)
	}
	if err := tree.Checkout(ctx, commit); err != nil {
		return bisect.Build{}, err
	}
	conf.Source = tree.Path()
	b, err := buildOne(ctx, conf)
	if err != nil {
		return b, err
	}
	if b.Log != "" {
		b.Log = c.keepLog(id, b.Log)
	}
	if b.Word != bisect.Infra {
		c.built[id] = b
	}
	return b, nil
}

// keepLog copies a build's log, which the next build overwrites.
func (c *commits) keepLog(id, log string) string {
	text, err := os.ReadFile(log)
	if err != nil {
		return log
	}
	to := filepath.Join(c.dir, "build-"+strings.ReplaceAll(id[:min(12, len(id))], " ", "-")+".log")
	if err := os.WriteFile(to, text, 0o644); err != nil { //nolint:gosec // nothing secret in it
		return log
	}
	return to
}

// after builds the bad end without the culprit, where that reverts cleanly, and
// runs it until the symptom would have shown. A merge is reverted to its first
// parent, as by git revert -m 1: the other branch goes, and how it was joined.
func (c *commits) after(ctx context.Context, r *bisect.Result, runs moreRuns) error {
	k := r.Found[0]
	one, err := c.repo.MainLine(ctx, k.ID, 1)
	if err != nil {
		return err
	}
	c.merge = len(one) == 1 && len(one[0].Parents) > 1
	if c.revert, err = c.repo.Diff(ctx, k.ID, k.ID+"^"); err != nil {
		return err
	}
	if len(c.revert) == 0 {
		return nil
	}
	done := 0
	for _, o := range runs.seen {
		if o.Phase == bisect.Revert {
			if o.Word != bisect.Good {
				return nil
			}
			done++
		}
	}
	want := revertRuns(r, runs.confidence)
	for ; done < want; done++ {
		o, err := runs.do(ctx, bisect.Step{Point: reverted, Phase: bisect.Revert})
		if err != nil {
			return err
		}
		if o.Word != bisect.Good {
			return nil
		}
	}
	return nil
}

// revertRuns is how many good runs mean something at the measured rate.
func revertRuns(r *bisect.Result, confidence float64) int {
	// A run more of each kind, as a uniform prior has it.
	p := float64(r.PBad+1) / float64(r.PBad+r.PGood+2)
	return min(100, max(1, int(math.Ceil(math.Log(1-confidence)/math.Log(1-p)))))
}
