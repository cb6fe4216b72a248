// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

func TestBringUpCPUs(t *testing.T) {
	const one, two = `write /sys/devices/system/cpu/cpu1/online "1\n"`, `write /sys/devices/system/cpu/cpu2/online "1\n"`
	for _, test := range []struct {
		cmdline string
		fail    map[string]error
		calls   []string
		err     string
	}{
		{cmdline: "quiet\n"},
		{cmdline: "kvmrun.cpus=1\n"},
		{cmdline: "quiet kvmrun.cpus=3\n", calls: []string{one, two}},
		{cmdline: "kvmrun.cpus=3", fail: map[string]error{one: unix.EIO}, calls: []string{one}, err: "bring CPU 1 online: input/output error"},
		{cmdline: "kvmrun.cpus=x", err: `parameter kvmrun.cpus=x of the kernel's command line: strconv.Atoi: parsing "x": invalid syntax`},
		{fail: map[string]error{"read /proc/cmdline": unix.ENOENT}},
		{fail: map[string]error{"read /proc/cmdline": unix.EACCES}, err: "read the kernel's command line: permission denied"},
	} {
		f := newFake()
		f.files["/proc/cmdline"] = test.cmdline
		if test.fail != nil {
			f.fail = test.fail
		}
		err := bringUpCPUs(f)
		assert.DeepEqual(t, f.list(), append([]string{"read /proc/cmdline"}, test.calls...))
		if test.err == "" {
			assert.NilError(t, err, "%q", test.cmdline)
		} else {
			assert.Error(t, err, test.err)
		}
	}
}
