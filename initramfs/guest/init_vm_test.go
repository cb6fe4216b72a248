// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/initramfs"
	"github.com/kvmrun/kvmrun/vmtest"
)

// ownEnv is what own does in the guest.
const ownEnv = "KVMRUN_GUEST_OWN"

// own is an init without an agent.
func own() error {
	switch os.Getenv(ownEnv) {
	case "error":
		return errors.New("an error of the program's own")
	case "panic":
		panic("on purpose")
	case "child":
		port, err := OpenPort("talk")
		if err != nil {
			return err
		}
		cmd := exec.Command("/proc/self/exe", "echo")
		cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = port, port, os.Stderr, []string{helperEnv + "=cat"}
		return cmd.Run()
	case "no such port":
		_, err := OpenPort("nobody")
		return err
	}
	port, err := OpenPort("talk")
	if err != nil {
		return err
	}
	_, procErr := os.Stat("/proc/self/stat")
	fmt.Fprintln(port, "init", os.Getpid(), os.Getenv("PATH") != "", procErr)
	lines := bufio.NewScanner(port)
	for lines.Scan() {
		fmt.Fprintln(port, strings.ToUpper(lines.Text()))
	}
	return lines.Err()
}

// TestRunAsInit boots a program that is init without an agent, and talks to it.
func TestRunAsInit(t *testing.T) {
	for _, test := range []struct {
		do   string
		talk func(t *testing.T, p *vmtest.Port)
		log  string
	}{
		{do: "talk", talk: func(t *testing.T, p *vmtest.Port) {
			r := bufio.NewReader(p)
			for _, l := range []struct{ say, want string }{{"", "init 1 true <nil>\n"}, {"hello\n", "HELLO\n"}, {"again\n", "AGAIN\n"}} {
				_, err := io.WriteString(p, l.say)
				assert.NilError(t, err)
				got, err := r.ReadString('\n')
				assert.NilError(t, err)
				assert.Equal(t, got, l.want)
			}
			assert.NilError(t, p.Close())
		}},
		{do: "child", talk: func(t *testing.T, p *vmtest.Port) {
			_, err := io.WriteString(p, "through a child\n")
			assert.NilError(t, err)
			got, err := bufio.NewReader(p).ReadString('\n')
			assert.NilError(t, err)
			assert.Equal(t, got, "through a child\n")
			assert.NilError(t, p.Close())
		}},
		{do: "error", log: "kvmrun: fatal: an error of the program's own"},
		{do: "panic", log: "kvmrun: fatal: panic: on purpose"},
		{do: "no such port", log: "kvmrun: fatal: open port nobody: the host has given this machine no such port; it has talk"},
	} {
		t.Run(test.do, func(t *testing.T) {
			m := start(t, initramfs.Spec{Kernel: os.Getenv("KVMRUN_KERNEL")},
				vmtest.Config{Ports: []string{"talk"}, Cmdline: []string{fmt.Sprintf("%s=%q", ownEnv, test.do)}})
			if test.talk != nil {
				test.talk(t, m.vm.Port("talk"))
			}
			exit := m.vm.Wait()
			assert.Equal(t, exit.Cause, vmtest.PowerOff, "%v", exit)
			log := m.log(t)
			assert.Assert(t, cmp.Contains(log, test.log))
			if test.log == "" {
				assert.Assert(t, !strings.Contains(log, "kvmrun: "), log)
			}
		})
	}
}
