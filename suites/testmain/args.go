// SPDX-License-Identifier: Apache-2.0

package testmain

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kvmrun/kvmrun/internal/runner"
	"github.com/kvmrun/kvmrun/internal/wire"
)

// Flags of package testing that name a file to write (go help testflag). Those
// in outFiles are relative to -test.outputdir when that is given.
var (
	outFiles = map[string]bool{
		"test.coverprofile": true, "test.cpuprofile": true, "test.memprofile": true,
		"test.blockprofile": true, "test.mutexprofile": true, "test.trace": true,
	}
	// testlogfile records which files and variables a test used, for go
	// test's result cache; -kernel rules that out anyway.
	dropped = map[string]bool{"test.testlogfile": true, "test.fuzzcachedir": true, "test.fuzzworker": true}
)

// guestArgs turns the flags that were set into the guest's arguments: the
// host's own are left out, and files to be written become guest files that are
// fetched afterwards. The guest never learns a host path.
func guestArgs(fs *flag.FlagSet, own func(string) bool) (args []string, fetch []runner.Fetch, err error) {
	wd, err := os.Getwd()
	if err != nil {
		return nil, nil, err
	}
	dir := wd
	if f := fs.Lookup("test.outputdir"); f != nil && f.Value.String() != "" {
		dir = f.Value.String()
	}
	fs.Visit(func(f *flag.Flag) {
		v := f.Value.String()
		switch {
		case own(f.Name), dropped[f.Name]:
			return
		case outFiles[f.Name]:
			if v == "" {
				return
			}
			base := dir
			if !filepath.IsAbs(v) {
				v = filepath.Join(base, v)
			}
			g := filepath.Join(wire.ProfileDir, f.Name)
			fetch = append(fetch, runner.Fetch{Guest: g, Host: v})
			v = g
		case f.Name == "test.outputdir":
			v = wire.ProfileDir
		case f.Name == "test.gocoverdir":
			fetch = append(fetch, runner.Fetch{Guest: wire.CoverDir, Host: v, Dir: true})
			v = wire.CoverDir
		}
		args = append(args, fmt.Sprintf("-%s=%s", f.Name, v))
	})
	if rest := fs.Args(); len(rest) > 0 {
		args = append(append(args, "--"), rest...)
	}
	return args, fetch, nil
}
