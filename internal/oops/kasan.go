package oops

import (
	"slices"
	"strconv"
	"strings"
)

var (
	kasanBugRe    = compile(`KASAN: ([a-z\- ]+?)(?: in | on |$)`)
	kasanAccessRe = compile(`^\s*(Read|Write)(?: of size (\d+))?(?: at addr ([0-9a-f]+))?(?: by task (.+)/(\d+))?\s*$`)
	kasanAddrRe   = compile(`\bat addr ([0-9a-f]{8,16})`)
	kasanFreeRe   = compile(`^\s*Free of addr ([0-9a-f]+)(?: by task (.+)/(\d+))?`)
	kasanCacheRe  = compile(`which belongs to the cache (\S+) of size (\d+)`)
	kasanCacheOld = compile(`^\s*Object at [0-9a-f]+, in cache (\S+) size: (\d+)`)
	kasanWhereRe  = compile(`(?:The buggy address is located|located) ((\d+) bytes (inside of|to the right of|to the left of)([^\[]*))`)
	kasanTagRe    = compile(`Pointer tag: \[([0-9a-f]+)\], memory tag: \[([0-9a-f]+)\]`)
	kasanTaskRe   = compile(`(?:Allocated|Freed) by task (\d+)`)
	kasanOldPIDRe = compile(`^\s*PID = (\d+)`)
	shadowRe      = compile(`^[ >]?\s*[0-9a-f]{8,16}: (?:[0-9a-f]{2} ?){4,}|^\s+\^\s*$`)
	regionRe      = compile(`(\d+)-byte region`)
)

// kasanFacts reads the structure of a KASAN report.
func kasanFacts(b *body) *KASAN {
	k := &KASAN{PID: -1, AllocPID: -1, FreePID: -1}
	if m := kasanBugRe.FindStringSubmatch(b.lines[0]); m != nil {
		k.Bug = m[1]
	}
	if m := kasanAddrRe.FindStringSubmatch(b.lines[0]); m != nil {
		k.Addr = hex(m[1])
	}
	var memory []string
	shadow := false
	var old *int // where an old style "PID = 1" belongs
	for i, text := range b.lines[1:] {
		if strings.Contains(text, "BUG: KASAN:") {
			break
		}
		if strings.HasSuffix(text, " of") && i+2 < len(b.lines) {
			text += " " + strings.TrimSpace(b.lines[i+2]) // one sentence on two lines
		}
		k.access(text)
		if m := kasanTagRe.FindStringSubmatch(text); m != nil {
			k.PointerTag, k.MemoryTag = m[1], m[2]
		}
		if m := kasanTaskRe.FindStringSubmatch(text); m != nil {
			pid := number(m[1])
			if strings.Contains(text, "Allocated") && k.AllocPID < 0 {
				k.AllocPID = pid
			}
			if strings.Contains(text, "Freed") && k.FreePID < 0 {
				k.FreePID = pid
			}
		}
		switch strings.TrimSpace(text) {
		case "Allocated:":
			old = &k.AllocPID
		case "Freed:":
			old = &k.FreePID
		}
		if m := kasanOldPIDRe.FindStringSubmatch(text); m != nil && old != nil {
			*old, old = number(m[1]), nil
		}
		if strings.Contains(text, "Memory state around the buggy address") {
			shadow = true
		}
		if shadow && len(memory) < 8 && shadowRe.MatchString(text) {
			memory = append(memory, strings.TrimRight(text, " "))
		}
	}
	k.Memory = strings.Join(memory, "\n")
	for _, row := range []struct {
		kind sectionKind
		to   *[]Frame
	}{{secAlloc, &k.Alloc}, {secFree, &k.Free}, {secWork, &k.LastWork}} {
		if s := b.first(row.kind); s != nil {
			*row.to = slices.Clone(s.frames)
		}
	}
	for _, s := range []*string{&k.Task, &k.Cache, &k.Where, &k.Memory} {
		*s = strings.ToValidUTF8(*s, "?")
	}
	return k
}

// access reads the lines about the access and the object.
func (k *KASAN) access(text string) {
	if m := kasanAccessRe.FindStringSubmatch(text); m != nil && k.Access == "" {
		k.Access, k.Size = m[1], number(m[2])
		if m[3] != "" {
			k.Addr = hex(m[3])
		}
		k.task(m[4], m[5])
	}
	if m := kasanFreeRe.FindStringSubmatch(text); m != nil {
		k.Addr = hex(m[1])
		k.task(m[2], m[3])
	}
	for _, re := range []*lazyRE{kasanCacheRe, kasanCacheOld} {
		if m := re.FindStringSubmatch(text); m != nil {
			k.Cache, k.ObjectSize = m[1], number(m[2])
		}
	}
	if m := kasanWhereRe.FindStringSubmatch(text); m != nil && k.Where == "" {
		k.Where = strings.TrimSpace(m[1])
		n := number(m[2])
		size := k.ObjectSize
		if r := regionRe.FindStringSubmatch(m[4]); r != nil {
			size = number(r[1])
			if k.ObjectSize == 0 {
				k.ObjectSize = size
			}
		}
		switch {
		case strings.HasPrefix(m[3], "inside"):
			k.Offset = n
		case strings.HasPrefix(m[3], "to the right"):
			k.Offset = size + n
		default:
			k.Offset = -n
		}
	}
}

func (k *KASAN) task(name, pid string) {
	if name == "" {
		return
	}
	k.Task = name
	if n, err := strconv.Atoi(pid); err == nil {
		k.PID = n
	}
}
