package oops

import "strings"

// Kind is the type of a report. The strings are those of the public dashboard.
type Kind string

// Kinds of reports. Unknown is the kind of reports that have a title but no
// class of their own (e.g. "BUG: Bad page state in ...").
const (
	Unknown           Kind = ""
	AtomicSleep       Kind = "ATOMIC_SLEEP"
	Bug               Kind = "BUG"
	DoS               Kind = "DoS"
	Hang              Kind = "HANG"
	KASANInvalidFree  Kind = "KASAN-INVALID-FREE"
	KASANNullRead     Kind = "KASAN-NULL-POINTER-DEREFERENCE-READ"
	KASANNullWrite    Kind = "KASAN-NULL-POINTER-DEREFERENCE-WRITE"
	KASANRead         Kind = "KASAN-READ"
	KASANUAFRead      Kind = "KASAN-USE-AFTER-FREE-READ"
	KASANUAFWrite     Kind = "KASAN-USE-AFTER-FREE-WRITE"
	KASANWrite        Kind = "KASAN-WRITE"
	KCSANAssert       Kind = "KCSAN-ASSERT"
	KCSANDataRace     Kind = "KCSAN-DATARACE"
	KCSANUnknown      Kind = "KCSAN-UNKNOWN"
	KFENCEInvalidFree Kind = "KFENCE-INVALID-FREE"
	KFENCECorruption  Kind = "KFENCE-MEMORY-CORRUPTION"
	KFENCERead        Kind = "KFENCE-READ"
	KFENCEWrite       Kind = "KFENCE-WRITE"
	KFENCEUAFRead     Kind = "KFENCE-USE-AFTER-FREE-READ"
	KFENCEUAFWrite    Kind = "KFENCE-USE-AFTER-FREE-WRITE"
	KMSANInfoLeak     Kind = "KMSAN-INFO-LEAK"
	KMSANUninit       Kind = "KMSAN-UNINIT-VALUE"
	KMSANUAFRead      Kind = "KMSAN-USE-AFTER-FREE-READ"
	KMSANUnknown      Kind = "KMSAN-UNKNOWN"
	Leak              Kind = "LEAK"
	Lockdep           Kind = "LOCKDEP"
	MemorySafetyBug   Kind = "MEMORY_SAFETY_BUG"
	MemorySafetyUBSAN Kind = "MEMORY_SAFETY_UBSAN"
	NullPointer       Kind = "NULL-POINTER-DEREFERENCE"
	Reboot            Kind = "REBOOT"
	RefcountWarning   Kind = "REFCOUNT_WARNING"
	HarnessFailure    Kind = "SYZ_FAILURE"
	UBSAN             Kind = "UBSAN"
	Warning           Kind = "WARNING"
)

// kindPrefixes maps the beginning of a title to its kind; the first row that
// fits wins, so rows go from special to general. The kind follows from the
// title alone: what the dashboard calls by the same name has the same kind.
var kindPrefixes = []struct {
	prefix string
	kind   Kind
}{
	{"KASAN: use-after-free Read", KASANUAFRead},
	{"KASAN: use-after-free Write", KASANUAFWrite},
	{"KASAN: slab-use-after-free Read", KASANUAFRead},
	{"KASAN: slab-use-after-free Write", KASANUAFWrite},
	{"KASAN: null-ptr-deref Read", KASANNullRead},
	{"KASAN: null-ptr-deref Write", KASANNullWrite},
	{"KASAN: invalid-free", KASANInvalidFree},
	{"KASAN: double-free", KASANInvalidFree},
	{"KASAN: use-after-free ", KASANUAFRead},
	{"KASAN: ", KASANRead}, // writes are told apart in kindOf

	{"KFENCE: use-after-free write", KFENCEUAFWrite},
	{"KFENCE: use-after-free", KFENCEUAFRead},
	{"KFENCE: invalid free", KFENCEInvalidFree},
	{"KFENCE: invalid write", KFENCEWrite},
	{"KFENCE: memory corruption", KFENCECorruption},
	{"KFENCE: out-of-bounds write", KFENCEWrite},
	{"KFENCE: ", KFENCERead},

	{"KCSAN: data-race", KCSANDataRace},
	{"KCSAN: assert: race", KCSANAssert},
	{"KCSAN: ", KCSANUnknown},

	{"KMSAN: uninit-value", KMSANUninit},
	{"KMSAN: kernel-infoleak", KMSANInfoLeak},
	{"KMSAN: kernel-usb-infoleak", KMSANInfoLeak},
	{"KMSAN: kernel-net-infoleak", KMSANInfoLeak},
	{"KMSAN: use-after-free", KMSANUAFRead},
	{"KMSAN: ", KMSANUnknown},

	{"UBSAN: array-index", MemorySafetyUBSAN},
	{"UBSAN: ", UBSAN},

	{"memory leak in", Leak},

	{"WARNING: refcount bug", RefcountWarning},
	{"WARNING: suspicious RCU usage", Lockdep},
	{"WARNING: locking bug", Lockdep},
	{"WARNING: nested lock was not taken", Lockdep},
	{"WARNING: bad unlock balance", Lockdep},
	{"WARNING: lock held", Lockdep},
	{"WARNING: locks held", Lockdep},
	{"WARNING: still has locks held", Lockdep},
	{"WARNING: held lock freed", Lockdep},
	{"possible deadlock in", Lockdep},
	{"inconsistent lock state in", Lockdep},
	{"lock held when returning to user space", Lockdep},
	{"BUG: bad unlock balance", Lockdep},
	{"BUG: held lock freed", Lockdep},
	{"BUG: still has locks held", Lockdep},
	{"BUG: key ", Lockdep},
	{"BUG: spinlock", Lockdep},
	{"BUG: rwlock", Lockdep},
	{"BUG: using ", Lockdep},
	{"WARNING", Warning},

	{"BUG: sleeping function called from invalid context", AtomicSleep},
	{"BUG: scheduling while atomic", AtomicSleep},

	{"INFO: rcu detected stall", Hang},
	{"INFO: task hung", Hang},
	{"INFO: task can't die", Hang},
	{"BUG: soft lockup", Hang},
	{"BUG: hard lockup", Hang},
	{"no output", Hang},

	{"BUG: unable to handle kernel NULL pointer dereference", NullPointer},
	{"BUG: unable to handle kernel ", MemorySafetyBug},
	{"BUG: corrupted list", MemorySafetyBug},
	{"BUG: bad usercopy", Bug},
	{"kernel BUG", Bug},

	{"general protection fault", DoS},
	{"stack segment fault", DoS},
	{"divide error", DoS},
	{"invalid opcode", DoS},
	{"PANIC: double fault", DoS},
	{"kernel panic", DoS},
	{"kernel stack overflow", DoS},
	{"Internal error", DoS},
	{"Unhandled fault", DoS},
	{"Alignment trap", DoS},
	{"Oops", DoS},
	{"unregister_netdevice: waiting for", DoS},
	{"VFS: Busy inodes", DoS},
	{"VFS: Close", DoS},
	{"BUG: Object already free", DoS},
	{"CFI failure", Unknown},
	{"trusty: ", DoS},

	{"unexpected kernel reboot", Reboot},
	{"SYZFAIL", HarnessFailure},
	{"SYZFATAL", HarnessFailure},
	{"panic: ", HarnessFailure},
	{"go runtime error", HarnessFailure},
}

// kindOf returns the kind that belongs to a title.
func kindOf(title string) Kind {
	for _, row := range kindPrefixes {
		if !strings.HasPrefix(title, row.prefix) {
			continue
		}
		if row.kind == KASANRead && kasanWrite(title) {
			return KASANWrite
		}
		return row.kind
	}
	return Unknown
}

// kasanWrite reports whether a KASAN title says that memory was written.
func kasanWrite(title string) bool {
	head, _, _ := strings.Cut(title, " in ")
	return strings.HasSuffix(head, " Write")
}
