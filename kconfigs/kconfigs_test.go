// SPDX-License-Identifier: Apache-2.0

package kconfigs_test

import (
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/kconfig"
	"github.com/kvmrun/kvmrun/kconfigs"
)

func TestFragments(t *testing.T) {
	used := map[string]bool{}
	for _, p := range kconfigs.Profiles() {
		var frags []*kconfig.Fragment
		for _, name := range p.Fragments {
			used[name] = true
			f, err := kconfigs.Get(name)
			assert.NilError(t, err)
			parsed, err := kconfig.Parse(name, f.Text)
			assert.NilError(t, err)
			frags = append(frags, parsed)
		}
		_, err := kconfig.Merge(frags...)
		assert.NilError(t, err, "profile %s", p.Name)
		assert.Assert(t, p.Doc != "")
	}
	for _, name := range kconfigs.Names() {
		f, err := kconfigs.Get(name)
		assert.NilError(t, err)
		assert.Assert(t, f.Doc != "" && len(f.Doc) < 200, "%s: %q", name, f.Doc)
		assert.Assert(t, used[name], "no profile uses %s", name)
	}
}

func TestUnknown(t *testing.T) {
	_, err := kconfigs.FindProfile("fat")
	assert.Error(t, err, `unknown profile "fat": want one of lean, kasan, debug, kcsan, ubsan`)
	_, err = kconfigs.Get("../base")
	assert.ErrorContains(t, err, `unknown fragment "../base": want one of base, debug-vm`)
}
