// SPDX-License-Identifier: Apache-2.0

package kconfig_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/kconfig"
	"github.com/kvmrun/kvmrun/kconfigs"
)

func parse(t *testing.T, name, text string) *kconfig.Fragment {
	t.Helper()
	f, err := kconfig.Parse(name, []byte(text))
	assert.NilError(t, err)
	return f
}

func TestParse(t *testing.T) {
	f := parse(t, "f.config", `# a comment about CONFIG_A=y
CONFIG_A=y
CONFIG_A=y
# CONFIG_B is not set
CONFIG_C=n
CONFIG_D="a \"quoted\" # string"
CONFIG_E=0x1F
CONFIG_F=-12

# optional: since 6.12
CONFIG_G=m
# override: because
CONFIG_H=y
# optional: forgotten at an empty line

CONFIG_I=""	 `)
	want := []kconfig.Assign{
		{Symbol: "A", Value: "y", File: "f.config", Line: 2},
		{Symbol: "B", Value: "n", File: "f.config", Line: 4},
		{Symbol: "C", Value: "n", File: "f.config", Line: 5},
		{Symbol: "D", Value: `"a \"quoted\" # string"`, File: "f.config", Line: 6},
		{Symbol: "E", Value: "0x1F", File: "f.config", Line: 7},
		{Symbol: "F", Value: "-12", File: "f.config", Line: 8},
		{Symbol: "G", Value: "m", File: "f.config", Line: 11, Optional: "since 6.12"},
		{Symbol: "H", Value: "y", File: "f.config", Line: 13, Override: "because"},
		{Symbol: "I", Value: `""`, File: "f.config", Line: 16},
	}
	assert.DeepEqual(t, f.Assigns, want)
}

func TestParseErrors(t *testing.T) {
	for line, want := range map[string]string{
		"CONFIG_A":                 "CONFIG_A has no value",
		"CONFIG_A=":                "CONFIG_A: the value is empty",
		"CONFIG_A =y":              `"CONFIG_A " is not an option's name`,
		"CONFIG_A=y # why":         "a comment needs a line of its own",
		"CONFIG_A=yes":             `"yes" is no value`,
		`CONFIG_A="open`:           "no closing quote",
		`CONFIG_A="a" b`:           "text after the closing quote",
		`CONFIG_A="a\"`:            "no closing quote",
		"A=y":                      "neither an assignment",
		"config A":                 "neither an assignment",
		"# CONFIG_A-B is not set":  "is not an option's name",
		"CONFIG_=y":                "is not an option's name",
		"CONFIG_A=0x":              "is no value",
		"CONFIG_A=-":               "is no value",
		"\x00\x01" + "CONFIG_A=y":  "neither an assignment",
		"CONFIG_FIRST=n":           "contradicts line 1, CONFIG_FIRST=y",
		strings.Repeat("x", 1<<16): "xxx...",
		"CONFIG_A=" + "1" + "\x00": "is no value",
	} {
		_, err := kconfig.Parse("my.config", []byte("CONFIG_FIRST=y\n\n"+line+"\nCONFIG_Z=y\n"))
		assert.ErrorContains(t, err, "my.config:3: ", "%q", line)
		assert.ErrorContains(t, err, want, "%q", line)
		var syntax *kconfig.SyntaxError
		assert.Assert(t, errors.As(err, &syntax))
		assert.Equal(t, syntax.Line, 3)
	}
}

func TestParseReportsAll(t *testing.T) {
	_, err := kconfig.Parse("f", []byte("a\nCONFIG_A=y\nb\n"))
	assert.ErrorContains(t, err, "f:1: ")
	assert.ErrorContains(t, err, "f:3: ")
}

func FuzzParse(f *testing.F) {
	f.Add("CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		frag, err := kconfig.Parse("f", []byte(text))
		if err != nil {
			return
		}
		m, err := kconfig.Merge(frag)
		assert.NilError(t, err)
		again, err := kconfig.Parse("f", m.Format())
		assert.NilError(t, err)
		m2, err := kconfig.Merge(again)
		assert.NilError(t, err)
		assert.Equal(t, string(m.Format()), string(m2.Format()))
	})
}

func TestMerge(t *testing.T) {
	a := parse(t, "a.config", "CONFIG_X=y\n# optional: old trees\nCONFIG_Y=m\n")
	b := parse(t, "b.config", "CONFIG_Y=m\n# CONFIG_Z is not set\n")
	m, err := kconfig.Merge(a, b)
	assert.NilError(t, err)
	assert.Equal(t, string(m.Format()), "CONFIG_X=y\nCONFIG_Y=m\n# CONFIG_Z is not set\n")
	assert.Equal(t, m.Assigns[1].Optional, "", "asked for by a fragment that must have it")

	clash := parse(t, "c.config", "\nCONFIG_X=n\nCONFIG_Y=y\n")
	_, err = kconfig.Merge(a, b, clash)
	assert.ErrorContains(t, err, "c.config:2: # CONFIG_X is not set contradicts a.config:1: CONFIG_X=y")
	assert.ErrorContains(t, err, "c.config:3: CONFIG_Y=y contradicts b.config:1: CONFIG_Y=m")
	var conflict *kconfig.ConflictError
	assert.Assert(t, errors.As(err, &conflict))
	assert.Equal(t, conflict.First.File, "a.config")

	over := parse(t, "d.config", "# override: on purpose\nCONFIG_X=n\n")
	m, err = kconfig.Merge(a, over)
	assert.NilError(t, err)
	assert.Equal(t, m.Assigns[0].Value, "n")
}

// tree is a small Kconfig tree with every construct that matters.
var tree = fstest.MapFS{
	"Kconfig": {Data: []byte(`mainmenu "Test"
source "arch/$(SRCARCH)/Kconfig"
source "mm/Kconfig"
source "made/by/the/build"
`)},
	"arch/x86/Kconfig": {Data: []byte(`config X86
	def_bool y
	select HAVE_KASAN if 64BIT

config 64BIT
	bool "64-bit"
	help
	  config NOT_ONE
	  Text that looks like Kconfig.

	  depends on NOTHING
config HAVE_KASAN
	bool
config DEVMEM
	bool "mem" # a comment
	default y
`)},
	"mm/Kconfig": {Data: []byte(`if X86
menu "Memory"
	depends on MMU
config SLUB_TINY
	bool "tiny"
config KASAN
	bool "KASAN"
	depends on (HAVE_KASAN && $(cc-option,-fsanitize=(kernel))) \
		|| OTHER
	depends on SYSFS && !SLUB_TINY
choice
	prompt "Mode"
config MODE_A
	bool "a"
config MODE_B
	bool "b"
endchoice
config EXPERT_ONLY
	bool "expert" if EXPERT
config LEVEL
	int "level"
	depends on DEPTH = 3
endmenu
endif
config HIDDEN
	bool
config PICKS
	bool "picks"
	select HIDDEN
config SELECTED
	bool "selected"
config SELECTOR
	bool "selector"
	select SELECTED if 64BIT
osource "nowhere"
`)},
}

func TestExplain(t *testing.T) {
	tr, err := kconfig.ReadTree(tree, "x86")
	assert.NilError(t, err)
	base := kconfig.Config{"X86": "y", "64BIT": "y", "HAVE_KASAN": "y", "MMU": "y", "SYSFS": "y"}
	with := func(kv ...string) kconfig.Config {
		c := kconfig.Config{}
		for k, v := range base {
			c[k] = v
		}
		for i := 0; i < len(kv); i += 2 {
			c[kv[i]] = kv[i+1]
		}
		return c
	}
	for _, test := range []struct {
		symbol, want string
		c            kconfig.Config
		why          []string
	}{
		{"KASAN", "y", with("SLUB_TINY", "y"), []string{"mm/Kconfig:10: needs !SLUB_TINY, where SLUB_TINY=y"}},
		{"KASAN", "y", with("HAVE_KASAN", "n"), []string{
			"mm/Kconfig:8: needs (HAVE_KASAN && $(cc-option,-fsanitize=(kernel))) || OTHER, where HAVE_KASAN=n, OTHER is unknown to this tree"}},
		{"KASAN", "y", with("MMU", "n", "SYSFS", "n"), []string{
			"mm/Kconfig:3: needs MMU, where MMU is unknown to this tree",
			"mm/Kconfig:10: needs SYSFS, where SYSFS is unknown to this tree"}},
		{"KASAN", "y", with(), nil},
		{"MODE_A", "y", with("MODE_B", "y"), []string{"mm/Kconfig:13: it is one of a choice, and MODE_B was chosen"}},
		{"EXPERT_ONLY", "y", with(), []string{"mm/Kconfig:18: it can only be set if EXPERT, where EXPERT is unknown to this tree"}},
		{"LEVEL", "7", with("DEPTH", "2"), []string{"mm/Kconfig:22: needs DEPTH=3, where DEPTH is unknown to this tree"}},
		{"HIDDEN", "y", with(), []string{"mm/Kconfig:25: it cannot be set by hand, only be selected by one of PICKS"}},
		{"SELECTED", "n", with("SELECTED", "y", "SELECTOR", "y"), []string{"selected by SELECTOR=y"}},
		{"SELECTED", "n", with("SELECTED", "y", "SELECTOR", "y", "64BIT", "n"), nil},
		{"HAVE_KASAN", "n", with("X86", "n"), []string{"arch/x86/Kconfig:12: it cannot be set by hand and has a default"}},
		{"KASAM", "y", with(), []string{"no Kconfig file of this tree defines KASAM; is KASAN meant?"}},
		{"NOT_ONE", "y", with(), []string{"no Kconfig file of this tree defines NOT_ONE"}},
	} {
		got := tr.Explain(test.symbol, test.want, test.c)
		if diff := cmp.Diff(test.why, got); diff != "" {
			t.Errorf("%s=%s: %s", test.symbol, test.want, diff)
		}
	}
}

func TestReadTreeNotATree(t *testing.T) {
	_, err := kconfig.ReadTree(fstest.MapFS{}, "x86")
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// Files that source each other must not hang the reader.
func TestReadTreeCircle(t *testing.T) {
	tr, err := kconfig.ReadTree(fstest.MapFS{
		"Kconfig": {Data: []byte("source \"a\"\n")},
		"a":       {Data: []byte("config A\n\tbool\nsource \"a\"\n")},
	}, "x86")
	assert.NilError(t, err)
	assert.Assert(t, tr.Known("A"))
}

func TestMissing(t *testing.T) {
	tr, err := kconfig.ReadTree(tree, "x86")
	assert.NilError(t, err)
	m, err := kconfig.Merge(parse(t, "p.config", `CONFIG_64BIT=y
CONFIG_KASAN=y
# CONFIG_SELECTED is not set
# optional: since 9.9
CONFIG_FUTURE=y
CONFIG_TYPO=y
# optional: known, so it must be there
CONFIG_MODE_A=y
`))
	assert.NilError(t, err)
	final := kconfig.Config{"64BIT": "y", "X86": "y", "HAVE_KASAN": "y", "SLUB_TINY": "y", "SELECTED": "y", "SELECTOR": "y", "MODE_B": "y", "SYSFS": "y"}
	broken, absent := m.Missing(final, tr)
	got := (&kconfig.UnmetError{Unmet: broken}).Error()
	assert.Equal(t, got, `4 requested option(s) did not survive:
  p.config:2: asked for CONFIG_KASAN=y, got not set
    mm/Kconfig:3: needs MMU, where MMU is unknown to this tree
    mm/Kconfig:10: needs !SLUB_TINY, where SLUB_TINY=y
  p.config:3: asked for # CONFIG_SELECTED is not set, got y
    selected by SELECTOR=y
  p.config:6: asked for CONFIG_TYPO=y, got unknown to this tree
    no Kconfig file of this tree defines TYPO
  p.config:8: asked for CONFIG_MODE_A=y, got not set
    mm/Kconfig:3: needs MMU, where MMU is unknown to this tree`)
	assert.Equal(t, len(absent), 1)
	assert.Equal(t, absent[0].Assign.Symbol, "FUTURE")
}

func TestDiff(t *testing.T) {
	got := kconfig.Diff(
		kconfig.Config{"A": "y", "B": "m", "C": "y"},
		kconfig.Config{"A": "y", "B": "y", "D": `"x"`})
	want := []kconfig.Change{{"B", "m", "y"}, {"C", "y", "n"}, {"D", "n", `"x"`}}
	assert.DeepEqual(t, got, want)
	assert.Equal(t, got[0].String(), " B m -> y")
}

func TestCheck(t *testing.T) {
	c := kconfig.Config{"A": "y", "B": "m", "S": `"x"`}
	got := kconfig.Check(c, []string{"A", "A=y", "B", "B=y", "C", "S"})
	want := []kconfig.Finding{
		{"A", "A", "y", kconfig.Present, true},
		{"A=y", "A", "y", kconfig.Present, true},
		{"B", "B", "m", kconfig.Module, true},
		{"B=y", "B", "m", kconfig.Module, false},
		{"C", "C", "n", kconfig.Missing, false},
		{"S", "S", `"x"`, kconfig.Present, true},
	}
	assert.DeepEqual(t, got, want)
}

func TestUnbootable(t *testing.T) {
	p, err := kconfigs.FindProfile("lean")
	assert.NilError(t, err)
	var frags []*kconfig.Fragment
	for _, name := range p.Fragments {
		f, err := kconfigs.Get(name)
		assert.NilError(t, err)
		frags = append(frags, parse(t, name, string(f.Text)))
	}
	m, err := kconfig.Merge(frags...)
	assert.NilError(t, err)
	c, err := kconfig.ParseConfig("lean", m.Format())
	assert.NilError(t, err)
	assert.DeepEqual(t, kconfig.Unbootable(c), []string(nil))

	delete(c, "BLK_DEV_INITRD")
	c["VIRTIO_CONSOLE"] = "m"
	assert.DeepEqual(t, kconfig.Unbootable(c), []string{
		"CONFIG_BLK_DEV_INITRD is not set, must be y: the tests are in an initramfs",
		"CONFIG_VIRTIO_CONSOLE is m, must be y: the tests' output comes over virtio-serial ports",
	})
}

// The reader understands a whole real tree: every symbol that the kernel's own
// tools write is known to it.
func TestRealTree(t *testing.T) {
	src := os.Getenv("KVMRUN_KERNEL_SRC")
	if src == "" {
		t.Skip("KVMRUN_KERNEL_SRC is not set; set it to an unpacked kernel source tree")
	}
	tr, err := kconfig.ReadTree(os.DirFS(src), "x86")
	assert.NilError(t, err)
	text, err := os.ReadFile(filepath.Join(src, "arch/x86/configs/x86_64_defconfig"))
	assert.NilError(t, err)
	c, err := kconfig.ParseConfig("x86_64_defconfig", text)
	assert.NilError(t, err)
	// A defconfig may keep a few options that its own tree has dropped.
	unknown := 0
	for s := range c {
		if !tr.Known(s) {
			unknown++
		}
	}
	assert.Assert(t, unknown*50 < len(c), "%d of %d unknown", unknown, len(c))
	why := tr.Explain("KASAN", "y", kconfig.Config{
		"HAVE_ARCH_KASAN": "y", "CC_HAS_KASAN_GENERIC": "y", "CC_HAS_WORKING_NOSANITIZE_ADDRESS": "y", "SYSFS": "y", "SLUB_TINY": "y"})
	assert.Equal(t, len(why), 1)
	assert.Assert(t, strings.HasSuffix(why[0], "needs !SLUB_TINY, where SLUB_TINY=y"), why[0])
}

// Distributions' configurations are accepted by the strict reader.
func TestParseDistributionConfig(t *testing.T) {
	kernel := os.Getenv("KVMRUN_KERNEL")
	if kernel == "" {
		t.Skip("KVMRUN_KERNEL is not set; set it to a kernel with its config-* beside it")
	}
	configs, err := filepath.Glob(filepath.Join(filepath.Dir(kernel), "config-*"))
	assert.NilError(t, err)
	if len(configs) == 0 {
		t.Skipf("no config-* beside %s; set KVMRUN_KERNEL to a distribution's kernel", kernel)
	}
	for _, name := range configs {
		text, err := os.ReadFile(name)
		assert.NilError(t, err)
		c, err := kconfig.ParseConfig(name, text)
		assert.NilError(t, err)
		assert.Equal(t, c.Get("BLK_DEV_INITRD"), "y")
	}
}
