// SPDX-License-Identifier: Apache-2.0

package suites_test

import (
	"fmt"

	"github.com/kvmrun/kvmrun/suites"
)

var spec = suites.Spec{
	Name:            "mine",
	Doc:             "what it tests, in a line",
	Kconfig:         []string{"EXT4_FS"},
	OptionalKconfig: []string{"FAILSLAB"},
	Disks:           []suites.Disk{{Name: "data", SizeMiB: 64, Mkfs: []string{"mkfs.ext4", "-q"}, Package: "e2fsprogs"}},
}

// A suite says what it needs as data. Its TestMain hands that over:
//
//	func TestMain(m *testing.M) { testmain.Run(m, Spec, nil) }
func ExampleSpec() {
	fmt.Println(spec.Validate())
	for _, n := range spec.HostNeeds() {
		fmt.Println("the host needs", n.Command, "of", n.Package)
	}
	spec := spec
	spec.Disks = []suites.Disk{{Name: "Data disk", SizeMiB: 64}}
	fmt.Println(spec.Validate())
	// Output:
	// <nil>
	// the host needs mkfs.ext4 of e2fsprogs
	// suite mine: disk name "Data disk": want 1 to 20 of a-z, 0-9 and -
}

// A skip counts only when what it says is known to be true.
func ExampleSpec_Earned() {
	facts := suites.Facts{Config: suites.ParseConfig([]byte("CONFIG_EXT4_FS=y\n")), Release: "6.1.0-42-amd64"}
	for _, reason := range []string{
		suites.KconfigReason("FAILSLAB", ""),
		suites.KconfigReason("EXT4_FS", ""),
		suites.LinuxReason("6.7", "6.1.0-42-amd64", "TCP rules"),
		"it fails here sometimes",
	} {
		fmt.Printf("%-5v %s\n", spec.Earned(reason, facts), reason)
	}
	// Output:
	// true  needs CONFIG_FAILSLAB; this kernel has it not set
	// false needs CONFIG_EXT4_FS; this kernel has it not set
	// true  needs Linux 6.7 for TCP rules; this is 6.1.0-42-amd64
	// false it fails here sometimes
}

// Kernel releases are compared by their leading numbers.
func ExampleCompareRelease() {
	fmt.Println(suites.CompareRelease("6.12.117+deb13-cloud-amd64", "6.7"), suites.CompareRelease("6.7.0", "6.7"))
	// Output: 1 0
}

// What is known of a kernel's configuration decides about needs; what is not known
// must be tried.
func ExampleConfig_Missing() {
	c := suites.ParseConfig([]byte("CONFIG_EXT4_FS=m\n# CONFIG_SWAP is not set\n"))
	fmt.Println(c.Missing([]string{"EXT4_FS", "EXT4_FS=y", "SWAP"}))
	fmt.Println(suites.Config(nil).Missing([]string{"SWAP"}))
	// Output:
	// [EXT4_FS=y SWAP]
	// []
}
