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
