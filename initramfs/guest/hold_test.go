// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/wire"
)

var holdCases = []agentCase{
	{"Held before it begins", func(t *testing.T, c *client) {
		for range 3 {
			r := helperRun("print", "a", "b")
			r.Hold, c.release = wire.HoldExec, &wire.Release{Nonce: "other"}
			res := c.run(t, r)
			assert.DeepEqual(t, res.exited, &wire.Exited{Stdout: 2, Stderr: 2})
			assert.Assert(t, c.release == nil, "it was not held")
		}
	}},
	{"Held where it stops itself", func(t *testing.T, c *client) {
		r := helperRun("print", "not", "stopped")
		r.Hold = wire.HoldStop
		assert.Equal(t, c.run(t, r).exited.Code, 0)
	}},
	{"Held and not there", func(t *testing.T, c *client) {
		r := wire.Run{Argv: []string{"/no/such/program"}, Hold: wire.HoldExec}
		assert.Assert(t, c.run(t, r).exited.NotFound)
	}},
	{"Not armed", func(t *testing.T, c *client) {
		r := helperRun("print", "a")
		r.Hold = wire.HoldExec
		c.release = &wire.Release{Arm: wire.Arm{Before: []wire.Write{{Path: "/no/such/file", Symbol: "no_such_function"}}}}
		res := c.run(t, r)
		assert.Assert(t, res.exited.NotArmed != "")
		assert.Equal(t, res.exited.Signal, int(unix.SIGKILL))
		assert.Equal(t, res.out, "")
	}},
}

func TestHold(t *testing.T) {
	for _, tc := range holdCases {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, startAgent(t, newFake(), nil)) })
	}
}

// TestArm looks at what is done, in which order, to inject a fault.
func TestArm(t *testing.T) {
	f := newFake()
	f.files["/proc/kallsyms"] = "ffffffff81000100 T f\nffffffff81000180 t g\nffffffff81000140 d f_data\n"
	f.files["/k/times"] = "-2\n"
	f.files["/k/garbage"] = "x\n"
	f.files["/k/look"] = "older" + strings.Repeat("x", wire.Chunk-4) + "seen"
	f.fail[`write /k/gone "1"`] = unix.ENOENT
	c := startAgent(t, f, nil)
	r := helperRun("stop")
	r.Hold, r.Fetch = wire.HoldStop, []string{"/no/such/file"}
	c.release = &wire.Release{Args: []string{"x"}, Env: []string{"A=b\nc", "D="}, Arm: wire.Arm{
		Before:   []wire.Write{{Path: "/k/start", Symbol: "f"}, {Path: "/k/end", Symbol: "f", End: true}, {Path: "/k/gone", Text: "1", Optional: true}, {Path: "/k/p", Text: "100"}},
		After:    []wire.Write{{Path: "/k/p", Text: "0"}, {Path: "/k/gone", Text: "1"}},
		Counters: []wire.Counter{{Name: "n", Path: "/k/times", Start: 3}, {Name: "m", Path: "/k/garbage"}},
		Final:    []wire.Write{{Path: "/k/scan", Text: "scan"}, {Path: "/k/scan", Text: "again", Age: time.Millisecond}},
		Look:     []string{"/k/look", "/k/unseen"},
	}}
	res := c.run(t, r)
	assert.DeepEqual(t, f.list()[:9], []string{
		"read /proc/kallsyms", `write /k/start "0xffffffff81000100"`, `write /k/end "0xffffffff81000180"`, `write /k/gone "1"`, `write /k/p "100"`,
		`create /run/kvmrun-release-env "A=b\nc\x00D=\x00"`, "create /run/kvmrun-release \"\\nx\"", `write /k/p "0"`, `write /k/gone "1"`,
	})
	assert.DeepEqual(t, res.exited.Faults[0], wire.Count{Name: "n", Fired: 5})
	assert.Assert(t, res.exited.Faults[1].Err != "")
	assert.DeepEqual(t, res.files, map[string]string{"1/": strings.Repeat("x", wire.Chunk-4) + "seen", "2/": "!no such file or directory"})
	assert.Equal(t, len(res.done.Warnings), 1)
	assert.Assert(t, cmp.Contains(res.done.Warnings[0], "disarm a fault: "))
	scans := slices.DeleteFunc(f.list(), func(s string) bool { return !strings.HasPrefix(s, "write /k/scan") })
	assert.DeepEqual(t, scans, []string{`write /k/scan "scan"`, `write /k/scan "again"`})

	// Without a fault there is nothing to look for.
	r = helperRun("stop")
	r.Hold = wire.HoldStop
	f.files["/k/times"] = "3\n"
	c.release = &wire.Release{Args: []string{"x"}, Arm: wire.Arm{
		Counters: []wire.Counter{{Name: "n", Path: "/k/times", Start: 3}},
		Final:    []wire.Write{{Path: "/k/scan", Text: "third"}}, Look: []string{"/k/look"},
	}}
	res = c.run(t, r)
	assert.Equal(t, res.exited.Faults[0].Fired, 0)
	assert.Equal(t, len(res.files), 0, "%v", res.files)
}

// TestCannotArm: what is missing in the guest is named.
func TestCannotArm(t *testing.T) {
	for path, want := range map[string]string{
		"/sys/block/vdz/make-it-fail": "the machine has no such block device",
		"/sys/kernel/slab/x/failslab": "the kernel has no slab cache of that name",
	} {
		f := newFake()
		f.fail[`write `+path+` "1"`] = unix.ENOENT
		c := startAgent(t, f, nil)
		r := helperRun("stop")
		r.Hold = wire.HoldStop
		c.release = &wire.Release{Arm: wire.Arm{Before: []wire.Write{{Path: path, Text: "1"}}}}
		res := c.run(t, r)
		assert.Assert(t, cmp.Contains(res.exited.NotArmed, path))
		assert.Assert(t, cmp.Contains(res.exited.NotArmed, want))
	}
}

func TestReleaseTwice(t *testing.T) {
	f := newFake()
	c := startAgent(t, f, nil)
	assert.NilError(t, c.w.Send(wire.Message{Release: &wire.Release{}}))
	ends(t, c, f, "while none is held")
}

func TestFindSymbols(t *testing.T) {
	text := "0000000000000010 t a\n0000000000000020 t b\n0000000000000030 T a\n0000000000000040 t m\t[mod]\n"
	got, err := findSymbols(text, []string{"b", "m"})
	assert.NilError(t, err)
	assert.DeepEqual(t, got, map[string][2]uint64{"b": {0x20, 0x30}, "m": {0x40, ^uint64(0)}})
	_, err = findSymbols(text, []string{"a"})
	assert.ErrorContains(t, err, "2 functions named a")
	_, err = findSymbols(text, []string{"nowhere"})
	assert.ErrorContains(t, err, "0 functions named nowhere")
}
