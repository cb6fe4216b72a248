// SPDX-License-Identifier: Apache-2.0

package main

import "os"

func withTmpfs() { os.Exit(1) }
