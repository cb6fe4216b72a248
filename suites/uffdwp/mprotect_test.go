// SPDX-License-Identifier: Apache-2.0

package uffdwp

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit"
)

// TestUnprotectDoesNotGrantWrite is the review comment that shaped the
// interface: lifting the userfaultfd's protection must not make a mapping
// writable that mprotect made read-only.
func TestUnprotectDoesNotGrantWrite(t *testing.T) {
	eachKind(t, kindsAndTHP, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 2, 1)
		u := th.watch(0, r)
		u.protect(r)
		th.mprotect(r.addr, r.len(), unix.PROT_READ)
		u.unprotect(r)
		th.wantWP(r.addr, false, "unprotected")
		th.verify(r, 1, u)
		th.start(opStore, r.addr, 0xA)
		th.killed(unix.SIGSEGV, u)
	})
}

// TestMprotectKeepsProtection takes the permission to write away and gives it
// back, which must not take the userfaultfd's protection along.
func TestMprotectKeepsProtection(t *testing.T) {
	for name, prot := range map[string]int{"read-only": unix.PROT_READ, "no access": unix.PROT_NONE} {
		t.Run(name, func(t *testing.T) {
			eachKind(t, kindsAndTHP, func(t *testing.T, s *subject, k kind) {
				th := s.th(0)
				r := th.populated(k, 4, 1)
				u := th.watch(0, r)
				u.protect(r.sub(0, 3))
				th.mprotect(r.addr, r.len(), prot)
				th.wantWP(r.addr, true, "without permission")
				th.mprotect(r.addr, r.len(), unix.PROT_READ|unix.PROT_WRITE)
				for i := range uint64(3) {
					th.wantWP(r.at(i), true, "with permission again")
					th.storeThrough(u, r, i, 1+i)
				}
				th.store(r.at(3), 4, u)
				th.verify(r, 1, u)
			})
		})
	}
}

// TestMprotectAddsNoEvent: pages that were never protected stay silent.
func TestMprotectAddsNoEvent(t *testing.T) {
	eachKind(t, kindsAndTHP, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 2, 1)
		u := th.watch(0, r)
		th.mprotect(r.addr, r.len(), unix.PROT_READ)
		th.mprotect(r.addr, r.len(), unix.PROT_READ|unix.PROT_WRITE)
		th.wantWP(r.addr, false, "never protected")
		th.fill(r, 5, u)
		u.protect(r)
		u.unprotect(r)
		th.mprotect(r.addr, r.len(), unix.PROT_NONE)
		th.mprotect(r.addr, r.len(), unix.PROT_READ|unix.PROT_WRITE)
		th.fill(r, 6, u)
		th.verify(r, 6, u)
	})
}

// TestProtectWhileReadOnly sets the protection while the mapping could not be
// written to anyway.
func TestProtectWhileReadOnly(t *testing.T) {
	eachKind(t, kindsAndTHP, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 2, 1)
		u := th.watch(0, r)
		th.mprotect(r.addr, r.len(), unix.PROT_READ)
		u.protect(r)
		th.mprotect(r.addr, r.len(), unix.PROT_READ|unix.PROT_WRITE)
		th.storeThrough(u, r, 0, 5)
		th.storeThrough(u, r, 1, 6)
	})
}

func TestSoftDirty(t *testing.T) {
	kit.NeedKconfig(t, "MEM_SOFT_DIRTY")
	eachKind(t, []kind{anon, shmemShared}, func(t *testing.T, s *subject, k kind) {
		th := s.th(0)
		r := th.populated(k, 3, 1)
		u := th.watch(0, r)
		u.protect(r.sub(0, 2))
		assert.NilError(t, os.WriteFile("/proc/"+itoa(s.pid)+"/clear_refs", []byte("4"), 0))
		for i := range r.n {
			assert.Equal(t, th.pagemap(r.at(i))&pmSoftDirty, uint64(0), "page %d is clean", i)
			th.wantWP(r.at(i), i < 2, "after clearing soft-dirty")
		}
		th.storeThrough(u, r, 0, 0xA)
		assert.Assert(t, th.pagemap(r.at(0))&pmSoftDirty != 0, "a trapped write makes dirty")
		th.store(r.at(2), 0xB, u)
		assert.Assert(t, th.pagemap(r.at(2))&pmSoftDirty != 0, "a free write makes dirty")
		assert.Equal(t, th.pagemap(r.at(1))&pmSoftDirty, uint64(0), "no write, no dirt")
		th.storeThrough(u, r, 1, 0xC)
	})
}
