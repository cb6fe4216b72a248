// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/kvmrun/kvmrun/internal/wire"
	"github.com/kvmrun/kvmrun/suites/internal/marks"
)

// PowerCut is for a test during which the host may cut the power
// (-fault power-cut:DISK,nth=N). write works on the test's disks and calls ack
// as soon as something must not be lost any more, as after fsync(2). When the
// power is cut, write never returns: the machine is gone, and with it whatever
// its disks had not been told to flush. Another one gets the same disks
// and runs the test again, where check is called instead, with what had been
// acknowledged. Without a cut, check follows write in the same machine.
//
// An ack is one line of at most wire.MaxAck bytes; the first wire.MaxAcks count.
// One whose message did not get out in time is missing, which makes the check
// weaker, never wrong. A cut during check leaves nothing acknowledged.
func PowerCut(t testing.TB, write func(ack func(string)), check func(acked []string)) {
	t.Helper()
	if os.Getenv(wire.CutEnv) != "" {
		var acked []string
		if s := os.Getenv(wire.AcksEnv); s != "" {
			acked = strings.Split(s, "\n")
		}
		t.Logf("the power was cut; acknowledged until then: %d", len(acked))
		check(acked)
		return
	}
	log, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		t.Fatalf("fault.PowerCut: the kernel log is how the host learns of acknowledgements: %v", err)
	}
	defer log.Close() //nolint:errcheck // each write was a record
	var acked []string
	write(func(s string) {
		if len(s) > wire.MaxAck || strings.ContainsAny(s, "\n\x00") {
			t.Fatalf("fault.PowerCut: acknowledge %q: want one line of at most %d bytes", s, wire.MaxAck)
		}
		if _, err := fmt.Fprintf(log, "<6>%s\n", wire.AckMark(marks.Nonce(), s)); err != nil {
			t.Fatalf("fault.PowerCut: acknowledge: %v", err)
		}
		acked = append(acked, s)
	})
	// check may undo what was acknowledged, and the power may be cut meanwhile.
	if _, err := fmt.Fprintf(log, "<6>%s\n", wire.AckVoid(marks.Nonce())); err != nil {
		t.Fatalf("fault.PowerCut: %v", err)
	}
	check(acked)
}
