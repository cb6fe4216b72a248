// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/vmtest"
)

// machine is a booted guest whose /init is this test binary.
type machine struct {
	*client
	vm      *vmtest.VM
	console string
}

func boot(t testing.TB, s initramfs.Spec, c vmtest.Config) *machine {
	t.Helper()
	m := start(t, s, c)
	p := m.vm.Port
	m.client = newClient(t, p(wire.PortControl), p(wire.PortStdin), p(wire.PortStdout), p(wire.PortStderr), func() string {
		return m.vm.Wait().String()
	})
	return m
}

// start boots without waiting for the agent.
func start(t testing.TB, s initramfs.Spec, c vmtest.Config) *machine {
	t.Helper()
	if c.Kernel == "" {
		c.Kernel = kernel(t)
	}
	if s.Init == "" {
		exe, err := os.Executable()
		assert.NilError(t, err)
		s.Init = exe
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	var err error
	c.Initrd, err = initramfs.Build(ctx, s, openCache(t), func(l string) { t.Log(l) })
	assert.NilError(t, err)
	if c.Ports == nil {
		c.Ports = wire.Ports
	}
	c.ConsoleFile = filepath.Join(t.TempDir(), "console.log")
	c.Accel = vmtest.AccelTCG
	if c.MemoryMiB == 0 {
		c.MemoryMiB = 768
	}
	vm, err := vmtest.Start(ctx, c)
	assert.NilError(t, err)
	m := &machine{vm: vm, console: c.ConsoleFile}
	t.Cleanup(func() {
		assert.NilError(t, vm.Close())
		if m.client != nil {
			m.copied.Wait()
		}
		if t.Failed() {
			t.Logf("kernel log:\n%s", m.log(t))
		}
	})
	return m
}

// shutdown powers off and checks that the machine did.
func (m *machine) shutdown(t testing.TB) {
	t.Helper()
	assert.NilError(t, m.w.Send(wire.Message{Shutdown: &wire.Shutdown{}}))
	exit := m.vm.Wait()
	assert.Equal(t, exit.Cause, vmtest.PowerOff, "%+v", exit)
}

func (m *machine) log(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(m.console)
	assert.NilError(t, err)
	return string(b)
}

func TestVMAgent(t *testing.T) {
	m := boot(t, initramfs.Spec{}, vmtest.Config{})
	t.Logf("%+v", m.ready)
	assert.Equal(t, m.ready.Version, wire.Version)
	assert.Equal(t, len(m.ready.Warnings), 0)
	res := m.run(t, wire.Run{Argv: []string{"/init", "-test.list=VMAgent"}})
	assert.Equal(t, res.exited.Code, 0)
	assert.Equal(t, res.out, "TestVMAgent\n")
	assert.Equal(t, len(res.done.Warnings), 0)
	m.shutdown(t)
	assert.Assert(t, strings.Contains(m.log(t), wire.EndMark(res.done.Nonce)))
}
