// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

func TestBringUpCPUs(t *testing.T) {
	const one, two = `write /sys/devices/system/cpu/cpu1/online "1\n"`, `write /sys/devices/system/cpu/cpu2/online "1\n"`
	for _, test := range []struct {
		cmdline  string
		fail     map[string]error
		calls    []string
		warnings string
	}{
		{cmdline: "quiet\n"},
		{cmdline: "kvmrun.cpus=1\n"},
		{cmdline: "quiet kvmrun.cpus=3\n", calls: []string{one, two}},
		{cmdline: "kvmrun.cpus=3", fail: map[string]error{one: unix.EIO}, calls: []string{one, two}, warnings: "bring CPU 1 online: input/output error"},
		{cmdline: "kvmrun.cpus=x", warnings: `parameter kvmrun.cpus=x of the kernel's command line: strconv.Atoi: parsing "x": invalid syntax`},
		{fail: map[string]error{"read /proc/cmdline": unix.EACCES}, warnings: "read the kernel's command line: permission denied"},
	} {
		f := newFake()
		f.files["/proc/cmdline"] = test.cmdline
		if test.fail != nil {
			f.fail = test.fail
		}
		b := &bootReport{}
		bringUpCPUs(f, b)
		assert.DeepEqual(t, f.list(), append([]string{"read /proc/cmdline"}, test.calls...))
		if test.warnings == "" {
			assert.Check(t, is.Len(b.warnings, 0), "%q", test.cmdline)
		} else {
			assert.DeepEqual(t, b.warnings, []string{test.warnings})
		}
	}
}
