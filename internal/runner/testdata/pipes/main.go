// SPDX-License-Identifier: Apache-2.0

// Command pipes makes pipes, the last one in a child process, and says which of
// them failed.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

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
