// SPDX-License-Identifier: Apache-2.0

// Package monitor speaks QMP, QEMU's machine protocol, over a stream the
// caller has connected. It is the fence around go-qemu: the only package that
// imports it.
//
// go-qemu's interface and types (qmp.Monitor, qmp.Event, qmp.Command) are used,
// its socket monitor is not: that one stalls when an event is not read, breaks
// on replies above 64 KiB, knows no context and drops the class of errors.
// [Monitor] gives every command an id and a context, bounds a message by
// [MaxMessage], and never waits for a reader of events.
//
// It knows nothing of processes, command lines, or what an event means.
//
// All methods of [Monitor] may be called concurrently. One goroutine reads the
// stream, from [New] until the stream ends or [Monitor.Disconnect]; one more
// runs for each subscription until its context or the stream ends.
package monitor
