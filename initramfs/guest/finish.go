// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/internal/wire"
)

// maxFetch bounds one fetched file, in bytes: coverage data and core dumps fit,
// an endless file of proc or sysfs does not.
const maxFetch = 1 << 30

// fetch sends the files that the host asked for.
func (a *agent) fetch(list []string) {
	for i, p := range list {
		fi, err := os.Stat(p)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			a.send(wire.Message{File: &wire.File{Index: i, EOF: true, Err: err.Error()}})
		case !fi.IsDir():
			a.fetchFile(i, "", p)
		default:
			entries, err := os.ReadDir(p)
			if err != nil {
				a.send(wire.Message{File: &wire.File{Index: i, EOF: true, Err: err.Error()}})
				continue
			}
			for _, e := range entries { // sorted
				if e.Type().IsRegular() {
					a.fetchFile(i, e.Name(), path.Join(p, e.Name()))
				}
			}
		}
	}
}

func (a *agent) fetchFile(index int, name, p string) {
	last := &wire.File{Index: index, Name: name, EOF: true}
	if err := a.sendFile(index, name, p); err != nil {
		last.Err = err.Error()
	}
	a.send(wire.Message{File: last})
}

func (a *agent) sendFile(index int, name, p string) error {
	// O_NONBLOCK: a FIFO must be refused, not waited for.
	f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // opened for reading
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("fetch %s: not a regular file", p)
	}
	buf := make([]byte, wire.Chunk)
	for sent := 0; ; {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			a.send(wire.Message{File: &wire.File{Index: index, Name: name, Data: buf[:n]}})
			sent += n
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		case sent >= maxFetch:
			return fmt.Errorf("fetch %s: longer than %d bytes", p, maxFetch)
		}
	}
}

// cleanUp brings the machine back to how it was before the program: no
// processes, no mounts, nothing unwritten. It returns warnings.
func (a *agent) cleanUp() (warnings []string) {
	if err := a.sys.killAll(); err != nil {
		warnings = append(warnings, fmt.Sprintf("kill remaining processes: %v", err))
	}
	if !a.reaper.waitIdle(a.killGrace) {
		warnings = append(warnings, fmt.Sprintf("processes are left %v after SIGKILL (stuck in the kernel?)", a.killGrace))
	}
	// A frozen or broken file system can block both forever.
	done := make(chan []string, 1)
	go func() {
		defer dieOnPanic(a.sys)
		w := a.unmountAll()
		a.sys.sync()
		done <- w
	}()
	select {
	case w := <-done:
		warnings = append(warnings, w...)
	case <-time.After(a.finishLimit):
		a.fault("unmounting and syncing did not end within %v: is a file system frozen?", a.finishLimit)
	}
	return warnings
}

// unmountAll unmounts what was not mounted at boot, newest first.
func (a *agent) unmountAll() (warnings []string) {
	if a.sys.sameMounts() {
		return nil
	}
	mounts, err := a.sys.mounts()
	if err != nil {
		return []string{fmt.Sprintf("read mounts: %v", err)}
	}
	if mounts == a.bootMounts {
		return nil
	}
	known := map[mountPoint]bool{}
	for _, m := range parseMounts(a.bootMounts) {
		known[m] = true
	}
	list := parseMounts(mounts)
	slices.Reverse(list)
	for _, m := range list {
		if known[m] {
			continue
		}
		err := a.sys.unmount(m.target, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			continue // gone with another one
		}
		if err == nil {
			continue
		}
		warnings = append(warnings, fmt.Sprintf("unmount %s: %v; detached it", m.target, err))
		if err := a.sys.unmount(m.target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
			warnings = append(warnings, fmt.Sprintf("detach %s: %v", m.target, err))
		}
	}
	return warnings
}

// parseMounts reads the text of /proc/self/mountinfo (proc(5)): the ID is the
// first field, the mount point the fifth, with spaces and such in octal.
func parseMounts(text string) []mountPoint {
	var list []mountPoint
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		list = append(list, mountPoint{id: f[0], target: unescapeOctal(f[4])})
	}
	return list
}

var octal = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

func unescapeOctal(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	return octal.Replace(s)
}
