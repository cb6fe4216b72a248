// SPDX-License-Identifier: Apache-2.0

package oops

import (
	"fmt"
	"slices"
	"strings"
)

// taintFault is a taint bit that says that the kernel has failed.
type taintFault struct {
	bit    uint
	letter byte
	why    string
	// explains says whether a report may have set the bit.
	explains func(*Report) bool
}

// taintFaults are the bits that only a failure of the kernel sets, which it
// reports as well. Of the table in Documentation/admin-guide/tainted-kernels.rst
// (bit 0 is P), the others are none:
//
//	0 P, 1 F, 3 R, 12 O, 13 E, 15 K   modules and live patches that somebody loaded
//	2 S                                the machine: QEMU's, not the kernel's
//	6 U                                user space asked for it
//	8 A, 11 I                          firmware: QEMU's; I also by warnings about it, which the log has
//	10 C                               a driver of drivers/staging
//	16 X, 17 T                         how the kernel was built
//	18 N                               a test in the kernel runs (KUnit, kselftest modules)
//	19 J                               user space used fwctl to change a device's state
var taintFaults = []taintFault{
	{4, 'M', "the processor reported a machine check", func(*Report) bool { return true }},
	{5, 'B', "the kernel found a page or an object in a bad state", func(r *Report) bool {
		// Bad pages, SLUB's checks, KASAN and KFENCE: all "BUG"s.
		return !isWarning(r) && r.Kind != Hang
	}},
	{7, 'D', "the kernel died: an oops or a BUG", func(r *Report) bool {
		return !isWarning(r) && r.Kind != Hang && r.Kind != AtomicSleep && !strings.HasPrefix(r.Title, "KASAN: slab")
	}},
	{9, 'W', "a WARNING was raised", func(r *Report) bool {
		// Others taint with it as well, such as "scheduling while atomic"; what has a
		// bit of its own does not.
		return !strings.HasPrefix(string(r.Kind), "KASAN") && !strings.HasPrefix(string(r.Kind), "KFENCE") && r.Kind != Leak
	}},
	{14, 'L', "a soft lockup was found", func(r *Report) bool { return r.Kind == Hang }},
}

func isWarning(r *Report) bool {
	return r.Kind == Warning || r.Kind == RefcountWarning || r.Kind == Lockdep || r.Kind == Leak
}

// TaintFaults returns those of the taint bits that say that the kernel has failed.
func TaintFaults(taint uint64) uint64 {
	var mask uint64
	for _, f := range taintFaults {
		mask |= 1 << f.bit
	}
	return taint & mask
}

// Unexplained returns a report for each of the bits of taint that say that the
// kernel has failed and that none of the reports, excused or not, can have set.
func Unexplained(taint uint64, reports []*Report) []*Report {
	var out []*Report
	for _, f := range taintFaults {
		if taint&(1<<f.bit) == 0 || slices.ContainsFunc(reports, f.explains) {
			continue
		}
		title := fmt.Sprintf("taint %c (%s) without a report in the kernel log", f.letter, f.why)
		out = append(out, &Report{
			Title: title, CPU: -1, PID: -1, Time: -1, Fingerprint: fingerprint(Unknown, title),
			Raw: fmt.Appendf(nil, "/proc/sys/kernel/tainted has bit %d\n", f.bit),
		})
	}
	return out
}
