// SPDX-License-Identifier: Apache-2.0

package monitor_test

import (
	"context"
	"io"
	"testing"

	"github.com/kvmrun/kvmrun/vmtest/internal/monitor"
)

// FuzzPeer has QEMU's side send anything: the monitor must end when the stream
// does, without a panic.
func FuzzPeer(f *testing.F) {
	f.Add([]byte(greeting + `{"return": {}, "id": "1"}` + "\n" + `{"event": "SHUTDOWN", "data": {"reason": "x"}}` + "\n"))
	f.Add([]byte("{\n{}\n[]\nnull\n\"\"\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := bare(t, func(monitor.Event) {}, func(p *peer) {
			_, _ = p.Write(b)
			_ = p.Close()
			_, _ = io.Copy(io.Discard, p.r)
		})
		_, _ = m.Handshake(context.Background())
		<-m.Done()
	})
}
