// SPDX-License-Identifier: Apache-2.0

package fault_test

import (
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites"
)

var specs = []struct {
	spec string
	want fault.Fault
}{
	{"failslab", fault.Fault{Kind: fault.Slab}},
	{"failslab,nth=3", fault.Fault{Kind: fault.Slab, Nth: 3}},
	{"failslab,nth=3,who=task", fault.Fault{Kind: fault.Slab, Nth: 3, Who: fault.Task}},
	{"failslab,prob=10,seed=7,times=2,gfp=narrow,cache=ext4_extent_status", fault.Fault{
		Kind: fault.Slab, Percent: 10, Seed: 7, Times: 2, Narrow: true, Cache: "ext4_extent_status",
	}},
	{"fail_page_alloc,every=5,in=do_mmap,notin=ksys_read,who=all,order=2", fault.Fault{
		Kind: fault.Page, Every: 5, In: "do_mmap", NotIn: "ksys_read", Who: fault.All, Order: 2,
	}},
	{"fail_make_request:vda,nth=1", fault.Fault{Kind: fault.Request, Target: "vda", Nth: 1}},
	{"fail_futex,prob=1", fault.Fault{Kind: fault.Futex, Percent: 1}},
	{"fail_usercopy,nth=9", fault.Fault{Kind: fault.UserCopy, Nth: 9}},
	{"fail_io_timeout:vdb", fault.Fault{Kind: fault.IOTimeout, Target: "vdb"}},
	{"fail_function:should_failslab=-ENOMEM,every=2", fault.Fault{Kind: fault.Function, Target: "should_failslab", Return: -12, Every: 2}},
	{"fail_function:f=7", fault.Fault{Kind: fault.Function, Target: "f", Return: 7}},
	{"disk-write:data,nth=4", fault.Fault{Kind: fault.DiskWrite, Target: "data", Nth: 4}},
	{"disk-read:data,every=2,times=3", fault.Fault{Kind: fault.DiskRead, Target: "data", Every: 2, Times: 3}},
	{"disk-flush:data", fault.Fault{Kind: fault.DiskFlush, Target: "data"}},
	{"disk-full:data", fault.Fault{Kind: fault.DiskFull, Target: "data"}},
	{"vcpu-pause,after=1s,for=20ms", fault.Fault{Kind: fault.Pause, After: time.Second, For: 20 * time.Millisecond}},
	{"balloon,mib=100", fault.Fault{Kind: fault.Balloon, MiB: 100}},
	{"nmi,after=1.5s", fault.Fault{Kind: fault.NMI, After: 1500 * time.Millisecond}},
	{"power-cut:data,nth=12", fault.Fault{Kind: fault.PowerCut, Target: "data", Nth: 12}},
	{"power-cut,flush=2", fault.Fault{Kind: fault.PowerCut, Flush: 2}},
}

func TestParse(t *testing.T) {
	for _, s := range specs {
		got, err := fault.Parse(s.spec)
		assert.NilError(t, err)
		assert.DeepEqual(t, got, s.want)
		again, err := fault.Parse(got.String())
		assert.NilError(t, err, "%s", got)
		assert.DeepEqual(t, again, got)
	}
	for _, k := range fault.Kinds() {
		found := false
		for _, s := range specs {
			found = found || s.want.Kind == k
		}
		assert.Assert(t, found, "no test for %s", k)
	}
}

func TestParseErrors(t *testing.T) {
	for spec, want := range map[string]string{
		"":                                `unknown kind ""; there are balloon, disk-flush`,
		"failslap":                        `unknown kind "failslap"; did you mean failslab?`,
		"page_alloc":                      "did you mean fail_page_alloc?",
		"fail-futex":                      "did you mean fail_futex?",
		"failslab:x":                      "failslab takes no target",
		"fail_make_request":               "no device: want fail_make_request:DEVICE",
		"fail_function":                   "no function: want fail_function:FUNCTION",
		"fail_function:f":                 "want fail_function:f=-ENOMEM",
		"fail_function:f=ENOMEM":          "neither a number nor an errno",
		"fail_function:../x=1":            "is no name",
		"failslab,cache=a/b":              "is no name",
		"failslab,nth":                    "nth has no value",
		"failslab,nth=0":                  "want 1 to",
		"failslab,nth=1,nth=2":            "nth is given twice",
		"failslab,nth=1,every=2":          "give one of nth, every",
		"failslab,nth=1,times=2":          "nth happens once",
		"failslab,seed=1":                 "seed goes with prob",
		"failslab,prob=101":               "want 1 to 100",
		"failslab,order=1":                `failslab takes no "order"; it takes gfp, cache, nth`,
		"failslab,who=me":                 "want tree, task or all",
		"failslab,who=task":               "who=task goes with nth",
		"fail_function:f=1,who=tree":      "fail_function is for everybody",
		"fail_io_timeout:vda,who=tree":    "fail_io_timeout is for everybody",
		"fail_function:f=1,who=task":      "fail_function is for everybody",
		"failslab,gfp=x":                  "want wide or narrow",
		"disk-write:d,prob=1":             `takes no "prob"`,
		"vcpu-pause":                      "give for=DURATION",
		"vcpu-pause,for=-1s":              "want a duration",
		"balloon":                         "give mib=N",
		"power-cut,nth=1,after=1s":        "give one of",
		strings.Repeat("x", 10000):        "longer than 4096 bytes",
		"fail_futex,in=" + "a" + "\x00b":  "is no name",
		"fail_make_request:" + "..,nth=1": "is no name",
	} {
		_, err := fault.Parse(spec)
		assert.ErrorContains(t, err, want, "%s", spec)
	}
}

func TestParsePlan(t *testing.T) {
	p, err := fault.ParsePlan("# all of it\n\nfailslab,nth=1\n  disk-full:d  \n")
	assert.NilError(t, err)
	assert.Equal(t, p.String(), "failslab,nth=1\ndisk-full:d\n")
	assert.Equal(t, p.Guest().String(), "failslab,nth=1\n")
	assert.Equal(t, p.Host().String(), "disk-full:d\n")
	_, err = fault.ParsePlan("failslab\nfoo")
	assert.ErrorContains(t, err, "line 2: ")
}

func plan(t testing.TB, specs ...string) fault.Plan {
	t.Helper()
	p, err := fault.ParsePlan(strings.Join(specs, "\n"))
	assert.NilError(t, err)
	return p
}

func TestValidate(t *testing.T) {
	all := suites.Config{"FAULT_INJECTION": "y", "FAULT_INJECTION_DEBUG_FS": "y", "FAILSLAB": "y", "FAIL_FUNCTION": "y",
		"FUNCTION_ERROR_INJECTION": "y", "FAULT_INJECTION_STACKTRACE_FILTER": "y"}
	k := fault.Kernel{Config: all, Functions: map[string]bool{"ext4_es_insert_extent": true, "should_failslab": true, "__es_alloc_extent": true},
		Disks: []string{"data", "scratch"}}
	assert.NilError(t, plan(t, "failslab,in=ext4_es_insert_extent", "fail_function:should_failslab=-1",
		"disk-full:data", "disk-full:scratch").Validate(k))
	assert.NilError(t, plan(t, "fail_page_alloc,in=nowhere").Validate(fault.Kernel{}), "what is not known fits")
	for spec, want := range map[string]string{
		"fail_page_alloc":                  "-fault fail_page_alloc: the kernel lacks CONFIG_FAIL_PAGE_ALLOC; `kvmrun kernel build -profile kasan`",
		"failslab,cache=x":                 "CONFIG_SLUB_DEBUG",
		"failslab,in=es_insert_extent":     "no function es_insert_extent; it has ext4_es_insert_extent",
		"failslab,notin=ext4_es_insert_ex": "it has ext4_es_insert_extent",
		"failslab,in=qqq":                  "no function qqq",
		"failslab,in=__se_es_alloc_extent": "it has __es_alloc_extent",
		"fail_function:__es_alloc_x=1":     "it has __es_alloc_extent",
		"disk-full:dat":                    "no disk of that name: it has data, scratch",
		"power-cut,nth=1":                  "name it: it has data, scratch",
		"balloon,mib=1":                    "CONFIG_VIRTIO_BALLOON",
		"power-cut:data":                   "say when: nth=N (writes)",
	} {
		assert.ErrorContains(t, plan(t, spec).Validate(k), want)
	}
	assert.ErrorContains(t, plan(t, "failslab,nth=1", "failslab,nth=2").Validate(k), "given twice, also as failslab,nth=1")
	assert.ErrorContains(t, plan(t, "fail_function:should_failslab=-1,nth=1", "fail_function:__es_alloc_extent=0").Validate(k), "one trigger for all functions")
	assert.Assert(t, !strings.Contains(plan(t, "failslab,in=no_such_function").Validate(k).Error(), "it has"), "little in common")
	err := plan(t, "fail_futex", "fail_usercopy").Validate(k)
	assert.ErrorContains(t, err, "CONFIG_FAIL_FUTEX")
	assert.ErrorContains(t, err, "CONFIG_FAULT_INJECTION_USERCOPY")
}

func TestExpand(t *testing.T) {
	p := plan(t, "failslab,prob=10,seed=1", "fail_futex,prob=10,seed=1", "fail_usercopy,prob=10", "fail_page_alloc,prob=100,seed=3")
	once := p.Expand()
	assert.DeepEqual(t, once, p.Expand())
	assert.Assert(t, once[0].Every > 0 && once[0].Percent == 0)
	assert.Assert(t, once[0].Every != once[1].Every, "two faults with one seed")
	assert.Equal(t, once[2].Percent, 10, "without a seed the kernel rolls its dice")
	assert.Equal(t, once[3].Every, uint64(1))
	assert.Equal(t, p[0].Seed, uint64(1), "the plan itself was changed")
	// The mean distance of 10 % is 10.
	sum := uint64(0)
	for seed := uint64(1); seed <= 2000; seed++ {
		sum += fault.Plan{{Kind: fault.Slab, Percent: 10, Seed: seed}}.Expand()[0].Every
	}
	assert.Assert(t, sum > 2000*9 && sum < 2000*11, "mean %v", float64(sum)/2000)
}

func TestCompile(t *testing.T) {
	render := func(a wire.Arm) string {
		var b strings.Builder
		for _, w := range a.Before {
			b.WriteString(strings.TrimPrefix(w.Path, "/sys/kernel/debug/"))
			switch {
			case w.Symbol != "" && w.End:
				b.WriteString("=end of " + w.Symbol)
			case w.Symbol != "":
				b.WriteString("=" + w.Symbol)
			default:
				b.WriteString("=" + w.Text)
			}
			b.WriteByte(' ')
		}
		return strings.TrimSpace(b.String())
	}
	for spec, want := range map[string]string{
		"failslab,nth=3": "failslab/task-filter=Y failslab/interval=3 failslab/times=1 failslab/space=0 failslab/verbose=1 " +
			"failslab/verbose_ratelimit_interval_ms=0 failslab/ignore-gfp-wait=N failslab/cache-filter=N failslab/probability=100",
		"fail_usercopy,prob=5,times=2,in=f,who=all": "fail_usercopy/task-filter=N fail_usercopy/interval=1 fail_usercopy/times=2 fail_usercopy/space=0 " +
			"fail_usercopy/verbose=1 fail_usercopy/verbose_ratelimit_interval_ms=0 fail_usercopy/require-start=f fail_usercopy/require-end=end of f fail_usercopy/probability=5",
		"fail_function:f=-ENOMEM": "fail_function/task-filter=N fail_function/interval=1 fail_function/times=-1 fail_function/space=0 fail_function/verbose=1 " +
			"fail_function/verbose_ratelimit_interval_ms=0 fail_function/inject=f fail_function/f/retval=0xfffffffffffffff4 fail_function/probability=100",
		"fail_make_request:vda,every=2": "fail_make_request/task-filter=Y fail_make_request/interval=2 fail_make_request/times=-1 fail_make_request/space=0 " +
			"fail_make_request/verbose=1 fail_make_request/verbose_ratelimit_interval_ms=0 /sys/block/vda/make-it-fail=1 fail_make_request/probability=100",
	} {
		a := plan(t, spec).Compile(fault.Line)
		assert.Equal(t, render(a), want)
		assert.Equal(t, a.Mark, !strings.Contains(spec, "who=all") && !strings.Contains(spec, "fail_function"))
		assert.Equal(t, a.After[0].Text, "0")
	}
	a := plan(t, "failslab,nth=4,who=task,gfp=narrow,cache=dentry").Compile(fault.Stack)
	assert.Equal(t, a.Nth, uint64(4))
	assert.Assert(t, !a.Mark)
	assert.Assert(t, cmp.Contains(render(a), "failslab/verbose=2"))
	assert.Assert(t, cmp.Contains(render(a), "ignore-gfp-wait=Y"))
	assert.Assert(t, cmp.Contains(render(a), "/sys/kernel/slab/dentry/failslab=1"))
	assert.Assert(t, !strings.Contains(render(a), "probability"), "the thread's own counter needs none")
	assert.Assert(t, plan(t, "disk-full:x").Compile(fault.Line).Empty())
}

// FuzzParse: whatever is accepted can be printed and read again.
func FuzzParse(f *testing.F) {
	for _, s := range specs {
		f.Add(s.spec)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		a, err := fault.Parse(spec)
		if err != nil {
			return
		}
		b, err := fault.Parse(a.String())
		assert.NilError(t, err, "%q became %q", spec, a)
		assert.DeepEqual(t, a, b)
		fault.Plan{a}.Expand().Compile(fault.Line)
		_ = fault.Plan{a}.Validate(fault.Kernel{Config: suites.Config{}, Functions: map[string]bool{"f": true}})
	})
}
