// SPDX-License-Identifier: Apache-2.0

// Command late has the kernel do something after it has ended.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/initramfs/guest"
	"github.com/kvmrun/kvmrun/internal/wire"
)

func main() {
	if guest.IsInit() {
		guest.Main()
	}
	switch {
	case len(os.Args) > 1 && os.Args[1] == "sleep": // it is not held
		time.Sleep(time.Hour)
		return
	case len(os.Args) > 1:
		output()
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) // held
	how, err := os.ReadFile(wire.ReleaseFile)
	if err == nil {
		_, parameter, _ := strings.Cut(string(how), "\n") // behind the word for marks
		err = watchdog(parameter)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// output prints lines without end; the kernel dies meanwhile.
func output() {
	line := strings.Repeat("x", 1023) + "\n"
	for i := 0; ; i++ {
		if i == 2048 {
			_ = os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
		}
		fmt.Print(line)
	}
}

// watchdog starts a timer of the kernel that goes off in a second, and leaves. It
// does then what the module's parameter says.
func watchdog(parameter string) error {
	found, err := filepath.Glob("/lib/modules/*/kernel/drivers/watchdog/softdog.ko")
	if err != nil || len(found) != 1 {
		return fmt.Errorf("find softdog: %v, %v", found, err)
	}
	if err := unix.DeleteModule("softdog", 0); err != nil {
		return fmt.Errorf("unload softdog: %w", err)
	}
	f, err := os.Open(found[0])
	if err != nil {
		return err
	}
	if err := unix.FinitModule(int(f.Fd()), "soft_margin=1 "+parameter, 0); err != nil {
		return fmt.Errorf("load softdog: %w", err)
	}
	w, err := os.OpenFile("/dev/watchdog", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	// It was not told to stop: closing starts the second again, and it goes on
	// (watchdog_release in drivers/watchdog/watchdog_dev.c).
	return w.Close()
}
