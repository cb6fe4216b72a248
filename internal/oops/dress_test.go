package oops_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kvmrun/kvmrun/internal/oops"
	"gotest.tools/v3/assert"
)

// A message of the kernel as the transports get it.
type message struct {
	time   string // seconds with microseconds
	caller string
	text   string
	other  bool // no kernel's line: what a program wrote to the same console
	raw    string
	n      int // number of the line
}

func (m message) usec() string {
	if s := strings.TrimLeft(strings.Replace(m.time, ".", "", 1), "0"); s != "" {
		return s
	}
	return "0"
}

// stamp is printk's own prefix.
func (m message) stamp() string {
	if m.caller == "" {
		return fmt.Sprintf("[%12s] ", m.time)
	}
	return fmt.Sprintf("[%12s][%6s] ", m.time, m.caller)
}

// clock is a wall clock that goes on by a second now and then.
func (m message) clock() string { return fmt.Sprintf("07:%02d:%02d", 8+m.n/60%50, m.n%60) }

func quoteJSON(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// escapeKmsg is what /dev/kmsg does to a text (kernel/printk/printk.c,
// msg_add_ext_text).
func escapeKmsg(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c < ' ' || c >= 127 || c == '\\' {
			fmt.Fprintf(&b, `\x%02x`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// record is a line of /dev/kmsg.
func (m message) record() string {
	caller := ""
	if m.caller != "" {
		caller = ",caller=" + m.caller
	}
	return fmt.Sprintf("4,%d,%s,-%s;%s", m.n+100, m.usec(), caller, escapeKmsg(m.text))
}

// dress is a way in which logs are passed on.
type dress struct {
	// kernel dresses a line of the kernel; it may return several lines.
	kernel func(m message) string
	// all dresses the finished line, whoever wrote it.
	all func(line string, m message) string
	// caller and time say whether they are kept.
	caller, time bool
	// names says that a stack keeps names but no offsets.
	names bool
}

// fixed is a dress that puts a text before the message.
func fixed(prefix func(m message) string, time bool) dress {
	return dress{kernel: func(m message) string { return prefix(m) + m.text }, time: time}
}

// stamped is a dress that puts a text before printk's own prefix.
func stamped(prefix func(m message) string) dress {
	return dress{kernel: func(m message) string { return prefix(m) + m.stamp() + m.text }, time: true, caller: true}
}

// lines is a dress of every line, whoever wrote it.
func lines(fn func(line string, m message) string) dress {
	return dress{kernel: func(m message) string { return m.stamp() + m.text }, all: fn, time: true, caller: true}
}

func before(fn func(m message) string) func(string, message) string {
	return func(line string, m message) string { return fn(m) + line }
}

func text(s string) func(message) string { return func(message) string { return s } }

// offsetRe matches the symbol that decode_stacktrace.sh replaces: the last word
// of a line, but for a module.
var offsetRe = regexp.MustCompile(`([A-Za-z_$][\w.$]*)\+0x[0-9a-f]+/0x[0-9a-f]+((?: \[\w+\])?(?: \([A-Z]\))?)\s*$`)

var decode = func(position string) func(m message) string {
	return func(m message) string {
		if !offsetRe.MatchString(m.text) {
			return m.stamp() + m.text
		}
		words := strings.Join(strings.Fields(offsetRe.ReplaceAllString(m.text, "$1 ("+position+")$2")), " ")
		return fmt.Sprintf("[%13s ", strings.TrimSpace(strings.Trim(m.stamp(), "[ "))) + words + " "
	}
}

var dresses = map[string]dress{
	"printk":                    stamped(text("")),
	"printk level":              stamped(text("<4>")),
	"printk caller apart":       {kernel: func(m message) string { return strings.Replace(m.stamp(), "][", "] [", 1) + m.text }, time: true, caller: true},
	"dmesg -T":                  fixed(func(m message) string { return "[Thu Sep 14 " + m.clock() + " 2023] " }, false),
	"dmesg -T caller":           {kernel: func(m message) string { return "[Thu Sep 14 " + m.clock() + " 2023] " + callerOf(m) + m.text }, caller: true},
	"dmesg -T other language":   fixed(func(m message) string { return "[czw wrz 14 " + m.clock() + " 2023] " }, false),
	"dmesg -e":                  fixed(func(m message) string { return []string{"[Sep14 07:36] ", "[  +0.000007] "}[m.n%2] }, false),
	"dmesg -d":                  fixed(func(m message) string { return fmt.Sprintf("[%12s <    0.000007>] ", m.time) }, true),
	"dmesg -T -d":               fixed(func(m message) string { return "[Thu Sep 14 " + m.clock() + " 2023 <    0.000007>] " }, false),
	"dmesg iso":                 fixed(func(m message) string { return "2023-09-14T" + m.clock() + ",123456+02:00 " }, false),
	"dmesg -x":                  stamped(text("kern  :warn  : ")),
	"dmesg -x -T":               fixed(func(m message) string { return "kern  :err   : [Thu Sep 14 " + m.clock() + " 2023] " }, false),
	"kmsg":                      {kernel: message.record, time: true, caller: true},
	"kmsg with fields":          {kernel: func(m message) string { return m.record() + "\n SUBSYSTEM=usb\n DEVICE=+usb:1-1" }, time: true, caller: true},
	"netconsole release":        {kernel: func(m message) string { return "6.12.0-rc1+," + m.record() }, time: true, caller: true},
	"netconsole in pieces":      {kernel: pieces, time: true, caller: true},
	"journal short":             fixed(func(m message) string { return "Sep 14 " + m.clock() + " host kernel: " }, false),
	"journal other language":    fixed(func(m message) string { return "sty 03 " + m.clock() + " pc kernel: " }, false),
	"journal Chinese":           fixed(func(m message) string { return "9月 14 " + m.clock() + " pc kernel: " }, false),
	"journal no host":           fixed(func(m message) string { return "thu 27 " + m.clock() + " kernel: " }, false),
	"journal short-precise":     fixed(func(m message) string { return "Sep 14 " + m.clock() + ".123456 host kernel: " }, false),
	"journal short-iso":         fixed(func(m message) string { return "2023-09-14T" + m.clock() + "+0200 host kernel: " }, false),
	"journal short-iso-precise": fixed(func(m message) string { return "2023-09-14T" + m.clock() + ".123456+02:00 host kernel: " }, false),
	"journal short-full":        fixed(func(m message) string { return "Thu 2023-09-14 " + m.clock() + " CEST host kernel: " }, false),
	"journal short-monotonic":   fixed(func(m message) string { return fmt.Sprintf("[%12s] host kernel: ", m.time) }, true),
	"journal short-unix":        fixed(func(m message) string { return fmt.Sprintf("16946697%02d.123456 host kernel: ", m.n%100) }, false),
	"journal verbose":           {kernel: verbose, time: true},
	"journal export":            {kernel: export, time: true},
	"journal json":              {kernel: journalJSON, time: true},
	"journal json-pretty":       {kernel: journalPretty, time: true},
	"syslog":                    stamped(func(m message) string { return "Sep  4 " + m.clock() + " host kernel: " }),
	"syslog ISO":                stamped(func(m message) string { return "2023-09-14T" + m.clock() + ".123456+02:00 host kernel: " }),
	"syslog RFC 3164":           stamped(func(m message) string { return "<4>Sep 14 " + m.clock() + " host kernel: " }),
	"syslog RFC 5424":           stamped(func(m message) string { return "<4>1 2023-09-14T" + m.clock() + ".123456+02:00 host kernel - - - " }),
	"busybox logread":           stamped(func(m message) string { return "Thu Sep 14 " + m.clock() + " 2023 kern.warn kernel: " }),
	"logcat threadtime":         fixed(func(m message) string { return "10-28 " + m.clock() + ".123     0     0 W         : " }, false),
	"logcat time":               fixed(func(m message) string { return "10-28 " + m.clock() + ".123 W/kernel  (    0): " }, false),
	"logcat brief":              fixed(text("W/        (    0): "), false),
	"logcat epoch":              fixed(func(m message) string { return fmt.Sprintf("16984677%02d.123     0     0 W         : ", m.n%100) }, false),
	"vendor pid,cpu,comm":       {kernel: func(m message) string { return fmt.Sprintf("[%12s][pid:10974,cpu1,grep]", m.time) + m.text }, time: true},
	"vendor (cpu)[pid:comm]":    {kernel: func(m message) string { return fmt.Sprintf("[%12s] (3)[43:kworker/3:1] ", m.time) + m.text }, time: true},
	"vendor .(cpu)[pid:comm]":   {kernel: func(m message) string { return fmt.Sprintf("<4>[%12s].(3)[43:kworker/3:1]", m.time) + m.text }, time: true},
	"vendor [cpu: comm: pid]":   {kernel: func(m message) string { return fmt.Sprintf("<4>[%12s]  [0:      swapper/0:    1] ", m.time) + m.text }, time: true},
	"vendor  (cpu)[pid:comm]":   {kernel: func(m message) string { return fmt.Sprintf("<4>[%12s]  (0)[43:kworker/0:1]", m.time) + m.text }, time: true},
	"vendor time@cpu":           {kernel: func(m message) string { return fmt.Sprintf("[%12s@3] ", m.time) + m.text }, time: true},
	"vendor [date_time]@cpu": {kernel: func(m message) string {
		return fmt.Sprintf("[%12s] [20230914_%s.123456]@2 ", m.time, m.clock()) + m.text
	}, time: true},
	"vendor <c0>":         {kernel: func(m message) string { return fmt.Sprintf("[%12s] <c0> ", m.time) + m.text }, time: true},
	"vendor [name:file&]": {kernel: func(m message) string { return m.stamp() + "[name:panic&]" + m.text }, time: true, caller: true},
	"GitHub":              lines(before(func(m message) string { return "2024-05-06T" + m.clock() + ".1234567Z " })),
	"GitHub run view":     lines(before(func(m message) string { return "build (x86)\tRun tests\t2024-05-06T" + m.clock() + ".1234567Z " })),
	"GitLab":              lines(before(func(m message) string { return "2024-05-06T" + m.clock() + ".123456Z 01O " })),
	"Jenkins":             lines(before(func(m message) string { return "[2024-05-06T" + m.clock() + ".123Z] " })),
	"LAVA": lines(func(l string, m message) string {
		return `- {"dt": "2024-05-06T` + m.clock() + `.123456", "lvl": "target", "msg": ` + quoteJSON(l) + "}"
	}),
	"kernelci":       lines(before(func(m message) string { return m.clock() + ".123456  " })),
	"buildbot":       lines(before(func(m message) string { return "2024-05-06 " + m.clock() + "+0000 [-] " })),
	"python logging": lines(before(func(m message) string { return "2024-05-06 " + m.clock() + ",123 - INFO - " })),
	"pytest":         stamped(text("E       ")),
	"pytest log":     stamped(text("INFO     console:guest.py:12 ")),
	"docker json": lines(func(l string, m message) string {
		return `{"log":` + quoteJSON(l+"\n") + `,"stream":"stdout","time":"2024-05-06T07:08:09.1Z"}`
	}),
	"docker compose": stamped(text("vm-1  | ")),
	"kselftest":      stamped(text("# ")),
	"mail":           lines(before(text("> "))),
	"mail twice":     lines(before(text("> > "))),
	"indented":       stamped(text("    ")),
	"colour":         lines(func(l string, _ message) string { return "\x1b[1;31m" + l + "\x1b[0m" }),
	"dmesg colour": {kernel: func(m message) string {
		return "\x1b[32m[" + fmt.Sprintf("%12s", m.time) + "] \x1b[0m\x1b[33m" + m.text + "\x1b[0m"
	}, time: true},
	"CR":              lines(func(l string, _ message) string { return l + "\r" }),
	"stacked":         stamped(func(m message) string { return "> 2024-05-06T" + m.clock() + ".1234567Z kern  :warn  : " }),
	"stacked twice":   stamped(func(m message) string { return "> > - 2024-05-06T" + m.clock() + "Z # <4>" }),
	"decoded":         {kernel: decode("net/core/dev.c:1597 (discriminator 3)"), time: true, caller: true, names: true},
	"decoded inlined": {kernel: decode("./include/linux/x.h:12 net/core/dev.c:1597"), time: true, caller: true, names: true},
}

func callerOf(m message) string {
	if m.caller == "" {
		return ""
	}
	return fmt.Sprintf("[%6s] ", m.caller)
}

// pieces sends a long record in two datagrams, as
// Documentation/networking/netconsole.rst describes.
func pieces(m message) string {
	head, body, _ := strings.Cut(m.record(), ";")
	if len(body) < 12 {
		return head + ";" + body
	}
	all, cut := len(body)+1, len(body)/2
	return fmt.Sprintf("%s,ncfrag=0/%d;%s%s,ncfrag=%d/%d;%s", head, all, body[:cut], head, cut, all, body[cut:])
}

func verbose(m message) string {
	return fmt.Sprintf("Thu 2023-09-14 %s.123456 CEST [s=a1;i=%x;b=b2;m=c3;t=d4;x=e5]\n    _TRANSPORT=kernel\n    PRIORITY=4\n    _SOURCE_MONOTONIC_TIMESTAMP=%s\n    SYSLOG_IDENTIFIER=kernel\n    MESSAGE=%s\n    _HOSTNAME=host",
		m.clock(), m.n, m.usec(), m.text)
}

func export(m message) string {
	return fmt.Sprintf("__CURSOR=s=a1;i=%x\n__REALTIME_TIMESTAMP=1694669771123456\nMESSAGE=%s\nPRIORITY=4\n_TRANSPORT=kernel\nSYSLOG_IDENTIFIER=kernel\n_SOURCE_MONOTONIC_TIMESTAMP=%s\n",
		m.n, m.text, m.usec())
}

func journalJSON(m message) string {
	return fmt.Sprintf(`{"__CURSOR":"s=a1","_TRANSPORT":"kernel","PRIORITY":"4","MESSAGE":%s,"_SOURCE_MONOTONIC_TIMESTAMP":"%s","SYSLOG_IDENTIFIER":"kernel"}`,
		quoteJSON(m.text), m.usec())
}

func journalPretty(m message) string {
	return fmt.Sprintf("{\n\t\"_TRANSPORT\" : \"kernel\",\n\t\"MESSAGE\" : %s,\n\t\"_SOURCE_MONOTONIC_TIMESTAMP\" : \"%s\",\n\t\"SYSLOG_IDENTIFIER\" : \"kernel\"\n}",
		quoteJSON(m.text), m.usec())
}

// changing is another prefix every few lines.
func changing(m message) string {
	all := []string{"printk", "kmsg", "dmesg -x", "printk level", "syslog", "printk caller apart", "netconsole release"}
	return dresses[all[m.n/7%len(all)]].kernel(m)
}

func init() { dresses["changing"] = dress{kernel: changing, time: true, caller: true} }

var messageRe = regexp.MustCompile(`^(.*)\[ *(\d+\.\d{6})\](?:\[ *([TC]\d+)\])? ?(.*)$`)

// messagesOf takes a log apart. A log without any time gets some.
func messagesOf(log []byte) []message {
	const most = 40 << 10 // bytes of a log that are dressed
	log = log[:min(len(log), most)]
	var out []message
	found := false
	for i, raw := range strings.Split(strings.TrimRight(string(log), "\n"), "\n") {
		raw = strings.ToValidUTF8(strings.Trim(raw, "\r\x00"), "?")
		m := message{raw: raw, n: i, other: true}
		if g := messageRe.FindStringSubmatch(raw); g != nil {
			found = true
			m.time, m.caller, m.text, m.other = g[2], g[3], g[4], false
		}
		out = append(out, m)
	}
	if !found {
		for i := range out {
			out[i].time, out[i].text, out[i].other = fmt.Sprintf("12.%06d", i), out[i].raw, false
		}
	}
	return out
}

// dressed puts a log together and tells where each line went.
func (d dress) dressed(log []message) (out []byte, at [][2]int64) {
	for _, m := range log {
		line := m.raw
		if !d.caller {
			m.caller = ""
		}
		if !m.other {
			line = d.kernel(m)
		}
		if d.all != nil {
			line = d.all(line, m)
		}
		start := int64(len(out))
		out = append(append(out, line...), '\n')
		at = append(at, [2]int64{start, int64(len(out))})
	}
	return out, at
}

// summary is what must be the same in every dress.
func summary(reports []*oops.Report, at [][2]int64, d dress) []string {
	var out []string
	for _, r := range reports {
		if r.Kind == oops.Reboot && !d.time {
			continue // the clock tells of it
		}
		first := slices.IndexFunc(at, func(l [2]int64) bool { return l[0] == r.Start })
		last := slices.IndexFunc(at, func(l [2]int64) bool { return l[0] < r.End && r.End <= l[1] })
		s := fmt.Sprintf("%s %s %s %v lines %d-%d:", r.Title, r.Kind, r.Frame, r.Corrupted, first, last)
		for _, f := range r.Stack {
			s += " " + f.Func
			if !d.names {
				s += fmt.Sprintf("+%x", f.Offset)
			}
		}
		out = append(out, s)
	}
	return out
}

// dressedMin is the share of the logs that must read the same in a dress, in
// percent.
const dressedMin = 98

// TestDressed dresses every log in every prefix: same titles, kinds, frames and
// lines. What is compared with is the log as printk prints it, without callers
// where the dress has no room for them.
func TestDressed(t *testing.T) {
	all := map[string][]message{}
	for name, s := range fixtures(t) {
		all[name] = messagesOf(s.log)
	}
	if os.Getenv(corpusEnv) != "" {
		for _, s := range samples(t) {
			all["corpus/"+s.name] = messagesOf(s.log)
		}
	}
	type key struct {
		name          string
		caller, names bool
		time          bool
	}
	want := map[key][]string{}
	for _, how := range slices.Sorted(maps.Keys(dresses)) {
		d := dresses[how]
		var sc score
		for _, name := range slices.Sorted(maps.Keys(all)) {
			k := key{name, d.caller, d.names, d.time}
			if _, ok := want[k]; !ok {
				plain := dresses["printk"]
				plain.caller, plain.names, plain.time = d.caller, d.names, d.time
				log, at := plain.dressed(all[name])
				want[k] = summary(oops.Parse(log), at, d)
			}
			log, at := d.dressed(all[name])
			got := summary(oops.Parse(log), at, d)
			ok := slices.Equal(got, want[k])
			sc.add(ok)
			if !ok && testing.Verbose() {
				t.Logf("%s, %s:\n got %s\nwant %s", how, name, strings.Join(got, "\n     "), strings.Join(want[k], "\n     "))
			}
		}
		fmt.Printf("dressed score: %-26s %v\n", how, sc)
		if sc.ok*100 < sc.all*dressedMin {
			t.Errorf("%s: %v logs read as before, want at least %d %%", how, sc, dressedMin)
		}
	}
	assert.Assert(t, len(want) > 0)
}
