// SPDX-License-Identifier: Apache-2.0

package deps

import (
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

const module = "github.com/kvmrun/kvmrun/"

// imports returns what a package needs, itself included, without its tests.
func imports(t *testing.T, pkg string) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", module+pkg).CombinedOutput()
	assert.NilError(t, err, "%s", out)
	list := strings.Fields(string(out))
	assert.Assert(t, len(list) > 0)
	return list
}

func packages(t *testing.T, pattern string) []string {
	t.Helper()
	cmd := exec.Command("go", "list", pattern)
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	assert.NilError(t, err, "%s", out)
	return strings.Fields(string(out))
}

// TestImportsPointOneWay holds the table in ARCHITECTURE.md.
func TestImportsPointOneWay(t *testing.T) {
	host := []string{
		module + "vmtest", module + "initramfs", module + "internal/machine", module + "internal/runner", module + "internal/kfetch",
		module + "internal/kbuild", module + "internal/kimage", module + "internal/cache", module + "internal/report",
		module + "cmd/", module + "internal/front", "github.com/digitalocean/go-qemu", "github.com/u-root/mkuimage", "github.com/spf13", "net/http",
	}
	// initramfs/guest lies below the host package initramfs, and only it.
	guestOK := module + "initramfs/guest"
	guest := []string{"initramfs/guest", "suites", "suites/kit"}
	for _, p := range packages(t, "./suites/...") {
		p = strings.TrimPrefix(p, module)
		if p != "suites/testmain" {
			guest = append(guest, p)
		}
	}
	rules := []struct {
		who    []string
		banned []string
		why    string
	}{
		{guest, host, "guest code never imports host code"},
		{[]string{"initramfs/guest", "suites"}, []string{"testing"}, "only tests and the kit import testing"},
		{[]string{"vmtest"}, []string{module + "suites", module + "initramfs", module + "internal/", "testing"}, "the VM driver knows no test"},
		{[]string{"initramfs"}, []string{module + "vmtest", module + "internal/runner", module + "internal/result", "testing"}, "the initramfs knows no VM"},
		{[]string{"internal/oops", "internal/ktap", "internal/wire", "internal/kconfig", "internal/fault", "internal/sweep", "internal/words", "suites", "kconfigs"},
			[]string{module + "vmtest", module + "initramfs", module + "internal/runner", module + "cmd/", "os/exec", "net"}, "pure packages touch nothing"},
		{[]string{"internal/bisect"}, []string{module + "vmtest", module + "initramfs", module + "internal/runner", module + "internal/kbuild", module + "cmd/", "os/exec", "net/http"},
			"the search knows neither git nor VMs"},
		{[]string{"internal/agent"}, []string{module + "vmtest", module + "initramfs", module + "suites", module + "internal/runner", module + "internal/oops",
			module + "internal/result", module + "internal/kimage", module + "cmd/", "os/exec", "net", "testing"}, "the conversation knows neither VMs nor tests nor verdicts"},
		{[]string{"internal/machine"}, []string{module + "internal/runner", module + "internal/agent", module + "internal/klog", module + "internal/oops", module + "internal/ktap",
			module + "internal/gotest", module + "internal/result", module + "internal/report", module + "internal/front", module + "suites/testmain", module + "cmd/", "flag", "testing", "net/http"},
			"a machine knows neither what is said in it nor tests nor verdicts"},
		{[]string{"internal/plan"}, []string{module + "vmtest", module + "initramfs", module + "internal/machine", module + "internal/agent", module + "internal/runner",
			module + "internal/report", module + "internal/front", module + "internal/cache", module + "cmd/", "os/exec", "net", "flag", "testing"}, "a plan is data, and does nothing"},
		{[]string{"internal/klog"}, []string{module + "vmtest", module + "initramfs", module + "internal/machine", module + "internal/agent", module + "internal/runner",
			module + "internal/result", module + "cmd/", "os/exec", "net", "testing"}, "the kernel log's reader is handed bytes, and returns facts"},
		{[]string{"internal/runner"}, []string{module + "cmd/", module + "internal/report", module + "internal/front", module + "internal/suiterun", module + "internal/sweeprun",
			module + "internal/plan", module + "internal/gotest", module + "internal/sweep", "flag"}, "one program in one VM: neither suites nor flags nor formats"},
		{[]string{"internal/suiterun"}, []string{module + "cmd/", module + "internal/report", module + "internal/front", module + "internal/sweeprun", "flag"}, "suites, and neither flags nor formats"},
		{[]string{"internal/sweeprun"}, []string{module + "cmd/", module + "internal/report", module + "internal/front", module + "internal/suiterun", "flag"}, "a sweep knows neither flags nor suites"},
		{[]string{"internal/front"}, []string{module + "vmtest", module + "initramfs", module + "internal/machine", module + "internal/runner", module + "internal/kfetch", module + "internal/kbuild",
			module + "internal/kimage", module + "internal/cache", module + "cmd/", module + "suites/testmain", "os/exec", "net"},
			"the front knows flags and names, and neither VMs nor where kernels come from"},
		{[]string{"internal/hunt"}, []string{module + "cmd/", module + "internal/front", module + "internal/report", module + "suites/testmain", "flag", "net/http"},
			"a hunt knows no flags and prints nothing"},
		{[]string{"suites/testmain"}, []string{module + "cmd/", module + "internal/report", module + "internal/kbuild", "net/http", "github.com/spf13"},
			"a suite's test binary, which is the guest's init as well, links no HTTP and no command line's library"},
	}
	for _, r := range rules {
		for _, who := range r.who {
			for _, dep := range imports(t, who) {
				for _, b := range r.banned {
					same := dep == strings.TrimSuffix(b, "/") || strings.HasPrefix(dep, strings.TrimSuffix(b, "/")+"/")
					own := strings.HasPrefix(dep, module+who)
					if same && !own && dep != guestOK {
						t.Errorf("%s imports %s: %s", who, dep, r.why)
					}
				}
			}
		}
	}
}

// layers are all packages of the module, the lowest first. A package imports only from
// the layers below its own, so that those of one layer know nothing of each other.
var layers = [][]string{
	{ // one format or one policy each
		"internal/cache", "internal/gitrepo", "internal/kconfig", "internal/ktap", "internal/nbd", "internal/oops", "internal/oops/helpergen",
		"internal/output", "internal/result", "internal/shipped", "internal/visible", "internal/wire", "internal/words",
		"kconfigs", "suites", "suites/internal/kmsg", "suites/internal/testlist", "suites/kit/fs",
		"vmtest/internal/args", "vmtest/internal/monitor",
	},
	{ // what stands on one or two of them
		"initramfs/guest", "internal/bisect", "internal/doctor", "internal/fault", "internal/gotest", "internal/kbuild/fake", "internal/kfetch", "internal/kimage",
		"internal/report", "internal/sweep", "suites/ext4", "suites/internal/marks", "suites/ipe", "suites/landlock", "suites/pamcap/capbound", "suites/uffdwp", "vmtest",
	},
	{ // what kernels and guests are made of
		"initramfs", "internal/front", "internal/hunt/hunttest", "internal/kbuild", "internal/symbolize", "suites/kit", "suites/pamcap",
	},
	{"initramfs/busybox", "internal/catalog", "internal/mutants", "suites/internal/guestmain", "suites/kit/fault"},
	{ // a job's parts: what is to be done, the machine, what is said in it, what its kernel says
		"internal/plan", "internal/machine", "internal/agent", "internal/klog", "internal/catalog/hostneeds",
	},
	{"internal/runner"},
	{"internal/suiterun", "internal/sweeprun", "internal/runnertest"},
	{"internal/dist", "internal/hunt", "suites/testmain"},
	{"cmd/kvmrun/internal/cli"},
	{"cmd/kvmrun"},
}

// testsOnly are packages with nothing but tests, which stand above everything.
var testsOnly = []string{"examples", "internal/deps", "internal/provoke", "internal/workflows"}

// TestLayers holds every package of the module to its layer, and knows all of them.
func TestLayers(t *testing.T) {
	level := map[string]int{}
	for n, layer := range layers {
		for _, p := range layer {
			_, twice := level[p]
			assert.Check(t, !twice, "%s is in two layers", p)
			level[p] = n
		}
	}
	for _, p := range testsOnly {
		level[p] = len(layers)
	}
	cmd := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "./...")
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	assert.NilError(t, err, "%s", out)
	for l := range strings.Lines(string(out)) {
		words := strings.Fields(l)
		who := strings.TrimPrefix(words[0], module)
		mine, known := level[who]
		assert.Check(t, known, "%s has no layer: what may it know?", who)
		delete(level, who)
		for _, dep := range words[1:] {
			what, ours := strings.CutPrefix(dep, module)
			if !ours {
				continue
			}
			at := slices.IndexFunc(layers, func(layer []string) bool { return slices.Contains(layer, what) })
			assert.Check(t, at >= 0 && at < mine, "%s imports %s, which is not below it", who, what)
		}
	}
	for p := range level {
		t.Errorf("there is no package %s, which has a layer", p)
	}
}

// TestEveryLayerSaysWhatItMustNotKnow wants the sentence in each package's comment.
func TestEveryLayerSaysWhatItMustNotKnow(t *testing.T) {
	cmd := exec.Command("go", "list", "-f", "{{.ImportPath}}\t{{.Dir}}\t{{join .GoFiles \" \"}} {{join .TestGoFiles \" \"}}", "./internal/...")
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	assert.NilError(t, err, "%s", out)
	seen := 0
	for l := range strings.Lines(string(out)) {
		pkg, rest, _ := strings.Cut(strings.TrimSpace(l), "\t")
		dir, files, _ := strings.Cut(rest, "\t")
		says := ""
		for _, name := range strings.Fields(files) {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			assert.NilError(t, err)
			says += strings.Join(strings.Fields(f.Doc.Text()), " ")
		}
		seen++
		assert.Check(t, strings.Contains(says, "ust not know"), "%s does not say what it must not know", pkg)
	}
	assert.Assert(t, seen > 30, "%d packages", seen)
}

// TestSuitesStandAlone keeps suites from importing one another, in their tests
// too: what two of them need belongs into the kit. A suite may have packages below
// its own.
func TestSuitesStandAlone(t *testing.T) {
	common := []string{module + "suites", module + "suites/testmain"}
	common = append(append(common, packages(t, "./suites/kit/...")...), packages(t, "./suites/internal/...")...)
	cmd := exec.Command("go", "list", "-f", "{{.ImportPath}}: {{join .Imports \" \"}} {{join .TestImports \" \"}} {{join .XTestImports \" \"}}", "./suites/...")
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	assert.NilError(t, err, "%s", out)
	seen := 0
	for _, l := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		suite, list, _ := strings.Cut(l, ": ")
		if slices.Contains(common, suite) {
			continue
		}
		seen++
		for _, dep := range strings.Fields(list) {
			if strings.HasPrefix(dep, module+"suites/") && !slices.Contains(common, dep) && dep != suite && !strings.HasPrefix(dep, suite+"/") {
				t.Errorf("%s imports %s: a suite never imports another one", suite, dep)
			}
		}
	}
	assert.Assert(t, seen >= 5, "%d suites were looked at", seen)
}

// TestTheGuestsHalfOfATestBinaryKnowsNoHost: the package with which a test binary
// runs in a VM is guest code like any other. That a test binary links the host's
// half as well is the price of there being one binary only.
func TestTheGuestsHalfOfATestBinaryKnowsNoHost(t *testing.T) {
	deps := imports(t, "suites/internal/guestmain")
	assert.Assert(t, slices.Contains(deps, module+"internal/wire"), "it is the package that speaks to the host")
	for _, host := range []string{"internal/runner", "vmtest", "initramfs", "suites/testmain", "internal/result"} {
		assert.Check(t, !slices.Contains(deps, module+host), "suites/internal/guestmain imports %s", host)
	}
}

// TestOneFenceForEachLibrary keeps go-qemu's transport out, and the library of the
// command line in the command.
func TestOneFenceForEachLibrary(t *testing.T) {
	fences := map[string]string{"github.com/digitalocean/go-qemu": "vmtest/internal/monitor", "github.com/spf13/": "cmd/kvmrun/internal/cli"}
	cmd := exec.Command("go", "list", "-f", "{{.ImportPath}}: {{join .Imports \" \"}} {{join .TestImports \" \"}} {{join .XTestImports \" \"}}", "./...")
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	assert.NilError(t, err, "%s", out)
	for _, l := range strings.Split(string(out), "\n") {
		pkg, deps, _ := strings.Cut(l, ": ")
		for library, fence := range fences {
			if strings.Contains(deps, library) && pkg != module+fence {
				t.Errorf("%s imports %s; only %s may", pkg, library, fence)
			}
		}
	}
}

// TestEveryPackageSaysWhatItIs demands a package comment.
func TestEveryPackageSaysWhatItIs(t *testing.T) {
	cmd := exec.Command("go", "list", "-f", "{{.ImportPath}} {{if .GoFiles}}{{len .Doc}}{{else}}-{{end}}", "./...")
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	assert.NilError(t, err, "%s", out)
	for _, l := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		assert.Check(t, !strings.HasSuffix(l, " 0"), "no package comment: %s", l)
	}
}
