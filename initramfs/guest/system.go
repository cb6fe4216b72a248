// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/internal/wire"
)

// system is what only PID 1 of a machine of its own may do.
type system interface {
	mkdir(dir string) error
	mount(m mount) error
	unmount(target string, flags int) error
	// mounts returns the text of /proc/self/mountinfo.
	mounts() (string, error)
	readFile(path string) (string, error)
	// readDir returns the names in a directory, in any order.
	readDir(path string) ([]string, error)
	loadModule(path string) error
	writeFile(path, text string) error
	createFile(path, text string) error
	setHostname(name string) error
	setLimit(resource int, soft, hard uint64) error
	consoleLevel(level int) error
	loopbackUp() error
	// setClock sets the wall clock to nanoseconds since 1970.
	setClock(unixNS int64) error
	// reseed mixes the bytes into the kernel's random number generator and makes
	// everything it gives from now on depend on them.
	reseed(seed []byte) error
	// linger opens what will be needed again, so that it need not be opened then:
	// to be called before the machine is frozen, with what mounts returned after
	// the boot.
	linger(bootMounts string)
	// sameMounts says that the mounts are surely those after the boot.
	sameMounts() bool
	// openFiles opens the disk of wire.FilesDisk for readFiles, if the machine has
	// one, past the page cache: what the kernel has read of it belongs to the
	// machine that is frozen. It is called once.
	openFiles() error
	// readFiles reads from it. Offset and length are multiples of filesBlock, and b
	// begins at a page.
	readFiles(b []byte, at int64) (int, error)
	// kernelLog writes one line or several to the kernel's log.
	kernelLog(text string)
	// openKmsg opens the kernel log for readKmsg, at its end, and what tainted
	// reads: before any program runs that could hide them.
	openKmsg() error
	// readKmsg reads the next record, as read(2) of /dev/kmsg does without waiting.
	readKmsg(buf []byte) (int, error)
	// tainted returns the number in /proc/sys/kernel/tainted.
	tainted() (string, error)
	// killAll kills every other process.
	killAll() error
	sync()
	// powerOff does not return in a real system.
	powerOff()
}

// linux is the real one. What is open belongs to linger; the zero value has
// nothing open.
type linux struct {
	kmsg, random, mountinfo, taint file
	records                        file // openKmsg's
	files                          file // openFiles'
}

// file is a descriptor that stays open, if it is above 0.
type file int

// open returns the descriptor, or a new one, and what to do with it in the end.
func (f file) open(path string, flags int) (fd int, done func(), err error) {
	if f > 0 {
		return int(f), func() {}, nil
	}
	fd, err = unix.Open(path, flags|unix.O_CLOEXEC, 0)
	return fd, func() { _ = unix.Close(fd) }, err
}

// linger keeps open what every fork uses once. Under TCG it is not the files'
// opening that takes time but the translation of the kernel's code for it, which
// each fork begins anew.
func (l *linux) linger(bootMounts string) {
	keep := func(f *file, path string, flags int) {
		if *f > 0 {
			return
		}
		if fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0); err == nil {
			*f = file(fd)
		}
	}
	keep(&l.kmsg, devKmsg, unix.O_WRONLY)
	keep(&l.random, devRandom, unix.O_WRONLY)
	// Opened before it is read, so that no change is missed.
	keep(&l.mountinfo, mountinfo, unix.O_RDONLY)
	if now, err := l.mounts(); err != nil || now != bootMounts {
		if l.mountinfo > 0 {
			_ = unix.Close(int(l.mountinfo))
		}
		l.mountinfo = 0
	}
}

// sameMounts asks by poll(2), which tells of changes since the file was opened or
// asked about (proc_pid_mounts(5)): the text is long, and each line has several
// parts.
func (l *linux) sameMounts() bool {
	if l.mountinfo <= 0 {
		return false
	}
	p := []unix.PollFd{{Fd: int32(l.mountinfo), Events: unix.POLLPRI}}
	n, err := unix.Poll(p, 0)
	if n == 0 && err == nil {
		return true
	}
	// It says so once.
	_ = unix.Close(int(l.mountinfo))
	l.mountinfo = 0
	return false
}

// Files that linger keeps open.
const (
	devKmsg   = "/dev/kmsg"
	devRandom = "/dev/random"
	mountinfo = "/proc/self/mountinfo"
	tainted   = "/proc/sys/kernel/tainted"
)

func (l *linux) openKmsg() error {
	fd, err := unix.Open(devKmsg, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	l.records = file(fd)
	if fd, err = unix.Open(tainted, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	l.taint = file(fd)
	return nil
}

func (l *linux) readKmsg(buf []byte) (int, error) {
	if l.records <= 0 {
		return 0, unix.EBADF
	}
	return unix.Read(int(l.records), buf)
}

func (l *linux) tainted() (string, error) {
	if l.taint <= 0 {
		return "", unix.EBADF
	}
	var buf [32]byte
	n, err := unix.Pread(int(l.taint), buf[:], 0)
	if err != nil || n < 1 {
		return "", errors.Join(errors.New("the read failed"), err)
	}
	return string(buf[:n-1]), nil // but for the newline
}

func (l *linux) openFiles() error {
	const dir = "/sys/block"
	names, err := l.readDir(dir)
	if errors.Is(err, unix.ENOENT) { // CONFIG_BLOCK=n
		return nil
	}
	if err != nil {
		return err
	}
	for _, n := range names {
		// Devices without a serial have no such file.
		if serial, err := l.readFile(dir + "/" + n + "/serial"); err != nil || strings.TrimSpace(serial) != wire.FilesDisk {
			continue
		}
		fd, err := unix.Open("/dev/"+n, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		l.files = file(fd)
		return nil
	}
	return nil
}

func (l *linux) readFiles(b []byte, at int64) (int, error) {
	if l.files <= 0 {
		return 0, fmt.Errorf("the machine has no disk with the serial %s", wire.FilesDisk)
	}
	return unix.Pread(int(l.files), b, at)
}

func (*linux) mkdir(dir string) error { return os.MkdirAll(dir, 0o755) }

func (*linux) mount(m mount) error {
	return unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
}

func (*linux) unmount(target string, flags int) error { return unix.Unmount(target, flags) }

func (l *linux) mounts() (string, error) { return l.readFile(mountinfo) }

// readFile is os.ReadFile without its machinery: on the way to Ready every
// function that is called for the first time costs, and the poller most of all.
func (*linux) readFile(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd) //nolint:errcheck // opened for reading
	var text []byte
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return "", err
		case n == 0:
			return string(text), nil
		default:
			text = append(text, buf[:n]...)
		}
	}
}

func (*linux) readDir(path string) ([]string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd) //nolint:errcheck // opened for reading
	var names []string
	buf := make([]byte, 8<<10)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

func (*linux) setLimit(resource int, soft, hard uint64) error {
	// Of package syscall: it then knows that RLIMIT_NOFILE is not what it
	// found at the start, and leaves it to children as it is now.
	return syscall.Setrlimit(resource, &syscall.Rlimit{Cur: soft, Max: hard})
}

func (*linux) loadModule(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // opened for reading
	return unix.FinitModule(fd, "", 0)
}

func (*linux) writeFile(path, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte(text))
	return errors.Join(err, unix.Close(fd))
}

// createFile is os.WriteFile without its machinery, see readFile.
func (*linux) createFile(path, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	_, err = (&port{fd: fd}).Write([]byte(text))
	return errors.Join(err, unix.Close(fd))
}

func (*linux) setHostname(name string) error { return unix.Sethostname([]byte(name)) }

func (*linux) consoleLevel(level int) error {
	// syslog(2): SYSLOG_ACTION_CONSOLE_LEVEL takes the level as its length.
	_, _, errno := unix.Syscall(unix.SYS_SYSLOG, unix.SYSLOG_ACTION_CONSOLE_LEVEL, 0, uintptr(level))
	if errno != 0 {
		return errno
	}
	return nil
}

func (*linux) loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	// inetdev_event (net/ipv4/devinet.c) gives it 127.0.0.1/8.
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

func (*linux) setClock(unixNS int64) error {
	ts := unix.NsecToTimespec(unixNS)
	return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}

func (l *linux) reseed(seed []byte) error {
	fd, done, err := l.random.open(devRandom, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer done()
	// struct rand_pool_info of linux/random.h; see random(4).
	info := make([]byte, 8+len(seed))
	binary.NativeEndian.PutUint32(info, uint32(8*len(seed)))
	binary.NativeEndian.PutUint32(info[4:], uint32(len(seed)))
	copy(info[8:], seed)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), rndAddEntropy, uintptr(unsafe.Pointer(&info[0]))); errno != 0 {
		return fmt.Errorf("RNDADDENTROPY: %w", errno)
	}
	// Every processor's state and what is kept ready for the vDSO is of the old
	// generation then, and dropped (drivers/char/random.c: crng_reseed).
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), rndReseedCRNG, 0); errno != 0 {
		return fmt.Errorf("RNDRESEEDCRNG: %w", errno)
	}
	return nil
}

// Of linux/random.h: _IOW('R', 0x03, int[2]) and _IO('R', 0x07).
const (
	rndAddEntropy = 0x40085203
	rndReseedCRNG = 0x5207
)

// maxKmsg is the longest line that /dev/kmsg takes, less its prefix
// (kernel/printk/printk.c: PRINTKRB_RECORD_MAX is 1024).
const maxKmsg = 960

func (l *linux) kernelLog(text string) {
	fd, done, err := l.kmsg.open(devKmsg, unix.O_WRONLY)
	if err != nil {
		// A kernel without printk: the console is what is left.
		fmt.Fprintln(os.Stderr, text)
		return
	}
	defer done()
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if len(line) > maxKmsg {
			line = line[:maxKmsg] + "..."
		}
		// Level 0 (emergency) reaches the console whatever level a test has set.
		// The newline ends the record: without it printk keeps the record open
		// for a continuation, and no console prints it before the next one
		// (kernel/printk/printk.c: vprintk_store).
		if _, err := unix.Write(fd, []byte("<0>"+line+"\n")); err != nil {
			fmt.Fprintln(os.Stderr, line)
		}
	}
}

func (*linux) killAll() error {
	err := unix.Kill(-1, unix.SIGKILL)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func (*linux) sync() { unix.Sync() }

func (*linux) powerOff() {
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	// A kernel that cannot power off halts instead and does not come back
	// either; this is for one that refuses.
	fmt.Fprintln(os.Stderr, "kvmrun: power off:", err)
	for {
		time.Sleep(time.Hour)
	}
}
