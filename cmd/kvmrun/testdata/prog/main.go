// SPDX-License-Identifier: Apache-2.0

// Command prog is what the tests run in the guest where a shell will not do.
package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	switch os.Args[1] {
	case "flood": // BYTES: writes that many, and their hash to stderr
		n, err := strconv.ParseInt(os.Args[2], 10, 64)
		check(err)
		h := sha256.New()
		_, err = io.CopyN(io.MultiWriter(os.Stdout, h), rand.NewChaCha8([32]byte{}), n)
		check(err)
		fmt.Fprintf(os.Stderr, "%x\n", h.Sum(nil))
	case "sum": // reads to the end, prints length and hash
		h := sha256.New()
		n, err := io.Copy(h, os.Stdin)
		check(err)
		fmt.Printf("%d %x\n", n, h.Sum(nil))
	case "turns": // N: lines on stdout and stderr in turn
		n, err := strconv.Atoi(os.Args[2])
		check(err)
		for i := range n {
			fmt.Fprintf(os.Stdout, "out %d\n", i)
			fmt.Fprintf(os.Stderr, "err %d\n", i)
		}
	case "bytes": // every byte there is
		b := make([]byte, 256)
		for i := range b {
			b[i] = byte(i)
		}
		_, err := os.Stdout.Write(b)
		check(err)
	case "signals": // says which come; the second one ends it with status 42
		c := make(chan os.Signal, 8)
		signal.Notify(c)
		fmt.Println("ready")
		for i := 0; i < 2; {
			if s := <-c; s != syscall.SIGURG { // of Go's own scheduler
				fmt.Println("got", s)
				i++
			}
		}
		os.Exit(42)
	case "wait": // until it is killed
		fmt.Println("ready")
		time.Sleep(time.Hour)
	case "lines": // answers each line of stdin at once
		r := bufio.NewReader(os.Stdin)
		for {
			l, err := r.ReadString('\n')
			if err != nil {
				fmt.Println("end of input")
				return
			}
			fmt.Print("line: ", l)
		}
	case "winsize": // prints the terminal's size, also when it changes
		c := make(chan os.Signal, 8)
		signal.Notify(c, syscall.SIGWINCH)
		for {
			var w struct{ rows, cols, x, y uint16 }
			_, _, e := syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&w)))
			if e != 0 {
				check(e)
			}
			fmt.Printf("size %dx%d\n", w.cols, w.rows)
			<-c
		}
	default:
		check(fmt.Errorf("what is %q?", os.Args[1]))
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "prog:", err)
		os.Exit(99)
	}
}
