// SPDX-License-Identifier: Apache-2.0

// Command bareinit is the floor of the benchmark: a guest whose only process
// prints a line and waits to be killed.
package main

import (
	"os"
	"time"
)

func main() {
	// Without devtmpfs there is /dev/console, which the kernel opened for us.
	_, _ = os.Stdout.WriteString("BARE INIT\n")
	time.Sleep(time.Hour)
}
