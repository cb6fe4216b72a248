// SPDX-License-Identifier: Apache-2.0

package hunt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/bisect"
	"github.com/kvmrun/kvmrun/internal/hunt/hunttest"
	"github.com/kvmrun/kvmrun/internal/kbuild"
	"github.com/kvmrun/kvmrun/internal/kbuild/fake"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/vmtest"
)

// hunted is a hunt in the tree's commits, with the reader in place of VMs.
type hunted struct {
	*Hunt
	told *strings.Builder
}

func ask(t *testing.T, g *hunttest.Tree, cache, dir string, set func(*Question)) (*hunted, *hunttest.Reader) {
	t.Helper()
	m, err := runner.NewMachine(cache, vmtest.AccelTCG)
	assert.NilError(t, err)
	q := Question{
		Build: kbuild.Config{Source: g.Dir, Profile: "lean", NoCcache: true, Cache: m.Cache, Env: os.Environ()},
		Good:  "v1", Bad: "v2", Suite: "ext4", Symptom: bisect.Symptom{Suite: "ext4", Run: "TestX"},
		Search: bisect.Config{P: 1, Parallel: 1},
	}
	if set != nil {
		set(&q)
	}
	r := &hunttest.Reader{}
	told := &strings.Builder{}
	tell := func(line string) { told.WriteString(line + "\n") }
	m.Progress = tell
	h, err := New(t.Context(), q, Tools{Machine: m, Env: os.Environ(), Tell: tell, Tester: r})
	assert.NilError(t, err)
	assert.NilError(t, h.in(dir))
	t.Cleanup(h.subject.close)
	return &hunted{h, told}, r
}

// begin makes the hunt's directory, without a suite.
func (h *hunted) begin(t *testing.T) {
	t.Helper()
	var err error
	if len(h.q.Configs) == 0 && h.q.Good != "auto" {
		h.between, err = h.subject.history(t.Context(), h.q.Good)
		assert.NilError(t, err)
	}
	h.journal, err = bisect.Create(h.dir, Asked{})
	assert.NilError(t, err)
	t.Cleanup(func() { _ = h.journal.Close() })
}

// search looks to the end and returns the text of the report.
func (h *hunted) search(t *testing.T) string {
	t.Helper()
	r, err := h.Search(t.Context())
	assert.NilError(t, err, "%s", h.told)
	if written, err := bisect.ReadReport(h.dir); len(h.q.Configs) == 0 {
		assert.NilError(t, err)
		assert.Equal(t, written.Result.Kind, r.Result.Kind)
		assert.DeepEqual(t, written.Result.Found, r.Result.Found)
	}
	text, err := os.ReadFile(filepath.Join(h.dir, "report.txt"))
	assert.NilError(t, err)
	return string(text)
}

// TestBisectCommits bisects real commits with real git, make and gcc: it finds
// the culprit past what does not build, does not boot and is another bug, without
// a trace in the user's repository, builds nothing twice, and git agrees.
func TestBisectCommits(t *testing.T) {
	t.Parallel()
	g := hunttest.NewTree(t)
	cache := t.TempDir()
	// A dirty tree is not touched.
	assert.NilError(t, os.WriteFile(filepath.Join(g.Dir, "a.c"), []byte("dirty"), 0o644))
	status := g.Git("status", "--porcelain") + g.Git("for-each-ref") + g.Git("worktree", "list")
	dir := filepath.Join(t.TempDir(), "b")
	s, _ := ask(t, g, cache, dir, nil)
	s.begin(t)
	text := s.search(t)
	r, err := bisect.ReadReport(dir)
	assert.NilError(t, err)
	assert.Equal(t, g.Subject[r.Result.Found[0].ID], "culprit")
	assert.Assert(t, r.Result.Confirmed)
	last := r.Observations[len(r.Observations)-1]
	assert.Equal(t, last.Phase, bisect.Revert)
	assert.Equal(t, last.Word, bisect.Good)
	for _, want := range []string{
		`Bisected to ` + g.ID["culprit"][:12] + ` ("culprit").`, "#regzbot introduced: " + g.ID["culprit"],
		"Reverted: the bad end without the culprit is good in 1 run", "Good: v1: good in 1 of 1 run", "Bad: v2: bad in 1 of 1 run",
	} {
		assert.Assert(t, strings.Contains(text, want), "no %q in %s", want, text)
	}
	assert.Equal(t, g.Git("status", "--porcelain")+g.Git("for-each-ref")+g.Git("worktree", "list"), status)
	g.Git("checkout", "-q", "a.c")
	log := filepath.Join(t.TempDir(), "log")
	f, err := os.Create(log)
	assert.NilError(t, err)
	assert.NilError(t, errors.Join(r.GitLog(f), f.Close()))
	out := g.Git("bisect", "replay", log)
	if text, err := os.ReadFile(log); err == nil && !strings.Contains(string(text), "skip") {
		assert.Assert(t, strings.Contains(out, g.ID["culprit"]+" is the first bad commit"), out)
	}
	g.Git("bisect", "reset")

	// A second question: on the main line only, and nothing is built again that
	// was built before.
	s.subject.close()
	s, _ = ask(t, g, cache, filepath.Join(t.TempDir(), "b"), func(b *Question) { b.FirstParent = true })
	s.begin(t)
	s.search(t)
	old := map[string]bool{}
	for _, o := range r.Observations {
		old[o.Kernel] = true
	}
	for _, o := range s.journal.Seen() {
		assert.Assert(t, o.Build == 0 || !old[o.Kernel], "%s was built again", g.Subject[o.Point])
	}
	second, err := bisect.ReadReport(s.dir)
	assert.NilError(t, err)
	assert.Equal(t, g.Subject[second.Result.Found[0].ID], "culprit")
	for _, p := range second.History.Points {
		assert.Assert(t, !strings.HasPrefix(g.Subject[p.ID], "side"))
	}

	// Paths without the culprit, and the way back to a good one.
	s.subject.close()
	s, _ = ask(t, g, cache, filepath.Join(t.TempDir(), "b"), func(b *Question) { b.Paths = []string{"mm/bug.c"}; b.Good = "auto" })
	s.begin(t)
	s.search(t)
	third, err := bisect.ReadReport(s.dir)
	assert.NilError(t, err)
	assert.Equal(t, g.Subject[third.Result.Found[0].ID], "culprit")
	assert.Equal(t, third.Observations[1].Phase, bisect.LookBack)

	// The work tree is among the build trees: listed, and pruned when not in use.
	trees := func() (n int) {
		items, err := kbuild.List(s.t.Machine.Cache)
		assert.NilError(t, err)
		for _, i := range items {
			if strings.Contains(i.Text, g.Dir) && strings.Contains(i.Text, "for bisecting") {
				n++
			}
		}
		return n
	}
	_, err = kbuild.Prune(t.Context(), s.t.Machine.Cache, 0, 0)
	assert.NilError(t, err)
	assert.Equal(t, trees(), 1)
	s.subject.close()
	// A child that another test has forked and that has not executed its program yet
	// holds the work tree's lock as this process did.
	for n := 0; trees() != 0; n++ {
		assert.Assert(t, n < 200, "the work tree is kept although nobody uses it")
		time.Sleep(10 * time.Millisecond)
		_, err = kbuild.Prune(t.Context(), s.t.Machine.Cache, 0, 0)
		assert.NilError(t, err)
	}
}

// TestBisectMerge names a merge of two good branches, and reverts it where that
// is possible.
func TestBisectMerge(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		again bool // what the merge changed is changed again
		want  string
	}{
		{"cleanly", false, "Reverted: the bad end without the culprit is good in 1 run"},
		{"not at all", true, "Reverted: the bad end without the culprit could not be tested: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := hunttest.NewTree(t)
			g.Git("checkout", "-q", "-b", "left", "v1")
			g.Commit("left", "mm/one.c", hunttest.Code(1, "left"))
			g.Git("checkout", "-q", "-b", "right", "v1")
			g.Commit("right", "mm/side.c", hunttest.Code(10, "right"))
			g.Git("checkout", "-q", "left")
			g.Git("merge", "-q", "--no-ff", "--no-commit", "right")
			g.Commit("joined", "mm/bug.c", hunttest.Code(6, "BUG"))
			if tc.again {
				g.Commit("side changes", "mm/side.c", hunttest.Code(10, "later"))
			}
			g.Commit("the end", "mm/last.c", hunttest.Code(8, "y"))
			g.Git("tag", "-f", "v2")
			s, _ := ask(t, g, t.TempDir(), filepath.Join(t.TempDir(), "b"), nil)
			s.begin(t)
			text := s.search(t)
			for _, want := range []string{
				`Bisected to ` + g.ID["joined"][:12], tc.want, "Note: the culprit is a merge: reverted are the other branch",
				`Its parent: ` + g.ID["left"][:12] + ` ("left"): good`, `Its parent: ` + g.ID["right"][:12] + ` ("right"): good`,
			} {
				assert.Assert(t, strings.Contains(text, want), "no %q in %s", want, text)
			}
		})
	}
}

// ending ends a context after some runs, as a user's interrupt does.
type ending struct {
	bisect.Tester
	left   int
	cancel func()
}

func (e *ending) Test(ctx context.Context, point string, b bisect.Build) (bisect.Observation, error) {
	if e.left--; e.left < 0 {
		e.cancel()
	}
	return e.Tester.Test(ctx, point, b)
}

// TestBisectCommitsResume interrupts a bisection again and again: it arrives at
// the same answer without doing a run twice.
func TestBisectCommitsResume(t *testing.T) {
	t.Parallel()
	g := hunttest.NewTree(t)
	cache, dir := t.TempDir(), filepath.Join(t.TempDir(), "b")
	runs := 0
	for session := 0; ; session++ {
		assert.Assert(t, session < 30)
		s, r := ask(t, g, cache, dir, nil)
		ctx, cancel := context.WithCancel(t.Context())
		s.t.Tester = &ending{r, 2, cancel}
		if session == 0 {
			s.begin(t)
		} else {
			var err error
			s.journal, err = bisect.Resume(dir, &Asked{})
			assert.NilError(t, err)
			// The user has moved on meanwhile.
			g.Git("tag", "-f", "v1", "v2~1")
		}
		_, err := s.Search(ctx)
		assert.NilError(t, s.journal.Close())
		s.subject.close()
		cancel()
		runs += r.Runs
		if err == nil {
			break
		}
		assert.ErrorIs(t, err, context.Canceled)
	}
	r, err := bisect.ReadReport(dir)
	assert.NilError(t, err)
	assert.Equal(t, g.Subject[r.Result.Found[0].ID], "culprit")
	tried := 0
	for _, o := range r.Observations {
		if o.Word != bisect.BuildFailed {
			tried++
		}
	}
	// Each session ends with a run whose outcome is thrown away.
	assert.Assert(t, runs > tried && runs <= 2*tried, "%d runs for %d observations", runs, tried)
}

// TestBisectCommitsHost ends at once, with its state kept, when this machine
// cannot build: without a compiler, and, in the middle, without space. It goes on
// when it can.
func TestBisectCommitsHost(t *testing.T) {
	t.Parallel()
	g := hunttest.NewTree(t)
	cache, dir := t.TempDir(), filepath.Join(t.TempDir(), "b")
	s, r := ask(t, g, cache, dir, nil)
	bin := t.TempDir()
	for _, tool := range []string{"git", "make", "patch", "openssl", "sh", "bash"} {
		if path, err := exec.LookPath(tool); err == nil {
			assert.NilError(t, os.Symlink(path, filepath.Join(bin, tool)))
		}
	}
	c := s.subject.(*commits)
	c.conf.Env = []string{"PATH=" + bin}
	s.begin(t)
	_, err := s.Search(t.Context())
	assert.ErrorContains(t, err, "gcc")
	assert.Equal(t, len(s.journal.Seen()), 0)

	gcc, err := exec.LookPath("gcc")
	assert.NilError(t, err)
	full := filepath.Join(bin, "full")
	script := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in *mm/*) test -e %s && { echo 'a.s: fatal error: No space left on device' >&2; exit 1; };; esac\nexec %s \"$@\"\n", full, gcc)
	assert.NilError(t, os.WriteFile(filepath.Join(bin, "gcc"), []byte(script), 0o755))
	c.conf.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH")}
	s.t.Tester = hunttest.TesterFunc(func(ctx context.Context, point string, b bisect.Build) (bisect.Observation, error) {
		o, err := r.Test(ctx, point, b)
		if r.Runs == 3 {
			err = errors.Join(err, os.WriteFile(full, nil, 0o644))
		}
		return o, err
	})
	_, err = s.Search(t.Context())
	assert.ErrorContains(t, err, "the disk is full")
	assert.Equal(t, r.Runs, 3)
	for _, o := range s.journal.Seen() {
		assert.Assert(t, o.Word != bisect.Infra && o.Phase != bisect.Revert, "%+v", o)
	}
	assert.NilError(t, s.journal.Close())

	assert.NilError(t, os.Remove(full))
	s.journal, err = bisect.Resume(dir, &Asked{})
	assert.NilError(t, err)
	s.between = bisect.History{} // as in a new process
	s.search(t)
	again, err := bisect.ReadReport(dir)
	assert.NilError(t, err)
	assert.Equal(t, g.Subject[again.Result.Found[0].ID], "culprit")
}

// TestBisectConfigs finds the two options that are bad together, one of which
// needs a third, among many.
func TestBisectConfigs(t *testing.T) {
	t.Parallel()
	g := hunttest.NewTree(t)
	mk := fake.Makefile + `
$(O)/mm/conf.o: FORCE
	@! grep -q CONFIG_NO_BUILD=y $(O)/.config || { echo "mm/conf.c:1:1: error: no" >&2; exit 1; }
	@if grep -q CONFIG_BUG_A=y $(O)/.config && grep -q CONFIG_BUG_B=y $(O)/.config && grep -q CONFIG_NEEDED=y $(O)/.config; then w=BUG; else w=x; fi; \
		echo "const char conf[] = \"$$w\";" | gcc -c -x c -o $@ -
FORCE:
`
	kc, err := os.ReadFile(filepath.Join(g.Dir, "Kconfig"))
	assert.NilError(t, err)
	kc = append(kc, "config NEEDED\n\tbool \"n\"\nconfig BUG_A\n\tbool \"a\"\nconfig BUG_B\n\tbool \"b\"\n\tdepends on NEEDED\nconfig NO_BUILD\n\tbool \"c\"\nconfig DERIVED\n\tbool\n"...)
	extra := "CONFIG_DERIVED=y\nCONFIG_BUG_A=y\nCONFIG_BUG_B=y\nCONFIG_NEEDED=y\n# CONFIG_NO_BUILD is not set\n"
	for n := range 30 {
		kc = fmt.Appendf(kc, "config NOISE%d\n\tbool \"x\"\n", n)
		extra += fmt.Sprintf("CONFIG_NOISE%d=y\n", n)
	}
	g.Commit("options", "Makefile", mk, "mm/conf.c", "", "Kconfig", string(kc), "mm/bug.c", hunttest.Code(6, "x"))
	lean, err := os.ReadFile(leanConfig(t, g))
	assert.NilError(t, err)
	dir := t.TempDir()
	goodConfig, badConfig := filepath.Join(dir, "good.config"), filepath.Join(dir, "bad.config")
	assert.NilError(t, os.WriteFile(goodConfig, append(bytes.Clone(lean), "CONFIG_NO_BUILD=y\n"...), 0o644))
	assert.NilError(t, os.WriteFile(badConfig, append(bytes.Clone(lean), extra...), 0o644))
	find := func(name string) string {
		s, _ := ask(t, g, filepath.Join(dir, "cache"), filepath.Join(dir, name), func(b *Question) {
			b.Good, b.Bad, b.Configs = "", "", []string{goodConfig, badConfig}
		})
		s.begin(t)
		return s.search(t)
	}
	// The good end does not build: that is no difference to be found.
	text := find("untestable")
	assert.Assert(t, strings.Contains(text, "the good end says nothing about the symptom: build-failed"), text)

	assert.NilError(t, os.WriteFile(goodConfig, lean, 0o644))
	text = find("found")
	for _, want := range []string{"Bisected to 2 options.", "  CONFIG_BUG_A: n -> y\n  CONFIG_BUG_B: n -> y\n", "It takes all of them."} {
		assert.Assert(t, strings.Contains(text, want), "no %q in %s", want, text)
	}
	assert.Assert(t, !strings.Contains(text, "DERIVED"), text)
}

// leanConfig is the configuration of the tree's lean profile.
func leanConfig(t *testing.T, g *hunttest.Tree) string {
	t.Helper()
	s, _ := ask(t, g, t.TempDir(), t.TempDir(), nil)
	b, err := buildOne(t.Context(), s.q.Build)
	assert.NilError(t, err)
	assert.Equal(t, b.Word, bisect.Word(""), b.Reason)
	return b.Config
}

// TestStep builds commits where git has checked them out, runs as often as is asked
// and leaves nothing there that git would see.
func TestStep(t *testing.T) {
	t.Parallel()
	g := hunttest.NewTree(t)
	s, r := ask(t, g, t.TempDir(), t.TempDir(), func(q *Question) { q.Search.Repeat = 2 })
	for _, c := range []struct {
		subject string
		want    bisect.Word
		runs    int
	}{{"one", bisect.Good, 2}, {"still broken", bisect.BuildFailed, 0}, {"culprit", bisect.Bad, 1}, {"does not boot", bisect.BootFailed, 2}} {
		g.Git("checkout", "-q", g.ID[c.subject])
		r.Runs = 0
		w, reason, err := Step(t.Context(), s.q, s.t, t.TempDir())
		assert.NilError(t, err)
		assert.Equal(t, w, c.want, "%s: %s", c.subject, reason)
		assert.Equal(t, r.Runs, c.runs, c.subject)
	}
	assert.Equal(t, g.Git("status", "--porcelain"), "")
}

// TestQuestionsAreRefused: what is wrong with a question is not the machine's fault.
func TestQuestionsAreRefused(t *testing.T) {
	t.Parallel()
	m, err := runner.NewMachine(t.TempDir(), vmtest.AccelTCG)
	assert.NilError(t, err)
	for want, q := range map[string]Question{
		"no history":           {},
		"exclude each other":   {Kernels: "x", Build: kbuild.Config{Source: "y"}},
		"has no history":       {Build: kbuild.Config{Source: "debian:6.12"}},
		"there are 0 kernels":  {Kernels: t.TempDir()},
		"leave -fragment out":  {Configs: []string{"a", "b"}, Build: kbuild.Config{Fragments: []string{"c"}}},
		"not a git repository": {Build: kbuild.Config{Source: t.TempDir()}},
		"none.config: no such": {Configs: []string{"none.config", "b"}},
	} {
		_, err := New(t.Context(), q, Tools{Machine: m, Env: os.Environ(), Tell: func(string) {}})
		var refused *QuestionError
		assert.Check(t, errors.As(err, &refused), "%s: %v", want, err)
		assert.Check(t, err != nil && strings.Contains(err.Error(), want), "%s: %v", want, err)
	}
}
