// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/gotest"
	"github.com/kvmrun/kvmrun/suites"
)

// Policy is how tests are run and what is tolerated, whichever they are.
type Policy struct {
	// Isolate says how far tests are kept apart, "" leaves it to the suite.
	Isolate suites.Isolation `json:"isolate,omitempty"`
	// KeepGoing goes on in the same VM after a splat. Otherwise the tests that
	// are left run in a fresh one, which a suite with Tests makes possible.
	KeepGoing bool `json:"keepGoing,omitempty"`
	// PanicOnWarn has the kernel panic at its first warning.
	PanicOnWarn bool `json:"panicOnWarn,omitempty"`
	// Timeout bounds the run in one VM; zero is the suite's own or the default,
	// scaled. The tests after one that has used it up get another VM, twice at
	// most, unless NoLimit is set. In JSON it is in nanoseconds, like Idle.
	Timeout time.Duration `json:"timeoutNS,omitempty"`
	// NoLimit says that a zero Timeout means none, and any other the time of all
	// VMs together.
	NoLimit bool `json:"noLimit,omitempty"`
	// Idle bounds how long nothing may be said; zero is no bound.
	Idle time.Duration `json:"idleNS,omitempty"`
	// Faults is what goes wrong from the beginning of the first test on.
	Faults fault.Plan `json:"faults,omitempty"`
	// Allow is the text of an allow-list, as package oops reads it: the splats that
	// fail nothing.
	Allow string `json:"allow,omitempty"`
}

// Selection chooses tests, as go test's flags do.
type Selection struct {
	Run   string `json:"run,omitempty"`  // -test.run's expression; "" is all tests
	Skip  string `json:"skip,omitempty"` // -test.skip's
	Short bool   `json:"short,omitempty"`
	Count int    `json:"count,omitempty"` // -test.count; 0 is 1
}

// Args are the test binary's arguments for the selection, with its output for
// test2json and a limit of its own.
func (s Selection) Args(timeout time.Duration) []string {
	args := []string{"-test.v=test2json", "-test.paniconexit0", "-test.timeout=" + timeout.String()}
	if s.Count > 1 {
		args = append(args, "-test.count="+strconv.Itoa(s.Count))
	}
	if s.Short {
		args = append(args, "-test.short")
	}
	if s.Skip != "" {
		args = append(args, "-test.skip="+s.Skip)
	}
	if s.Run != "" {
		args = append(args, "-test.run="+s.Run)
	}
	return args
}

// Task is what a program is to do, and under which policy.
type Task struct {
	// Args are the program's arguments in the guest: for a suite's test binary with
	// the selection of tests.
	Args gotest.Args `json:"args,omitempty"`
	// Env is added to its environment.
	Env []string `json:"env,omitempty"`
	// Merge has its standard error go where its standard output goes.
	Merge bool `json:"merge,omitempty"`
	// Cmdline is added to the kernel's command line.
	Cmdline []string `json:"cmdline,omitempty"`
	Policy
}

// KernelArgs is what the task adds to the kernel's command line, its policy's part
// included.
func (t Task) KernelArgs() []string {
	if !t.PanicOnWarn {
		return t.Cmdline
	}
	return append(t.Cmdline[:len(t.Cmdline):len(t.Cmdline)], "panic_on_warn=1")
}

// Kernel names a kernel: a file, and the hash of its content.
type Kernel struct {
	File    string `json:"file"`
	SHA256  string `json:"sha256,omitempty"`
	Modules string `json:"modules,omitempty"` // its lib/modules/RELEASE
	Config  string `json:"config,omitempty"`  // the file of its configuration
}

// Program names a program: a file, and the hash of its content.
type Program struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256,omitempty"`
	// Suite is the suite's name for a test binary, with its Tests; "" for a program
	// that is none.
	Suite string   `json:"suite,omitempty"`
	Tests []string `json:"tests,omitempty"`
}

// Shape is a VM's, where it is not the suite's own or the host's default.
type Shape struct {
	QEMU      string `json:"qemu,omitempty"`  // binary
	Accel     string `json:"accel,omitempty"` // as vmtest.Accel
	MemoryMiB int    `json:"memoryMiB,omitempty"`
	CPUs      int    `json:"cpus,omitempty"`
	// Append are kernel parameters beside the suite's.
	Append []string `json:"append,omitempty"`
}

// JobSpec is one job: a program on a kernel.
type JobSpec struct {
	Kernel  Kernel  `json:"kernel"`
	Program Program `json:"program"`
	Shape   Shape   `json:"vm"`
	Task    Task    `json:"task"`
}

// ID names the job by what it is: two jobs have the same exactly when they run the
// same things in the same way, wherever the files are and whatever other jobs there
// are. A file counts by its content where SHA256 is set, and by its name elsewhere.
func (j JobSpec) ID() string {
	if j.Kernel.SHA256 != "" {
		j.Kernel.File = ""
	}
	if j.Program.SHA256 != "" {
		j.Program.File, j.Program.Tests = "", nil
	}
	text, err := json.Marshal(j)
	if err != nil {
		panic(err) // plain data
	}
	h := sha256.Sum256(text)
	return hex.EncodeToString(h[:16])
}

// Format is the version of a job's JSON.
const Format = 3

// ErrVersion is that of a description that another version has written.
var ErrVersion = errors.New("written by another version of kvmrun")

type file struct {
	Format int    `json:"format"`
	ID     string `json:"id"`
	JobSpec
}

// Encode describes the job for another process.
func (j JobSpec) Encode() ([]byte, error) {
	return json.MarshalIndent(file{Format, j.ID(), j}, "", "  ")
}

// Decode reads what Encode wrote. The error wraps ErrVersion for another format.
func Decode(text []byte) (JobSpec, error) {
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(text, &version); err != nil {
		return JobSpec{}, fmt.Errorf("read a job: %w", err)
	}
	if version.Format != Format {
		return JobSpec{}, ErrVersion
	}
	var f file
	if err := json.Unmarshal(text, &f); err != nil {
		return JobSpec{}, fmt.Errorf("read a job: %w", err)
	}
	if id := f.JobSpec.ID(); id != f.ID {
		return JobSpec{}, fmt.Errorf("read a job: it says that it is %s and is %s: the file was changed by hand", f.ID, id)
	}
	return f.JobSpec, nil
}

// Jobs is each program on each kernel, in the order kernels, programs, with the
// tasks that task gives them.
func Jobs(kernels []Kernel, programs []Program, shape Shape, task func(Program) Task) []JobSpec {
	var out []JobSpec
	for _, k := range kernels {
		for _, p := range programs {
			out = append(out, JobSpec{Kernel: k, Program: p, Shape: shape, Task: task(p)})
		}
	}
	return out
}
