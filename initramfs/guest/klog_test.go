// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/wire"
)

// TestKlog: what is kept of the kernel log, and when it is not complete. What a real
// kernel does with a flood is among the hostile guests of internal/suiterun.
func TestKlog(t *testing.T) {
	const (
		info   = "6,10,100,-;hello\n"
		warns  = "4,11,200,-,caller=T7;WARNING\n SUBSYSTEM=x\n"
		user   = "12,12,300,-;a program's warning\n"
		marked = "14,13,400,-;kvmrun: test begin x\n"
		forged = "12,14,500,-;a line with kvmrun: in it\n"
	)
	for name, c := range map[string]struct {
		records []string
		kept    string
		lost    string
	}{
		"nothing":           {},
		"no warning":        {[]string{info}, "", ""},
		"all":               {[]string{info, warns, user, marked, forged}, info + warns + marked, ""},
		"a gap":             {[]string{info, user}, "", "missing between two"},
		"overwritten":       {[]string{info, "", "4,99,1,-;late\n"}, info + "4,99,1,-;late\n", "overwritten"},
		"overwritten first": {[]string{"", warns}, warns, "overwritten"},
		"no record":         {[]string{"rubbish"}, "", "unknown form"},
		"users' warnings":   {[]string{"12,5,1,-;WARNING\n"}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			k := &klog{sys: f}
			k.open()
			k.begin()
			f.records = c.records
			kept, lost := k.end()
			assert.Equal(t, string(kept), c.kept)
			assert.Assert(t, strings.Contains(lost, c.lost) && (lost == "") == (c.lost == ""), lost)
			// The next program begins with nothing, but what is lost remains so.
			kept, again := k.end()
			assert.Assert(t, len(kept) == 0 && again == lost)
		})
	}
	t.Run("a flood", func(t *testing.T) {
		f := newFake()
		k := &klog{sys: f}
		k.open()
		for i := range aFlood {
			f.records = append(f.records, fmt.Sprintf("12,%d,1,-;x\n", i))
		}
		f.records = append(f.records, fmt.Sprintf("14,%d,1,-;kvmrun: test begin x\n", aFlood))
		kept, lost := k.end()
		assert.Equal(t, lost, "")
		assert.Equal(t, string(kept), fmt.Sprintf("14,%d,1,-;kvmrun: test begin x\n", aFlood))
	})
	t.Run("too much", func(t *testing.T) {
		f := newFake()
		k := &klog{sys: f}
		k.open()
		long := strings.Repeat("x", 12<<10)
		for n := 0; n <= wire.MaxKmsg; n += len(long) {
			f.records = append(f.records, "6,1,1,-;"+long)
		}
		k.mu.Lock()
		for len(f.records) > 0 {
			k.next = 0 // they all have one number
			k.drain()
			k.next = 0
		}
		k.mu.Unlock()
		kept, lost := k.end()
		assert.Assert(t, len(kept) <= wire.MaxKmsg)
		assert.Assert(t, lost != "")
	})
}

// TestKmsgIsSent: the agent sends what it kept when the kernel has warned, and the
// taint, and says when there may be more.
func TestKmsgIsSent(t *testing.T) {
	f := newFake()
	f.taint = "512"
	c := startAgent(t, f, nil)
	assert.Equal(t, c.ready.Taint, uint64(512))
	f.mu.Lock()
	f.records = []string{"4,1,1,-;" + strings.Repeat("x", 1000) + "\n", "6,3,1,-;y\n"}
	f.mu.Unlock()
	r := helperRun("true")
	r.Nonce = "n"
	assert.NilError(t, c.w.Send(wire.Message{Run: &r}))
	var text string
	for {
		m := c.receive(t)
		if m.Kmsg != nil {
			text += string(m.Kmsg.Data)
		}
		if m.Done != nil {
			assert.Equal(t, m.Done.Taint, uint64(512))
			assert.Assert(t, strings.Contains(m.Done.Lost, "missing"))
			break
		}
	}
	assert.Assert(t, strings.HasPrefix(text, "4,1,1,-;xxx") && strings.HasSuffix(text, "\n6,3,1,-;y\n"), text)
}
