// SPDX-License-Identifier: Apache-2.0

package result

import (
	"fmt"
	"strings"
)

// A Status is the outcome of one test case.
type Status uint8

// The statuses. The zero value means that nobody decided, and counts as a
// failure wherever statuses are counted.
const (
	StatusInvalid Status = iota
	StatusPass
	StatusFail
	StatusSkip
	// StatusNotRun: the test was selected and did not begin, which fails a run.
	StatusNotRun
)

// statusNames is indexed by Status; the names are the model's JSON strings.
var statusNames = [...]string{"invalid", "pass", "fail", "skip", "not-run"}

// String returns "pass", "fail", "skip", "not-run" or "invalid".
func (s Status) String() string { return name(statusNames[:], int(s)) }

// MarshalText writes the name that [Status.String] returns.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a name that MarshalText wrote, and refuses others.
func (s *Status) UnmarshalText(text []byte) error {
	i, err := index(statusNames[:], text)
	if err != nil {
		return fmt.Errorf("parse status: %w", err)
	}
	*s = Status(i)
	return nil
}

// A Verdict is the outcome of one job. Verdicts are ordered: a larger one
// outranks a smaller one, as in the table at [Judge].
type Verdict uint8

// The verdicts, from harmless to grave. The zero value means that nobody
// judged; [Run.ExitCode] treats it as an infrastructure fault.
const (
	VerdictInvalid Verdict = iota
	// VerdictPass: every test passed, or was skipped for a stated reason.
	VerdictPass
	// VerdictNothingTested: nothing failed, and nothing was tested. It fails a
	// run whose user has not allowed it, see [Run.ExitCode].
	VerdictNothingTested
	// VerdictTestFailed: a test failed, or the program reported failure.
	VerdictTestFailed
	// VerdictNoEndMarker: the job ended without saying that it was done.
	VerdictNoEndMarker
	// VerdictHung: the guest stopped making progress, or ran out of time.
	VerdictHung
	// VerdictInfra: kvmrun, QEMU or the host failed; nothing is known about
	// the kernel.
	VerdictInfra
	// VerdictKernelFailed: the kernel panicked or printed a splat.
	VerdictKernelFailed
)

// verdictNames is indexed by Verdict; the names are the model's JSON strings.
var verdictNames = [...]string{
	"invalid", "pass", "nothing-tested", "test-failed", "no-end-marker", "hung", "infra", "kernel-failed",
}

// String returns the verdict's name, such as "kernel-failed".
func (v Verdict) String() string { return name(verdictNames[:], int(v)) }

// MarshalText writes the name that [Verdict.String] returns.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads a name that MarshalText wrote, and refuses others.
func (v *Verdict) UnmarshalText(text []byte) error {
	i, err := index(verdictNames[:], text)
	if err != nil {
		return fmt.Errorf("parse verdict: %w", err)
	}
	*v = Verdict(i)
	return nil
}

// name returns names[i]; values out of range, which only a conversion can
// make, read as invalid too.
func name(names []string, i int) string {
	if i >= len(names) {
		return names[0]
	}
	return names[i]
}

func index(names []string, text []byte) (int, error) {
	for i, n := range names {
		if n == string(text) {
			return i, nil
		}
	}
	return 0, fmt.Errorf("unknown name %q", text)
}

// Facts is everything that [Judge] looks at: what was observed in one job,
// without interpretation. Strings are one-line descriptions; an empty one
// means that the thing did not happen.
type Facts struct {
	// Splats are the kernel's reports found in its log. Excused ones do not
	// count.
	Splats []Splat
	// Panicked is whether the kernel panicked, by whatever sign (a pvpanic
	// event, a panic message).
	Panicked bool

	// InfraErr says what failed on the host's side: QEMU missing or crashed,
	// the guest did not boot, out of disk, interrupted by the user.
	InfraErr string
	// GuestFault is what the guest says failed on its side: its agent, or what a
	// guest must have. It is an infrastructure fault, too, unless the job has
	// failed already: a guest must not turn its failure into one that is tried
	// again.
	GuestFault string
	// ScannerErr says why the kernel log could not be read to its end: records
	// that were overwritten, a console that was silenced. Without the log nobody
	// knows that the kernel was well. It is the guest that brings it about, so
	// that the rule of GuestFault holds.
	ScannerErr string

	// Hung says how the guest stopped making progress.
	Hung string
	// DeadlineExceeded says which time limit the job ran into.
	DeadlineExceeded string

	// EndMarker is whether the guest said explicitly that the job was done.
	EndMarker bool
	// ExitCode is the exit status of the test program. It counts only when
	// EndMarker is set.
	ExitCode int
	// Signal names the signal that ended the test program ("SIGSEGV").
	Signal string

	// Program is whether the job was one plain program of which no tests are
	// expected. Its exit status alone decides then, unless it did report
	// tests.
	Program bool
	// TestsRun counts the tests that began, whatever became of them.
	TestsRun int
	// TestsFailed counts the tests that failed or did not finish.
	TestsFailed int
	// TestsSkipped counts the tests that were skipped.
	TestsSkipped int
	// NotRun names the tests that were selected and did not begin, and Unended
	// those that began and did not end and are not among the failed ones.
	NotRun, Unended []string
	// NothingTested says why nothing was tested although it does not follow from
	// the counts: no subtest matches, the plan is of no tests.
	NothingTested string
	// Unconcluded is whether the output of a test binary lacks the line that
	// ends it although the binary said it succeeded: some of the output, and
	// the tests in it, may be lost.
	Unconcluded bool
	// UnearnedSkips counts the skipped tests that did not say why. They fail
	// the job: a silent skip is a test that nobody ran.
	UnearnedSkips int
}

// Judge returns the verdict over the facts of one job and a one-line reason
// for people. It is the only place where verdicts are made. The first rule that
// applies decides:
//
//	kernel splat or panic    VerdictKernelFailed
//	infrastructure fault     VerdictInfra, as the host saw it
//	test failure             VerdictTestFailed, if one of the next two holds
//	guest's word of a fault  VerdictInfra
//	incomplete kernel log    VerdictInfra
//	hang or deadline         VerdictHung
//	missing end marker       VerdictNoEndMarker
//	test failure             VerdictTestFailed
//	nothing was tested       VerdictNothingTested
//	none of these            VerdictPass
//
// A splat outranks everything because what follows it cannot be trusted:
// a lost connection, a hang or a failed test is then most likely its effect.
// A test without a result, no tests run, a non-zero exit status and a skip without
// a reason are test failures.
func Judge(f Facts) (Verdict, string) {
	for _, rule := range rules {
		if reason := rule.applies(f); reason != "" {
			return rule.verdict, reason
		}
	}
	return VerdictPass, passReason(f)
}

// rules is the precedence, one row per cause; the first row that gives a
// reason decides.
var rules = []struct {
	verdict Verdict
	applies func(Facts) string
}{
	{VerdictKernelFailed, splatReason},
	{VerdictKernelFailed, func(f Facts) string { return when(f.Panicked, "the kernel panicked") }},
	{VerdictInfra, func(f Facts) string { return f.InfraErr }},
	{VerdictTestFailed, func(f Facts) string {
		if f.GuestFault == "" && f.ScannerErr == "" {
			return ""
		}
		return failedReason(f)
	}},
	{VerdictInfra, func(f Facts) string { return f.GuestFault }},
	{VerdictInfra, func(f Facts) string { return prefixed("the kernel log was not read to its end: ", f.ScannerErr) }},
	{VerdictHung, func(f Facts) string { return f.Hung }},
	{VerdictHung, func(f Facts) string { return f.DeadlineExceeded }},
	{VerdictNoEndMarker, func(f Facts) string {
		return when(!f.EndMarker, "the guest ended without saying that it was done")
	}},
	{VerdictTestFailed, testsFailed},
	{VerdictTestFailed, func(f Facts) string {
		return when(f.UnearnedSkips > 0, "%s skipped without a reason", tests(f.UnearnedSkips))
	}},
	{VerdictTestFailed, func(f Facts) string { return prefixed("the program was killed by ", f.Signal) }},
	{VerdictTestFailed, func(f Facts) string {
		reason := when(f.ExitCode != 0, "the program exited with status %d", f.ExitCode)
		if reason != "" && f.TestsRun > 0 {
			reason += " although no test failed"
		}
		return reason
	}},
	{VerdictTestFailed, withoutResult},
	{VerdictTestFailed, func(f Facts) string {
		return when(f.Unconcluded, "the test output has no final PASS or FAIL")
	}},
	{VerdictTestFailed, func(f Facts) string {
		return when(f.TestsRun <= 0 && !f.Program, "no tests ran")
	}},
	{VerdictNothingTested, func(f Facts) string {
		why := f.NothingTested
		if why == "" {
			why = when(f.TestsRun > 0 && f.TestsSkipped >= f.TestsRun, "%s skipped", tests(f.TestsSkipped))
		}
		return prefixed("nothing tested: ", why)
	}},
}

func withoutResult(f Facts) string {
	var parts []string
	for _, p := range []struct {
		word  string
		names []string
	}{{"did not end: ", f.Unended}, {"not run: ", f.NotRun}} {
		if len(p.names) > 0 {
			parts = append(parts, p.word+some(p.names))
		}
	}
	reason := strings.Join(parts, "; ")
	switch {
	case reason == "":
	case f.Signal != "":
		reason += "; the program was killed by " + f.Signal
	case f.ExitCode > 1: // 1 says only that something failed
		reason += fmt.Sprintf("; the program exited with status %d", f.ExitCode)
	}
	return reason
}

// some names the first of many.
func some(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

func testsFailed(f Facts) string {
	reason := when(f.TestsFailed > 0, "%d of %s failed", f.TestsFailed, tests(f.TestsRun))
	if n := len(f.NotRun); reason != "" && n > 0 {
		reason += fmt.Sprintf(", %d not run", n)
	}
	return reason
}

// failedReason says that the job is known to have failed: a test has, or the
// program that ended in order.
func failedReason(f Facts) string {
	switch {
	case f.TestsFailed > 0:
		return testsFailed(f)
	case f.EndMarker && f.Signal != "":
		return "the program was killed by " + f.Signal
	case f.EndMarker && f.ExitCode != 0:
		return fmt.Sprintf("the program exited with status %d", f.ExitCode)
	}
	return ""
}

func splatReason(f Facts) string {
	var first *Splat
	more := 0
	for i := range f.Splats {
		switch s := &f.Splats[i]; {
		case s.Excused():
		case first == nil:
			first = s
		default:
			more++
		}
	}
	if first == nil {
		return ""
	}
	title := first.Title
	if title == "" {
		title = "kernel splat without a title"
	}
	if more > 0 {
		return fmt.Sprintf("%s (and %d more)", title, more)
	}
	return title
}

func passReason(f Facts) string {
	switch {
	case f.TestsRun <= 0:
		return "the program exited with status 0"
	case f.TestsSkipped > 0:
		return fmt.Sprintf("%s passed, %d skipped", tests(f.TestsRun-f.TestsSkipped), f.TestsSkipped)
	}
	return tests(f.TestsRun) + " passed"
}

func when(cond bool, format string, args ...any) string {
	if !cond {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

func tests(n int) string {
	if n == 1 {
		return "1 test"
	}
	return fmt.Sprintf("%d tests", n)
}
