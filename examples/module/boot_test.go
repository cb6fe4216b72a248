// SPDX-License-Identifier: Apache-2.0

package kerneltests

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/initramfs/guest"
	"github.com/kvmrun/kvmrun/vmtest"
)

// TestMain lets the test binary be the guest's init as well.
func TestMain(m *testing.M) {
	if guest.IsInit() {
		guest.RunAsInit(shout)
	}
	os.Exit(m.Run())
}

// shout is the program in the guest: it answers each line in capitals.
func shout() error {
	port, err := guest.OpenPort("talk")
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(port)
	for lines.Scan() { // until the host closes its end
		fmt.Fprintln(port, strings.ToUpper(lines.Text()))
	}
	return lines.Err()
}

// TestTalk boots a kernel and talks to the program in it.
func TestTalk(t *testing.T) {
	kernel, console := needKernel(t), filepath.Join(t.TempDir(), "console.log")
	self, err := os.Executable()
	assert.NilError(t, err)
	initrd, err := initramfs.Build(t.Context(), initramfs.Spec{Kernel: kernel, Init: self}, initramfs.Options{})
	assert.NilError(t, err)
	vm, err := vmtest.Start(t.Context(), vmtest.Config{Kernel: kernel, Initrd: initrd, Ports: []string{"talk"}, ConsoleFile: console})
	assert.NilError(t, err)
	defer vm.Close()
	fmt.Fprintln(vm.Port("talk"), "hello, kernel")
	reply, err := bufio.NewReader(vm.Port("talk")).ReadString('\n')
	assert.NilError(t, err)
	assert.Equal(t, reply, "HELLO, KERNEL\n")
}

// TestEnd: when the host has closed its end, the program returns and the machine is
// powered off.
func TestEnd(t *testing.T) {
	kernel, console := needKernel(t), filepath.Join(t.TempDir(), "console.log")
	self, err := os.Executable()
	assert.NilError(t, err)
	initrd, err := initramfs.Build(t.Context(), initramfs.Spec{Kernel: kernel, Init: self}, initramfs.Options{Progress: func(l string) { t.Log(l) }})
	assert.NilError(t, err)
	vm, err := vmtest.Start(t.Context(), vmtest.Config{Kernel: kernel, Initrd: initrd, Ports: []string{"talk"}, ConsoleFile: console})
	assert.NilError(t, err)
	defer vm.Close()
	talk := vm.Port("talk")
	fmt.Fprintln(talk, "are you there?")
	_, err = bufio.NewReader(talk).ReadString('\n')
	assert.NilError(t, err)
	assert.NilError(t, talk.Close())
	assert.Equal(t, vm.Wait().Cause, vmtest.PowerOff)
	log, err := os.ReadFile(console)
	assert.NilError(t, err)
	assert.Assert(t, strings.Contains(string(log), "Power down"), "%s", log)
}

func needKernel(t *testing.T) string {
	kernel := os.Getenv("KVMRUN_KERNEL")
	if kernel == "" {
		t.Skip("needs a kernel: set KVMRUN_KERNEL to the path of a bzImage or vmlinux")
	}
	return kernel
}
