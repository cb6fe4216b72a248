// SPDX-License-Identifier: Apache-2.0

// Command kvmrun boots Linux kernels in virtual machines and runs tests and
// programs in them. See kvmrun help.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/kvmrun/kvmrun/cmd/kvmrun/internal/cli"
	"github.com/kvmrun/kvmrun/initramfs/guest"
)

func main() {
	if guest.IsInit() {
		guest.Main()
	}
	// A panic here and SIGQUIT end kvmrun by SIGABRT, after all goroutines' stacks,
	// and not with Go's status 2, which is wrong usage. QEMU dies with its parent.
	debug.SetTraceback("crash")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := cli.Run(ctx, os.Args[1:], cli.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.Environ()})
	stop()
	os.Exit(code)
}
