// SPDX-License-Identifier: Apache-2.0

// Package kmsg takes records of /dev/kmsg apart (Documentation/ABI/testing/dev-kmsg).
// It must not know who reads them, nor what they say.
package kmsg

import "strconv"

// MaxRecord is the buffer in bytes that holds any record: the kernel's own limit is
// below (PRINTK_MESSAGE_MAX 2048, kernel/printk/internal.h).
const MaxRecord = 8192

// Record is one record: "prio,number,usec,flags[,more];text\n", and lines of a
// dictionary, which begin with a blank and are left out.
type Record struct {
	Level    int    // as of syslog(2), 0 emergency to 7 debug
	Facility int    // 0 is the kernel itself; user space writes with another
	Number   uint64 // of all since the boot, from 0
	Text     string // without the line's end, unprintable bytes as \xNN
}

// Parse reads a record as read(2) returns it.
func Parse(b []byte) (Record, bool) {
	prio, rest, ok := number(b)
	if !ok || prio > 1<<20 {
		return Record{}, false
	}
	seq, rest, ok := number(rest)
	if !ok {
		return Record{}, false
	}
	i := 0
	for i < len(rest) && rest[i] != ';' {
		i++
	}
	if i == len(rest) {
		return Record{}, false
	}
	text := rest[i+1:]
	for i = 0; i < len(text) && text[i] != '\n'; i++ {
	}
	return Record{Level: int(prio & 7), Facility: int(prio >> 3), Number: seq, Text: string(text[:i])}, true
}

// number reads a decimal number and the comma behind it.
func number(b []byte) (n uint64, rest []byte, ok bool) {
	for i, c := range b {
		if c == ',' {
			n, err := strconv.ParseUint(string(b[:i]), 10, 64)
			return n, b[i+1:], err == nil
		}
	}
	return 0, nil, false
}
