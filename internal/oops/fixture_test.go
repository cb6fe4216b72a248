package oops_test

import (
	"bytes"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/kvmrun/kvmrun/internal/oops"
	"gotest.tools/v3/assert"
)

// fixtures returns the project's own logs by name. Those in testdata/synthetic
// were written for a format; those in testdata/vm came from our machines.
func fixtures(t testing.TB) map[string]sample {
	t.Helper()
	out := map[string]sample{}
	files, err := filepath.Glob("testdata/*/*.txt")
	assert.NilError(t, err)
	for _, file := range files {
		s := readSample(t, file)
		out[s.name] = s
	}
	assert.Assert(t, len(out) > 0, "no fixtures in testdata")
	return out
}

// TestNoBreakpoint: one that the code dump shows, none that it shows, no dump, and
// another trap.
func TestNoBreakpoint(t *testing.T) {
	stale := fixtures(t)["int3-stale.txt"].log
	for _, test := range []struct {
		log  []byte
		want bool
	}{
		{stale, true},
		{bytes.ReplaceAll(stale, []byte("66 <90>"), []byte("cc <90>")), false},
		{bytes.ReplaceAll(stale, []byte("Code: "), []byte("Bytes: ")), false},
		{bytes.ReplaceAll(stale, []byte("int3: 0000"), []byte("invalid opcode: 0000")), false},
	} {
		all := oops.Parse(test.log)
		assert.Assert(t, len(all) == 1)
		assert.Equal(t, all[0].NoBreakpoint(), test.want, "%s", test.log)
	}
}

func TestFixtures(t *testing.T) {
	type expect struct {
		Title     string
		Alts      []string
		Kind      string
		Corrupted bool
		Panicked  bool
	}
	for name, s := range fixtures(t) {
		t.Run(name, func(t *testing.T) {
			all := oops.Parse(s.log)
			if s.title == "" {
				for _, r := range all {
					t.Errorf("found %q in a log without a crash", r.Title)
				}
				return
			}
			count := max(s.count, 1)
			if len(all) != count {
				for _, r := range all {
					t.Logf("%d-%d %s", r.Start, r.End, r.Title)
				}
				t.Fatalf("%d reports, want %d", len(all), count)
			}
			r := all[0]
			want := expect{s.title, s.alts, s.kind, s.corrupted, s.panicked}
			got := expect{r.Title, r.AltTitles, string(r.Kind), r.Corrupted, r.Panicked}
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("-want +got (corrupted because %q)\n%s", r.CorruptedReason, diff)
			}
			if s.frame != "" {
				assert.Equal(t, r.Frame, s.frame)
			}
		})
	}
}

func TestFingerprintIsStable(t *testing.T) {
	shuffle := func(log []byte, from, to string) []byte {
		return bytes.ReplaceAll(log, []byte(from), []byte(to))
	}
	for name, s := range fixtures(t) {
		before := oops.ParseFirst(s.log)
		if before == nil {
			continue
		}
		log := s.log
		for _, p := range [][2]string{
			{"ffff888012345678", "ffff8881abcdef00"}, {"[   12.3", "[  999.3"}, {"T4242", "T17"}, {"PID: 4242", "PID: 17"},
			{"CPU: 1 ", "CPU: 3 "}, {"CPU#1", "CPU#3"}, {"/4242", "/17"}, {"+0x12/0x34", "+0x21/0x43"},
		} {
			log = shuffle(log, p[0], p[1])
		}
		after := oops.ParseFirst(log)
		assert.Assert(t, after != nil, name)
		assert.Equal(t, after.Fingerprint, before.Fingerprint, name)
	}
}

func TestKASANFacts(t *testing.T) {
	r := oops.ParseFirst(fixtures(t)["kasan-slab-uaf.txt"].log)
	k := r.KASAN
	assert.Assert(t, k != nil)
	funcs := func(frames []oops.Frame) []string {
		var out []string
		for _, f := range frames {
			out = append(out, f.Func)
		}
		return out
	}
	assert.DeepEqual(t, funcs(k.Alloc), []string{"kasan_save_stack", "__kasan_kmalloc", "foo_open"})
	assert.DeepEqual(t, funcs(k.Free), []string{"kasan_save_stack", "kfree", "foo_release"})
	assert.DeepEqual(t, funcs(k.LastWork), []string{"kasan_save_stack", "call_rcu", "foo_put"})
	got := *k
	got.Alloc, got.Free, got.LastWork, got.Memory = nil, nil, nil, ""
	assert.DeepEqual(t, got, oops.KASAN{
		Bug: "slab-use-after-free", Access: "Read", Size: 4, Addr: 0xffff888012345678, Task: "syz.0.17", PID: 4242,
		Cache: "kmalloc-192", ObjectSize: 192, Offset: 120, Where: "120 bytes inside of freed 192-byte region",
		AllocPID: 4000, FreePID: 4001,
	})
	assert.Equal(t, bytes.Count([]byte(k.Memory), []byte("\n")), 3)
	assert.Equal(t, r.CPU, 1)
	assert.Equal(t, r.PID, 4242)
	assert.Equal(t, r.Comm, "syz.0.17")
	assert.Equal(t, r.Kernel, "6.12.0-rc1")
	assert.Equal(t, r.Context, "T4242")
	i := slices.IndexFunc(r.Stack, func(f oops.Frame) bool { return f.Func == "foo_read" })
	assert.Assert(t, i >= 0)
	assert.Equal(t, r.Stack[i].Offset, uint64(0x12))
	assert.Equal(t, r.Stack[i].Size, uint64(0x34))
	assert.Equal(t, r.Stack[i].File, "drivers/foo.c")
	assert.Equal(t, r.Stack[i].Line, 12)
}

func TestFacts(t *testing.T) {
	all := fixtures(t)
	r := oops.ParseFirst(all["warn-refcount.txt"].log)
	assert.Equal(t, r.Stack[0].Func, "refcount_warn_saturate")
	assert.Assert(t, bytes.Contains([]byte(r.Registers), []byte("RAX: 0000000000012d70")), r.Registers)
	assert.Assert(t, bytes.Contains(r.Raw, []byte("refcount_t: underflow")), "the preamble is part of the report")

	r = oops.ParseFirst(all["hung.txt"].log)
	assert.Equal(t, r.Comm, "syz.0.17")
	assert.Equal(t, r.PID, 4242)

	r = oops.ParseFirst(all["arm64-null.txt"].log)
	assert.Equal(t, r.Stack[0].Func, "foo_bar")
	assert.Assert(t, bytes.Contains([]byte(r.Registers), []byte("x29: ffff800080003d50")), r.Registers)
	assert.Equal(t, r.Kernel, "6.12.0")
}

// countOf reads a COUNT header.
func countOf(value string) int {
	n, err := strconv.Atoi(value)
	if err != nil {
		return 0
	}
	return n
}
