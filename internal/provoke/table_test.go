// SPDX-License-Identifier: Apache-2.0

package provoke

import (
	"time"

	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/result"
)

// noFailure are crash types after which the kernel is well, by their own
// account (drivers/misc/lkdtm).
var noFailure = map[string]string{
	"REPORT_STACK": "reports only", "REPORT_STACK_CANARY": "reports only", "UNALIGNED_LOAD_STORE_WRITE": "allowed on x86",
	"OVERFLOW_UNSIGNED": "defined in C", "REFCOUNT_SUB_AND_TEST_ZERO": "allowed", "SLAB_INIT_ON_ALLOC": "reports only", "BUDDY_INIT_ON_ALLOC": "reports only",
	"ATOMIC_TIMING": "measures only", "REFCOUNT_TIMING": "measures only", "STACKLEAK_ERASING": "reports only",
	"DOUBLE_FAULT": "ia32 only", "CORRUPT_PAC": "arm64 only", "WRITE_OPD": "ppc64 only", "CFI_FORWARD_PROTO": "needs clang's CFI",
	"CFI_BACKWARD": "arm64 only", "KFENCE_READ_AFTER_FREE": "KASAN takes its place",
	"WRITE_BUDDY_AFTER_FREE": "gcc 12 inlines the memset, and KASAN does not see it",
	"SLAB_FREE_PAGE":         "6.12's kmem_cache_free ignores what is no slab",
	"OVERFLOW_SIGNED":        "defined under -fno-strict-overflow",
}

// pageFault is what writes to protected and jumps to unexecutable memory are.
func pageFault(test, in string) row {
	return row{test: test, title: "BUG: unable to handle kernel paging request in " + in, kind: oops.MemorySafetyBug}
}

// lost accepts a report without a function to blame: the unwinder cannot get past
// a program counter that is in no function, and marks all frames as doubtful.
func lost(r row) row {
	r.corrupted = true
	return r
}

func refcount(test string) row {
	return row{test: test, title: "WARNING: refcount bug in lkdtm_" + test, kind: oops.RefcountWarning}
}

func atBoot(crash string) []string {
	return []string{"lkdtm.cpoint_name=DIRECT", "lkdtm.cpoint_type=" + crash}
}

func usercopy(test, in string) row {
	return row{test: "USERCOPY_" + test, title: "BUG: bad usercopy in " + in, kind: oops.Bug, needs: "HARDENED_USERCOPY"}
}

func fortify(test string) row {
	in := "lkdtm_FORTIFY_" + test
	return row{test: "FORTIFY_" + test, title: "WARNING in " + in, kind: oops.Warning, also: "kernel BUG in " + in, needs: "FORTIFY_SOURCE"}
}

var batches = []batch{
	{rows: []row{
		{test: "PANIC", title: "kernel panic: dumptest", kind: oops.DoS},
		{test: "PANIC_STOP_IRQOFF", title: "kernel panic: panic stop irqoff test", kind: oops.DoS},
		{test: "BUG", title: "kernel BUG in lkdtm_BUG", kind: oops.Bug},
		{test: "WARNING", title: "WARNING in lkdtm_WARNING", kind: oops.Warning},
		{test: "WARNING_MESSAGE", title: "WARNING in lkdtm_WARNING_MESSAGE", kind: oops.Warning},
		{test: "EXCEPTION", title: "general protection fault in lkdtm_EXCEPTION", kind: oops.DoS},
		{test: "CORRUPT_STACK", title: "KASAN: stack-out-of-bounds Write in lkdtm_CORRUPT_STACK", kind: oops.KASANWrite},
		{test: "CORRUPT_STACK_STRONG", title: "KASAN: stack-out-of-bounds Write in lkdtm_CORRUPT_STACK_STRONG", kind: oops.KASANWrite},
		{test: "CORRUPT_LIST_ADD", title: "WARNING in lkdtm_CORRUPT_LIST_ADD", kind: oops.Warning},
		{test: "CORRUPT_LIST_DEL", title: "WARNING in lkdtm_CORRUPT_LIST_DEL", kind: oops.Warning},
		{test: "UNSET_SMEP", title: "WARNING in native_write_cr4", kind: oops.Warning},
	}},
	{rows: []row{
		{test: "SLAB_LINEAR_OVERFLOW", title: "KASAN: slab-out-of-bounds Write in lkdtm_SLAB_LINEAR_OVERFLOW", kind: oops.KASANWrite},
		{test: "VMALLOC_LINEAR_OVERFLOW", title: "KASAN: vmalloc-out-of-bounds Write in lkdtm_VMALLOC_LINEAR_OVERFLOW", kind: oops.KASANWrite, needs: "KASAN_VMALLOC"},
		{test: "WRITE_AFTER_FREE", title: "KASAN: slab-use-after-free Write in lkdtm_WRITE_AFTER_FREE", kind: oops.KASANUAFWrite},
		{test: "READ_AFTER_FREE", title: "KASAN: slab-use-after-free Read in lkdtm_READ_AFTER_FREE", kind: oops.KASANUAFRead},
		{test: "READ_BUDDY_AFTER_FREE", title: "KASAN: use-after-free Read in lkdtm_READ_BUDDY_AFTER_FREE", kind: oops.KASANUAFRead},
		{test: "SLAB_FREE_DOUBLE", title: "KASAN: double-free in lkdtm_do_action", kind: oops.KASANInvalidFree},
		{test: "SLAB_FREE_CROSS", title: "WARNING in lkdtm_do_action", kind: oops.Warning, needs: "SLAB_FREELIST_HARDENED"},
	}},
	{together: true, rows: []row{
		pageFault("WRITE_RO", "lkdtm_WRITE_RO"),
		pageFault("WRITE_RO_AFTER_INIT", "lkdtm_WRITE_RO_AFTER_INIT"),
		pageFault("WRITE_KERN", "lkdtm_WRITE_KERN"),
		pageFault("EXEC_DATA", "data_area"),
		lost(pageFault("EXEC_STACK", "corrupted")),
		lost(pageFault("EXEC_KMALLOC", "corrupted")),
		lost(pageFault("EXEC_VMALLOC", "corrupted")),
		pageFault("EXEC_RODATA", "lkdtm_rodata_do_nothing"),
		lost(pageFault("EXEC_USERSPACE", "corrupted")),
		{test: "EXEC_NULL", title: "BUG: unable to handle kernel NULL pointer dereference in execute_location", kind: oops.NullPointer},
		{test: "ACCESS_USERSPACE", title: "general protection fault in lkdtm_ACCESS_USERSPACE", kind: oops.DoS},
		{test: "ACCESS_NULL", title: "general protection fault in lkdtm_ACCESS_NULL", kind: oops.DoS},
	}},
	{rows: []row{
		{test: "STACK_GUARD_PAGE_LEADING", title: "KASAN: vmalloc-out-of-bounds Read in lkdtm_STACK_GUARD_PAGE_LEADING", kind: oops.KASANRead,
			also: "BUG: stack guard page was hit in full_proxy_write", needs: "VMAP_STACK"},
		{test: "STACK_GUARD_PAGE_TRAILING", title: "KASAN: vmalloc-out-of-bounds Read in lkdtm_STACK_GUARD_PAGE_TRAILING", kind: oops.KASANRead,
			also: "BUG: unable to handle kernel paging request in lkdtm_STACK_GUARD_PAGE_TRAILING", needs: "VMAP_STACK"},
		{test: "ARRAY_BOUNDS", title: "UBSAN: array-index-out-of-bounds in lkdtm_ARRAY_BOUNDS", kind: oops.MemorySafetyUBSAN, needs: "UBSAN_BOUNDS"},
		{test: "FAM_BOUNDS", title: "UBSAN: array-index-out-of-bounds in lkdtm_FAM_BOUNDS", kind: oops.MemorySafetyUBSAN, needs: "CC_HAS_COUNTED_BY"},
	}},
	{together: true, rows: []row{
		usercopy("SLAB_SIZE_TO", "do_usercopy_slab_size"), usercopy("SLAB_SIZE_FROM", "do_usercopy_slab_size"), usercopy("SLAB_WHITELIST_TO", "do_usercopy_slab_whitelist"),
		usercopy("SLAB_WHITELIST_FROM", "do_usercopy_slab_whitelist"), usercopy("STACK_FRAME_TO", "do_usercopy_stack"), usercopy("STACK_FRAME_FROM", "do_usercopy_stack"),
		usercopy("STACK_BEYOND", "do_usercopy_stack"), usercopy("FOLIO", "do_usercopy_page_span"), usercopy("KERNEL", "lkdtm_USERCOPY_KERNEL"),
		{test: "USERCOPY_VMALLOC", title: "KASAN: vmalloc-out-of-bounds Read in do_usercopy_page_span", kind: oops.KASANRead, needs: "KASAN_VMALLOC"},
		fortify("STR_OBJECT"), fortify("STR_MEMBER"), fortify("MEM_OBJECT"), fortify("STRSCPY"),
		{test: "FORTIFY_MEM_MEMBER", title: "WARNING in lkdtm_FORTIFY_MEM_MEMBER", kind: oops.Warning, needs: "FORTIFY_SOURCE"},
	}},
	{together: true, rows: []row{
		refcount("REFCOUNT_INC_OVERFLOW"), refcount("REFCOUNT_ADD_OVERFLOW"), refcount("REFCOUNT_INC_NOT_ZERO_OVERFLOW"),
		refcount("REFCOUNT_ADD_NOT_ZERO_OVERFLOW"), refcount("REFCOUNT_DEC_ZERO"), refcount("REFCOUNT_DEC_NEGATIVE"),
		refcount("REFCOUNT_DEC_AND_TEST_NEGATIVE"), refcount("REFCOUNT_SUB_AND_TEST_NEGATIVE"),
		refcount("REFCOUNT_INC_ZERO"), refcount("REFCOUNT_ADD_ZERO"), refcount("REFCOUNT_INC_SATURATED"), refcount("REFCOUNT_DEC_SATURATED"),
		refcount("REFCOUNT_ADD_SATURATED"), refcount("REFCOUNT_INC_NOT_ZERO_SATURATED"), refcount("REFCOUNT_ADD_NOT_ZERO_SATURATED"),
		refcount("REFCOUNT_DEC_AND_TEST_SATURATED"), refcount("REFCOUNT_SUB_AND_TEST_SATURATED"),
	}},
	// The kernel's own watchdogs. Who loops is found at ever other places: the
	// public dashboard names the function below the system call.
	{rows: []row{
		{test: "SOFTLOCKUP", title: "BUG: soft lockup in full_proxy_write", kind: oops.Hang},
		{test: "HARDLOCKUP", title: "BUG: hard lockup in full_proxy_write", kind: oops.Hang},
		{test: "SMP_CALL_LOCKUP", title: "BUG: soft lockup in smp_call_function", kind: oops.Hang},
		{test: "SPINLOCKUP", title: "BUG: (sleeping function called from invalid context|scheduling while atomic) in .*", kind: oops.AtomicSleep, also: "BUG: soft lockup in full_proxy_write"},
		{test: "HUNG_TASK", title: "INFO: task hung in lkdtm_HUNG_TASK", kind: oops.Hang},
		{test: "RCUStall", title: "INFO: rcu detected stall in full_proxy_write", kind: oops.Hang},
	}},
	{rows: []row{
		{test: "SysrqCrash", title: "kernel panic: sysrq triggered crash", kind: oops.DoS},
		{test: "AfterMuted", title: "kernel panic: sysrq triggered crash", kind: oops.DoS},
		{test: "InitKilled", title: "kernel panic: Attempted to kill init!", kind: oops.DoS},
		{test: "OOMPanic", title: "kernel panic: Out of memory: compulsory panic_on_oom is enabled", kind: oops.DoS},
		{test: "PanicOnWarn", title: "WARNING in lkdtm_WARNING", kind: oops.Warning},
		{test: "PanicOnOops", title: "general protection fault in lkdtm_EXCEPTION", kind: oops.DoS},
	}},
	// Before any test (Documentation/fault-injection/provoke-crashes.rst).
	{rows: []row{{test: "BootWarning", title: "WARNING in lkdtm_WARNING", kind: oops.Warning, boot: true}}, cmdline: atBoot("WARNING")},
	{rows: []row{{test: "BootPanic", title: "kernel panic: dumptest", kind: oops.DoS, boot: true}}, cmdline: atBoot("PANIC")},
	{rows: []row{{test: "BootLoop", boot: true, reason: "did not boot within .*; kernel: CPU [01] in lkdtm_LOOP", verdict: result.VerdictInfra}}, cmdline: atBoot("LOOP")},
	// Who says what comes.
	{rows: []row{
		{test: "ExpectedWarning", title: "WARNING in lkdtm_WARNING", kind: oops.Warning, expected: true, verdict: result.VerdictPass},
		{test: "ExpectedBUG", title: "kernel BUG in lkdtm_BUG", kind: oops.Bug, expected: true, verdict: result.VerdictPass},
	}},
	{rows: []row{
		{test: "ExpectedInVain", reason: `no kernel splat titled "WARNING in \.\*" came`},
		{test: "ExpectedOther", title: "WARNING in lkdtm_WARNING", kind: oops.Warning, reason: `no kernel splat titled "WARNING in nobody" came`},
	}},
	// Nobody prints anything: VMs that end.
	{rows: []row{
		{test: "SysrqReboot", reason: "the VM ended during this test: reset", verdict: result.VerdictTestFailed},
		{test: "SysrqPowerOff", reason: "the VM ended during this test: power-off", verdict: result.VerdictTestFailed},
		{test: "PowerOff", reason: "the VM ended during this test: power-off", verdict: result.VerdictTestFailed},
		{test: "Restart", reason: "the VM ended during this test: reset", verdict: result.VerdictTestFailed},
	}},
	{rows: []row{{test: "TripleFault", reason: "the VM ended during this test: reset", verdict: result.VerdictNoEndMarker}}, cmdline: []string{"reboot=triple"}},
	{rows: []row{{test: "EXHAUST_STACK", title: "BUG: stack guard page was hit in full_proxy_write", kind: oops.Unknown, needs: "VMAP_STACK"}}, timeout: 20 * time.Second},
	// Hangs, which only the host notices.
	{rows: []row{{test: "Halt", reason: "in TestHalt.*did not answer", verdict: result.VerdictHung}}, timeout: 15 * time.Second},
	{rows: []row{
		{test: "LOOP", reason: "in TestLOOP at .*kernel: CPU [01] in lkdtm_LOOP", verdict: result.VerdictHung,
			autopsy: `RIP: 0010:lkdtm_LOOP\+\S+ drivers/misc/lkdtm/bugs\.c:\d+`},
		{test: "HungTaskSilent", reason: "in TestHungTaskSilent at .*task init blocked in lkdtm_HUNG_TASK", verdict: result.VerdictHung,
			autopsy: `lkdtm_HUNG_TASK\+\S+ drivers/misc/lkdtm/bugs\.c:\d+`},
	}, timeout: 15 * time.Second},
	{rows: []row{{test: "AllCPUs", reason: "in TestAllCPUs.*kernel: CPU [01] in .*lkdtm_SMP_CALL_LOCKUP", verdict: result.VerdictHung}}, timeout: 15 * time.Second},
	{rows: []row{{test: "HungTaskNoPanic", title: "INFO: task hung in lkdtm_HUNG_TASK", kind: oops.Hang}}, timeout: 20 * time.Second},
	{rows: []row{{test: "OopsOwnThread", title: "kernel BUG in lkdtm_BUG", kind: oops.Bug}}, timeout: 15 * time.Second},
	// The test binary ends, the kernel is well.
	{rows: []row{{test: "OOMKilled", verdict: result.VerdictTestFailed}}},
	{rows: []row{{test: "Killed", verdict: result.VerdictTestFailed}}},
	{rows: []row{{test: "Exit", verdict: result.VerdictTestFailed}}},
	{rows: []row{{test: "Wait", reason: "QEMU died: .*killed", verdict: result.VerdictInfra}}, kill: true},
}
