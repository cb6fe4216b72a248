// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// programInput is standard input for a program in a guest; nil for none. A
// terminal is read in the foreground only: kvmrun reads ahead, whether or not the
// program reads, and a job in the background would be stopped for that.
func programInput(f *os.File) io.Reader {
	switch {
	case f == nil:
		return nil
	case !term.IsTerminal(int(f.Fd())):
		return f
	}
	// For one that is sent to the background while it reads: it gets EIO then
	// (termios(3), "job control").
	signal.Ignore(syscall.SIGTTIN)
	return foreground{f}
}

// foreground reads a terminal while this process's group may.
type foreground struct{ f *os.File }

// Read implements io.Reader.
func (r foreground) Read(p []byte) (int, error) {
	const again = 100 * time.Millisecond
	for {
		if !r.mine() {
			time.Sleep(again)
			continue
		}
		n, err := r.f.Read(p)
		if errors.Is(err, unix.EIO) && !r.mine() {
			continue
		}
		return n, err
	}
}

// mine says whether a Read is ours to do, or fails for another reason than that.
func (r foreground) mine() bool {
	group, err := unix.IoctlGetInt(int(r.f.Fd()), unix.TIOCGPGRP)
	return err != nil || group == unix.Getpgrp()
}
