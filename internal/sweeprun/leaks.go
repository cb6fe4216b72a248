// SPDX-License-Identifier: Apache-2.0

package sweeprun

import (
	"context"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/kvmrun/kvmrun/internal/fault"
	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/oops"
	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/sweep"
	"github.com/kvmrun/kvmrun/internal/wire"
)

// kmemleakFile is how one talks to the kernel's detector of leaks
// (Documentation/dev-tools/kmemleak.rst).
const kmemleakFile = fault.Debug + "/kmemleak"

// kmemleakAge is how old an object has to be to count as lost: MSECS_MIN_AGE in
// mm/kmemleak.c and some ticks.
const kmemleakAge = 5*time.Second + 100*time.Millisecond

// scanForLeaks adds to arm that kmemleak looks for what is lost. It takes two
// scans: what has changed since the one before, as all that is new has, is not
// lost yet.
func scanForLeaks(arm *wire.Arm) {
	arm.Final = append(arm.Final,
		wire.Write{Path: kmemleakFile, Text: "scan"},
		wire.Write{Path: kmemleakFile, Text: "scan", Age: kmemleakAge})
	arm.Look = append(arm.Look, kmemleakFile)
}

const (
	// lostObject begins each report of kmemleak (print_unreferenced in
	// mm/kmemleak.c).
	lostObject = "unreferenced object 0x"
	// maxLost bounds how many different ones of a run are kept.
	maxLost = 100
)

var lostFrame = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^\s+\[<[0-9a-f]+>\] (\S+\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[[\w-]+\])?)\s*$`)
})

// parseLeaks reads the text of kmemleak's file. Objects that were allocated by
// the same call stack are one leak.
func parseLeaks(text string) (out []sweep.Leak) {
	known := map[string]int{}
	for {
		i := strings.Index(text, lostObject)
		if i < 0 {
			return out
		}
		rest := text[i+len(lostObject):]
		next := strings.Index(rest, "\n"+lostObject)
		block := text[i:]
		if next >= 0 {
			block = text[i : i+len(lostObject)+next+1]
		}
		text = text[i+len(block):]
		var stack []string
		for line := range strings.Lines(block) {
			if m := lostFrame().FindStringSubmatch(line); m != nil {
				stack = append(stack, m[1])
			}
		}
		at := strings.Join(stack, " < ")
		if n, ok := known[at]; ok {
			out[n].Objects++
			continue
		}
		if len(out) == maxLost {
			continue
		}
		known[at] = len(out)
		l := sweep.Leak{At: at, Objects: 1, Title: "memory leak", Raw: block}
		if r := oops.ParseFirst([]byte(block)); r != nil {
			l.Title = r.Title
		}
		out = append(out, l)
	}
}

// symbolizeLeaks adds source positions to the reports, where they are known.
func symbolizeLeaks(ctx context.Context, m *runner.Machine, k *machine.Kernel, leaks []sweep.Leak) {
	if len(leaks) == 0 {
		return
	}
	s := m.Symbolizer(ctx, k)
	if s == nil {
		return
	}
	for i := range leaks {
		if r := oops.ParseFirst([]byte(leaks[i].Raw)); r != nil {
			if text, err := s.Report(r); err == nil {
				leaks[i].Raw = string(text)
			}
		}
	}
}
