// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// process is a child that dies with this process and gets no signals from the
// terminal.
type process struct {
	cmd    *exec.Cmd
	output bounded       // standard output and error; complete after done
	done   chan struct{} // closed when the child is reaped
	err    error         // why it could not be reaped; valid after done
}

// startProcess starts cmd, whose output and SysProcAttr it sets, as who.
func startProcess(cmd *exec.Cmd, who confinement) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	cmd.Stdout = &p.output
	cmd.Stderr = &p.output
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// Ctrl-C in the terminal goes to our process group only.
		Setpgid: true,
		// Covers every end of this process that runs no code of ours.
		Pdeathsig:  syscall.SIGKILL,
		Credential: who.cred,
	}
	if who.cred != nil {
		cmd.Dir = "/" // ours may be closed to that user
	}
	started := make(chan error, 1)
	go func() {
		// The "parent" of PR_SET_PDEATHSIG is the thread that forked, see
		// prctl(2). Go ends idle threads' goroutines elsewhere but may end a
		// thread too (a goroutine that returns locked), so the child gets a
		// thread of its own that does nothing but wait for it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		if err := cmd.Wait(); cmd.ProcessState == nil {
			p.err = err
		}
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// kill ends the child at once. It may be called at any time.
func (p *process) kill() { _ = p.cmd.Process.Signal(os.Kill) }

// status is that of the child; valid after done.
func (p *process) status() (syscall.WaitStatus, error) {
	if p.cmd.ProcessState == nil {
		return 0, p.err
	}
	ws, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ws, nil
}
