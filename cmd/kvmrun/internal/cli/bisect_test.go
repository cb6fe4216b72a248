// SPDX-License-Identifier: Apache-2.0

package cli

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

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/bisect"
	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/kbuild"
	"github.com/kvmrun/kvmrun/internal/kbuild/fake"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/vmtest"
)

// gitTree is a repository whose commits build in a second, with a culprit and
// everything else that lies on the way.
type gitTree struct {
	dir     string
	t       *testing.T
	id      map[string]string // by subject
	subject map[string]string
}

func (g *gitTree) git(args ...string) string {
	g.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = g.dir
	cmd.Env = append(os.Environ(), "HOME="+g.dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@b")
	out, err := cmd.CombinedOutput()
	assert.NilError(g.t, err, "git %v: %s", args, out)
	return strings.TrimSpace(string(out))
}

// commit writes files (name, text, name, text ...) and commits them.
func (g *gitTree) commit(subject string, files ...string) {
	g.t.Helper()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(g.dir, files[i])
		assert.NilError(g.t, os.MkdirAll(filepath.Dir(path), 0o755))
		assert.NilError(g.t, os.WriteFile(path, []byte(files[i+1]), 0o644))
	}
	g.git("add", "-A")
	g.git("commit", "-q", "--allow-empty", "-m", subject)
	g.note(subject)
}

func (g *gitTree) note(subject string) {
	id := g.git("rev-parse", "HEAD")
	g.id[subject], g.subject[id] = id, subject
}

func code(n int, mark string) string {
	return fmt.Sprintf("const char mark%d[] = \"%s\";\nint f%d(void) { return %d; }\n", n, mark, n, n)
}

func newGitTree(t *testing.T) *gitTree {
	t.Helper()
	for _, tool := range []string{"git", "make", "gcc", "patch", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: apt install %s", tool, tool)
		}
	}
	g := &gitTree{dir: t.TempDir(), t: t, id: map[string]string{}, subject: map[string]string{}}
	assert.NilError(t, fake.Write(g.dir, "lean"))
	g.git("init", "-q", "-b", "main")
	var all []string // this Makefile does not notice files that go
	for i, name := range []string{"one", "two", "three", "four", "boot", "bug", "other", "last"} {
		all = append(all, "mm/"+name+".c", code(i+1, "base"))
	}
	g.commit("base", append(all, "mm/side.c", code(10, "base"))...)
	g.git("tag", "v1")
	g.commit("one", "mm/one.c", code(1, "x"))
	g.commit("two", "mm/two.c", code(2, "x"))
	g.commit("documentation", "Documentation/a.rst", "text")
	g.commit("breaks the build", "mm/three.c", "int f(void) { return }\n")
	g.commit("still broken", "mm/four.c", code(4, "x"))
	g.commit("builds again", "mm/three.c", code(3, "x"))
	g.git("checkout", "-q", "-b", "side", "v1")
	g.commit("side one", "fs/one", "1")
	g.commit("side two", "mm/side.c", code(10, "x"))
	g.git("checkout", "-q", "main")
	g.git("merge", "-q", "--no-ff", "-m", "merge", "side")
	g.note("merge")
	g.commit("does not boot", "mm/boot.c", code(5, "BOOT"))
	g.commit("boots again", "mm/boot.c", code(5, "x"))
	g.commit("comment before", "mm/two.c", code(2, "x")+"/* a comment */\n")
	g.commit("culprit", "mm/bug.c", code(6, "BUG"))
	g.commit("comment after", "mm/one.c", code(1, "x")+"/* a comment */\n")
	g.commit("another bug", "mm/other.c", code(7, "OTHER"))
	g.commit("no other bug", "mm/other.c", code(7, "x"))
	g.commit("last", "mm/last.c", code(8, "x"))
	g.git("tag", "v2")
	return g
}

// reader tells from a kernel's bytes what a VM would show.
type reader struct{ runs int }

func (r *reader) Test(_ context.Context, _ string, b bisect.Build) (bisect.Observation, error) {
	r.runs++
	text, err := os.ReadFile(b.Path)
	for _, w := range []struct {
		mark string
		word bisect.Word
	}{{"BOOT", bisect.BootFailed}, {"OTHER", bisect.Other}, {"BUG", bisect.Bad}} {
		if bytes.Contains(text, []byte(w.mark+"\x00")) {
			return bisect.Observation{Word: w.word, Reason: w.mark}, err
		}
	}
	return bisect.Observation{Word: bisect.Good}, err
}

// question begins a bisection of the tree's commits as the command does, with
// the reader in place of VMs.
func (g *gitTree) question(t *testing.T, cache, dir string, set func(*bisectFlags)) (*bisection, *reader) {
	t.Helper()
	var b bisectFlags
	b.build.c.Source, b.build.c.Profile, b.build.c.NoCcache = g.dir, "lean", true
	b.good, b.bad, b.suite = "v1", "v2", "ext4"
	b.symptom = bisect.Symptom{Suite: "ext4", Run: "TestX"}
	b.search.P, b.policy.Jobs, b.vm.Accel = 1, 1, "tcg"
	b.search.Parallel = 1
	if set != nil {
		set(&b)
	}
	r := &reader{}
	s := &bisection{bisectFlags: b, io: IO{Out: &bytes.Buffer{}, Err: &bytes.Buffer{}, Env: os.Environ()}, dir: dir, tester: r}
	s.ui = newProgress(s.io.Err)
	var err error
	s.m, err = runner.NewMachine(cache, vmtest.AccelTCG)
	assert.NilError(t, err)
	s.m.Progress = s.ui.say
	s.subject, err = s.newSubject(t.Context())
	assert.NilError(t, err)
	t.Cleanup(s.subject.close)
	return s, r
}

func (g *gitTree) begin(t *testing.T, s *bisection) bisect.History {
	t.Helper()
	var h bisect.History
	var err error
	if s.good != "auto" {
		h, err = s.subject.history(t.Context(), s.good)
		assert.NilError(t, err)
	}
	s.journal, err = bisect.Create(s.dir, setup{})
	assert.NilError(t, err)
	t.Cleanup(func() { _ = s.journal.Close() })
	return h
}

// TestBisectCommits bisects real commits with real git, make and gcc: it finds
// the culprit past what does not build, does not boot and is another bug, without
// a trace in the user's repository, builds nothing twice, and git agrees.
func TestBisectCommits(t *testing.T) {
	t.Parallel()
	g := newGitTree(t)
	cache := t.TempDir()
	// A dirty tree is not touched.
	assert.NilError(t, os.WriteFile(filepath.Join(g.dir, "a.c"), []byte("dirty"), 0o644))
	status := g.git("status", "--porcelain") + g.git("for-each-ref") + g.git("worktree", "list")
	dir := filepath.Join(t.TempDir(), "b")
	s, _ := g.question(t, cache, dir, nil)
	assert.NilError(t, s.search1(t.Context(), g.begin(t, s)), "%s", s.io.Err)
	r, err := bisect.ReadReport(dir)
	assert.NilError(t, err)
	assert.Equal(t, g.subject[r.Result.Found[0].ID], "culprit")
	assert.Assert(t, r.Result.Confirmed)
	last := r.Observations[len(r.Observations)-1]
	assert.Equal(t, last.Phase, bisect.Revert)
	assert.Equal(t, last.Word, bisect.Good)
	text := s.io.Out.(*bytes.Buffer).String()
	for _, want := range []string{
		`Bisected to ` + g.id["culprit"][:12] + ` ("culprit").`, "#regzbot introduced: " + g.id["culprit"],
		"Reverted: the bad end without the culprit is good in 1 run", "Good: v1: good in 1 of 1 run", "Bad: v2: bad in 1 of 1 run",
	} {
		assert.Assert(t, strings.Contains(text, want), "no %q in %s", want, text)
	}
	assert.Equal(t, g.git("status", "--porcelain")+g.git("for-each-ref")+g.git("worktree", "list"), status)
	g.git("checkout", "-q", "a.c")
	log := filepath.Join(t.TempDir(), "log")
	f, err := os.Create(log)
	assert.NilError(t, err)
	assert.NilError(t, errors.Join(r.GitLog(f), f.Close()))
	out := g.git("bisect", "replay", log)
	if text, err := os.ReadFile(log); err == nil && !strings.Contains(string(text), "skip") {
		assert.Assert(t, strings.Contains(out, g.id["culprit"]+" is the first bad commit"), out)
	}
	g.git("bisect", "reset")

	// A second question: on the main line only, and nothing is built again that
	// was built before.
	s.subject.close()
	s, _ = g.question(t, cache, filepath.Join(t.TempDir(), "b"), func(b *bisectFlags) { b.firstParent = true })
	assert.NilError(t, s.search1(t.Context(), g.begin(t, s)), "%s", s.io.Err)
	old := map[string]bool{}
	for _, o := range r.Observations {
		old[o.Kernel] = true
	}
	for _, o := range s.journal.Seen() {
		assert.Assert(t, o.Build == 0 || !old[o.Kernel], "%s was built again", g.subject[o.Point])
	}
	second, err := bisect.ReadReport(s.dir)
	assert.NilError(t, err)
	assert.Equal(t, g.subject[second.Result.Found[0].ID], "culprit")
	for _, p := range second.History.Points {
		assert.Assert(t, !strings.HasPrefix(g.subject[p.ID], "side"))
	}

	// Paths without the culprit, and the way back to a good one.
	s.subject.close()
	s, _ = g.question(t, cache, filepath.Join(t.TempDir(), "b"), func(b *bisectFlags) { b.paths = []string{"mm/bug.c"}; b.good = "auto" })
	assert.NilError(t, s.search1(t.Context(), g.begin(t, s)), "%s", s.io.Err)
	third, err := bisect.ReadReport(s.dir)
	assert.NilError(t, err)
	assert.Equal(t, g.subject[third.Result.Found[0].ID], "culprit")
	assert.Equal(t, third.Observations[1].Phase, bisect.LookBack)

	// The work tree is among the build trees: listed, and pruned when not in use.
	trees := func() (n int) {
		items, err := kbuild.List(s.m.Cache)
		assert.NilError(t, err)
		for _, i := range items {
			if strings.Contains(i.Text, g.dir) && strings.Contains(i.Text, "for bisecting") {
				n++
			}
		}
		return n
	}
	_, err = kbuild.Prune(t.Context(), s.m.Cache, 0, 0)
	assert.NilError(t, err)
	assert.Equal(t, trees(), 1)
	s.subject.close()
	_, err = kbuild.Prune(t.Context(), s.m.Cache, 0, 0)
	assert.NilError(t, err)
	assert.Equal(t, trees(), 0)
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
			g := newGitTree(t)
			g.git("checkout", "-q", "-b", "left", "v1")
			g.commit("left", "mm/one.c", code(1, "left"))
			g.git("checkout", "-q", "-b", "right", "v1")
			g.commit("right", "mm/side.c", code(10, "right"))
			g.git("checkout", "-q", "left")
			g.git("merge", "-q", "--no-ff", "--no-commit", "right")
			g.commit("joined", "mm/bug.c", code(6, "BUG"))
			if tc.again {
				g.commit("side changes", "mm/side.c", code(10, "later"))
			}
			g.commit("the end", "mm/last.c", code(8, "y"))
			g.git("tag", "-f", "v2")
			s, _ := g.question(t, t.TempDir(), filepath.Join(t.TempDir(), "b"), nil)
			assert.NilError(t, s.search1(t.Context(), g.begin(t, s)), "%s", s.io.Err)
			text := s.io.Out.(*bytes.Buffer).String()
			for _, want := range []string{
				`Bisected to ` + g.id["joined"][:12], tc.want, "Note: the culprit is a merge: reverted are the other branch",
				`Its parent: ` + g.id["left"][:12] + ` ("left"): good`, `Its parent: ` + g.id["right"][:12] + ` ("right"): good`,
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
	g := newGitTree(t)
	cache, dir := t.TempDir(), filepath.Join(t.TempDir(), "b")
	runs := 0
	for session := 0; ; session++ {
		assert.Assert(t, session < 30)
		s, r := g.question(t, cache, dir, nil)
		ctx, cancel := context.WithCancel(t.Context())
		s.tester = &ending{r, 2, cancel}
		var h bisect.History
		if session == 0 {
			h = g.begin(t, s)
		} else {
			var err error
			s.journal, err = bisect.Resume(dir, &setup{})
			assert.NilError(t, err)
			// The user has moved on meanwhile.
			g.git("tag", "-f", "v1", "v2~1")
		}
		err := s.search1(ctx, h)
		assert.NilError(t, s.journal.Close())
		s.subject.close()
		cancel()
		runs += r.runs
		if err == nil {
			break
		}
		assert.ErrorIs(t, err, context.Canceled)
	}
	r, err := bisect.ReadReport(dir)
	assert.NilError(t, err)
	assert.Equal(t, g.subject[r.Result.Found[0].ID], "culprit")
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
	g := newGitTree(t)
	cache, dir := t.TempDir(), filepath.Join(t.TempDir(), "b")
	s, r := g.question(t, cache, dir, nil)
	bin := t.TempDir()
	for _, tool := range []string{"git", "make", "patch", "openssl", "sh", "bash"} {
		if path, err := exec.LookPath(tool); err == nil {
			assert.NilError(t, os.Symlink(path, filepath.Join(bin, tool)))
		}
	}
	c := s.subject.(*commits)
	c.conf.Env = []string{"PATH=" + bin}
	h := g.begin(t, s)
	assert.ErrorContains(t, s.search1(t.Context(), h), "gcc")
	assert.Equal(t, len(s.journal.Seen()), 0)

	gcc, err := exec.LookPath("gcc")
	assert.NilError(t, err)
	full := filepath.Join(bin, "full")
	script := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in *mm/*) test -e %s && { echo 'a.s: fatal error: No space left on device' >&2; exit 1; };; esac\nexec %s \"$@\"\n", full, gcc)
	assert.NilError(t, os.WriteFile(filepath.Join(bin, "gcc"), []byte(script), 0o755))
	c.conf.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH")}
	s.tester = testerFunc(func(ctx context.Context, point string, b bisect.Build) (bisect.Observation, error) {
		o, err := r.Test(ctx, point, b)
		if r.runs == 3 {
			err = errors.Join(err, os.WriteFile(full, nil, 0o644))
		}
		return o, err
	})
	assert.ErrorContains(t, s.search1(t.Context(), h), "the disk is full")
	assert.Equal(t, r.runs, 3)
	for _, o := range s.journal.Seen() {
		assert.Assert(t, o.Word != bisect.Infra && o.Phase != bisect.Revert, "%+v", o)
	}
	assert.NilError(t, s.journal.Close())

	assert.NilError(t, os.Remove(full))
	s.journal, err = bisect.Resume(dir, &setup{})
	assert.NilError(t, err)
	assert.NilError(t, s.search1(t.Context(), bisect.History{}))
	again, err := bisect.ReadReport(dir)
	assert.NilError(t, err)
	assert.Equal(t, g.subject[again.Result.Found[0].ID], "culprit")
}

type testerFunc func(ctx context.Context, point string, b bisect.Build) (bisect.Observation, error)

func (f testerFunc) Test(ctx context.Context, point string, b bisect.Build) (bisect.Observation, error) {
	return f(ctx, point, b)
}

// TestBisectConfigs finds the two options that are bad together, one of which
// needs a third, among many.
func TestBisectConfigs(t *testing.T) {
	t.Parallel()
	g := newGitTree(t)
	mk := fake.Makefile + `
$(O)/mm/conf.o: FORCE
	@! grep -q CONFIG_NO_BUILD=y $(O)/.config || { echo "mm/conf.c:1:1: error: no" >&2; exit 1; }
	@if grep -q CONFIG_BUG_A=y $(O)/.config && grep -q CONFIG_BUG_B=y $(O)/.config && grep -q CONFIG_NEEDED=y $(O)/.config; then w=BUG; else w=x; fi; \
		echo "const char conf[] = \"$$w\";" | gcc -c -x c -o $@ -
FORCE:
`
	kc, err := os.ReadFile(filepath.Join(g.dir, "Kconfig"))
	assert.NilError(t, err)
	kc = append(kc, "config NEEDED\n\tbool \"n\"\nconfig BUG_A\n\tbool \"a\"\nconfig BUG_B\n\tbool \"b\"\n\tdepends on NEEDED\nconfig NO_BUILD\n\tbool \"c\"\nconfig DERIVED\n\tbool\n"...)
	extra := "CONFIG_DERIVED=y\nCONFIG_BUG_A=y\nCONFIG_BUG_B=y\nCONFIG_NEEDED=y\n# CONFIG_NO_BUILD is not set\n"
	for n := range 30 {
		kc = fmt.Appendf(kc, "config NOISE%d\n\tbool \"x\"\n", n)
		extra += fmt.Sprintf("CONFIG_NOISE%d=y\n", n)
	}
	g.commit("options", "Makefile", mk, "mm/conf.c", "", "Kconfig", string(kc), "mm/bug.c", code(6, "x"))
	lean, err := os.ReadFile(leanConfig(t, g))
	assert.NilError(t, err)
	dir := t.TempDir()
	goodConfig, badConfig := filepath.Join(dir, "good.config"), filepath.Join(dir, "bad.config")
	assert.NilError(t, os.WriteFile(goodConfig, append(bytes.Clone(lean), "CONFIG_NO_BUILD=y\n"...), 0o644))
	assert.NilError(t, os.WriteFile(badConfig, append(bytes.Clone(lean), extra...), 0o644))
	ask := func(name string) (*bisection, error) {
		s, _ := g.question(t, filepath.Join(dir, "cache"), filepath.Join(dir, name), func(b *bisectFlags) {
			b.good, b.bad, b.configs = "", "", front.Multi{goodConfig, badConfig}
		})
		o, err := s.newOptions(t.Context())
		assert.NilError(t, err)
		s.subject = o
		s.journal, err = bisect.Create(s.dir, setup{})
		assert.NilError(t, err)
		defer s.journal.Close()
		return s, s.minimize(t.Context(), o)
	}
	// The good end does not build: that is no difference to be found.
	s, err := ask("untestable")
	var exit *front.Error
	assert.Assert(t, errors.As(err, &exit) && exit.Code == result.ExitFail, "%v", err)
	text := s.io.Out.(*bytes.Buffer).String()
	assert.Assert(t, strings.Contains(text, "the good end says nothing about the symptom: build-failed"), text)

	assert.NilError(t, os.WriteFile(goodConfig, lean, 0o644))
	s, err = ask("found")
	assert.NilError(t, err, "%s", s.io.Err)
	text = s.io.Out.(*bytes.Buffer).String()
	for _, want := range []string{"Bisected to 2 options.", "  CONFIG_BUG_A: n -> y\n  CONFIG_BUG_B: n -> y\n", "It takes all of them."} {
		assert.Assert(t, strings.Contains(text, want), "no %q in %s", want, text)
	}
	assert.Assert(t, !strings.Contains(text, "DERIVED"), text)
}

// leanConfig is the configuration of the tree's lean profile.
func leanConfig(t *testing.T, g *gitTree) string {
	t.Helper()
	s, _ := g.question(t, t.TempDir(), t.TempDir(), nil)
	conf := s.build.config(s.io, s.m)
	conf.Source = g.dir
	b, err := buildOne(t.Context(), conf)
	assert.NilError(t, err)
	assert.Equal(t, b.Word, bisect.Word(""), b.Reason)
	return b.Config
}

func TestTwoConfigs(t *testing.T) {
	t.Parallel()
	assert.DeepEqual(t, twoConfigs([]string{"-configs", "a", "b", "-src", "x"}), []string{"-configs", "a", "-configs", "b", "-src", "x"})
	assert.DeepEqual(t, twoConfigs([]string{"-configs", "a", "-configs", "b"}), []string{"-configs", "a", "-configs", "b"})
	assert.DeepEqual(t, twoConfigs([]string{"-configs", "a"}), []string{"-configs", "a"})
}

// TestStepStatus holds what git-bisect(1) wants of a command that it runs.
func TestStepStatus(t *testing.T) {
	t.Parallel()
	for w, want := range map[bisect.Word]int{
		bisect.Good: 0, bisect.Bad: 1, bisect.Other: 125, bisect.BootFailed: 125, bisect.BuildFailed: 125, bisect.Infra: 128, "": 128,
	} {
		assert.Equal(t, stepStatus(w), want, "%s", w)
	}
}

// TestBisectStep builds commits where git has checked them out, and leaves nothing
// there that git would see.
func TestBisectStep(t *testing.T) {
	t.Parallel()
	g := newGitTree(t)
	s, _ := g.question(t, t.TempDir(), t.TempDir(), nil)
	conf := s.build.config(s.io, s.m)
	conf.Source = g.dir
	for subject, want := range map[string]bisect.Word{"one": "", "still broken": bisect.BuildFailed} {
		g.git("checkout", "-q", g.id[subject])
		b, err := buildOne(t.Context(), conf)
		assert.NilError(t, err)
		assert.Equal(t, b.Word, want, "%s: %s", subject, b.Reason)
		assert.Equal(t, b.Kernel != "", want == "")
	}
	assert.Equal(t, g.git("status", "--porcelain"), "")
}
