// SPDX-License-Identifier: Apache-2.0

// Command pipes makes pipes, the last one in a child process, and says which of
// them failed; or does one simple thing that its argument names.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/kvmrun/kvmrun/initramfs/guest"
)

func main() {
	if guest.IsInit() {
		guest.Main()
	}
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "child":
			pipe(3)
		case "one":
			if !pipe(1) {
				os.Exit(1)
			}
		case "held": // as a suite's tests are
			_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
			if !pipe(1) {
				os.Exit(1)
			}
		case "many": // and closes them; held, too
			_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
			for range 100 {
				var fds [2]int
				if syscall.Pipe2(fds[:], syscall.O_CLOEXEC) == nil {
					_, _ = syscall.Close(fds[0]), syscall.Close(fds[1])
				}
			}
		case "shrink": // until there is less memory
			for all := memory(); memory() > all*3/4; {
				time.Sleep(10 * time.Millisecond)
			}
			fmt.Println("less memory")
		case "messy": // leaves something behind when there is no memory
			if !pipe(1) {
				if err := os.WriteFile("/tmp/left", nil, 0o600); err != nil {
					fmt.Println(err)
				}
			}
		case "fail":
			fmt.Println("0 failed on purpose")
			os.Exit(3)
		}
		return
	}
	pipe(1)
	pipe(2)
	child := exec.Command("/proc/self/exe", "child")
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	if err := child.Run(); err != nil {
		fmt.Println("child:", err)
	}
}

func pipe(n int) bool {
	word := "ok"
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
		word = "failed"
	}
	fmt.Println(n, word)
	return word == "ok"
}

// memory is how much the kernel has, in KiB.
func memory() (kib int) {
	b, err := os.ReadFile("/proc/meminfo")
	if err == nil {
		_, err = fmt.Sscanf(string(b), "MemTotal: %d", &kib)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	return kib
}
