// SPDX-License-Identifier: Apache-2.0

package bisect

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

func testWorld(n, culprit int, p float64) *world {
	w := newWorld(rand.New(rand.NewPCG(7, 7)), linearHistory(n), p)
	w.culprit = culprit
	return w
}

func TestEndsAreVerifiedFirst(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		set  func(w *world)
		c    Config
		want Kind
		runs int
	}{
		{"good fails", func(w *world) { w.culprit = w.h.Good }, Config{}, GoodFails, 2},
		{"bad passes", func(w *world) { w.p = 0 }, Config{}, BadPasses, DefaultRepeat},
		{"bad passes, repeated less", func(w *world) { w.p = 0 }, Config{Repeat: 3}, BadPasses, 3},
		{"bad passes, p given", func(w *world) { w.p = 0 }, Config{P: 0.1}, BadPasses, 44}, // 0.9^44 < 0.01
		{"bad end does not build", func(w *world) { w.build[w.h.Bad()] = true }, Config{}, EndUntestable, 1},
		{"bad end has another bug", func(w *world) { w.other[w.h.Bad()] = 1 }, Config{}, EndUntestable, 2},
		{"good end does not boot", func(w *world) { w.boot[0] = true }, Config{}, EndUntestable, 3},
		{"one candidate", func(w *world) { w.h = linearHistory(1); w.g = newGraph(&w.h); w.culprit = 1 }, Config{}, Culprit, 6},
		{"out of runs", func(*world) {}, Config{MaxRuns: 6}, OutOfRuns, 6},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := testWorld(20, 13, 1)
			tc.set(w)
			s, err := New(w.h, tc.c)
			assert.NilError(t, err)
			r, err := Run(t.Context(), s, Job{Builder: w, Tester: w})
			assert.NilError(t, err)
			assert.Equal(t, r.Kind, tc.want, "%+v", r)
			assert.Equal(t, len(s.obs), tc.runs)
			assert.Assert(t, len(r.Evidence) > 0 || tc.want == OutOfRuns)
			assert.Equal(t, r.Kind == Culprit, r.Reason == "")
		})
	}
}

func TestBadQuestions(t *testing.T) {
	t.Parallel()
	two := linearHistory(1)
	for _, tc := range []struct {
		h    History
		c    Config
		want string
	}{
		{linearHistory(0), Config{}, "the range is empty"},
		{History{}, Config{}, "the range is empty"},
		{two, Config{Confidence: 1}, "bad confidence 1:"},
		{two, Config{Confidence: 0.3}, "bad confidence 0.3:"},
		{two, Config{P: 1.5}, "bad failure rate 1.5"},
		{two, Config{P: -1}, "bad failure rate"},
		{two, Config{Repeat: -1}, "bad number of runs"},
		{History{Points: []Point{{ID: "a", Base: true}, {ID: "a", Parents: []int{0}}}}, Config{}, "twice"},
		{History{Points: []Point{{ID: "a", Base: true}, {ID: "b"}}}, Config{}, "no parent"},
		{History{Points: []Point{{ID: "a", Base: true}, {ID: "b", Parents: []int{1}}}}, Config{}, "before its parent"},
		{History{Points: []Point{{ID: "a"}, {ID: "b", Parents: []int{0}}}}, Config{}, "no good end"},
	} {
		_, err := New(tc.h, tc.c)
		assert.ErrorContains(t, err, tc.want)
	}
}

// TestSkippedCulprit prints the range, not a guess, and avoids the neighbours of
// what does not boot.
func TestSkippedCulprit(t *testing.T) {
	t.Parallel()
	w := testWorld(40, 22, 1)
	for x := 20; x < 25; x++ {
		w.boot[x] = true
	}
	r := w.bisect(t, Config{})
	assert.Equal(t, r.Kind, Range)
	var ids []string
	for _, p := range r.Found {
		ids = append(ids, p.ID)
	}
	assert.DeepEqual(t, ids, []string{"c20", "c21", "c22", "c23", "c24", "c25"})
	assert.Equal(t, len(r.Skipped), 5)
	assert.Equal(t, r.Skipped["c22"], BootFailed)
	assert.Assert(t, r.Confidence >= DefaultConfidence)

	// Elsewhere, breakage costs little.
	w = testWorld(200, 11, 1)
	for x := 60; x < 140; x++ {
		w.build[x] = true
	}
	r = w.bisect(t, Config{})
	assert.Equal(t, r.Kind, Culprit)
	assert.Assert(t, r.Runs[BuildFailed] <= 3, "%+v", r.Runs)
}

// TestSameKernel never names a point whose kernel is its parent's, and does not
// test it.
func TestSameKernel(t *testing.T) {
	t.Parallel()
	w := testWorld(30, 17, 1)
	for x := 9; x < 17; x++ {
		w.kernel[x] = w.kernel[8] // documentation, all of it
	}
	for x := 18; x < 22; x++ {
		w.kernel[x] = w.kernel[17]
	}
	s, err := New(w.h, Config{})
	assert.NilError(t, err)
	r, err := Run(t.Context(), s, Job{Builder: w, Tester: w})
	assert.NilError(t, err)
	assert.Equal(t, r.Kind, Culprit)
	assert.Equal(t, r.Found[0].ID, "c17")
	known, twins := map[string]string{}, 0
	for _, o := range s.obs {
		first, ok := known[o.Kernel]
		if o.Word == Same {
			twins++
			assert.Equal(t, o.Reason, "its kernel is that of "+first)
			continue
		}
		assert.Assert(t, !ok || first == o.Point || o.Phase == Confirm, "%s was run, which is %s", o.Point, first)
		known[o.Kernel] = o.Point
	}
	assert.Assert(t, twins > 0)
	assert.Equal(t, r.Runs[Same], 0)
}

// TestSameEnds names nothing when all points are one kernel, which fails at times.
func TestSameEnds(t *testing.T) {
	t.Parallel()
	w := testWorld(10, 5, 0.5)
	for x := range w.kernel {
		w.kernel[x] = "k"
	}
	w.culprit = 3
	r := w.bisect(t, Config{})
	assert.Equal(t, r.Kind, Range)
	assert.Equal(t, len(r.Found), 0)
	assert.Assert(t, r.Reason != "")
	var b strings.Builder
	assert.NilError(t, Report{Result: r, History: w.h, Symptom: "s"}.Text(&b))
	assert.Assert(t, strings.Contains(b.String(), "no kernel fits what was seen"), b.String())
}

// TestOtherNeverBad keeps another bug from being taken for the one in question.
func TestOtherNeverBad(t *testing.T) {
	t.Parallel()
	// Another bug lies over everything after the culprit but the bad end.
	w := testWorld(30, 17, 1)
	for x := 17; x < 30; x++ {
		w.other[x] = 1
	}
	r := w.bisect(t, Config{})
	assert.Equal(t, r.Kind, Range)
	assert.Equal(t, r.Found[0].ID, "c17")
	assert.Equal(t, len(r.Found), 14)
	for _, word := range r.Skipped {
		assert.Equal(t, word, Other)
	}
}

// failing fails like a machine whose disk is full, from the nth build on.
type failing struct {
	*world
	left int
	err  error
}

func (f *failing) Build(ctx context.Context, id string) (Build, error) {
	if f.left--; f.left < 0 {
		return Build{}, f.err
	}
	return f.world.Build(ctx, id)
}

// TestResume stops a bisection after every possible number of runs, in a way
// that leaves half a line, and goes on: the answer and the runs are those of one
// that was not stopped.
func TestResume(t *testing.T) {
	t.Parallel()
	type setup struct{ Question string }
	search := func(dir string, w *world, b Builder) (*Search, *Result, error) {
		s, err := New(w.h, Config{})
		assert.NilError(t, err)
		j, err := Create(dir, setup{"q"})
		if err != nil {
			var got setup
			j, err = Resume(dir, &got)
			assert.NilError(t, err)
			assert.Equal(t, got.Question, "q")
		}
		defer j.Close()
		for _, o := range j.Seen() {
			s.Observe(o)
		}
		r, err := Run(t.Context(), s, Job{Builder: b, Tester: w, Record: j.Record})
		return s, r, err
	}
	plain := func(s *Search) (out []Observation) {
		for _, o := range s.obs {
			o.Started = o.Started.UTC()
			out = append(out, o)
		}
		return out
	}
	w := testWorld(50, 31, 1)
	whole, want, err := search(t.TempDir(), w, w)
	assert.NilError(t, err)
	full := errors.New("no space left on device")
	for n := range len(whole.obs) {
		dir := t.TempDir()
		w := testWorld(50, 31, 1)
		_, _, err := search(dir, w, &failing{world: w, left: n, err: full})
		assert.ErrorIs(t, err, full)
		f, err := os.OpenFile(filepath.Join(dir, journalFile), os.O_APPEND|os.O_WRONLY, 0)
		assert.NilError(t, err)
		_, err = f.WriteString(`{"point":"c1","word":"ba`)
		assert.NilError(t, errors.Join(err, f.Close()))
		s, r, err := search(dir, w, w)
		assert.NilError(t, err)
		assert.DeepEqual(t, plain(s), plain(whole))
		assert.DeepEqual(t, r, want)
	}
}

func TestJournal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var q string
	_, err := Resume(dir, &q)
	assert.ErrorContains(t, err, "has no bisection to go on with")
	j, err := Create(dir, "q")
	assert.NilError(t, err)
	_, err = Resume(dir, &q)
	assert.ErrorIs(t, err, ErrBusy)
	good := Observation{Point: "a", Word: Good, Reason: "line\nbreak", Phase: Narrow}
	assert.NilError(t, j.Record(good))
	assert.NilError(t, j.Record(Observation{Point: "b", Word: Infra}))
	assert.NilError(t, j.Close())
	_, err = Create(dir, "q")
	assert.ErrorContains(t, err, "-resume")
	j, err = Resume(dir, &q)
	assert.NilError(t, err)
	assert.DeepEqual(t, j.Seen(), []Observation{good})
	assert.NilError(t, j.Close())
	assert.NilError(t, os.WriteFile(filepath.Join(dir, journalFile), []byte("rubbish\n"), 0o644))
	_, err = Resume(dir, &q)
	assert.ErrorContains(t, err, journalFile+":1:")
}

// TestInfraIsNeverBad gives up when the machine fails again and again.
func TestInfraIsNeverBad(t *testing.T) {
	t.Parallel()
	w := testWorld(50, 31, 1)
	w.infra = 1
	s, err := New(w.h, Config{})
	assert.NilError(t, err)
	r, err := Run(t.Context(), s, Job{Builder: w, Tester: w})
	if err == nil { // both tries at the bad end
		assert.Equal(t, r.Kind, EndUntestable)
	} else {
		assert.ErrorIs(t, err, ErrInfra)
	}
	w.infra = 0.2
	r = w.bisect(t, Config{P: 1})
	assert.Assert(t, r.Kind == Culprit || r.Kind == Range)
}

// TestParallel asks for several points at once, and gets there in fewer rounds.
func TestParallel(t *testing.T) {
	t.Parallel()
	rounds := func(parallel int) (rounds, runs int) {
		w := testWorld(500, 123, 1)
		s, err := New(w.h, Config{P: 1})
		assert.NilError(t, err)
		for {
			steps := s.Next(parallel)
			if len(steps) == 0 {
				break
			}
			assert.Assert(t, len(steps) <= parallel)
			rounds++
			for _, st := range steps {
				runs++
				b, err := w.Build(t.Context(), st.Point)
				assert.NilError(t, err)
				o, err := w.Test(t.Context(), st.Point, b)
				assert.NilError(t, err)
				o.Point, o.Phase, o.Kernel = st.Point, st.Phase, b.Kernel
				s.Observe(o)
			}
		}
		assert.Equal(t, s.Result().Found[0].ID, "c123")
		return rounds, runs
	}
	one, _ := rounds(1)
	three, runs := rounds(3)
	assert.Assert(t, three <= one/2+1, "%d rounds instead of %d", three, one)
	t.Logf("1 at a time: %d rounds; 3 at a time: %d rounds, %d runs", one, three, runs)
}

// TestRareBuilds prefers repeats to kernels that would have to be built.
func TestRareBuilds(t *testing.T) {
	t.Parallel()
	builds := func(cost float64) (kernels, runs int) {
		w := testWorld(100, 40, 0.3)
		r := w.bisect(t, Config{BuildCost: cost})
		assert.Equal(t, r.Found[0].ID, "c40")
		for _, n := range w.runs {
			runs += n
		}
		return len(w.kernels), runs
	}
	dear, dearRuns := builds(50)
	cheap, cheapRuns := builds(0)
	t.Logf("builds for free: %d kernels, %d runs; for 50 runs: %d kernels, %d runs", cheap, cheapRuns, dear, dearRuns)
	assert.Assert(t, dear < cheap)
}

// TestCancel ends at once, and what was seen is kept.
func TestCancel(t *testing.T) {
	t.Parallel()
	w := testWorld(50, 31, 1)
	s, err := New(w.h, Config{})
	assert.NilError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	_, err = Run(ctx, s, Job{Builder: w, Tester: w, Progress: func(e Event) {
		assert.Assert(t, e.Runs > 0 || e.Done != nil)
		if n++; n == 7 {
			cancel()
		}
	}})
	assert.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, len(s.obs), 3)
}
