package oops

import "strings"

// oops is one way a report begins: a literal that must occur in the line, and
// the formats such a line can have, the first that fits winning.
type oops struct {
	// header occurs in the first line, not in the middle of a word.
	header  string
	formats []format
	// not lists lines that hold header but are no bug.
	not *lazyRE
	// abroad lists lines that are a bug only in the log of a machine of ours, see
	// [Scanner.Own].
	abroad *lazyRE
	// notice lists texts that tell a user something, not a developer. It applies
	// to the rows that accept any text, not to those that know the report.
	notice *lazyRE
	// trap marks headers that the kernel prints as the second line of another
	// report: while one is open that has no stack yet, they belong to it.
	trap bool
	// tail marks headers that end other reports: while one is open they belong
	// to it, whatever it has printed.
	tail bool
	// repeat marks headers that are printed again and again for one bug.
	repeat bool
	// strict headers count only in lines the kernel printed, since programs use
	// the same words.
	strict bool
	// program marks what programs print when they crash, at the beginning of a line.
	// Such a report is suppressed.
	program bool
}

// format is a row of the table.
type format struct {
	// start is matched against the first line from header on.
	start *lazyRE
	// body is matched against the lines that follow, if not nil; the row fits only
	// if both match. Its groups number on from start's.
	body *lazyRE
	// title and alts are templates: {1} is a group, {F} the function blamed.
	title string
	alts  []string
	// lost replaces title and alts, if not empty, where no function is to be had.
	lost string
	// named is the number of the group that names a function, 0 if none does.
	named int
	// rule finds {F}; nil if the title needs none.
	rule rule
	// noStack says that the report is complete without a stack.
	noStack bool
	// cut says that a report with this format lacks a part by definition.
	cut bool
	// origin says that a complete report also tells where a value came from.
	origin bool
	// allContexts says that other CPUs print parts of the report.
	allContexts bool
	// bucket gives functions that wait for the same thing one name.
	bucket bool
}

// re compiles a pattern of the table. {{FUNC}} stands for a symbol with or
// without an offset, as one group.
func re(s string) *lazyRE {
	return compile(strings.ReplaceAll(s, "{{FUNC}}", `(?:\[<[0-9a-f]+>\] +)?([A-Za-z_$<][\w.$<>:]*)(?:\+0x[0-9a-f]+(?:/0x[0-9a-f]+)?)?`))
}

const badAccess = "bad-access in {F}"

// kasanAccess is KASAN's second line.
var kasanAccess = re(`(?m)^\s*(Read|Write)(?: of size \d+)?(?: at addr | by task )`)

// buildTable lists every way a report begins. Headers that are found at the same
// place of a line are tried in the order of the table.
func buildTable() []*oops {
	var all []*oops
	for _, part := range [][]*oops{bugTable(), trapTable(), warningTable(), infoTable(), panicTable(), otherTable()} {
		all = append(all, part...)
	}
	return all
}

// bugTable holds what begins with "BUG:".
func bugTable() []*oops {
	// What a fuzzer finds wrong with its own configuration.
	not := compile(`^BUG: no syscalls can create `)
	rows := []format{
		// mm/kasan/report*.c
		{start: re(`^BUG: KASAN: double-free or invalid-free in {{FUNC}}`), title: "KASAN: invalid-free in {F}", alts: []string{"invalid-free in {F}"}, named: 1, rule: blameFreed},
		{start: re(`^BUG: KASAN: (double-free) in {{FUNC}}`), body: re(`(?m)^Free of addr `), title: "KASAN: {1} in {F}", alts: []string{"invalid-free in {F}"}, named: 2, rule: blameFreed},
		{start: re(`^BUG: KASAN: (?:invalid|double)-free in {{FUNC}}`), title: "KASAN: invalid-free in {F}", alts: []string{"invalid-free in {F}"}, named: 1, rule: blameFreed},
		{start: re(`^BUG: KASAN: ([a-z\-]+) in {{FUNC}}`), body: kasanAccess, title: "KASAN: {1} {3} in {F}", alts: []string{badAccess}, named: 2, rule: blameKASAN},
		{start: re(`^BUG: KASAN: ([a-z\-]+) on address`), body: kasanAccess, title: "KASAN: {1} {2}", cut: true},
		{start: re(`^BUG: (KASAN: .*)`), title: "{1}", cut: true},
		// mm/kmsan/report.c
		{start: re(`^BUG: KMSAN: ([a-z\-]+)(?: in {{FUNC}})?`), title: "KMSAN: {1} in {F}", alts: []string{badAccess}, named: 2, rule: blameHead, noStack: true, origin: true},
		// kernel/kcsan/report.c
		{start: re(`^BUG: KCSAN: ([\w\-: ]+?) in {{FUNC}} / {{FUNC}}`), title: "KCSAN: {1} in {2} / {3}", named: 2, rule: blameSelf, noStack: true},
		{start: re(`^BUG: KCSAN: ([\w\-: ]+?) in {{FUNC}}`), title: "KCSAN: {1} in {2}", named: 2, rule: blameSelf, noStack: true},
		// mm/kfence/report.c
		{start: re(`^BUG: KFENCE: memory corruption in {{FUNC}}`), title: "KFENCE: memory corruption in {F}", named: 1, rule: blameKFENCE, noStack: true},
		{start: re(`^BUG: KFENCE: invalid free in {{FUNC}}`), title: "KFENCE: invalid free in {F}", alts: []string{"invalid-free in {F}"}, named: 1, rule: blameKFENCE, noStack: true},
		{start: re(`^BUG: KFENCE: ([a-z\- ]+?) in {{FUNC}}`), title: "KFENCE: {1} in {F}", alts: []string{badAccess}, named: 2, rule: blameKFENCE, noStack: true},
		// arch/*/mm/fault.c
		{start: re(`^BUG: (?:unable to handle kernel NULL pointer dereference|kernel NULL pointer dereference|Kernel NULL pointer dereference)`), title: "BUG: unable to handle kernel NULL pointer dereference in {F}", alts: []string{badAccess}, rule: blameFault},
		{start: re(`^BUG: (?:unable to handle kernel paging request|unable to handle page fault for address|Unable to handle kernel data access)`), title: "BUG: unable to handle kernel paging request in {F}", alts: []string{badAccess}, rule: blameFault},
		{start: re(`^BUG: [Uu]nable to handle kernel ([a-z /\-]+?)(?: on (?:read|write))?(?: at .*| for .*|:.*)?$`), title: "BUG: unable to handle kernel {1} in {F}", alts: []string{badAccess}, rule: blameFault},
		{start: re(`^BUG: (?:TASK |IRQ |NMI |#DF )?stack guard page was hit`), title: "BUG: stack guard page was hit in {F}", alts: []string{"stack-overflow in {F}"}, rule: blameDeep},
		{start: re(`^BUG: unable to handle kernel$`), title: "BUG: unable to handle kernel", cut: true},
		// kernel/watchdog.c, kernel/workqueue.c
		{start: re(`^BUG: soft lockup`), title: "BUG: soft lockup in {F}", alts: []string{"stall in {F}"}, rule: blameLoop, bucket: true},
		{start: re(`^BUG: hard lockup`), title: "BUG: hard lockup in {F}", alts: []string{"stall in {F}"}, rule: blameLoop, bucket: true},
		{start: re(`^BUG: workqueue leaked lock or atomic`), body: re(`last function: {{FUNC}}`), title: "BUG: workqueue leaked lock or atomic in {1}", noStack: true},
		{start: re(`^BUG: workqueue lockup`), title: "BUG: workqueue lockup", noStack: true},
		// kernel/sched/core.c, lib/smp_processor_id.c
		{start: re(`^BUG: sleeping function called from invalid context`), title: "BUG: sleeping function called from invalid context in {F}", rule: blameTrace},
		{start: re(`^BUG: scheduling while atomic`), title: "BUG: scheduling while atomic in {F}", rule: traceBeyond(`schedule`)},
		{start: re(`^BUG: using ([\w()]+) in preemptible .*code`), title: "BUG: using {1} in preemptible code in {F}", rule: traceBeyond(`preempt`)},
		// kernel/locking
		{start: re(`^BUG: ((?:spin|rw)lock (?:bad magic|recursion|cpu recursion|wrong owner|wrong CPU|already unlocked|lockup suspected|lockup|cpu-lockup|trylock failure on UP))`), title: "BUG: {1} in {F}", rule: blameTrace},
		{start: re(`^BUG: bad (unlock|contention) balance detected`), title: "BUG: bad {1} balance in {F}", rule: blameReleased},
		{start: re(`^BUG: (held lock freed)!?`), title: "BUG: {1} in {F}", rule: blameTrace},
		{start: re(`^BUG: lock held when returning to user space`), body: heldAt, title: "BUG: lock held when returning to user space in {F}", named: 1, rule: blameNamed, noStack: true},
		{start: re(`^BUG: .*lock held (?:at task exit time|on exit)`), title: "BUG: lock held at task exit in {F}", rule: blameTrace},
		{start: re(`^BUG: .*still has locks held`), title: "BUG: still has locks held in {F}", rule: blameTrace},
		{start: re(`^BUG: Invalid wait context`), body: atLock, title: "WARNING: locking bug in {F}", named: 1, rule: blameNamed},
		{start: re(`^BUG: (MAX_\w+ too low)`), title: "BUG: {1}!", noStack: true},
		// mm
		{start: re(`^BUG: memory leak`), title: "memory leak in {F}", rule: blameLeak, noStack: true},
		{start: re(`^BUG: Bad page state`), title: "BUG: Bad page state in {F}", rule: blamePage, noStack: true},
		{start: re(`^BUG: Bad (page map|page cache)`), title: "BUG: Bad {1}"},
		{start: re(`^BUG: Bad (rss-counter state)`), title: "BUG: Bad {1}", noStack: true},
		{start: re(`^BUG: (non-zero \w+ on freeing mm)`), title: "BUG: {1}", noStack: true},
		{start: re(`^BUG: ([A-Z]?[a-z][\w\- ]*) (?:in|at) process`), title: "BUG: {1} in {F}", rule: blameTrace},
		// fs/dcache.c
		{start: re(`^BUG: Dentry .*still in use .*\[unmount of ([^\]]*)\]`), title: "BUG: Dentry still in use in unmount", alts: []string{"BUG: Dentry still in use [unmount of {1}]"}, noStack: true},
		// anything else
		{start: re(`^BUG:\s*$`), title: "BUG: corrupted", cut: true},
		{start: re(`^BUG: (.*)`), title: "BUG: {1}"},
	}
	return []*oops{
		{header: "BUG: bad unlock balance", formats: rows},
		{header: "BUG: ", formats: rows, strict: true, not: not},
		{header: "BUG:", formats: rows, strict: true, not: not},
		{header: "kernel BUG", formats: kernelBugFormats()},
		{header: "Kernel BUG", formats: kernelBugFormats()},
		// mm/slub.c, mm/slab.c
		{header: "BUG ", strict: true, formats: []format{
			{start: re(`^BUG [\w\-:.]+ \((?:Not tainted|Tainted.*?)\): ([^:]*)`), title: "BUG: {1} in {F}", alts: []string{badAccess}, lost: "BUG: {1}", rule: blameTrace},
		}, not: compile(`kasan:|^BUG [^(]*$|^BUG \S+ \([^)]*$`)},
		{header: "slab error in ", strict: true, formats: []format{
			{start: re(`^slab error in \w+\(\): cache [^:]*: (.*)`), title: "BUG: {1} in {F}", alts: []string{badAccess}, rule: blameTrace},
		}},
	}
}

func kernelBugFormats() []format {
	return []format{
		{start: re(`^[kK]ernel BUG at (?:\S*/)?mm/usercopy\.c`), title: "BUG: bad usercopy in {F}", rule: blameFault},
		{start: re(`^[kK]ernel BUG at (?:\S*/)?lib/list_debug\.c`), title: "BUG: corrupted list in {F}", alts: []string{badAccess}, rule: blameFault},
		{start: re(`^[kK]ernel BUG (?:at |\[verbose)`), title: "kernel BUG in {F}", rule: blameFault},
	}
}

// blameKASAN takes the function that made the access, which the first line names
// by its address (print_error_description in mm/kasan/report.c): the stack tells
// only where that one is a helper.
func blameKASAN(b *body, named string) string {
	if fn := blameNamed(b, named); fn != "" || b.trace() == nil {
		return fn
	}
	return blameTrace(b, named)
}

// freeing matches what takes memory back, of whatever kind.
var freeing = compile(`kmem_|slab_|kfree|vunmap|^_*vfree|^_*free_(?:pages?|percpu|unref|large)|mempool_free`)

// blameFreed is blameKASAN for memory that must not be freed: whoever takes it
// back does what it is asked for.
func blameFreed(b *body, named string) string {
	if freeing.MatchString(baseName(named)) {
		named = ""
	}
	if fn := guilty(named); fn != "" {
		return fn
	}
	if t := b.trace(); t != nil {
		return pickBeyond(t.frames, freeing)
	}
	return ""
}

// Patterns of lockdep's second lines.
var (
	atLock = re(`(?s)\bat: {{FUNC}}\+0x`)
	heldAt = re(`(?s)\bat: {{FUNC}}`)
)

// blameSelf takes the function named as it stands.
func blameSelf(_ *body, named string) string { return baseName(named) }

// blameKFENCE takes the stack after the first line, else the function named.
func blameKFENCE(b *body, named string) string {
	if s := b.first(secHead); s != nil {
		if fn := pick(s.frames); fn != "" {
			return fn
		}
	}
	return blameNamed(b, named)
}

// blameReleased takes the function that released the lock, printed on a line of
// its own before the stack.
func blameReleased(b *body, _ string) string {
	if s := b.first(secHead); s != nil {
		if fn := pick(s.frames); fn != "" {
			return fn
		}
	}
	return blameTrace(b, "")
}

// lockdepFormats are the splats of kernel/locking/lockdep.c that carry the same
// text after "INFO: " (before 4.15) and "WARNING: ".
func lockdepFormats(level string) []format {
	return []format{
		{start: re(`^` + level + `: possible (?:circular|recursive|irq) (?:locking|lock inversion dependency|lock inversion|dependency)`), body: atLock, title: "possible deadlock in {F}", named: 1, rule: blameLock},
		{start: re(`^(` + level + `: possible (?:circular locking dependency|recursive locking) detected)`), title: "{1}", cut: true},
		{start: re(`^` + level + `: (?:HARD|SOFT|RECLAIM_?)(?:IRQ|FS)(?:-READ)?-safe -> (?:HARD|SOFT|RECLAIM_?)(?:IRQ|FS)(?:-READ)?-unsafe lock order`), body: atLock, title: "possible deadlock in {F}", named: 1, rule: blameIRQLock},
		{start: re(`^` + level + `: inconsistent lock state`), body: atLock, title: "inconsistent lock state in {F}", named: 1, rule: blameUsage},
		{start: re(`^` + level + `: inconsistent lock state`), title: "inconsistent lock state in {F}", rule: blameTrace},
		{start: re(`^` + level + `: suspicious RCU usage`), title: level + ": suspicious RCU usage in {F}", rule: traceBeyond(`rcu|^_*kmem_|^_*slab_`)},
		{start: re(`^` + level + `: (?i:nested lock was not taken)`), body: atLock, title: "WARNING: nested lock was not taken in {F}", named: 1, rule: blameNamed},
		{start: re(`^` + level + `: (?i:bad (unlock|contention) balance detected)`), title: level + ": bad {1} balance in {F}", rule: blameReleased},
		{start: re(`^` + level + `: held lock freed`), title: level + ": held lock freed in {F}", rule: blameTrace},
		{start: re(`^` + level + `: lock held when returning to user space`), body: heldAt, title: level + ": lock held when returning to user space in {F}", named: 1, rule: blameNamed, noStack: true},
		{start: re(`^` + level + `: lock held at task exit`), title: level + ": lock held at task exit in {F}", rule: blameTrace},
		{start: re(`^` + level + `: .*still has locks held`), body: heldAt, title: level + ": still has locks held in {F}", named: 1, rule: blameNamed},
		{start: re(`^` + level + `: .*still has locks held`), title: level + ": still has locks held in {F}", rule: blameTrace},
		{start: re(`^` + level + `: (?i:invalid wait context)`), body: atLock, title: "WARNING: locking bug in {F}", named: 1, rule: blameNamed},
	}
}
