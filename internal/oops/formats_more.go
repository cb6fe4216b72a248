package oops

// trapTable holds processor exceptions without a line of their own before them.
func trapTable() []*oops {
	return []*oops{
		{header: "Unable to handle kernel", formats: []format{
			{start: re(`^Unable to handle kernel NULL pointer dereference`), title: "BUG: unable to handle kernel NULL pointer dereference in {F}", alts: []string{badAccess}, rule: blameFault},
			{start: re(`^Unable to handle kernel (paging request|access to user memory)`), title: "BUG: unable to handle kernel {1} in {F}", alts: []string{badAccess}, rule: blameFault},
			{start: re(`^Unable to handle kernel ([a-z][a-z \-]*?)(?: at virtual address.*| at .*| in virtual .*|:.*)?$`), title: "BUG: unable to handle kernel {1} in {F}", alts: []string{badAccess}, rule: blameFault},
		}},
		{header: "general protection fault", trap: true, formats: []format{
			{start: re(`^general protection fault(?:,|:| in| for non-canonical)`), title: "general protection fault in {F}", alts: []string{badAccess}, rule: blameFault},
		}, not: compile(`^general protection fault (?:ip|error)[: ]`)},
		{header: "stack segment:", trap: true, formats: []format{
			{start: re(`^stack segment: `), title: "stack segment fault in {F}", alts: []string{badAccess}, rule: blameFault},
		}},
		{header: "divide error:", trap: true, formats: []format{{start: re(`^divide error: `), title: "divide error in {F}", rule: blameFault}}},
		{header: "divide_error:", trap: true, formats: []format{{start: re(`^divide_error: `), title: "divide error in {F}", rule: blameFault}}},
		{header: "invalid opcode:", trap: true, formats: []format{
			{start: re(`^invalid opcode: `), title: "invalid opcode in {F}", rule: blameFault},
		}},
		{header: "PANIC: double fault", formats: []format{
			{start: re(`^PANIC: double fault`), title: "PANIC: double fault in {F}", rule: blameFault},
		}},
		{header: "double fault: ", trap: true, formats: []format{
			{start: re(`^double fault: [0-9a-f]{4} `), title: "PANIC: double fault in {F}", rule: blameFault},
		}},
		{header: "kernel stack overflow", trap: true, formats: []format{
			{start: re(`^kernel stack overflow`), title: "kernel stack overflow in {F}", alts: []string{"stack-overflow in {F}"}, rule: blameDeep},
		}},
		{header: "Insufficient stack space to handle exception", formats: []format{
			{start: re(`^Insufficient stack space`), title: "kernel stack overflow in {F}", alts: []string{"stack-overflow in {F}"}, rule: blameDeep},
		}},
		{header: "Internal error:", trap: true, formats: []format{
			{start: re(`^Internal error: `), title: "Internal error in {F}", alts: []string{badAccess}, rule: blameFault},
		}},
		{header: "Unhandled fault:", formats: []format{{start: re(`^Unhandled fault: `), title: "Unhandled fault in {F}", rule: blameFault}}, trap: true},
		{header: "Unhandled prefetch abort", trap: true, formats: []format{{start: re(`^Unhandled prefetch abort`), title: "Unhandled fault in {F}", rule: blameFault}}},
		{header: "Alignment trap:", formats: []format{{start: re(`^Alignment trap: not handling`), title: "Alignment trap in {F}", rule: blameTrace}}},
		{header: "Oops: ", trap: true, strict: true, formats: []format{
			{start: re(`^Oops: (.*)`), title: "Oops in {F}", rule: blameFault},
		}, not: compile(`^Oops: (?:int3|general protection|stack segment|divide|invalid opcode|double fault)|^Oops: [^0-9\[][^\[]*$`)},
		{header: "Oops [#", trap: true, strict: true, formats: []format{{start: re(`^Oops \[#`), title: "Oops in {F}", rule: blameFault}}},
		{header: "Oops - ", trap: true, strict: true, formats: []format{{start: re(`^Oops - `), title: "Oops in {F}", rule: blameFault}}},
		{header: "int3: ", trap: true, strict: true, formats: []format{{start: re(`^int3: [0-9a-f]{4} \[#`), title: "int3 in {F}", rule: blameFault}}},
	}
}

// atFile is the rest of a WARNING's first line in both its forms:
// "CPU: 1 PID: 2 at FILE:3 func+0x4" and (since 6.16) "FILE:3 at func+0x4".
func atFile(file string) *lazyRE {
	return re(`^WARNING: (?:CPU: \d+ PID: \d+ at )?(?:\[.*\] )?(?:\S*/)?` + file + `:\d+ (?:at )?{{FUNC}}`)
}

// odebugUsers matches the functions of the subsystems that tell debugobjects about
// their objects (those that include linux/debugobjects.h), and the allocators,
// which ask it whether what they free is in use.
const odebugUsers = `debug_|rcu|hrtimer_|timer_|timer$|work_|percpu_|kmem_|slab_|kfree|vunmap|vfree|^_*free_|kobject_|^_*queue_|^_*flush_|^_*destroy_|^init_`

// notices are texts after "WARNING: " that tell a user something, not a
// developer.
var notices = compile(`(?i)mand mount option|deprecated|will be (?:removed|disabled)|is (?:insecure|obsolete)|unprivileged ebpf|mitigation|workqueue cpumask|fbcon: driver|not configured for semihosting|/etc/ssh/moduli|permanently added|spectre|l1tf|\bmds\b|\btaa\b|vulnerab|untrusted|unsupported flag value|linker: |no longer supported|not recommended|remote host identification|experimental|not compiled with|` + "WARNING: `" + `|%[-+ #0]*\d*(?:ll?)?[sdxupc]\b`)

// warningTable holds what begins with "WARNING:".
func warningTable() []*oops {
	rows := lockdepFormats("WARNING")
	rows = append(rows,
		// lib, by the file that warns on behalf of a caller
		format{start: atFile(`lib/refcount\.c`), title: "WARNING: refcount bug in {F}", named: 1, rule: warningBeyond(`refcount|kref|kobject|kset_`)},
		format{start: atFile(`lib/debugobjects\.c`), title: "WARNING: ODEBUG bug in {F}", named: 1, rule: warningBeyond(odebugUsers)},
		format{start: atFile(`mm/usercopy\.c`), title: "WARNING: bad usercopy in {F}", named: 1, rule: blameWarning},
		format{start: atFile(`lib/kobject\.c`), title: "WARNING: kobject bug in {F}", named: 1, rule: warningBeyond(`kobject|kset_|^device_|sysfs`)},
		format{start: re(`^WARNING: (?:CPU: \d+ PID: \d+ at )?(?:\S*/)?fs/proc/generic\.c:\d+ (?:at )?(proc_register)`), title: "WARNING: proc registration bug in {F}", named: 1, rule: warningBeyond(`^_*proc_|^_*remove_proc`)},
		format{start: re(`^WARNING: (?:CPU: \d+ PID: \d+ at )?(?:\S*/)?kernel/locking/lockdep\.c:\d+ (?:at )?{{FUNC}}`), title: "WARNING: locking bug in {F}", named: 1, rule: warningBeyond(`lock_sock|release_sock|^_*lock_|^_*(?:un)?lock$`)},
		format{start: re(`^WARNING: (?:CPU: \d+ PID: \d+ at )?(?:\S*/)?mm/\w+\.c:\d+ (?:at )?(_*kv?malloc_(?:node|slab|order|large)\w*|kmalloc_\w+)`), title: "WARNING: kmalloc bug in {F}", named: 1, rule: blameWarning},
		format{start: re(`^WARNING: (?:CPU: \d+ PID: \d+ at )?(?:\S*/)?mm/vmalloc\.c:\d+ (?:at )?(_*vmalloc_node_range\w*)`), title: "WARNING: zero-size vmalloc in {F}", named: 1, rule: blameWarning},
		format{start: re(`^WARNING: (?:CPU: \d+ PID: \d+ at )?(?:\S*/)?drivers/usb/core/urb\.c:\d+ (?:at )?(usb_submit_urb)`), title: "WARNING in {F}", named: 1, rule: blameUSB},
		// lib/bug.c, kernel/panic.c; without a file where the kernel has none to tell,
		// and without a function where only the registers do.
		format{start: re(`^WARNING: (?:CPU: \d+ PID: \d+ )?at ([A-Za-z_$<][\w.$<>:]*)\+0x[0-9a-f]+/0x`), title: "WARNING in {F}", named: 1, rule: blameWarning},
		format{start: re(`^WARNING: (?:\[.*\] )?\S+:\d+ at (?:0x0|0|\(null\)|\(nil\))(?:,|$)`), title: "WARNING in {F}", rule: blameWarning},
		format{start: re(`^WARNING: (?:CPU: \d+ PID: \d+ )?at \S+:\d+ {{FUNC}}`), title: "WARNING in {F}", named: 1, rule: blameWarning},
		format{start: re(`^WARNING: (?:\[.*\] )?\S+:\d+ at {{FUNC}}`), title: "WARNING in {F}", named: 1, rule: blameWarning},
		format{start: re(`^WARNING: (?:CPU: \d+ PID: \d+ )?at \S+`), title: "WARNING in {F}", rule: blameWarning},
		format{start: re(`^WARNING: CPU: \d+ `), title: "WARNING in {F}", rule: blameWarning},
		// arch/x86/kernel/unwind_frame.c
		format{start: re(`^WARNING: kernel stack regs .* has bad '\w+' value`), title: "WARNING: kernel stack regs has bad value", noStack: true},
		format{start: re(`^WARNING: kernel stack frame pointer .* has bad value`), title: "WARNING: kernel stack frame pointer has bad value", noStack: true},
		format{start: re(`^WARNING:\s*$`), title: "WARNING: corrupted", cut: true},
		format{start: re(`^WARNING: (.*)`), title: "WARNING: {1}", noStack: true},
	)
	return []*oops{
		{header: "WARNING: ", formats: rows, strict: true, notice: notices},
		{header: "WARNING:", formats: rows, strict: true, notice: notices},
	}
}

// infoTable holds what begins with "INFO:".
func infoTable() []*oops {
	rows := lockdepFormats("INFO")
	rows = append(rows,
		// kernel/rcu
		format{start: re(`^INFO: rcu\w* (?:self-)?detected(?: expedited)? stalls?`), title: "INFO: rcu detected stall in {F}", alts: []string{"stall in {F}"}, rule: blameStall, allContexts: true, bucket: true},
		// kernel/hung_task.c
		format{start: re(`^INFO: task [^:]*$`), body: re(`\A.*:\d+ blocked for more than`), title: "INFO: task hung in {F}", alts: []string{"hang in {F}"}, rule: blameHung, bucket: true},
		format{start: re(`^INFO: task .* blocked (?:for more than|in I/O wait)`), title: "INFO: task hung in {F}", alts: []string{"hang in {F}"}, rule: blameHung, bucket: true},
		format{start: re(`^INFO: task .* can't die for more than`), title: "INFO: task can't die in {F}", alts: []string{"hang in {F}"}, rule: blameHung, bucket: true},
		// kernel/locking/lockdep.c
		format{start: re(`^INFO: trying to register non-static key`), title: "INFO: trying to register non-static key in {F}", rule: traceBeyond(`stack|lock|IRQ`)},
		// mm/slub.c tells it inside of a report that has begun before.
		format{start: re(`^INFO: ((?:Freed|Allocated) in .*)`), title: "INFO: {1}", cut: true},
		format{start: re(`^INFO:\s*$`), title: "INFO: corrupted", cut: true},
		format{start: re(`^INFO: (.*)`), title: "INFO: {1}"},
	)
	not := compile(`^INFO:\s*(?:lockdep is turned off|Stall ended before|NMI handler|recovery required|No dynamic|All |no syscalls can create |sys_\w+ is not present in |Lockdep is|task .* blocked on an? |.*(?:will be removed|deprecated))|NMI handler .* took too long`)
	return []*oops{
		{header: "INFO: ", formats: rows, strict: true, notice: not},
		{header: "INFO:", formats: rows, strict: true, notice: not},
	}
}

// panicTable holds kernel/panic.c. A panic during another report belongs to it.
func panicTable() []*oops {
	return []*oops{{header: "Kernel panic - not syncing:", tail: true, formats: []format{
		{start: re(`^Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: ([A-Za-z_][\w.]*)\+0x`), title: "kernel panic: stack is corrupted in {F}", named: 1, rule: blameSelf, noStack: true},
		{start: re(`^Kernel panic - not syncing: stack-protector`), title: "kernel panic: stack is corrupted in {F}", rule: blameTrace},
		{start: re(`^Kernel panic - not syncing: corrupted stack end`), title: "kernel panic: corrupted stack end in {F}", alts: []string{"stack-overflow in {F}"}, rule: blameDeep},
		{start: re(`^Kernel panic - not syncing: kernel stack overflow`), title: "kernel panic: kernel stack overflow in {F}", alts: []string{"stack-overflow in {F}"}, rule: blameDeep},
		{start: re(`^Kernel panic - not syncing: Attempted to kill (init|the idle task)!`), title: "kernel panic: Attempted to kill {1}!", noStack: true},
		{start: re(`^Kernel panic - not syncing: Requested init (\S+) failed`), title: "kernel panic: Requested init failed", noStack: true},
		{start: re(`^Kernel panic - not syncing: (No working init found.*)`), title: "kernel panic: {1}", noStack: true},
		{start: re(`^Kernel panic - not syncing: (VFS: Unable to mount root fs.*)`), title: "kernel panic: {1}", noStack: true},
		{start: re(`^Kernel panic - not syncing: (.*panic_on_warn set|panic_on_\w+ set)`), title: "kernel panic: panic_on_warn set", cut: true},
		{start: re(`^Kernel panic - not syncing: CFI failure \(target: `), title: "CFI failure in {F}", rule: blameTrace},
		// kernel/hung_task.c panics after it has named the task.
		{start: re(`^Kernel panic - not syncing: (hung_task: blocked tasks)`), title: "kernel panic: {1}", cut: true},
		// drivers/tty/tty_ldisc.c, which names the terminal as well.
		{start: re(`^Kernel panic - not syncing: (Couldn't open N_TTY ldisc) for `), title: "kernel panic: {1}"},
		{start: re(`^Kernel panic - not syncing: (Fatal exception)`), title: "kernel panic: {1}", cut: true},
		{start: re(`^Kernel panic - not syncing: (.+)`), title: "kernel panic: {1}"},
		{start: re(`^Kernel panic - not syncing:\s*$`), title: "kernel panic: corrupted", cut: true},
	}}}
}

// otherTable holds reports with words of their own.
func otherTable() []*oops {
	return []*oops{
		{header: "UBSAN: ", formats: []format{
			{start: re(`^UBSAN: Undefined behaviour in `), title: "UBSAN: undefined-behaviour in {F}", rule: blameTrace},
			{start: re(`^UBSAN: (array-index-out-of-bounds) in `), title: "UBSAN: {1} in {F}", alts: []string{badAccess}, rule: blameTrace},
			{start: re(`^UBSAN: ([a-z][a-z\-]+) in `), title: "UBSAN: {1} in {F}", rule: blameTrace},
		}, not: compile(`^UBSAN: (?:[a-z\-]+ )?(?:enabled|loaded)`)},
		{header: "unreferenced object 0x", formats: []format{
			{start: re(`^unreferenced object 0x`), title: "memory leak in {F}", rule: blameLeak, noStack: true},
		}, trap: true},
		{header: "Watchdog detected hard LOCKUP", formats: []format{
			{start: re(`^Watchdog detected hard LOCKUP`), title: "BUG: hard lockup in {F}", alts: []string{"stall in {F}"}, rule: blameLoop, allContexts: true, bucket: true},
		}},
		{header: "Watchdog CPU:", formats: []format{
			{start: re(`^Watchdog CPU:\d+ Hard LOCKUP`), title: "BUG: hard lockup in {F}", alts: []string{"stall in {F}"}, rule: blameLoop, allContexts: true, bucket: true},
		}},
		{header: "unregister_netdevice: waiting for", repeat: true, formats: []format{
			{start: re(`^unregister_netdevice: waiting for (?:\S+) to become free`), title: "unregister_netdevice: waiting for DEV to become free", noStack: true},
		}},
		{header: "CFI failure at ", formats: []format{
			// kernel/cfi.c since 6.1
			{start: re(`^CFI failure at {{FUNC}}`), title: "CFI failure in {F}", named: 1, rule: blameNamed, noStack: true},
		}},
		// fs/open.c
		{header: "VFS: Close: file count is", formats: []format{
			{start: re(`^VFS: Close: file count is (?:0|zero)`), title: "VFS: Close: file count is zero (use-after-free)", noStack: true},
		}},
		{header: "VFS: close: file count is", formats: []format{
			{start: re(`^VFS: close: file count is (?:0|zero)`), title: "VFS: Close: file count is zero (use-after-free)", noStack: true},
		}},
		{header: "VFS: Busy inodes after unmount", repeat: true, formats: []format{
			{start: re(`^VFS: Busy inodes after unmount`), title: "VFS: Busy inodes after unmount (use-after-free)", noStack: true},
		}},
		{header: "EXT4-fs error (device ", repeat: true, strict: true, formats: []format{
			{start: re(`^EXT4-fs error \(device [^)]*\): {{FUNC}}:\d+`), title: "EXT4-fs error in {1}", named: 1, rule: blameSelf, noStack: true},
			{start: re(`^EXT4-fs error \(device [^)]*\)`), title: "EXT4-fs error", noStack: true},
		}, abroad: loopFS},
		{header: "rust_kernel: panicked at", formats: []format{
			// rust/kernel/lib.rs; the message stood in quotes before Rust 1.73.
			{start: re(`^rust_kernel: panicked at '(.+)', \S+:\d+:\d+`), title: "{1} in {F}", rule: blamePC},
			{start: re(`^rust_kernel: panicked at `), body: re(`(?m)\A(.+)$`), title: "{1} in {F}", rule: blamePC},
		}},
		{header: "trusty: ", formats: []format{
			{start: re(`^trusty: .*ASSERT FAILED at \([^)]*\): (.+)`), title: "trusty: ASSERT FAILED: {1}", noStack: true},
			{start: re(`^trusty: panic \(caller [^)]*\): (.+)`), title: "trusty: panic: {1}", noStack: true},
		}},
		// Go's runtime (runtime/panic.go), in the logs of what runs programs of Go in
		// the machine.
		{header: "panic: ", program: true, formats: []format{{start: re(`^panic: (.+)`), title: "panic: {1}", noStack: true}}},
		{header: "fatal error: ", program: true, formats: []format{{start: re(`^fatal error: `), title: "go runtime error", noStack: true}}},
		// What a fuzzer's helper programs print when they fail.
		{header: "SYZFAIL: ", formats: []format{{start: re(`^SYZFAIL: (.+)`), title: "SYZFAIL: {1}", noStack: true}}},
		{header: "SYZFATAL: ", formats: []format{{start: re(`^SYZFATAL: (.+)`), title: "SYZFATAL: {1}", alts: []string{"SYZFATAL"}, noStack: true}}},
	}
}

// loopFS matches file systems on loop devices: fuzzers mount images there that
// are broken on purpose.
var loopFS = compile(`\(device loop\d+\)`)
