// SPDX-License-Identifier: Apache-2.0

package vmtest_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/fs"

	"github.com/kvmrun/kvmrun/vmtest"
)

// TestValidate needs no QEMU: bad input is refused before anything is started.
func TestValidate(t *testing.T) {
	dir := fs.NewDir(t, "validate",
		fs.WithFile("kernel", "kernel"), fs.WithFile("empty", ""), fs.WithFile("disk", "disk"),
		fs.WithDir("dir"))
	assert.NilError(t, syscall.Mkfifo(dir.Join("fifo"), 0o600))
	big, err := os.Create(dir.Join("big"))
	assert.NilError(t, err)
	assert.NilError(t, big.Truncate(300<<20))
	assert.NilError(t, big.Close())
	readOnly, err := os.Open(dir.Join("disk"))
	assert.NilError(t, err)
	defer readOnly.Close()
	closed, err := os.Open(dir.Join("disk"))
	assert.NilError(t, err)
	assert.NilError(t, closed.Close())
	names := func(n int) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprint("p", i))
		}
		return list
	}
	disk := vmtest.Disk{Path: dir.Join("disk"), Serial: "s"}

	for name, tc := range map[string]struct {
		change func(*vmtest.Config)
		want   string // "" for valid
	}{
		"minimal": {func(*vmtest.Config) {}, ""},
		"everything": {func(c *vmtest.Config) {
			c.Arch, c.Accel, c.CPUs, c.MemoryMiB = "amd64", vmtest.AccelTCG, 255, 1024
			c.Initrd, c.Ports, c.Disks = dir.Join("kernel"), names(30), []vmtest.Disk{disk, {File: readOnly, ReadOnly: true, Format: "qcow2"}}
		}, ""},
		"arm64":            {func(c *vmtest.Config) { c.Arch = "arm64" }, "arm64 is not supported yet"},
		"arch":             {func(c *vmtest.Config) { c.Arch = "vax" }, `"vax" is not known`},
		"accel":            {func(c *vmtest.Config) { c.Accel = "hvf" }, `accelerator "hvf" is not known`},
		"cpus":             {func(c *vmtest.Config) { c.CPUs = -1 }, "-1 processors are out of range"},
		"many cpus":        {func(c *vmtest.Config) { c.CPUs = 256 }, "256 processors are out of range"},
		"no console":       {func(c *vmtest.Config) { c.ConsoleFile = "" }, "set ConsoleFile"},
		"console limit":    {func(c *vmtest.Config) { c.ConsoleLimit = -1 }, "console limit -1 is negative"},
		"no kernel":        {func(c *vmtest.Config) { c.Kernel = "" }, "set Kernel"},
		"missing kernel":   {func(c *vmtest.Config) { c.Kernel = dir.Join("none") }, "open kernel: open " + dir.Join("none")},
		"kernel directory": {func(c *vmtest.Config) { c.Kernel = dir.Join("dir") }, "is not a regular file"},
		"kernel fifo":      {func(c *vmtest.Config) { c.Kernel = dir.Join("fifo") }, "is not a regular file"},
		"empty kernel":     {func(c *vmtest.Config) { c.Kernel = dir.Join("empty") }, "is empty"},
		"missing initrd":   {func(c *vmtest.Config) { c.Initrd = dir.Join("none") }, "open initrd"},
		"memory":           {func(c *vmtest.Config) { c.MemoryMiB = 16 }, "too little memory: 16 MiB"},
		"negative memory":  {func(c *vmtest.Config) { c.MemoryMiB = -5 }, "too little memory: -5 MiB"},
		"big initrd":       {func(c *vmtest.Config) { c.Initrd = dir.Join("big") }, "an initrd of 300 MiB: use at least"},
		"newline":          {func(c *vmtest.Config) { c.Cmdline = []string{"a\nb"} }, "line end or NUL"},
		"long":             {func(c *vmtest.Config) { c.Cmdline = []string{strings.Repeat("x", 2048)} }, "the kernel cuts them off at 2048"},
		"port name":        {func(c *vmtest.Config) { c.Ports = []string{"a,b"} }, `port name "a,b"`},
		"empty port name":  {func(c *vmtest.Config) { c.Ports = []string{""} }, `port name ""`},
		"port twice":       {func(c *vmtest.Config) { c.Ports = []string{"a", "b", "a"} }, `port "a" is named twice`},
		"many ports":       {func(c *vmtest.Config) { c.Ports = names(31) }, "31 ports are too many"},
		"empty disk":       {func(c *vmtest.Config) { c.Disks = []vmtest.Disk{{}} }, "neither a path nor a file"},
		"both":             {func(c *vmtest.Config) { c.Disks = []vmtest.Disk{{Path: disk.Path, File: readOnly}} }, "both a path and a file"},
		"missing disk":     {func(c *vmtest.Config) { c.Disks = []vmtest.Disk{{Path: dir.Join("none")}} }, "stat disk 0"},
		"disk directory":   {func(c *vmtest.Config) { c.Disks = []vmtest.Disk{{Path: dir.Join("dir")}} }, "is a directory"},
		"disk mode":        {func(c *vmtest.Config) { c.Disks = []vmtest.Disk{{File: readOnly}} }, "not open for reading and writing"},
		"closed disk":      {func(c *vmtest.Config) { c.Disks = []vmtest.Disk{{File: closed}} }, "use of closed file"},
		"serial":           {func(c *vmtest.Config) { c.Disks = []vmtest.Disk{{Path: disk.Path, Serial: strings.Repeat("x", 21)}} }, "not at most 20"},
		"serial twice":     {func(c *vmtest.Config) { c.Disks = []vmtest.Disk{disk, disk} }, `disk serial "s" is given twice`},
		"format":           {func(c *vmtest.Config) { c.Disks = []vmtest.Disk{{Path: disk.Path, Format: "vmdk"}} }, `disk format "vmdk"`},
		"many disks":       {func(c *vmtest.Config) { c.Disks = make([]vmtest.Disk, 21) }, "21 disks are too many"},
	} {
		t.Run(name, func(t *testing.T) {
			c := vmtest.Config{Kernel: dir.Join("kernel"), ConsoleFile: dir.Join("console")}
			tc.change(&c)
			err := c.Validate()
			if tc.want == "" {
				assert.NilError(t, err)
				return
			}
			assert.ErrorContains(t, err, tc.want)
			_, err = vmtest.Start(t.Context(), c)
			assert.ErrorContains(t, err, tc.want)
		})
	}
}
