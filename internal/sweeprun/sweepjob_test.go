// SPDX-License-Identifier: Apache-2.0

package sweeprun

import (
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/sweep"
)

// TestChoose: when two runs differ in the number of their calls, the points are
// those of the longer one, whichever it was, and how far they were apart is said.
func TestChoose(t *testing.T) {
	list := sweep.Listing{Total: 5, Sites: []sweep.Site{{ID: 1, Stack: []string{"a", "b"}, Points: []uint64{1, 3, 5}}}}
	filter := func(string) bool { return false }
	for _, c := range []struct {
		again, total, spread uint64
	}{{5, 5, 0}, {8, 8, 3}, {3, 5, 2}} {
		h := sweep.Header{Listing: list}
		choose(&h, c.again, SweepOptions{Points: PointsAll}, filter)
		assert.Equal(t, h.Listing.Total, c.total)
		assert.Equal(t, h.Spread, c.spread)
		assert.Equal(t, len(h.Points), int(c.total))
		assert.Equal(t, h.Points[len(h.Points)-1].Nth, c.total)
	}
	h := sweep.Header{Listing: list}
	choose(&h, 5, SweepOptions{Points: PointsN, Spread: 2}, filter)
	assert.Equal(t, len(h.Points), 2)
	choose(&h, 5, SweepOptions{Points: PointsSites}, filter)
	assert.Equal(t, len(h.Points), 3)
}
