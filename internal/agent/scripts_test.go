// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/wire"
)

// guest is a machine whose agent is a script.
type guest struct {
	tb    testing.TB
	ports map[string]net.Conn // the guest's ends
	host  map[string]net.Conn
	heard chan wire.Message // what the host sent
	// log is closed with the end mark, and gone when the machine is.
	log, gone chan struct{}
	console   atomic.Int64
	chatty    bool          // the kernel log grows all the time
	wrote     *bytes.Buffer // all of the control port, for seeds; nil keeps none
	dead      sync.Once
}

func newGuest(tb testing.TB) *guest {
	g := &guest{tb: tb, ports: map[string]net.Conn{}, host: map[string]net.Conn{}, heard: make(chan wire.Message, 100), log: make(chan struct{}), gone: make(chan struct{})}
	for _, p := range wire.Ports {
		g.ports[p], g.host[p] = net.Pipe()
	}
	go func() {
		r := wire.NewReader(g.ports[wire.PortControl])
		for {
			m, err := r.Receive()
			if err != nil {
				close(g.heard)
				return
			}
			g.heard <- m
		}
	}()
	return g
}

// port is the host's end: once the machine is gone it reads as ended.
type port struct{ net.Conn }

func (p port) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if errors.Is(err, io.ErrClosedPipe) {
		err = io.EOF
	}
	return n, err
}

func (g *guest) Port(name string) io.ReadWriter { return port{g.host[name]} }
func (g *guest) Done() <-chan struct{}          { return g.gone }
func (g *guest) ConsoleBytes() int64 {
	if g.chatty {
		return g.console.Add(1)
	}
	return g.console.Load()
}
func (g *guest) Waited() Waits { return nil }

// say sends messages.
func (g *guest) say(all ...wire.Message) {
	w := wire.NewWriter(g.control())
	for _, m := range all {
		_ = w.Send(m) // the host may have gone
	}
}

func (g *guest) control() io.Writer {
	if g.wrote == nil {
		return g.ports[wire.PortControl]
	}
	return io.MultiWriter(g.wrote, g.ports[wire.PortControl])
}

// raw sends bytes as they are.
func (g *guest) raw(b []byte) { _, _ = g.control().Write(b) }

// print is the program's.
func (g *guest) print(port, text string) { _, _ = io.WriteString(g.ports[port], text) }

// hear waits for a message of the host's that is like one of these.
func (g *guest) hear(is func(wire.Message) bool) {
	for m := range g.heard {
		if is(m) {
			return
		}
	}
}

func (g *guest) mark() { close(g.log) }

// die ends the machine.
func (g *guest) die() {
	g.dead.Do(func() {
		for _, p := range g.ports {
			_ = p.Close()
		}
		close(g.gone)
	})
}

// The good words.
var (
	aReady   = wire.Message{Ready: &wire.Ready{Version: wire.Version, Release: "6.12.0"}}
	aStarted = wire.Message{Started: &wire.Started{PID: 7}}
	aHeld    = wire.Message{Held: &wire.Held{}}
	aFrozen  = wire.Message{Frozen: &wire.Frozen{Taint: 512}}
	aExited  = wire.Message{Exited: &wire.Exited{}}
	aFile    = wire.Message{File: &wire.File{Index: 0, Data: []byte("x"), EOF: true}}
	aKmsg    = wire.Message{Kmsg: &wire.Kmsg{Data: []byte("k")}}
	aDone    = wire.Message{Done: &wire.Done{Nonce: "N"}}
	aFault   = wire.Message{Fault: &wire.Fault{Message: "out of\nmemory"}}
	aRun     = wire.Message{Run: &wire.Run{Argv: []string{"/x"}}}
)

// shutdown answers the host's Shutdown.
func (g *guest) shutdown() {
	g.hear(func(m wire.Message) bool { return m.Shutdown != nil })
	g.die()
}

// reach brings a conversation, by good words, to a state. Those who talk to be held
// or frozen have a configuration that says so.
func (g *guest) reach(to State) {
	for _, s := range []struct {
		state State
		say   []wire.Message
	}{
		{Booting, nil}, {Up, []wire.Message{aReady}}, {Running, []wire.Message{aStarted}},
		{Released, []wire.Message{aHeld}}, {Freezing, []wire.Message{aHeld}},
		{Ended, []wire.Message{aExited}}, {Finished, []wire.Message{aDone}},
	} {
		switch {
		case s.state == Released && to != Released, s.state == Freezing && to != Freezing, s.state == Ended && (to == Released || to == Freezing):
			continue
		case s.state == Finished:
			g.mark()
		}
		g.say(s.say...)
		switch s.state {
		case Released:
			g.hear(func(m wire.Message) bool { return m.Release != nil })
		case Freezing:
			g.hear(func(m wire.Message) bool { return m.Freeze != nil })
		}
		if s.state == to {
			return
		}
	}
}

// finish goes on by good words from a state to the end.
func (g *guest) finish(from State) {
	switch from {
	case Booting:
		g.say(aReady)
		fallthrough
	case Up:
		g.say(aStarted)
		fallthrough
	case Running, Released:
		g.say(aExited)
		fallthrough
	case Ended:
		g.mark()
		g.say(aDone)
		fallthrough
	case Finished:
		g.shutdown()
	}
}

// script is one conversation and what must come of it.
type script struct {
	name   string
	config func(*Config)
	guest  func(*guest)
	want   string // of show
}

// show writes findings down.
func show(s *Session, f Findings, stdout, stderr string) string {
	out := []string{string(s.State())}
	add := func(name, text string) {
		if text != "" {
			out = append(out, name+": "+text)
		}
	}
	if f.EndMarker {
		out = append(out, "end")
	}
	if f.Infra != nil {
		add("infra", f.Infra.Error())
	}
	add("fault", f.GuestFault)
	add("deadline", f.Deadline)
	add("hung", f.Hung)
	add("log", f.Scanner)
	add("cut", f.Cut)
	add("notes", strings.Join(f.Notes, ", "))
	if len(f.Kmsg) < 10 {
		add("kmsg", string(f.Kmsg))
	}
	for name, text := range f.Looks {
		add("look", name+"="+text)
	}
	add("stdout", stdout)
	add("stderr", stderr)
	return strings.Join(out, "; ")
}

// limitless are limits that no script is to reach.
var limitless = Limits{Boot: Forever, Drain: time.Minute, Finish: Forever, PowerOff: Forever}

// run has a conversation with a script.
func (s script) run(tb testing.TB, record *bytes.Buffer) string {
	g := newGuest(tb)
	g.wrote = record
	var stdout, stderr bytes.Buffer
	c := Config{
		Machine: g, LogEnded: g.log, Nonce: "N", Limits: limitless, Started: time.Now(), Run: &wire.Run{Argv: []string{"/init"}},
		Stdout: &stdout, Stderr: &stderr, OnPowerOff: func() {},
		Fetch: []Fetch{{Guest: "/f", Host: filepath.Join(tb.TempDir(), "f")}}, Look: []string{"/look"},
	}
	if s.config != nil {
		s.config(&c)
	}
	var f Findings
	talk := New(c, &f)
	over := make(chan struct{})
	go func() {
		defer close(over)
		s.guest(g)
	}()
	ctx, cancel := context.WithCancelCause(tb.Context())
	defer cancel(nil)
	if s.name == "interrupted" {
		go func() {
			<-g.heard
			cancel(errors.New("signal 2"))
		}()
	}
	talk.Talk(ctx)
	g.die()
	talk.Close(context.Background())
	<-over
	return show(talk, f, stdout.String(), stderr.String())
}

const disorder = "infra: talk to the guest's agent: a message out of order"

func holding(c *Config) { c.Run.Hold = wire.HoldStop; c.Release = &wire.Release{} }
func freezing(c *Config) {
	c.Run.Hold, c.Freeze = wire.HoldStop, true
}

// words is every word in every state: the outcome after it, "+" for one that fits
// and after which all goes well.
func words() []script {
	var out []script
	all := []struct {
		word word
		m    wire.Message
	}{
		{ready, aReady}, {started, aStarted}, {held, aHeld}, {frozen, aFrozen}, {exited, aExited},
		{file, aFile}, {kmsg, aKmsg}, {done, aDone}, {fault, aFault}, {other, aRun},
	}
	fits := map[State]map[word]State{
		Booting: {ready: Up}, Up: {started: Running, exited: Ended}, Running: {exited: Ended}, Released: {exited: Ended},
		Ended: {file: Ended, kmsg: Ended},
	}
	for _, state := range []State{Booting, Up, Running, Released, Ended} {
		for _, w := range all {
			s := script{name: fmt.Sprintf("%s/%s", state, w.word), want: string(state) + "; " + disorder}
			if w.word == other {
				s.name = fmt.Sprintf("%s/what a host says", state)
			}
			if state == Released {
				s.config = holding
			}
			to, ok := fits[state][w.word]
			s.guest = func(g *guest) {
				g.reach(state)
				if w.word == done && ok {
					g.mark()
				}
				g.say(w.m)
				if ok {
					g.finish(to)
				}
			}
			switch {
			case w.word == fault:
				s.want = string(state) + "; fault: the guest's agent failed: out of memory"
			case state == Ended && w.word == done: // the end mark is missing on the console
				s.config = func(c *Config) { c.Limits.Drain = 10 * time.Millisecond }
				s.guest = func(g *guest) { g.reach(Ended); g.say(aDone); g.shutdown() }
				s.want = "finished; end; log: its end mark did not arrive on the console (is that silenced, or its level below 2?)"
			case ok && w.word == kmsg:
				s.want = "finished; end; kmsg: k"
			case ok:
				s.want = "finished; end"
			}
			out = append(out, s)
		}
	}
	return out
}

// ends is, for every state, how a machine or a port may end in it.
func ends() []script {
	var out []script
	for _, state := range []State{Booting, Up, Running, Released, Freezing, Ended, Finished} {
		config := func(c *Config) {
			c.Limits.Drain = 10 * time.Second // what was said before a death is heard
			switch state {
			case Released:
				holding(c)
			case Freezing:
				freezing(c)
			}
		}
		died, closed := string(state), string(state)
		if state == Finished {
			died, closed = "finished; end", "finished; end; hung: the guest did not power off within 10ms without a word in the kernel log: the kernel hung in shutdown, or cannot switch the machine off (does it have CONFIG_ACPI=y?)"
		}
		out = append(out,
			script{string(state) + "/machine dies", config, func(g *guest) { g.reach(state); g.die() }, died},
			script{string(state) + "/control port closed", func(c *Config) {
				config(c)
				c.Limits.Drain, c.Limits.PowerOff = 10*time.Millisecond, 10*time.Millisecond
			}, func(g *guest) {
				g.reach(state)
				if state == Finished {
					g.hear(func(m wire.Message) bool { return m.Shutdown != nil })
				}
				_ = g.ports[wire.PortControl].Close()
			}, closed},
			script{string(state) + "/frame cut short", config, func(g *guest) {
				g.reach(state)
				g.raw([]byte{0, 0, 0, 9, '{'})
				g.die()
			}, died},
		)
		if state == Finished {
			continue
		}
		quick := func(c *Config) { config(c); c.Limits.Drain = 10 * time.Millisecond }
		out = append(out, script{string(state) + "/frame too long", quick, func(g *guest) {
			g.reach(state)
			g.raw(binary.BigEndian.AppendUint32(nil, wire.MaxFrame+1))
		}, string(state) + "; infra: talk to the guest's agent: receive 1048577 bytes: frame too large"})
		for name, body := range map[string]string{"no JSON": "}{", "no message": "{}", "two messages": `{"started":{"pid":1},"held":{}}`, "empty": "", "zero": "\x00"} {
			out = append(out, script{string(state) + "/frame with " + name, quick, func(g *guest) {
				g.reach(state)
				g.raw(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
			}, string(state) + "; infra: talk to the guest's agent: decode message: " + map[string]string{
				"no JSON": "invalid character '}' looking for beginning of value", "no message": "0 kinds in one frame, want 1",
				"two messages": "2 kinds in one frame, want 1", "empty": "unexpected end of JSON input",
				"zero": "it is cut short, or of a kind without a plain form",
			}[name]})
		}
	}
	return out
}

// silences is, for every state, what comes of a guest that says nothing more.
func silences() []script {
	// A program's time runs while its state is reached, which must not take longer.
	const soon, second = 20 * time.Millisecond, time.Second
	running := func(c *Config) { c.Limits.Program = second }
	var out []script
	for state, s := range map[State]struct {
		config func(*Config)
		want   string
	}{
		Booting:  {func(c *Config) { c.Limits.Boot = soon }, "infra: the VM did not boot within 20ms without a word in the kernel log at X"},
		Up:       {running, "deadline: the program did not end within 1s (autopsy)"},
		Running:  {running, "deadline: the program did not end within 1s (autopsy)"},
		Released: {func(c *Config) { holding(c); running(c) }, "deadline: the program did not end within 1s (autopsy)"},
		Freezing: {func(c *Config) { freezing(c); running(c) }, "deadline: the program did not end within 1s (autopsy)"},
		Ended:    {func(c *Config) { c.Limits.Finish = soon }, "deadline: the guest did not finish after the program had ended"},
		Finished: {func(c *Config) { c.Limits.PowerOff = soon }, "end; hung: the guest did not power off within 20ms without a word in the kernel log: the kernel hung in shutdown, or cannot switch the machine off (does it have CONFIG_ACPI=y?) at X"},
	} {
		out = append(out, script{string(state) + "/silent", func(c *Config) {
			s.config(c)
			c.StuckAt = func() string { return " at X" }
			c.OnHang = func(string, *Session) string { return " (autopsy)" }
		}, func(g *guest) { g.reach(state) }, string(state) + "; " + s.want})
	}
	return append(out,
		script{"talks for ever and does not boot", func(c *Config) { c.Limits.Boot = soon; c.Machine.(*guest).chatty = true }, func(*guest) {}, "booting; infra: the VM did not boot within 200ms"},
		script{"idle", func(c *Config) { c.Limits.Idle = second }, func(g *guest) { g.reach(Running) }, "running; hung: nothing was said for 1s"},
	)
}

// sized are conversations about bytes.
func sized() []script {
	exited := func(out, err int64) wire.Message { return wire.Message{Exited: &wire.Exited{Stdout: out, Stderr: err}} }
	var warnings []string
	for i := range 60 {
		warnings = append(warnings, fmt.Sprintf("w%d", i))
	}
	quick := func(c *Config) { c.Limits.Drain = 10 * time.Millisecond }
	return []script{
		{"output", nil, func(g *guest) {
			g.reach(Running)
			g.print(wire.PortStdout, "out")
			g.print(wire.PortStderr, "err")
			g.say(exited(3, 3))
			g.finish(Ended)
		}, "finished; end; stdout: out; stderr: err"},
		{"output after the program's end", nil, func(g *guest) {
			g.reach(Running)
			g.say(exited(3, 0))
			g.mark()
			g.say(aDone)
			g.print(wire.PortStdout, "out")
			g.shutdown()
		}, "finished; end; stdout: out"},
		{"less output than announced", quick, func(g *guest) {
			g.reach(Running)
			g.print(wire.PortStdout, "out")
			g.say(exited(4, 0))
			g.finish(Ended)
		}, "finished; infra: the guest announced 4 bytes of output, sent 3 and stopped; stdout: out"},
		{"less output, and a closed port", nil, func(g *guest) {
			g.reach(Running)
			g.print(wire.PortStderr, "out")
			_ = g.ports[wire.PortStderr].Close()
			g.say(exited(0, 4))
			g.finish(Ended)
		}, "finished; infra: the guest announced 4 bytes of output and sent 3; stderr: out"},
		{"more output than announced", nil, func(g *guest) {
			g.reach(Running)
			g.print(wire.PortStdout, "output")
			g.say(exited(1, 0))
			g.finish(Ended)
		}, "finished; end; stdout: output"},
		{"output before it died", nil, func(g *guest) {
			g.reach(Running)
			g.print(wire.PortStdout, "last words")
			g.die()
		}, "running; stdout: last words"},
		{"output before it was ready", nil, func(g *guest) {
			g.print(wire.PortStdout, "early")
			g.finish(Booting)
		}, "finished; end; stdout: early"},
		{"reader fails", func(c *Config) { c.Stdout = broken{} }, func(g *guest) {
			g.reach(Running)
			g.print(wire.PortStdout, "out")
			g.say(exited(3, 0))
			g.finish(Ended)
		}, "finished; infra: write the program's output: disk full"},
		{"slow reader", func(c *Config) { c.Stdout = &slowly{to: c.Stdout}; c.Limits.Drain = time.Millisecond }, func(g *guest) {
			g.reach(Running)
			g.print(wire.PortStdout, "take")
			g.print(wire.PortStdout, " your")
			g.mark()
			g.say(exited(14, 0), aDone)
			g.print(wire.PortStdout, " time")
			g.shutdown()
		}, "finished; end; stdout: take your time"},
		{"nobody reads", func(c *Config) { c.Stdout = nil }, func(g *guest) {
			g.reach(Running)
			g.print(wire.PortStdout, "out")
			g.say(exited(3, 0))
			g.finish(Ended)
		}, "finished; end"},
		{"split at every byte", nil, func(g *guest) {
			var all bytes.Buffer
			w := wire.NewWriter(&all)
			for _, m := range []wire.Message{aReady, aStarted, aExited, aFile, aKmsg, aDone} {
				assert.NilError(g.tb, w.Send(m))
			}
			g.mark()
			for _, b := range all.Bytes() {
				g.raw([]byte{b})
			}
			g.shutdown()
		}, "finished; end; kmsg: k"},
		{"all in one write", nil, func(g *guest) {
			var all bytes.Buffer
			w := wire.NewWriter(&all)
			for _, m := range []wire.Message{aReady, aStarted, aExited, aFile, aDone} {
				assert.NilError(g.tb, w.Send(m))
			}
			g.mark()
			g.raw(all.Bytes())
			g.shutdown()
		}, "finished; end"},
		{"too much kernel log", nil, func(g *guest) {
			g.reach(Ended)
			for range wire.MaxKmsg/wire.Chunk + 1 {
				g.say(wire.Message{Kmsg: &wire.Kmsg{Data: bytes.Repeat([]byte("x"), wire.Chunk)}})
			}
		}, "ended; fault: it sent more of the kernel log than there can be"},
		{"many warnings", nil, func(g *guest) {
			g.reach(Ended)
			g.mark()
			g.say(wire.Message{Done: &wire.Done{Nonce: "N", Warnings: warnings}})
			g.shutdown()
		}, "finished; end; notes: " + strings.Join(warnings[:50], ", ")},
		{"warnings with control characters", nil, func(g *guest) {
			g.say(wire.Message{Ready: &wire.Ready{Version: wire.Version, Warnings: []string{"a\x1b[31m\nb\xff"}}})
			g.finish(Up)
		}, "finished; end; notes: a [31m b\ufffd"},
		{"a file nobody asked for", nil, func(g *guest) {
			g.reach(Ended)
			g.say(wire.Message{File: &wire.File{Index: 2, EOF: true}})
			g.finish(Ended)
		}, "finished; end; infra: talk to the guest's agent: a file that was not asked for"},
		{"a file with a negative index", nil, func(g *guest) {
			g.reach(Ended)
			g.say(wire.Message{File: &wire.File{Index: -1, EOF: true}})
			g.finish(Ended)
		}, "finished; end; infra: fetch a file from the guest: index -1 was not asked for"},
		{"half a file", func(c *Config) { c.Fetch[0].Host = strings.TrimSuffix(c.Fetch[0].Host, "f") + "cut" }, func(g *guest) {
			g.reach(Ended)
			g.say(wire.Message{File: &wire.File{Index: 0, Data: []byte("x")}})
			g.finish(Ended)
		}, "finished; end; infra: fetch DIR/cut from the guest: it was cut short"},
		{"a file twice", nil, func(g *guest) {
			g.reach(Ended)
			g.say(aFile, aFile)
			g.finish(Ended)
		}, "finished; end; infra: fetch /f from the guest: too many files, or one twice"},
		{"a look", nil, func(g *guest) {
			g.reach(Ended)
			g.say(wire.Message{File: &wire.File{Index: 1, Data: []byte("seen"), EOF: true}})
			g.finish(Ended)
		}, "finished; end; look: /look=seen"},
		{"a look that fails", nil, func(g *guest) {
			g.reach(Ended)
			g.say(wire.Message{File: &wire.File{Index: 1, Err: "no such file"}})
			g.finish(Ended)
		}, "finished; end"},
	}
}

// runs are conversations of other kinds, and words of other runs.
func runs() []script {
	return []script{
		{"another protocol", nil, func(g *guest) { g.say(wire.Message{Ready: &wire.Ready{Version: wire.Version + 1}}) },
			fmt.Sprintf("up; infra: talk to the guest's agent: it speaks protocol %d, this is %d: the suite and this command were built from different versions of kvmrun; build both again", wire.Version+1, wire.Version)},
		{"another run's end", nil, func(g *guest) {
			g.reach(Ended)
			g.mark()
			g.say(wire.Message{Done: &wire.Done{Nonce: "M"}})
		}, "finished; infra: the guest's end marker is not this run's"},
		{"done twice", nil, func(g *guest) {
			g.reach(Finished)
			var more sync.WaitGroup
			more.Go(func() { g.say(aDone, aExited) })
			g.shutdown()
			more.Wait()
		}, "finished; end"},
		{"dies while it is watched", func(c *Config) { c.Limits.Aftermath = time.Minute }, func(g *guest) { g.reach(Finished); g.die() }, "finished; end"},
		{"is watched", func(c *Config) { c.Limits.Aftermath = time.Millisecond; c.OnWatch = func() {} }, func(g *guest) { g.finish(Booting) }, "finished; end"},
		{"cannot be armed", holding, func(g *guest) {
			g.reach(Released)
			g.say(wire.Message{Exited: &wire.Exited{NotArmed: "no debugfs"}})
			g.finish(Ended)
		}, "finished; end; infra: arm the faults: no debugfs"},
		{"held, and the host has nothing to let it go with", func(c *Config) {
			holding(c)
			c.OnHeld = func(context.Context) error { return errors.New("no memory") }
		}, func(g *guest) { g.reach(Running); g.say(aHeld) }, "held; infra: no memory"},
		{"held twice", holding, func(g *guest) { g.reach(Released); g.say(aHeld) }, "released; " + disorder},
		{"held without having been asked", nil, func(g *guest) { g.reach(Running); g.say(aHeld) }, "running; " + disorder},
		{"freezes a held program", freezing, func(g *guest) {
			g.reach(Freezing)
			g.say(aFrozen)
		}, "frozen"},
		{"freezes without a program", func(c *Config) { c.Run, c.Freeze = &wire.Run{}, true }, func(g *guest) {
			g.hear(func(m wire.Message) bool { return m.Freeze != nil })
			g.say(aReady, aFrozen)
		}, "frozen"},
		{"freezes with an incomplete log", func(c *Config) { c.Run, c.Freeze = &wire.Run{}, true }, func(g *guest) {
			g.say(aReady, wire.Message{Frozen: &wire.Frozen{Lost: "a gap"}})
		}, "frozen; log: a gap"},
		{"frozen before it is ready", func(c *Config) { c.Run, c.Freeze = &wire.Run{}, true }, func(g *guest) { g.say(aFrozen) }, "booting; " + disorder},
		{"frozen before it is held", freezing, func(g *guest) { g.reach(Running); g.say(aFrozen) }, "running; " + disorder},
		{"ends before it is held", freezing, func(g *guest) {
			g.reach(Running)
			g.say(wire.Message{Exited: &wire.Exited{Code: 3}})
		}, "ended; infra: freeze a held program: it ended before it was held: status 3"},
		{"cannot be started to be held", freezing, func(g *guest) {
			g.reach(Up)
			g.say(wire.Message{Exited: &wire.Exited{Err: "exec format error"}})
		}, "ended; infra: exec format error"},
		{"prints much before it is held", freezing, func(g *guest) {
			g.reach(Freezing)
			g.say(wire.Message{Frozen: &wire.Frozen{Stdout: maxHeldOutput + 1}})
		}, "frozen; infra: freeze a held program: it printed 1048577 bytes before it was held, more than 1048576"},
		{"prints before it is held", freezing, func(g *guest) {
			g.reach(Freezing)
			g.print(wire.PortStdout, "hello")
			g.say(wire.Message{Frozen: &wire.Frozen{Stdout: 5}})
		}, "frozen; stdout: hello"},
		{"a fork of a held program", func(c *Config) {
			holding(c)
			c.From = &Resumed{Ready: *aReady.Ready, Held: true, PID: 7, Stdout: []byte("before, ")}
		}, func(g *guest) {
			g.hear(func(m wire.Message) bool { return m.Release != nil })
			g.print(wire.PortStdout, "after")
			g.say(wire.Message{Exited: &wire.Exited{Stdout: 13}})
			g.finish(Ended)
		}, "finished; end; stdout: before, after"},
		{"a fork without a program", func(c *Config) { c.From = &Resumed{Ready: *aReady.Ready} }, func(g *guest) {
			g.hear(func(m wire.Message) bool { return m.Run != nil })
			g.finish(Up)
		}, "finished; end"},
		{"a fork that says it is ready", func(c *Config) { c.From = &Resumed{Ready: *aReady.Ready} }, func(g *guest) { g.say(aReady) }, "up; " + disorder},
		{"a fork of another protocol", func(c *Config) { c.From = &Resumed{} }, func(*guest) {},
			fmt.Sprintf("booting; infra: talk to the guest's agent: it speaks protocol 0, this is %d: the suite and this command were built from different versions of kvmrun; build both again", wire.Version)},
		{"interrupted", nil, func(g *guest) { <-g.gone }, "booting; infra: interrupted: signal 2"},
		{"power cut", func(c *Config) {
			cut := make(chan string, 1)
			cut <- "write 3"
			c.PowerCut = cut
		}, func(*guest) {}, "booting; cut: write 3"},
		{"ended by somebody else", func(c *Config) {
			died := make(chan struct{})
			close(died)
			c.Died = died
		}, func(*guest) {}, "booting"},
		{"does not read what the host says", func(c *Config) {
			many := make(chan int)
			c.Signals = many
			go func() {
				for range 2 * maxPosted {
					many <- 2
				}
				close(many)
			}()
			c.Limits.Boot = 200 * time.Millisecond
		}, func(g *guest) { _ = g.ports[wire.PortControl].SetReadDeadline(time.Unix(1, 0)) }, "booting; infra: the VM did not boot within 200ms without a word in the kernel log"},
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

type slowly struct{ to io.Writer }

func (s *slowly) Write(p []byte) (int, error) {
	time.Sleep(20 * time.Millisecond)
	return s.to.Write(p)
}

func scripts() []script {
	var out []script
	for _, l := range [][]script{words(), ends(), silences(), sized(), runs()} {
		out = append(out, l...)
	}
	return out
}

// TestScripts has each conversation, with the exact outcome.
func TestScripts(t *testing.T) {
	all := scripts()
	seen := map[string]bool{}
	for _, s := range all {
		assert.Assert(t, !seen[s.name], "two scripts are called %q", s.name)
		seen[s.name] = true
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Dir(t.TempDir())
			got := s.run(t, nil)
			if i := strings.Index(got, dir); i >= 0 { // of a file that is fetched
				rest := got[i:]
				got = got[:i] + "DIR" + rest[strings.LastIndex(rest[:strings.Index(rest, " from")], "/"):]
			}
			assert.Equal(t, got, s.want)
		})
	}
	t.Logf("scripted guests: %d scripts", len(all))
}

// FuzzTalk: whatever a guest sends, a conversation ends, in a state that fits, and
// with an end marker only where the last word was this run's and all output is there.
func FuzzTalk(f *testing.F) {
	for _, s := range scripts() {
		if strings.Contains(s.name, "too much kernel log") || strings.Contains(s.name, "silent") {
			continue
		}
		var b bytes.Buffer
		s.run(f, &b)
		f.Add(b.Bytes(), "out", byte(len(s.name)))
	}
	dir, err := os.MkdirTemp("", "fuzz-talk-*")
	assert.NilError(f, err)
	f.Cleanup(func() { _ = os.RemoveAll(dir) })
	f.Fuzz(func(t *testing.T, control []byte, output string, kind byte) {
		g := newGuest(t)
		c := Config{
			Machine: g, LogEnded: g.log, Nonce: "N", Started: time.Now(), Run: &wire.Run{},
			Limits: Limits{Boot: time.Minute, Drain: time.Millisecond, Finish: time.Minute, PowerOff: time.Millisecond},
			Fetch:  []Fetch{{Guest: "/f", Host: filepath.Join(dir, "f")}}, Look: []string{"/look"}, OnPowerOff: func() {},
		}
		switch kind % 4 {
		case 1:
			holding(&c)
		case 2:
			freezing(&c)
		case 3:
			c.Freeze = true
		}
		var stdout bytes.Buffer
		c.Stdout = &stdout
		var found Findings
		s := New(c, &found)
		go func() {
			g.mark()
			g.print(wire.PortStdout, output)
			g.raw(control)
			g.die()
		}()
		s.Talk(t.Context())
		g.die()
		s.Close(t.Context())
		if found.EndMarker {
			if s.State() != Finished || found.Done == nil || found.Done.Nonce != "N" || found.Exited == nil || found.Ready == nil {
				t.Errorf("an end marker in state %s: %+v", s.State(), found)
			}
			if int64(stdout.Len()) < found.Exited.Stdout || found.Exited.Stderr > 0 {
				t.Errorf("an end marker with %d bytes of %d", stdout.Len(), found.Exited.Stdout)
			}
		}
		if (s.State() == Frozen) && found.Ready == nil {
			t.Error("frozen before it was ready")
		}
	})
}
