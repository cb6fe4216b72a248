// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"io"
	"sync"

	"github.com/kvmrun/kvmrun/internal/wire"
)

// outbox sends messages without waiting for the guest to take them: one that does
// not read its port must not stop us from watching it.
type outbox struct {
	messages chan wire.Message
	failed   chan error // the first error, once
	writer   sync.WaitGroup
}

// maxPosted bounds the messages that a guest has not taken. A session sends a few;
// only signals, which a user may send as many of, can be more, and are dropped then.
const maxPosted = 64

func newOutbox(port io.Writer) *outbox {
	o := &outbox{messages: make(chan wire.Message, maxPosted), failed: make(chan error, 1)}
	w := wire.NewWriter(port)
	o.writer.Go(func() {
		for m := range o.messages {
			if err := w.Send(m); err != nil {
				o.failed <- err
				for range o.messages { // whoever posts does not wait
				}
				return
			}
		}
	})
	return o
}

// post hands a message over.
func (o *outbox) post(m wire.Message) {
	select {
	case o.messages <- m:
	default:
	}
}

// close ends the outbox, once the machine is gone.
func (o *outbox) close() {
	close(o.messages)
	o.writer.Wait()
}
