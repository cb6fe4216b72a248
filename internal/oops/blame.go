package oops

import (
	"slices"
	"strings"
)

// lost is the name of the function blamed when the stack is not there.
const lost = "corrupted"

// rule finds the function to blame in a report. named is the function the
// report's own text names, empty if it names none. A rule returns "" when it
// cannot tell.
type rule func(b *body, named string) string

// pick returns the first function of frames that may be blamed. If all of a whole
// stack are somebody's helpers, the first is: better a name than none. A stack
// that ends among helpers is cut.
func pick(frames []Frame) string { return pickBeyond(frames, nil) }

// pickBeyond is pick for a report that blames the functions matched by extra as
// little as the innocent ones.
func pickBeyond(frames []Frame, extra *lazyRE) string {
	helper := ""
	for _, f := range reliable(frames) {
		name := symbolName(f.Func)
		if injected.MatchString(name) {
			return ""
		}
		if !innocent(name) && (extra == nil || !extra.MatchString(name)) {
			if helper != "" && entries.MatchString(name) {
				return helper
			}
			return name
		}
		if helper == "" && !neverRe.MatchString(name) && (extra == nil || !extra.MatchString(name)) {
			helper = name
		}
	}
	return ""
}

// injected matches the functions that make an allocation fail on purpose and print
// the stack (lib/fault-inject.c): what follows is that one.
var injected = compile(`^(?:should_fail(?:slab|_alloc_page|_ex)?|fail_dump)$`)

// entries matches what stands at the bottom of stacks.
var entries = compile(`^entry_|^do_syscall_|^(?:x64|ia32)_sys_call$|^ret_from_fork|^kthread$|^secondary_startup`)

// symbolName is a function's name as titles have it.
func symbolName(fn string) string {
	if path, ok := demangleRust(fn); ok {
		return path
	}
	return baseName(fn)
}

// guilty returns fn's plain name unless it can never be blamed.
func guilty(fn string) string {
	if name := symbolName(fn); fn != "" && !innocent(name) {
		return name
	}
	return ""
}

// blameTrace takes the stack of the crash; without one, the function named.
func blameTrace(b *body, named string) string {
	if t := b.trace(); t != nil {
		if fn := pick(t.frames); fn != "" {
			return fn
		}
	}
	if b.trace() == nil && named != "" && !b.cut {
		return baseName(named)
	}
	return ""
}

// traceBeyond is blameTrace for reports of which more functions are never the
// cause: those that match extra.
func traceBeyond(extra string) rule {
	helper := compile(extra)
	return func(b *body, _ string) string {
		if t := b.trace(); t != nil {
			return pickBeyond(t.frames, helper)
		}
		return ""
	}
}

// blameNamed takes the function named unless it is innocent, else the stack.
func blameNamed(b *body, named string) string {
	if fn := guilty(named); fn != "" {
		return fn
	}
	if t := b.trace(); t != nil {
		if fn := pick(t.frames); fn != "" {
			return fn
		}
	}
	return ""
}

// blameFault is blamePC for a processor's exception. It prints the registers
// first, so that a stack without them is somebody else's.
func blameFault(b *body, named string) string {
	if b.pc == nil && !slices.ContainsFunc(b.lines[1:], pcAnyRe.MatchString) {
		return ""
	}
	return blamePC(b, named)
}

// blamePC takes where the CPU was, then the stack.
func blamePC(b *body, named string) string {
	if b.pc != nil {
		if fn := guilty(b.pc.Func); fn != "" {
			return fn
		}
	}
	if fn := blameNamed(b, named); fn != "" {
		return fn
	}
	if b.pc != nil && !b.has(secTrace) { // the report ends before its stack
		return baseName(b.pc.Func)
	}
	return ""
}

// blameWarning takes the function that warned, but only with a stack as
// witness: the line alone does not tell whose bug it is. Where the log ends
// before the stack, the line will do if the report's beginning is there or the
// registers confirm it.
func blameWarning(b *body, named string) string {
	t := b.trace()
	confirmed := b.pc != nil && baseName(b.pc.Func) == baseName(named)
	if t == nil && confirmed || !b.has(secTrace) && b.opened && slices.ContainsFunc(b.lines, modulesRe.MatchString) {
		return guilty(named)
	}
	if t == nil || len(reliable(t.frames)) == 0 {
		return ""
	}
	return blamePCOr(b, named)
}

// warningBeyond is blameWarning for warnings that a helper prints on behalf of
// its callers: functions that match extra are not blamed either.
func warningBeyond(extra string) rule {
	helper := compile(extra)
	return func(b *body, named string) string {
		t := b.trace()
		if t == nil || len(reliable(t.frames)) == 0 {
			return ""
		}
		frames := []Frame{{Func: named}}
		if b.pc != nil {
			frames = append(frames, *b.pc)
		}
		for _, f := range reliable(append(frames, t.frames...)) {
			if name := symbolName(f.Func); !innocent(name) && !helper.MatchString(name) {
				return name
			}
		}
		return ""
	}
}

// modulesRe matches the line that follows the first one, where it is whole
// (print_modules in kernel/module/main.c).
var modulesRe = compile(`^Modules linked in: +\S`)

func blamePCOr(b *body, named string) string {
	if fn := guilty(named); fn != "" {
		return fn
	}
	return blamePC(b, "")
}

// pagePools matches the allocators that stand between the one of pages and who
// asked for a page.
var pagePools = compile(`page_pool|page_frag|alloc_frag|^bad_page|^_*free_|set_page_owner`)

// blamePage names a page in a bad state after who allocated it, where the kernel
// kept that (mm/page_owner.c), else after who frees it. It is the first stack
// there is.
func blamePage(b *body, _ string) string {
	for _, s := range b.sections {
		if s.kind == secOther || len(s.frames) == 0 {
			continue
		}
		if fn := pickBeyond(s.frames, pagePools); fn != "" {
			return fn
		}
	}
	return ""
}

// blameHead takes the stack that follows the first line, as KMSAN prints it.
func blameHead(b *body, named string) string {
	if s := b.first(secHead); s != nil {
		if fn := pick(s.frames); fn != "" {
			return fn
		}
	}
	return blameTrace(b, named)
}

// blameLock takes the function that took the lock, as lockdep names it: it is
// given the address that the lock's own function returns to, so that a primitive
// stands there only where it takes the lock of its own queue (down_trylock), or is
// what the circle is about (might_fault, flush_work).
func blameLock(b *body, named string) string {
	if named != "" {
		return baseName(named)
	}
	return blameNamed(b, named)
}

// blameUsage takes the stack of a lock that is used in two ways, else the
// function that took the lock: where the interrupts are enabled may be another
// (mark_held_locks in kernel/locking/lockdep.c).
func blameUsage(b *body, named string) string {
	if t := b.trace(); t != nil {
		if fn := pick(t.frames); fn != "" {
			return fn
		}
	}
	return blameNamed(b, named)
}

// blameIRQLock takes the function that took the lock in the interrupt. That is
// one place, while the code that closes the circle can be anywhere.
func blameIRQLock(b *body, named string) string {
	for _, s := range b.sections {
		if s.kind == secLock && strings.Contains(s.label, "-safe at:") && len(s.frames) > 0 {
			if fn := pick(s.frames); fn != "" {
				return fn
			}
		}
	}
	return blameLock(b, named)
}

// blameLeak takes the function that allocated the lost object.
func blameLeak(b *body, _ string) string {
	s := b.first(secLeak)
	if s == nil {
		s = b.trace()
	}
	if s == nil {
		return ""
	}
	first := ""
	for _, f := range reliable(s.frames) {
		name := symbolName(f.Func)
		if innocent(name) {
			continue
		}
		if first == "" {
			first = name
		}
		if !leakAlloc.MatchString(name) {
			return name
		}
	}
	if n := len(s.frames); !entries.MatchString(symbolName(s.frames[n-1].Func)) {
		return "" // the stack is cut among those that allocate
	}
	return first
}

// leakAlloc matches what allocates on behalf of a caller, by its name.
var leakAlloc = compile(`alloc|idr_get|create_object|list_lru_init|pcpu_create|mmap|(?:str|mem)n?dup`)

// anchors are functions that dispatch work. A loop spends its time anywhere
// below them, so the function they called is what identifies the bug.
var anchors = compile(alternation([][]string{
	// System calls and faults.
	{`^_*do_(fast_)?syscall_`, `^do_SYSENTER`, `^do_int80`, `^entry_`, `^sysenter_`, `^system_call`, `^el0_`, `^_*el0t_`, `^do_el0_svc`, `^invoke_syscall`, `^x64_sys_call`, `^ia32_sys_call`, `^ret_fast_syscall`, `^syscall_handler`, `^do_trap_ecall_u`, `^_*do_fault$`, `^do_page_mkwrite`, `^(async_)?page_fault$`},
	// Files and sockets.
	{`^_*vfs_(read|write|readv|writev|ioctl|iter_|fsync|copy_file|splice|fallocate)`, `^do_vfs_ioctl`, `^_*((x64|ia32|arm64|riscv|s390x?|se|do|x32)_)?(k|compat_)?sys_(ioctl|read|write|readv|writev|pread64|pwrite64)`, `^(compat_)?S[yY][sS]C?_(ioctl|read|write|readv|writev)`, `^do_iter_(read|write|readv_writev)`, `^do_iter_readv_writev`, `^do_loop_readv_writev`, `^call_(read|write)_iter`, `^new_sync_(read|write)`, `^call_mmap`, `^mmap_region`, `^_*fput$`, `^task_work_run`, `^exit_to_user`, `^tracehook_notify_resume`, `^do_notify_resume`, `^sock_(sendmsg|ioctl|do_ioctl|close|write_iter|common_[gs]etsockopt)`, `^compat_sock_ioctl`, `^_*sock_(release|create|sendmsg)`, `^_*sys_(setsockopt|getsockopt|listen|accept4?|socketpair|connect)`, `^sk_common_release`, `^kernel_(setsockopt|getsockopt|listen|accept)`, `^nfnetlink_rcv_msg`, `^rtnetlink_rcv_msg`, `^genl_(family_)?rcv_msg`},
	// Work queues, soft interrupts, timers, threads, idle.
	{`^process_(one_work|scheduled_works)`, `^worker_thread`, `^kthread$`, `^ret_from_fork`, `^_*netif_receive_skb`, `^_*do_softirq`, `^handle_softirqs`, `^tasklet_(hi_)?action`, `^_stext$`, `^call_timer_fn`, `^expire_timers`, `^_*run_timers`, `^run_timer_softirq`, `^_*run_timer_base`, `^run_ksoftirqd`, `^smpboot_thread_fn`, `^irq_exit`, `^_*irq_exit_rcu`, `^start_(secondary|kernel)`, `^cpu_startup_entry`, `^rest_init`, `^do_one_initcall`, `^kernel_init`},
}))

// stallBucket groups the places where a CPU waits for others.
var stallBucket = compile(`^_*smp_call_function`)

// leaving matches what enters and leaves the kernel around a system call or an
// interrupt (kernel/entry/common.c).
var leaving = compile(`^_*syscall_(?:enter|exit)_|^_*irqentry_(?:enter|exit)`)

// anchored returns the function called by the first anchor of frames.
func anchored(frames []Frame) string {
	prev := ""
	for _, f := range reliable(frames) {
		name := symbolName(f.Func)
		if stallBucket.MatchString(name) {
			return name
		}
		if native := strings.Replace(name, "compat_", "", 1); native == prev {
			continue // the 32-bit entry to the same
		}
		if leaving.MatchString(name) {
			prev = "" // what is done on the way out of the kernel is no system call
			continue
		}
		if anchors.MatchString(name) {
			if prev != "" && !innocent(prev) {
				return prev
			}
			continue
		}
		prev = name
	}
	return ""
}

// blameStall finds the loop an RCU stall caught. Only a stack that an interrupt
// or an NMI took from running code shows it: the stack of a task that was
// scheduled out does not.
func blameStall(b *body, _ string) string {
	for i := range b.sections {
		s := &b.sections[i]
		if s.kind != secTrace {
			continue
		}
		var frames []Frame
		switch {
		case s.irq > 0:
			frames = s.frames[s.irq:]
		case s.nmi && s.pc != nil:
			frames = append([]Frame{*s.pc}, s.frames...)
		}
		if fn := anchored(frames); fn != "" {
			return fn
		}
	}
	return ""
}

// blameLoop finds the loop a lockup detector caught.
func blameLoop(b *body, _ string) string {
	t := b.trace()
	var frames []Frame
	if b.pc != nil {
		frames = append(frames, *b.pc)
	}
	if t != nil {
		frames = append(frames, t.frames...)
	}
	if t == nil || len(reliable(t.frames)) == 0 {
		return ""
	}
	if fn := anchored(frames); fn != "" || b.cut {
		return fn
	}
	return pick(frames)
}

// blameDeep names a stack overflow after what was started, because the frame
// that broke the stack is a matter of chance.
func blameDeep(b *body, named string) string {
	if t := b.trace(); t != nil {
		if len(reliable(t.frames)) == 0 {
			return "" // the unwinder, which has no stack to walk, guessed them all
		}
		if fn := anchored(t.frames); fn != "" || b.cut {
			return fn
		}
	}
	return blamePC(b, named)
}

var (
	// hungBucket groups hangs by what is waited for.
	hungBucket = compile(`rtnl_lock|synchronize_(?:s?rcu|sched|net)`)
	// hungHelpers are what a waiting task always has on its stack.
	hungHelpers = compile(`sched|_lock|_slowlock|down|rwsem|completion|kthread|wait|synchronize|context_switch|switch_to|cancel_(?:delayed_)?work|flush_work|^_*(?:m|u)sleep|usleep_range`)
)

// blameHung finds what a task waits in.
func blameHung(b *body, _ string) string {
	t := b.trace()
	if t == nil {
		return ""
	}
	frames := reliable(t.frames)
	for _, f := range frames {
		if hungBucket.MatchString(f.Func) {
			return baseName(f.Func)
		}
	}
	for _, f := range frames {
		if name := symbolName(f.Func); !hungHelpers.MatchString(name) && !innocent(name) {
			return name
		}
	}
	return ""
}

// bucketNames gives functions that do the same thing one name in titles.
var bucketNames = []struct {
	re   *lazyRE
	name string
}{
	{compile(`^_*synchronize_(?:rcu|srcu|sched|net)\w*$`), "synchronize_rcu"},
	{compile(`^_*smp_call_function\w*$`), "smp_call_function"},
}

// titleName is the name a blamed function has in a title.
func titleName(fn string) string {
	for _, b := range bucketNames {
		if b.re.MatchString(fn) {
			return b.name
		}
	}
	return plainName(fn)
}

// blameUSB names a bad URB after the driver that submitted it.
func blameUSB(b *body, named string) string {
	t := b.trace()
	if t == nil {
		return ""
	}
	frames := reliable(t.frames)
	if b.pc != nil && baseName(b.pc.Func) == baseName(named) && t.irq == 0 {
		frames = append([]Frame{*b.pc}, frames...)
	}
	for i, f := range frames {
		if baseName(f.Func) != baseName(named) {
			continue
		}
		for _, g := range frames[i:] {
			if name := baseName(g.Func); !usbHelpers.MatchString(name) && !innocent(name) {
				return name + "/" + baseName(named)
			}
		}
	}
	return blameWarning(b, named)
}

var usbHelpers = compile(`^usb_(?:submit_urb|start_wait_urb|bulk_msg|control_msg|internal_control_msg|interrupt_msg|hcd_submit_urb|control_msg_send|control_msg_recv)`)
