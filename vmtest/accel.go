// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kvmrun/kvmrun/vmtest/internal/args"
)

// The oldest QEMU that is supported.
const (
	minMajor = 7
	minMinor = 2
)

// signOfLife is how long a machine under KVM may take to its first console
// byte before KVM is given up for TCG. The slowest way there, a bzImage that
// unpacks itself, takes well below a second on any machine that has KVM.
const signOfLife = 10 * time.Second

// ErrTooOld is wrapped by errors about a QEMU older than 7.2.
var ErrTooOld = errors.New("qemu is too old")

// checkVersion returns an error that names the cure when QEMU is too old.
func checkVersion(qemu string, major, minor int) error {
	if major > minMajor || major == minMajor && minor >= minMinor {
		return nil
	}
	return fmt.Errorf("%w: %s is version %d.%d: install QEMU %d.%d or newer (Debian 12, Ubuntu 24.04 and later have it)",
		ErrTooOld, qemu, major, minor, minMajor, minMinor)
}

// lookQEMU finds the emulator's binary.
func lookQEMU(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("find qemu: %w: install it (Debian, Ubuntu: apt-get install qemu-system-x86)", err)
	}
	// A relative name must go on meaning the same file.
	if path, err = filepath.Abs(path); err != nil {
		return "", fmt.Errorf("find qemu: %w", err)
	}
	return path, nil
}

// versions remembers what Version found, and deadKVM that KVM gave no sign of
// life. These are facts about the host that cannot change within a process (a
// replaced binary has another key), so they are the package's one exception to
// having no global state.
var (
	versionsMu sync.Mutex
	versions   = make(map[versionKey][2]int)

	deadKVMMu sync.Mutex
	deadKVM   string // why, "" while it is not known to be dead
)

type versionKey struct {
	path  string
	mtime time.Time
	size  int64
}

// versionLine is the first line of qemu --version.
var versionLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^QEMU emulator version (\d+)\.(\d+)`) })

// Version asks the QEMU binary (a path or a name in PATH, "" for
// qemu-system-x86_64) for its version. The answer is remembered as long as the
// file does not change. A version older than 7.2 is returned together with an
// error that wraps ErrTooOld. Start does not need it: a machine's monitor tells
// the version.
func Version(ctx context.Context, qemu string) (major, minor int, err error) {
	path, st, err := statQEMU(qemu)
	if err != nil {
		return 0, 0, err
	}
	key := versionKey{path, st.ModTime(), st.Size()}
	versionsMu.Lock()
	v, ok := versions[key]
	versionsMu.Unlock()
	if !ok {
		out, err := exec.CommandContext(ctx, path, "--version").Output()
		if err != nil {
			var words string
			if ee := (*exec.ExitError)(nil); errors.As(err, &ee) {
				words = ownWords(string(ee.Stderr))
			}
			return 0, 0, fmt.Errorf("run %s --version: %w%s", path, err, words)
		}
		m := versionLine().FindSubmatch(out)
		if m == nil {
			return 0, 0, fmt.Errorf("run %s --version: no QEMU version in %.80q", path, bytes.TrimSpace(out))
		}
		for i := range v {
			if v[i], err = strconv.Atoi(string(m[i+1])); err != nil {
				return 0, 0, fmt.Errorf("run %s --version: %w", path, err)
			}
		}
		versionsMu.Lock()
		versions[key] = v
		versionsMu.Unlock()
	}
	return v[0], v[1], checkVersion(path, v[0], v[1])
}

func statQEMU(qemu string) (string, os.FileInfo, error) {
	if qemu == "" {
		arch, err := args.ForArch("")
		if err != nil {
			return "", nil, err
		}
		qemu = arch.QEMU
	}
	path, err := lookQEMU(qemu)
	if err != nil {
		return "", nil, err
	}
	st, err := os.Stat(path)
	if err != nil {
		return "", nil, fmt.Errorf("find qemu: %w", err)
	}
	return path, st, nil
}

// kvmUnusable says in one line why this host cannot run KVM guests for arch, as
// far as that can be seen without running one; "" when it looks well.
func kvmUnusable(arch args.Arch, device, cpuinfo string) string {
	if arch.GOARCH != runtime.GOARCH {
		return fmt.Sprintf("KVM cannot run a guest for %s on %s", arch.GOARCH, runtime.GOARCH)
	}
	deadKVMMu.Lock()
	dead := deadKVM
	deadKVMMu.Unlock()
	if dead != "" {
		return dead
	}
	f, err := os.OpenFile(device, os.O_RDWR|syscall.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return device + " does not exist: no KVM module is loaded, or virtualization is off in the firmware"
	case errors.Is(err, os.ErrPermission):
		return device + " may not be opened: add the user to group kvm"
	case err != nil:
		return err.Error()
	}
	_ = f.Close()
	if len(arch.VirtFlags) == 0 {
		return ""
	}
	has, err := cpuHas(cpuinfo, arch.VirtFlags)
	if err != nil {
		return err.Error()
	}
	if !has {
		return fmt.Sprintf("%s opens, but %s has none of the processor flags %s: a stock kernel cannot run",
			device, cpuinfo, strings.Join(arch.VirtFlags, ", "))
	}
	return ""
}

// KVMProblem says in one line why this host cannot run amd64 guests under KVM, as far as that can be seen without running one; "" when it looks well.
// Where it does, AccelAuto tries KVM.
func KVMProblem() string {
	arch, err := args.ForArch("")
	if err != nil {
		return err.Error()
	}
	return kvmUnusable(arch, kvmDevice, cpuinfo)
}

// cpuHas looks for one of the flags in the first "flags" line of cpuinfo.
func cpuHas(cpuinfo string, flags []string) (bool, error) {
	b, err := os.ReadFile(cpuinfo)
	if err != nil {
		return false, fmt.Errorf("read processor flags: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(key) != "flags" {
			continue
		}
		for _, have := range strings.Fields(value) {
			for _, want := range flags {
				if have == want {
					return true, nil
				}
			}
		}
		return false, nil
	}
	return false, nil
}

// Where Linux shows what kvmUnusable looks at.
const (
	kvmDevice = "/dev/kvm"
	cpuinfo   = "/proc/cpuinfo"
)

// setDeadKVM remembers that KVM does not work here.
func setDeadKVM(why string) {
	deadKVMMu.Lock()
	defer deadKVMMu.Unlock()
	deadKVM = why
}

// ProbeAccel finds out what AccelAuto comes to on this host: KVM, or TCG and in
// one line why. Where nothing speaks against KVM it runs a machine without a
// kernel for a moment and waits until its firmware says something; ctx and a
// limit of 10 seconds bound that. The error is about QEMU itself (missing, too
// old, broken).
func ProbeAccel(ctx context.Context, qemu string) (accel Accel, reason string, err error) {
	if _, _, err := Version(ctx, qemu); err != nil {
		return "", "", err
	}
	arch, err := args.ForArch("")
	if err != nil {
		return "", "", err
	}
	if why := kvmUnusable(arch, kvmDevice, cpuinfo); why != "" {
		return AccelTCG, why, nil
	}
	path, _, err := statQEMU(qemu)
	if err != nil {
		return "", "", err
	}
	alive, words, err := firmwareSpeaks(ctx, path, args.KVM)
	if err == nil {
		err = context.Cause(ctx) // then it proves nothing
	}
	if err != nil {
		return "", "", err
	}
	if !alive {
		why := "a machine under KVM gave no sign of life" + ownWords(words)
		setDeadKVM(why)
		return AccelTCG, why, nil
	}
	return AccelKVM, "", nil
}

// firmwareSpeaks runs a machine without a kernel and reports whether its
// firmware (SeaBIOS) wrote anything to its debug port, number 0x402
// (docs/Debugging.md of SeaBIOS), within signOfLife. The words are QEMU's own.
func firmwareSpeaks(ctx context.Context, qemu, accel string) (alive bool, words string, err error) {
	ctx, cancel := context.WithTimeout(ctx, signOfLife)
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		return false, "", fmt.Errorf("probe %s: %w", accel, err)
	}
	defer r.Close() //nolint:errcheck // opened for reading
	cmd := qemuLimits(DefaultMemoryMiB, 1).command(qemu, "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "q35", "-accel", accel, "-m", "64M",
		"-add-fd", "fd=3,set=1", "-chardev", "file,id=debug,path=/dev/fdset/1,append=on",
		"-device", "isa-debugcon,iobase=0x402,chardev=debug")
	cmd.ExtraFiles = []*os.File{w}
	p, err := startProcess(cmd, confined(os.Geteuid(), "/proc", kvmDeviceFor(accel)))
	_ = w.Close()
	if err != nil {
		return false, "", err
	}
	stop := context.AfterFunc(ctx, p.kill) // ends the pipe, and so the Read
	defer stop()
	n, err := r.Read(make([]byte, 1))
	p.kill()
	<-p.done
	if err != nil && !errors.Is(err, io.EOF) {
		return false, "", fmt.Errorf("probe %s: %w", accel, err)
	}
	return n > 0, p.output.String(), nil
}
