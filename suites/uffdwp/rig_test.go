// SPDX-License-Identifier: Apache-2.0

package uffdwp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit"
)

// hangAfter bounds every wait for the kernel. It is no expectation of speed:
// nothing here takes more than milliseconds, and what takes this long under
// any emulation is a thread that will never wake up.
const hangAfter = 60 * time.Second

const (
	pageSize = 4096
	hugeSize = 2 << 20

	threads = 3 // threads of a subject
	sockets = 6 // sockets of a subject; those beyond threads serve forked children
)

// subject is a process that owns the memory under test.
type subject struct {
	t       *testing.T
	cmd     *exec.Cmd
	pid     int
	pidfd   int
	all     []*thread
	free    []*thread     // sockets without a thread yet
	scratch uint64        // one page of the subject for arguments and results
	ended   chan struct{} // closed when the process is gone
	undo    []func()      // give back what the current test took, last first
}

// thread is a thread of a subject or of a child forked from it.
type thread struct {
	s    *subject
	name string
	sock int // the test's end
	peer int // the subject's descriptor of the other end
	pid  int // the process whose memory it sees
	busy bool
}

func newSubject(t *testing.T) *subject {
	t.Helper()
	h := kit.NewHelper(t, "subject", subjectIn{Threads: threads})
	// GOMAXPROCS is fixed because a change of it stops the world, and the
	// threads of a subject can't be stopped while they wait in a fault.
	h.Cmd.Env = append(h.Cmd.Env, "GOGC=off", fmt.Sprintf("GOMAXPROCS=%d", threads+4))
	h.Cmd.Stderr = os.Stderr
	s := &subject{t: t, cmd: h.Cmd, ended: make(chan struct{})}
	var ends []*os.File
	for i := range sockets {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		assert.NilError(t, err)
		f := os.NewFile(uintptr(fds[1]), "subject's end")
		ends = append(ends, f)
		s.all = append(s.all, &thread{s: s, name: fmt.Sprintf("thread %d", i), sock: fds[0], peer: firstSocket + i})
	}
	h.Cmd.ExtraFiles = append(h.Cmd.ExtraFiles, ends...)
	assert.NilError(t, h.Cmd.Start())
	for _, f := range ends {
		_ = f.Close()
	}
	s.pid = h.Cmd.Process.Pid
	for _, th := range s.all[:threads] {
		th.pid = s.pid
	}
	s.free = s.all[threads:]
	var err error
	s.pidfd, err = unix.PidfdOpen(s.pid, 0)
	assert.NilError(t, err)
	go func() {
		_ = s.cmd.Wait()
		close(s.ended)
	}()
	t.Cleanup(s.stop)
	s.scratch = s.th(0).mmap(0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE, -1)
	return s
}

func (s *subject) th(i int) *thread { return s.all[i] }

// stop ends the subject and its children.
func (s *subject) stop() {
	for _, th := range s.all[threads:] {
		if th.pid != 0 {
			_ = unix.Kill(th.pid, unix.SIGKILL)
			th.pid = 0
		}
	}
	_ = s.cmd.Process.Kill()
	<-s.ended
	for _, th := range s.all {
		if th.sock >= 0 {
			_ = unix.Close(th.sock)
			th.sock = -1
		}
	}
	if s.pidfd >= 0 {
		_ = unix.Close(s.pidfd)
		s.pidfd = -1
	}
}

// reuse gives back what a test has taken, mappings, descriptors and children,
// and reports whether the subject can serve another one.
func (s *subject) reuse(t *testing.T) bool {
	select {
	case <-s.ended:
		return false
	default:
	}
	for _, th := range s.all {
		if th.busy {
			return false
		}
	}
	if t.Failed() {
		return false
	}
	for i := len(s.undo) - 1; i >= 0; i-- {
		s.undo[i]()
	}
	s.undo = nil
	for _, th := range s.all[threads:] {
		if th.pid != 0 {
			_ = unix.Kill(th.pid, unix.SIGKILL)
			s.th(0).must(unix.SYS_WAIT4, uint64(th.pid), 0, 0, 0)
			th.pid = 0
			s.free = append(s.free, th)
		}
	}
	return true
}

// bytesOf is the memory of a fixed-size value.
func bytesOf[T any](p *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))
}

// start sends a command without waiting for the answer.
func (th *thread) start(op uint64, a ...uint64) {
	th.s.t.Helper()
	c := command{Op: op}
	copy(c.A[:], a)
	th.busy = true
	_, err := unix.Write(th.sock, bytesOf(&c))
	assert.NilError(th.s.t, err, "%s: send a command", th.name)
}

// outcome is what a thread's running command led to first.
type outcome struct {
	done  bool // the command was executed, with this answer
	ans   answer
	event *uffdMsg // the userfaultfd had this event
	from  *uffd
	died  unix.WaitStatus // the subject ended; valid when dead
	dead  bool
}

func (o outcome) String() string {
	switch {
	case o.done:
		return fmt.Sprintf("completed with %#x, errno %v", o.ans.R, unix.Errno(o.ans.Errno))
	case o.event != nil:
		return fmt.Sprintf("event %#x %#x", o.event.Event, o.event.Arg)
	case o.dead && o.died.Signaled():
		return fmt.Sprintf("the process was killed by %v", o.died.Signal())
	case o.dead:
		return fmt.Sprintf("the process exited with %d", o.died.ExitStatus())
	}
	return "nothing"
}

// wait waits for the thread's command to be executed, an event on one of the
// descriptors or the subject's end, whichever is first.
func (th *thread) wait(us ...*uffd) outcome {
	t := th.s.t
	t.Helper()
	pfds := []unix.PollFd{{Fd: int32(th.sock), Events: unix.POLLIN}, {Fd: int32(th.s.pidfd), Events: unix.POLLIN}}
	for _, u := range us {
		pfds = append(pfds, unix.PollFd{Fd: int32(u.fd), Events: unix.POLLIN})
	}
	deadline := time.Now().Add(hangAfter)
	for {
		n, err := unix.Poll(pfds, int(time.Until(deadline).Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		assert.NilError(t, err, "poll")
		if n == 0 {
			t.Fatalf("%s: neither completed nor trapped within %v; the process's threads:\n%s", th.name, hangAfter, th.s.where())
		}
		if pfds[0].Revents&unix.POLLIN != 0 {
			var a answer
			n, err := unix.Read(th.sock, bytesOf(&a))
			assert.NilError(t, err, "%s: read the answer", th.name)
			if n == int(unsafe.Sizeof(a)) {
				th.busy = false
				return outcome{done: true, ans: a}
			}
		}
		for i, u := range us {
			if pfds[2+i].Revents == 0 {
				continue
			}
			if m, ok := u.read(); ok {
				return outcome{event: &m, from: u}
			}
		}
		if pfds[1].Revents != 0 {
			<-th.s.ended
			return outcome{dead: true, died: unix.WaitStatus(th.s.cmd.ProcessState.Sys().(syscall.WaitStatus))}
		}
	}
}

// waiting reports whether the thread has not answered yet.
func (th *thread) waiting() bool {
	pfds := []unix.PollFd{{Fd: int32(th.sock), Events: unix.POLLIN}}
	for {
		// Go's runtime interrupts its threads with signals of its own.
		n, err := unix.Poll(pfds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		assert.NilError(th.s.t, err, "poll")
		return n == 0
	}
}

// where tells what the subject's threads are doing, for a hang's report.
func (s *subject) where() string {
	var b strings.Builder
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", s.pid))
	for _, th := range s.all[threads:] {
		if th.pid != 0 {
			more, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", th.pid))
			tasks = append(tasks, more...)
		}
	}
	for _, d := range tasks {
		for _, f := range []string{"syscall", "stack"} {
			if c, err := os.ReadFile(filepath.Join(d, f)); err == nil {
				fmt.Fprintf(&b, "%s/%s: %s\n", d, f, bytes.TrimSpace(c))
			}
		}
	}
	return b.String()
}

// do executes a command that must not be trapped by any of the descriptors.
func (th *thread) do(us []*uffd, op uint64, a ...uint64) answer {
	th.s.t.Helper()
	th.start(op, a...)
	return th.finish(us...)
}

// finish waits for the running command, which must not be trapped (again).
func (th *thread) finish(us ...*uffd) answer {
	th.s.t.Helper()
	o := th.wait(us...)
	if !o.done {
		th.s.t.Fatalf("%s: want the operation to complete, got: %v", th.name, o)
	}
	return o.ans
}

// trapped waits for the running command to be trapped with this event.
func (th *thread) trapped(u *uffd, addr, flags uint64) {
	th.s.t.Helper()
	o := th.wait(u)
	if o.event == nil || o.event.Event != evPagefault || o.event.Arg[0] != flags || o.event.Arg[1] != addr {
		th.s.t.Fatalf("%s: want a page fault event at %#x with flags %#x, got: %v", th.name, addr, flags, o)
	}
	if !th.waiting() {
		th.s.t.Fatalf("%s: the event at %#x was delivered but the thread was not stopped", th.name, addr)
	}
}

// killed waits for the subject to be killed by the signal.
func (th *thread) killed(sig unix.Signal, us ...*uffd) {
	th.s.t.Helper()
	o := th.wait(us...)
	if !o.dead || !o.died.Signaled() || o.died.Signal() != sig {
		th.s.t.Fatalf("%s: want the process killed by %v, got: %v", th.name, sig, o)
	}
}

// sys makes a system call in the thread and returns its result.
func (th *thread) sys(nr int, a ...uint64) (uint64, unix.Errno) {
	th.s.t.Helper()
	r := th.do(nil, opSyscall, append([]uint64{uint64(nr)}, a...)...)
	return r.R, unix.Errno(r.Errno)
}

// must is sys for calls that have to succeed.
func (th *thread) must(nr int, a ...uint64) uint64 {
	th.s.t.Helper()
	r, e := th.sys(nr, a...)
	if e != 0 {
		th.s.t.Fatalf("%s: system call %d %#x: %v", th.name, nr, a, e)
	}
	return r
}

func (th *thread) mmap(addr, length uint64, prot, flags, fd int) uint64 {
	th.s.t.Helper()
	return th.must(unix.SYS_MMAP, addr, length, uint64(prot), uint64(flags), uint64(fd), 0)
}

func (th *thread) madvise(addr, length uint64, advice int) {
	th.s.t.Helper()
	th.must(unix.SYS_MADVISE, addr, length, uint64(advice))
}

func (th *thread) mprotect(addr, length uint64, prot int) {
	th.s.t.Helper()
	th.must(unix.SYS_MPROTECT, addr, length, uint64(prot))
}

// load reads a word; no descriptor may see it.
func (th *thread) load(addr uint64, us ...*uffd) uint64 {
	th.s.t.Helper()
	return th.do(us, opLoad, addr).R
}

// store writes a word; no descriptor may see it.
func (th *thread) store(addr, val uint64, us ...*uffd) {
	th.s.t.Helper()
	th.do(us, opStore, addr, val)
}

// fill writes val+i to the first word of each page i.
func (th *thread) fill(r region, val uint64, us ...*uffd) {
	th.s.t.Helper()
	th.do(us, opFill, r.addr, r.page, r.n, val)
}

// verify checks what fill wrote.
func (th *thread) verify(r region, val uint64, us ...*uffd) {
	th.s.t.Helper()
	if i := th.do(us, opVerify, r.addr, r.page, r.n, val).R; i != r.n {
		th.s.t.Fatalf("page %d of %d holds %#x, want %#x", i, r.n, th.load(r.at(i)), val+i)
	}
}

// storeTraps starts a store, which must be trapped.
func (th *thread) storeTraps(u *uffd, addr, val uint64) {
	th.s.t.Helper()
	th.start(opStore, addr, val)
	th.trapped(u, addr&^(pageSize-1), faultWrite|faultWP)
}

// storeThrough is a store that must be trapped once and, after the page's
// protection is lifted, must succeed without another event.
func (th *thread) storeThrough(u *uffd, r region, i, val uint64) {
	th.s.t.Helper()
	th.start(opStore, r.at(i), val)
	th.trapped(u, r.at(i), faultWrite|faultWP)
	u.unprotect(r.sub(i, 1))
	th.finish(u)
	if got := th.load(r.at(i), u); got != val {
		th.s.t.Fatalf("page %d holds %#x after the trapped store of %#x", i, got, val)
	}
}

// fork makes a child of the thread's process and returns its only thread.
func (th *thread) fork() *thread {
	th.s.t.Helper()
	c := th.forkStart()
	a := th.finish()
	assert.Equal(th.s.t, a.Errno, uint64(0), "fork: %v", unix.Errno(a.Errno))
	c.pid = int(a.R)
	return c
}

// forkStart starts a fork; the caller finishes it and sets the child's pid.
func (th *thread) forkStart() *thread {
	th.s.t.Helper()
	if len(th.s.free) == 0 {
		th.s.t.Fatal("the subject has no socket left for another child")
	}
	c := th.s.free[0]
	th.s.free = th.s.free[1:]
	c.name = "child"
	th.start(opFork, uint64(c.peer))
	return c
}

// put copies a value into the scratch page of the thread's process; get reads
// one from it.
func put[T any](th *thread, v *T) uint64 {
	th.s.t.Helper()
	vmCopy(th, bytesOf(v), th.s.scratch, unix.ProcessVMWritev)
	return th.s.scratch
}

func get[T any](th *thread, v *T) {
	th.s.t.Helper()
	vmCopy(th, bytesOf(v), th.s.scratch, unix.ProcessVMReadv)
}

func vmCopy(th *thread, b []byte, addr uint64, f func(int, []unix.Iovec, []unix.RemoteIovec, uint) (int, error)) {
	th.s.t.Helper()
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	n, err := f(th.pid, local, []unix.RemoteIovec{{Base: uintptr(addr), Len: len(b)}}, 0)
	assert.NilError(th.s.t, err, "copy %d bytes from or to %#x of process %d", len(b), addr, th.pid)
	assert.Equal(th.s.t, n, len(b))
}

// pagemap returns the entry of the page that holds the address.
func (th *thread) pagemap(addr uint64) uint64 {
	th.s.t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", th.pid))
	assert.NilError(th.s.t, err)
	defer func() { _ = f.Close() }()
	var b [8]byte
	_, err = f.ReadAt(b[:], int64(addr/pageSize*8))
	assert.NilError(th.s.t, err)
	return binary.NativeEndian.Uint64(b[:])
}

// wpBit reports what the pagemap says of the page's write protection.
func (th *thread) wpBit(addr uint64) bool { return th.pagemap(addr)&pmUffdWP != 0 }

func (th *thread) wantWP(addr uint64, want bool, when string) {
	th.s.t.Helper()
	if e := th.pagemap(addr); (e&pmUffdWP != 0) != want {
		th.s.t.Fatalf("%s: %s: uffd-wp bit of %#x is %v, want %v (pagemap entry %#x)", th.name, when, addr, !want, want, e)
	}
}

// smaps returns a field, in bytes, of the mapping that holds the address.
func (th *thread) smaps(addr uint64, field string) uint64 {
	th.s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", th.pid))
	assert.NilError(th.s.t, err)
	in := false
	for _, l := range strings.Split(string(b), "\n") {
		var lo, hi, kb uint64
		if n, _ := fmt.Sscanf(l, "%x-%x ", &lo, &hi); n == 2 {
			in = lo <= addr && addr < hi
			continue
		}
		if in && strings.HasPrefix(l, field+":") {
			_, err := fmt.Sscanf(strings.TrimPrefix(l, field+":"), "%d", &kb)
			assert.NilError(th.s.t, err, "field %s of smaps: %q", field, l)
			return kb << 10
		}
	}
	th.s.t.Fatalf("no field %s for %#x in smaps", field, addr)
	return 0
}

// region is a range of n pages of one size in the subject.
type region struct{ addr, page, n uint64 }

func (r region) at(i uint64) uint64        { return r.addr + i*r.page }
func (r region) len() uint64               { return r.n * r.page }
func (r region) sub(i, n uint64) region    { return region{r.at(i), r.page, n} }
func (r region) small() region             { return region{r.addr, pageSize, r.len() / pageSize} }
func (r region) within(addr uint64) uint64 { return (addr - r.addr) / r.page }

// kind is a kind of memory.
type kind struct {
	name    string
	page    uint64
	shared  bool // MAP_SHARED
	file    bool // backed by a file: shmem or hugetlbfs; uses pte markers
	hugetlb bool
	thp     bool
}

var (
	anon          = kind{name: "anon", page: pageSize}
	anonTHP       = kind{name: "anon-thp", page: hugeSize, thp: true}
	shmemShared   = kind{name: "shmem-shared", page: pageSize, shared: true, file: true}
	shmemPrivate  = kind{name: "shmem-private", page: pageSize, file: true}
	hugeShared    = kind{name: "hugetlb-shared", page: hugeSize, shared: true, file: true, hugetlb: true}
	hugePrivate   = kind{name: "hugetlb-private", page: hugeSize, file: true, hugetlb: true}
	kinds         = []kind{anon, shmemShared, shmemPrivate, hugeShared, hugePrivate}
	kindsAndTHP   = append(append([]kind{}, kinds...), anonTHP)
	kindsSmall    = []kind{anon, shmemShared, shmemPrivate}
	kindsSmallTHP = []kind{anon, anonTHP, shmemShared, shmemPrivate}
)

// eachKind runs the test for each kind of memory. The kinds share a subject,
// whose start costs more than most tests, as long as it survives them.
func eachKind(t *testing.T, ks []kind, f func(t *testing.T, s *subject, k kind)) {
	t.Helper()
	parent := t
	var s *subject
	for _, k := range ks {
		t.Run(k.name, func(t *testing.T) {
			k.need(t)
			if s == nil {
				s = newSubject(parent)
			}
			s.t = t
			t.Cleanup(func() {
				if s != nil && !s.reuse(t) {
					s.stop()
					s = nil
				}
			})
			f(t, s, k)
		})
	}
}

func (k kind) need(t *testing.T) {
	t.Helper()
	if k.file {
		kit.NeedKconfig(t, "PTE_MARKER_UFFD_WP")
	}
	if k.hugetlb {
		kit.NeedKconfig(t, "HUGETLBFS")
		hugePages(t)
	}
	if k.thp {
		needTHP(t)
	}
}

// hugePages makes sure of the pool that the Spec asks for on the command line.
func hugePages(t *testing.T) {
	t.Helper()
	const f = "/proc/sys/vm/nr_hugepages"
	b, err := os.ReadFile(f)
	assert.NilError(t, err)
	if strings.TrimSpace(string(b)) == "0" {
		assert.NilError(t, os.WriteFile(f, []byte("16"), 0o644))
	}
}

// needTHP skips without transparent huge pages and switches them on.
func needTHP(t *testing.T) {
	t.Helper()
	kit.NeedKconfig(t, "TRANSPARENT_HUGEPAGE")
	setting(t, "/sys/kernel/mm/transparent_hugepage/enabled", "madvise")
	setting(t, "/sys/kernel/mm/transparent_hugepage/defrag", "madvise")
}

// setting writes a system-wide setting for the rest of the test.
func setting(t *testing.T, file, val string) {
	t.Helper()
	old, err := os.ReadFile(file)
	assert.NilError(t, err)
	o := strings.TrimSpace(string(old))
	if i, j := strings.IndexByte(o, '['), strings.IndexByte(o, ']'); i >= 0 && j > i {
		o = o[i+1 : j] // one of several words
	}
	assert.NilError(t, os.WriteFile(file, []byte(val), 0o644))
	t.Cleanup(func() { _ = os.WriteFile(file, []byte(o), 0o644) })
}

// memfd makes an anonymous file of the subject and returns its descriptor.
func (th *thread) memfd(size uint64) int {
	th.s.t.Helper()
	name := [8]byte{'w', 'p'}
	fd := th.must(unix.SYS_MEMFD_CREATE, put(th, &name), 0)
	th.closeLater(fd)
	th.must(unix.SYS_FTRUNCATE, fd, size)
	return int(fd)
}

// closeLater closes a descriptor of the subject after the test.
func (th *thread) closeLater(fd uint64) {
	th.s.undo = append(th.s.undo, func() { th.must(unix.SYS_CLOSE, fd) })
}

// reserve finds an address range that is aligned to huge pages and has nothing
// mapped next to it, so that no mapping merges with a neighbour.
func (th *thread) reserve(length uint64) uint64 {
	th.s.t.Helper()
	a := th.mmap(0, length+3*hugeSize, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE, -1)
	th.s.undo = append(th.s.undo, func() { th.must(unix.SYS_MUNMAP, a, length+3*hugeSize) })
	return (a+hugeSize-1)&^(hugeSize-1) + hugeSize
}

// mem maps n pages of the kind, not populated.
func (th *thread) mem(k kind, n uint64) region {
	th.s.t.Helper()
	r := region{page: k.page, n: n}
	r.addr = th.reserve(r.len())
	flags, fd := unix.MAP_PRIVATE|unix.MAP_FIXED, -1
	if k.shared {
		flags = unix.MAP_SHARED | unix.MAP_FIXED
	}
	switch {
	case k.hugetlb:
		flags |= unix.MAP_ANONYMOUS | unix.MAP_HUGETLB | unix.MAP_NORESERVE
	case k.file:
		fd = th.memfd(r.len())
	default:
		flags |= unix.MAP_ANONYMOUS
	}
	th.mmap(r.addr, r.len(), unix.PROT_READ|unix.PROT_WRITE, flags, fd)
	switch {
	case k.thp:
		th.madvise(r.addr, r.len(), unix.MADV_HUGEPAGE)
	case !k.hugetlb && th.thpBuilt():
		th.madvise(r.addr, r.len(), unix.MADV_NOHUGEPAGE)
	}
	return r
}

func (th *thread) thpBuilt() bool {
	_, err := os.Stat("/sys/kernel/mm/transparent_hugepage")
	return err == nil
}

// populated maps n pages of the kind and writes val+i to page i.
func (th *thread) populated(k kind, n, val uint64) region {
	th.s.t.Helper()
	r := th.mem(k, n)
	th.fill(r, val)
	if k.thp {
		if got := th.smaps(r.addr, "AnonHugePages"); got != r.len() {
			th.s.t.Fatalf("want %d bytes in huge pages, got %d: is the VM short of memory?", r.len(), got)
		}
	}
	return r
}

// uffd is a userfaultfd of a subject, held by the test.
type uffd struct {
	t      *testing.T
	fd     int
	remote uint64 // the subject's descriptor
	th     *thread
	open   bool // the test's descriptor
	gone   bool // the subject's descriptor
}

// bare makes a userfaultfd without the API handshake.
func (th *thread) bare(flags uint64) *uffd {
	th.s.t.Helper()
	fd := th.must(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK|flags)
	return th.adopt(fd)
}

// adopt takes a descriptor of the subject into the test.
func (th *thread) adopt(fd uint64) *uffd {
	th.s.t.Helper()
	local, err := unix.PidfdGetfd(th.s.pidfd, int(fd), 0)
	assert.NilError(th.s.t, err, "pidfd_getfd")
	u := &uffd{t: th.s.t, fd: local, remote: fd, th: th, open: true}
	th.s.t.Cleanup(u.close)
	th.s.undo = append(th.s.undo, func() { u.closeAll(th.s.th(0)) })
	return u
}

// close closes the test's descriptor.
func (u *uffd) close() {
	if u.open {
		u.open = false
		_ = unix.Close(u.fd)
	}
}

// closeAll closes the userfaultfd for good: the subject's descriptor, by one of
// its threads, and the test's.
func (u *uffd) closeAll(by *thread) {
	u.t.Helper()
	if !u.gone {
		u.gone = true
		by.must(unix.SYS_CLOSE, u.remote)
	}
	u.close()
}

// uffd makes a userfaultfd with these features.
func (th *thread) uffd(features uint64) *uffd {
	th.s.t.Helper()
	u := th.bare(0)
	api := uffdioAPI{API: uffdAPI, Features: features}
	if e := ioctl(u.fd, ioAPI, &api); e != 0 {
		th.s.t.Fatalf("UFFDIO_API with features %#x: %v", features, e)
	}
	return u
}

// watch makes a userfaultfd that write-protects the regions' accesses.
func (th *thread) watch(features uint64, rs ...region) *uffd {
	th.s.t.Helper()
	u := th.uffd(features)
	for _, r := range rs {
		u.register(r, regWP)
	}
	return u
}

func ioctl[T any](fd int, nr uintptr, arg *T) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), nr, uintptr(unsafe.Pointer(arg)))
	return e
}

// read returns the next event, false when there is none any more.
func (u *uffd) read() (uffdMsg, bool) {
	u.t.Helper()
	var m uffdMsg
	n, err := unix.Read(u.fd, bytesOf(&m))
	if errors.Is(err, unix.EAGAIN) {
		return m, false
	}
	assert.NilError(u.t, err, "read the userfaultfd")
	assert.Equal(u.t, n, int(unsafe.Sizeof(m)))
	return m, true
}

func (u *uffd) tryRegister(addr, length, mode uint64) (uint64, unix.Errno) {
	a := uffdioRegister{uffdioRange: uffdioRange{addr, length}, Mode: mode}
	e := ioctl(u.fd, ioRegister, &a)
	return a.Ioctls, e
}

func (u *uffd) register(r region, mode uint64) uint64 {
	u.t.Helper()
	got, e := u.tryRegister(r.addr, r.len(), mode)
	if e != 0 {
		u.t.Fatalf("UFFDIO_REGISTER %#x+%#x mode %#x: %v", r.addr, r.len(), mode, e)
	}
	return got
}

func (u *uffd) unregister(r region) {
	u.t.Helper()
	a := uffdioRange{r.addr, r.len()}
	if e := ioctl(u.fd, ioUnregister, &a); e != 0 {
		u.t.Fatalf("UFFDIO_UNREGISTER: %v", e)
	}
}

func (u *uffd) wp(addr, length, mode uint64) unix.Errno {
	a := uffdioWriteprotect{uffdioRange{addr, length}, mode}
	return ioctl(u.fd, ioWriteprotect, &a)
}

func (u *uffd) protect(r region) {
	u.t.Helper()
	if e := u.wp(r.addr, r.len(), wpProtect); e != 0 {
		u.t.Fatalf("UFFDIO_WRITEPROTECT protect %#x+%#x: %v", r.addr, r.len(), e)
	}
}

func (u *uffd) unprotect(r region) {
	u.t.Helper()
	if e := u.wp(r.addr, r.len(), 0); e != 0 {
		u.t.Fatalf("UFFDIO_WRITEPROTECT unprotect %#x+%#x: %v", r.addr, r.len(), e)
	}
}

func (u *uffd) wake(r region) {
	u.t.Helper()
	a := uffdioRange{r.addr, r.len()}
	if e := ioctl(u.fd, ioWake, &a); e != 0 {
		u.t.Fatalf("UFFDIO_WAKE: %v", e)
	}
}

// quiet fails when an event is pending.
func (u *uffd) quiet() {
	u.t.Helper()
	if m, ok := u.read(); ok {
		u.t.Fatalf("unexpected event %#x %#x", m.Event, m.Arg)
	}
}

// eventually polls for what the kernel does on its own time (ksmd, reclaim).
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(hangAfter); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen within %v: %s", hangAfter, what)
		}
	}
}
