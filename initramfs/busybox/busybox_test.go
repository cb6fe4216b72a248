// SPDX-License-Identifier: Apache-2.0

package busybox

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/internal/cache"
)

// The real build is tested in package guest, with the shell in a machine.

func newCache(t *testing.T) *cache.Cache {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	return c
}

// TestPinned: the version and hash here are those that go.mod and go.sum know.
func TestPinned(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	assert.NilError(t, err)
	assert.Assert(t, strings.Contains(string(mod), "\t"+urootPath+" "+urootVersion+"\n"))
	sum, err := os.ReadFile("../../go.sum")
	assert.NilError(t, err)
	assert.Assert(t, strings.Contains(string(sum), urootPath+" "+urootVersion+" "+urootSum+"\n"))
}

func TestCommands(t *testing.T) {
	assert.Assert(t, slices.IsSorted(commands))
	for _, c := range []string{"gosh", "ip", "mount", "cat", "ls", "ps", "dmesg", "sleep", "insmod"} {
		assert.Assert(t, slices.Contains(commands, c), c)
	}
}

func TestWithoutGo(t *testing.T) {
	c := newCache(t)
	_, err := build(context.Background(), c, "no-such-go", nil)
	assert.ErrorIs(t, err, exec.ErrNotFound)
	assert.ErrorContains(t, err, "https://go.dev/dl")

	// A build by another toolchain will do, one of other things will not.
	c = newCache(t)
	var prefix string
	for _, key := range []string{"uroot-v0.1.0-amd64-00-go1.20", "this"} {
		if key == "this" {
			key = keyPrefix() + "go1.99"
			prefix = key
		}
		_, _, err := c.Get(context.Background(), kind, key, func(_ context.Context, dir string) error {
			return os.WriteFile(filepath.Join(dir, initramfs.BusyboxBinary), []byte("x"), 0o755)
		})
		assert.NilError(t, err)
	}
	dir, err := build(context.Background(), c, "no-such-go", nil)
	assert.NilError(t, err)
	assert.Equal(t, filepath.Base(dir), prefix)
}

// fakeGo is a go command that does what the script says.
func fakeGo(t *testing.T, script string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "go")
	assert.NilError(t, os.WriteFile(name, []byte("#!/bin/sh\n[ \"$1\" = env ] && { echo go1.fake; exit; }\n"+script), 0o755))
	return name
}

func TestBuildErrors(t *testing.T) {
	for _, test := range []struct{ name, script, want string }{
		{"proxy", `echo '{"Error": "dial tcp: no route"}'; exit 1`, "no route (the module proxy must be reachable"},
		{"hash", `echo '{"Dir": "/tmp", "Sum": "h1:other"}'`, "its hash is h1:other, not h1:"},
		{"nonsense", `echo nonsense`, "go mod download: invalid character"},
		{"compiler", `[ $1 = mod ] && { echo '{"Dir": "/tmp", "Sum": "` + urootSum + `"}'; exit; }; echo syntax error >&2; exit 2`, "run go build: exit status 2: syntax error"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCache(t)
			_, err := build(context.Background(), c, fakeGo(t, test.script), nil)
			assert.ErrorContains(t, err, test.want)
			list, err := c.List()
			assert.NilError(t, err)
			assert.Equal(t, len(list), 0)
		})
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	started := filepath.Join(t.TempDir(), "started")
	goCmd := fakeGo(t, "mkfifo "+started+".block; echo > "+started+"; cat "+started+".block")
	assert.NilError(t, exec.Command("mkfifo", started).Run())
	go func() {
		_, _ = os.ReadFile(started)
		cancel()
	}()
	_, err := build(ctx, newCache(t), goCmd, nil)
	assert.Assert(t, errors.Is(err, context.Canceled), err)
}

// TestShell runs the real program as "sh", and the host's own sh, which must
// say the same. It needs no VM.
func TestShell(t *testing.T) {
	user, err := os.UserCacheDir()
	assert.NilError(t, err)
	// Where kvmrun itself keeps it: building it takes a minute.
	c, err := cache.Open(filepath.Join(user, "kvmrun"))
	assert.NilError(t, err)
	dir, err := Build(context.Background(), initramfs.Options{CacheDir: c.Root(), Progress: func(l string) { t.Log(l) }})
	assert.NilError(t, err)

	script := filepath.Join(t.TempDir(), "script")
	assert.NilError(t, os.WriteFile(script, []byte("#!/bin/sh\necho \"$0: $# $1 $2\"\nfalse\necho not reached with -e\n"), 0o755))
	for _, args := range [][]string{
		{"-c", "echo one; exit 3"},
		{"-c", "echo one two | (read a b; echo $b)"},
		{"-c", "false"},
		{"-c", "no-such-command 2>/dev/null"},
		// As system(3) of glibc 2.41 calls it, and what that is good for.
		{"-c", "--", "echo system"},
		{"-c", "--", "-no-such-command 2>/dev/null"},
		{"-c", `echo "$0: $# $1 $2"`},
		{"-c", `echo "$0: $# $1 $2"`, "name", "a b", "-c"},
		{"-c", "--", `echo "$0: $# $*"`, "--", "--"},
		{"-ec", "false; echo not reached"},
		{"-e", "-c", "false; echo not reached"},
		{"-ce", "false; echo not reached"},
		{"-o", "errexit", "-c", "false; echo not reached"},
		{"-e", "+e", "-c", "false; echo reached"},
		{"-uc", "echo $unset"},
		{"-c", "set -- x y; echo $2; trap 'echo bye' EXIT; exit 7"},
		{script},
		{script, "a", "b c"},
		{"-e", script, "--", "-x"},
		{"--", script, "-e"},
		{"-s", "a", "b"},
		{"-e", "-s"},
		{"-e"},
		{},
		{"/no/such/script"},
		{"-c"},
		{"-c", "if"},
		{"-Z", "-c", "echo it must not run"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			run := func(sh string) (string, int) {
				var stderr strings.Builder
				cmd := exec.Cmd{Path: sh, Args: append([]string{"sh"}, args...), Stderr: &stderr}
				cmd.Stdin = strings.NewReader("echo \"$# $1 $2\"\nfalse\necho not reached with -e\n")
				out, err := cmd.Output()
				var exit *exec.ExitError
				if err != nil && !errors.As(err, &exit) {
					t.Fatal(err)
				}
				code := cmd.ProcessState.ExitCode()
				if code != 0 && len(out) == 0 {
					t.Logf("%s: %d %s", sh, code, stderr.String())
				}
				return string(out), code
			}
			out, code := run(filepath.Join(dir, initramfs.BusyboxBinary))
			wantOut, wantCode := run("/bin/sh")
			assert.Equal(t, out, wantOut)
			if args := strings.Join(args, " "); strings.Contains(args, "unset") || strings.HasPrefix(args, "/no/") {
				assert.Assert(t, code != 0 && wantCode != 0, "%d %d", code, wantCode) // shells differ
				return
			}
			assert.Equal(t, code, wantCode)
		})
	}
}
