// SPDX-License-Identifier: Apache-2.0

// Command badinit is an init that dies, which a kernel does not survive.
package main

import "os"

func main() { os.Exit(3) }
