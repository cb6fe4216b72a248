// SPDX-License-Identifier: Apache-2.0

package ipe

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// Types of audit records (include/uapi/linux/audit.h).
const (
	macStatus    = unix.AUDIT_MAC_STATUS
	ipeAccess    = unix.AUDIT_IPE_ACCESS
	configChange = unix.AUDIT_IPE_CONFIG_CHANGE
	policyLoad   = unix.AUDIT_IPE_POLICY_LOAD
	// userAVC is the one type that user space may send while auditing is not
	// enabled, as it is not without an audit daemon.
	userAVC = 1107 // AUDIT_USER_AVC

	groupReadlog = 1 // AUDIT_NLGRP_READLOG
)

// record is one audit record.
type record struct {
	Type uint16
	Text string // without "audit(time:serial): "
}

// listener receives the kernel's audit records over multicast netlink.
type listener struct {
	t    testing.TB
	recv int // bound to the group
	send int
}

// listen starts to listen; what happened before is not seen.
func listen(t testing.TB) *listener {
	t.Helper()
	l := &listener{t: t}
	for _, s := range []struct {
		fd     *int
		groups uint32
	}{{&l.recv, 1 << (groupReadlog - 1)}, {&l.send, 0}} {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_AUDIT)
		assert.NilError(t, err, "open audit socket")
		t.Cleanup(func() { _ = unix.Close(fd) })
		assert.NilError(t, unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: s.groups}))
		*s.fd = fd
	}
	// Half a MiB holds thousands of records; the timeout only ends a test that
	// has failed already.
	assert.NilError(t, unix.SetsockoptInt(l.recv, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<19))
	tv := unix.NsecToTimeval(int64(30 * time.Second))
	assert.NilError(t, unix.SetsockoptTimeval(l.recv, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	l.drain()
	return l
}

var fences atomic.Int32

var recordRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^audit\([0-9.]+:[0-9]+\): (?s)(.*)$`) })

// drain returns the records of everything that has happened until now. Records
// come in order, so it sends one of its own and reads up to that.
func (l *listener) drain() []record {
	l.t.Helper()
	fence := fmt.Sprintf("kvmrun-fence-%d", fences.Add(1))
	if err := l.request(userAVC, []byte(fence+"\x00")); err != nil {
		l.t.Fatalf("send an audit record: %v", err)
	}
	var out []record
	b := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(l.recv, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			l.t.Fatalf("receive audit records: %v; got %d until then and no %s", err, len(out), fence)
		}
		if n < unix.NLMSG_HDRLEN {
			l.t.Fatalf("audit message of %d bytes", n)
		}
		r := record{Type: binary.NativeEndian.Uint16(b[4:]), Text: string(b[unix.NLMSG_HDRLEN:n])}
		if m := recordRE().FindStringSubmatch(r.Text); m != nil {
			r.Text = m[1]
		}
		if r.Type == userAVC && strings.Contains(r.Text, fence+"'") {
			return out
		}
		out = append(out, r)
	}
}

// of returns the records of a type.
func of(rs []record, typ uint16) (out []record) {
	for _, r := range rs {
		if r.Type == typ {
			out = append(out, r)
		}
	}
	return out
}

// request sends an audit request and returns the kernel's answer.
func (l *listener) request(typ uint16, payload []byte) error {
	msg := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(payload)))
	msg = binary.NativeEndian.AppendUint16(msg, typ)
	msg = binary.NativeEndian.AppendUint16(msg, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	msg = binary.NativeEndian.AppendUint32(msg, 1)
	msg = binary.NativeEndian.AppendUint32(msg, 0)
	msg = append(msg, payload...)
	if err := unix.Sendto(l.send, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	b := make([]byte, 1<<12)
	for {
		n, _, err := unix.Recvfrom(l.send, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n >= unix.NLMSG_HDRLEN+4 && binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR {
			if e := int32(binary.NativeEndian.Uint32(b[unix.NLMSG_HDRLEN:])); e != 0 {
				return unix.Errno(-e)
			}
			return nil
		}
	}
}

// fields splits a record into its fields; values keep their quotes.
func (r record) fields() map[string]string {
	out := map[string]string{}
	rest := r.Text
	for rest != "" {
		k, v, ok := strings.Cut(strings.TrimLeft(rest, " "), "=")
		if !ok {
			break
		}
		if strings.HasPrefix(v, `"`) {
			if end := strings.Index(v[1:], `"`); end >= 0 {
				out[k], rest = v[:end+2], v[end+2:]
				continue
			}
		}
		v, rest, _ = strings.Cut(v, " ")
		out[k] = v
	}
	return out
}

// untrusted is how audit writes a string that a user chose
// (audit_log_n_untrustedstring): quoted, or in hexadecimal where quoting would
// not do.
func untrusted(s string) string {
	for _, c := range []byte(s) {
		if c == '"' || c < 0x21 || c > 0x7e {
			return strings.ToUpper(hex.EncodeToString([]byte(s)))
		}
	}
	return `"` + s + `"`
}

// setComm names the calling thread.
func setComm(t testing.TB, name string) {
	t.Helper()
	p, err := unix.BytePtrFromString(name)
	assert.NilError(t, err)
	assert.NilError(t, unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(p)), 0, 0, 0))
}

// exclude makes the kernel drop records of a type and returns a function that
// ends that.
func (l *listener) exclude(typ uint32) (undo func() error, err error) {
	const (
		filterExclude = 5 // AUDIT_FILTER_EXCLUDE
		always        = 2 // AUDIT_ALWAYS
		msgType       = 12
		equal         = 0x40000000
		addRule       = 1011
		delRule       = 1012
		fields        = 64 // AUDIT_MAX_FIELDS
		maskWords     = 64 // AUDIT_BITMASK_SIZE
	)
	// struct audit_rule_data
	var w [3 + maskWords + 3*fields + 1]uint32
	w[0], w[1], w[2] = filterExclude, always, 1
	w[3+maskWords] = msgType
	w[3+maskWords+fields] = typ
	w[3+maskWords+2*fields] = equal
	b := make([]byte, 0, 4*len(w))
	for _, v := range w {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	if err := l.request(addRule, b); err != nil {
		return nil, err
	}
	return func() error { return l.request(delRule, b) }, nil
}
