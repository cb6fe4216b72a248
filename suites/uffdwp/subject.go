// SPDX-License-Identifier: Apache-2.0

package uffdwp

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// Operations of a subject's thread. Addresses are the subject's.
const (
	opSyscall = iota + 1 // A0 number, A1..A6 arguments -> R, Errno
	opLoad               // A0 address -> R value
	opStore              // A0 address, A1 value
	opFill               // A0 address, A1 stride, A2 count, A3 first value: one store of A3+i each
	opVerify             // A0 address, A1 stride, A2 count, A3 first value -> R index of the first mismatch, or count
	opAdd                // A0 address, A1 stride, A2 count, A3 rounds: atomic increments
	opFork               // A0 socket of the child's loop -> R pid
)

// command and answer are what travels over a thread's socket, one per packet,
// in the machine's byte order.
type command struct {
	Op uint64
	A  [7]uint64
}

type answer struct {
	R     uint64
	Errno uint64
}

// firstSocket is the descriptor of thread 0's socket: 0 to 2 are the standard
// ones, 3 belongs to kit.
const firstSocket = 4

// subjectIn is the input of the helper "subject".
type subjectIn struct {
	Threads int // threads started at once, on the first sockets
}

// runSubject is the helper "subject": it serves its sockets until the test
// closes one of them.
func runSubject(in json.RawMessage) (any, error) {
	var a subjectIn
	if err := json.Unmarshal(in, &a); err != nil {
		return nil, fmt.Errorf("decode the subject's input: %w", err)
	}
	for i := 1; i < a.Threads; i++ {
		go func() {
			runtime.LockOSThread()
			blockSignals()
			serve(uintptr(firstSocket + i))
		}()
	}
	blockSignals()
	serve(firstSocket)
	os.Exit(0)
	return nil, nil
}

// blockSignals blocks every signal in the calling thread. A fault in it then
// ends the process with the default action of SIGSEGV or SIGBUS (force_sig in
// kernel/signal.c resets a blocked handler), which is what the tests observe.
func blockSignals() {
	all := ^uint64(0)
	// SIG_BLOCK is 0, the kernel's sigset_t has 8 bytes.
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, 0, uintptr(unsafe.Pointer(&all)), 0, 8, 0, 0)
}

// at turns an address of this process, which the test chose, into a pointer.
//
//go:nosplit
func at(addr uint64) *uint64 {
	p := uintptr(addr)
	return *(**uint64)(unsafe.Pointer(&p))
}

// serve executes the commands that arrive on the socket. It does not return:
// when the socket is closed the process ends. Everything here runs without the
// runtime, because after opFork the child has this one thread only, and a
// stack check or an allocation would wait for threads that do not exist.
//
//go:nosplit
//go:norace
func serve(sock uintptr) {
	var c command
	var r answer
	for {
		n, _, e := syscall.RawSyscall(syscall.SYS_READ, sock, uintptr(unsafe.Pointer(&c)), unsafe.Sizeof(c))
		if e == syscall.EINTR {
			continue
		}
		if n != unsafe.Sizeof(c) {
			_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
		}
		r.R, r.Errno = 0, 0
		switch c.Op {
		case opSyscall:
			r1, _, e := syscall.RawSyscall6(uintptr(c.A[0]), uintptr(c.A[1]), uintptr(c.A[2]), uintptr(c.A[3]),
				uintptr(c.A[4]), uintptr(c.A[5]), uintptr(c.A[6]))
			r.R, r.Errno = uint64(r1), uint64(e)
		case opLoad:
			r.R = atomic.LoadUint64(at(c.A[0]))
		case opStore:
			atomic.StoreUint64(at(c.A[0]), c.A[1])
		case opFill:
			for i := uint64(0); i < c.A[2]; i++ {
				atomic.StoreUint64(at(c.A[0]+i*c.A[1]), c.A[3]+i)
			}
		case opVerify:
			for r.R < c.A[2] && atomic.LoadUint64(at(c.A[0]+r.R*c.A[1])) == c.A[3]+r.R {
				r.R++
			}
		case opAdd:
			for k := uint64(0); k < c.A[3]; k++ {
				for i := uint64(0); i < c.A[2]; i++ {
					atomic.AddUint64(at(c.A[0]+i*c.A[1]), 1)
				}
			}
		case opFork:
			// Without CLONE_VM the child goes on here on its own copy of
			// this stack.
			r1, _, e := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
			if e == 0 && r1 == 0 {
				// PR_SET_PDEATHSIG is 1: the child goes with the subject.
				_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, 1, uintptr(syscall.SIGKILL), 0)
				sock = uintptr(c.A[0])
				continue
			}
			r.R, r.Errno = uint64(r1), uint64(e)
		default:
			r.Errno = uint64(syscall.ENOSYS)
		}
		_, _, _ = syscall.RawSyscall(syscall.SYS_WRITE, sock, uintptr(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	}
}
