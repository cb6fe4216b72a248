// SPDX-License-Identifier: Apache-2.0

package vmtest_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/vmtest"
)

// BenchmarkFirstByte measures the time from the start of a machine to the first
// byte on its port, ours against a QEMU with nothing but what the byte needs, in
// turns. It reports medians in seconds and their ratio. Seven rounds:
//
//	go test -run '^$' -bench FirstByte -benchtime 7x ./vmtest
//
// It fails when a boot hangs or ends in any other way than by power-off, so with
// -benchtime 200x it is also the endurance test of the machine type.
func BenchmarkFirstByte(b *testing.B) {
	c := needKernel(b, "hello", "vmtest.port=p")
	c.Ports = []string{"p"}
	c.Accel = vmtest.AccelTCG
	var ours, bare, ends []time.Duration
	for b.Loop() {
		argv, first, end := oursFirstByte(b, c)
		ours, ends = append(ours, first), append(ends, end)
		bare = append(bare, bareFirstByte(b, c, argv))
	}
	o, p := median(ours).Seconds(), median(bare).Seconds()
	b.ReportMetric(0, "ns/op") // says nothing: both kinds together
	b.ReportMetric(o, "s/ours")
	b.ReportMetric(p, "s/bare")
	b.ReportMetric(o/p, "ratio")
	b.ReportMetric(median(ends).Seconds(), "s/byte-to-Wait")
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func oursFirstByte(b *testing.B, c vmtest.Config) (argv []string, first, end time.Duration) {
	// Long beyond any boot: a guest that hangs fails the benchmark.
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	begin := time.Now()
	vm, err := vmtest.Start(ctx, c)
	assert.NilError(b, err)
	_, err = vm.Port("p").Read(make([]byte, 1))
	assert.NilError(b, err)
	first = time.Since(begin)
	_, err = vm.Port("p").Write([]byte{'.'}) // and off
	assert.NilError(b, err)
	assert.Equal(b, vm.Wait().Cause, vmtest.PowerOff)
	end = time.Since(begin) - first
	assert.NilError(b, vm.Close())
	return vm.Args(), first, end
}

// bareFirstByte runs QEMU as one would by hand: the machine, processors and
// memory of argv, the same kernel, a serial console into a file, one port.
func bareFirstByte(b *testing.B, c vmtest.Config, argv []string) time.Duration {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	assert.NilError(b, err)
	mine, theirs := os.NewFile(uintptr(fds[0]), "mine"), os.NewFile(uintptr(fds[1]), "theirs")
	conn, err := net.FileConn(mine)
	assert.NilError(b, err)
	assert.NilError(b, mine.Close())
	defer conn.Close()

	cmd := exec.Command(argv[0], "-nodefaults", "-display", "none", "-no-reboot",
		"-kernel", c.Kernel, "-initrd", c.Initrd,
		"-append", "console=ttyS0,115200 no_timer_check panic=-1 vmtest.do=hello vmtest.port=p",
		"-serial", "file:"+filepath.Join(b.TempDir(), "serial"),
		"-device", "virtio-serial-pci", "-chardev", "socket,id=p,fd=3", "-device", "virtserialport,chardev=p,name=p")
	for _, option := range []string{"-machine", "-cpu", "-smp", "-m", "-accel"} {
		cmd.Args = append(cmd.Args, option, argv[slices.Index(argv, option)+1])
	}
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	begin := time.Now()
	assert.NilError(b, cmd.Start())
	assert.NilError(b, theirs.Close())
	_, err = conn.Read(make([]byte, 1))
	first := time.Since(begin)
	assert.NilError(b, err)
	_, err = conn.Write([]byte{'.'})
	assert.NilError(b, err)
	assert.NilError(b, cmd.Wait())
	return first
}
