package oops_test

import (
	"testing"
	"time"

	"github.com/kvmrun/kvmrun/internal/oops"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

const allowText = `# known bugs
title: WARNING in foo_* | reason: quirk | link: https://bugs/1 | expires: 2027-01-31

fingerprint: 00ff	reason: old	link: https://bugs/2	expires: 2026-01-31
title: WARNING in a/usb_submit_urb | reason: x | link: y | expires: 2030-12-01
`

func TestAllowList(t *testing.T) {
	list, err := oops.ParseAllowList("allow", []byte(allowText))
	assert.NilError(t, err)
	day := time.Date(2027, 1, 31, 23, 59, 0, 0, time.UTC)
	foo := &oops.Report{Title: "WARNING in foo_bar"}

	e := list.Allow(foo, day)
	assert.Assert(t, e != nil)
	assert.Equal(t, e.Line, 2)
	assert.Equal(t, e.Reason, "quirk")
	assert.Equal(t, e.Used(), 1)
	assert.Assert(t, list.Allow(foo, day.Add(time.Hour)) == nil, "expired entries allow nothing")
	assert.Assert(t, list.Allow(&oops.Report{Fingerprint: "00ff"}, day) == nil)
	assert.Assert(t, list.Allow(&oops.Report{Title: "x", AltTitles: []string{"WARNING in a/usb_submit_urb"}}, day) != nil)
	assert.Assert(t, list.Allow(&oops.Report{Title: "WARNING in foo"}, day) == nil)

	assert.DeepEqual(t, list.Complaints(day), []string{
		"allow-list allow:4: expired on 2026-01-31 and not applied: fingerprint 00ff",
	})
	unused, err := oops.ParseAllowList("more", list.Active(day))
	assert.NilError(t, err)
	assert.DeepEqual(t, unused.Complaints(day), []string{
		"allow-list more:1: never matched: title WARNING in foo_*",
		"allow-list more:2: never matched: title WARNING in a/usb_submit_urb",
	})
	list.Add(unused)
	assert.Assert(t, is.Len(list.Entries(), 5))

	var none *oops.AllowList
	assert.Assert(t, none.Allow(foo, day) == nil)
	assert.Assert(t, is.Len(none.Complaints(day), 0))
}

func TestAllowListErrors(t *testing.T) {
	for text, want := range map[string]string{
		"title: a | reason: b | link: c":                              "f:1: expires is missing",
		"\n\ntitle: a | reason: b | link: c | expires: tomorrow":      "f:3: expires \"tomorrow\" is not a date",
		"title: a | fingerprint: 1 | reason: b | link: c":             "f:1: want exactly one of title and fingerprint",
		"reason: b | link: c | expires: 2026-01-01":                   "f:1: want exactly one",
		"title: [a | reason: b | link: c | expires: 2026-01-01":       "f:1: bad title pattern",
		"fingerprint: XY | reason: b | link: c | expires: 2026-01-01": "not lower-case hexadecimal",
		"what | reason: b":    "is not of the form",
		"title: a | title: b": "\"title\" is given twice",
		"title: a | color: b": "unknown field \"color\"",
		"\xff\xfe":            "f:1: line is longer",
		"title: a | reason: b | link: c | expires: 2026-01-01\ntitle: a | reason: b | link: c | expires: 2026-01-01": "f:2: title a is already on line 1",
	} {
		_, err := oops.ParseAllowList("f", []byte(text))
		assert.ErrorContains(t, err, want)
	}
	_, err := oops.ParseAllowList("f", []byte("a\nb"))
	assert.ErrorContains(t, err, "f:1: ")
	assert.ErrorContains(t, err, "f:2: ")
}
