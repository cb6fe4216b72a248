// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/visible"
	"github.com/kvmrun/kvmrun/internal/words"
)

// standing has a fork that was never let go wait for a debugger.
func (m *Machine) standing(ctx context.Context, p Program, g *guest) (*guest, error) {
	command, err := m.listen(ctx, p.Kernel, g)
	if err != nil {
		g.close()
		return nil, err
	}
	p.GDB(command)
	return g, nil
}

// debugged stops a machine that runs and waits until a debugger, whose command
// line is told, has let it go: what has a time of its own begins with the program.
func (m *Machine) debugged(ctx context.Context, k *machine.Kernel, g *guest, tell func(command string)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := g.vm.Monitor().Events(ctx)
	if err == nil {
		err = g.vm.Monitor().Run(ctx, "stop", nil, nil)
	}
	if err != nil {
		return fmt.Errorf("stop the VM for the debugger: %w", err)
	}
	command, err := m.listen(ctx, k, g)
	if err != nil {
		return err
	}
	tell(command)
	for e := range events {
		if e.Event == "RESUME" {
			break
		}
	}
	return nil // also for a machine that is gone, which the session sees
}

// listen has QEMU wait for a debugger on a port of the host's own, and returns
// the debugger's command line.
func (m *Machine) listen(ctx context.Context, k *machine.Kernel, g *guest) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a port for the debugger: %w", err)
	}
	addr := l.Addr().String()
	_ = l.Close() // QEMU cannot take it over; it could only be lost to a process that guesses
	var said string
	err = g.vm.Monitor().Run(ctx, "human-monitor-command", map[string]string{"command-line": "gdbserver tcp:" + addr}, &said)
	if err == nil && !strings.Contains(said, "Waiting for gdb connection") {
		err = errors.New(visible.Short(said))
	}
	if err != nil {
		return "", fmt.Errorf("have QEMU wait for a debugger: %w", err)
	}
	vmlinux := k.Path
	if s := m.Symbolizer(ctx, k); s != nil {
		vmlinux = s.Path()
	} else if v, err := k.Image.Vmlinux(ctx, m.Cache); err == nil {
		vmlinux = v // no symbols; registers and memory all the same
	}
	return fmt.Sprintf("gdb %s -ex 'target remote %s'", words.Quote(vmlinux), addr), nil
}
