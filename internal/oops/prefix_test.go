package oops

import (
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"gotest.tools/v3/assert"
)

// prefixCase is a line and what is to be read of it.
type prefixCase struct {
	in, msg, caller string
	time            float64
	source          source
}

// prefixCases have one row per form, taken from the programs that print it.
var prefixCases = func() []prefixCase {
	const k, p, u = srcKernel, srcProgram, srcUnknown
	return []prefixCase{
		// printk
		{"[   12.345678] text", "text", "", 12.345678, k},
		{"[   12.345678][  T123]  f+0x1/0x2", " f+0x1/0x2", "T123", 12.345678, k},
		{"[   12.345678][    C0] text", "text", "C0", 12.345678, k},
		{"[   12.345678] [    T43]  f+0x1/0x2", " f+0x1/0x2", "T43", 12.345678, k},
		{"<4>[   12.345678] text", "text", "", 12.345678, k},
		{"login: [   12.345678] text", "text", "", 12.345678, k},
		{"\x1b[32m[   12.345678] \x1b[0m\x1b[31mtext\x1b[0m\r", "text", "", 12.345678, k},
		// dmesg
		{"[Thu Sep 14 07:36:11 2023] text", "text", "", -1, k},
		{"[Thu Sep 14 07:36:11 2023] [    T43] text", "text", "T43", -1, k},
		{"[czw wrz 14 07:36:11 2023] text", "text", "", -1, k},
		{"[Sep14 07:36] text", "text", "", -1, k},
		{"[  +0.000007]  f+0x1/0x2", " f+0x1/0x2", "", -1, k},
		{"[   12.345678 <    0.000007>] text", "text", "", 12.345678, k},
		{"[Thu Sep 14 07:36:11 2023 <    0.000007>] text", "text", "", -1, k},
		{"2023-09-14T07:36:11,123456+02:00 text", "text", "", -1, k},
		{"kern  :warn  : [   12.345678] [      T0] text", "text", "T0", 12.345678, k},
		{"kern  :alert : text", "text", "", -1, k},
		{"daemon:info  : [   12.345678] systemd[1]: text", "text", "", 12.345678, p},
		// /dev/kmsg and netconsole
		{"4,100,2000000,-; f+0x1/0x2", " f+0x1/0x2", "", 2, k},
		{"4,100,2000000,-,caller=T43;text", "text", "T43", 2, k},
		{"30,100,2000000,-;systemd[1]: text", "text", "", 2, p},
		{"6.4.0-rc1,4,100,2000000,-,caller=C0;text", "text", "C0", 2, k},
		{`4,100,2000000,c;a\x5cb`, `a\b`, "", 2, k},
		// syslog and the journal
		{"Sep 14 07:36:11 host kernel: text", "text", "", -1, k},
		{"Sep 14 07:36:11 host kernel: [   12.345678]  f+0x1/0x2", " f+0x1/0x2", "", 12.345678, k},
		{"Sep  4 07:36:11 host sshd[12]: text", "text", "", -1, p},
		{"Sep 14 07:36:11.123456 host kernel: text", "text", "", -1, k},
		{"2023-09-14T07:36:11+0200 host kernel: text", "text", "", -1, k},
		{"2023-09-14T07:36:11.123456+02:00 host kernel: text", "text", "", -1, k},
		{"Thu 2023-09-14 07:36:11 CEST host kernel: text", "text", "", -1, k},
		{"1694669771.123456 host kernel: text", "text", "", -1, k},
		{"[   12.345678] host kernel: text", "text", "", 12.345678, k},
		{"[   12.345678] host sshd[12]: text", "text", "", 12.345678, p},
		{"sty 03 12:44:18 pc kernel: text", "text", "", -1, k},
		{"thu 27 12:19:50 kernel: text", "text", "", -1, k},
		{"9月 14 07:36:11 host kernel: text", "text", "", -1, k},
		{"Mon May  6 07:08:09 2024 kern.warn kernel: [   12.345678] text", "text", "", 12.345678, k},
		{"<4>Sep 14 07:36:11 host kernel: text", "text", "", -1, k},
		{"<4>1 2023-09-14T07:36:11.123456+02:00 host kernel - - - text", "text", "", -1, k},
		{`<28>1 2023-09-14T07:36:11Z host sshd 12 - [a b="c"] text`, "text", "", -1, p},
		{" kernel:text", "text", "", -1, k},
		{"    Sep 14 07:36:11 kernel: [   12.345678] text", "text", "", 12.345678, k},
		// a program that passes a machine's console on
		{"Sep 14 07:36:11 host qemu[12]: [   12.345678] text", "text", "", 12.345678, k},
		{"Sep 14 07:36:11 host Xorg[12]: [    12.345] text", "[    12.345] text", "", -1, p},
		// logcat
		{"10-28 04:36:09.123     0     0 W         : text", "text", "", -1, k},
		{"10-28 04:36:09.123  root     0     0 W kernel  : text", "text", "", -1, k},
		{"10-28 04:36:09.123  1000  1002 W Tag     : text", "text", "", -1, p},
		{"10-28 04:36:09.123 W/kernel  (    0): text", "text", "", -1, k},
		{"W/        (    0): text", "text", "", -1, k},
		{"W/ActivityManager( 1000): text", "text", "", -1, p},
		{"1698467769.123     0     0 W         : text", "text", "", -1, k},
		{"10-28 04:36:09.123     0     0 I rcu     : INFO: text", "rcu: INFO: text", "", -1, k},
		// vendors
		{"[   12.345678] [pid:10974,cpu1,grep]text", "text", "", 12.345678, k},
		{"[   12.345678s][pid:10974,cpu1,grep,3]text", "text", "", 12.345678, k},
		{"[   12.345678] (3)[43:kworker/3:1] text", "text", "", 12.345678, k},
		{"<4>[   12.345678].(3)[43:kworker/3:1]text", "text", "", 12.345678, k},
		{"<4>[   12.345678]  (3)[43:kworker/3:1]text", "text", "", 12.345678, k},
		{"[   12.345678@3] text", "text", "", 12.345678, k},
		{"[   12.345678] [20230914_13:51:39.356848]@0 text", "text", "", 12.345678, k},
		{"<4>[   12.345678]  [0:      swapper/0:    1] text", "text", "", 12.345678, k},
		{"[   12.345678][    T1] [name:panic&]text", "text", "T1", 12.345678, k},
		{"[   12.345678] <c0> text", "text", "", 12.345678, k},
		{"[   12.345678] c0     17 text", "text", "", 12.345678, k},
		// CI systems, terminals, mails
		{"2024-05-06T07:08:09.1234567Z [   12.345678] text", "text", "", 12.345678, k},
		{"2024-05-06T07:08:09.1234567Z text: a", "text: a", "", -1, u},
		{"2024-05-06T07:08:09.123456Z 01O [   12.345678] text", "text", "", 12.345678, k},
		{"build\tRun tests\t2024-05-06T07:08:09.1234567Z [   12.345678] text", "text", "", 12.345678, k},
		{"[2024-05-06T07:08:09.123Z] [   12.345678] text", "text", "", 12.345678, k},
		{"07:08:09.123456  [   12.345678] text", "text", "", 12.345678, k},
		{"2024-05-06 07:08:09+0000 [-] [   12.345678] text", "text", "", 12.345678, k},
		{"2024-05-06 07:08:09,123 - INFO - [   12.345678] text", "text", "", 12.345678, k},
		{"INFO     console:guest.py:12 [   12.345678] text", "text", "", 12.345678, k},
		{"E       [   12.345678] text", "text", "", 12.345678, k},
		{"vm-1  | [   12.345678] text", "text", "", 12.345678, k},
		{"# [   12.345678] text", "text", "", 12.345678, k},
		{"**[   12.345678] text", "text", "", 12.345678, k},
		{"> > <4>[   12.345678][  T235] text", "text", "T235", 12.345678, k},
		{"> text", "text", "", -1, u},
		{`- {"dt": "2024-05-06T07:08:09.123456", "lvl": "target", "msg": "[   12.345678] text"}`, "text", "", 12.345678, k},
		{`{"log":"[   12.345678] text\n","stream":"stdout","time":"2024-05-06T07:08:09Z"}`, "text", "", 12.345678, k},
		{`{"_TRANSPORT":"kernel","MESSAGE":"a \"b\"","SYSLOG_IDENTIFIER":"kernel","_SOURCE_MONOTONIC_TIMESTAMP":"2000000"}`, `a "b"`, "", 2, k},
		{`{"SYSLOG_IDENTIFIER":"sshd","MESSAGE":[116,101,120,116]}`, "text", "", -1, p},
		{`[   12.345678] text"}`, "text", "", 12.345678, k},
		// no prefix at all
		{">ffff888012345600: fb fb fb fb", ">ffff888012345600: fb fb fb fb", "", -1, u},
		{" <TASK>", " <TASK>", "", -1, u},
		{"[<ffffffff81000000>] f+0x1/0x2", "[<ffffffff81000000>] f+0x1/0x2", "", -1, u},
		{"[ BUG: Invalid wait context ]", "[ BUG: Invalid wait context ]", "", -1, u},
		{"# INFO: disconnect", "# INFO: disconnect", "", -1, u},
		{"WARNING: CPU: 2 PID: 177 at net/core/dev.c:1597 f+0x1/0x2", "WARNING: CPU: 2 PID: 177 at net/core/dev.c:1597 f+0x1/0x2", "", -1, u},
		{"Call Trace:", "Call Trace:", "", -1, u},
		{"R10: 0000000000000000 R11: 0000000000000048", "R10: 0000000000000000 R11: 0000000000000048", "", -1, u},
	}
}()

// FuzzPrefixes reads lines alone: no input may break the reader of prefixes,
// which cuts from a line and adds nothing to it but what was packed.
func FuzzPrefixes(f *testing.F) {
	for _, c := range prefixCases {
		f.Add([]byte(c.in + "\n"))
		f.Add([]byte(c.in[:len(c.in)*2/3] + "\n"))
	}
	f.Fuzz(func(t *testing.T, log []byte) {
		var s splitter
		var last int64
		check := func(l line) {
			if l.start < 0 || l.end > int64(len(log)) || l.start > l.end || l.start < last && l.end < last {
				t.Fatalf("line %d-%d of %d bytes, after %d", l.start, l.end, len(log), last)
			}
			last = l.start
			if len(l.msg) > 2*len(log)+64 {
				t.Fatalf("a message of %d bytes", len(l.msg))
			}
		}
		s.write(log, check)
		s.close(check)
	})
}

// TestPrefixes: what stands before a message, one row per form, taken from the
// programs that print it.
func TestPrefixes(t *testing.T) {
	for _, c := range prefixCases {
		var got []line
		var r records
		r.feed([]byte(c.in), 0, int64(len(c.in)), func(l line) { got = append(got, l.own()) })
		if len(got) != 1 {
			t.Errorf("%q: %d messages", c.in, len(got))
			continue
		}
		l := got[0]
		if l.text != c.msg || string(l.caller) != c.caller || l.source != c.source || l.time < c.time-1e-9 || l.time > c.time+1e-9 {
			t.Errorf("%q:\n got %q caller %q time %v source %d\nwant %q caller %q time %v source %d", c.in, l.text, l.caller, l.time, l.source, c.msg, c.caller, c.time, c.source)
		}
	}
}

// TestRecords: one message on several lines.
func TestRecords(t *testing.T) {
	verbose := `Thu 2023-09-14 07:36:11.123456 CEST [s=1;i=2;b=3;m=4;t=5;x=6]
    PRIORITY=4
    SYSLOG_IDENTIFIER=kernel
    MESSAGE=first
    _TRANSPORT=kernel
    _SOURCE_MONOTONIC_TIMESTAMP=2000000
`
	export := "__CURSOR=s=1\n__REALTIME_TIMESTAMP=1\nMESSAGE=second\nSYSLOG_IDENTIFIER=sshd\n_TRANSPORT=syslog\n\n"
	pretty := "{\n\t\"_TRANSPORT\" : \"kernel\",\n\t\"MESSAGE\" : \"thi\\\"rd\"\n}\n"
	long := "[ 10-28 04:36:09.123     0:    0 W/ ]\nfourth\n\n"
	kmsg := "4,100,3000000,-;fifth\\x0asixth\n SUBSYSTEM=usb\n DEVICE=+usb:1-1\n"
	frags := "4,101,4000000,-,ncfrag=0/13;seven4,101,4000000,-,ncfrag=5/13;th and\n4,101,4000000,-,ncfrag=11/13; x\n"
	type message struct {
		text   string
		source source
		time   float64
		lines  string // what the offsets span
	}
	var got []message
	text := verbose + export + pretty + long + kmsg + frags + "last\n"
	s := splitter{}
	s.write([]byte(text), func(l line) {
		got = append(got, message{string(l.msg), l.source, l.time, text[l.start:l.end]})
	})
	s.close(func(l line) { got = append(got, message{string(l.msg), l.source, l.time, text[l.start:l.end]}) })
	record, _, _ := strings.Cut(kmsg, "\n")
	assert.DeepEqual(t, got, []message{
		{"first", srcKernel, 2, verbose},
		{"second", srcProgram, -1, export},
		{`thi"rd`, srcKernel, -1, pretty},
		{"fourth", srcKernel, -1, long[:len(long)-1]},
		{"", srcUnknown, -1, "\n"},
		{"fifth", srcKernel, 3, record + "\n"},
		{"sixth", srcKernel, 3, record + "\n"},
		{"seventh and x", srcKernel, 4, frags},
		{"last", srcUnknown, -1, "last\n"},
	}, cmp.AllowUnexported(message{}))
}

// TestDecodedFrames: the forms of decode_stacktrace.sh and addr2line.
func TestDecodedFrames(t *testing.T) {
	for _, c := range []struct {
		in     string
		want   Frame
		inline bool
	}{
		{"do_setlink (net/core/dev.c:1597 (discriminator 1)) ", Frame{Func: "do_setlink", File: "net/core/dev.c", Line: 1597}, false},
		{"? schedule (kernel/sched/core.c:5409 kernel/sched/core.c:6746) ", Frame{Func: "schedule", File: "kernel/sched/core.c", Line: 6746, Unreliable: true}, false},
		{"f (drivers/x.c:12) mod", Frame{Func: "f", File: "drivers/x.c", Line: 12, Module: "mod"}, false},
		{"f (drivers/x.c:12) [mod 190a48ff29fdb81d59ca0ec9329e486aa8def5cc]", Frame{Func: "f", File: "drivers/x.c", Line: 12, Module: "mod"}, false},
		{"f (drivers/x.c:12) (P)", Frame{Func: "f", File: "drivers/x.c", Line: 12}, false},
		{"[c000000010f930b0] [c000000008068df8] f (a/x.c:12) (unreliable)", Frame{Func: "f", File: "a/x.c", Line: 12, Unreliable: true, Addr: 0xc000000008068df8}, false},
		{"f.isra.0 (a/x.c:?)", Frame{Func: "f.isra.0"}, false},
		{"f+0x12/0x34 (a/x.c:12)", Frame{Func: "f", Offset: 0x12, Size: 0x34, File: "a/x.c", Line: 12}, false},
		{" f a/x.c:12 [inline]", Frame{Func: "f", File: "a/x.c", Line: 12, Inline: true}, false},
		{" (inlined by) f at a/x.c:12", Frame{Func: "f", File: "a/x.c", Line: 12, Inline: true}, false},
		{"f at a/x.c:12 (discriminator 3)", Frame{Func: "f", File: "a/x.c", Line: 12, Inline: true}, false},
	} {
		text := string(spellOffsets([]byte(c.in)))
		got, ok := parseFrame(text)
		if !ok || !frameLook(text) {
			t.Errorf("%q is no frame", c.in)
			continue
		}
		c.want.Raw = strings.TrimSpace(c.in)
		assert.DeepEqual(t, got, []Frame{c.want})
	}
	for in, want := range map[string]string{
		"RIP: 0010:f (net/core/dev.c:1597 (discriminator 1)) ": "f",
		"pc : f (a/x.c:1)":                   "f",
		"PC is at f (a/x.c:1)":               "f",
		"NIP [c000000008068dfc] f (a/x.c:1)": "f",
	} {
		got, ok := parsePC(string(spellOffsets([]byte(in))))
		assert.Assert(t, ok, in)
		assert.Equal(t, got.Func, want)
	}
	for _, in := range []string{"panic: ASSERT FAILED at (lib/ipc.c:472): x", "error (12)", "f (see a.txt)", "f (v1.2:3.4)"} {
		assert.Equal(t, string(spellOffsets([]byte(in))), in)
	}
}

// TestWords: what programs and firmware say is no report; the same words of the
// kernel are one.
func TestWords(t *testing.T) {
	stack := "Modules linked in:\nCall Trace:\n f+0x1/0x2\n"
	for in, want := range map[string]int{
		"Nov  9 10:19:35 host openvpn[1118]: WARNING: Make sure you understand\n":                                   0,
		"Nov  9 10:19:35 host cron: WARNING: Make sure you understand\n":                                            0,
		"Nov  9 10:19:35 host kernel: WARNING: something is wrong\n":                                                1,
		"Nov  9 10:19:35 host abrt[1]: kernel BUG at mm/slub.c:12!\n":                                               0,
		"WARNING: RO_VPD is uninitialized or empty.\n[    0.000000] Linux version 6.1.0\n":                          0,
		"[    1.000000] x\nBUG: a program says so\n[    2.000000] y\n":                                              0,
		"[    1.000000] x\ngeneral protection fault: 0000\n[    2.000000] y\n":                                      0,
		"[    1.000000] x\nWARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2\n" + stack:                                     1,
		"usb 5-1: WARNING: support is incomplete\n":                                                                 1,
		"[    0.200000] Oops: efitime: can't read time!\n[    0.3] Console: dummy\n":                                0,
		"[    0.200000] [Firmware Bug]: TSC ADJUST: CPU0: -1234 force to 0\n":                                       0,
		"[    0.200000] EXT4-fs (vda): warning: mounting fs with errors, running e2fsck is advised\n":               0,
		"[    0.200000] EXT4-fs warning (device vda): ext4_x:12: y\n":                                               0,
		"[    0.200000] foo: module verification failed: signature and/or required key missing - tainting kernel\n": 0,
		"<30>[    5.123456] systemd[1]: WARNING: unit is bad\n":                                                     0,
		"daemon:warn  : [    5.123456] WARNING: unit is bad\n":                                                      0,
	} {
		if got := Parse([]byte(in)); len(got) != want {
			t.Errorf("%q: %d reports, want %d", in, len(got), want)
			for _, r := range got {
				t.Logf("%s", r.Title)
			}
		}
	}
}

// TestReprint: one report printed twice counts once, two that look alike twice.
func TestReprint(t *testing.T) {
	report := func(before, sp string) string {
		text := "BUG: kernel NULL pointer dereference, address: 0000000000000008\n#PF: supervisor read access in kernel mode\n" +
			"Oops: 0000 [#1] SMP NOPTI\nCPU: 1 PID: 154 Comm: a Not tainted 5.15.161 #1\nRIP: 0010:f+0x7/0x110\nRSP: 0018:" + sp + "\nCall Trace:\n g+0x1/0x2\n---[ end trace 4cdc93594ee70233 ]---\n"
		out := ""
		for l := range strings.Lines(text) {
			out += before + l
		}
		return out
	}
	one := report("[    5.464036] ", "ffffaa03409f7c20")
	for name, c := range map[string]struct {
		log  string
		want int
	}{
		"alone":            {one, 1},
		"dmesg":            {one + report("[    5.464036] ", "ffffaa03409f7c20"), 1},
		"dmesg with level": {one + report("kern  :alert : [    5.464036] ", "ffffaa03409f7c20"), 1},
		"wall clock":       {one + report("[Thu Sep 14 07:36:11 2023] ", "ffffaa03409f7c20"), 1},
		"one level":        {one + "kern  :alert : BUG: kernel NULL pointer dereference, address: 0000000000000008\nkern  :alert : #PF: supervisor read access in kernel mode\n", 1},
		"journal twice":    {report("Sep 14 07:36:11 h kernel: ", "ffffaa03409f7c20") + report("Sep 14 07:36:11 h kernel: ", "ffffaa03409f7c20"), 1},
		"later":            {one + report("[   15.464036] ", "ffffaa03409f7c20"), 2},
		"other registers":  {report("Sep 14 07:36:11 h kernel: ", "ffffaa03409f7c20") + report("Sep 14 07:36:12 h kernel: ", "ffffaa0340000000"), 2},
		"next boot":        {one + "[    6.000000] reboot: Restarting system\n[    0.000000] Linux version 6.1\n" + one, 2},
	} {
		got := Parse([]byte(c.log))
		if len(got) != c.want {
			t.Errorf("%s: %d reports, want %d", name, len(got), c.want)
			for _, r := range got {
				t.Logf("%d-%d %s at %v", r.Start, r.End, r.Title, r.Time)
			}
		}
	}
}

// TestPrefixTable: each row can be reached.
func TestPrefixTable(t *testing.T) {
	for _, g := range grammars {
		assert.Assert(t, g.name != "" && g.cut != nil)
		for _, c := range g.begins {
			assert.Assert(t, c <= unicode.MaxASCII)
		}
	}
}

// TestPrefixesCut reads each line cut at every length: a serial line loses its
// end, and a prefix must not be looked for beyond it.
func TestPrefixesCut(t *testing.T) {
	for _, c := range prefixCases {
		for n := range len(c.in) {
			in := c.in[:n]
			var s splitter
			got := 0
			s.write([]byte(in+"\n"), func(line) { got++ })
			s.close(func(line) { got++ })
			assert.Assert(t, got <= 1, "%q: %d messages", in, got)
		}
	}
	Parse([]byte("[" + strings.Repeat("1 ", 8) + "\nx 12\n12\nSep 12\n"))
}

// TestTwoOnALine: a message that another one cut short is a message.
func TestTwoOnALine(t *testing.T) {
	const log = "[   92.396607] BUG: workqueue lockup [  387.811073] audit: type=1326\n"
	for _, got := range [][]*Report{Parse([]byte(log)), ParseOwn([]byte(log))} {
		assert.Equal(t, len(got), 1)
		assert.Equal(t, got[0].Title, "BUG: workqueue lockup")
		assert.Equal(t, string(got[0].Raw), log)
	}
}

// TestOwnConsole: what a program prints before the kernel's time, on the same
// line or on those before, hides nothing of a machine's own.
func TestOwnConsole(t *testing.T) {
	const bug = "[    5.464036][  T154] BUG: workqueue lockup - pool cpus=0\n"
	for _, before := range []string{
		"", "<30>", "daemon:warn  : ", "Sep 14 07:36:11 host a[1]: ", "30,1,1,-;", "{\n", "{\"MESSAGE\":\"", "> ", "__CURSOR=a\n",
		"[ 10-28 04:36:09.123     1:    1 W/a ]\n", "10-28 04:36:09.123  1000  1002 W Tag     : ", "<30>[    5.000000] ", "[    5.000000] a[1]: x ",
	} {
		got := ParseOwn([]byte("[    5.000000] x\n" + before + bug))
		assert.Equal(t, len(got), 1, "%q", before)
		assert.Equal(t, got[0].Title, "BUG: workqueue lockup", "%q", before)
	}
	// What a program writes to /dev/kmsg is a program's still.
	assert.Equal(t, len(ParseOwn([]byte("[    5.000000] cloud-init[1]: WARNING: x\n"))), 0)
}
