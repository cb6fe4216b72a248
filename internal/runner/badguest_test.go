// SPDX-License-Identifier: Apache-2.0

package runner_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/cache"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/runnertest"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/vmtest"
)

// TestGuestsThatCannotWork boots what will never answer: the reason must be
// told in words a user can act on, and no limit waited for.
func TestGuestsThatCannotWork(t *testing.T) {
	c, err := cache.Open(t.TempDir())
	assert.NilError(t, err)
	m := &runner.Machine{Host: machine.Host{Cache: c}}
	k := runnertest.Kernel(t, &m.Host)
	good := runnertest.Build(t, "test", "-c", "./testdata/trivial")
	for _, test := range []struct {
		name    string
		init    string
		cmdline string
		verdict result.Verdict
		cause   vmtest.Cause
		reason  []string
		notes   string
	}{
		{
			"init dies", runnertest.Build(t, "build", "./testdata/badinit"), "",
			result.VerdictKernelFailed, vmtest.Reset, []string{"Attempted to kill init"}, "before the agent was ready",
		},
		{
			// What a kernel without CONFIG_VIRTIO_CONSOLE does, whose
			// configuration nobody knows.
			"no virtio console", good, "initcall_blacklist=virtio_console_init",
			result.VerdictInfra, vmtest.PowerOff, []string{"the guest cannot be used: no virtio console port", "CONFIG_VIRTIO_CONSOLE=y"}, "",
		},
		{
			// And one without CONFIG_BLK_DEV_INITRD: there is no /init.
			"no initramfs", good, "rdinit=/none",
			result.VerdictKernelFailed, vmtest.Reset, []string{"VFS: Unable to mount root fs"}, "CONFIG_BLK_DEV_INITRD",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := runnertest.LogDir(t)
			out := m.Exec(t.Context(), runner.Program{
				Kernel: k, Init: test.init, Dir: dir,
				Spec: suites.Spec{Name: "bad", Cmdline: strings.Fields(test.cmdline)},
				Run:  wire.Run{Argv: []string{"/init"}, Env: []string{wire.GuestEnv + "=1"}},
			})
			assert.Check(t, out.BootFailed)
			assert.Check(t, out.Ready == nil)
			assert.Check(t, !out.EndMarker)
			verdict, reason := result.Judge(out.Facts())
			assert.Check(t, is.Equal(verdict, test.verdict))
			assert.Check(t, is.Equal(out.Exit.Cause, test.cause), "%s", out.Exit)
			for _, r := range test.reason {
				assert.Check(t, is.Contains(reason, r))
			}
			assert.Check(t, is.Contains(strings.Join(out.Notes, "\n"), test.notes))
			if test.cause == vmtest.Reset { // who sees the error alone needs the kernel's words, too
				assert.Check(t, is.ErrorContains(out.Infra, test.reason[0]))
				assert.Check(t, is.ErrorContains(out.Infra, filepath.Join(dir, "console.log")))
			}
			log, err := os.ReadFile(filepath.Join(dir, "console.log"))
			assert.NilError(t, err)
			assert.Check(t, is.Contains(string(log), "Linux version"))
		})
	}
}
