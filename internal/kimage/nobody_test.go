// SPDX-License-Identifier: Apache-2.0

package kimage

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// asNobody runs f on a thread of its own that has the file system user and
// group nobody (setfsuid(2) is per thread). The thread ends with f, because its
// goroutine exits while locked to it.
func asNobody(f func() error) error {
	const nobody = 65534
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		_ = unix.Setfsgid(nobody)
		_ = unix.Setfsuid(nobody)
		done <- f()
	}()
	return <-done
}
