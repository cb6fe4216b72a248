// SPDX-License-Identifier: Apache-2.0

package uffdwp

import (
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// endless is more often than any page can be trapped in a call of resolve: all
// threads may write to it before the first event is served.
const endless = 10 * threads

// resolve serves events, one page at a time, until all the threads' commands
// are executed; it returns how often each page was trapped.
func resolve(t *testing.T, u *uffd, r region, ths []*thread) []int {
	t.Helper()
	count := make([]int, r.n)
	seed := ths[0].s
	left := len(ths)
	pfds := []unix.PollFd{{Fd: int32(u.fd), Events: unix.POLLIN}, {Fd: int32(seed.pidfd), Events: unix.POLLIN}}
	for _, th := range ths {
		pfds = append(pfds, unix.PollFd{Fd: int32(th.sock), Events: unix.POLLIN})
	}
	for left > 0 {
		n, err := unix.Poll(pfds, int(hangAfter/time.Millisecond))
		if err == unix.EINTR {
			continue
		}
		assert.NilError(t, err)
		if n == 0 {
			t.Fatalf("nothing happened for %v; the process's threads:\n%s", hangAfter, seed.where())
		}
		if pfds[1].Revents != 0 {
			<-seed.ended
			t.Fatalf("the process ended: %v", seed.cmd.ProcessState)
		}
		for pfds[0].Revents != 0 {
			m, ok := u.read()
			if !ok {
				break
			}
			if m.Event != evPagefault || m.Arg[0] != faultWrite|faultWP {
				t.Fatalf("unexpected event %#x %#x", m.Event, m.Arg)
			}
			i := r.within(m.Arg[1])
			if i >= r.n {
				t.Fatalf("event at %#x, outside of the region", m.Arg[1])
			}
			if count[i]++; count[i] > endless {
				t.Fatalf("page %d was trapped %d times, although its protection is taken back each time", i, count[i])
			}
			u.unprotect(r.sub(i, 1))
		}
		for i := range ths {
			if pfds[2+i].Revents != 0 {
				ths[i].finish()
				pfds[2+i].Fd = -1
				left--
			}
		}
	}
	return count
}

// TestWritersOverHugePages is the report that began it all: a virtual
// machine's threads write to memory in huge pages while its snapshot is taken
// page by page.
func TestWritersOverHugePages(t *testing.T) {
	needTHP(t)
	s := newSubject(t)
	big := s.th(0).populated(anonTHP, uint64(2**iterations), 0)
	r := big.small()
	u := s.th(0).watch(0, big)
	s.th(0).must(unix.SYS_MADVISE, big.addr, big.len(), unix.MADV_DONTDUMP) // splits off the mapping
	for round := uint64(0); round < 2; round++ {
		u.protect(big)
		// Three writers, each its own third of the pages, interleaved.
		var ths []*thread
		for i := range uint64(threads) {
			n := (r.n - i + threads - 1) / threads
			s.th(int(i)).start(opAdd, r.at(i), threads*pageSize, n, 3)
			ths = append(ths, s.th(int(i)))
		}
		for i, n := range resolve(t, u, r, ths) {
			if n != 1 {
				t.Fatalf("round %d: page %d was trapped %d times, want once", round, i, n)
			}
		}
	}
	for i := range r.n {
		want := uint64(6)
		if r.at(i)&(hugeSize-1) == 0 {
			want += r.at(i)/hugeSize - big.addr/hugeSize // what populated wrote
		}
		if i%64 == 0 || i%512 == 1 {
			assert.Equal(t, s.th(0).load(r.at(i), u), want, "page %d", i)
		}
	}
}

// TestRandomProtection mixes writers with protection, reclaim and forks; no
// write may be lost or done twice.
func TestRandomProtection(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	swapOn(t)
	s := newSubject(t)
	const pages = 32
	th := s.th(0)
	r := th.mem(anon, pages)
	u := th.watch(0, r)
	model := make([]uint64, pages)
	pick := func() (uint64, uint64) {
		i := rng.Uint64N(pages)
		return i, 1 + rng.Uint64N(pages-i)
	}
	var child *thread
	for range 120 * *iterations {
		i, n := pick()
		switch rng.IntN(8) {
		case 0, 1:
			u.protect(r.sub(i, n))
		case 2:
			u.unprotect(r.sub(i, n))
		case 3:
			th.madvise(r.at(i), n*pageSize, unix.MADV_PAGEOUT)
		case 4:
			if n > 3 {
				n = 3
			}
			th.madvise(r.at(i), n*pageSize, unix.MADV_DONTNEED)
			clear(model[i : i+n])
		case 5:
			if child == nil && len(s.free) > 0 {
				child = th.fork()
			}
		default:
			var ths []*thread
			for k := range uint64(threads) {
				i, n := pick()
				s.th(int(k)).start(opAdd, r.at(i), pageSize, n, 1)
				for p := i; p < i+n; p++ {
					model[p]++
				}
				ths = append(ths, s.th(int(k)))
			}
			resolve(t, u, r, ths)
		}
	}
	for i := range uint64(pages) {
		assert.Equal(t, th.load(r.at(i), u), model[i], "page %d (seed %d)", i, seed)
	}
	if child != nil {
		for i := range uint64(pages) {
			child.wantWP(r.at(i), false, "forked on the way")
		}
		child.fill(r, 1, u)
	}
}
