// SPDX-License-Identifier: Apache-2.0

// Command guest is the init of the machines that vmtest's own tests boot. It
// does what the kernel parameter vmtest.do says.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// forever never returns. Not select {}, which the runtime takes for a deadlock
// where nothing else is left to run: init would die, and the kernel panic.
func forever() {
	for {
		time.Sleep(time.Hour)
	}
}

func main() {
	must(os.MkdirAll("/proc", 0o755))
	must(os.MkdirAll("/sys", 0o755))
	must(os.MkdirAll("/dev", 0o755))
	must(syscall.Mount("proc", "/proc", "proc", 0, ""))
	must(syscall.Mount("sysfs", "/sys", "sysfs", 0, ""))
	must(syscall.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""))
	modules()
	switch do := param("vmtest.do"); do {
	case "poweroff":
		off(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	case "reboot":
		off(syscall.LINUX_REBOOT_CMD_RESTART)
	case "sysrq-c":
		must(os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0))
	case "exit":
		os.Exit(7) // "Attempted to kill init!"
	case "hang":
		say("hanging\n")
		forever()
	case "flood":
		// Megabytes of everything a parser could stumble on, then an end the
		// host can check.
		line := bytes.Repeat([]byte{0, 0xff, 'x', '\r', 0x1b, '{', '"'}, 10000)
		for range 20 {
			say(string(line))
		}
		say("flood ends here\n")
		off(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	case "echo":
		// What comes in on one port goes out on it, until a NUL that is the
		// last byte.
		fd := port(param("vmtest.port"))
		buf := make([]byte, 4096)
		for {
			n, err := syscall.Read(fd, buf)
			if err == syscall.EINTR {
				continue
			}
			must(err)
			if n == 0 {
				time.Sleep(time.Millisecond) // not connected yet
				continue
			}
			end := bytes.IndexByte(buf[:n], 0)
			if end >= 0 {
				n = end
			}
			writeAll(fd, buf[:n])
			if end >= 0 {
				await(fd)
				off(syscall.LINUX_REBOOT_CMD_POWER_OFF)
			}
		}
	case "hello":
		// The first sign on a port, for the benchmark.
		fd := port(param("vmtest.port"))
		writeAll(fd, []byte("hello\n"))
		await(fd)
		off(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	case "bulk":
		fd := port(param("vmtest.port"))
		block := bytes.Repeat([]byte("0123456789abcdef"), 4096)
		for range 64 {
			writeAll(fd, block)
		}
		await(fd)
		off(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	case "dmesg":
		// The kernel's own record, for comparison with the console.
		fd := port(param("vmtest.port"))
		const readAll, size = 3, 1 << 20 // SYSLOG_ACTION_READ_ALL in syslog(2)
		buf := make([]byte, size)
		n, err := syscall.Klogctl(readAll, buf)
		must(err)
		writeAll(fd, append(buf[:n], 0))
		await(fd)
		off(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	case "disks":
		disks()
		off(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	case "sysrq-o":
		must(os.WriteFile("/proc/sysrq-trigger", []byte("o"), 0))
		forever()
	default:
		say(fmt.Sprintf("unknown vmtest.do=%q\n", do))
		off(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	}
}

// modules loads /modules/* in the order of their names.
func modules() {
	files, err := filepath.Glob("/modules/*")
	must(err)
	for _, path := range files {
		b, err := os.ReadFile(path)
		must(err)
		none := []byte{0}
		_, _, errno := syscall.Syscall(syscall.SYS_INIT_MODULE,
			uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(unsafe.Pointer(&none[0])))
		if errno != 0 {
			must(fmt.Errorf("load %s: %w", path, errno))
		}
	}
}

// disks tells the serial, mode and first bytes of each virtio disk, and writes
// to its second sector.
func disks() {
	dirs, err := filepath.Glob("/sys/block/vd*")
	must(err)
	for _, d := range dirs {
		serial, _ := os.ReadFile(d + "/serial")
		ro, _ := os.ReadFile(d + "/ro")
		f, err := os.OpenFile("/dev/"+filepath.Base(d), os.O_RDWR, 0)
		if err != nil {
			f, err = os.Open("/dev/" + filepath.Base(d))
		}
		must(err)
		sector := make([]byte, 512)
		_, err = f.ReadAt(sector, 0)
		must(err)
		text, _, _ := bytes.Cut(sector, []byte{0})
		say(fmt.Sprintf("disk serial=%s ro=%s text=%s\n", bytes.TrimSpace(serial), bytes.TrimSpace(ro), text))
		if _, err := f.WriteAt([]byte("written by the guest"), 512); err != nil {
			say("write: " + err.Error() + "\n")
		}
		_ = f.Sync()
		must(f.Close())
	}
}

// say writes to the console, init's standard output.
func say(s string) { writeAll(1, []byte(s)) }

// writeAll writes without Go's poller: a virtio port's wake-up can be lost.
func writeAll(fd int, b []byte) {
	for len(b) > 0 {
		n, err := syscall.Write(fd, b)
		if err == syscall.EINTR || err == syscall.EAGAIN {
			continue
		}
		must(err)
		b = b[n:]
	}
}

// await waits for a byte from the host. Without that, what is written to the
// port but not yet taken by the host would be lost when the machine ends.
func await(fd int) {
	for {
		n, err := syscall.Read(fd, make([]byte, 1))
		if n == 1 {
			return
		}
		if err != syscall.EINTR {
			must(err)
		}
	}
}

// port opens the virtio port of that name.
func port(name string) int {
	for {
		dirs, err := filepath.Glob("/sys/class/virtio-ports/*")
		must(err)
		for _, d := range dirs {
			b, err := os.ReadFile(d + "/name")
			if err == nil && strings.TrimSpace(string(b)) == name {
				fd, err := syscall.Open("/dev/"+filepath.Base(d), syscall.O_RDWR, 0)
				must(err)
				return fd
			}
		}
		time.Sleep(time.Millisecond)
	}
}

func param(key string) string {
	b, err := os.ReadFile("/proc/cmdline")
	must(err)
	for _, f := range strings.Fields(string(b)) {
		if v, ok := strings.CutPrefix(f, key+"="); ok {
			return v
		}
	}
	return ""
}

func off(how int) {
	syscall.Sync()
	must(syscall.Reboot(how))
}

func must(err error) {
	if err != nil {
		say("guest: " + err.Error() + "\n")
		_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
		os.Exit(1)
	}
}
