// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/bisect"
	"github.com/kvmrun/kvmrun/internal/front"
	"github.com/kvmrun/kvmrun/internal/hunt/hunttest"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/vmtest"
)

// stepEnv makes the test binary the command that git runs: its value is the cache.
const stepEnv = "KVMRUN_TEST_STEP"

func TestMain(m *testing.M) {
	if cache := os.Getenv(stepEnv); cache != "" {
		os.Exit(stepMain(cache))
	}
	os.Exit(m.Run())
}

// stepMain is kvmrun bisect-step in the working directory with the reader in
// place of VMs. Arguments are marks of kernels for which it has a word of its own,
// MARK=WORD.
func stepMain(cache string) int {
	r := &hunttest.Reader{}
	var b bisectFlags
	b.build.c.Source, b.build.c.Profile, b.build.c.NoCcache = ".", "lean", true
	b.search.Repeat = 2
	cio := IO{Out: os.Stdout, Err: os.Stderr, Env: os.Environ()}
	m, err := runner.NewMachine(cache, vmtest.AccelTCG)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	m.Progress = newProgress(os.Stderr).say
	dir, err := m.NewRunDir("step")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	t := b.tools(cio, m, "")
	t.Tester = hunttest.TesterFunc(func(ctx context.Context, point string, b bisect.Build) (bisect.Observation, error) {
		o, err := r.Test(ctx, point, b)
		for _, a := range os.Args[1:] {
			if mark, word, _ := strings.Cut(a, "="); o.Reason == mark {
				o.Word = bisect.Word(word)
			}
		}
		return o, err
	})
	return front.Status(os.Stderr, step(context.Background(), cio, b.question(cio, m), t, dir))
}

// TestGitBisectRun lets git's own driver ask: it finds the culprit past what it
// is told to skip, and stops when this machine fails.
func TestGitBisectRun(t *testing.T) {
	t.Parallel()
	g := hunttest.NewTree(t)
	self, err := os.Executable()
	assert.NilError(t, err)
	cache := t.TempDir()
	bad := "v2"
	run := func(env []string, args ...string) (string, int) {
		g.Git("bisect", "start", bad, "v1")
		cmd := exec.Command("git", append([]string{"bisect", "run", self}, args...)...)
		cmd.Dir = g.Dir
		cmd.Env = append(append(os.Environ(), "HOME="+g.Dir, "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C", stepEnv+"="+cache), env...)
		out, err := cmd.CombinedOutput()
		assert.Assert(t, cmd.ProcessState != nil, "%v", err)
		log := g.Git("bisect", "log")
		g.Git("bisect", "reset")
		assert.Equal(t, g.Git("status", "--porcelain"), "", "a build left something in git's work tree")
		return string(out) + log, cmd.ProcessState.ExitCode()
	}
	out, status := run(nil)
	assert.Equal(t, status, 0, out)
	assert.Assert(t, strings.Contains(out, g.ID["culprit"]+" is the first bad commit"), out)

	// What does not build is skipped.
	bad = g.ID["does not boot"]
	out, status = run(nil, "BOOT=bad")
	assert.Equal(t, status, 0, out)
	assert.Assert(t, strings.Contains(out, bad+" is the first bad commit"), out)
	skips := strings.Count(out, "git bisect skip "+g.ID["breaks the build"]) + strings.Count(out, "git bisect skip "+g.ID["still broken"])
	assert.Assert(t, skips > 0 && skips == strings.Count(out, "git bisect skip "), out)
	bad = "v2"

	// What does not boot is as well: git says that it is one of them.
	out, status = run(nil, "BUG=boot-failed", "OTHER=bad")
	assert.Assert(t, status != 0, out)
	assert.Assert(t, strings.Contains(out, "There are only 'skip'ped commits left to test") && strings.Contains(out, g.ID["culprit"]) && strings.Contains(out, g.ID["another bug"]), out)

	// This machine fails: nothing is learned of any commit, and git stops.
	out, status = run(nil, "BUG=infra", "=infra")
	assert.Assert(t, status >= 128 || strings.Contains(out, "exit code 128"), "%d: %s", status, out)
	assert.Assert(t, !strings.Contains(out, "git bisect skip ") && !strings.Contains(out, "is the first bad commit"), out)
	bin := t.TempDir()
	for _, tool := range []string{"git", "make", "sh"} {
		path, err := exec.LookPath(tool)
		assert.NilError(t, err)
		assert.NilError(t, os.Symlink(path, filepath.Join(bin, tool)))
	}
	cache = t.TempDir() // nothing was built yet
	out, _ = run([]string{"PATH=" + bin})
	assert.Assert(t, strings.Contains(out, "gcc") && strings.Contains(out, "exit code 128"), out)
	assert.Assert(t, !strings.Contains(out, "git bisect skip "), out)
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
