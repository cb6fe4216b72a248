// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

func TestValidate(t *testing.T) {
	good := Spec{
		Name: "ext4", Kconfig: []string{"EXT4_FS", "VIRTIO_BLK=y"}, Disks: []Disk{{Name: "data", SizeMiB: 1}},
		Files: []File{{Host: []string{"/lib/*/libpam.so.0"}, Guest: "/lib/"}},
	}
	assert.NilError(t, good.Validate())
	for want, s := range map[string]Spec{
		"suite name":      {Name: "Ext4"},
		"kconfig need":    {Name: "a", Kconfig: []string{"CONFIG_x y"}},
		"want more than":  {Name: "a", Disks: []Disk{{Name: "d"}}},
		"disk name":       {Name: "a", Disks: []Disk{{Name: "a name that is far too long", SizeMiB: 1}}},
		"declared twice":  {Name: "a", Disks: []Disk{{Name: "d", SizeMiB: 1}, {Name: "d", SizeMiB: 1}}},
		"absolute path":   {Name: "a", Files: []File{{Host: []string{"relative"}}}},
		"no host pattern": {Name: "a", Files: []File{{Guest: "/x"}}},
		"negative":        {Name: "a", MemoryMiB: -1},
	} {
		assert.Check(t, is.ErrorContains(s.Validate(), want))
	}
	all := Spec{Name: "", MemoryMiB: -1, Disks: []Disk{{}}}.Validate().Error()
	assert.Check(t, strings.Count(all, "\n") >= 3, "only some of the mistakes are named:\n%s", all)
}

func TestConfig(t *testing.T) {
	c := ParseConfig([]byte("# comment\nCONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\nCONFIG_LSM=\"landlock,ipe\"\n"))
	assert.Check(t, c.Has("A") && c.Has("A=y") && c.Has("B") && c.Has("LSM"))
	assert.Check(t, !c.Has("B=y") && !c.Has("C") && !c.Has("D"))
	assert.Equal(t, c["LSM"], "landlock,ipe")
	assert.DeepEqual(t, c.Missing([]string{"A", "B=y", "D"}), []string{"B=y", "D"})
	assert.Check(t, Config(nil).Has("ANYTHING=y"), "what is not known to be missing must be tried")
}

// TestEarned: a reason that is printed by the kit is earned if it is true, and
// only then.
func TestEarned(t *testing.T) {
	s := Spec{Name: "a", Features: []string{"listen_tcp"}}
	facts := Facts{Config: Config{"A": "y", "B": "m"}, Release: "6.12.117+deb12-cloud-amd64"}
	short := facts
	short.Short = true
	for _, c := range []struct {
		reason string
		facts  Facts
		want   bool
	}{
		{KconfigReason("C", ""), facts, true},
		{KconfigReason("B=y", "m"), facts, true},
		{"x_test.go:3: " + KconfigReason("C", ""), facts, true},
		{KconfigReason("A", ""), facts, false}, // the kernel has it
		{KconfigReason("C", ""), Facts{}, false},
		{LinuxReason("6.13", "6.12.117", "something"), facts, true},
		{LinuxReason("6.7", "6.12.117", "something"), facts, false},
		{LinuxReason("6.13", "", ""), Facts{}, false},
		{FeatureReason("listen_tcp", "EINVAL"), facts, true},
		{FeatureReason("other", "EINVAL"), facts, false},
		{ShortReason(), short, true},
		{ShortReason(), facts, false},
		{"not today", facts, false},
		{"", facts, false},
		{"needs CONFIG_", facts, false},
		{"needs Linux ", facts, false},
		{"needs feature ;", facts, false},
	} {
		assert.Check(t, is.Equal(s.Earned(c.reason, c.facts), c.want), "reason %q", c.reason)
	}
}

func TestCompareRelease(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"6.12.117+deb12-cloud-amd64", "6.12", 1}, {"6.1.0-56-cloud-amd64", "6.7", -1}, {"6.7.0", "6.7", 0},
		{"6.10", "6.9", 1}, {"5.13", "6", -1}, {"nonsense", "0", 0},
	} {
		assert.Check(t, is.Equal(CompareRelease(c.a, c.b), c.want), "%s with %s", c.a, c.b)
	}
}

// TestHostNeeds: each thing once, and nothing that may be absent.
func TestHostNeeds(t *testing.T) {
	got := Spec{
		Disks: []Disk{
			{Mkfs: []string{"mkfs.ext4", "-q"}, Fsck: []string{"e2fsck", "-fn"}, Package: "e2fsprogs"},
			{Mkfs: []string{"mkfs.ext4"}, Package: "e2fsprogs"},
			{},
		},
		Files: []File{{Host: []string{"/a", "/b"}, Package: "ab"}, {Host: []string{"/c"}, Optional: true}},
	}.HostNeeds()
	assert.DeepEqual(t, got, []HostNeed{
		{Command: "mkfs.ext4", Package: "e2fsprogs"}, {Command: "e2fsck", Package: "e2fsprogs"}, {Files: []string{"/a", "/b"}, Package: "ab"},
	})
	assert.Assert(t, Spec{}.HostNeeds() == nil)

	got = Spec{C: []CProgram{
		{Needs: []HostNeed{{Files: []string{"/h"}, Package: "h-dev"}}},
		{Needs: []HostNeed{{Files: []string{"/h"}, Package: "h-dev"}, {Files: []string{"/i"}}}},
	}}.BuildNeeds()
	assert.DeepEqual(t, got, []HostNeed{{Command: "cc", Package: "gcc"}, {Files: []string{"/h"}, Package: "h-dev"}, {Files: []string{"/i"}}})
	assert.Assert(t, Spec{}.BuildNeeds() == nil)
}

// TestCProgramKey: source and flags, and where one ends and the next begins.
func TestCProgramKey(t *testing.T) {
	a := CProgram{Source: "int x;", Flags: []string{"-a", "-b"}}
	assert.Equal(t, a.Key(), CProgram{Source: "int x;", Flags: []string{"-a", "-b"}, Guest: "/x"}.Key())
	for _, b := range []CProgram{{Source: "int y;", Flags: a.Flags}, {Source: a.Source, Flags: []string{"-a-b"}}, {Source: a.Source, Flags: []string{"-b", "-a"}}} {
		assert.Check(t, a.Key() != b.Key(), "%+v", b)
	}
}
