// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/vmtest"
)

// CoreFormat is the format of the memory dumps of guests that hang or die, ""
// for none.
type CoreFormat string

// dumpLimit bounds the writing of a dump, which takes a second for each GiB or
// two on most disks.
const dumpLimit = 2 * time.Minute

// CoreModules returns what the guest must load so that a dump of it has the
// VMCOREINFO note, or a remark when it will not have one: drgn refuses such a
// dump, crash wants the kernel's position named.
func CoreModules(k *Kernel) (modules []string, remark string) {
	switch v := k.Config["FW_CFG_SYSFS"]; {
	case v == "y", k.Config == nil:
		return nil, ""
	case v == "m" && k.ModulesDir != "":
		return []string{"qemu_fw_cfg"}, ""
	}
	return nil, "memory dumps will lack the VMCOREINFO note: the kernel has no CONFIG_FW_CFG_SYSFS, or no modules were found"
}

// core is the memory dump of one VM. The nil core is that of a VM for which
// none is asked.
type core struct {
	format CoreFormat
	file   string

	leaving atomic.Bool   // the guest may end
	gone    chan struct{} // closed when it ended before that

	once sync.Once
	mu   sync.Mutex
	said []string
}

// dump writes the guest's memory, once.
func (c *core) dump(vm *vmtest.VM) {
	if c == nil {
		return
	}
	c.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), dumpLimit)
		defer cancel()
		file, err := filepath.Abs(c.file)
		if err == nil {
			if err = vm.Dump(ctx, file, vmtest.DumpFormat(c.format)); err != nil {
				_ = os.Remove(file) // a part is of no use
			}
		}
		note := fmt.Sprintf("the guest's memory (%s, for crash and drgn): %s", c.format, file)
		if err != nil {
			note = visible.Short(err.Error())
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.said = append(c.said, note)
	})
}

// Dump writes the guest's memory, once, if that is wanted.
func (vm *VM) Dump() { vm.core.dump(vm.VM) }

// DumpNotes are remarks for the user about it.
func (vm *VM) DumpNotes() []string {
	c := vm.core
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.said)
}

// onEnd is told that the guest has ended itself. One that was not let go has
// panicked, or worse.
func (c *core) onEnd(vm *vmtest.VM) {
	if !c.leaving.Load() {
		close(c.gone)
		c.dump(vm)
	}
}

// MayEnd says that the guest may end from now on.
func (vm *VM) MayEnd() {
	if c := vm.core; c != nil {
		c.leaving.Store(true)
	}
}

// Died is closed when the guest has ended itself before it was let go, and a dump is
// wanted.
func (vm *VM) Died() <-chan struct{} {
	if vm.core == nil {
		return nil
	}
	return vm.core.gone
}

// AwaitDump gives a guest that has died the time for its dump.
func (vm *VM) AwaitDump(ctx context.Context) {
	select {
	case <-vm.Died():
	default:
		return
	}
	select {
	case <-vm.Done():
	case <-ctx.Done():
	case <-time.After(dumpLimit):
	}
}
