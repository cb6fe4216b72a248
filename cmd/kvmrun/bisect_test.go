// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/bisect"
)

// bisectKernels makes directories with a kernel each, whose words say what they
// are: good, bad (its configuration makes the sample suite fail) or broken (it is
// no kernel at all). All boot the same code, and none is the same file.
func bisectKernels(t *testing.T, kinds ...string) (paths []string) {
	t.Helper()
	from := kernel(t)
	release, err := kernelRelease()
	assert.NilError(t, err)
	image, err := os.ReadFile(from)
	assert.NilError(t, err)
	config, err := os.ReadFile(filepath.Join(filepath.Dir(from), "config-"+release))
	assert.NilError(t, err)
	lib, err := filepath.EvalSymlinks(filepath.Join(filepath.Dir(from), "..", "lib"))
	if err != nil { // as Debian has it since 13
		lib, err = filepath.EvalSymlinks(filepath.Join(filepath.Dir(from), "..", "usr", "lib"))
	}
	assert.NilError(t, err)
	dir := t.TempDir()
	for i, kind := range kinds {
		k := filepath.Join(dir, fmt.Sprintf("%d-%s", i, kind))
		assert.NilError(t, os.MkdirAll(filepath.Join(k, "boot"), 0o755))
		assert.NilError(t, os.Symlink(lib, filepath.Join(k, "lib")))
		path := filepath.Join(k, "boot", "vmlinuz-"+release)
		paths = append(paths, path)
		text := bytes.Clone(config)
		code := append(bytes.Clone(image), byte(i)) // what follows the image is not looked at
		switch kind {
		case "bad":
			text = append(text, "CONFIG_SAMPLE_BROKEN=y\n"...)
		case "broken":
			code = code[:100]
		}
		assert.NilError(t, os.WriteFile(path, code, 0o644))
		assert.NilError(t, os.WriteFile(filepath.Join(k, "boot", "config-"+release), text, 0o644))
	}
	return paths
}

// killed starts a command and kills it by SIGKILL when it has said all of what, in
// that order. None of its VMs outlives it.
func killed(t *testing.T, cmd *exec.Cmd, what []string) {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	assert.NilError(t, err)
	assert.NilError(t, cmd.Start())
	s := follow(stderr)
	at := 0
	for _, w := range what {
		at = s.await(t, at, w)
	}
	var fds []process
	for _, pid := range children(t, cmd.Process.Pid) {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			defer unix.Close(fd)
			fds = append(fds, process{pid, fd})
		}
	}
	assert.NilError(t, cmd.Process.Kill())
	s.awaitEnd(t)
	_ = cmd.Wait()
	assert.Equal(t, cmd.ProcessState.Sys().(syscall.WaitStatus).Signal(), syscall.SIGKILL)
	for _, p := range fds {
		p.awaitEnd(t)
	}
}

// TestBisectKernels finds the first bad one of several kernels in real VMs,
// across one that does not boot, and across being killed in the middle.
func TestBisectKernels(t *testing.T) {
	t.Parallel()
	ks := bisectKernels(t, "good", "bad", "broken", "bad", "bad")
	dir := filepath.Join(t.TempDir(), "bisect")
	cmd := command(t, "bisect", "-kernels", strings.Join(ks, ","), "-good", filepath.Dir(filepath.Dir(ks[0])), "-suite", must(t, sample),
		"-run", "TestConfigured", "-p", "1", "-j", "2", "-o", dir)
	// A test that is not there is noticed before anything is made.
	out := finish(t, command(t, "bisect", "-kernels", strings.Join(ks, ","), "-good", "auto", "-suite", must(t, sample), "-run", "TestNothing", "-o", dir))
	assert.Equal(t, out.code, 2)
	assert.Assert(t, strings.Contains(out.stderr, "-run TestNothing: no tests to run"), out.stderr)
	_, err := os.Stat(dir)
	assert.ErrorIs(t, err, os.ErrNotExist)
	// Killed at whatever it does, it goes on from there.
	var before []byte
	for _, moment := range [][]string{{"good end: "}, {"run 2: "}, {"search: "}} {
		killed(t, cmd, moment)
		now, err := os.ReadFile(filepath.Join(dir, "observations.jsonl"))
		assert.NilError(t, err)
		assert.Assert(t, bytes.HasPrefix(now, before))
		before = now
		cmd = command(t, "bisect", "-resume", dir)
	}
	out = finish(t, command(t, "bisect", "-resume", dir))
	assert.Equal(t, out.code, 0, "%s%s", out.stdout, out.stderr)
	assert.Assert(t, strings.Contains(out.stdout, "Bisected to "+ks[1]), out.stdout)
	stderr := out.stderr
	after, err := os.ReadFile(filepath.Join(dir, "observations.jsonl"))
	assert.NilError(t, err)
	assert.Assert(t, bytes.HasPrefix(after, before))
	var r bisect.Report
	text, err := os.ReadFile(filepath.Join(dir, "report.json"))
	assert.NilError(t, err)
	assert.NilError(t, json.Unmarshal(text, &r))
	assert.Equal(t, r.Result.Found[0].ID, ks[1])
	assert.Assert(t, r.Result.Confirmed)
	assert.Equal(t, r.Result.Skipped[ks[2]], bisect.BootFailed)
	assert.Assert(t, r.Result.Runs[bisect.Infra]+r.Result.Runs[bisect.Other] == 0, "%v", r.Result.Runs)
	type run struct {
		point string
		phase bisect.Phase
	}
	done := map[run]bool{}
	for _, o := range r.Observations {
		if o.Word == bisect.Good || o.Word == bisect.Bad {
			assert.Assert(t, !done[run{o.Point, o.Phase}], "%s was run twice to %s", o.Point, o.Phase)
			done[run{o.Point, o.Phase}] = true
		}
		if o.Word == bisect.Bad {
			assert.Assert(t, strings.Contains(o.Reason, "the configuration is broken"), o.Reason)
			assert.Assert(t, strings.Contains(o.Repro, "kvmrun run ") && strings.Contains(o.Repro, " -kernel "+o.Point+" "), o.Repro)
		}
	}
	// The repeats went on from machines that were booted once for all of them.
	forks, err := filepath.Glob(filepath.Join(dir, "runs", "*", "template-*", "template.log"))
	assert.NilError(t, err)
	assert.Assert(t, len(forks) > 0, "%s", stderr)
	// git has no part in it.
	out = finish(t, command(t, "bisect", "-log", dir))
	assert.Equal(t, out.code, 2)
	assert.Assert(t, strings.Contains(out.stderr, "not one of git commits"), out.stderr)
}
