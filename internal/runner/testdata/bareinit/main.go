// SPDX-License-Identifier: Apache-2.0

// Command bareinit is the floor of the benchmarks: a guest whose only process
// prints a line, and one more for each that it reads.
package main

import (
	"os"
	"time"
)

func main() {
	// Without devtmpfs there is /dev/console, which the kernel opened for us.
	_, _ = os.Stdout.WriteString("BARE INIT\n")
	line := make([]byte, 100)
	for {
		if _, err := os.Stdin.Read(line); err != nil {
			time.Sleep(time.Hour)
		}
		_, _ = os.Stdout.WriteString("BARE ECHO\n")
	}
}
