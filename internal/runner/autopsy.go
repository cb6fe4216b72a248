// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kvmrun/kvmrun/internal/agent"
	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/output"
	"github.com/kvmrun/kvmrun/internal/visible"
)

// Time limits of an autopsy, for KVM; TCG scales them.
const (
	// quietTime is how long the kernel log must stand still before the next
	// question is asked.
	quietTime = 300 * time.Millisecond
	// answerLimit bounds the wait for the answer to one question.
	answerLimit = 4 * time.Second
	// maxAutopsy bounds a section of the file that comes from QEMU, in bytes.
	maxAutopsy = 1 << 20
)

// autopsy asks a guest that ran out of time where it hangs, before it is
// killed: the program for its goroutines' stacks, the kernel for the stacks of
// its CPUs, of blocked tasks, of all tasks and for held locks, QEMU for the
// registers. All goes into autopsy.txt, under the reason why; the essence, to be
// added to that reason, is returned.
func (s *session) autopsy(why string, talk *agent.Session) (essence string) {
	s.vm.Dump() // before anybody has touched it
	s.con.BeginAutopsy()
	ctx, cancel := context.WithTimeout(context.Background(), s.scale(5*answerLimit))
	defer cancel()
	// The kernel first: a Go program that answers SIGQUIT is gone afterwards.
	// l: stacks of the active CPUs, w: blocked tasks, d: held locks (with
	// lockdep), t: all tasks.
	before := s.vm.ConsoleBytes()
	talk.SysRq("lwdt")
	s.quiet(ctx)
	alive := s.vm.ConsoleBytes() > before
	sections := []struct{ title, text string }{
		{"registers (info registers -a)", s.hmp(ctx, "info registers -a")},
		{"CPUs (info cpus)", s.hmp(ctx, "info cpus")},
		{"interrupts (info pic)", s.hmp(ctx, "info pic")},
	}
	if !alive {
		// Nobody in user space answers: an NMI reaches a CPU whatever it does.
		_ = s.vm.Monitor().Run(ctx, "inject-nmi", nil, nil)
		s.quiet(ctx)
	}
	// A Go program answers with its goroutines' stacks, and ends.
	talk.LastWords(ctx, int(syscall.SIGQUIT), s.scale(autopsyLimit))
	kernel, program := s.con.PostMortem(), talk.Tail()
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", why)
	for _, sec := range append(sections, []struct{ title, text string }{
		{"the kernel, asked by sysrq l, w, d and t", s.withPositions(kernel)},
		{"the program's last output", program},
	}...) {
		fmt.Fprintf(&b, "\n== %s\n%s\n", sec.title, sec.text)
	}
	file := filepath.Join(s.p.Dir, s.p.Beside("autopsy", ".txt"))
	if err := output.Save(file, []byte(b.String())); err != nil {
		s.out.Notes = append(s.out.Notes, fmt.Sprintf("write the autopsy: %v", err))
	} else {
		s.out.Notes = append(s.out.Notes, "stacks of all CPUs, tasks and goroutines: "+file)
	}
	if _, _, _, running := s.con.Progress(); len(running) > 0 {
		essence += ", in " + strings.Join(running, ", ")
		if at := testAt(program, running[len(running)-1]); at != "" {
			essence += " at " + at
		}
	}
	in := hungIn(kernel, talk.PID())
	if in == "" {
		in = s.cpusAt(ctx, false)
	}
	if in != "" {
		essence += "; kernel: " + in
	}
	if !alive {
		essence += "; user space in the guest did not answer"
	}
	return essence
}

// withPositions adds source positions to the stacks in a kernel log, where the
// kernel has debug information.
func (s *session) withPositions(log string) string {
	if log == "" {
		return log
	}
	sym := s.m.Symbolizer(context.Background(), s.p.Kernel)
	if sym == nil {
		return log
	}
	// What has no position stays as it is.
	text, _ := sym.Report(&oops.Report{Raw: []byte(log)})
	if len(text) == 0 {
		return log
	}
	return string(text)
}

// quiet waits until the kernel log has stood still for a while.
func (s *session) quiet(ctx context.Context) {
	limit := time.NewTimer(s.scale(answerLimit))
	defer limit.Stop()
	step := time.NewTicker(s.scale(quietTime))
	defer step.Stop()
	for last := int64(-1); ; {
		select {
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		case <-s.vm.Done():
			return
		case <-step.C:
			now := s.vm.ConsoleBytes()
			if now == last {
				return
			}
			last = now
		}
	}
}

// hmp runs a command of QEMU's human monitor.
func (s *session) hmp(ctx context.Context, command string) string {
	var out string
	err := s.vm.Monitor().Run(ctx, "human-monitor-command", map[string]string{"command-line": command}, &out)
	if err != nil {
		return fmt.Sprintf("(%v)", err)
	}
	return out[:min(len(out), maxAutopsy)]
}

// hungIn finds, in what sysrq l, w and t printed, the kernel function in which a
// task is blocked, or else which a CPU is busy with, or else in which the
// program with this PID waits; "" when nothing shows.
func hungIn(log string, pid int) string {
	// Compiled here: this runs once, if ever, and every test binary links it.
	var (
		taskLine  = regexp.MustCompile(`task:(\S+)\s+state:(\S)(?:.*\bpid:(\d+))?`)
		frameLine = regexp.MustCompile(`^(?:\[[^\]]*\]\s*)*\s*([A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+`)
		ripLine   = regexp.MustCompile(`RIP: 0010:([A-Za-z_][\w.]*)\+0x`)
		cpuLine   = regexp.MustCompile(`NMI backtrace for cpu (\d+)`)
		// The functions by which any task waits; the one below them says for
		// what.
		waiting = regexp.MustCompile(`^(__)?schedule|^io_schedule|^__switch_to|^context_switch|^preempt_schedule|^schedule_timeout|` +
			`^__wait_for_common|^wait_for_completion|^__mutex_lock|^mutex_lock|^__down_|^down_|^rwsem_|^__refrigerator|^do_nanosleep|^hrtimer_nanosleep`)
		// In these a CPU has nothing to do, or only talks to us.
		idle = regexp.MustCompile(`idle|^pv_native_safe_halt|^native_safe_halt|^io_serial_|^serial8250|^nmi_|^sysrq|^delay_|^__delay`)
	)
	var task, cpu, busy, busyCPU, waits string
	blocked, own := false, false
	for _, l := range strings.Split(log, "\n") {
		if m := taskLine.FindStringSubmatch(l); m != nil {
			task, blocked, own = m[1], m[2] == "D", m[3] == strconv.Itoa(pid)
			continue
		}
		if m := cpuLine.FindStringSubmatch(l); m != nil {
			cpu, task, blocked, own = m[1], "", false, false
			continue
		}
		// A CPU that was handling an interrupt shows further down what that had
		// interrupted, which is what it is busy with.
		if m := ripLine.FindStringSubmatch(l); m != nil && cpu != "" && (busy == "" || busyCPU == cpu) {
			if busy, busyCPU = "", cpu; !idle.MatchString(m[1]) {
				busy = fmt.Sprintf("CPU %s in %s", cpu, m[1])
			}
		}
		m := frameLine.FindStringSubmatch(strings.TrimRight(l, "\r"))
		switch {
		case m == nil || waiting.MatchString(m[1]):
		case blocked:
			return fmt.Sprintf("task %s blocked in %s", visible.Short(task), m[1])
		case own && waits == "":
			waits = fmt.Sprintf("task %s waits in %s", visible.Short(task), m[1])
		}
	}
	if busy != "" {
		return busy
	}
	return waits
}

// testAt finds, in goroutine stacks, the line in which a test function stands.
func testAt(output, test string) string {
	lines := strings.Split(output, "\n")
	call := regexp.MustCompile(`\.` + regexp.QuoteMeta(test) + `(\.func[\d.]+)?\(`)
	for i, l := range lines {
		if call.MatchString(l) && i+1 < len(lines) {
			at := strings.TrimSpace(lines[i+1])
			at, _, _ = strings.Cut(at, " +0x")
			return visible.Short(filepath.Base(at))
		}
	}
	return ""
}
