// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/suites"
)

func full() JobSpec {
	return JobSpec{
		Kernel:  Kernel{File: "/k/vmlinux", SHA256: "aa", Modules: "/k/lib/modules/6.12", Config: "/k/.config"},
		Program: Program{File: "/t/ext4.test", SHA256: "bb", Suite: "ext4", Tests: []string{"TestA", "TestB"}},
		Shape:   Shape{QEMU: "/usr/bin/qemu", Accel: "tcg", MemoryMiB: 512, CPUs: 2, Append: []string{"slub_debug=FZPU"}},
		Task: Task{
			Args: []string{"-test.run=TestA"}, Env: []string{"A=b"}, Merge: true, Cmdline: []string{"quiet"},
			Policy: Policy{
				Isolate: suites.IsolateTest, KeepGoing: true, PanicOnWarn: true, Timeout: time.Minute, NoLimit: true, Idle: time.Second,
				Faults: fault.Plan{{Kind: fault.Slab, Nth: 3}}, Allow: "WARNING in f\n",
			},
		},
	}
}

// leaves calls f with each field that is no struct, by its path.
func leaves(v reflect.Value, path string, f func(path string, v reflect.Value)) {
	if v.Kind() != reflect.Struct {
		f(path, v)
		return
	}
	for i := range v.NumField() {
		leaves(v.Field(i), path+"."+v.Type().Field(i).Name, f)
	}
}

// TestRoundTrip: nothing of a job is lost on its way through JSON. A field that full
// leaves out is found, too.
func TestRoundTrip(t *testing.T) {
	j := full()
	leaves(reflect.ValueOf(j), "JobSpec", func(path string, v reflect.Value) {
		assert.Check(t, !v.IsZero(), "%s is not set in this test", path)
	})
	text, err := j.Encode()
	assert.NilError(t, err)
	got, err := Decode(text)
	assert.NilError(t, err)
	assert.DeepEqual(t, got, j)
}

// TestID: whatever makes a job another one changes its ID, and nothing else does.
func TestID(t *testing.T) {
	where := []string{"JobSpec.Kernel.File", "JobSpec.Program.File", "JobSpec.Program.Tests"}
	j := full()
	n := 0
	leaves(reflect.ValueOf(&j).Elem(), "JobSpec", func(path string, v reflect.Value) {
		n++
		old := reflect.New(v.Type()).Elem()
		old.Set(v)
		v.SetZero()
		if slices.Contains(where, path) {
			assert.Check(t, is.Equal(j.ID(), full().ID()), path)
		} else {
			assert.Check(t, j.ID() != full().ID(), path)
		}
		v.Set(old)
	})
	assert.Assert(t, n > 20)
	j.Kernel.SHA256 = ""
	other := j
	other.Kernel.File = "/elsewhere"
	assert.Assert(t, j.ID() != other.ID(), "a file whose content is not known counts by its name")
}

// TestJobs: the order of a matrix changes the order of the jobs, and no ID.
func TestJobs(t *testing.T) {
	kernels := []Kernel{{File: "a", SHA256: "1"}, {File: "b", SHA256: "2"}}
	programs := []Program{{File: "x", SHA256: "3", Suite: "x"}, {File: "y", SHA256: "4", Suite: "y"}, {File: "z", SHA256: "5"}}
	ids := func() (out []string) {
		for _, j := range Jobs(kernels, programs, Shape{}, func(p Program) Task { return Task{Args: []string{p.Suite}} }) {
			assert.Equal(t, j.Task.Args[0], j.Program.Suite)
			out = append(out, j.ID())
		}
		return out
	}
	before := ids()
	slices.Reverse(kernels)
	slices.Reverse(programs)
	after := ids()
	assert.Equal(t, len(before), 6)
	assert.Assert(t, !slices.Equal(before, after))
	slices.Sort(before)
	slices.Sort(after)
	assert.DeepEqual(t, before, after)
	assert.Equal(t, len(slices.Compact(before)), 6)
}

func TestDecodeRefuses(t *testing.T) {
	text, err := full().Encode()
	assert.NilError(t, err)
	for name, c := range map[string]struct{ text, want string }{
		"no JSON":         {"{", "read a job: "},
		"another version": {strings.Replace(string(text), `"format": 3`, `"format": 2`, 1), "another version"},
		"none":            {"{}", "another version"},
		"changed by hand": {strings.Replace(string(text), "TestA", "TestC", 2), "changed by hand"},
		"another type":    {strings.Replace(string(text), `"memoryMiB": 512`, `"memoryMiB": "x"`, 1), "read a job: "},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Assert(t, c.text != string(text))
			_, err := Decode([]byte(c.text))
			assert.ErrorContains(t, err, c.want)
		})
	}
}

func TestSelectionArgs(t *testing.T) {
	assert.DeepEqual(t, Selection{}.Args(time.Minute), []string{"-test.v=test2json", "-test.paniconexit0", "-test.timeout=1m0s"})
	assert.DeepEqual(t, Selection{Run: "a", Skip: "b", Short: true, Count: 2}.Args(time.Second),
		[]string{"-test.v=test2json", "-test.paniconexit0", "-test.timeout=1s", "-test.count=2", "-test.short", "-test.skip=b", "-test.run=a"})
}

func TestKernelArgs(t *testing.T) {
	task := Task{Cmdline: append(make([]string, 0, 4), "a")}
	assert.DeepEqual(t, task.KernelArgs(), []string{"a"})
	task.PanicOnWarn = true
	assert.DeepEqual(t, task.KernelArgs(), []string{"a", "panic_on_warn=1"})
	assert.DeepEqual(t, task.Cmdline, []string{"a"})
}

func FuzzDecode(f *testing.F) {
	text, err := full().Encode()
	assert.NilError(f, err)
	f.Add(text)
	f.Fuzz(func(t *testing.T, b []byte) {
		j, err := Decode(b)
		if err != nil {
			return
		}
		again, err := j.Encode()
		assert.NilError(t, err)
		assert.Assert(t, json.Valid(again))
	})
}
