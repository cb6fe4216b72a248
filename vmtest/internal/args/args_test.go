// SPDX-License-Identifier: Apache-2.0

package args_test

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"

	"github.com/kvmrun/kvmrun/vmtest/internal/args"
)

// TestBuild pins the whole command line for every shape of machine.
func TestBuild(t *testing.T) {
	arch, err := args.ForArch("amd64")
	assert.NilError(t, err)
	base := args.Spec{Arch: arch, Kernel: "/k/vmlinux", Accel: args.TCG, TSCKHz: 2096000, CPUs: 1, MemoryMiB: 512, Console: 3, QMP: 4}

	for name, change := range map[string]func(*args.Spec){
		"minimal": func(*args.Spec) {},
		"sandbox": func(s *args.Spec) { s.Sandbox = true },
		"inspect": func(s *args.Spec) { s.Inspect = true },
		"ticks":   func(s *args.Spec) { s.HZ = 250; s.CPUs = 2 },
		"late":    func(s *args.Spec) { s.LateCPUs = true; s.CPUs = 2 },
		"late-1":  func(s *args.Spec) { s.LateCPUs = true },
		"kvm":     func(s *args.Spec) { s.Accel = args.KVM; s.CPUs = 4 },
		"chosen": func(s *args.Spec) {
			s.Machine, s.CPU, s.Initrd = "pc", "qemu64", "/k/initrd, odd.cpio"
			s.Cmdline = []string{"quiet", "a=b,c"}
		},
		"ports": func(s *args.Spec) {
			s.Ports = []args.Port{{Name: "kvmrun.ctl", FD: 5}, {Name: "kvmrun.out", FD: 6}}
		},
		"disks": func(s *args.Spec) {
			s.Disks = []args.Disk{
				{Path: "/d/one, \"two\".img", FD: -1, Serial: "one", Format: "raw"},
				{FD: 7, Serial: "two", ReadOnly: true, Format: "raw"},
				{FD: 8, Format: "qcow2"},
			}
		},
		"freezable": func(s *args.Spec) { s.Memory = &args.Memory{FD: 5, Shared: true} },
		"fork": func(s *args.Spec) {
			s.Memory, s.Incoming = &args.Memory{FD: 5}, &args.Incoming{ROM: "pvh.bin", Paused: true}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := base
			change(&s)
			argv, err := args.Argv(args.Build(s))
			assert.NilError(t, err)
			// One option with its value on each line.
			var b strings.Builder
			for i, a := range argv {
				if i > 0 && strings.HasPrefix(a, "-") {
					b.WriteByte('\n')
				} else if i > 0 {
					b.WriteByte(' ')
				}
				b.WriteString(a)
			}
			golden.Assert(t, b.String()+"\n", name+".golden")
		})
	}
}

func TestArgvCollision(t *testing.T) {
	for name, list := range map[string][]args.Arg{
		"unique":     {args.Unique("m", "1"), args.Unique("m", "2")},
		"flag":       {args.Flag("nodefaults"), args.Flag("nodefaults")},
		"same id":    {args.Repeat("device", "a", "x,id=a"), args.Repeat("device", "a", "y,id=a")},
		"mixed":      {args.Unique("device", "x"), args.Repeat("device", "a", "y,id=a")},
		"mixed back": {args.Repeat("device", "a", "y,id=a"), args.Unique("device", "x")},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := args.Argv(list)
			assert.ErrorIs(t, err, args.ErrCollision)
		})
	}
	argv, err := args.Argv([]args.Arg{args.Repeat("device", "a", "x"), args.Repeat("device", "b", "x"), args.Repeat("chardev", "a", "y")})
	assert.NilError(t, err)
	assert.DeepEqual(t, argv, []string{"-device", "x", "-device", "x", "-chardev", "y"})

	_, err = args.Argv([]args.Arg{{}})
	assert.ErrorContains(t, err, "without a name")
}

func TestForArch(t *testing.T) {
	a, err := args.ForArch("")
	assert.NilError(t, err)
	assert.Equal(t, a.GOARCH, "amd64")
	_, err = args.ForArch("arm64")
	assert.ErrorContains(t, err, "arm64 is not supported yet")
	_, err = args.ForArch("vax")
	assert.ErrorContains(t, err, `"vax" is not known`)
}
