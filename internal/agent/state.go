// SPDX-License-Identifier: Apache-2.0

package agent

import "github.com/kvmrun/kvmrun/internal/wire"

// State is where a conversation stands.
type State string

const (
	// Booting is before the agent's first word.
	Booting State = "booting"
	// Up is when the agent is ready, and the program has not begun.
	Up State = "up"
	// Running is when the program runs.
	Running State = "running"
	// Held is when the program stands still and has not been answered yet.
	Held State = "held"
	// Released is when a program that was held runs.
	Released State = "released"
	// Freezing is when the machine has been asked to be quiet.
	Freezing State = "freezing"
	// Frozen is when it is: the conversation is over, and goes on in a fork.
	Frozen State = "frozen"
	// Ended is when the program has ended, and its files and what the kernel has
	// said are on their way.
	Ended State = "ended"
	// Finished is when all has been said.
	Finished State = "finished"
)

// runs says whether the program is what is waited for.
func (s State) runs() bool {
	return s == Up || s == Running || s == Held || s == Released || s == Freezing
}

// word is a kind of message from the guest.
type word string

const (
	ready   word = "ready"
	started word = "started"
	held    word = "held"
	frozen  word = "frozen"
	exited  word = "exited"
	file    word = "file"
	kmsg    word = "kmsg"
	done    word = "done"
	fault   word = "fault"
	other   word = "" // what only a host sends
)

func wordOf(m wire.Message) word {
	switch {
	case m.Ready != nil:
		return ready
	case m.Started != nil:
		return started
	case m.Held != nil:
		return held
	case m.Frozen != nil:
		return frozen
	case m.Exited != nil:
		return exited
	case m.File != nil:
		return file
	case m.Kmsg != nil:
		return kmsg
	case m.Done != nil:
		return done
	case m.Fault != nil:
		return fault
	}
	return other
}

// order says which word may come in which state, and what the state is then. Held
// and Freezing are also entered by what the host sends. A fault may come at any
// time and ends everything.
var order = map[State]map[word]State{
	Booting:  {ready: Up},
	Up:       {started: Running, exited: Ended}, // one that could not be started
	Running:  {held: Held, exited: Ended},
	Released: {exited: Ended},
	Freezing: {frozen: Frozen, exited: Ended},
	Ended:    {file: Ended, kmsg: Ended, done: Finished},
}

// next returns the state after a word, false for one that is out of order.
func (s State) next(w word, mayHold bool) (State, bool) {
	if w == held && !mayHold {
		return s, false
	}
	to, ok := order[s][w]
	return to, ok
}
