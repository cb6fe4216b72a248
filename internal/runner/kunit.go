// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"fmt"
	"slices"

	"github.com/kvmrun/kvmrun/internal/ktap"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/visible"
)

// KernelTests counts the tests whose results are in the kernel log, as KUnit writes
// them: at boot, or when a module is loaded.
type KernelTests struct {
	ktap.Counts
	// Failed are those that failed or are missing, and what is wrong with the
	// results as a whole, each once.
	Failed []result.Case
}

// newKernelTests makes them of the log of one VM.
func newKernelTests(d *ktap.Doc) (k KernelTests) {
	k.Counts = d.Count()
	k.walk(d, "kunit")
	if len(k.Failed) == 0 && d.Failed() {
		k.add("kunit", "the results of tests in the kernel log are not complete")
	}
	return k
}

func (k *KernelTests) walk(d *ktap.Doc, name string) {
	for _, t := range d.Tests {
		one := name + "/" + visible.Short(t.Label())
		before := len(k.Failed)
		if t.Sub != nil && t.Status() != ktap.StatusXFail && t.Status() != ktap.StatusSkip {
			k.walk(t.Sub, one)
		}
		if t.Status() == ktap.StatusFail && len(k.Failed) == before {
			k.add(one, t.Why())
		}
	}
	for _, p := range d.Problems {
		k.add(name, p)
	}
	switch {
	case d.Bailed:
		k.add(name, "bailed out: "+d.BailOut)
	case d.Missing > 0 && len(d.Problems) == 0:
		k.add(name, fmt.Sprintf("%d tests have no result", d.Missing))
	}
}

// maxKernelTests bounds how many failures of tests in the kernel log are named.
const maxKernelTests = 200

func (k *KernelTests) add(name, why string) {
	same := func(c result.Case) bool { return c.Name == name && c.Status == result.StatusFail }
	if len(k.Failed) < maxKernelTests && !slices.ContainsFunc(k.Failed, same) {
		k.Failed = append(k.Failed, result.Case{Name: name, Status: result.StatusFail, Reason: visible.Short(why)})
	}
}

// join adds those of a further VM.
func (k *KernelTests) join(b KernelTests) {
	k.Pass += b.Pass
	k.Fail += b.Fail
	k.Skip += b.Skip
	k.XFail += b.XFail
	k.Missing += b.Missing
	k.Failed = slices.Clone(k.Failed)
	for _, c := range b.Failed {
		k.add(c.Name, c.Reason)
	}
}

// Note says how many there were, "" for none.
func (k *KernelTests) Note() string {
	if k.Total() == 0 {
		return ""
	}
	return fmt.Sprintf("KUnit in the kernel log: %d run, %d passed, %d skipped, %d failed, %d missing", k.Total(), k.Pass, k.Skip, k.Fail, k.Missing)
}
