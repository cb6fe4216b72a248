// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/wire"
)

// fake is a system that does nothing, fails where it is told to, and notes what
// it was asked.
type fake struct {
	mu    sync.Mutex
	calls []string
	fail  map[string]error // by call
	files map[string]string
	dirs  map[string][]string
	info  []string      // results of mounts, the last one again and again
	block chan struct{} // makes sync wait
	log   []string
	off   chan struct{} // closed by powerOff
	// records are what readKmsg gives, "" an EPIPE; taint is what tainted does.
	records []string
	taint   string
	disk    []byte // what readFiles reads
}

func newFake() *fake {
	return &fake{fail: map[string]error{}, files: map[string]string{}, dirs: map[string][]string{}, off: make(chan struct{}), info: []string{""}}
}

func (f *fake) call(format string, a ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := fmt.Sprintf(format, a...)
	f.calls = append(f.calls, c)
	return f.fail[c]
}

func (f *fake) list() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string{}, f.calls...)
}

func (f *fake) mkdir(dir string) error { return f.call("mkdir %s", dir) }
func (f *fake) mount(m mount) error    { return f.call("mount %s %s", m.fstype, m.target) }
func (f *fake) unmount(target string, flags int) error {
	if flags&unix.MNT_DETACH != 0 {
		return f.call("detach %s", target)
	}
	return f.call("unmount %s", target)
}

func (f *fake) mounts() (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	text := f.info[0]
	if len(f.info) > 1 {
		f.info = f.info[1:]
	}
	return text, f.fail["mounts"]
}

func (f *fake) readFile(path string) (string, error) {
	if err := f.call("read %s", path); err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	text, ok := f.files[path]
	if !ok {
		return "", unix.ENOENT
	}
	return text, nil
}

func (f *fake) readDir(path string) ([]string, error) {
	if err := f.call("readdir %s", path); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	names, ok := f.dirs[path]
	if !ok {
		return nil, unix.ENOENT
	}
	return names, nil
}

func (f *fake) loadModule(path string) error            { return f.call("load %s", path) }
func (f *fake) writeFile(path, text string) error       { return f.call("write %s %q", path, text) }
func (f *fake) createFile(path, text string) error      { return f.call("create %s %q", path, text) }
func (f *fake) setHostname(name string) error           { return f.call("hostname %s", name) }
func (f *fake) setLimit(r int, soft, hard uint64) error { return f.call("limit %d", r) }
func (f *fake) consoleLevel(level int) error            { return f.call("console %d", level) }
func (f *fake) loopbackUp() error                       { return f.call("lo") }

func (f *fake) setClock(ns int64) error  { return f.call("clock %d", ns) }
func (f *fake) reseed(seed []byte) error { return f.call("reseed %d", len(seed)) }

func (f *fake) linger(string)    { _ = f.call("linger") }
func (f *fake) sameMounts() bool { return false }

func (f *fake) openKmsg() error { return nil }

func (f *fake) openFiles() error { return f.call("open files") }

func (f *fake) readFiles(b []byte, at int64) (int, error) {
	if err := f.call("read files"); err != nil {
		return 0, err
	}
	return bytes.NewReader(f.disk).ReadAt(b, at)
}

// readKmsg gives what records has, by turns.
func (f *fake) readKmsg(buf []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.records) == 0 {
		return 0, unix.EAGAIN
	}
	r := f.records[0]
	f.records = f.records[1:]
	if r == "" {
		return 0, unix.EPIPE
	}
	return copy(buf, r), nil
}

func (f *fake) tainted() (string, error) { return f.taint, nil }

func (f *fake) kernelLog(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, text)
}

// killAll kills all descendants of this process, which is what a PID 1 has
// beside itself: being their subreaper, it gets the orphans too.
func (f *fake) killAll() error {
	for {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		n := 0
		for _, t := range tasks {
			text, err := os.ReadFile("/proc/self/task/" + t.Name() + "/children")
			if err != nil {
				continue
			}
			for _, pid := range strings.Fields(string(text)) {
				if p, err := strconv.Atoi(pid); err == nil && !zombie(p) && unix.Kill(p, unix.SIGKILL) == nil {
					n++
				}
			}
		}
		if n == 0 {
			return f.call("killall")
		}
	}
}

func zombie(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return strings.HasPrefix(rest, "Z")
}

func (f *fake) sync() {
	_ = f.call("sync")
	if f.block != nil {
		<-f.block
	}
}

// powerOff ends the goroutine, as the real one never returns.
func (f *fake) powerOff() {
	defer runtime.Goexit()
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.off:
	default:
		close(f.off)
	}
}

// startAgent runs an agent in this process, with real children and a fake
// system.
func startAgent(t *testing.T, f *fake, tweak func(*agent)) *client {
	t.Helper()
	assert.NilError(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	var ours []*os.File
	// The agent's ends are never closed: an agent has no need to end its
	// goroutines when the machine goes, and one of these may still be about to
	// read from the number.
	var theirs []int
	for _, name := range wire.Ports {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		assert.NilError(t, err)
		assert.NilError(t, unix.SetNonblock(fds[0], true))
		ours = append(ours, os.NewFile(uintptr(fds[0]), name))
		theirs = append(theirs, fds[1])
	}
	p := func(i int) *port { return &port{fd: theirs[i]} }
	a := newAgent(f, &ports{ctl: p(0), in: p(1), out: p(2), err: p(3)})
	if tweak != nil {
		tweak(a)
	}
	late := make(chan []string, 1)
	late <- nil
	served := make(chan struct{})
	go func() {
		defer close(served)
		a.serve(&bootReport{late: late, modules: []string{"m1"}, warnings: []string{"w1"}})
	}()
	c := newClient(t, ours[0], ours[1], ours[2], ours[3], func() string {
		f.mu.Lock()
		defer f.mu.Unlock()
		return strings.Join(f.log, "\n")
	})
	t.Cleanup(func() {
		for _, o := range ours {
			assert.NilError(t, o.Close())
		}
		<-served
		assert.NilError(t, f.killAll())
		<-a.reaper.ended
		c.copied.Wait()
	})
	return c
}
