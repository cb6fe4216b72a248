package oops

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// The logs of this file are written by a program from the formats in the kernel's
// source (6.1, 6.12 and 7.2), one for each kind of report on each architecture:
// the report's own lines, the registers and the stack as that architecture prints
// them, helpers on top of the function to blame and its callers below. The title
// that is right follows from the kind and that function.

// arch prints what depends on the architecture.
type arch struct {
	name string
	// call opens a stack; frame prints a line of it.
	call  string
	frame func(fn string) string
	// regs is the register dump of a fault in fn; nil where tasks print none.
	regs func(fn string) []string
	// entry are the frames below a system call.
	entry []string
	// irq are the frames of the timer's interrupt.
	irq []string
	// fault are the first lines of a bad access, {title} of what they say.
	fault []string
	title string
	// bug are the lines of a BUG() behind "kernel BUG at".
	bug string
	end string
}

func plus(fn string) string { return fn + "+0x1c4/0x5d0" }

func bracketed(fn string) string { return "[<ffffffff80123456>] " + plus(fn) }

// archs in the forms of the kernels named.
var archs = []arch{
	{name: "x86-64", call: "Call Trace:\n <TASK>", end: " </TASK>", frame: func(fn string) string { return " " + plus(fn) },
		regs: func(fn string) []string {
			return []string{"RIP: 0010:" + plus(fn), "Code: 0f 0b 90 <0f> 0b", "RSP: 0018:ffffc90003c9f7c8 EFLAGS: 00010246", "RAX: 0000000000000000 RBX: dffffc0000000000 RCX: 0000000000000000", "CS:  0010 DS: 0000 ES: 0000 CR0: 0000000080050033"}
		},
		entry: []string{"__x64_sys_ioctl", "do_syscall_64", "entry_SYSCALL_64_after_hwframe"},
		irq:   []string{"hrtimer_interrupt", "__sysvec_apic_timer_interrupt", "sysvec_apic_timer_interrupt", "asm_sysvec_apic_timer_interrupt"},
		fault: []string{"BUG: unable to handle page fault for address: ffffffffffffffd8", "#PF: supervisor read access in kernel mode", "#PF: error_code(0x0000) - not-present page", "PGD 0 P4D 0", "Oops: Oops: 0000 [#1] SMP KASAN PTI"},
		title: "BUG: unable to handle kernel paging request in {F}", bug: "Oops: invalid opcode: 0000 [#1] SMP KASAN PTI"},
	{name: "x86-32", call: "Call Trace:", frame: func(fn string) string { return " " + plus(fn) },
		regs: func(fn string) []string {
			return []string{"EIP: " + plus(fn), "Code: 0f 0b 90 <0f> 0b", "EAX: 00000000 EBX: c1234567 ECX: 00000000 EDX: 00000000", "ESI: 00000000 EDI: 00000000 EBP: c1239f58 ESP: c1239f58", "DS: 007b ES: 007b FS: 00d8 GS: 0033 SS: 0068 EFLAGS: 00210246", "CR0: 80050033 CR2: 00000004 CR3: 01234000 CR4: 000006d0"}
		},
		entry: []string{"__ia32_sys_ioctl", "do_int80_syscall_32", "entry_INT80_32"},
		irq:   []string{"hrtimer_interrupt", "sysvec_apic_timer_interrupt", "handle_exception"},
		fault: []string{"BUG: kernel NULL pointer dereference, address: 00000004", "#PF: supervisor read access in kernel mode", "*pde = 00000000", "Oops: 0000 [#1] SMP"},
		title: "BUG: unable to handle kernel NULL pointer dereference in {F}", bug: "invalid opcode: 0000 [#1] SMP"},
	{name: "arm64", call: "Call trace:", frame: func(fn string) string { return " " + plus(fn) },
		regs: func(fn string) []string {
			return []string{"pstate: 60400005 (nZCv daif +PAN -UAO -TCO -DIT -SSBS BTYPE=--)", "pc : " + plus(fn), "lr : " + plus("do_dentry_open"), "sp : ffff8000972d7a60", "x29: ffff8000972d7a60 x28: dfff800000000000 x27: 1ffff00012e5af58", "x2 : 0000000000000000 x1 : 0000000000000000 x0 : 0000000000000000"}
		},
		entry: []string{"__arm64_sys_ioctl", "invoke_syscall", "el0_svc_common", "do_el0_svc", "el0_svc", "el0t_64_sync_handler", "el0t_64_sync"},
		irq:   []string{"gic_handle_irq", "call_on_irq_stack", "do_interrupt_handler", "el1_interrupt", "el1h_64_irq_handler", "el1h_64_irq"},
		fault: []string{"Unable to handle kernel paging request at virtual address dfff800000000004", "KASAN: null-ptr-deref in range [0x0000000000000020-0x0000000000000027]", "Mem abort info:", "  ESR = 0x0000000096000005", "  EC = 0x25: DABT (current EL), IL = 32 bits", "Data abort info:", "  CM = 0, WnR = 0, TnD = 0, TagAccess = 0", "[dfff800000000004] address between user and kernel address ranges", "Internal error: Oops: 0000000096000005 [#1] SMP"},
		title: "BUG: unable to handle kernel paging request in {F}", bug: "Internal error: Oops - BUG: 00000000f2000800 [#1] SMP"},
	{name: "arm64 of 6.13", call: "Call trace:", frame: func(fn string) string { return " " + plus(fn) + " (P)" },
		regs: func(fn string) []string {
			return []string{"pstate: 60400005 (nZCv daif +PAN -UAO -TCO -DIT -SSBS BTYPE=--)", "pc : " + plus(fn), "lr : " + plus(fn), "sp : ffff8000972d7a60", "x2 : 0000000000000000 x1 : 0000000000000000 x0 : 0000000000000000"}
		},
		entry: []string{"__arm64_sys_ioctl", "invoke_syscall", "el0_svc", "el0t_64_sync_handler", "el0t_64_sync"},
		irq:   []string{"gic_handle_irq", "call_on_irq_stack", "do_interrupt_handler", "el1_interrupt", "el1h_64_irq_handler", "el1h_64_irq"},
		fault: []string{"Unable to handle kernel NULL pointer dereference at virtual address 0000000000000008", "Mem abort info:", "  ESR = 0x0000000096000004", "user pgtable: 4k pages, 48-bit VAs, pgdp=0000000107d71000", "[0000000000000008] pgd=0000000000000000, p4d=0000000000000000", "Internal error: Oops: 0000000096000004 [#1]  SMP"},
		title: "BUG: unable to handle kernel NULL pointer dereference in {F}", bug: "Internal error: Oops - BUG: 00000000f2000800 [#1]  SMP"},
	{name: "arm", call: "Call trace: ", frame: func(fn string) string { return "!" + fn },
		regs: func(fn string) []string {
			return []string{"PC is at " + plus(fn), "LR is at " + plus("do_dentry_open"), "pc : [<80123456>]    lr : [<80123456>]    psr: 60000013", "sp : df801e98  ip : 00000000  fp : df801eb4", "r10: 00000000  r9 : 82e04000  r8 : 00000000", "Flags: nZCv  IRQs on  FIQs on  Mode SVC_32  ISA ARM  Segment none", "Control: 10c5387d  Table: 60004059  DAC: 00000051", "Process syz-executor (pid: 4242, stack limit = 0xdf800000)", "Stack: (0xdf801e98 to 0xdf802000)", "1e80:                                                       00000000 00000000"}
		},
		entry: []string{"sys_ioctl", "ret_fast_syscall"},
		irq:   []string{"handle_percpu_devid_irq", "generic_handle_arch_irq", "call_with_stack", "__irq_svc"},
		fault: []string{"8<--- cut here ---", "Unable to handle kernel NULL pointer dereference at virtual address 00000008 when read", "[00000008] *pgd=00000000", "Internal error: Oops: 5 [#1] SMP ARM"},
		title: "BUG: unable to handle kernel NULL pointer dereference in {F}", bug: "Internal error: Oops - BUG: 0 [#1] SMP ARM"},
	{name: "riscv", call: "Call Trace:", frame: bracketed,
		regs: func(fn string) []string {
			return []string{"epc : " + plus(fn), " ra : " + plus("do_dentry_open"), "epc : ffffffff80123456 ra : ffffffff80123456 sp : ff2000000fd2b9a0", " gp : ffffffff8a2b7f40 tp : ff60000017a38000 t0 : 0000000000000000", "status: 0000000200000120 badaddr: 0000000000000000 cause: 000000000000000d"}
		},
		entry: []string{"__riscv_sys_ioctl", "syscall_handler", "do_trap_ecall_u", "handle_exception"},
		irq:   []string{"riscv_timer_interrupt", "riscv_intc_irq", "handle_riscv_irq", "call_on_irq_stack", "do_irq", "handle_exception"},
		fault: []string{"Unable to handle kernel NULL pointer dereference at virtual address 0000000000000008", "Current syz-executor pgtable: 4K pagesize, 57-bit VAs, pgdp=0x000000009b2c5000", "[0000000000000008] pgd=0000000000000000", "Oops [#1]"},
		title: "BUG: unable to handle kernel NULL pointer dereference in {F}", bug: "Kernel BUG [#1]"},
	{name: "powerpc", call: "Call Trace:", frame: func(fn string) string { return "[c000000012345670] [c000000000123456] " + plus(fn) },
		regs: func(fn string) []string {
			return []string{"NIP:  c000000000123456 LR: c000000000123456 CTR: 0000000000000000", "REGS: c0000000123456f0 TRAP: 0300   Not tainted  (6.12.0)", "MSR:  8000000000009033 <SF,EE,ME,IR,DR,RI,LE>  CR: 24002842  XER: 00000000", "CFAR: c00000000000dc44 DAR: 0000000000000008 DSISR: 40000000 IRQMASK: 0 ", "GPR00: c000000000123456 c000000012345990 c0000000029e1a00 0000000000000000 ", "NIP [c000000000123456] " + plus(fn), "LR [c000000000123456] " + plus("do_dentry_open")}
		},
		entry: []string{"sys_ioctl", "system_call_exception", "system_call_vectored_common"},
		irq:   []string{"hrtimer_interrupt", "timer_interrupt", "decrementer_common_virt"},
		fault: []string{"BUG: Kernel NULL pointer dereference on read at 0x00000008", "Faulting instruction address: 0xc000000000123456", "Oops: Kernel access of bad area, sig: 11 [#1]", "LE PAGE_SIZE=64K MMU=Radix SMP NR_CPUS=2048 NUMA pSeries"},
		title: "BUG: unable to handle kernel NULL pointer dereference in {F}", bug: "Oops: Exception in kernel mode, sig: 5 [#1]"},
	{name: "s390", call: "Call Trace:", frame: func(fn string) string { return " [<000003ffe0123456>] " + plus(fn) + " " },
		regs: func(fn string) []string {
			return []string{"Krnl PSW : 0704c00180000000 000003ffe0123456 (" + plus(fn) + ")", "           R:0 T:1 IO:1 EX:1 Key:0 M:1 W:0 P:0 AS:3 CC:0 PM:0 RI:0 EA:3", "Krnl GPRS: 0000000000000000 001c000000000000 0000000000000000 0000000000000000", "           0000000000000000 0000000000000000 0000000000000000 0000000000000000", "Krnl Code: 000003ffe0123446: e310f0a00004\tlg\t%r1,160(%r15)", "          #000003ffe0123456: e320100c0004\tlg\t%r2,12(%r1)"}
		},
		entry: []string{"__s390x_sys_ioctl", "__do_syscall", "system_call"},
		irq:   []string{"do_irq_async", "do_ext_irq", "ext_int_handler"},
		fault: []string{"Unable to handle kernel pointer dereference in virtual kernel address space", "Failing address: 0000000000000000 TEID: 0000000000000803", "Fault in home space mode while using kernel ASCE.", "AS:00000000029ac007 R3:00000001ffffc007 S:00000001ffffb801 P:000000000000013d ", "Oops: 0004 ilc:2 [#1] SMP "},
		title: "BUG: unable to handle kernel pointer dereference in {F}", bug: "monitor event: 0040 ilc:2 [#1] SMP "},
	{name: "loongarch", call: "Call Trace:", frame: bracketed,
		regs: func(fn string) []string {
			return []string{"pc 9000000000123456 ra 9000000000123456 tp 9000000100b34000 sp 9000000100b37c10", "a0 0000000000000000 a1 9000000100b37c30 a2 0000000000000000 a3 0000000000000000", "   ra: 9000000000123456 " + plus("do_dentry_open"), "  ERA: 9000000000123456 " + plus(fn), " CRMD: 000000b0 (PLV0 -IE -DA +PG DACF=CC DACM=CC -WE)", "ESTAT: 00010000 [PIL] (IS= ECode=1 EsubCode=0)", " BADV: 0000000000000008", "Process syz-executor (pid: 4242, threadinfo=00000000d6b3b0b6, task=00000000dd9a2a3b)", "Stack : 0000000000000000 0000000000000000 0000000000000000 0000000000000000"}
		},
		entry: []string{"sys_ioctl", "do_syscall", "handle_syscall"},
		irq:   []string{"constant_timer_interrupt", "handle_cpu_irq", "handle_loongarch_irq", "do_vint", "handle_vint"},
		fault: []string{"CPU 0 Unable to handle kernel paging request at virtual address 0000000000000008, era == 9000000000123456, ra == 9000000000123456", "Oops[#1]:"},
		title: "BUG: unable to handle kernel paging request in {F}", bug: "Oops - BUG[#1]:"},
	{name: "mips", call: "Call Trace:", frame: bracketed,
		regs: func(fn string) []string {
			return []string{"$ 0   : 0000000000000000 0000000014009ce0 0000000000000000 0000000000000000", "Hi    : 0000000000000000", "Lo    : 0000000000000000", "epc   : ffffffff80123456 " + plus(fn), "ra    : ffffffff80123456 " + plus("do_dentry_open"), "Status: 14009ce3\tKX SX UX KERNEL EXL IE ", "Cause : 00800008 (ExcCode 02)", "BadVA : 0000000000000008", "Process syz-executor (pid: 4242, threadinfo=00000000d6b3b0b6, task=00000000dd9a2a3b, tls=0000000000000000)", "Stack : 0000000000000000 0000000000000000 0000000000000000 0000000000000000"}
		},
		entry: []string{"sys_ioctl", "syscall_common"},
		irq:   []string{"c0_compare_interrupt", "handle_percpu_irq", "do_IRQ", "plat_irq_dispatch", "handle_int"},
		fault: []string{"CPU 0 Unable to handle kernel paging request at virtual address 0000000000000008, epc == ffffffff80123456, ra == ffffffff80123456", "Oops[#1]:"},
		title: "BUG: unable to handle kernel paging request in {F}", bug: "Kernel bug detected[#1]:"},
	{name: "sparc64", call: "Call Trace:", frame: func(fn string) string { return "[<0000000000456789>] " + plus(fn) },
		regs: func(fn string) []string {
			return []string{"TSTATE: 0000004411001606 TPC: 0000000000456789 TNPC: 000000000045678c Y: 00000000    Not tainted", "TPC: <" + plus(fn) + ">", "g0: 0000000000000000 g1: 0000000000000000 g2: 0000000000000000 g3: 0000000000000000", "RPC: <" + plus("do_dentry_open") + ">", "l0: 0000000000000000 l1: 0000000000000000 l2: 0000000000000000 l3: 0000000000000000", "I7: <" + plus("do_dentry_open") + ">"}
		},
		entry: []string{"sys_ioctl", "linux_sparc_syscall"},
		irq:   []string{"timer_interrupt", "tl0_irq14"},
		fault: []string{"Unable to handle kernel NULL pointer dereference", "tsk->{mm,active_mm}->context = 000000000000011f", "tsk->{mm,active_mm}->pgd = fff8000123456000", "              \\|/ ____ \\|/", "              \"@'/ .. \\`@\"", "              /_| \\__/ |_\\", "                 \\__U_/", "syz-executor(4242): Oops [#1]"},
		title: "BUG: unable to handle kernel NULL pointer dereference in {F}", bug: "syz-executor(4242): Kernel bad sw trap 5 [#1]"},
}

// maker writes one log.
type maker struct {
	arch  arch
	rnd   *rand.Rand
	names []string // functions that can be blamed
	out   []string
}

func (m *maker) put(lines ...string) { m.out = append(m.out, lines...) }

func (m *maker) name() string { return m.names[m.rnd.IntN(len(m.names))] }

// cpu is the line about task and kernel (dump_stack_print_info in
// lib/dump_stack.c).
func (m *maker) cpu() string {
	if m.rnd.IntN(2) == 0 {
		return "CPU: 1 PID: 4242 Comm: syz-executor Not tainted 6.1.0-syzkaller #0"
	}
	return "CPU: 1 UID: 0 PID: 4242 Comm: syz.0.17 Tainted: G        W          6.12.0-syzkaller #0 PREEMPT(full) "
}

// stack prints a stack: helpers, the function to blame, callers, the entry.
func (m *maker) stack(helpers []string, fn string) {
	m.put(m.arch.call)
	frames := append(append([]string{}, helpers...), fn)
	for range 2 + m.rnd.IntN(4) {
		frames = append(frames, m.name())
	}
	m.frames(append(frames, m.arch.entry...))
	if m.arch.end != "" {
		m.put(m.arch.end)
	}
}

func (m *maker) frames(frames []string) {
	for i, fn := range frames {
		line := m.arch.frame(fn)
		if line[0] == '!' { // arm says who called, too
			if i+1 == len(frames) {
				break
			}
			line = " " + frames[i] + " from " + plus(frames[i+1])
		}
		m.put(line)
		if m.arch.name == "x86-64" && m.rnd.IntN(3) == 0 {
			m.put(" ? __pfx_" + fn + "+0x10/0x10")
		}
	}
}

func (m *maker) warning(file, at string, helpers []string, fn string) {
	m.put("------------[ cut here ]------------")
	if m.rnd.IntN(2) == 0 {
		m.put(fmt.Sprintf("WARNING: CPU: 1 PID: 4242 at %s:123 %s", file, plus(at)))
	} else {
		m.put(fmt.Sprintf("WARNING: %s:123 at %s, CPU#1: syz.0.17/4242", file, plus(at)))
	}
	m.put("Modules linked in:", m.cpu(), "Hardware name: linux,dummy-virt (DT)")
	m.put(m.arch.regs(at)...)
	m.stack(helpers, fn)
	m.put("---[ end trace 0000000000000000 ]---")
}

func (m *maker) dumped(helpers []string, fn string) {
	m.put(m.cpu(), "Hardware name: linux,dummy-virt (DT)")
	m.stack(append([]string{"dump_stack_lvl"}, helpers...), fn)
}

// pickOf returns up to n of the helpers.
func (m *maker) some(helpers ...string) []string {
	return helpers[m.rnd.IntN(len(helpers)):]
}

// reports are the kinds, each with the title it gives.
var reports = []struct {
	title string
	write func(m *maker, fn string)
}{
	{"KASAN: slab-use-after-free Read in {F}", func(m *maker, fn string) {
		helpers := m.some("memcpy", "")
		at := fn
		if helpers[0] == "memcpy" {
			at = "memcpy"
		} else {
			helpers = nil
		}
		m.put("==================================================================", "BUG: KASAN: slab-use-after-free in "+plus(at), "Read of size 8 at addr ffff888012345678 by task syz.0.17/4242", "")
		m.dumped(append([]string{"print_address_description", "print_report", "kasan_report"}, helpers...), fn)
		m.put("", "Allocated by task 4241:")
		m.frames([]string{"kasan_save_stack", "__kasan_kmalloc", "__kmalloc_noprof", m.name(), m.name()})
		m.put("", "Freed by task 4240:")
		m.frames([]string{"kasan_save_stack", "kfree", m.name(), m.name()})
		m.put("", "The buggy address belongs to the object at ffff888012345600", " which belongs to the cache kmalloc-192 of size 192", "==================================================================")
	}},
	{"KASAN: slab-out-of-bounds Write in {F}", func(m *maker, fn string) {
		m.put("==================================================================", "BUG: KASAN: slab-out-of-bounds in "+plus("_raw_spin_lock_irqsave"), "Write of size 4 at addr ffff888012345678 by task syz.0.17/4242", "")
		m.dumped([]string{"print_report", "kasan_report", "kasan_check_range", "_raw_spin_lock_irqsave"}, fn)
		m.put("", "The buggy address belongs to the physical page:", "==================================================================")
	}},
	{"KASAN: invalid-free in {F}", func(m *maker, fn string) {
		m.put("==================================================================", "BUG: KASAN: invalid-free in "+plus("kfree"), "Free of addr ffff888012345678 by task syz.0.17/4242", "")
		m.dumped([]string{"print_report", "kasan_report_invalid_free", "__kasan_slab_free", "kfree"}, fn)
		m.put("==================================================================")
	}},
	{"WARNING in {F}", func(m *maker, fn string) { m.warning("net/core/x.c", fn, nil, m.name()) }},
	{"WARNING: refcount bug in {F}", func(m *maker, fn string) {
		m.put("refcount_t: underflow; use-after-free.")
		m.warning("lib/refcount.c", "refcount_warn_saturate", m.some("kobject_put", ""), fn)
	}},
	{"WARNING: ODEBUG bug in {F}", func(m *maker, fn string) {
		m.put("ODEBUG: free active (active state 0) object: ffff888012345678 object type: timer_list hint: x_timer+0x0/0x10")
		m.warning("lib/debugobjects.c", "debug_print_object", []string{"debug_check_no_obj_freed", "slab_free_freelist_hook", "kfree"}, fn)
	}},
	{"WARNING: locking bug in {F}", func(m *maker, fn string) {
		m.warning("kernel/locking/lockdep.c", "__lock_acquire", []string{"lock_acquire", "_raw_spin_lock_bh", "lock_sock_nested"}, fn)
	}},
	{"WARNING: kmalloc bug in {F}", func(m *maker, fn string) {
		m.warning("mm/util.c", "kvmalloc_node", nil, fn)
	}},
	{"kernel BUG in {F}", func(m *maker, fn string) {
		m.put("------------[ cut here ]------------", "kernel BUG at fs/x/y.c:123!", m.arch.bug, "Modules linked in:", m.cpu(), "Hardware name: linux,dummy-virt (DT)")
		m.put(m.arch.regs(fn)...)
		m.stack(nil, m.name())
		m.put("---[ end trace 0000000000000000 ]---", "Kernel panic - not syncing: Fatal exception")
	}},
	{"BUG: corrupted list in {F}", func(m *maker, fn string) {
		m.put("list_del corruption, ffff888012345678->next is LIST_POISON1 (dead000000000100)", "------------[ cut here ]------------", "kernel BUG at lib/list_debug.c:59!", m.arch.bug, m.cpu(), "Hardware name: linux,dummy-virt (DT)")
		m.put(m.arch.regs("__list_del_entry_valid_or_report")...)
		m.stack(nil, fn)
		m.put("---[ end trace 0000000000000000 ]---")
	}},
	{"{fault}", func(m *maker, fn string) {
		m.put(m.arch.fault...)
		m.put("Modules linked in:", m.cpu(), "Hardware name: linux,dummy-virt (DT)")
		m.put(m.arch.regs(fn)...)
		m.stack(nil, m.name())
		m.put("---[ end trace 0000000000000000 ]---")
	}},
	// kernel/rcu/tree_stall.h: print_cpu_stall prints the stack of the CPU that it
	// runs on, from the interrupt of the timer.
	{"INFO: rcu detected stall in {F}", func(m *maker, fn string) {
		m.put("rcu: INFO: rcu_preempt self-detected stall on CPU", "rcu: \t1-....: (10499 ticks this GP) idle=a8dc/1/0x4000000000000000 softirq=14389/14389 fqs=5250", "rcu: \t(t=10500 jiffies g=8217 q=339 ncpus=2)", m.cpu(), "Hardware name: linux,dummy-virt (DT)")
		// The loop turns anywhere below what the system call called.
		frames := append([]string{"dump_cpu_task", "rcu_sched_clock_irq", "update_process_times", "tick_nohz_handler", "__hrtimer_run_queues"}, m.arch.irq...)
		m.put(m.arch.call)
		m.frames(append(append(frames, "_raw_spin_unlock_irqrestore", m.name(), m.name(), fn), m.arch.entry...))
		if m.arch.end != "" {
			m.put(m.arch.end)
		}
	}},
	{"INFO: task hung in {F}", func(m *maker, fn string) {
		m.put("INFO: task syz.0.17:4242 blocked for more than 143 seconds.", "      Not tainted 6.12.0-syzkaller #0", `"echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.`, "task:syz.0.17        state:D stack:25360 pid:4242  tgid:4241  ppid:5823   flags:0x00004006")
		m.stack([]string{"__schedule", "schedule", "schedule_preempt_disabled", "__mutex_lock", "mutex_lock_nested"}, fn)
		m.put("", "Showing all locks held in the system:", "1 lock held by khungtaskd/30:", " #0: ffffffff8e937d20 (rcu_read_lock){....}-{1:3}, at: debug_show_all_locks+0x75/0x340")
	}},
	{"INFO: task hung in rtnl_lock", func(m *maker, fn string) {
		m.put("INFO: task syz.0.17:4242 blocked in I/O wait for more than 143 seconds.", "      Not tainted 6.12.0-syzkaller #0", "task:syz.0.17        state:D stack:25360 pid:4242  tgid:4241  ppid:5823   task_flags:0x400040 flags:0x00004006")
		m.stack([]string{"__schedule", "schedule", "__mutex_lock", "rtnl_lock"}, fn)
	}},
	{"BUG: sleeping function called from invalid context in {F}", func(m *maker, fn string) {
		m.put("BUG: sleeping function called from invalid context at kernel/locking/mutex.c:585", "in_atomic(): 1, irqs_disabled(): 0, non_block: 0, pid: 4242, name: syz.0.17", "preempt_count: 1, expected: 0", "RCU nest depth: 0, expected: 0", "1 lock held by syz.0.17/4242:", " #0: ffff888012345678 (&x->lock){+.+.}-{3:3}, at: "+plus(m.name()))
		m.dumped([]string{"__might_resched", "__mutex_lock", "mutex_lock_nested"}, fn)
	}},
	{"BUG: scheduling while atomic in {F}", func(m *maker, fn string) {
		m.put("BUG: scheduling while atomic: syz.0.17/4242/0x00000002", "no locks held by syz.0.17/4242.", "Modules linked in:", "Preemption disabled at:", "[<ffffffff81234567>] "+plus(m.name()))
		m.dumped([]string{"__schedule_bug", "__schedule", "schedule", "schedule_timeout"}, fn)
	}},
	{"possible deadlock in {F}", func(m *maker, fn string) {
		m.put("======================================================", "WARNING: possible circular locking dependency detected", "6.12.0-syzkaller #0 Not tainted", "------------------------------------------------------", "syz.0.17/4242 is trying to acquire lock:", "ffff888012345678 (&x->lock){+.+.}-{3:3}, at: "+plus(fn), "", "but task is already holding lock:", "ffff888012345680 (&y->lock){+.+.}-{3:3}, at: "+plus(m.name()), "", "which lock already depends on the new lock.", "", "", "the existing dependency chain (in reverse order) is:", "", "-> #1 (&y->lock){+.+.}-{3:3}:")
		m.frames([]string{"lock_acquire", "__mutex_lock", m.name(), m.name()})
		m.put("", "-> #0 (&x->lock){+.+.}-{3:3}:")
		m.frames([]string{"check_prev_add", "__lock_acquire", "lock_acquire", "__mutex_lock", fn, m.name()})
		m.put("", "other info that might help us debug this:", "", " *** DEADLOCK ***", "", "stack backtrace:")
		m.dumped([]string{"print_circular_bug", "check_noncircular", "__lock_acquire", "lock_acquire", "__mutex_lock"}, fn)
	}},
	{"inconsistent lock state in {F}", func(m *maker, fn string) {
		m.put("================================", "WARNING: inconsistent lock state", "6.12.0-syzkaller #0 Not tainted", "--------------------------------", "inconsistent {SOFTIRQ-ON-W} -> {IN-SOFTIRQ-W} usage.", "ksoftirqd/1/23 [HC0[0]:SC1[1]:HE1:SE0] takes:", "ffff888012345678 (&x->lock){+.?.}-{3:3}, at: "+plus(fn), "{SOFTIRQ-ON-W} state was registered at:")
		m.frames([]string{"lock_acquire", "_raw_spin_lock", m.name(), m.name()})
		m.put("irq event stamp: 1234", "", "other info that might help us debug this:", "", " *** DEADLOCK ***", "", "stack backtrace:")
		m.dumped([]string{"print_usage_bug", "mark_lock", "__lock_acquire", "lock_acquire", "_raw_spin_lock"}, fn)
	}},
	{"WARNING: suspicious RCU usage in {F}", func(m *maker, fn string) {
		m.put("=============================", "WARNING: suspicious RCU usage", "6.12.0-syzkaller #0 Not tainted", "-----------------------------", "net/x/y.c:123 suspicious rcu_dereference_check() usage!", "", "other info that might help us debug this:", "", "", "rcu_scheduler_active = 2, debug_locks = 1", "no locks held by syz.0.17/4242.", "", "stack backtrace:")
		m.dumped([]string{"lockdep_rcu_suspicious"}, fn)
	}},
	{"WARNING: bad unlock balance in {F}", func(m *maker, fn string) {
		m.put("=====================================", "WARNING: bad unlock balance detected!", "6.12.0-syzkaller #0 Not tainted", "-------------------------------------", "syz.0.17/4242 is trying to release lock (&x->lock) at:", "[<ffffffff81234567>] "+plus(fn), "but there are no more locks to release!", "", "other info that might help us debug this:", "", "stack backtrace:")
		m.dumped([]string{"print_unlock_imbalance_bug", "lock_release", "__mutex_unlock_slowpath"}, fn)
	}},
	{"INFO: trying to register non-static key in {F}", func(m *maker, fn string) {
		m.put("INFO: trying to register non-static key.", "The code is fine but needs lockdep annotation, or maybe", "you didn't initialize this object before use?", "turning off the locking correctness validator.")
		m.dumped([]string{"register_lock_class", "__lock_acquire", "lock_acquire", "_raw_spin_lock_irqsave"}, fn)
	}},
	{"UBSAN: array-index-out-of-bounds in {F}", func(m *maker, fn string) {
		m.put("------------[ cut here ]------------", "UBSAN: array-index-out-of-bounds in fs/x/y.c:12:3", "index 4 is out of range for type 'u8 [4]'")
		m.dumped([]string{"ubsan_epilogue", "__ubsan_handle_out_of_bounds"}, fn)
		m.put("---[ end trace ]---")
	}},
	{"BUG: using smp_processor_id() in preemptible code in {F}", func(m *maker, fn string) {
		m.put("BUG: using smp_processor_id() in preemptible [00000000] code: syz.0.17/4242", "caller is "+plus(fn))
		m.dumped([]string{"check_preemption_disabled"}, fn)
	}},
	{"BUG: spinlock bad magic in {F}", func(m *maker, fn string) {
		m.put("BUG: spinlock bad magic on CPU#1, syz.0.17/4242", " lock: 0xffff888012345678, .magic: 00000000, .owner: <none>/-1, .owner_cpu: 0")
		m.dumped([]string{"spin_dump", "do_raw_spin_lock", "_raw_spin_lock_irqsave"}, fn)
	}},
	{"BUG: soft lockup in {F}", func(m *maker, fn string) {
		m.put("watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [syz.0.17:4242]", "Modules linked in:", "irq event stamp: 1234", m.cpu(), "Hardware name: linux,dummy-virt (DT)")
		m.put(m.arch.regs("_raw_spin_unlock_irqrestore")...)
		m.put(m.arch.call)
		m.frames([]string{m.name(), fn, "process_one_work", "worker_thread", "kthread", "ret_from_fork"})
		if m.arch.end != "" {
			m.put(m.arch.end)
		}
	}},
	{"memory leak in {F}", func(m *maker, fn string) {
		m.put("BUG: memory leak", "unreferenced object 0xffff888012345678 (size 192):", `  comm "syz.0.17", pid 4242, jiffies 4294944321`, "  hex dump (first 32 bytes):", "    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................", "  backtrace (crc 0):")
		for _, f := range []string{"kmemleak_alloc", "__kmalloc_noprof", "kmemdup_noprof", fn, m.name(), m.name()} {
			m.put("    " + plus(f))
		}
	}},
	{"KMSAN: uninit-value in {F}", func(m *maker, fn string) {
		m.put("=====================================================", "BUG: KMSAN: uninit-value in "+plus(fn))
		m.frames(append([]string{fn, m.name(), m.name()}, m.arch.entry...))
		m.put("", "Uninit was created at:")
		m.frames([]string{"slab_post_alloc_hook", "kmem_cache_alloc_noprof", m.name(), m.name()})
		m.put("", m.cpu(), "=====================================================")
	}},
	{"KFENCE: use-after-free read in {F}", func(m *maker, fn string) {
		m.put("==================================================================", "BUG: KFENCE: use-after-free read in "+plus(fn), "", "Use-after-free read at 0xffff888012345678 (in kfence-#12):")
		m.frames(append([]string{fn, m.name(), m.name()}, m.arch.entry...))
		m.put("", "kfence-#12: 0xffff888012345000-0xffff8880123450bf, size=192, cache=kmalloc-192", "", "allocated by task 4242 on cpu 0 at 123.456789s (0.1s ago):")
		m.frames([]string{"__kmalloc_noprof", m.name()})
		m.put("", m.cpu(), "==================================================================")
	}},
	{"kernel panic: foo is gone", func(m *maker, fn string) {
		m.put("Kernel panic - not syncing: foo is gone")
		m.dumped([]string{"panic"}, fn)
		m.put("---[ end Kernel panic - not syncing: foo is gone ]---")
	}},
}

// TestGeneratedLogs: what the kernel prints for each kind of report on each
// architecture is read as what it is, whole and without another report in it.
func TestGeneratedLogs(t *testing.T) {
	var names []string
	for _, title := range list(t, "testdata/titles.list") {
		if i := strings.LastIndex(title, " in "); i > 0 && kindOf(title) != Lockdep && kindOf(title) != Hang {
			fn, _, _ := strings.Cut(title[i+4:], "/")
			// Not what a kind of report passes over, or gathers hangs under.
			if !hungHelpers.MatchString(fn) && !hungBucket.MatchString(fn) && !anchors.MatchString(fn) && !freeing.MatchString(fn) && plainName(fn) == fn &&
				!compile(odebugUsers+`|rcu|kmem_|slab_|lock|stack|IRQ|preempt|schedule|kobject|refcount|kref`).MatchString(fn) && !leakAlloc.MatchString(fn) && !stallBucket.MatchString(fn) {
				names = append(names, fn)
			}
		}
	}
	ok, all := 0, 0
	byArch := map[string]*[2]int{}
	for seed := range uint64(4) {
		for _, a := range archs {
			if byArch[a.name] == nil {
				byArch[a.name] = &[2]int{}
			}
			for _, kind := range reports {
				m := &maker{arch: a, names: names, rnd: rand.New(rand.NewPCG(seed, uint64(len(kind.title))))}
				fn := m.name()
				kind.write(m, fn)
				want := strings.ReplaceAll(strings.ReplaceAll(kind.title, "{fault}", a.title), "{F}", fn)
				var log strings.Builder
				for i, line := range strings.Split(strings.Join(m.out, "\n"), "\n") {
					fmt.Fprintf(&log, "[  123.%06d][ T4242] %s\n", i, line)
				}
				plain := strings.ReplaceAll(log.String(), "][ T4242]", "]")
				for form, text := range map[string]string{"callers": log.String(), "times": plain} {
					all++
					byArch[a.name][1]++
					got := Parse([]byte(text))
					if len(got) == 1 && got[0].Title == want && !got[0].Corrupted {
						ok++
						byArch[a.name][0]++
						continue
					}
					var titles []string
					for _, r := range got {
						titles = append(titles, fmt.Sprintf("%q corrupted=%q", r.Title, r.CorruptedReason))
					}
					t.Errorf("%s with %s: want %q, got %s", a.name, form, want, titles)
					if testing.Verbose() && seed == 0 && form == "times" {
						t.Log(text)
					}
				}
			}
		}
	}
	fmt.Printf("hard set: %d/%d generated logs are read right\n", ok, all)
	for _, a := range archs {
		fmt.Printf("hard set:   %-14s %d/%d\n", a.name, byArch[a.name][0], byArch[a.name][1])
	}
}
