// SPDX-License-Identifier: Apache-2.0

package front

import (
	"fmt"
	"strings"
)

// Params are parameters of a kernel's command line. As the flag -append it may be
// given several times.
type Params []string

// maxParams is how many bytes of parameters a user may add: half of the 2048 that an
// x86 kernel keeps (arch/x86/include/asm/setup.h: COMMAND_LINE_SIZE). The rest is left
// to kvmrun and the suites.
const maxParams = 1024

// String returns the parameters as they are on the command line.
func (p *Params) String() string { return strings.Join(*p, " ") }

// Set adds the parameters in s, divided as the kernel does (lib/cmdline.c: next_arg):
// at blanks, but for those in double quotes.
func (p *Params) Set(s string) error {
	var list []string
	word, quoted := "", false
	for _, r := range s + " " {
		switch {
		case r != '\t' && (r < ' ' || r > '~'):
			return fmt.Errorf("%q is no printable ASCII character", r)
		case (r == ' ' || r == '\t') && !quoted:
			if word != "" {
				list = append(list, word)
			}
			word = ""
			continue
		case r == '"':
			quoted = !quoted
		}
		word += string(r)
	}
	if quoted {
		return fmt.Errorf("a double quote has no end")
	}
	for _, one := range list {
		if why := reserved(one); why != "" {
			return fmt.Errorf("%s: %s", one, why)
		}
	}
	all := append((*p)[:len(*p):len(*p)], list...)
	if n := len(strings.Join(all, " ")); n > maxParams {
		return fmt.Errorf("%d bytes of kernel parameters: there is room for %d beside kvmrun's own", n, maxParams)
	}
	*p = all
	return nil
}

// Reasons for parameters that must not be given.
const (
	whyConsole = "kvmrun reads the kernel's log from the first serial port, all of it and each line once"
	whyInit    = "kvmrun's agent is /init in the initramfs; to run a program of yours: kvmrun exec -- PROGRAM"
	whyPanic   = "a kernel that panics must end its VM at once, which kvmrun tells from a hang by that"
	whyClock   = "kvmrun says what keeps the guest's clock right on a busy host"
	whyAgent   = "kvmrun's agent needs its own value"
)

// reservedParams are the parameters that kvmrun sets itself, or whose change would
// take from it what verdicts rest on, with the reason.
var reservedParams = map[string]string{
	"console": whyConsole, "earlyprintk": whyConsole, "earlycon": whyConsole, "keep_bootcon": whyConsole, "ignore_loglevel": whyConsole,
	"printk.ignore_loglevel": whyConsole, "console_msg_format": whyConsole,
	"printk.time":         "only what has printk's time in front is the kernel's own word on the console",
	"printk.devkmsg":      "the marks around each test are written to /dev/kmsg",
	"log_buf_len":         "kvmrun has a buffer in which what is logged between two looks at it fits",
	"panic":               whyPanic,
	"sysctl.kernel.panic": whyPanic,
	"init":                whyInit, "rdinit": whyInit, "initrd": whyInit, "initrdmem": whyInit, "noinitrd": whyInit,
	"no_timer_check": whyClock, "tsc": whyClock, "tsc_early_khz": whyClock, "lpj": whyClock,
	"GODEBUG": whyAgent,
	"--":      "what follows it would go to /init, which is kvmrun's agent",
}

// reserved says why a parameter must not be given, "" if it may.
func reserved(param string) string {
	if why := reservedParams[param]; why != "" {
		return why
	}
	return reservedParams[paramName(param)]
}

// paramName is a parameter's name as the kernel compares it, for which "-" and "_" are
// the same (kernel/params.c: parameqn).
func paramName(param string) string {
	name, _, _ := strings.Cut(strings.ReplaceAll(param, `"`, ""), "=")
	return strings.ReplaceAll(name, "-", "_")
}

// Contradict returns an error if a parameter is one that a suite sets itself to
// another value.
func (p Params) Contradict(suite string, its []string) error {
	for _, one := range p {
		for _, own := range its {
			if paramName(one) == paramName(own) && one != own {
				return fmt.Errorf("-append %s: suite %s needs %s", one, suite, own)
			}
		}
	}
	return nil
}
