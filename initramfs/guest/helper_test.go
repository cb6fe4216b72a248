// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/internal/wire"
)

// helperEnv names what the test binary, started by the agent, is to do.
const helperEnv = "KVMRUN_GUEST_HELPER"

// self is the test binary's path on the host and in the guest.
const self = "/proc/self/exe"

// forever never returns. Not select {}, which the runtime takes for a deadlock
// where nothing else is left to run, and ends the process.
func forever() {
	for {
		time.Sleep(time.Hour)
	}
}

// helper is a program for the agent to run.
func helper(name string, args []string) int {
	n := 0
	if len(args) > 0 {
		n, _ = strconv.Atoi(args[0])
	}
	switch name {
	case "exit":
		return n
	case "stop": // itself, then says what it was let go with
		fmt.Println("begin")
		_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
		text, err := os.ReadFile(wire.ReleaseFile)
		fmt.Printf("%s %v\n", text, err)
	case "print": // to stdout and stderr, in turns
		for i, a := range args {
			fmt.Fprintln([]*os.File{os.Stdout, os.Stderr}[i%2], a)
		}
	case "cat":
		if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
			return 1
		}
	case "info":
		wd, _ := os.Getwd()
		fds, _ := os.ReadDir("/proc/self/fd")
		var open []string
		for _, f := range fds {
			if to, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil {
				open = append(open, f.Name()+"="+strings.SplitN(to, ":", 2)[0])
			}
		}
		sid, _ := unix.Getsid(0)
		var mask unix.Sigset_t
		_ = unix.PthreadSigmask(unix.SIG_BLOCK, nil, &mask)
		fmt.Printf("wd=%s\nPATH=%s\nHOME=%s\nX=%s\nleader=%v\nfds=%s\nmask=%x\n", wd, os.Getenv("PATH"), os.Getenv("HOME"),
			os.Getenv("X"), sid == os.Getpid() && unix.Getpgrp() == os.Getpid(), strings.Join(open, " "), mask.Val[0])
	case "kill": // itself
		_ = unix.Kill(os.Getpid(), unix.Signal(n))
		forever()
	case "flood": // n bytes on stdout, n on stderr
		both := make(chan error)
		for _, f := range []*os.File{os.Stdout, os.Stderr} {
			go func() {
				buf := bytes.Repeat([]byte("0123456\n"), 8<<10)
				for left := n; left > 0; left -= len(buf) {
					if _, err := f.Write(buf[:min(left, len(buf))]); err != nil {
						both <- err
						return
					}
				}
				both <- nil
			}()
		}
		if errors.Join(<-both, <-both) != nil {
			return 1
		}
	case "pause": // says something and waits for a signal, n times
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGUSR1)
		for i := range n {
			fmt.Printf("before %d\n", i)
			fmt.Fprintf(os.Stderr, "error %d\n", i)
			<-c
		}
	case "block": // until killed, saying when it is ready
		fmt.Println("ready")
		forever()
	case "term": // waits for SIGTERM
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("ready")
		<-c
		fmt.Println("terminated")
		return 7
	case "winch": // waits until the terminal has n rows
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGWINCH)
		fmt.Println("ready")
		for {
			ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
			if err != nil {
				fmt.Println(err)
				return 1
			}
			if int(ws.Row) == n {
				fmt.Printf("rows=%d cols=%d\n", ws.Row, ws.Col)
				return 0
			}
			<-c
		}
	case "linger": // in a mount namespace of its own, says whether linger's file tells of changes
		l := &linux{}
		boot, err := l.mounts()
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("before:", l.sameMounts())
		l.linger(boot)
		fmt.Println("lingering:", l.sameMounts(), l.sameMounts())
		if err := unix.Mount("none", args[0], "tmpfs", 0, ""); err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("mounted:", l.sameMounts(), l.sameMounts())
		l.linger(boot)
		fmt.Println("not as after the boot:", l.sameMounts())
	case "tty":
		for fd := range 3 {
			_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
			fmt.Printf("tty%d=%v\n", fd, err == nil)
		}
		f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
		fmt.Println("controlling:", err == nil)
		_ = f.Close()
	case "spawn": // n processes "args[1] args[2:]" in sessions of their own, holding our stdout; exits at once
		for range n {
			cmd := exec.Command(self, args[2:]...)
			cmd.Env = append(os.Environ(), helperEnv+"="+args[1])
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := cmd.Start(); err != nil {
				fmt.Println(err)
				return 1
			}
		}
		fmt.Println("parent ends")
	case "sleep": // n milliseconds
		time.Sleep(time.Duration(n) * time.Millisecond)
	case "forever": // writes to stdout until that fails
		buf := bytes.Repeat([]byte("x"), 4096)
		for {
			if _, err := os.Stdout.Write(buf); err != nil {
				forever() // stays, for the agent to kill
			}
		}
	case "write": // path, mode in octal, content
		mode, _ := strconv.ParseUint(args[1], 8, 32)
		if err := os.WriteFile(args[0], []byte(args[2]), os.FileMode(mode)); err != nil {
			fmt.Println(err)
			return 1
		}
	case "fill": // path, size
		size, _ := strconv.Atoi(args[1])
		if err := os.WriteFile(args[0], bytes.Repeat([]byte("y"), size), 0o644); err != nil {
			fmt.Println(err)
			return 1
		}
	case "mkfifo":
		if err := unix.Mkfifo(args[0], 0o644); err != nil {
			fmt.Println(err)
			return 1
		}
	case "mount": // tmpfs on each of args, with an open file in the first
		for i, d := range args {
			if err := os.MkdirAll(d, 0o755); err != nil {
				fmt.Println(err)
				return 1
			}
			if err := unix.Mount("none", d, "tmpfs", 0, ""); err != nil {
				fmt.Println(err)
				return 1
			}
			if i == 0 {
				cmd := exec.Command(self)
				cmd.Env = append(os.Environ(), helperEnv+"=block")
				cmd.Dir = d
				if err := cmd.Start(); err != nil {
					fmt.Println(err)
					return 1
				}
			}
		}
	case "kmsg": // fake messages in the kernel log
		f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		for _, a := range args {
			fmt.Fprintf(f, "%s", a)
		}
	case "show":
		b, err := os.ReadFile(args[0])
		if err != nil {
			fmt.Println(err)
			return 1
		}
		_, _ = os.Stdout.Write(b)
	case "system": // as system(3) of glibc 2.41: execl("/bin/sh", "sh", "-c", "--", command, NULL)
		cmd := exec.Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", "--", args[0]}, Stdout: os.Stdout, Stderr: os.Stderr}
		if err := cmd.Run(); err != nil {
			fmt.Println(err)
			return 1
		}
	case "mounts":
		b, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			fmt.Println(err)
			return 1
		}
		_, _ = os.Stdout.Write(b)
	case "machine": // what the agent has set up
		host, _ := os.Hostname()
		var lim unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &lim)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			_, err = net.Dial("tcp", l.Addr().String())
		}
		devkmsg, _ := os.ReadFile("/proc/sys/kernel/printk_devkmsg")
		printk, _ := os.ReadFile("/proc/sys/kernel/printk")
		_, shm := os.Stat("/dev/shm")
		fmt.Printf("host=%s\nfiles=%d\nlo=%v\ndevkmsg=%slevel=%.1s\nshm=%v\n", host, lim.Max, err, devkmsg, printk, shm)
	case "quiet": // the console
		if err := os.WriteFile("/proc/sys/kernel/printk", []byte("1"), 0); err != nil {
			fmt.Println(err)
			return 1
		}
	case "ports": // tries to get at the agent's ports
		list, _ := os.ReadDir("/dev")
		for _, e := range list {
			if strings.HasPrefix(e.Name(), "vport") {
				_, err := unix.Open("/dev/"+e.Name(), unix.O_RDWR|unix.O_NONBLOCK, 0)
				fmt.Println(e.Name(), err)
			}
		}
	case "killinit":
		for s := unix.Signal(1); s <= 64; s++ {
			if err := unix.Kill(1, s); err != nil {
				fmt.Println(s, err)
			}
		}
	default:
		fmt.Println("unknown helper", name)
		return 99
	}
	return 0
}
