// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/internal/wire"
)

// endOfText is Ctrl-D, the default of VEOF (termios(3)). On a terminal it is
// what the end of the input looks like.
const endOfText = 4

// openTerminal makes a pseudo-terminal: our side for the poller, the program's
// as a plain descriptor.
func openTerminal(size wire.Winsize) (master *os.File, slave int, err error) {
	// O_NONBLOCK, so that the poller takes it and read deadlines work.
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, -1, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	defer func() {
		if err != nil {
			_ = master.Close()
		}
	}()
	if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, -1, fmt.Errorf("unlock terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, -1, fmt.Errorf("get terminal's number: %w", err)
	}
	if err = setSize(master, size); err != nil {
		return nil, -1, err
	}
	name := fmt.Sprintf("/dev/pts/%d", n)
	slave, err = unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, -1, fmt.Errorf("open %s: %w", name, err)
	}
	return master, slave, nil
}

func setSize(f *os.File, size wire.Winsize) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		inner = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
	})
	if err == nil {
		err = inner
	}
	if err != nil {
		return fmt.Errorf("set terminal size: %w", err)
	}
	return nil
}
