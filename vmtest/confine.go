// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kvmrun/kvmrun/vmtest/internal/args"
)

// A guest that breaks out of its machine finds itself in QEMU, and a file system
// that a guest has written is read by a tool of the host's: both are to be worth
// little then. As root, kvmrun runs them as a user of no rights, who gets what
// they work on by open descriptors; QEMU filters its own system calls; and both
// have limits.

// ConfinedID is the user and the group that QEMU and the tools for images run as
// when this process is root. The numbers from 65520 to 65533 belong to nobody
// (systemd's docs/UIDS-GIDS.md); "nobody" itself is shared with other daemons,
// which may trace each other.
const ConfinedID = 65530

const confinedText = "65530"

// The capabilities that it takes to become another user and to end its processes
// (linux/capability.h).
const (
	capKill   = 5
	capSetgid = 6
	capSetuid = 7
)

// confinement is who a child is to be.
type confinement struct {
	cred *syscall.Credential // nil: who we are
	why  string              // why it is still root, "" when it is not
}

// confined finds out who a child is to be. device is the KVM device it must be
// able to open, "" for none; proc is /proc.
func confined(uid int, proc, device string) confinement {
	if uid != 0 {
		return confinement{}
	}
	if why := cannotDrop(proc); why != "" {
		return confinement{why: why}
	}
	// Groups must not be nil: that would leave root's.
	cred := &syscall.Credential{Uid: ConfinedID, Gid: ConfinedID, Groups: []uint32{}}
	if device != "" {
		st, err := os.Stat(device)
		if err != nil {
			return confinement{why: err.Error()}
		}
		own, _ := st.Sys().(*syscall.Stat_t)
		switch mode := st.Mode().Perm(); {
		case mode&0o006 == 0o006:
		case own != nil && own.Gid != 0 && mode&0o060 == 0o060:
			cred.Groups = []uint32{own.Gid}
		default:
			return confinement{why: fmt.Sprintf("%s is for root alone (chgrp kvm %s; chmod 660 %s)", device, device, device)}
		}
	}
	return confinement{cred: cred}
}

// cannotDrop says why root cannot become another user here, as in some
// containers; "" when it can.
func cannotDrop(proc string) string {
	status, err := os.ReadFile(proc + "/self/status")
	if err != nil {
		return err.Error()
	}
	var caps uint64
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			if caps, err = strconv.ParseUint(strings.TrimSpace(v), 16, 64); err != nil {
				return err.Error()
			}
		}
	}
	for _, c := range []uint{capKill, capSetgid, capSetuid} {
		if caps>>c&1 == 0 {
			return "this root lacks the capabilities to change to another user (CAP_SETUID, CAP_SETGID, CAP_KILL)"
		}
	}
	if b, err := os.ReadFile(proc + "/self/setgroups"); err == nil && strings.TrimSpace(string(b)) == "deny" {
		return "this user namespace has no setgroups"
	}
	for _, file := range []string{"uid_map", "gid_map"} {
		b, err := os.ReadFile(proc + "/self/" + file)
		if errors.Is(err, os.ErrNotExist) {
			continue // a kernel without user namespaces
		}
		if err != nil {
			return err.Error()
		}
		if !mapped(string(b), ConfinedID) {
			return fmt.Sprintf("this user namespace has no user and group %d", ConfinedID)
		}
	}
	return ""
}

// mapped looks an id up in a uid_map (user_namespaces(7)).
func mapped(text string, id uint64) bool {
	for line := range strings.Lines(text) {
		var inside, outside, n uint64
		if _, err := fmt.Sscan(line, &inside, &outside, &n); err == nil && id >= inside && id-inside < n {
			return true
		}
	}
	return false
}

// limits bound a child, each 0 for no limit.
type limits struct {
	memory uint64        // address space, bytes
	cpu    time.Duration // processor time
	file   uint64        // size of what it writes, bytes
}

// command makes a command set limits for itself before it becomes the program. Root
// may not have the right to set them from outside (prlimit(2), CAP_SYS_RESOURCE),
// for instance in a container. No core is dumped: that has the guest's memory.
// Where a lower limit is in force it stays.
func (l limits) command(path string, arguments ...string) *exec.Cmd {
	script := "ulimit -c 0"
	set := func(option string, n uint64) {
		if n > 0 {
			script += fmt.Sprintf("; ulimit -%s %d 2>/dev/null", option, n)
		}
	}
	set("v", l.memory>>10)
	set("t", uint64((l.cpu+time.Second-1)/time.Second))
	set("f", (l.file+511)/512) // in blocks of 512 bytes (ulimit(1p))
	cmd := exec.Command("/bin/sh", append([]string{"-c", script + `; exec "$0" "$@"`, path}, arguments...)...)
	return cmd
}

// denied is the exit status of a shell that may not execute a program (sh(1p)).
const denied = 126

// deniedCure goes after the error about a QEMU that a user without rights may
// not execute.
const deniedCure = "; as root, kvmrun runs QEMU as user " + confinedText + ": make the binary and the directories above it accessible for everybody (chmod a+rx), or run kvmrun as an ordinary user"

// qemuLimits are far above what a machine needs: beside the guest's memory, TCG
// reserves up to 1 GiB for what it translates, and each thread a stack of 8 MiB
// and an arena of malloc's of 128 MiB. A machine of 512 MiB and 1 CPU has had
// 3 GiB of addresses at most.
func qemuLimits(memoryMiB, cpus int) limits {
	return limits{memory: uint64(memoryMiB)<<20 + 16<<30 + uint64(cpus)*256<<20}
}

// sandboxRefused are the words of a QEMU that was built without seccomp, or that
// cannot install its filter (softmmu/vl.c, softmmu/qemu-seccomp.c).
var sandboxRefused = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?i)-sandbox|seccomp`) })

// noSandbox has the QEMU binaries that refused the filter; like versions it holds
// facts about the host.
var (
	noSandboxMu sync.Mutex
	noSandbox   = make(map[string]bool)
)

// inSandbox calls start to start a machine with QEMU's filter, and without where
// QEMU has none.
func inSandbox(qemu string, start func(sandbox bool) (*VM, error)) (*VM, error) {
	noSandboxMu.Lock()
	without := noSandbox[qemu]
	noSandboxMu.Unlock()
	if !without {
		vm, err := start(true)
		var se *StartError
		if !errors.As(err, &se) || !sandboxRefused().MatchString(se.Exit.Stderr) {
			return vm, err
		}
		noSandboxMu.Lock()
		noSandbox[qemu] = true
		noSandboxMu.Unlock()
	}
	vm, err := start(false)
	if vm != nil {
		vm.addNote("QEMU has no filter for its system calls (built without seccomp, or not allowed here)")
	}
	return vm, err
}

func (vm *VM) addNote(s string) {
	if vm.note != "" {
		vm.note += "; "
	}
	vm.note += s
}

// handOver opens a file for a child that may not open it by its name: for who
// may not read it, a copy in memory.
func handOver(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil || st.Mode().Perm()&0o004 != 0 {
		return f, err
	}
	defer f.Close() //nolint:errcheck // opened for reading
	m, err := memory("copy", 0)
	if err != nil {
		return nil, err
	}
	if _, err = io.Copy(m, f); err == nil {
		err = seal(m)
	}
	if err != nil {
		_ = m.Close()
		return nil, fmt.Errorf("copy %s: %w", path, err)
	}
	return m, nil
}

// A tool for an image may use toolMemory bytes of addresses and toolTime of
// processor time, and say toolOutput bytes. E2fsck takes 100 MiB for 16 GiB.
const (
	toolMemory = 4 << 30
	toolTime   = 10 * time.Minute
	toolOutput = 256 << 10
)

// RunTool runs a program of the host's that works on an image, such as fsck: as
// its last argument it gets the image by a name that it can open. As root it is
// run as [ConfinedID]; its processor time, memory and the size of what it writes
// are limited, and of its output only the beginning is returned. The image must
// be readable and writable for everybody, which is no risk for a file without a
// name; its mode is changed so when it is ours.
//
// The error is that of [exec.Cmd.Wait], or the context's.
func RunTool(ctx context.Context, image *os.File, path string, arguments ...string) (output string, err error) {
	st, err := image.Stat()
	if err != nil {
		return "", err
	}
	l := limits{memory: toolMemory, cpu: toolTime, file: uint64(max(st.Size(), 1<<20))}
	cmd := l.command(path, append(append([]string{}, arguments...), fmt.Sprintf("/proc/self/fd/%d", firstFD))...)
	cmd.ExtraFiles = []*os.File{image}
	var out head
	out.limit = toolOutput
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second // for a child of its own that keeps the output open
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: confined(os.Geteuid(), "/proc", "").cred}
	if cmd.SysProcAttr.Credential != nil {
		cmd.Dir = "/" // ours may be closed to it
		if err := image.Chmod(0o666); err != nil {
			return "", fmt.Errorf("hand over the image: %w", err)
		}
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	err = cmd.Wait()
	if !stop() {
		err = context.Cause(ctx)
	}
	return out.String(), err
}

// head keeps the beginning of what is written.
type head struct {
	b     []byte
	limit int
	cut   bool
}

func (h *head) Write(b []byte) (int, error) {
	n := min(len(b), h.limit-len(h.b))
	h.b = append(h.b, b[:n]...)
	h.cut = h.cut || n < len(b)
	return len(b), nil
}

func (h *head) String() string {
	if h.cut {
		return string(h.b) + "\n(more was printed)\n"
	}
	return string(h.b)
}

// Confinement is what keeps a QEMU apart from the host, as seen on one that runs.
type Confinement struct {
	Sandbox bool   // its system calls are filtered
	UID     int    // the user it runs as
	Why     string // why that is root, or why there is no filter; "" when all is well
	Limited bool   // its memory is limited
}

// ProbeConfinement starts QEMU, without a guest, as [Start] does with the
// accelerator that ProbeAccel found, and looks at the process.
func ProbeConfinement(ctx context.Context, qemu string, accel Accel) (Confinement, error) {
	path, _, err := statQEMU(qemu)
	if err != nil {
		return Confinement{}, err
	}
	who := confined(os.Geteuid(), "/proc", kvmDeviceFor(string(accel)))
	c := Confinement{UID: -1, Why: who.why}
	for _, sandbox := range []bool{true, false} {
		argv := []string{"-nodefaults", "-no-user-config", "-display", "none", "-machine", "none", "-S"}
		if sandbox {
			argv = append(argv, "-sandbox", args.Sandbox)
		}
		words, err := probeProcess(ctx, path, argv, who, &c)
		if err != nil {
			return c, err
		}
		if sandbox && sandboxRefused().MatchString(words) {
			c.Why = strings.Join(append(nonEmpty(c.Why), "QEMU says: "+firstLine(words)), "; ")
			continue
		}
		if c.UID < 0 {
			return c, fmt.Errorf("probe %s: it does not run%s", path, ownWords(words))
		}
		break
	}
	return c, nil
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// probeProcess starts QEMU with a monitor, and looks at it when that greets: its
// filter is in force by then.
func probeProcess(ctx context.Context, qemu string, argv []string, who confinement, c *Confinement) (words string, err error) {
	ctx, cancel := context.WithTimeout(ctx, greetingTimeout)
	defer cancel()
	mine, theirs, err := socketpair("qmp")
	if err != nil {
		return "", err
	}
	defer mine.Close() //nolint:errcheck // nothing is written
	cmd := qemuLimits(DefaultMemoryMiB, 1).command(qemu,
		append(argv, "-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", firstFD), "-mon", "chardev=qmp,mode=control")...)
	cmd.ExtraFiles = []*os.File{theirs}
	p, err := startProcess(cmd, who)
	_ = theirs.Close()
	if err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, p.kill) // ends the connection, and so the Read
	defer stop()
	n, _ := mine.Read(make([]byte, 1))
	if n > 0 {
		pid := strconv.Itoa(cmd.Process.Pid)
		c.UID, c.Sandbox, err = processStatus("/proc/" + pid + "/status")
		b, rerr := os.ReadFile("/proc/" + pid + "/limits")
		err = errors.Join(err, rerr)
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "Max address space"); ok {
				c.Limited = !strings.HasPrefix(strings.TrimSpace(v), "unlimited")
			}
		}
	}
	p.kill()
	<-p.done
	return p.output.String(), err
}

// processStatus reads a process's user and whether a filter is in force, which is
// "Seccomp: 2" (proc(5)).
func processStatus(file string) (uid int, filter bool, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return -1, false, err
	}
	uid = -1
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		f := strings.Fields(value)
		switch {
		case len(f) == 0:
		case key == "Uid":
			if uid, err = strconv.Atoi(f[0]); err != nil {
				return -1, false, err
			}
		case key == "Seccomp":
			filter = f[0] == "2"
		}
	}
	return uid, filter, nil
}

// kvmDeviceFor is the device that a child with the accelerator opens.
func kvmDeviceFor(accel string) string {
	if accel == args.KVM {
		return kvmDevice
	}
	return ""
}
