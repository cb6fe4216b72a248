package oops

import (
	"strings"
)

// never lists, by subject, the functions that are never to blame: they report
// bugs, enter the kernel, or are helpers whose callers passed them bad data.
// Patterns are matched against names without clone suffixes. Functions that are
// ever a bug's home on their own (a container's lookup, an iterator, a
// reference's release) do not belong here.
var never = [][]string{
	// Printing and reporting.
	{
		`^_*dump_(stack|backtrace|page|header|cpu_task)`, `^_*show_(stack|trace|regs)`, `^walk_stackframe`, `^unwind_backtrace`,
		`^print_(?:address_description|report|error_description|stack_trace|modules|tainted|vma_addr|tracking|track|section|trailer|page_info|bad_\w+|irqtrace_events|unreferenced|(?:other_)?cpu_stall\w*|unlock\w*|lock\w*|held_lock\w*|shadow\w*|\w*bug(?:_header|_entry)?$)`, `^_*v?printk`, `^vprintk`, `^_*(dev|netdev)_(err|warn|info|printk|crit|alert|emerg|notice)`,
		`^_*warn(_|$)`, `^warn_slowpath`, `report_bug`, `^_*panic`, `^nmi_panic`, `^check_panic_on_warn`, `^fixup_bug`, `^handle_bug`, `^bug_(handler|brk)`, `^(exc_|asm_exc_|do_)?invalid_op`,
		`^_*k?cfi_`, `report_cfi`, `ubsan`, `^val_to_string`, `^stack_trace_`, `^save_(stack|trace)`, `^arch_stack_walk`, `^(stack_)?depot_`, `^stack_depot`, `^bad_page$`, `^__stack_chk_fail`,
		`^rust_(begin_unwind|helper_|panic)`, `^__rust_`, `^<?(core|alloc|std|compiler_builtins)::`, `^(__rustc|rustc\w*)::`, `^kernel::(print|error)`,
		`^kernel_init_free_pages`, `^__?invalid_creds`, `^refcount_(warn|error)`, `^debug_print_object`, `^skb_(panic|over_panic|under_panic|put|push)$`, `^__?vma_(dump|assert)`,
	},
	// Sanitizers and memory debugging.
	{
		`kasan`, `^_*asan`, `^_*hwasan`, `^_*msan`, `kmsan`, `^_*tsan`, `kcsan`, `kfence`, `__sanitizer`, `^memory_is_`, `^bytes_is_nonzero`, `^check_(memory_region|region_inline)`,
		`^instrument_`, `^_*check_(heap_object|object|stack_object|page_span|kernel_text_object|bogus_address)`, `^usercopy_`, `^report_usercopy`, `^read_word_at_a_time`, `^(read|write)_once`,
		`^_*debug_(object|check_no_obj|check_no_locks|dma_assert|timer_|work_|hrtimer_|rcu_head)`, `debug_objects?_`, `^(timer|work|hrtimer)_is_static_object`, `^kmemleak`, `^_*fortify`,
		`^object_err`, `^check_(bytes|pad|slab)_?`, `^slab_`, `^slob_`, `^(free|alloc)_debug`, `^free_to_partial_list`, `^qlist_`, `^quarantine_`, `^_*(re)?set_page_owner`,
		`virt_to_phys`, `^_*phys_addr`, `^_*virt_addr_valid`,
	},
	// Allocation and freeing.
	{
		`^_*(pcpu_|sock_|devm_|dma_|kv|k|v)*[mzc]alloc`, `^_*kv?(m|z|re|c)alloc`, `^_*devm_k`, `^_*kv?mem_?dup`, `^_*kstrn?dup`, `^memdup_`, `^vmemdup`, `^strndup_user`, `^kv?asprintf`,
		`^_*kmem_cache`, `^_*k[vz]*free(_const|_sensitive|_bulk)?$`, `^vmap_pages`, `^_*get_vm_area`, `^alloc_vmap_area`, `^(allocate|new)_slab`,
		`^_*alloc_(pages?|frozen)`, `^get_page_from_freelist`, `^prep_new_page`, `^post_alloc_hook`, `^_*get_free_pages`, `^get_zeroed_page`,
		`^_*(filemap_)?(alloc|get)_folio`, `^_*folio_alloc`, `^_*filemap_(alloc|get)_folio`, `^_*page_cache_alloc`, `^find_or_create_page`, `^do_read_cache_(folio|page)`, `^read_cache_(page|folio)`, `^pagecache_get_page`, `^grab_cache_page`,
		`^mempool_alloc`, `^_*kmalloc_reserve`, `kfree_skb`,
	},
	// Locks, lockdep, and what may sleep.
	{
		`^_*lock_(acquire|release|acquired|contended|is_held|pin|unpin|downgrade|set_class|map_)`, `lockdep`, `^mark_(lock|held|usage)`, `^_*mark_held`, `^validate_chain`, `^check_(prevs?_add|noncircular|usage|irq_usage|deadlock|wait_context|flags$)`, `^register_lock_class`, `^look_up_lock_class`, `^reacquire_held_locks`, `^find_held_lock`, `^(un)?graph_lock`, `^get_lock_parent_ip`, `^assign_lock_key`, `^add_lock_to`, `^lookup_chain`,
		`^_*(do_)?_*raw_(spin|read|write)_`, `^_*do_raw_(spin|read|write)`, `spin_(lock|unlock|trylock|is_locked|bug|dump)`, `^(native_)?queued_(spin|read|write)_`, `^_*pv_(queued|kick|wait)`, `^kvm_wait$`, `^(read|write)_(lock|unlock|trylock|seq)`, `^rwlock_bug`,
		`^_*(down|up)_(read|write|interruptible|killable|timeout|trylock)`, `^_*(down|up)(_common)?$`, `^_*downgrade_write`, `^_*rwsem_`, `^_*percpu_(down|up|rwsem)`, `^_*mutex_`, `^_*ww_mutex`, `^_*rt_(mutex|spin|read|write)_`, `^rt_?lock`, `^rtlock_`, `^osq_`, `^owner_on_cpu`, `^mcs_spin`, `^local_lock`, `^bit_spin`,
		`^_*might_(sleep|fault|resched|alloc)`, `^_*cant_sleep`, `^_*cond_resched`, `^check_preemption_disabled`, `^_*this_cpu_preempt_check`, `^debug_smp_processor_id`, `^preempt_(count|latency)`, `^_*preempt_schedule`, `^_*schedule_bug`, `^_*schedule(_timeout\w*|_preempt_disabled|_idle|_rtlock|_hrtimeout\w*|_debug)?$`,
		`^_*trace_(hardirqs|preempt|softirqs|irq)`, `^(hard|soft)irqs?_o`, `^rcu_lock_`, `^_*rcu_read_(lock|unlock)`, `^rcu_(note_|is_watching|dynticks|nmi_|irq_|eqs_|preempt_deferred)`, `^ct_(irq|nmi|kernel|idle)`, `^_*local_bh_(enable|disable)`, `^_*(arch|raw)_local_(irq|save)`, `^native_(save_fl|restore_fl|irq_)`,
	},
	// Bits, counters, references, strings, user copies, containers.
	{
		`^_*(arch_|raw_|generic_|instrumented_)*atomic(?:64|_long)?_(?:dec|inc|read|set|x?or|and|add|sub|fetch|x?chg|cmpxchg|try|cond)`, `^_*(arch_|generic_|const_)*_*(test|set|clear|change)_(and_(set|clear|change)_)?bit`, `^_*refcount_`, `^_*kref_`, `^_*(cmp)?xchg`, `^_*find_(next|first|last)_(zero_)?bit`,
		`^_*(pi_|fortify_)?mem(cpy|set|move|cmp|chr|scan|chr_inv|zero)`, `^_*str[nls]?(cpy|len|cat|cmp|casecmp|ncasecmp|chr|rchr|str|nlen|scpy|sep|pbrk|spn|ncpy|ncmp|nchr|chrnul)(_|$|[0-9])`, `^sized_str`, `^rep_(movs|stos)`,
		`copy_(from|to|in)_user`, `^_*copy_user_`, `^logic_(in|out)[bwl]$`, `^_*(?:raw_)?(?:read|write|in|out|ioread|iowrite)(?:[bwlq]|8|16|32|64)(?:_relaxed)?$`, `^_*copy_(from|to)_iter`, `^copy_(page|folio)_(from|to)_iter`, `^copy(in|out)(_mc\w*|_nofault)?$`, `^_*(get|put)_user(?:_(?:\d+|nocheck\w*|asm\w*|size|unaligned|bad|check|nofault|kernel\w*|inatomic))*$`, `^strn(len|cpy)_user`, `^strncpy_from_user`, `^_*clear_user`, `^simple_copy_to_iter`,
		`^_*list_(add|del|move|splice|replace)(?:_(?:tail|init|rcu|valid|or|report|entry|careful|clearprev|head|bulk))*$`, `^_*hlist_`, `^_*rb_(erase|insert|first|next|prev|last|link)(?:_(?:color|cached|augmented|node\w*|postorder|rcu))*$`,
	},
	// Waiting, waking, timers and work queues, RCU.
	{
		`^__wake_up`, `^swake_up`, `^_*finish_wait`, `^prepare_to_wait`, `^complete(_all|_with_flags)?$`, `^_*wait_for_(completion|common)`, `^do_wait_for_common`, `^_*sched_show_task`, `^_*switch_to(?:_asm|_xtra)?$`, `^context_switch`,
		`^_*(del|try_to_del)_timer`, `^_*(try_to_)?timer_(delete|shutdown)`, `^mod_delayed_work`, `^_*(kthread_)?queue_(work|delayed_work|rcu_work)`, `^insert_work`, `^_*(kthread_)?flush_(work|delayed_work)`, `^try_to_grab_pending`, `^kthread_stop`, `^_*(drain|destroy|flush)_workqueue`, `^_*cancel_(work|delayed_work)`, `^_*call_rcu`, `^k(v)?free_call_rcu`, `^_*call_srcu`, `^rcu_segcblist`,
	},
	// Device model and references by another name.
	{
		`^_*kobject_`, `^add_uevent_var`, `^klist_`, `^(get|put)_device$`, `^get_device_parent`, `^device_(add|del|unregister|register|destroy|release|initialize|remove_file|for_each_child)$`, `^devres_`, `^release_nodes`, `^__unregister_client`, `sysfs_remove`, `^iput(_final)?$`, `^(drop|clear|inc|set)_nlink$`, `^_*folio_(lock|unlock|wake)`, `^_*(un)?lock_page$`,
	},
	// Traps, faults and interrupts of all architectures.
	{
		`^_*do_(error_trap|trap|kern_addr_fault|general_protection|double_fault|divide_error|int3|kernel_fault|translation_fault|mem_abort|sp_pc_abort|tag_check|tag_recovery|DataAbort|PrefetchAbort|sect_fault|undef|debug_exception|el0_undef|el1_undef|alignment_fault|report_trap|IRQ)`, `^(asm_)?exc_`, `^error_entry`, `^general_protection$`, `^divide_error$`, `^_*die(_kernel_fault|_addr|_body)?$`, `^oops_(end|begin|enter)`, `^no_context`, `^do_bad_area$`, `^bad_(mode|page_fault|kernel|trap)`, `^page_fault_oops`, `^kernelmode_fixup`, `^fixup_exception`, `^arm64_(notify_die|force_sig)`, `^notify_die`,
		`^_*el1`, `^(brk|bug|reserved_fault)_handler`, `^call_break_hook`, `^early_brk64`, `^_*(dabt|irq|und|pabt)_(svc|usr)`, `^handle_exception$`, `^(program_check|data_access|instruction_access|alignment|unrecoverable)_(exception|common|virt|slb)`, `^hash__do_page_fault`, `^_*pgm_check`, `^_*do_pgm_check`, `^do_trap`, `^(?:bad|handle|unhandled)_trap$`, `^trap_`, `^handle_(bad_stack|stack_overflow)`,
		`^(asm_)?common_interrupt`, `^(asm_)?_*sysvec_`, `^(smp_)?(trace_)?(local_)?apic_timer_interrupt`, `^_*x86_(indirect|return)`, `^srso_`, `^retbleed_`, `^entry_(untrain|ibpb)`, `^clear_bhb`, `^_*warn_thunk`, `^_*trace_hardirqs_off_thunk`, `^preempt_schedule_thunk`, `^(ignore|is)_spurious_`,
	},
	// What the table of helpers (helper.go) lists under the names that kernels
	// before 6.1 had for it.
	{
		`^crypto_\w*(?:cipher|hash)_(?:encrypt|decrypt|crypt|digest|update|final|finup|setkey|op)`, `^skcipher_crypt_a?blkcipher`, `^aesti?_(?:en|de)crypt`, `^(?:poly_hash|ghash|chacha20|poly1305|salsa20|sha\d+|crct10dif)_\w*(?:update|final|transform|block|crypt|asm|avx|ssse3)`,
		`^unregister_netdev`, `^rollback_registered`, `^crc\d+|^crc_(?:itu|ccitt)`,
	},
	// Tracing, fault injection and coverage.
	{
		`^trace_event_(raw|buffer)`, `^_*traceiter`, `^perf_trace_(run|buf_update)`, `^_*should_fail`, `^fail_dump`, `^write_comp_data`, `^check_kcov_mode`,
	},
}

var neverRe = compile(alternation(never))

// alternation joins lists of patterns into one expression.
func alternation(lists [][]string) string {
	var all []string
	for _, l := range lists {
		all = append(all, l...)
	}
	return "(?:" + strings.Join(all, ")|(?:") + ")"
}

// innocent reports whether fn can never be blamed.
func innocent(fn string) bool {
	return (isHelper(fn) || neverRe.MatchString(fn)) && !spared.MatchString(fn)
}

// spared matches functions that a pattern of never fits by chance: they pin pages
// on their own account (mm/gup.c), walk page tables (mm/vmalloc.c), or are KASAN's tests, named after what they do
// (mm/kasan/kasan_test_c.c).
var spared = compile(`^_*(?:get|pin)_user_pages|^vmalloc_(?:to_|init$|info|dump)|^k(?:m?alloc|mem_cache|size|free|realloc)\w*_(?:oob|uaf|double_free|invalid_free)`)

// entryPrefixes are what the architectures and the system call macros put
// before a system call's own name. The first that fits is stripped; what was
// stripped is kept as an alternative title.
var entryPrefixes = []string{
	"__x64_", "__ia32_", "__x32_", "__arm64_", "__riscv_", "__s390x_", "__s390_", "__powerpc_", "__loongarch_", "__mips_",
	"__se_compat_", "__se_", "__do_compat_sys_", "__do_",
	"compat_SyS_", "compat_SYSC_", "SyS_", "SYSC_", "sys_",
}

// plainName strips the decorations of system call entry points.
func plainName(fn string) string {
	for _, p := range entryPrefixes {
		rest, ok := strings.CutPrefix(fn, p)
		if !ok || rest == "" {
			continue
		}
		// "__do_fault" and "__se_x" are functions of their own; only system
		// calls lose these prefixes.
		if strings.HasPrefix(p, "__") && !strings.HasPrefix(rest, "sys_") && !strings.HasPrefix(rest, "compat_sys_") {
			continue
		}
		if p == "__se_" || p == "__do_" {
			// The body of the call, which exists whatever enters it.
			return strings.TrimPrefix(rest, "sys_")
		}
		return rest
	}
	return fn
}

// callNames returns the names that a function blamed, plain in titles, has in
// other titles.
func callNames(plain, fn string) []string {
	names := []string{plain, fn}
	if strings.HasSuffix(fn, "_sys_"+plain) {
		names = append(names, "sys_"+plain)
	}
	return names
}
