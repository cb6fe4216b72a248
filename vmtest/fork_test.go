// SPDX-License-Identifier: Apache-2.0

package vmtest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/vmtest"
)

// echo writes text to the port and waits until it comes back.
func echo(tb testing.TB, vm *vmtest.VM, text string) {
	tb.Helper()
	_, err := vm.Port("p").Write([]byte(text))
	assert.NilError(tb, err)
	back := make([]byte, len(text))
	_, err = io.ReadFull(vm.Port("p"), back)
	assert.NilError(tb, err)
	assert.Equal(tb, string(back), text)
}

// echoEnd makes the echoing guest switch off.
func echoEnd(tb testing.TB, vm *vmtest.VM) {
	tb.Helper()
	_, err := vm.Port("p").Write([]byte("bye\x00"))
	assert.NilError(tb, err)
	_, err = io.ReadFull(vm.Port("p"), make([]byte, 3))
	assert.NilError(tb, err)
	_, err = vm.Port("p").Write([]byte{'.'})
	assert.NilError(tb, err)
	assert.Equal(tb, vm.Wait().Cause, vmtest.PowerOff)
	assert.NilError(tb, vm.Close())
}

// template boots the echoing guest and freezes it.
func template(tb testing.TB, ctx context.Context, c vmtest.Config) *vmtest.Template { //nolint:revive // tb first, as everywhere in tests
	tb.Helper()
	c.Ports, c.Freezable, c.Accel = []string{"p"}, true, vmtest.AccelTCG
	vm := start(tb, ctx, c)
	echo(tb, vm, "ready")
	begin := time.Now()
	tmpl, err := vm.Freeze(ctx)
	assert.NilError(tb, err)
	tb.Logf("freeze: %v, %d MiB", time.Since(begin), tmpl.Bytes()>>20)
	tb.Cleanup(func() { assert.NilError(tb, tmpl.Close()) })
	assert.Equal(tb, vm.Wait().Cause, vmtest.Quit)
	return tmpl
}

func fork(tb testing.TB, ctx context.Context, t *vmtest.Template, fc vmtest.ForkConfig) *vmtest.VM { //nolint:revive // tb first
	tb.Helper()
	if fc.ConsoleFile == "" {
		fc.ConsoleFile = filepath.Join(tb.TempDir(), "console")
	}
	vm, err := vmtest.Fork(ctx, t, fc)
	assert.NilError(tb, err)
	tb.Cleanup(func() { assert.NilError(tb, vm.Close()) })
	return vm
}

// TestFork boots once and goes on several times from there.
func TestFork(t *testing.T) {
	c := needKernel(t, "echo", "vmtest.port=p")
	disk := filepath.Join(t.TempDir(), "disk")
	assert.NilError(t, os.WriteFile(disk, make([]byte, 1<<20), 0o644))
	c.Disks = []vmtest.Disk{{Path: disk, Serial: "one"}}
	tmpl := template(t, t.Context(), c)
	before := bytesOf(t, c.ConsoleFile)
	again := func(name string) vmtest.ForkConfig {
		return vmtest.ForkConfig{ConsoleFile: filepath.Join(t.TempDir(), name), Disks: c.Disks}
	}

	t.Run("two at once", func(t *testing.T) {
		var vms []*vmtest.VM
		for i := range 2 {
			fc := again(fmt.Sprint(i))
			disk := filepath.Join(t.TempDir(), "disk")
			assert.NilError(t, os.WriteFile(disk, make([]byte, 1<<20), 0o644))
			fc.Disks = []vmtest.Disk{{Path: disk, Serial: "one"}}
			begin := time.Now()
			vm := fork(t, t.Context(), tmpl, fc)
			mid := time.Since(begin)
			echo(t, vm, fmt.Sprintf("child %d", i))
			t.Logf("fork: %v, answer after %v", mid, time.Since(begin))
			vms = append(vms, vm)
		}
		for i, vm := range vms {
			echo(t, vm, fmt.Sprintf("child %d again", i))
			echoEnd(t, vm)
		}
	})
	t.Run("paused", func(t *testing.T) {
		fc := again("console")
		fc.Paused = true
		vm := fork(t, t.Context(), tmpl, fc)
		var status struct{ Status string }
		assert.NilError(t, vm.Monitor().Run(t.Context(), "query-status", nil, &status))
		assert.Equal(t, status.Status, "paused")
		assert.NilError(t, vm.Monitor().Run(t.Context(), "cont", nil, nil))
		echo(t, vm, "awake")
	})
	t.Run("only like its template", func(t *testing.T) {
		for want, disks := range map[string][]vmtest.Disk{
			"1 disks, the fork 0":          nil,
			`serial "two"`:                 {{Path: disk, Serial: "two"}},
			"read-only true":               {{Path: disk, Serial: "one", ReadOnly: true}},
			"stat disk 0":                  {{Path: disk + "x", Serial: "one"}},
			"no file is named for the con": nil,
		} {
			fc := again("console")
			fc.Disks = disks
			if strings.HasPrefix(want, "no file") {
				fc = vmtest.ForkConfig{Disks: c.Disks}
			}
			_, err := vmtest.Fork(t.Context(), tmpl, fc)
			assert.ErrorContains(t, err, want)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := vmtest.Fork(ctx, tmpl, again("console"))
		assert.ErrorIs(t, err, context.Canceled)
	})
	t.Run("not twice", func(t *testing.T) {
		vm := fork(t, t.Context(), tmpl, again("console"))
		_, err := vm.Freeze(t.Context())
		assert.ErrorIs(t, err, vmtest.ErrNotFreezable)
		echo(t, vm, "unharmed")
	})
	t.Run("saved", func(t *testing.T) {
		dir := t.TempDir()
		c := c
		c.Ports, c.Accel = []string{"p"}, vmtest.AccelTCG
		began := time.Now()
		disk := filepath.Join(t.TempDir(), "disk")
		assert.NilError(t, os.WriteFile(disk, append(make([]byte, 1<<20), "the disk"...), 0o600))
		beside, err := os.Open(disk)
		assert.NilError(t, err)
		defer beside.Close()
		assert.NilError(t, tmpl.Save(dir, beside))
		saved := time.Now()
		again, files, err := vmtest.LoadTemplate(dir, c)
		assert.NilError(t, err)
		t.Logf("saved in %v, loaded in %v", saved.Sub(began), time.Since(saved))
		defer again.Close()
		assert.Equal(t, len(files), 1)
		defer files[0].Close()
		got, err := io.ReadAll(io.NewSectionReader(files[0], 0, 2<<20))
		assert.NilError(t, err)
		assert.Assert(t, bytes.Equal(got, bytesOf(t, disk)))
		assert.Assert(t, again.Bytes() <= tmpl.Bytes())
		vm := fork(t, t.Context(), again, vmtest.ForkConfig{Disks: c.Disks})
		echo(t, vm, "from the files")
		confinedProcess(t, vm)

		for _, damage := range []func(b []byte) []byte{
			func(b []byte) []byte { b[len(b)/2]++; return b },
			func(b []byte) []byte { b[0]++; return b },
			func(b []byte) []byte { return b[:len(b)-1] },
			func([]byte) []byte { return nil },
		} {
			for _, name := range []string{"ram", "state", "template.json", "file-0"} {
				path := filepath.Join(dir, name)
				good := bytesOf(t, path)
				assert.NilError(t, os.WriteFile(path, damage(bytes.Clone(good)), 0o600))
				_, _, err := vmtest.LoadTemplate(dir, c)
				assert.Check(t, errors.Is(err, vmtest.ErrDamaged), "%s: %v", name, err)
				assert.NilError(t, os.WriteFile(path, good, 0o600))
			}
		}
		c.MemoryMiB = 256
		_, _, err = vmtest.LoadTemplate(dir, c)
		assert.ErrorIs(t, err, vmtest.ErrOther)
	})
	assert.Assert(t, bytes.Equal(bytesOf(t, c.ConsoleFile), before))
}

// TestFreezeRefused has a machine that QEMU cannot save: it ends, and QEMU's
// reason is told.
func TestFreezeRefused(t *testing.T) {
	c := needKernel(t, "hang")
	c.Freezable, c.Accel = true, vmtest.AccelTCG
	vm := start(t, t.Context(), c)
	// The one thing without special hardware that does not migrate.
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} { // as root, QEMU is nobody's
		assert.NilError(t, os.Chmod(d, 0o777))
	}
	assert.NilError(t, vm.Monitor().Run(t.Context(), "blockdev-add", map[string]any{
		"driver": "vvfat", "node-name": "fat", "dir": dir, "rw": true,
	}, nil))
	_, err := vm.Freeze(t.Context())
	var me *vmtest.MonitorError
	assert.Assert(t, errors.As(err, &me), "%v", err)
	assert.ErrorContains(t, err, "vvfat")
	assert.Equal(t, vm.Wait().Cause, vmtest.Killed)
}

func bytesOf(tb testing.TB, path string) []byte {
	tb.Helper()
	b, err := os.ReadFile(path)
	assert.NilError(tb, err)
	return b
}
