// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/words"
)

// TestRunAgain: the command that a failed job prints does what failed again, and
// no more, in the same machine.
func TestRunAgain(t *testing.T) {
	t.Parallel()
	allow := filepath.Join(t.TempDir(), "it's allowed")
	assert.NilError(t, os.WriteFile(allow, []byte("title: nothing like it | reason: none | link: https://example.com/1 | expires: 2999-01-01\n"), 0o600))
	cmd := command(t, "run", "-kernel", kernel(t), "-suite", must(t, sample), "-run", "TestZFail$|TestPass|TestSub/one", "-skip", "Nothing it's",
		"-memory", "300", "-cpus", "2", "-timeout", "9m", "-hang", "8m", "-short", "-panic-on-warn", "-allow", allow, "-o", "first")
	got := finish(t, cmd)
	assert.Equal(t, got.code, 1, "%s%s", got.stdout, got.stderr)
	job := onlyJob(t, filepath.Join(cmd.Dir, "first"))
	for _, want := range []string{
		"kvmrun run ", " -kernel " + words.Quote(kernel(t)) + " ", " -memory 300 ", " -cpus 2 ", " -timeout 9m0s", " -hang 8m0s", " -short=true", " -panic-on-warn=true",
		` -skip 'Nothing it'\''s'`, `it'\''s allowed'`, ` -run '^TestZFail$'`,
	} {
		assert.Check(t, is.Contains(job.Repro, want))
	}
	assert.Check(t, is.Contains(got.stdout, "again: "+job.Repro))

	// Somewhere else, with another kernel in the environment.
	rerun := exec.Command("sh", "-c", job.Repro+" -o second")
	rerun.Dir = t.TempDir()
	rerun.Env = append(cmd.Env, "KVMRUN_KERNEL=/nonexistent")
	got = finish(t, rerun)
	assert.Equal(t, got.code, 1, "%s%s", got.stdout, got.stderr)
	again := onlyJob(t, filepath.Join(rerun.Dir, "second"))
	assert.DeepEqual(t, failures(again), failures(job))
	assert.DeepEqual(t, failures(again), map[string]string{"TestZFail": "sample_test.go:96: after it"})
	assert.Check(t, !slices.ContainsFunc(again.Cases, func(c result.Case) bool { return c.Name == "TestPass" }), "what passed ran again")
	assert.Equal(t, again.Repro, job.Repro)
	assert.DeepEqual(t, machineOf(t, again), machineOf(t, job))
}

// onlyJob reads the results of a run with one job.
func onlyJob(t *testing.T, dir string) result.Job {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "result.json"))
	assert.NilError(t, err)
	var run struct{ Jobs []result.Job }
	assert.NilError(t, json.Unmarshal(text, &run))
	assert.Equal(t, len(run.Jobs), 1)
	return run.Jobs[0]
}

// failures are the failed tests with their reasons.
func failures(j result.Job) map[string]string {
	out := map[string]string{}
	for _, c := range j.Cases {
		if c.Status == result.StatusFail {
			out[c.Name] = c.Reason
		}
	}
	return out
}

// machineOf is what the job's record says of its machine.
func machineOf(t *testing.T, j result.Job) map[string]any {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(j.Dir, "replay.json"))
	assert.NilError(t, err)
	all := map[string]any{}
	assert.NilError(t, json.Unmarshal(text, &all))
	out := map[string]any{}
	for _, k := range []string{"kernelSHA256", "memoryMiB", "cpus", "accel", "binarySHA256", "cmdline"} {
		out[k] = all[k]
	}
	return out
}
