// SPDX-License-Identifier: Apache-2.0

// Package agent is the host's half of package wire: the conversation with the
// agent in one machine, from its first word to its last.
//
// It knows the messages, their order ([State]), the streams of the program that
// runs and how long each of them may stand still. It must not know what a machine
// is made of (package vmtest), what a suite is, or what a verdict is: the machine
// is a small interface, and what was found out are facts ([Findings]).
//
// The guest is hostile. It may send every message early, late, twice or never, of
// another run or of any length, close any port at any time, or die: each has an
// exact outcome, see the scripts in scripts_test.go. What it had sent before it
// died arrives, or the findings say how many bytes did not.
package agent
