// SPDX-License-Identifier: Apache-2.0

package oops_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kvmrun/kvmrun/internal/oops"
)

// A mutation changes a log in a way of which the right title follows by rule from
// the title before: what the kernel prints on another day, on another machine, or
// for the same bug in another function.
type mutation struct {
	name string
	// apply returns the changed log and title, or nil where the change does not fit
	// the log.
	apply func(m *mutator) ([]string, string)
}

// mutator is a log on its way through a mutation.
type mutator struct {
	rnd    *rand.Rand
	lines  []string
	report *oops.Report // what was found before
	others [][]string   // other logs
}

var (
	frameLine   = regexp.MustCompile(`^(.*?)((?:\[<[0-9a-f]+>\] )?)([A-Za-z_][\w.]*)\+0x([0-9a-f]+)/0x([0-9a-f]+)((?: \[[^\]]*\])?)$`)
	traceStart  = regexp.MustCompile(`(?:Call [Tt]race|Backtrace): ?$`)
	taskMarker  = regexp.MustCompile(`<(?:TASK|IRQ|NMI)>`)
	commWord    = regexp.MustCompile(`Comm: (\S+) (Not tainted|Tainted)`)
	byTaskWord  = regexp.MustCompile(`by task (\S+)/(\d+)`)
	infoTask    = regexp.MustCompile(`INFO: task ([^\s:]+):(\d+) `)
	callerField = regexp.MustCompile(`^(?:<\d+>)?\[ *\d+\.\d+\]\[ *[TC]\d+\]`)
	timeField   = regexp.MustCompile(`^(?:<\d+>)?\[ *\d+\.\d+\] `)
)

// titled returns the title with another function in the place of the blamed one.
func (m *mutator) titled(fn string) string {
	return strings.Replace(m.report.Title, m.report.Frame, fn, 1)
}

// renamed gives the blamed function another name everywhere.
func (m *mutator) renamed(to string) []string {
	re := regexp.MustCompile(`\b` + regexp.QuoteMeta(m.report.Frame) + `((?:\.[a-z]\w*(?:\.\d+)*)*\+0x)`)
	if m.report.Frame == "" || m.report.Frame == "corrupted" || !strings.HasSuffix(m.report.Title, " "+m.report.Frame) {
		return nil
	}
	out := slices.Clone(m.lines)
	changed := false
	for i, l := range out {
		out[i] = re.ReplaceAllString(l, strings.ReplaceAll(to, "$", "$$")+"$1")
		changed = changed || out[i] != l
	}
	if !changed {
		return nil
	}
	return out
}

// suffixed appends what a compiler appends to the name of a clone.
func (m *mutator) suffixed(suffix string) []string {
	re := regexp.MustCompile(`\b` + regexp.QuoteMeta(m.report.Frame) + `\+0x`)
	if m.report.Frame == "" || m.report.Frame == "corrupted" || strings.HasPrefix(m.report.Title, "KCSAN") {
		return nil
	}
	out := slices.Clone(m.lines)
	changed := false
	for i, l := range out {
		out[i] = re.ReplaceAllString(l, m.report.Frame+suffix+"+0x")
		changed = changed || out[i] != l
	}
	if !changed {
		return nil
	}
	return out
}

// stackAt returns the index of the first frame of the first stack with a heading.
func (m *mutator) stackAt() int {
	for i, l := range m.lines {
		if !traceStart.MatchString(strings.TrimRight(l, " \r")) {
			continue
		}
		for i++; i < len(m.lines) && taskMarker.MatchString(m.lines[i]); i++ {
			continue
		}
		if i < len(m.lines) && frameLine.MatchString(m.lines[i]) {
			return i
		}
		return -1
	}
	return -1
}

// inserted puts frames in front of the first stack, in the form of its first one.
func (m *mutator) inserted(frames ...string) []string {
	at := m.stackAt()
	if at < 0 || m.report.Kind == oops.Hang || strings.Contains(m.lines[at], "? ") {
		return nil
	}
	f := frameLine.FindStringSubmatch(m.lines[at])
	var add []string
	for _, name := range frames {
		guess := ""
		if rest, ok := strings.CutPrefix(name, "? "); ok {
			guess, name = "? ", rest
		}
		add = append(add, fmt.Sprintf("%s%s%s%s+0x%x/0x%x", f[1], f[2], guess, name, 1+m.rnd.IntN(200), 300+m.rnd.IntN(2000)))
	}
	return slices.Insert(slices.Clone(m.lines), at, add...)
}

// each applies fn to the lines that are frames.
func (m *mutator) each(fn func(f []string) string) []string {
	out := slices.Clone(m.lines)
	changed := false
	for i, l := range out {
		if f := frameLine.FindStringSubmatch(l); f != nil && !strings.Contains(f[1], ":") {
			out[i] = fn(f)
			changed = changed || out[i] != l
		}
	}
	if !changed {
		return nil
	}
	return out
}

// replaced applies an expression to all lines.
func (m *mutator) replaced(re *regexp.Regexp, to string) []string {
	out := slices.Clone(m.lines)
	changed := false
	for i, l := range out {
		out[i] = re.ReplaceAllString(l, to)
		changed = changed || out[i] != l
	}
	if !changed {
		return nil
	}
	return out
}

// Names of no helper, from all over the kernel.
var plainNames = []string{
	"au0828_usb_disconnect", "ext4_xattr_set_entry", "tipc_nametbl_unsubscribe", "snd_pcm_oss_write3", "btrfs_search_slot",
	"__io_submit_flush_poll", "f2fs_sync_node_pages", "l2cap_chan_close", "mkiss_ioctl", "nft_chain_parse_hook", "u32_change",
	"__dev_close_many", "bpf_prog_ksym_find", "khugepaged_scan_mm_slot", "drm_gem_vmap", "xfs_buf_find_insert", "ntfs_iget5", "vhost_net_release",
}

const suffixes = ".isra.0|.part.17|.constprop.0|.cold|.llvm.10836273458745125|.constprop.0.isra.0|.isra.41.part.42|.cold.9|.part.0.isra.0.cold"

var mutations = []mutation{
	{name: "another function", apply: func(m *mutator) ([]string, string) {
		if strings.HasPrefix(m.report.Frame, "smp_call") || strings.Contains(strings.Join(m.lines, ""), "compat_") && m.report.Kind == oops.Hang {
			return nil, "" // names that mean something
		}
		to := plainNames[m.rnd.IntN(len(plainNames))]
		return m.renamed(to), m.titled(to)
	}},
	{name: "a clone of the function", apply: func(m *mutator) ([]string, string) {
		list := strings.Split(suffixes, "|")
		return m.suffixed(list[m.rnd.IntN(len(list))]), m.report.Title
	}},
	{name: "helpers above", apply: func(m *mutator) ([]string, string) {
		list := []string{"_raw_spin_lock_irqsave", "__kmalloc_cache_noprof", "memcpy", "dump_stack_lvl", "refcount_warn_saturate", "__list_add_valid_or_report", "strscpy", "kfree", "_copy_from_user", "__asan_memset", "queue_work_on", "kobject_put"}
		m.rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		return m.inserted(list[:1+m.rnd.IntN(3)]...), m.report.Title
	}},
	{name: "guesses above", apply: func(m *mutator) ([]string, string) {
		list := []string{"? __pfx_foo_bar", "? ext4_fill_super", "? usb_probe_interface", "? tcp_v4_rcv", "? lock_release"}
		return m.inserted(list[:1+m.rnd.IntN(len(list))]...), m.report.Title
	}},
	{name: "modules", apply: func(m *mutator) ([]string, string) {
		list := []string{" [snd_usb_audio]", " [zfs(POE)]", " [nvidia (OE)]", " [ext4 0123456789abcdef0123456789abcdef01234567]"}
		mod := list[m.rnd.IntN(len(list))]
		return m.each(func(f []string) string {
			if f[6] != "" || strings.HasPrefix(f[3], "entry_") {
				return f[0]
			}
			return f[0] + mod
		}), m.report.Title
	}},
	{name: "addresses before frames", apply: func(m *mutator) ([]string, string) {
		return m.each(func(f []string) string {
			if f[2] != "" || strings.HasSuffix(f[1], ".") || strings.Contains(f[1], "[c0") {
				return f[0]
			}
			guess := ""
			if rest, ok := strings.CutSuffix(f[1], "? "); ok {
				f[1], guess = rest, "? "
			}
			return fmt.Sprintf("%s[<ffffffff%08x>] %s%s+0x%s/0x%s%s", f[1], m.rnd.Uint32(), guess, f[3], f[4], f[5], f[6])
		}), m.report.Title
	}},
	{name: "comm", apply: func(m *mutator) ([]string, string) {
		list := []string{"kworker/u8:3", "a b/c", "(sd-pam)", "tokio-runtime-w", "Web Content", "[x]", "systemd-udevd", "0", "x: y", "Comm"}
		return m.replaced(commWord, "Comm: "+list[m.rnd.IntN(len(list))]+" $2"), m.report.Title
	}},
	{name: "task", apply: func(m *mutator) ([]string, string) {
		if strings.Contains(m.report.Title, "at addr") || strings.Contains(m.report.Title, "KASAN") && m.report.Corrupted {
			return nil, ""
		}
		list := []string{"kworker/u8:3", "a b/c", "(sd-pam)", "Web Content", "0", "syz.0.17"}
		return m.replaced(byTaskWord, "by task "+list[m.rnd.IntN(len(list))]+"/1"), m.report.Title
	}},
	{name: "hung task", apply: func(m *mutator) ([]string, string) {
		list := []string{"kworker/u8:3", "a b", "(sd-pam)", "jbd2/sda1-8", "x:y"}
		return m.replaced(infoTask, "INFO: task "+list[m.rnd.IntN(len(list))]+":$2 "), m.report.Title
	}},
	{name: "noise before", apply: func(m *mutator) ([]string, string) {
		var noise []string
		for i := range 40 {
			noise = append(noise, fmt.Sprintf("[    0.%06d] pci 0000:00:%02x.0: BAR 0: assigned [mem 0xfebc0000-0xfebc3fff]", i, i))
		}
		if len(m.lines) > 0 && !timeField.MatchString(m.lines[0]) {
			return nil, "" // times before a log without times are another matter
		}
		return append(noise, m.lines...), m.report.Title
	}},
	{name: "another report after", apply: func(m *mutator) ([]string, string) {
		if m.report.Corrupted {
			return nil, "" // what is missing may be found in the other
		}
		other := m.others[m.rnd.IntN(len(m.others))]
		return append(append(slices.Clone(m.lines), "[ 9999.000001] x", "[ 9999.100001] y"), other...), m.report.Title
	}},
	{name: "messages of other tasks between", apply: func(m *mutator) ([]string, string) {
		if m.report.Context == "" {
			return nil, ""
		}
		var out []string
		for _, l := range m.lines {
			out = append(out, l)
			if callerField.MatchString(l) && m.rnd.IntN(3) == 0 {
				t := l[:strings.Index(l, "]")+1]
				out = append(out, t+"[T77777] usb 1-1: new high-speed USB device number 7 using dummy_hcd")
			}
		}
		return out, m.report.Title
	}},
	{name: "messages between", apply: func(m *mutator) ([]string, string) {
		var out []string
		for _, l := range m.lines {
			out = append(out, l)
			if f := timeField.FindString(l); f != "" && m.rnd.IntN(6) == 0 {
				out = append(out, f+"audit: type=1400 audit(1517.1:7): avc:  denied  { map } for  pid=4 comm=\"syz\" path=\"/x\"")
			}
		}
		if len(out) == len(m.lines) || m.report.Corrupted {
			return nil, ""
		}
		return out, m.report.Title
	}},
	{name: "cut after the blamed frame", apply: func(m *mutator) ([]string, string) {
		at := m.stackAt()
		if at < 0 || m.report.Frame == "" || m.report.Kind == oops.Hang || m.report.Corrupted || strings.Contains(m.report.Title, "stack") || strings.Contains(m.report.Title, "usb_submit_urb") {
			return nil, ""
		}
		for i := at; i < len(m.lines); i++ {
			if strings.Contains(m.lines[i], m.report.Frame) && !strings.Contains(m.lines[i], "? ") {
				cut := m.lines[:min(len(m.lines), i+6)]
				if i+6 > len(m.lines) || oops.ParseFirst([]byte(strings.Join(cut[:at-1], "\n"))) == nil || len(oops.Parse([]byte(strings.Join(cut, "\n")))) > 1 {
					return nil, ""
				}
				return cut, m.report.Title
			}
		}
		return nil, ""
	}},
	{name: "carriage returns", apply: func(m *mutator) ([]string, string) {
		out := slices.Clone(m.lines)
		for i := range out[:len(out)-1] {
			out[i] += "\r"
		}
		return out, m.report.Title
	}},
	{name: "inlined frames", apply: func(m *mutator) ([]string, string) {
		at := m.stackAt()
		if at < 0 {
			return nil, ""
		}
		f := frameLine.FindStringSubmatch(m.lines[at])
		guess, _ := strings.CutSuffix(f[1], "? ")
		return slices.Insert(slices.Clone(m.lines), at, guess+"arch_inlined_op arch/x86/include/asm/op.h:12 [inline]", guess+"instrumented_op include/linux/op.h:99 [inline]"), m.report.Title
	}},
}

// mutationMin is the share of titles, in percent, that each mutation must leave
// right.
const mutationMin = 100

func TestMutations(t *testing.T) {
	logs := map[string][]byte{}
	for name, s := range fixtures(t) {
		logs[name] = s.log
	}
	if os.Getenv(corpusEnv) != "" {
		unread := os.Getenv(unreadEnv)
		for _, s := range samples(t) {
			if r := oops.ParseFirst(s.log); !strings.Contains(unread, string(s.fold())) && r != nil && r.Title == s.title {
				logs["corpus/"+s.name] = s.log
			}
		}
	}
	var others [][]string
	for _, name := range slices.Sorted(maps.Keys(logs)) {
		if !strings.HasPrefix(name, "corpus/") {
			others = append(others, strings.Split(string(logs[name]), "\n"))
		}
	}
	for _, mut := range mutations {
		var s score
		for i, name := range slices.Sorted(maps.Keys(logs)) {
			r := oops.ParseFirst(logs[name])
			if r == nil || bytes.Contains(logs[name], []byte("\r")) {
				continue
			}
			m := &mutator{rand.New(rand.NewPCG(uint64(i), 1)), strings.Split(string(logs[name]), "\n"), r, others}
			lines, want := mut.apply(m)
			if lines == nil {
				continue
			}
			got := oops.ParseFirst([]byte(strings.Join(lines, "\n")))
			ok := got != nil && got.Title == want
			s.add(ok)
			switch {
			case got == nil:
				t.Logf("%s, %s: nothing found, want %q", mut.name, name, want)
			case !ok:
				t.Logf("%s, %s: got %q, want %q", mut.name, name, got.Title, want)
			}
		}
		fmt.Printf("mutation: %-32s %v\n", mut.name, s)
		if s.ok*100 < s.all*mutationMin {
			t.Errorf("%s: %v titles right", mut.name, s)
		}
	}
}
