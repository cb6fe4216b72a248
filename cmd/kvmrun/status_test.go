// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// TestQuit: SIGQUIT ends kvmrun with all goroutines' stacks, and not with the
// status of wrong usage.
func TestQuit(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(shared.kvmrun, "crash")
	cmd.Dir = t.TempDir() // for the core, where there is one
	in, err := cmd.StdinPipe()
	assert.NilError(t, err)
	var msgs bytes.Buffer
	cmd.Stderr = &msgs
	assert.NilError(t, cmd.Start())
	// More than a pipe holds: it has begun to read.
	_, err = in.Write(bytes.Repeat([]byte("no report\n"), 20<<10))
	assert.NilError(t, err)
	assert.NilError(t, cmd.Process.Signal(syscall.SIGQUIT))
	_ = cmd.Wait()
	assert.Equal(t, code(cmd.ProcessState), 128+int(syscall.SIGABRT))
	assert.Check(t, is.Contains(msgs.String(), "SIGQUIT: quit"))
	assert.Check(t, is.Contains(msgs.String(), "cli.Run("))
}

// execResult is what exec says of itself.
type execResult struct {
	Verdict  string `json:"verdict"`
	ExitCode int    `json:"exit_code"`
	Program  *struct {
		Code int `json:"code"`
	} `json:"program"`
}

func readExecResult(t *testing.T, dir string) (r execResult) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "result.json"))
	assert.NilError(t, err)
	assert.NilError(t, json.Unmarshal(text, &r))
	return r
}

// TestExecInfra: a 3 of kvmrun's own is told from the program's.
func TestExecInfra(t *testing.T) {
	t.Parallel()
	cmd := command(t, "exec", "-qemu", "/bin/false", "-o", "out", "--", "true")
	got := finish(t, cmd)
	assert.Equal(t, got.code, 3, "%s", got.stderr)
	assert.Check(t, is.Contains(got.stderr, "kvmrun: infra"))
	r := readExecResult(t, filepath.Join(cmd.Dir, "out"))
	assert.Equal(t, r.ExitCode, 3)
	assert.Equal(t, r.Verdict, "infra")
	assert.Assert(t, r.Program == nil)
}

// TestExecOwnStatus is the other half.
func TestExecOwnStatus(t *testing.T) {
	t.Parallel()
	cmd := command(t, "exec", "-o", "out", "--", "sh", "-c", "exit 3")
	got := finish(t, cmd)
	assert.Equal(t, got.code, 3, "%s", got.stderr)
	assert.Check(t, is.Contains(got.stderr, "kvmrun: the program exited with status 3; the VM was in order"))
	r := readExecResult(t, filepath.Join(cmd.Dir, "out"))
	assert.Equal(t, r.ExitCode, 3)
	assert.Assert(t, r.Program != nil)
	assert.Equal(t, r.Program.Code, 3)
}
