// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/internal/wire"
)

// forkHeld starts a program and leaves it stopped before its first instruction:
// execve(2) stops a traced one, and a tracer may leave it with SIGSTOP. It is
// called with the reaper locked, which would take the stop for its own.
func forkHeld(exe string, argv []string, attr *syscall.ProcAttr) (int, error) {
	runtime.LockOSThread() // ptrace(2) knows threads
	defer runtime.UnlockOSThread()
	attr.Sys.Ptrace = true
	pid, err := syscall.ForkExec(exe, argv, attr)
	if err != nil {
		return 0, err
	}
	var ws unix.WaitStatus
	for {
		_, err = unix.Wait4(pid, &ws, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return 0, fmt.Errorf("wait for the program to stand still: %w", opaque(err))
	}
	if !ws.Stopped() {
		return 0, fmt.Errorf("the program ended before it began (status %#x)", uint32(ws))
	}
	if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(pid), 0, uintptr(unix.SIGSTOP), 0, 0); errno != 0 {
		_ = unix.Kill(pid, unix.SIGKILL)
		return 0, fmt.Errorf("leave the program stopped: %w", opaque(errno))
	}
	return pid, nil
}

// word is the host's, with the warnings that came before it.
type word struct {
	*wire.Release
	warnings []string
}

// letGo passes the host's word on to the program that is held, once.
func (p *program) letGo(r *wire.Release, warnings []string) bool {
	select {
	case p.release <- word{r, warnings}:
		return true
	default: // not held, or let go already
		return false
	}
}

// hold waits until the program stands still, tells the host, and lets it go on
// when the host says so. It returns what was asked for then, nil for a program
// that ended without standing still, and the warnings that there are by then.
func (a *agent) hold(p *program, r *wire.Run) (rel *wire.Release, warnings []string, notArmed string) {
	if r.Hold == "" || p.failed != nil {
		return nil, nil, ""
	}
	for {
		err := unix.Waitid(unix.P_PID, p.pid, nil, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	// The state follows the name, which may contain anything (proc(5)).
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid)) // empty for one that is gone
	if i := bytes.LastIndexByte(stat, ')'); i < 0 || !bytes.HasPrefix(stat[i:], []byte(") T")) {
		return nil, nil, ""
	}
	a.send(wire.Message{Held: &wire.Held{}})
	got := <-p.release
	rel, warnings = got.Release, got.warnings
	setNonce(rel.Nonce)
	err := a.arm(p.pid, rel)
	if err == nil && r.Hold == wire.HoldStop && len(rel.Env) > 0 {
		err = a.sys.createFile(wire.ReleaseEnvFile, strings.Join(rel.Env, "\x00")+"\x00")
	}
	if err == nil && r.Hold == wire.HoldStop {
		err = a.sys.createFile(wire.ReleaseFile, rel.Marks+"\n"+strings.Join(rel.Args, "\n"))
	}
	sig := unix.SIGCONT
	if err != nil {
		sig, notArmed = unix.SIGKILL, err.Error()
	}
	_ = unix.Kill(p.pid, sig)
	return rel, warnings, notArmed
}

// arm sets the kernel up to inject faults.
func (a *agent) arm(pid int, rel *wire.Release) error {
	if rel.Arm.Empty() {
		return nil
	}
	var symbols map[string][2]uint64
	var names []string
	for _, w := range rel.Arm.Before {
		if w.Symbol != "" {
			names = append(names, w.Symbol)
		}
	}
	if len(names) > 0 {
		text, err := a.sys.readFile("/proc/kallsyms")
		if err != nil {
			return fmt.Errorf("read the kernel's symbols: %w; the kernel needs CONFIG_KALLSYMS", err)
		}
		if symbols, err = findSymbols(text, names); err != nil {
			return err
		}
	}
	proc := fmt.Sprintf("/proc/%d", pid)
	if rel.Arm.Mark {
		tasks, err := a.sys.readDir(path.Join(proc, "task"))
		if err != nil {
			return fmt.Errorf("find the program's threads: %w", err)
		}
		for _, t := range tasks {
			if err := a.sys.writeFile(path.Join(proc, "task", t, "make-it-fail"), "1"); err != nil {
				return fmt.Errorf("mark the program for faults: %w; the kernel needs CONFIG_FAULT_INJECTION", err)
			}
		}
	}
	for _, w := range rel.Arm.Before {
		if w.Symbol != "" {
			at := symbols[w.Symbol][0]
			if w.End {
				at = symbols[w.Symbol][1]
			}
			w.Text = "0x" + strconv.FormatUint(at, 16)
		}
		if err := a.write(w); err != nil {
			return err
		}
	}
	if n := rel.Arm.Nth; n > 0 {
		file := path.Join(proc, "task", strconv.Itoa(pid), "fail-nth")
		if err := a.write(wire.Write{Path: file, Text: strconv.FormatUint(n, 10)}); err != nil {
			return err
		}
	}
	return nil
}

func (a *agent) write(w wire.Write) error {
	err := a.sys.writeFile(w.Path, w.Text)
	switch {
	case err == nil, w.Optional && errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ERANGE) && path.Base(w.Path) == "inject":
		// fei_write in kernel/fail_function.c
		return fmt.Errorf("write %q to %s: %w: the function is not marked with ALLOW_ERROR_INJECTION; /sys/kernel/debug/error_injection/list has those that are", w.Text, w.Path, err)
	}
	why := ""
	if dir := path.Dir(w.Path); errors.Is(err, unix.ENOENT) {
		switch path.Dir(dir) {
		case "/sys/block":
			why = ": the machine has no such block device" + a.disks(path.Dir(dir))
		case "/sys/kernel/slab":
			why = ": the kernel has no slab cache of that name (small ones are merged, unless booted with slab_nomerge)"
		}
	}
	return fmt.Errorf("write %q to %s: %w%s", w.Text, w.Path, err, why)
}

// disks lists, for a message, the block devices that are no mere memory.
func (a *agent) disks(dir string) string {
	names, err := a.sys.readDir(dir)
	if err != nil {
		return ""
	}
	names = slices.DeleteFunc(names, func(n string) bool {
		return strings.HasPrefix(n, "loop") || strings.HasPrefix(n, "ram") || strings.HasPrefix(n, "zram")
	})
	if len(names) == 0 {
		return "; it has no disk"
	}
	slices.Sort(names)
	return "; it has " + strings.Join(names[:min(20, len(names))], ", ")
}

// disarm undoes arm, as far as others could be hit, and counts.
func (a *agent) disarm(arm wire.Arm) (counts []wire.Count, warnings []string) {
	for _, w := range arm.After {
		if err := a.write(w); err != nil {
			warnings = append(warnings, "disarm a fault: "+err.Error())
		}
	}
	for _, c := range arm.Counters {
		n := wire.Count{Name: c.Name}
		text, err := a.sys.readFile(c.Path)
		if err == nil {
			// atomic_t's file prints it signed (debugfs_create_atomic_t).
			left, e := strconv.Atoi(strings.TrimSpace(text))
			n.Fired, err = c.Start-left, e
		}
		if err != nil {
			n.Err = err.Error()
		}
		counts = append(counts, n)
	}
	return counts, warnings
}

// look collects what is only true when nothing of the program is left.
func (a *agent) look(arm wire.Arm, counts []wire.Count, first int) (warnings []string) {
	hit := func(c wire.Count) bool { return c.Fired != 0 || c.Err != "" }
	if len(counts) > 0 && !slices.ContainsFunc(counts, hit) {
		return nil
	}
	gone := time.Now()
	for _, w := range arm.Final {
		time.Sleep(time.Until(gone.Add(w.Age)))
		if err := a.write(w); err != nil {
			warnings = append(warnings, "look for leaks: "+err.Error())
		}
	}
	for i, file := range arm.Look {
		text, err := a.sys.readFile(file)
		m := &wire.File{Index: first + i, EOF: true}
		if err != nil {
			m.Err = err.Error()
		} else {
			m.Data = []byte(text[max(0, len(text)-wire.Chunk):])
		}
		a.send(wire.Message{File: m})
	}
	return warnings
}

// findSymbols finds the addresses and the ends of functions in the text of
// /proc/kallsyms.
func findSymbols(text string, names []string) (map[string][2]uint64, error) {
	type hit struct {
		start, end uint64
		n          int
	}
	found := map[string]*hit{}
	for _, n := range names {
		found[n] = &hit{end: ^uint64(0)}
	}
	parse := func(line string) (at uint64, name string, ok bool) {
		f := strings.Fields(line) // address, type, name, [module]
		if len(f) < 3 || !strings.ContainsAny(f[1], "tTwW") {
			return 0, "", false
		}
		at, err := strconv.ParseUint(f[0], 16, 64)
		return at, f[2], err == nil && at != 0
	}
	for line := range strings.Lines(text) {
		if at, name, ok := parse(line); ok && found[name] != nil {
			found[name].start = at
			found[name].n++
		}
	}
	for _, n := range names {
		if h := found[n]; h.n != 1 {
			return nil, fmt.Errorf("the kernel has %d functions named %s, want 1", h.n, n)
		}
	}
	for line := range strings.Lines(text) {
		if at, _, ok := parse(line); ok {
			for _, h := range found {
				if at > h.start && at < h.end {
					h.end = at
				}
			}
		}
	}
	out := map[string][2]uint64{}
	for n, h := range found {
		out[n] = [2]uint64{h.start, h.end}
	}
	return out, nil
}
