// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"
)

// patience is a limit on how long a machine may be silent, in the machine's own
// time: what the host keeps its threads waiting for a processor does not count.
// All of it, silent or not, is bounded by patienceTotal times the limit of the
// host's time. It is used by one goroutine.
type patience struct {
	limit time.Duration
	// said counts what the machine says, and waited is how long its threads have
	// been kept waiting.
	said   func() int64
	waited func() Waits

	began, seen time.Time
	last        int64
	held        Waits
	quiet       time.Duration
}

// patienceTotal is how many times its limit a machine gets that does not fall
// silent.
const patienceTotal = 10

func newPatience(limit time.Duration, said func() int64, waited func() Waits) *patience {
	now := time.Now()
	return &patience{limit: limit, said: said, waited: waited, began: now, seen: now, last: said(), held: waited()}
}

// left returns after what time to ask again, 0 when the limit is exceeded.
func (p *patience) left() time.Duration {
	if p.limit > math.MaxInt64/patienceTotal {
		return p.limit // none
	}
	now, said, held := time.Now(), p.said(), p.waited()
	p.quiet += max(0, now.Sub(p.seen)-held.since(p.held))
	if said != p.last {
		p.quiet = 0
	}
	p.seen, p.last, p.held = now, said, held
	left := min(p.limit-p.quiet, patienceTotal*p.limit-now.Sub(p.began))
	if left <= 0 {
		return 0
	}
	return max(min(left, p.limit/8), 10*time.Millisecond)
}

// why says which limit was exceeded.
func (p *patience) why() string {
	if p.quiet < p.limit {
		return (patienceTotal * p.limit).String()
	}
	return p.limit.String() + " without a word in the kernel log"
}

// Waits is, for each thread of a process, how long it was ready to run and had no
// processor.
type Waits map[string]time.Duration

// since is the longest that one of the threads has waited since before.
func (w Waits) since(before Waits) (longest time.Duration) {
	for thread, d := range w {
		longest = max(longest, d-before[thread])
	}
	return longest
}

// Starved tells of a process's threads: the second number of each one's schedstat
// (Documentation/scheduler/sched-stats.rst). It is empty for a process that is
// gone, and where the kernel does not count.
func Starved(pid int) Waits {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid)) // the pattern is good
	w := Waits{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		var ran, waited int64
		if err == nil {
			if _, err := fmt.Sscan(string(text), &ran, &waited); err == nil {
				w[f] = time.Duration(waited)
			}
		}
	}
	return w
}
