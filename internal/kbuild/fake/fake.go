// SPDX-License-Identifier: Apache-2.0

// Package fake writes a source tree that builds like a kernel's in a second, for
// tests: what real make, gcc and patch do wrong is seen there first. What it
// makes does not boot.
//
// It must not know who builds it.
package fake

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/internal/kconfig"
	"github.com/kvmrun/kvmrun/kconfigs"
)

// Makefile has the targets of a kernel's Makefile that kbuild uses, over a
// handful of C files, so that real make, gcc and patch can be made to fail in a
// second. A file slow.fifo makes compiling b.c wait
// for the fifo it names.
const Makefile = `VERSION = 6
PATCHLEVEL = 12
SUBLEVEL = 1
EXTRAVERSION =
REL := 6.12.1-kvmrun
OBJS := $(patsubst %.c,$(O)/%.o,$(wildcard *.c mm/*.c))

allnoconfig:
	@grep -v CONFIG_DROPPED $(KCONFIG_ALLCONFIG) > $(O)/.config
olddefconfig:
	@:
all: $(O)/vmlinux
$(O)/%.o: %.c
	@mkdir -p $(dir $@)
	@echo "  CC      $*.o"
	@if test $* = b && test -s slow.fifo; then cat $$(cat slow.fifo) > /dev/null; fi
	@gcc -c -o $@ $(CURDIR)/$<
$(O)/vmlinux: $(OBJS) Makefile
	@echo "  LD      vmlinux"
	@test -s $(O)/certs/kvmrun.pem
	@gcc -nostdlib -shared -Wl,--build-id -o $@ $(OBJS)
	@mkdir -p $(O)/arch/x86/boot $(O)/include/config
	@cp $@ $(O)/arch/x86/boot/bzImage
	@nm $@ > $(O)/System.map
	@echo $(REL) > $(O)/include/config/kernel.release
modules_install:
	@mkdir -p $(INSTALL_MOD_PATH)/lib/modules/$(REL)
	@echo > $(INSTALL_MOD_PATH)/lib/modules/$(REL)/modules.dep
	@ln -s $(O) $(INSTALL_MOD_PATH)/lib/modules/$(REL)/build
`

// Write makes the tree in a directory: its Kconfig knows what the profile asks
// for, DROPPED, and nothing else. Its files are an hour old, like those of an
// unpacked package.
func Write(dir, profile string) error {
	var kc strings.Builder
	seen := map[string]bool{}
	p, err := kconfigs.FindProfile(profile)
	if err != nil {
		return err
	}
	for _, name := range p.Fragments {
		f, err := kconfigs.Get(name)
		if err != nil {
			return err
		}
		parsed, err := kconfig.Parse(name, f.Text)
		if err != nil {
			return err
		}
		for _, a := range parsed.Assigns {
			if !seen[a.Symbol] && a.Symbol != "SMC_LO" {
				fmt.Fprintf(&kc, "config %s\n\tbool \"x\"\n", a.Symbol)
			}
			seen[a.Symbol] = true
		}
	}
	kc.WriteString("config DROPPED\n\tbool \"x\"\n\tdepends on NEVER\n")
	for name, text := range map[string]string{
		"Makefile": Makefile, "Kconfig": kc.String(), "scripts/kconfig/merge_config.sh": "#!/bin/sh\n",
		"a.c": "int a(void)\n{\n\treturn 1;\n}\n", "b.c": "int b(void)\n{\n\treturn 2;\n}\n", "mm/c.c": "int c;\n\nint d;\n",
	} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil { //nolint:gosec // nothing secret in it
			return err
		}
	}
	old := time.Now().Add(-time.Hour)
	return filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(p, old, old))
	})
}
