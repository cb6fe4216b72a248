// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"fmt"
	"path"
	"strconv"

	"github.com/kvmrun/kvmrun/internal/wire"
)

// Debug is where debugfs is mounted in every guest.
const Debug = "/sys/kernel/debug"

// Noise is how much the kernel prints about each fault.
type Noise int

// The kernel's levels of "verbose".
const (
	Quiet Noise = iota
	Line        // one line
	Stack       // and the call stack
)

// Compile returns what makes the guest's kernel carry out its share of the
// plan, which must be expanded: what the agent does before the program goes on,
// and after its end. Nothing is armed before the last of the writes.
func (p Plan) Compile(noise Noise) wire.Arm {
	var a wire.Arm
	for _, f := range p.Guest() {
		f.compile(&a, noise, nil)
	}
	return a
}

// Range are addresses, End excluded.
type Range struct{ Start, End uint64 }

// CompileAt is Compile for one fault of the kernel that counts only calls with a
// return address within the range in their stack; it takes the place of In.
func (f Fault) CompileAt(noise Noise, at *Range) wire.Arm {
	var a wire.Arm
	f.compile(&a, noise, at)
	return a
}

func (f Fault) compile(a *wire.Arm, noise Noise, at *Range) {
	dir := path.Join(Debug, string(f.Kind))
	put := func(file, value string) {
		a.Before = append(a.Before, wire.Write{Path: path.Join(dir, file), Text: value})
	}
	flag := func(file string, on bool) {
		v := "N"
		if on {
			v = "Y"
		}
		put(file, v)
	}
	probability, interval, times := 100, uint64(1), Always
	switch {
	case f.Nth > 0:
		interval, times = f.Nth, 1
	case f.Every > 0:
		interval = f.Every
	case f.Percent > 0:
		probability = f.Percent
	}
	if f.Times > 0 {
		times = f.Times
	}
	who := f.Who
	if f.Kind.everybody() {
		who = All
	}
	flag("task-filter", who != All)
	put("interval", strconv.FormatUint(interval, 10))
	put("times", strconv.Itoa(times))
	put("space", "0")
	put("verbose", strconv.Itoa(int(noise)))
	// Every fault is to be seen; 0 is no limit (lib/ratelimit.c).
	put("verbose_ratelimit_interval_ms", "0")
	if at != nil {
		put("require-start", fmt.Sprintf("%#x", at.Start))
		put("require-end", fmt.Sprintf("%#x", at.End))
	}
	for _, r := range []struct{ which, fn string }{{"require", f.In}, {"reject", f.NotIn}} {
		if r.fn == "" || at != nil && r.which == "require" {
			continue
		}
		for _, edge := range []string{"start", "end"} {
			a.Before = append(a.Before, wire.Write{
				Path: path.Join(dir, r.which+"-"+edge), Symbol: r.fn, End: edge == "end",
			})
		}
	}
	switch f.Kind {
	case Slab:
		flag("ignore-gfp-wait", f.Narrow)
		flag("cache-filter", f.Cache != "")
		if f.Cache != "" {
			a.Before = append(a.Before, wire.Write{Path: path.Join("/sys/kernel/slab", f.Cache, "failslab"), Text: "1"})
		}
	case Page:
		flag("ignore-gfp-wait", f.Narrow)
		flag("ignore-gfp-highmem", f.Narrow)
		put("min-order", strconv.Itoa(f.Order))
	case Request:
		a.Before = append(a.Before, wire.Write{Path: path.Join("/sys/block", f.Target, "make-it-fail"), Text: "1"})
	case IOTimeout:
		a.Before = append(a.Before, wire.Write{Path: path.Join("/sys/block", f.Target, "io-timeout-fail"), Text: "1"})
	case Function:
		put("inject", f.Target)
		put(path.Join(f.Target, "retval"), fmt.Sprintf("%#x", uint64(f.Return))) // an unsigned attribute (kernel/fail_function.c)
	}
	switch who {
	case Task:
		// The thread's own counter, which needs no probability.
		a.Nth = f.Nth
		return
	case Tree, "":
		a.Mark = true
	}
	// The last one arms.
	put("probability", strconv.Itoa(probability))
	a.After = append(a.After, wire.Write{Path: path.Join(dir, "probability"), Text: "0"})
	if times != Always {
		a.Counters = append(a.Counters, wire.Counter{Name: f.String(), Path: path.Join(dir, "times"), Start: times})
	}
}
