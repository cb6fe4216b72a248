// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/suites"
)

// Kind is what goes wrong. Those of the guest's kernel are named as their
// directory below /sys/kernel/debug.
type Kind string

// The kinds; see the package comment.
const (
	Slab      Kind = "failslab"
	Page      Kind = "fail_page_alloc"
	Request   Kind = "fail_make_request"
	Futex     Kind = "fail_futex"
	UserCopy  Kind = "fail_usercopy"
	Function  Kind = "fail_function"
	IOTimeout Kind = "fail_io_timeout"

	DiskRead  Kind = "disk-read"
	DiskWrite Kind = "disk-write"
	DiskFlush Kind = "disk-flush"
	DiskFull  Kind = "disk-full"
	Pause     Kind = "vcpu-pause"
	Balloon   Kind = "balloon"
	NMI       Kind = "nmi"
	PowerCut  Kind = "power-cut"
)

// traits is what is known of a kind.
type traits struct {
	host   bool
	target string // what TARGET is, "" for none
	free   bool   // TARGET may be left out
	keys   string // the keys it takes, beside those of its side
	needs  []string
}

const (
	guestKeys = "nth every prob seed times in notin who"
	// The needs of every kind of the kernel.
	needInjection = "FAULT_INJECTION"
	needDebugFS   = "FAULT_INJECTION_DEBUG_FS"
	needFilter    = "FAULT_INJECTION_STACKTRACE_FILTER"
)

var kinds = map[Kind]traits{
	Slab:      {keys: "gfp cache", needs: []string{"FAILSLAB"}},
	Page:      {keys: "gfp order", needs: []string{"FAIL_PAGE_ALLOC"}},
	Request:   {target: "DEVICE", needs: []string{"FAIL_MAKE_REQUEST"}},
	Futex:     {needs: []string{"FAIL_FUTEX"}},
	UserCopy:  {needs: []string{"FAULT_INJECTION_USERCOPY"}},
	Function:  {target: "FUNCTION", needs: []string{"FUNCTION_ERROR_INJECTION", "FAIL_FUNCTION"}},
	IOTimeout: {target: "DEVICE", needs: []string{"FAIL_IO_TIMEOUT"}},
	DiskRead:  {host: true, target: "DISK", keys: "nth every times"},
	DiskWrite: {host: true, target: "DISK", keys: "nth every times"},
	DiskFlush: {host: true, target: "DISK", keys: "nth every times"},
	DiskFull:  {host: true, target: "DISK", keys: "nth"},
	Pause:     {host: true, keys: "after for times"},
	Balloon:   {host: true, keys: "after mib", needs: []string{"VIRTIO_BALLOON"}},
	NMI:       {host: true, keys: "after"},
	PowerCut:  {host: true, target: "DISK", free: true, keys: "after nth flush"},
}

// Kinds returns all kinds, sorted.
func Kinds() []Kind {
	var out []Kind
	for k := range kinds {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// Host says whether the kind is injected by the host rather than by the
// guest's kernel.
func (k Kind) Host() bool { return kinds[k].host }

// DiskError says whether the kind is an error of one of the VM's disks.
func (k Kind) DiskError() bool {
	return k == DiskRead || k == DiskWrite || k == DiskFlush || k == DiskFull
}

// everybody says that the kernel cannot tell for whom the kind is: it decides in
// a trap or in an interrupt (in_task() in lib/fault-inject.c).
func (k Kind) everybody() bool { return k == Function || k == IOTimeout }

// Who says whom a fault of the kernel hits.
type Who string

// The zero value means Tree.
const (
	Tree Who = "tree" // the program and all that it starts
	Task Who = "task" // the program's first thread
	All  Who = "all"  // everybody, the kernel's own threads too
)

// Always is the value of Times that means no limit.
const Always = -1

// Fault is one SPEC. The zero value of every field but Kind is its default.
type Fault struct {
	Kind Kind `json:"kind"`
	// Target is the function, device or disk.
	Target string `json:"target,omitempty"`
	// Return is what a Function returns, negative for an errno.
	Return int64 `json:"return,omitempty"`

	Nth     uint64 `json:"nth,omitempty"`     // the Nth time; 0 is not set
	Every   uint64 `json:"every,omitempty"`   // each Every-th time; 0 is not set
	Percent int    `json:"percent,omitempty"` // 1 to 100; 0 is not set
	Seed    uint64 `json:"seed,omitempty"`    // for Percent; 0 lets the kernel roll its dice
	Flush   uint64 `json:"flush,omitempty"`   // PowerCut: the Flush-th flush
	// Times bounds how often; 0 is the default, see the package comment.
	Times int `json:"times,omitempty"`

	In     string `json:"in,omitempty"`
	NotIn  string `json:"notIn,omitempty"`
	Who    Who    `json:"who,omitempty"`
	Narrow bool   `json:"narrow,omitempty"`
	Cache  string `json:"cache,omitempty"`
	Order  int    `json:"order,omitempty"`

	After time.Duration `json:"after,omitempty"`
	For   time.Duration `json:"for,omitempty"`
	MiB   int           `json:"mib,omitempty"`
}

// Plan is what goes wrong in one VM.
type Plan []Fault

// Options lists the kernel options that the fault needs, without CONFIG_.
func (f Fault) Options() []string {
	t := kinds[f.Kind]
	if t.host {
		return slices.Clone(t.needs)
	}
	out := append([]string{needInjection, needDebugFS}, t.needs...)
	if f.In != "" || f.NotIn != "" {
		out = append(out, needFilter)
	}
	if f.Cache != "" {
		out = append(out, "SLUB_DEBUG")
	}
	return out
}

// Kernel is what a plan is held against.
type Kernel struct {
	// Config is the kernel's configuration; nil is not known, and fits.
	Config suites.Config
	// Functions are the kernel's functions; empty is not known, and fits.
	Functions map[string]bool
	// Disks are the names of the VM's disks.
	Disks []string
}

// Validate says what of the plan cannot be done on this kernel, all at once.
func (p Plan) Validate(k Kernel) error {
	var errs []error
	once := map[string]Fault{}
	for _, f := range p {
		bad := func(format string, a ...any) {
			errs = append(errs, fmt.Errorf("-fault %s: %s", f, fmt.Sprintf(format, a...)))
		}
		if miss := k.Config.Missing(f.Options()); len(miss) > 0 {
			bad("the kernel lacks CONFIG_%s; `kvmrun kernel build -profile kasan` makes one that has", strings.Join(miss, ", CONFIG_"))
		}
		for _, fn := range []string{f.In, f.NotIn, f.function()} {
			if fn != "" && len(k.Functions) > 0 && !k.Functions[fn] {
				bad("the kernel has no function %s%s", fn, didYouMean(fn, k.Functions))
			}
		}
		key := string(f.Kind)
		switch {
		case kinds[f.Kind].host && kinds[f.Kind].target != "":
			key += ":" + f.Target
			if f.Target != "" && !slices.Contains(k.Disks, f.Target) {
				bad("the VM has no disk of that name%s", list(k.Disks))
			}
			if f.Kind == PowerCut && f.Nth+f.Flush == 0 && f.After == 0 {
				bad("say when: nth=N (writes), flush=N or after=DURATION")
			}
			if f.Kind == PowerCut && f.Target == "" && (f.Nth > 0 || f.Flush > 0) && len(k.Disks) != 1 {
				bad("nth and flush count on one disk: name it%s", list(k.Disks))
			}
		case f.Kind == Function:
			key += ":" + f.function()
			// One set of knobs serves all functions.
			for _, o := range once {
				if o.Kind == Function && o.when() != f.when() {
					bad("the kernel has one trigger for all functions, and -fault %s sets another", o)
				}
			}
		}
		if o, again := once[key]; again {
			bad("given twice, also as %s: the kernel has one trigger for it", o)
		}
		once[key] = f
	}
	return errors.Join(errs...)
}

func (f Fault) function() string {
	if f.Kind == Function {
		return f.Target
	}
	return ""
}

// when is the part of a fault that one set of knobs holds.
func (f Fault) when() Fault {
	f.Target, f.Return = "", 0
	return f
}

func list(names []string) string {
	if len(names) == 0 {
		return ": it has none"
	}
	return ": it has " + strings.Join(names, ", ")
}

// Guest returns the plan's share of the guest's kernel, in order.
func (p Plan) Guest() Plan { return p.side(false) }

// Host returns the plan's share of the host, in order.
func (p Plan) Host() Plan { return p.side(true) }

// Has says whether a fault of the kind is in the plan.
func (p Plan) Has(k Kind) bool {
	return slices.ContainsFunc(p, func(f Fault) bool { return f.Kind == k })
}

func (p Plan) side(host bool) (out Plan) {
	for _, f := range p {
		if f.Kind.Host() == host {
			out = append(out, f)
		}
	}
	return out
}

// Expand replaces every seed by what is drawn from it: the result has none,
// and is always the same for the same plan.
func (p Plan) Expand() Plan {
	out := slices.Clone(p)
	for i := range out {
		f := &out[i]
		if f.Percent == 0 || f.Seed == 0 {
			continue
		}
		// The number in the plan keeps two faults with one seed apart.
		r := rand.New(rand.NewPCG(f.Seed, uint64(i)))
		f.Every, f.Percent, f.Seed = geometric(r, float64(f.Percent)/100), 0, 0
	}
	return out
}

// geometric draws the number of the first success.
func geometric(r *rand.Rand, p float64) uint64 {
	if p >= 1 {
		return 1
	}
	return 1 + uint64(math.Log(1-r.Float64())/math.Log(1-p))
}

// didYouMean names the nearest of many: those that contain the name, else those
// that have the longest part of it, if that is most of it.
func didYouMean(name string, have map[string]bool) string {
	var near []string
	most := max(5, len(name)/2+1)
	for h := range have {
		n := common(name, h)
		if n > most {
			most, near = n, nil
		}
		if n == most {
			near = append(near, h)
		}
	}
	if len(near) == 0 {
		return ""
	}
	slices.SortFunc(near, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	})
	return "; it has " + strings.Join(near[:min(3, len(near))], ", ")
}

// common is the length of the longest string that is in both.
func common(a, b string) (most int) {
	row := make([]int, len(b)+1) // of the common end of a[:i] and b[:j]
	for i := range len(a) {
		for j := len(b) - 1; j >= 0; j-- {
			if row[j+1] = 0; a[i] == b[j] {
				row[j+1] = row[j] + 1
				most = max(most, row[j+1])
			}
		}
	}
	return most
}
