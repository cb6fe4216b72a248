// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/internal/wire"
)

// modulesFile is initramfs.ModulesFile, which cannot be imported here: guest
// code never imports host code. A test compares them.
const modulesFile = "/etc/kvmrun/modules"

// mount is one call of mount(2).
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

// mountPoint is one line of /proc/self/mountinfo.
type mountPoint struct {
	id     string
	target string
}

const (
	noDev  = unix.MS_NOSUID | unix.MS_NODEV
	noExec = noDev | unix.MS_NOEXEC
)

// earlyMounts are what the ports need.
var earlyMounts = []mount{
	{"sysfs", "/sys", "sysfs", noExec, ""},
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
}

// otherMounts are what else a Linux system usually has (file-hierarchy(7)), in
// order. Group 5 is tty.
var otherMounts = []mount{
	{"proc", "/proc", "proc", noExec, ""},
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
	{"tmpfs", "/dev/shm", "tmpfs", noDev, "mode=1777"},
	{"tmpfs", "/tmp", "tmpfs", noDev, "mode=1777"},
	{"tmpfs", "/run", "tmpfs", noDev, "mode=0755"},
	{"securityfs", "/sys/kernel/security", "securityfs", noExec, ""},
	{"debugfs", "/sys/kernel/debug", "debugfs", noExec, ""},
	{"tracefs", "/sys/kernel/tracing", "tracefs", noExec, ""},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", noExec, ""},
	{"bpf", "/sys/fs/bpf", "bpf", noExec, "mode=0700"},
	{"mqueue", "/dev/mqueue", "mqueue", noExec, ""},
	{"hugetlbfs", "/dev/hugepages", "hugetlbfs", noDev, ""},
}

// bootReport is what came of the set-up.
type bootReport struct {
	modules  []string
	warnings []string
	// late gets the warnings of what was not waited for, once.
	late chan []string
}

func (b *bootReport) warn(format string, a ...any) {
	b.warnings = append(b.warnings, fmt.Sprintf(format, a...))
}

// setUp makes the machine usable and opens the ports. It goes on after every
// failure but a missing port or processor: what else is missing will be named by whoever
// needs it.
//
// Most of the time goes into code that the machine runs for the first time, so
// two processors do two things at once. What takes longest, the network, is
// only waited for before a program starts (bootReport.late).
func setUp(sys system, open func() (*ports, error)) (*ports, *bootReport, error) {
	b := &bootReport{late: make(chan []string, 1)}
	unix.Umask(0o022)
	for _, m := range earlyMounts {
		mountOne(sys, m, b)
	}
	rest := make(chan *bootReport)
	go func() {
		defer dieOnPanic(sys)
		r := &bootReport{}
		setUpRest(sys, r)
		rest <- r
		r = &bootReport{}
		if err := sys.loopbackUp(); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			r.warn("bring up the loopback interface: %v", err)
		}
		b.late <- r.warnings
	}()
	list, err := sys.readFile(modulesFile)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		b.warn("read list of modules: %v", err)
	}
	loadModules(sys, list, b)
	p, err := open()
	b.warnings = append(b.warnings, (<-rest).warnings...)
	if err == nil {
		err = bringUpCPUs(sys)
	}
	return p, b, err
}

// bringUpCPUs brings those processors online that the host has kept out of the boot
// (vmtest.Config.LateCPUs). It is an error when one is missing: a test of what several
// do at once would test nothing.
func bringUpCPUs(sys system) error {
	text, err := sys.readFile("/proc/cmdline")
	if errors.Is(err, unix.ENOENT) {
		return nil // a kernel without /proc, of which the host does not ask it
	}
	if err != nil {
		return fmt.Errorf("read the kernel's command line: %w", err)
	}
	n := 0
	for _, param := range strings.Fields(text) {
		if v, ok := strings.CutPrefix(param, wire.CPUsParam); ok {
			if n, err = strconv.Atoi(v); err != nil {
				return fmt.Errorf("parameter %s of the kernel's command line: %w", param, err)
			}
		}
	}
	for cpu := 1; cpu < n; cpu++ {
		if err := sys.writeFile(fmt.Sprintf("/sys/devices/system/cpu/cpu%d/online", cpu), "1\n"); err != nil {
			return fmt.Errorf("bring CPU %d online: %w", cpu, err)
		}
	}
	return nil
}

// setUpRest does what the ports do not need.
func setUpRest(sys system, b *bootReport) {
	for _, m := range otherMounts {
		mountOne(sys, m, b)
	}
	if err := sys.consoleLevel(8); err != nil {
		b.warn("set console log level: %v", err)
	}
	// Writers of /dev/kmsg are rate limited by default (kernel/printk/printk.c:
	// devkmsg_write); markers must not get lost.
	if err := sys.writeFile("/proc/sys/kernel/printk_devkmsg", "on\n"); err != nil && !errors.Is(err, unix.ENOENT) {
		b.warn("set printk_devkmsg: %v", err)
	}
	if err := sys.setHostname("kvmrun"); err != nil {
		b.warn("set host name: %v", err)
	}
	ignoreSignals()
	for _, l := range []struct {
		name       string
		resource   int
		soft, hard uint64
	}{
		// As systemd sets them (systemd-system.conf(5)): programs and tests
		// expect these, not the kernel's 1024 and 4096.
		{"RLIMIT_NOFILE", unix.RLIMIT_NOFILE, 1024, 524288},
		{"RLIMIT_MEMLOCK", unix.RLIMIT_MEMLOCK, 8 << 20, 8 << 20},
		{"RLIMIT_CORE", unix.RLIMIT_CORE, 0, unix.RLIM_INFINITY},
	} {
		if err := sys.setLimit(l.resource, l.soft, l.hard); err != nil {
			b.warn("set %s: %v", l.name, err)
		}
	}
}

// ignoreSignals keeps anybody from ending PID 1 with a signal, which would be a
// kernel panic: Go's runtime has handlers for all of them, so that the kernel
// does not take them for ignored. They are caught, not ignored, because
// programs would inherit that.
func ignoreSignals() {
	signal.Notify(make(chan os.Signal, 1), // never read: what does not fit is dropped
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGBUS, unix.SIGFPE,
		unix.SIGUSR1, unix.SIGSEGV, unix.SIGUSR2, unix.SIGPIPE, unix.SIGALRM, unix.SIGTERM, unix.SIGSTKFLT,
		unix.SIGXCPU, unix.SIGXFSZ, unix.SIGVTALRM, unix.SIGPROF, unix.SIGIO, unix.SIGPWR, unix.SIGSYS)
}

// mountOne mounts m where the kernel has the file system. A tmpfs is left out
// where the archive has put something: it would hide what the user wants there.
func mountOne(sys system, m mount, b *bootReport) {
	if m.fstype == "tmpfs" {
		if names, err := sys.readDir(m.target); err == nil && len(names) > 0 {
			return
		}
	}
	err := sys.mount(m)
	if errors.Is(err, unix.ENOENT) && !strings.HasPrefix(m.target, "/sys/") {
		if err := sys.mkdir(m.target); err != nil {
			b.warn("make directory %s: %v", m.target, err)
			return
		}
		err = sys.mount(m)
	}
	switch {
	case err == nil:
	case errors.Is(err, unix.EBUSY): // mounted by the kernel
	case errors.Is(err, unix.ENODEV): // not in this kernel
	case errors.Is(err, unix.ENOENT): // no mount point in sysfs: neither
	default:
		b.warn("mount %s on %s: %v", m.fstype, m.target, err)
	}
}

// loadModules loads what the list says, one absolute path a line, '?' before
// those that need not load.
func loadModules(sys system, list string, b *bootReport) {
	for line := range strings.Lines(list) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		file, soft := strings.CutPrefix(line, "?")
		name := moduleName(file)
		err := sys.loadModule(file)
		switch {
		case err == nil:
			b.modules = append(b.modules, name)
		case errors.Is(err, unix.EEXIST): // loaded or built in meanwhile
			b.modules = append(b.modules, name)
		case soft:
		default:
			b.warn("load kernel module %s: %v (the kernel log may say why)", name, err)
		}
	}
}

// moduleName is the name under which the kernel knows a module's file.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
}
