// SPDX-License-Identifier: Apache-2.0

package vmtest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/initramfs/guest"
	"github.com/kvmrun/kvmrun/vmtest"
)

// Boot a kernel with this very program as its init, and talk to that over a virtio
// port. It is compiled only: examples/module runs the like with a kernel.
func Example() {
	if guest.IsInit() { // in the guest
		guest.RunAsInit(func() error {
			port, err := guest.OpenPort("talk")
			if err != nil {
				return err
			}
			lines := bufio.NewScanner(port)
			for lines.Scan() { // until the host closes its end
				fmt.Fprintln(port, strings.ToUpper(lines.Text()))
			}
			return lines.Err()
		})
	}

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		log.Fatal(err)
	}
	kernel := "/boot/vmlinuz"
	initrd, err := initramfs.Build(ctx, initramfs.Spec{Kernel: kernel, Init: self}, initramfs.Options{})
	if err != nil {
		log.Fatal(err)
	}
	vm, err := vmtest.Start(ctx, vmtest.Config{
		Kernel: kernel, Initrd: initrd, Ports: []string{"talk"}, ConsoleFile: filepath.Join(dir, "console.log"),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer vm.Close()
	talk := vm.Port("talk")
	fmt.Fprintln(talk, "hello")
	reply, err := bufio.NewReader(talk).ReadString('\n')
	if err != nil {
		log.Fatal(err) // vm.Wait() and the console's file say more
	}
	fmt.Print(reply)
	if err := talk.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(vm.Wait())
}

// What is wrong with a machine is said before QEMU is started.
func ExampleConfig_Validate() {
	err := vmtest.Config{Kernel: "/dev/null", ConsoleFile: "console.log"}.Validate()
	fmt.Println(err)
	err = vmtest.Config{Kernel: "/no/such/vmlinuz", ConsoleFile: "console.log"}.Validate()
	fmt.Println(err)
	// Output:
	// kernel /dev/null is not a regular file but Dc---------
	// open kernel: open /no/such/vmlinuz: no such file or directory
}

// A Config is plain data, but for open files and functions.
func ExampleConfig() {
	var c vmtest.Config
	err := json.Unmarshal([]byte(`{"Kernel": "vmlinux", "MemoryMiB": 1024, "Disks": [{"Path": "disk.img", "Serial": "data"}]}`), &c)
	fmt.Println(err, c.Kernel, c.MemoryMiB, c.Disks[0].Serial)
	// Output: <nil> vmlinux 1024 data
}

// How a machine ended is data, and one line for people.
func ExampleExit() {
	e := vmtest.Exit{Cause: vmtest.Reset, Detail: "guest-reset"}
	fmt.Println(e.Cause == vmtest.Reset, e)
	// Output: true reset: guest-reset
}
