// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
)

// TestIdentity: whatever a template depends on changes it.
func TestIdentity(t *testing.T) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("needs qemu-system-x86_64 in PATH: apt-get install qemu-system-x86")
	}
	other := filepath.Join(t.TempDir(), "qemu")
	assert.NilError(t, os.Symlink(qemu, other))
	base := Config{Kernel: "k", Initrd: "i", Ports: []string{"p"}, Accel: AccelTCG}
	id, err := identity(base)
	assert.NilError(t, err)
	again := base
	again.ConsoleFile, again.Kernel, again.Initrd = "c", "elsewhere", "too"
	same, err := identity(again)
	assert.NilError(t, err)
	assert.Equal(t, same, id)
	for name, change := range map[string]func(*Config){
		"qemu":    func(c *Config) { c.QEMU = other },
		"cmdline": func(c *Config) { c.Cmdline = []string{"x"} },
		"machine": func(c *Config) { c.Machine = "pc" },
		"cpu":     func(c *Config) { c.CPU = "qemu64" },
		"cpus":    func(c *Config) { c.CPUs = 2 },
		"memory":  func(c *Config) { c.MemoryMiB = 1024 },
		"ports":   func(c *Config) { c.Ports = []string{"p", "q"} },
		"disks":   func(c *Config) { c.Disks = []Disk{{Serial: "d"}} },
		"initrd":  func(c *Config) { c.Initrd = "" },
		"balloon": func(c *Config) { c.Balloon = true },
		"on end":  func(c *Config) { c.OnEnd = func(*VM) {} }, // QEMU's vmcoreinfo device
	} {
		c := base
		change(&c)
		got, err := identity(c)
		assert.NilError(t, err)
		assert.Check(t, got != id, name)
	}
	d := base
	d.Disks = []Disk{{Serial: "d", Path: "/here"}}
	here, err := identity(d)
	assert.NilError(t, err)
	d.Disks = []Disk{{Serial: "d", Path: "/there", Format: "raw"}}
	there, err := identity(d)
	assert.NilError(t, err)
	assert.Equal(t, here, there)
}

// TestConfigIsData: everything of a Config that data can say survives JSON.
func TestConfigIsData(t *testing.T) {
	c := Config{
		QEMU: "q", Arch: "amd64", Kernel: "k", Initrd: "i", Cmdline: []string{"a"}, Machine: "m", CPU: "c", Accel: AccelTCG, CPUs: 2,
		MemoryMiB: 3, Disks: []Disk{{Path: "p", Serial: "s", ReadOnly: true, Format: "raw"}}, Balloon: true, Ports: []string{"p"},
		Freezable: true, ConsoleFile: "f", ConsoleLimit: 4,
	}
	with := c
	with.OnEnd, with.Disks = func(*VM) {}, []Disk{c.Disks[0]}
	with.Disks[0].File = os.Stdin
	text, err := json.Marshal(with)
	assert.NilError(t, err)
	var got Config
	assert.NilError(t, json.Unmarshal(text, &got))
	assert.DeepEqual(t, got, c)
}
