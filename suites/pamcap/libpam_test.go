// SPDX-License-Identifier: Apache-2.0

package pamcap

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"
	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/suites/kit"
)

// Of <security/_pam_types.h>.
const (
	pamSuccess       = 0
	pamAuthErr       = 7
	pamConvErr       = 19
	pamIgnore        = 25
	pamModuleUnknown = 28

	pamEstablish    = 0x2
	pamDelete       = 0x4
	pamReinitialize = 0x8
	pamRefresh      = 0x10
	pamDataSilent   = 0x40000000
)

// session is what a helper process does with PAM.
type session struct {
	Service, User string
	// Setup is done before pam_start.
	I             set   // inheritable from the start
	DropEffective []int // capabilities that are not effective
	Steps         []step
	// Exec is the program whose state is the result, run at the end as user
	// ExecUID, without root's capabilities.
	Exec    string
	ExecUID int
}

// step is one call of libpam or of a module.
type step struct {
	// Call is authenticate, setcred, open_session, end, or become, which is
	// setresuid(2) to Flags.
	Call  string
	Flags int
	// Module is a module that is called directly, with Args, so that what it
	// returns is seen as it is; empty calls libpam.
	Module string
	Args   []string
}

// stepResult is what a step returned and the thread's state after it.
type stepResult struct {
	RC    int
	State state
}

type sessionResult struct {
	Steps []stepResult
	Exec  *state
}

// libpam is the part of libpam.so.0 that the tests use.
type libpam struct {
	start                                func(service, user string, conv unsafe.Pointer, h *uintptr) int32
	end, authenticate, setcred, openSess func(h uintptr, flags int32) int32
	modules                              map[string]uintptr
}

// pamConv is struct pam_conv.
type pamConv struct{ fn, data uintptr }

func openLibpam() (*libpam, error) {
	lib, err := dlopen(libDirs("libpam.so.0"))
	if err != nil {
		return nil, err
	}
	p := &libpam{modules: map[string]uintptr{}}
	purego.RegisterLibFunc(&p.start, lib, "pam_start")
	purego.RegisterLibFunc(&p.end, lib, "pam_end")
	purego.RegisterLibFunc(&p.authenticate, lib, "pam_authenticate")
	purego.RegisterLibFunc(&p.setcred, lib, "pam_setcred")
	purego.RegisterLibFunc(&p.openSess, lib, "pam_open_session")
	return p, nil
}

// dlopen loads the first file of the patterns that can be loaded: a host for
// several architectures may have given the guest the libraries of all.
func dlopen(patterns []string) (uintptr, error) {
	var errs []error
	for _, p := range patterns {
		m, err := filepath.Glob(p)
		if err != nil {
			return 0, err
		}
		for _, path := range m {
			lib, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_GLOBAL)
			if err == nil {
				return lib, nil
			}
			errs = append(errs, fmt.Errorf("load %s: %w", path, err))
		}
	}
	if errs == nil {
		return 0, fmt.Errorf("none of %s is in the guest", strings.Join(patterns, " "))
	}
	return 0, errors.Join(errs...)
}

// module calls a module's function as libpam does.
func (p *libpam) module(name, call string, h uintptr, flags int, args []string) (int, error) {
	lib, ok := p.modules[name]
	if !ok {
		var err error
		if lib, err = dlopen(libDirs("security/" + name)); err != nil {
			return 0, err
		}
		p.modules[name] = lib
	}
	fn, err := purego.Dlsym(lib, "pam_sm_"+call)
	if err != nil {
		return 0, fmt.Errorf("find pam_sm_%s in %s: %w", call, name, err)
	}
	argv := make([]*byte, len(args)+1)
	for i, a := range args {
		if argv[i], err = unix.BytePtrFromString(a); err != nil {
			return 0, err
		}
	}
	rc, _, _ := purego.SyscallN(fn, h, uintptr(flags), uintptr(len(args)), uintptr(unsafe.Pointer(&argv[0])))
	runtime.KeepAlive(argv)
	return int(int32(rc)), nil
}

// helpPAM runs a session on this, the process's first and locked thread.
func helpPAM(in json.RawMessage) (any, error) {
	var s session
	if err := json.Unmarshal(in, &s); err != nil {
		return nil, err
	}
	p, err := openLibpam()
	if err != nil {
		return nil, err
	}
	st, err := current()
	if err != nil {
		return nil, err
	}
	if err := capset(st.E&^caps(s.DropEffective...), st.P, s.I); err != nil {
		return nil, fmt.Errorf("set capabilities: %w", err)
	}
	// No module asks anything; one that did would get an error.
	conv := &pamConv{fn: purego.NewCallback(func(int32, uintptr, uintptr, uintptr) int32 { return pamConvErr })}
	var h uintptr
	if rc := p.start(s.Service, s.User, unsafe.Pointer(conv), &h); rc != pamSuccess {
		return nil, fmt.Errorf("pam_start of service %q: code %d", s.Service, rc)
	}
	var res sessionResult
	for _, c := range s.Steps {
		r, err := p.step(h, c)
		if err != nil {
			return nil, fmt.Errorf("step %+v: %w", c, err)
		}
		res.Steps = append(res.Steps, r)
	}
	runtime.KeepAlive(conv)
	if s.Exec != "" {
		return execAtEnd(s, res)
	}
	return res, nil
}

func (p *libpam) step(h uintptr, c step) (r stepResult, err error) {
	calls := map[string]func(uintptr, int32) int32{
		"authenticate": p.authenticate, "setcred": p.setcred, "open_session": p.openSess, "end": p.end,
	}
	switch call := calls[c.Call]; {
	case c.Call == "become":
		_, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(c.Flags), uintptr(c.Flags), uintptr(c.Flags))
		r.RC = int(e)
	case c.Module != "":
		r.RC, err = p.module(c.Module, c.Call, h, c.Flags, c.Args)
	case call != nil:
		r.RC = int(call(h, int32(c.Flags)))
	default:
		err = fmt.Errorf("no such call")
	}
	if err == nil {
		r.State, err = current()
	}
	return r, err
}

// execAtEnd replaces the process by the program, which replies instead of it.
func execAtEnd(s session, res sessionResult) (any, error) {
	for i, r := range res.Steps {
		if r.RC != pamSuccess {
			return nil, fmt.Errorf("step %d returned %d", i, r.RC)
		}
	}
	if err := kit.SetUID(uint32(s.ExecUID)); err != nil {
		return nil, fmt.Errorf("become user %d: %w", s.ExecUID, err)
	}
	err := unix.Exec(s.Exec, []string{s.Exec}, []string{kit.HelperEnv + "=state"})
	return nil, fmt.Errorf("execve: %s", kit.ErrnoName(err))
}

// etc is what the tests put into the guest's /etc.
var etc = map[string]string{
	"/etc/passwd": `root:x:0:0:root:/root:/bin/sh
alpha:x:1:1::/:/bin/sh
beta:x:2:2::/:/bin/sh
gamma:x:3:3::/:/bin/sh
delta:x:4:4::/:/bin/sh
kaigai:x:1000:1000::/:/bin/sh
tak:x:1001:1001::/:/bin/sh
ymj:x:1002:1002::/:/bin/sh
one:x:1003:1002::/:/bin/sh
`,
	// The members are those of libcap's own test_pam_cap.c.
	"/etc/group": `root:x:0:
one:x:1:
two:x:2:alpha
three:x:3:beta
four:x:4:beta,gamma
five:x:5:gamma,delta
six:x:6:gamma,delta
seven:x:7:delta
kaigai:x:1000:
users:x:1001:
webadm:x:1010:tak
others:x:1002:
`,
	"/etc/nsswitch.conf": "passwd: files\ngroup: files\n",
	"/etc/pam.d/other":   "auth required pam_deny.so\naccount required pam_deny.so\nsession required pam_deny.so\n",
}

// writeEtc installs etc and returns a function that undoes it.
func writeEtc() (undo func() error, err error) {
	old := map[string][]byte{}
	for path := range etc {
		if b, err := os.ReadFile(path); err == nil {
			old[path] = b
		}
	}
	undo = func() error {
		for path := range etc {
			var err error
			if b, ok := old[path]; ok {
				err = os.WriteFile(path, b, 0o644)
			} else {
				err = os.Remove(path)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	for path, text := range etc {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return undo, err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return undo, err
		}
	}
	return undo, nil
}
