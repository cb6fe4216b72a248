// SPDX-License-Identifier: Apache-2.0

package mutants_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/kbuild"
	"github.com/kvmrun/kvmrun/internal/mutants"
	"github.com/kvmrun/kvmrun/internal/result"
)

var suitesDir = filepath.Join("..", "..", "suites")

// Every mutant that the project ships can be read, and each suite has its own.
func TestShippedMutants(t *testing.T) {
	all, err := mutants.Load(os.DirFS(suitesDir))
	assert.NilError(t, err)
	n := map[string]int{}
	for _, m := range all {
		n[m.Suite]++
	}
	for _, suite := range []string{"pamcap", "landlock", "ipe", "uffdwp", "ext4"} {
		assert.Assert(t, n[suite] >= 4, "%s has %d", suite, n[suite])
	}
}

// The tests that a mutant names exist in its suite.
func TestShippedMutantsNameTests(t *testing.T) {
	all, err := mutants.Load(os.DirFS(suitesDir))
	assert.NilError(t, err)
	for _, m := range all {
		files, err := filepath.Glob(filepath.Join(suitesDir, m.Suite, "*_test.go"))
		assert.NilError(t, err)
		var names []string
		for _, f := range files {
			text, err := os.ReadFile(f)
			assert.NilError(t, err)
			for _, l := range strings.Split(string(text), "\n") {
				if rest, ok := strings.CutPrefix(l, "func Test"); ok {
					name, _, _ := strings.Cut(rest, "(")
					names = append(names, "Test"+name)
				}
			}
		}
		found := false
		for _, name := range names {
			found = found || m.Names(name)
		}
		assert.Check(t, found, "mutant %s: no test of suite %s is called %s", m.ID, m.Suite, m.Test)
	}
}

// Every patch the project ships applies to the tree it was made for.
func TestShippedPatchesApply(t *testing.T) {
	src := os.Getenv("KVMRUN_KERNEL_SRC")
	if src == "" {
		t.Skip("KVMRUN_KERNEL_SRC is not set; set it to an unpacked linux-source-6.12")
	}
	for _, glob := range []string{"*/mutants/*.patch", "*/patches/*.patch"} {
		files, err := filepath.Glob(filepath.Join(suitesDir, glob))
		assert.NilError(t, err)
		assert.Assert(t, len(files) > 0)
		for _, f := range files {
			assert.Check(t, kbuild.CheckPatches(context.Background(), src, []string{f}, os.Environ()))
		}
	}
}

const header = `SPDX-License-Identifier: GPL-2.0-only
Mutant: X1
Suite: ext4
Title: a title
History: two
  lines
Test: Test(A|B)
Symptom: it hurts
---
--- a/x
`

func TestParse(t *testing.T) {
	m, err := mutants.Parse("p", []byte(header))
	assert.NilError(t, err)
	assert.Equal(t, m.History, "two lines")
	assert.Assert(t, m.Names("TestA") && m.Names("TestB") && !m.Names("TestAB"))
	for edit, want := range map[[2]string]string{
		{"Title: a title\n", ""}:               "the header has no Title",
		{"Suite: ext4\n", "Suit: ext4\n"}:      `p:3: "Suit: ext4" is no line of a header`,
		{"Mutant: X1", "Mutant: one"}:          `bad id "one"`,
		{"Test(A|B)", "Test(A"}:                "bad Test",
		{"---\n--- a", ""}:                     "",
		{"Suite: ext4", "Suite: a\nSuite: b"}:  "Suite is there twice",
		{"\n---\n", "\n"}:                      `"--- a/x" is no line of a header`,
		{"SPDX", "no colon\nSPDX"}:             `p:1: "no colon" is no line`,
		{"---\n--- a/x\n", "Profile: kasan\n"}: "",
	} {
		_, err := mutants.Parse("p", []byte(strings.Replace(header, edit[0], edit[1], 1)))
		assert.Assert(t, err != nil, "%q", edit)
		assert.ErrorContains(t, err, want)
	}
}

func TestLoadErrors(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	_, err := mutants.Load(fstest.MapFS{
		"ext4/mutants/X1-a.patch": file(header),
		"ext4/mutants/X1-b.patch": file(header),
		"ext4/mutants/X2-c.patch": file(header),
		"ipe/mutants/X1-d.patch":  file(header),
	})
	assert.ErrorContains(t, err, "is also called X1")
	assert.ErrorContains(t, err, "X2-c.patch: the header says X1, the file's name does not")
	assert.ErrorContains(t, err, "the header says suite ext4, the directory ipe")
}

func TestSelect(t *testing.T) {
	all, err := mutants.Load(os.DirFS(suitesDir))
	assert.NilError(t, err)
	got, err := mutants.Select(all, []string{"ext4"}, []string{"E1"})
	assert.NilError(t, err)
	assert.Equal(t, len(got), 1)
	_, err = mutants.Select(all, []string{"ext3"}, nil)
	assert.ErrorContains(t, err, `unknown suite "ext3": want one of ext4, `)
	_, err = mutants.Select(all, nil, []string{"Z9"})
	assert.ErrorContains(t, err, `unknown mutant "Z9"`)
	_, err = mutants.Select(all, []string{"ipe"}, []string{"E1"})
	assert.ErrorContains(t, err, "no mutant is both")
}

// world is a builder and a tester that do as they are told by a patch's name.
type world struct {
	jobs   map[string]result.Job
	builds map[string]error
	log    []string
}

func (w *world) build(_ context.Context, profile string, patches []string) (*kbuild.Artifact, error) {
	name := "control"
	if len(patches) > 0 {
		name = patches[0]
	}
	w.log = append(w.log, "build "+profile+" "+name)
	if err := w.builds[name]; err != nil {
		return nil, err
	}
	return &kbuild.Artifact{Dir: name}, nil
}

func (w *world) test(_ context.Context, k *kbuild.Artifact, suite string) (result.Job, error) {
	w.log = append(w.log, "test "+suite+" "+k.Dir)
	j, ok := w.jobs[k.Dir]
	if !ok {
		return result.Job{}, errors.New("qemu is gone")
	}
	return j, nil
}

func mutant(t *testing.T, n int, name string) mutants.Mutant {
	t.Helper()
	m, err := mutants.Parse(name, []byte(strings.Replace(header, "X1", fmt.Sprintf("X%d", n), 1)))
	assert.NilError(t, err)
	return m
}

func TestRun(t *testing.T) {
	pass := result.Case{Name: "TestA", Status: result.StatusPass}
	green := result.Job{Verdict: result.VerdictPass, Cases: []result.Case{pass}}
	failed := func(cases ...result.Case) result.Job {
		return result.Job{Verdict: result.VerdictTestFailed, Cases: cases, Reason: "1 test failed"}
	}
	uaf := result.Splat{Title: "KASAN: use-after-free in f"}
	w := &world{
		builds: map[string]error{
			"apply": fmt.Errorf("wrapped: %w", &kbuild.PatchError{Patch: "apply", File: "x.c", Hunk: "hunk #1"}),
			"build": &kbuild.BuildError{First: "x.c:1: error: no", Log: "log", Err: errors.New("exit status 2")},
			"tools": &kbuild.ToolsError{},
		},
		jobs: map[string]result.Job{
			"control":  green,
			"survived": green,
			"killed": failed(
				result.Case{Name: "TestA", Status: result.StatusFail, Reason: "a subtest failed"},
				result.Case{Name: "TestA/sub", Status: result.StatusFail, Reason: "a subtest failed"},
				result.Case{Name: "TestA/sub/case", Status: result.StatusFail, Reason: "got 1, want 2"},
				result.Case{Name: "TestA/sub/next", Status: result.StatusFail, Reason: "got 2, want 3"}),
			"splat": {Verdict: result.VerdictKernelFailed, Cases: []result.Case{
				{Name: "TestB", Status: result.StatusFail, Reason: "first", Splats: []result.Splat{uaf}}}},
			"elsewhere": failed(pass, result.Case{Name: "TestC", Status: result.StatusFail, Reason: "odd"}),
			"boot":      {Verdict: result.VerdictKernelFailed, Reason: "panic: no init"},
			"infra":     {Verdict: result.VerdictInfra, Reason: "disk full", Cases: []result.Case{{Name: "TestA", Status: result.StatusFail}}},
			"between":   {Verdict: result.VerdictKernelFailed, Reason: "WARNING in g", Cases: []result.Case{pass}},
		},
	}
	names := []string{"killed", "splat", "survived", "elsewhere", "apply", "build", "boot", "infra", "tools", "accident", "between"}
	var list []mutants.Mutant
	for i, n := range names {
		list = append(list, mutant(t, i+1, n))
	}
	table, err := mutants.Run(context.Background(), mutants.Config{Mutants: list, Build: w.build, Test: w.test})
	assert.NilError(t, err)
	assert.DeepEqual(t, w.log[:4], []string{"build kasan control", "test ext4 control", "build kasan killed", "test ext4 killed"})
	var b strings.Builder
	assert.NilError(t, mutants.WriteTable(&b, table))
	assert.Equal(t, b.String(), `control ext4, profile kasan: green
X1   ext4      killed by TestA: got 1, want 2
     a title
X2   ext4      killed by TestB: KASAN: use-after-free in f
     a title
X3   ext4      SURVIVED: the suite is green; Test(A|B) should fail with: it hurts
     a title
X4   ext4      noticed, but not by the test that must by TestC: odd
     a title
X5   ext4      does not apply: patch apply does not apply to x.c: hunk #1 does not match (fuzz is refused; regenerate the patch against this tree)
     a title
X6   ext4      does not build: build kernel: x.c:1: error: no
     a title
X7   ext4      does not boot: kernel-failed: panic: no init
     a title
X8   ext4      not run: disk full
     a title
X9   ext4      not run: this machine lacks what a kernel build needs:
     a title
X10  ext4      not run: qemu is gone
     a title
X11  ext4      noticed, but not by the test that must by no test: WARNING in g
     a title
2 of 11 mutants killed
`)
	assert.Assert(t, table.Valid() && !table.OK())
}

// Without a green control no mutant counts as killed, or is even built.
func TestRunControlNotGreen(t *testing.T) {
	for name, job := range map[string]result.Job{
		"red":     {Verdict: result.VerdictTestFailed, Reason: "1 test failed"},
		"skipped": {Verdict: result.VerdictPass, Cases: []result.Case{{Name: "TestA", Status: result.StatusSkip}}},
	} {
		w := &world{jobs: map[string]result.Job{"control": job}}
		table, err := mutants.Run(context.Background(), mutants.Config{
			Mutants: []mutants.Mutant{mutant(t, 1, "m")}, Build: w.build, Test: w.test, Profile: "lean"})
		assert.NilError(t, err)
		assert.Equal(t, table.Rows[0].Outcome, mutants.NoControl, name)
		assert.Assert(t, !table.Valid() && !table.OK())
		assert.DeepEqual(t, w.log, []string{"build lean control", "test ext4 control"})
		var b strings.Builder
		assert.NilError(t, mutants.WriteTable(&b, table))
		assert.Assert(t, strings.Contains(b.String(), "the table is worth nothing"), b.String())
	}
	table, err := mutants.Run(context.Background(), mutants.Config{})
	assert.NilError(t, err)
	assert.Assert(t, !table.OK(), "no mutants prove nothing")
}

func TestRunCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{jobs: map[string]result.Job{}}
	_, err := mutants.Run(ctx, mutants.Config{
		Mutants: []mutants.Mutant{mutant(t, 1, "m")}, Test: w.test,
		Build: func(ctx context.Context, _ string, _ []string) (*kbuild.Artifact, error) {
			cancel()
			return nil, ctx.Err()
		}})
	assert.ErrorIs(t, err, context.Canceled)
}
