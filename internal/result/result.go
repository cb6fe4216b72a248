// SPDX-License-Identifier: Apache-2.0

package result

import (
	"encoding/json"
	"time"
)

// A Case is one test and what became of it.
type Case struct {
	// Name is the test's full name, with subtests after slashes ("TestX/sub").
	Name string `json:"name"`
	// Status is the outcome.
	Status Status `json:"status"`
	// Reason says in one line why the test failed, was skipped or did not run. Empty when
	// unknown, and for a pass.
	Reason string `json:"reason,omitempty"`
	// Unearned is whether the test was skipped without saying why.
	Unearned bool `json:"unearned,omitempty"`
	// Output is what the test printed, bounded by whoever filled it in; a
	// mark stands where something was left out.
	Output string `json:"output,omitempty"`
	// Elapsed is how long the test took, by the guest's clock.
	Elapsed time.Duration `json:"elapsed_ns,omitempty"`
	// Splats are the kernel's reports that fell into this test.
	Splats []Splat `json:"splats,omitempty"`
}

// A Splat is one report of the kernel about itself: an oops, a warning, a
// sanitizer's finding, a panic.
type Splat struct {
	// Title is one line that names the fault, free of addresses.
	Title string `json:"title"`
	// Kind is the class of the fault, such as "KASAN" or "panic".
	Kind string `json:"kind,omitempty"`
	// Frame is the function to blame.
	Frame string `json:"frame,omitempty"`
	// Fingerprint is equal for two splats of the same fault.
	Fingerprint string `json:"fingerprint,omitempty"`
	// Corrupted is whether the report is cut short or interleaved, so that
	// its title and frame are a guess.
	Corrupted bool `json:"corrupted,omitempty"`
	// Test is the full name of the test that ran at the time, if known.
	Test string `json:"test,omitempty"`
	// Phase says when it came if no test ran: "boot", "setup", "between tests" or
	// "shutdown".
	Phase string `json:"phase,omitempty"`
	// Where is the CPU it happened on and the process that ran there, as far as
	// the report says ("CPU 1, init/123").
	Where string `json:"where,omitempty"`
	// Expected is whether the test had said that it would come, and Allowed why
	// it is tolerated all the same. Either way it fails nothing.
	Expected bool   `json:"expected,omitempty"`
	Allowed  string `json:"allowed,omitempty"`
	// Count is how often it was found in this test with this fingerprint; the
	// first of them is shown. Zero is once.
	Count int `json:"count,omitempty"`
	// Raw is the report's text, bounded by whoever filled it in.
	Raw string `json:"raw,omitempty"`
	// Log is the kernel log's file name in the job's directory.
	Log string `json:"log,omitempty"`
	// Report is what the parser made of the text, as "kvmrun crash -json" prints
	// it: stack, registers, the object of a bad access.
	Report json.RawMessage `json:"report,omitempty"`
	// Repro is a command line that runs the test again on that kernel.
	Repro string `json:"repro,omitempty"`
	// Start and End are the report's byte offsets in the kernel log.
	Start int64 `json:"start"`
	End   int64 `json:"end"`
}

// Excused reports whether the splat fails nothing.
func (s *Splat) Excused() bool { return s.Expected || s.Allowed != "" }

// TAPCounts are the numbers of tests in TAP by outcome, groups not included.
type TAPCounts struct {
	Pass int `json:"pass"`
	Fail int `json:"fail"`
	Skip int `json:"skip"`
	// XFail counts those that failed and were expected to, Missing those that were
	// planned and have no result; neither is part of Fail.
	XFail   int `json:"xfail"`
	Missing int `json:"missing"`
}

// A Job is one kernel running one suite in one VM.
type Job struct {
	// ID names the job within its run, and is fit for a file name.
	ID string `json:"id"`
	// Kernel is the path of the kernel image, as the host knows it.
	Kernel string `json:"kernel"`
	// Release is the kernel's release, such as "6.12.117-cloud-amd64".
	Release string `json:"release,omitempty"`
	// Suite is the suite's name, or the program's for a plain program.
	Suite string `json:"suite"`
	// Accel is QEMU's accelerator, "kvm" or "tcg".
	Accel string `json:"accel,omitempty"`

	// Verdict and Reason are what Judge said.
	Verdict Verdict `json:"verdict"`
	Reason  string  `json:"reason,omitempty"`
	// Cases are the tests, parents before their subtests, otherwise in the
	// order in which they began.
	Cases []Case `json:"cases,omitempty"`
	// TAP counts the tests of a program that prints TAP, nil if it printed none or
	// the suite is Go's.
	TAP *TAPCounts `json:"tap,omitempty"`
	// Splats are all of the job's splats, those of single cases included.
	Splats []Splat `json:"splats,omitempty"`

	// Started is when the job began.
	Started time.Time `json:"started"`
	// BootFailed is whether the VM ran and its guest never came up: a property
	// of the kernel, more likely than of the host, and of no test.
	BootFailed bool `json:"boot_failed,omitempty"`
	// BootTime is from QEMU's start to the guest's first sign of life.
	BootTime time.Duration `json:"boot_ns,omitempty"`
	// Elapsed is the whole job's time.
	Elapsed time.Duration `json:"elapsed_ns,omitempty"`

	// Dir is the directory of the job's logs.
	Dir string `json:"dir,omitempty"`
	// Notes are remarks that change no verdict, a line each.
	Notes []string `json:"notes,omitempty"`
	// Repro is a command line that runs the job again.
	Repro string `json:"repro,omitempty"`
}

// A Run is a matrix of jobs that one command ran.
type Run struct {
	// ID names the run.
	ID string `json:"id"`
	// Started is when the run began.
	Started time.Time `json:"started"`
	// Elapsed is the whole run's time.
	Elapsed time.Duration `json:"elapsed_ns,omitempty"`
	// AllowNothing is whether a job in which nothing was tested fails nothing.
	AllowNothing bool `json:"allow_nothing,omitempty"`
	// Jobs are the run's jobs, in the order they are to be shown in.
	Jobs []Job `json:"jobs"`
}

// The exit statuses of both front ends. [Run.ExitCode] knows which one a run's
// is; a program that kvmrun exec runs, and git bisect run, have statuses of their
// own.
const (
	ExitPass  = 0 // all passed
	ExitFail  = 1 // a test or a kernel failed, or nothing was tested
	ExitUsage = 2 // wrong usage; nothing was run
	ExitInfra = 3 // the infrastructure failed
)

// ExitCode returns the exit status of a run:
//
//	0  there are jobs, and all of them passed
//	1  in some job a test or the kernel failed, hung or ended early, or nothing
//	   was tested and that is not allowed
//	3  no job failed, but some job could not be run (or none was asked for)
//
// A failure outranks an infrastructure fault: that a kernel or a test failed
// stays true whatever kept other jobs from running, while status 3 invites
// the caller to try again.
func (r Run) ExitCode() int {
	if len(r.Jobs) == 0 {
		return ExitInfra
	}
	code := ExitPass
	for _, j := range r.Jobs {
		switch j.Verdict {
		case VerdictPass:
		case VerdictNothingTested:
			if !r.AllowNothing {
				return ExitFail
			}
		case VerdictTestFailed, VerdictNoEndMarker, VerdictHung, VerdictKernelFailed:
			return ExitFail
		default:
			code = ExitInfra
		}
	}
	return code
}

// Counts says how many cases there are and what became of them. A parent and
// its subtests count as one case each, as in go test's own counting.
type Counts struct {
	// Run counts those that began.
	Run, Pass, Fail, Skip int
	// NotRun counts those that did not.
	NotRun int
	// Unearned counts the skips without a reason; they are part of Skip.
	Unearned int
}

// Add counts one more case. A case without a valid status counts as failed.
func (c *Counts) Add(one *Case) {
	if one.Status == StatusNotRun {
		c.NotRun++
		return
	}
	c.Run++
	switch one.Status {
	case StatusPass:
		c.Pass++
	case StatusSkip:
		c.Skip++
		if one.Unearned {
			c.Unearned++
		}
	default:
		c.Fail++
	}
}

// Count counts cases.
func Count(cases []Case) Counts {
	var c Counts
	for i := range cases {
		c.Add(&cases[i])
	}
	return c
}
