// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"slices"
	"sync"
	"time"
)

// rdtsc reads the processor's time stamp counter.
func rdtsc() uint64

// tscKHz is how fast the host's time stamp counter runs, in kHz, rounded to MHz so
// that it is the same each time; 0 when that cannot be told. Under TCG the guest's
// runs as fast (QEMU's cpu_get_ticks).
var tscKHz = sync.OnceValue(func() int {
	const (
		apart  = 4 * time.Millisecond
		rounds = 5
	)
	var khz []float64
	for range rounds {
		t0, c0 := tick()
		time.Sleep(apart)
		t1, c1 := tick()
		khz = append(khz, float64(c1-c0)/float64(t1.Sub(t0).Nanoseconds())*1e6)
	}
	slices.Sort(khz)
	// A busy host may spoil some, of either kind.
	if khz[3] > 1.001*khz[1] || khz[1] < 1e5 {
		return 0 // it stops, jumps or changes its speed
	}
	return int(khz[2]/1000+0.5) * 1000
})

// tick reads the clock and the counter at the same time, as far as a busy host
// lets us: of several readings the one that took least.
func tick() (at time.Time, count uint64) {
	best := time.Duration(-1)
	for range 10 {
		before := time.Now()
		c := rdtsc()
		if took := time.Since(before); best < 0 || took < best {
			best, at, count = took, before.Add(took/2), c
		}
	}
	return at, count
}
