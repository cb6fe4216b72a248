// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvmrun/kvmrun/internal/wire"
)

// klog reads the kernel log beside its consoles, from the agent's getting ready to
// the end of the program: a console can be slow, so that messages are dropped, or
// be silenced by whoever is root. It follows the records' numbers, and says when
// some were overwritten before it came.
//
// Everything that it does in a fork is plain, see package wire: no package is used
// that has not run there already.
type klog struct {
	sys system

	mu     sync.Mutex
	lost   string // why not all has been read
	next   uint64 // the number of the record that must follow; 0 is not known
	n      int    // records that were read since the program began
	warned bool   // one of the kernel's own was of level warning or worse
	kept   []byte // records, see wire.Kmsg
	buf    []byte
	drains *time.Timer
}

// firstDrain is how long after its start a program's log is read for the first
// time, and drainEvery how often then. A short program never gets there: what
// little it does not need costs a fork as much as the program. The kernel's buffer
// (log_buf_len) holds what comes meanwhile.
const (
	firstDrain = time.Second
	drainEvery = 250 * time.Millisecond
)

// kernelWarns is KERN_WARNING (include/linux/kern_levels.h). A report has a line of
// that level or a worse one.
const kernelWarns = 4

// open begins with what comes from now on: the boot's reports are on the console,
// and the taint bits witness that none is missing.
func (k *klog) open() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.buf = make([]byte, 16<<10) // one record: PRINTK_MESSAGE_MAX is 2048 (kernel/printk/internal.h)
	if err := k.sys.openKmsg(); err != nil {
		k.lost = "open /dev/kmsg and /proc/sys/kernel/tainted: " + err.Error()
	}
}

// begin has the log read from time to time.
func (k *klog) begin() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drains = time.AfterFunc(firstDrain, k.tick)
}

func (k *klog) tick() {
	defer dieOnPanic(k.sys)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.drains == nil {
		return
	}
	k.drain()
	k.drains.Reset(drainEvery)
}

// drain reads up to the end, but no more than there can be in the buffer at once:
// somebody may be writing as fast as we read. k.mu is held.
func (k *klog) drain() {
	for left := wire.MaxKmsg; left > 0; {
		n, err := k.sys.readKmsg(k.buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EPIPE):
			// Overwritten before we came; the next record is the oldest there is.
			k.lose("records were overwritten before they could be read")
			k.next = 0
			continue
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil || n <= 0:
			k.lose("read /dev/kmsg: the read failed")
			return
		}
		left -= n
		k.add(k.buf[:n])
	}
}

func (k *klog) lose(why string) {
	if k.lost == "" {
		k.lost = why
	}
}

// number reads a decimal number and returns what follows it.
func number(b []byte) (n uint64, rest []byte) {
	i := 0
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		n = n*10 + uint64(b[i]-'0')
	}
	return n, b[i:]
}

// add takes a record: "prio,seq,usec,flags[,more];text\n" and its dictionary.
func (k *klog) add(r []byte) {
	prio, rest := number(r)
	if len(rest) == 0 || rest[0] != ',' {
		k.lose("read /dev/kmsg: a record of an unknown form")
		return
	}
	seq, rest := number(rest[1:])
	if k.next != 0 && seq != k.next {
		k.lose("records are missing between two that were read")
	}
	k.next = seq + 1
	k.n++
	// Facility 0 is the kernel's own: what user space writes has another one,
	// whatever it says (kernel/printk/printk.c: devkmsg_write).
	kernel := prio>>3 == 0
	if kernel && prio&7 <= kernelWarns {
		k.warned = true
	}
	if !kernel && !bytes.Contains(rest, mark) {
		return
	}
	if len(k.kept)+len(r) > wire.MaxKmsg {
		k.lose("the kernel said more than is kept of it")
		return
	}
	k.kept = append(k.kept, r...)
}

// mark is in every line that the agent or a test binary writes for the host.
var mark = []byte(";kvmrun: ")

// aFlood is how many records are too many to be sure that every console has kept up:
// far fewer than the kernel's buffer has room for.
const aFlood = 10000

// end reads the rest and returns what has come since the program began, if the host
// is to see it.
func (k *klog) end() (kept []byte, lost string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.drains != nil {
		k.drains.Stop()
		k.drains = nil
	}
	k.drain()
	if kept, lost = k.kept, k.lost; !k.warned && k.n < aFlood {
		kept = nil
	}
	k.kept, k.warned, k.n = nil, false, 0
	return kept, lost
}

// taint is the kernel's.
func (k *klog) taint() uint64 {
	text, err := k.sys.tainted()
	if err != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.lose("read /proc/sys/kernel/tainted: " + err.Error())
		return 0
	}
	n, _ := number([]byte(text))
	return n
}
