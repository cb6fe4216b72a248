// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/kvmrun/kvmrun/suites"
)

// What kvmrun needs.
const (
	defaultQEMU = "qemu-system-x86_64"

	// The oldest QEMU that is tested, that of Debian 12.
	qemuMajor, qemuMinor = 7, 2
	// The language version in go.mod.
	goMajor, goMinor = 1, 26

	mib = 1 << 20
	// A VM has 512 MiB by default (vmtest.DefaultMemoryMiB), QEMU itself needs
	// some 100 MiB; below the second limit only one VM runs at a time.
	memFail, memWarn = 640 * mib, 2048 * mib
	// A fetched kernel takes up to 160 MiB with the vmlinux extracted from it;
	// a source tree takes 1.4 GiB and a build several more.
	diskFail, diskWarn = 512 * mib, 8192 * mib
)

// install returns a command that installs packages, by the names of Debian and
// of Fedora.
type install func(debian, fedora string) string

func installer(h Host) install {
	has := func(tool string) bool { _, err := h.LookPath(tool); return err == nil }
	if !has("apt-get") && has("dnf") {
		return func(_, fedora string) string { return "sudo dnf install " + fedora }
	}
	return func(debian, _ string) string { return "sudo apt-get install " + debian }
}

var versionNumber = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`([0-9]+)\.([0-9]+)(?:\.[0-9]+)?`) })

// version finds the first MAJOR.MINOR in s.
func version(s string) (text string, major, minor int, ok bool) {
	m := versionNumber().FindStringSubmatch(s)
	if m == nil {
		return "", 0, 0, false
	}
	major, err1 := strconv.Atoi(m[1])
	minor, err2 := strconv.Atoi(m[2])
	return m[0], major, minor, err1 == nil && err2 == nil
}

func older(major, minor, wantMajor, wantMinor int) bool {
	return major < wantMajor || major == wantMajor && minor < wantMinor
}

func checkQEMU(ctx context.Context, h Host, inst install) Check {
	c := Check{Name: "QEMU", Status: Fail, Cure: inst("qemu-system-x86", "qemu-system-x86-core")}
	name := h.QEMU
	if name == "" {
		name = defaultQEMU
	}
	path, err := h.LookPath(name)
	if err != nil {
		c.Detail = name + " is not installed"
		return c
	}
	out, err := h.Output(ctx, path, "--version")
	if err != nil {
		c.Detail = fmt.Sprintf("%s --version fails: %v", path, err)
		c.Cure = "reinstall it: " + c.Cure
		return c
	}
	line, _, _ := strings.Cut(out, "\n")
	// "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)"
	text, major, minor, ok := version(line)
	switch {
	case !strings.HasPrefix(line, "QEMU emulator version ") || !ok:
		c.Detail = fmt.Sprintf("%s is not QEMU: it prints %q", path, line)
	case older(major, minor, qemuMajor, qemuMinor):
		c.Detail = fmt.Sprintf("%s is version %s, too old (need %d.%d)", path, text, qemuMajor, qemuMinor)
		c.Cure = "use Debian 12, Ubuntu 24.04 or later, or build QEMU from source"
	default:
		c.Status, c.Cure = OK, ""
		c.Detail = fmt.Sprintf("%s, version %s", path, text)
	}
	return c
}

// checkKVM never fails: without KVM everything works by emulation.
func checkKVM(ctx context.Context, h Host) Check {
	c := Check{Name: "KVM", Status: Warn}
	if problem, cure := kvmPrecondition(h); problem != "" {
		c.Detail = problem + "; VMs are emulated by TCG, much slower"
		c.Cure = cure
		return c
	}
	if h.Accel == nil {
		c.Status, c.Detail = OK, "/dev/kvm can be opened (not tried)"
		return c
	}
	accel, reason, err := h.Accel(ctx)
	switch {
	case err != nil:
		c.Detail = fmt.Sprintf("cannot be tried: %v", err)
		c.Cure = "see the QEMU check"
	case accel == "kvm":
		c.Status, c.Detail = OK, "usable"
	default:
		c.Detail = "does not work (" + reason + "); VMs are emulated by TCG, much slower"
		c.Cure = "in a VM, ask its owner for nested virtualization; otherwise see dmesg | grep -i kvm"
	}
	return c
}

// kvmPrecondition finds the reasons that have a cure of their own.
func kvmPrecondition(h Host) (problem, cure string) {
	info, err := h.ReadFile("/proc/cpuinfo")
	if err == nil {
		flags := map[string]bool{}
		for line := range strings.SplitSeq(string(info), "\n") {
			if name, list, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "flags" {
				for _, f := range strings.Fields(list) {
					flags[f] = true
				}
				break // all processors are alike
			}
		}
		// arm64 has no flags line, and nothing to see here.
		if len(flags) > 0 && !flags["vmx"] && !flags["svm"] {
			problem = "the processor offers no virtualization (neither vmx nor svm in /proc/cpuinfo)"
			if flags["hypervisor"] {
				return problem, "this is a VM: enable nested virtualization on its host"
			}
			return problem, "enable VT-x or AMD-V in the firmware's setup"
		}
	}
	switch err := h.OpenRW("/dev/kvm"); {
	case errors.Is(err, fs.ErrNotExist):
		return "there is no /dev/kvm", "sudo modprobe kvm_intel (or kvm_amd); in a container: run it with --device /dev/kvm"
	case errors.Is(err, fs.ErrPermission):
		return "no permission to open /dev/kvm", `sudo usermod -aG kvm "$USER", then log in again`
	case err != nil:
		return fmt.Sprintf("/dev/kvm cannot be opened: %v", err), "sudo modprobe kvm_intel (or kvm_amd)"
	}
	return "", ""
}

// checkConfinement says what a guest finds that has taken QEMU over.
func checkConfinement(ctx context.Context, h Host) Check {
	c := Check{Name: "confinement", Status: Warn}
	got, err := h.Confine(ctx)
	if err != nil {
		c.Detail = fmt.Sprintf("cannot be tried: %v", err)
		c.Cure = "see the QEMU check"
		return c
	}
	filter, limited := "its system calls are filtered", ", its memory is limited"
	if !got.Sandbox {
		filter = "its system calls are not filtered"
		c.Cure = "use a QEMU that was built with seccomp, as the distributions' are"
	}
	if !got.Limited {
		limited = ""
	}
	c.Detail = fmt.Sprintf("QEMU runs as user %d, %s%s", got.UID, filter, limited)
	if got.UID == 0 {
		c.Cure = "run kvmrun as an ordinary user, or give the container CAP_SETUID, CAP_SETGID and CAP_KILL"
	}
	if got.Why != "" {
		c.Detail += " (" + got.Why + ")"
	}
	if c.Cure == "" {
		c.Status = OK
	}
	return c
}

func checkMemory(h Host) Check {
	c := Check{Name: "memory", Status: Warn, Cure: "close other programs, or use a machine with more memory"}
	data, err := h.ReadFile("/proc/meminfo")
	if err != nil {
		c.Detail, c.Cure = fmt.Sprintf("unknown: %v", err), "mount /proc"
		return c
	}
	total, ok1 := memInfo(string(data), "MemTotal")
	available, ok2 := memInfo(string(data), "MemAvailable")
	if !ok1 || !ok2 {
		c.Detail, c.Cure = "unknown: /proc/meminfo has no MemTotal and MemAvailable", "use Linux 3.14 or later"
		return c
	}
	limit := ""
	// In a container, the root of the cgroup file system is the container's
	// own group (Documentation/admin-guide/cgroup-v2.rst, memory.max). A host
	// has no such file there.
	if data, err := h.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		maxBytes, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64) // "max": no limit
		if err == nil && maxBytes < total {
			limit = fmt.Sprintf(", of which this container may use %d MiB", maxBytes/mib)
			available = min(available, maxBytes)
			c.Cure = "give the container more memory"
		}
	}
	c.Detail = fmt.Sprintf("%d MiB available of %d MiB%s", available/mib, total/mib, limit)
	switch {
	case available < memFail:
		c.Status = Fail
		c.Detail += fmt.Sprintf("; one VM needs %d MiB", memFail/mib)
	case available < memWarn:
		c.Detail += "; VMs will run one at a time"
	default:
		c.Status, c.Cure = OK, ""
	}
	return c
}

// memInfo returns a value of /proc/meminfo in bytes (proc_meminfo(5): kB means
// KiB).
func memInfo(text, key string) (uint64, bool) {
	for line := range strings.SplitSeq(text, "\n") {
		name, rest, _ := strings.Cut(line, ":")
		if name != key {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			return 0, false
		}
		kib, err := strconv.ParseUint(fields[0], 10, 54)
		return kib * 1024, err == nil
	}
	return 0, false
}

func checkDisk(h Host) Check {
	c := Check{Name: "cache", Status: Fail, Cure: "kvmrun kernel prune, or point XDG_CACHE_HOME to a larger disk"}
	// The cache may not exist yet: ask about the nearest parent that does.
	dir := h.CacheDir
	_, free, err := h.Space(dir)
	for errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		dir = filepath.Dir(dir)
		_, free, err = h.Space(dir)
	}
	if err != nil {
		c.Detail = fmt.Sprintf("%s is not usable: %v", h.CacheDir, err)
		c.Cure = "point XDG_CACHE_HOME to a directory of your own"
		return c
	}
	if err := h.Writable(dir); err != nil {
		c.Detail = fmt.Sprintf("%s cannot be written: %v", dir, err)
		c.Cure = "point XDG_CACHE_HOME to a directory of your own"
		return c
	}
	c.Detail = fmt.Sprintf("%d MiB free for %s", free/mib, h.CacheDir)
	switch {
	case free < diskFail:
		c.Detail += "; not enough for a kernel"
	case free < diskWarn:
		c.Status = Warn
		c.Detail += "; not enough to build kernels"
	default:
		c.Status, c.Cure = OK, ""
	}
	return c
}

// fedora has Fedora's names of packages that it calls otherwise than Debian does.
var fedora = map[string]string{"libpam0g": "pam-libs", "libpam-modules": "pam", "libpam-cap": "libcap"}

// checkSuite looks for what a suite's Spec needs of the host. A suite that needs
// nothing has no check.
func checkSuite(h Host, inst install, s suites.Spec) (Check, bool) {
	c := Check{Name: "suite " + s.Name}
	var have, missing, debian, other []string
	needs := s.HostNeeds()
	if !h.Compiled {
		needs = append(needs, s.BuildNeeds()...)
	}
	for _, n := range needs {
		what := n.Command
		found := false
		if n.Command != "" {
			_, err := h.LookPath(n.Command)
			found = err == nil
		} else {
			what = filepath.Base(n.Files[0])
			for _, glob := range n.Files {
				found = found || len(h.Glob(glob)) > 0
			}
		}
		if found {
			have = append(have, what)
			continue
		}
		missing = append(missing, what)
		if n.Package == "" || slices.Contains(debian, n.Package) {
			continue
		}
		name := n.Package
		if f := fedora[name]; f != "" {
			name = f
		}
		debian, other = append(debian, n.Package), append(other, name)
	}
	switch {
	case len(missing) == 0:
		c.Status, c.Detail = OK, enumerate(have)+": installed"
	case len(debian) == 0:
		c.Status, c.Detail, c.Cure = Fail, enumerate(missing)+": not installed", "install the package that has it"
	default:
		c.Status, c.Detail, c.Cure = Fail, enumerate(missing)+": not installed", inst(strings.Join(debian, " "), strings.Join(other, " "))
	}
	return c, len(have)+len(missing) > 0
}

// enumerate joins words as in a sentence.
func enumerate(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}

// checkGo warns only: kvmrun itself runs programs without Go.
func checkGo(ctx context.Context, h Host) Check {
	c := Check{Name: "Go", Status: Warn, Cure: "install Go from https://go.dev/dl"}
	path, err := h.LookPath("go")
	if err != nil {
		c.Detail = "not installed; go test and the project's own suites need it"
		return c
	}
	out, err := h.Output(ctx, path, "version")
	if err != nil {
		c.Detail = fmt.Sprintf("%s version fails: %v", path, err)
		return c
	}
	out = strings.TrimSpace(out)
	text, major, minor, ok := version(strings.TrimPrefix(out, "go version "))
	switch {
	case !ok:
		c.Detail = fmt.Sprintf("%s prints %q", path, out)
	case older(major, minor, goMajor, goMinor):
		// Go 1.21 and later fetch the toolchain that go.mod asks for
		// (https://go.dev/doc/toolchain).
		c.Detail = fmt.Sprintf("%s is version %s, the suites are built with %d.%d", path, text, goMajor, goMinor)
		if !older(major, minor, 1, 21) {
			c.Cure = "nothing, if the network is there: go downloads the newer toolchain; otherwise install it from https://go.dev/dl"
		}
	default:
		c.Status, c.Cure = OK, ""
		c.Detail = fmt.Sprintf("%s, version %s", path, text)
	}
	return c
}

// checkFetch warns only: kernels can come from elsewhere.
func checkFetch(h Host) Check {
	var missing []string
	for _, tool := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if _, err := h.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if len(missing) > 0 {
		return Check{Name: "kernel fetch", Status: Warn,
			Detail: strings.Join(missing, ", ") + " not installed; kernels cannot be fetched",
			Cure:   "give kernels by -kernel FILE, for example /boot/vmlinuz-*"}
	}
	return Check{Name: "kernel fetch", Status: OK, Detail: "apt and dpkg-deb are installed"}
}
