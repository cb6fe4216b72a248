// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// reaper waits for all children, as PID 1 must, and hands the exit status of
// those it started to whoever asked.
type reaper struct {
	mu      sync.Mutex
	waiting map[int]chan unix.WaitStatus // by PID, removed when reaped
	idle    chan struct{}                // closed while there are no children
	isIdle  bool
	wake    chan struct{} // says that a child was started
	stop    chan struct{} // closed to end run when there are no children
	ended   chan struct{} // closed when run has ended
}

func newReaper() *reaper {
	r := &reaper{
		waiting: map[int]chan unix.WaitStatus{},
		idle:    make(chan struct{}),
		isIdle:  true,
		wake:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
		ended:   make(chan struct{}),
	}
	close(r.idle)
	return r
}

// run reaps until stopped. It is the only place that waits for children.
func (r *reaper) run() {
	defer close(r.ended)
	for {
		// WNOWAIT: look only, so that the status can be taken under the lock
		// that start holds until it knows the PID.
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if !r.collect() {
			select {
			case <-r.wake:
			case <-r.stop:
				return
			}
		}
	}
}

// collect takes the status of all dead children. It returns false when there
// are no children at all.
func (r *reaper) collect() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil: // ECHILD
			if !r.isIdle {
				r.isIdle = true
				close(r.idle)
			}
			return false
		case pid == 0:
			return true
		}
		if c := r.waiting[pid]; c != nil {
			delete(r.waiting, pid)
			c <- ws
		}
	}
}

// start runs fork, which starts a process, and returns the channel that will
// get its exit status.
func (r *reaper) start(fork func() (int, error)) (int, <-chan unix.WaitStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := fork()
	if err != nil {
		return 0, nil, err
	}
	c := make(chan unix.WaitStatus, 1)
	r.waiting[pid] = c
	if r.isIdle {
		r.isIdle = false
		r.idle = make(chan struct{})
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return pid, c, nil
}

// signal sends a signal to the process group of a program that was started and
// has not been reaped, so that its number cannot be somebody else's.
func (r *reaper) signal(pid int, s unix.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting[pid] != nil {
		// It may be dying, and the number may be no signal: neither matters.
		_ = unix.Kill(-pid, s)
	}
}

// waitIdle waits until there are no children. It returns false when some are
// left after the time.
func (r *reaper) waitIdle(limit time.Duration) bool {
	r.mu.Lock()
	idle := r.idle
	r.mu.Unlock()
	select {
	case <-idle:
		return true // without a timer
	default:
	}
	select {
	case <-idle:
		return true
	case <-time.After(limit):
		return false
	}
}
