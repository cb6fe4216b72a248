// SPDX-License-Identifier: Apache-2.0

package kconfig

import (
	"fmt"
	"strings"
)

// State says how a kernel meets a need.
type State string

// The states of a need.
const (
	Present State = "present" // built in, or a value
	Module  State = "module"  // only as a module
	Missing State = "missing"
)

// Finding is the answer to one need.
type Finding struct {
	Need   string `json:"need"` // as given: "SYMBOL" or "SYMBOL=y"
	Symbol string `json:"symbol"`
	Value  string `json:"value"` // what the kernel has; "n" when not set
	State  State  `json:"state"`
	// Met says that the need is met: a module does for "SYMBOL", not for
	// "SYMBOL=y".
	Met bool `json:"met"`
}

// Check compares needs, each "SYMBOL" (built in or module) or "SYMBOL=y"
// (built in), with a configuration, in the order of needs.
func Check(c Config, needs []string) []Finding {
	out := make([]Finding, 0, len(needs))
	for _, need := range needs {
		symbol, builtIn := strings.CutSuffix(need, "=y")
		f := Finding{Need: need, Symbol: symbol, Value: c.Get(symbol)}
		switch f.Value {
		case No:
			f.State = Missing
		case "m":
			f.State, f.Met = Module, !builtIn
		default:
			f.State, f.Met = Present, true
		}
		out = append(out, f)
	}
	return out
}

// essential are the options without which a kernel cannot run a test under
// QEMU, and what each is for.
var essential = []struct{ symbol, why string }{
	{"BLK_DEV_INITRD", "the tests are in an initramfs"},
	{"BINFMT_ELF", "programs could not be started"},
	{"PRINTK", "the kernel log tells what went wrong"},
	{"SERIAL_8250_CONSOLE", "the kernel log is read from the serial console"},
	{"PCI", "virtio devices are on the PCI bus"},
	{"VIRTIO_PCI", "virtio devices are on the PCI bus"},
	{"VIRTIO_CONSOLE", "the tests' output comes over virtio-serial ports"},
	{"PROC_FS", "the agent in the guest reads /proc"},
	{"SYSFS", "the agent in the guest finds its ports in /sys"},
	{"DEVTMPFS", "the agent in the guest opens its ports in /dev"},
	{"FUTEX", "the Go runtime needs it"},
	{"EPOLL", "the Go runtime needs it"},
}

// Unbootable returns why a kernel with this configuration could not run
// anything under QEMU, one line per option that is not built in; nothing when
// it could.
func Unbootable(c Config) []string {
	var out []string
	for _, e := range essential {
		if v := c.Get(e.symbol); v != "y" {
			if v == No {
				v = "not set"
			}
			out = append(out, fmt.Sprintf("CONFIG_%s is %s, must be y: %s", e.symbol, v, e.why))
		}
	}
	return out
}
