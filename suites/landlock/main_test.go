// SPDX-License-Identifier: Apache-2.0

package landlock

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	helpers.RunHelper()
	fd, _ := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	r, _ := unix.NewIfreq("lo")
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	_ = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
	os.Exit(m.Run())
}
