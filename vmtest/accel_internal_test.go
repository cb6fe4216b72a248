// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/fs"

	"github.com/kvmrun/kvmrun/vmtest/internal/args"
)

func TestKVMUnusable(t *testing.T) {
	dir := fs.NewDir(t, "host",
		fs.WithFile("kvm", ""),
		fs.WithFile("intel", "processor\t: 0\nflags\t\t: fpu vme vmx ssse3\n"),
		fs.WithFile("amd", "processor\t: 0\nflags\t\t: fpu svm\n"),
		// A guest without nested virtualization; "vmx flags" and a model name
		// that says vmx must not count.
		fs.WithFile("guest", "processor\t: 0\nmodel name\t: vmx svm\nvmx flags\t: vnmi\nflags\t\t: fpu vmx2\n"),
		fs.WithFile("empty", ""),
	)
	amd64, err := args.ForArch("amd64")
	assert.NilError(t, err)
	other := amd64
	other.GOARCH = "vax"
	free := amd64
	free.VirtFlags = nil
	for name, tc := range map[string]struct {
		arch            args.Arch
		device, cpuinfo string
		want            string
	}{
		"intel":       {amd64, "kvm", "intel", ""},
		"amd":         {amd64, "kvm", "amd", ""},
		"no flag":     {amd64, "kvm", "guest", "none of the processor flags vmx, svm"},
		"no flags":    {amd64, "kvm", "empty", "none of the processor flags"},
		"no cpuinfo":  {amd64, "kvm", "missing", "read processor flags"},
		"no device":   {amd64, "missing", "intel", "does not exist"},
		"directory":   {amd64, ".", "intel", "is a directory"},
		"other arch":  {other, "kvm", "intel", "cannot run a guest for vax"},
		"no flags to": {free, "kvm", "missing", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := kvmUnusable(tc.arch, dir.Join(tc.device), dir.Join(tc.cpuinfo))
			if tc.want == "" {
				assert.Equal(t, got, "")
				return
			}
			assert.Assert(t, strings.Contains(got, tc.want), got)
		})
	}

	setDeadKVM("it was dead before")
	defer setDeadKVM("")
	assert.Equal(t, kvmUnusable(amd64, dir.Join("kvm"), dir.Join("intel")), "it was dead before")
}

func lookOrSkip(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("qemu-system-x86_64 is missing: apt-get install qemu-system-x86")
	}
	return path
}

func TestFirmwareSpeaks(t *testing.T) {
	qemu := lookOrSkip(t)
	ok, _, err := firmwareSpeaks(t.Context(), qemu, args.TCG)
	assert.NilError(t, err)
	assert.Assert(t, ok)

	// A QEMU that does not start is not a sign of life.
	ok, words, err := firmwareSpeaks(t.Context(), qemu, "no-such-accelerator")
	assert.NilError(t, err)
	assert.Assert(t, strings.Contains(words, "no-such-accelerator"), words)
	assert.Assert(t, !ok)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ok, _, err = firmwareSpeaks(ctx, qemu, args.TCG)
	assert.NilError(t, err)
	assert.Assert(t, !ok)
}

// TestProbeAccel cannot know the host's answer, but each must be complete.
func TestProbeAccel(t *testing.T) {
	lookOrSkip(t)
	accel, reason, err := ProbeAccel(t.Context(), "")
	assert.NilError(t, err)
	switch accel {
	case AccelKVM:
		assert.Equal(t, reason, "")
	case AccelTCG:
		assert.Assert(t, reason != "")
		_, err := Start(t.Context(), Config{Kernel: os.Args[0], ConsoleFile: filepath.Join(t.TempDir(), "c"), Accel: AccelKVM, MemoryMiB: 4096})
		assert.ErrorContains(t, err, "accelerator kvm is not usable: ")
		assert.ErrorContains(t, err, reason)
	default:
		t.Fatalf("got %q", accel)
	}
	_, _, err = ProbeAccel(t.Context(), "qemu-system-none")
	assert.ErrorContains(t, err, "apt-get install")
}

// TestTryKVM plays the fallback through with TCG in KVM's place: a machine that
// is alive is kept, and nothing is left of one without a sign of life.
func TestTryKVM(t *testing.T) {
	lookOrSkip(t)
	kernel := os.Getenv("KVMRUN_KERNEL")
	if kernel == "" {
		t.Skip("KVMRUN_KERNEL is not set: set it to the path of a vmlinuz, or run make test")
	}
	arch, err := args.ForArch("")
	assert.NilError(t, err)
	c, _, err := Config{Kernel: kernel, ConsoleFile: filepath.Join(t.TempDir(), "console")}.withDefaults()
	assert.NilError(t, err)
	c.QEMU, err = lookQEMU(c.QEMU)
	assert.NilError(t, err)

	vm, why, err := tryKVM(t.Context(), c, arch, args.TCG, time.Minute)
	assert.NilError(t, err)
	assert.Equal(t, why, "")
	assert.Assert(t, vm.ConsoleBytes() > 0)
	assert.NilError(t, vm.Close())

	vm, why, err = tryKVM(t.Context(), c, arch, args.TCG, time.Nanosecond)
	assert.NilError(t, err)
	assert.Assert(t, vm == nil)
	assert.Equal(t, why, "a machine under KVM gave no sign of life within 1ns")

	// An accelerator that refuses to work is a reason too, other errors are
	// just errors.
	c.Machine = "q35,accel=kvm"
	_, why, err = tryKVM(t.Context(), c, arch, args.TCG, time.Minute)
	assert.Assert(t, err != nil || why != "")
	c.Machine = "vax"
	_, why, err = tryKVM(t.Context(), c, arch, args.TCG, time.Minute)
	assert.Equal(t, why, "")
	assert.ErrorContains(t, err, "unsupported machine type")
}
