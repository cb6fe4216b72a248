// SPDX-License-Identifier: Apache-2.0

package ktap_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/ktap"
)

// wanted is what a log of the field folder holds: NN-name.want.json.
type wanted struct {
	Expect struct {
		TAP *struct {
			Empty   bool
			Pass    int
			Fail    int
			Skip    int
			XFail   int
			Missing *int
			Verdict string
		}
	}
	Why string
}

// TestField counts the logs of the folder that KVMRUN_FIELD names, which come
// from public reports, and prints a table.
func TestField(t *testing.T) {
	dir := os.Getenv("KVMRUN_FIELD")
	if dir == "" {
		t.Skip("KVMRUN_FIELD is not set: set it to a folder with NN-name.log and NN-name.want.json (expect.tap)")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.want.json"))
	assert.NilError(t, err)
	right, all := 0, 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		assert.NilError(t, err)
		var w wanted
		assert.NilError(t, json.Unmarshal(b, &w), file)
		want := w.Expect.TAP
		if want == nil {
			continue
		}
		all++
		log := strings.TrimSuffix(file, ".want.json") + ".log"
		in, err := os.Open(log)
		assert.NilError(t, err)
		d, err := ktap.Parse(in)
		_ = in.Close()
		assert.NilError(t, err)
		n := d.Count()
		ok := d.Empty() == want.Empty && n.Pass == want.Pass && n.Fail == want.Fail && n.Skip == want.Skip && n.XFail == want.XFail
		if want.Missing != nil {
			ok = ok && n.Missing == *want.Missing
		}
		if want.Verdict != "" {
			ok = ok && d.Failed() == (want.Verdict == "fail")
		}
		verdict := "wrong"
		if ok {
			right++
			verdict = "right"
		}
		t.Logf("%-5s %-32s pass %d fail %d skip %d xfail %d missing %d failed %v", verdict, filepath.Base(log), n.Pass, n.Fail, n.Skip, n.XFail, n.Missing, d.Failed())
		if !ok {
			t.Errorf("%s: want %s; %s\n%s", filepath.Base(log), b, w.Why, dump(d))
		}
	}
	if all == 0 {
		t.Fatalf("no case with expect.tap in %s", dir)
	}
	t.Logf("tap field score: %d/%d", right, all)
}
