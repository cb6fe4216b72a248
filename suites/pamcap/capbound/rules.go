// SPDX-License-Identifier: Apache-2.0

package capbound

import "strings"

// Dialect is a module's language of rules.
type Dialect string

const (
	// Libcap is pam_cap.so's since libcap 2.29 (2020): a line is an IAB tuple of
	// inheritable (% or nothing), ambient (^) and dropped (!) capabilities, and
	// the first matching line counts (capability.conf(5), cap_iab(3)).
	Libcap Dialect = "libcap"
	// Bound is this package's, as pam_capbound.c has it: a line has one prefix, i:
	// or b:, and all matching lines count together.
	Bound Dialect = "capbound"
)

// Rule is one line of a configuration whatever its dialect: who may inherit what,
// and what is taken from his bounding set.
type Rule struct {
	Inherit string // names with commas, or none, or all
	Ambient string
	Drop    string
	Who     string // users, @groups, *, separated by spaces
	// Text is a line that is not made of these, as it is in both dialects.
	Text string
}

// Lines is the rule in a dialect; ok says that the dialect can say it.
func (r Rule) Lines(d Dialect) (lines []string, ok bool) {
	switch {
	case r.Text != "":
		return []string{r.Text}, true
	case d == Libcap:
		var tuple []string
		for _, part := range []struct{ prefix, names string }{{"", r.Inherit}, {"^", r.Ambient}, {"!", r.Drop}} {
			if part.names != "" {
				tuple = append(tuple, part.prefix+strings.ReplaceAll(part.names, ",", ","+part.prefix))
			}
		}
		return []string{strings.Join(tuple, ",") + " " + r.Who}, true
	case r.Ambient != "":
		return nil, false
	}
	if r.Inherit != "" {
		lines = append(lines, "i:"+r.Inherit+" "+r.Who)
	}
	if r.Drop != "" {
		lines = append(lines, "b:"+r.Drop+" "+r.Who)
	}
	return lines, true
}

// Expect is what a module does for a user.
type Expect struct {
	Auth, Cred int    // PAM return codes
	I, A       uint64 // sets after it
	Dropped    uint64 // missing from the bounding set
}

// Difference is what a dialect does that the case does not expect of both.
type Difference struct {
	Expect
	// Why is the reason, with its source.
	Why string
	// Unsaid: the dialect has no words for the rules.
	Unsaid bool
}

// RuleCase is a configuration, a user, and what both dialects do for him.
type RuleCase struct {
	Name  string
	Rules []Rule
	User  string
	Start uint64 // inheritable before
	Expect
	Differ map[Dialect]Difference
}

// Want is what a dialect does; ok says that it can say the rules.
func (c RuleCase) Want(d Dialect) (e Expect, ok bool) {
	diff, differs := c.Differ[d]
	if !differs {
		return c.Expect, true
	}
	return diff.Expect, !diff.Unsaid
}

// Config is the configuration in a dialect, which must have words for it.
func (c RuleCase) Config(d Dialect) string {
	var lines []string
	for _, r := range c.Rules {
		l, _ := r.Lines(d)
		lines = append(lines, l...)
	}
	return strings.Join(lines, "\n") + "\n"
}

// Of <security/_pam_types.h>.
const (
	pamAuthErr      = 7
	pamNoModuleData = 18
	pamIgnore       = 25
)

// Of include/uapi/linux/capability.h, as bits.
const (
	capChown       = 1 << 0
	capKill        = 1 << 5
	capSetgid      = 1 << 6
	capSetuid      = 1 << 7
	capBindService = 1 << 10
	capNetRaw      = 1 << 13
	capSysModule   = 1 << 16
	capSysChroot   = 1 << 18
	capSysPacct    = 1 << 20
)

// What the dialects' differences come from.
const (
	whyUnion   = "all matching lines count together; pam_cap(8) stops at the first"
	whyReplace = "pam_cap.so replaces all of the inheritable set whatever the line is about (cap_iab_set_proc(3)); without an i: line this module leaves it"
	whyBoth    = "a file's inheritable capability would bring back what is dropped (capabilities(7)): this module takes it from the inheritable set as well"
	whyAmbient = "ambient capabilities came in Linux 4.3, after this module's language"
	whyError   = "what cannot be read is an error here; pam_cap.so ignores all of the user's rules, limits included, and says so only in the log"
	whyNull    = "authentication of a user with an unreadable rule fails, which leaves no data for pam_setcred"
)

var (
	ignored = Expect{Auth: pamIgnore, Cred: pamIgnore}
	refused = Expect{Auth: pamAuthErr, Cred: pamNoModuleData}
)

// unreadWith is what pam_cap.so does with a line that it cannot read: it matches, and
// is not looked at before pam_setcred.
func unreadWith(i uint64) Expect { return Expect{Cred: pamIgnore, I: i} }

// ignoredWith is ignored with an inheritable set that stays.
func ignoredWith(i uint64) Expect { return Expect{Auth: pamIgnore, Cred: pamIgnore, I: i} }

func refusedWith(i uint64) Expect { return Expect{Auth: pamAuthErr, Cred: pamNoModuleData, I: i} }

// Rules are the cases that run in both dialects. Their users are those of [Passwd]
// and [Group].
var Rules = append([]RuleCase{
	{Name: "capabilities of a user", Rules: []Rule{{Inherit: "cap_net_raw,cap_kill", Who: "kaigai"}}, User: "kaigai", Expect: Expect{I: capNetRaw | capKill}},
	{Name: "other inheritable ones are cleared", Rules: []Rule{{Inherit: "cap_net_raw", Who: "kaigai"}}, User: "kaigai", Start: capSysChroot | capKill, Expect: Expect{I: capNetRaw}},
	{Name: "no prefix", Rules: []Rule{{Text: "cap_net_raw kaigai"}}, User: "kaigai", Expect: Expect{I: capNetRaw}},
	{Name: "another user", Rules: []Rule{{Inherit: "cap_net_raw", Who: "kaigai"}}, User: "tak", Start: capKill, Expect: ignoredWith(capKill)},
	{Name: "bounding set, first of two users", Rules: []Rule{{Drop: "cap_sys_chroot", Who: "ymj tak"}}, User: "ymj", Expect: Expect{Dropped: capSysChroot}},
	{Name: "bounding set, second of two users", Rules: []Rule{{Drop: "cap_sys_chroot", Who: "ymj tak"}}, User: "tak", Expect: Expect{Dropped: capSysChroot}},
	{Name: "bounding set, another user", Rules: []Rule{{Drop: "cap_sys_chroot", Who: "ymj tak"}}, User: "kaigai", Expect: ignored},
	{Name: "several dropped", Rules: []Rule{{Drop: "cap_sys_module,cap_sys_chroot", Who: "tak"}}, User: "tak", Expect: Expect{Dropped: capSysModule | capSysChroot}},
	{
		Name: "dropped, with other inheritable ones", Rules: []Rule{{Drop: "cap_sys_chroot", Who: "tak"}}, User: "tak", Start: capKill,
		Expect: Expect{Dropped: capSysChroot},
		Differ: map[Dialect]Difference{Bound: {Expect: Expect{I: capKill, Dropped: capSysChroot}, Why: whyReplace}},
	},
	{
		Name: "dropped, and inheritable before", Rules: []Rule{{Drop: "cap_kill", Who: "tak"}}, User: "tak", Start: capKill | capNetRaw,
		Expect: Expect{Dropped: capKill},
		Differ: map[Dialect]Difference{Bound: {Expect: Expect{I: capNetRaw, Dropped: capKill}, Why: whyReplace}},
	},
	{
		Name: "dropped and inheritable", Rules: []Rule{{Inherit: "cap_net_raw,cap_kill", Drop: "cap_net_raw", Who: "kaigai"}}, User: "kaigai",
		Expect: Expect{I: capNetRaw | capKill, Dropped: capNetRaw},
		Differ: map[Dialect]Difference{Bound: {Expect: Expect{I: capKill, Dropped: capNetRaw}, Why: whyBoth}},
	},
	{Name: "inheritable and others dropped", Rules: []Rule{{Inherit: "cap_net_raw", Drop: "cap_sys_chroot", Who: "kaigai"}}, User: "kaigai", Expect: Expect{I: capNetRaw, Dropped: capSysChroot}},
	{
		Name: "ambient", Rules: []Rule{{Ambient: "cap_net_raw", Who: "kaigai"}}, User: "kaigai", Expect: Expect{I: capNetRaw, A: capNetRaw},
		Differ: map[Dialect]Difference{Bound: {Unsaid: true, Why: whyAmbient}},
	},
	{
		Name: "a mix", Rules: []Rule{{Inherit: "cap_net_raw", Ambient: "cap_kill", Drop: "cap_sys_chroot", Who: "kaigai"}}, User: "kaigai",
		Expect: Expect{I: capKill | capNetRaw, A: capKill, Dropped: capSysChroot},
		Differ: map[Dialect]Difference{Bound: {Unsaid: true, Why: whyAmbient}},
	},
	{Name: "group by membership", Rules: []Rule{{Inherit: "cap_net_bind_service", Who: "@webadm"}}, User: "tak", Expect: Expect{I: capBindService}},
	{Name: "group by primary group", Rules: []Rule{{Inherit: "cap_net_bind_service", Who: "@users"}}, User: "tak", Expect: Expect{I: capBindService}},
	{Name: "group of others", Rules: []Rule{{Inherit: "cap_net_bind_service", Who: "@webadm"}}, User: "kaigai", Expect: ignored},
	{Name: "unknown group", Rules: []Rule{{Inherit: "cap_kill", Who: "@nosuch"}, {Inherit: "cap_net_raw", Who: "kaigai"}}, User: "kaigai", Expect: Expect{I: capNetRaw}},
	{Name: "group among users", Rules: []Rule{{Inherit: "cap_net_raw", Who: "ymj @webadm"}}, User: "tak", Expect: Expect{I: capNetRaw}},
	{Name: "user behind a group", Rules: []Rule{{Drop: "cap_net_raw", Who: "@webadm kaigai"}}, User: "kaigai", Expect: Expect{Dropped: capNetRaw}},
	{
		Name: "rules on several lines", User: "tak", Start: capKill,
		Rules: []Rule{
			{Inherit: "cap_sys_pacct", Who: "tak"}, {Inherit: "cap_net_bind_service", Who: "@webadm"},
			{Drop: "cap_sys_chroot", Who: "@users"}, {Drop: "cap_sys_module", Who: "tak"},
		},
		Expect: Expect{I: capSysPacct},
		Differ: map[Dialect]Difference{Bound: {Expect: Expect{I: capSysPacct | capBindService, Dropped: capSysChroot | capSysModule}, Why: whyUnion}},
	},
	{
		Name: "a limit comes first", User: "tak", Rules: []Rule{{Drop: "cap_net_raw", Who: "*"}, {Inherit: "cap_net_raw,cap_kill", Who: "tak"}},
		Expect: Expect{Dropped: capNetRaw},
		Differ: map[Dialect]Difference{Bound: {Expect: Expect{I: capKill, Dropped: capNetRaw}, Why: whyUnion}},
	},
	{Name: "wildcard", Rules: []Rule{{Inherit: "cap_kill", Who: "ymj"}, {Inherit: "cap_net_raw", Who: "*"}}, User: "tak", Expect: Expect{I: capNetRaw}},
	{
		Name: "wildcard comes first", Rules: []Rule{{Inherit: "cap_net_raw", Who: "*"}, {Inherit: "cap_kill", Who: "tak"}}, User: "tak", Expect: Expect{I: capNetRaw},
		Differ: map[Dialect]Difference{Bound: {Expect: Expect{I: capNetRaw | capKill}, Why: whyUnion}},
	},
	{Name: "none clears", Rules: []Rule{{Inherit: "none", Who: "*"}}, User: "tak", Start: capKill},
	{
		Name: "none beside a rule", Rules: []Rule{{Inherit: "cap_kill", Who: "tak"}, {Inherit: "none", Who: "*"}}, User: "tak", Expect: Expect{I: capKill},
	},
	{
		Name: "none first", Rules: []Rule{{Inherit: "none", Who: "*"}, {Inherit: "cap_kill", Who: "tak"}}, User: "tak", Start: capNetRaw,
		Differ: map[Dialect]Difference{Bound: {Expect: Expect{I: capKill}, Why: whyUnion}},
	},
	{
		Name: "all", Rules: []Rule{{Text: "all *"}}, User: "tak", Start: capKill, Expect: Expect{I: capKill},
		Differ: map[Dialect]Difference{Bound: {Expect: Expect{I: AllCaps}, Why: "all is a list of every capability; in pam_cap.so's IAB tuples it means to change nothing (pam_cap(8))"}},
	},
	{
		Name: "drop none", Rules: []Rule{{Text: "b:none *"}}, User: "tak", Start: capKill, Expect: unreadWith(capKill),
		Differ: map[Dialect]Difference{Bound: {Expect: Expect{I: capKill}, Why: "a prefix of this dialect; nothing is dropped"}},
	},
	{
		Name: "drop all", Rules: []Rule{{Text: "b:all tak"}}, User: "tak", Start: capKill, Expect: unreadWith(capKill),
		Differ: map[Dialect]Difference{Bound: {Expect: Expect{Dropped: AllCaps}, Why: "a prefix of this dialect"}},
	},
	{
		Name: "prefix i:", Rules: []Rule{{Text: "i:cap_net_raw kaigai"}}, User: "kaigai", Start: capKill, Expect: unreadWith(capKill),
		Differ: map[Dialect]Difference{Bound: {Expect: Expect{I: capNetRaw}, Why: "a prefix of this dialect"}},
	},
	{
		Name: "percent sign", Rules: []Rule{{Text: "%cap_net_raw kaigai"}}, User: "kaigai", Start: capKill, Expect: Expect{I: capNetRaw},
		Differ: map[Dialect]Difference{Bound: {Expect: refusedWith(capKill), Why: "a prefix of the other dialect"}},
	},
	{
		Name: "exclamation mark and percent sign", Rules: []Rule{{Text: "!%cap_net_raw kaigai"}}, User: "kaigai", Expect: Expect{I: capNetRaw, Dropped: capNetRaw},
		Differ: map[Dialect]Difference{Bound: {Expect: refused, Why: "prefixes of the other dialect"}},
	},
	{
		Name: "unknown prefix", Rules: []Rule{{Text: "x:cap_net_raw tak"}}, User: "tak", Expect: unreadWith(0),
		Differ: map[Dialect]Difference{Bound: {Expect: refused, Why: whyError}},
	},
	{Name: "comments and empty lines", Rules: []Rule{{Text: "# cap_kill tak"}, {Text: " \t"}, {Inherit: "cap_net_raw", Who: "tak"}}, User: "tak", Expect: Expect{I: capNetRaw}},
	{Name: "comment without a space", Rules: []Rule{{Text: "#cap_kill tak"}, {Inherit: "cap_net_raw", Who: "tak"}}, User: "tak", Expect: Expect{I: capNetRaw}},
	{
		Name: "a comment behind a rule", Rules: []Rule{{Text: "cap_net_raw kaigai # and tak"}}, User: "tak", Expect: Expect{I: capNetRaw},
		Differ: map[Dialect]Difference{Bound: {Expect: ignored, Why: "# begins a comment anywhere; pam_cap.so knows it at a line's start alone, and takes the rest for users"}},
	},
	{Name: "tabs", Rules: []Rule{{Text: "\tcap_net_raw\tkaigai\ttak"}}, User: "tak", Expect: Expect{I: capNetRaw}},
	{Name: "capability without users", Rules: []Rule{{Text: "cap_kill"}, {Inherit: "cap_net_raw", Who: "tak"}}, User: "tak", Expect: Expect{I: capNetRaw}},
	{Name: "unknown capability for others", Rules: []Rule{{Text: "cap_nosuch ymj"}, {Inherit: "cap_net_raw", Who: "tak"}}, User: "tak", Expect: Expect{I: capNetRaw}},
	{
		Name: "unknown capability", Rules: []Rule{{Text: "cap_nosuch tak"}, {Inherit: "cap_net_raw", Who: "*"}}, User: "tak", Start: capKill, Expect: unreadWith(capKill),
		Differ: map[Dialect]Difference{Bound: {Expect: refusedWith(capKill), Why: whyError + "; " + whyNull}},
	},
	{
		Name: "unknown capability behind a good rule", Rules: []Rule{{Inherit: "cap_net_raw", Who: "*"}, {Text: "cap_kill,cap_nosuch tak"}}, User: "tak", Start: capKill, Expect: Expect{I: capNetRaw},
		Differ: map[Dialect]Difference{Bound: {Expect: refusedWith(capKill), Why: whyUnion + "; " + whyError}},
	},
	{
		Name: "empty list", Rules: []Rule{{Text: "i: tak"}}, User: "tak", Start: capKill, Expect: unreadWith(capKill),
		Differ: map[Dialect]Difference{Bound: {Expect: refusedWith(capKill), Why: whyError}},
	},
	{Name: "a user's name is not a prefix", Rules: []Rule{{Inherit: "cap_kill", Who: "ta taka"}, {Inherit: "cap_net_raw", Who: "tak"}}, User: "tak", Expect: Expect{I: capNetRaw}},
	{Name: "a group's name is no user", Rules: []Rule{{Inherit: "cap_net_raw", Who: "webadm"}}, User: "tak", Expect: ignored},
	{Name: "a user's name is no group", Rules: []Rule{{Inherit: "cap_net_raw", Who: "@tak"}}, User: "tak", Expect: ignored},
	{Name: "a user and a group of the same name", Rules: []Rule{{Inherit: "cap_net_raw", Who: "one"}}, User: "alpha", Expect: ignored},
	{Name: "an unterminated last line", Rules: []Rule{{Text: "cap_kill ymj\ncap_net_raw tak"}}, User: "tak", Expect: Expect{I: capNetRaw}},
	{Name: "no line", User: "tak", Start: capKill, Expect: ignoredWith(capKill)},
}, vectors()...)

// AllCaps stands for every capability of the kernel that runs.
const AllCaps = ^uint64(0)

// vectors are those of libcap's own sudotest (pam_cap/Makefile, test_pam_cap.c).
func vectors() []RuleCase {
	rules := []Rule{
		{Text: "all root"},
		{Drop: "cap_chown", Who: "beta"},
		{Inherit: "cap_setuid,cap_chown", Who: "@three"},
		{Inherit: "cap_chown", Who: "beta gamma"},
		{Inherit: "cap_setuid", Drop: "cap_chown", Who: "@one"},
		{Ambient: "cap_setuid", Who: "alpha"},
		{Inherit: "cap_setuid", Who: "@four"},
	}
	// Without the ambient lines, for which the other dialect has no words.
	said := append(append([]Rule{}, rules[:5]...), rules[6])
	out := []RuleCase{{
		Name: "vector delta", User: "delta", Expect: Expect{I: capChown | capSetgid, A: capChown | capSetgid, Dropped: capSetuid},
		Rules:  append([]Rule{{Ambient: "cap_chown,cap_setgid", Drop: "cap_setuid", Who: "delta"}}, rules...),
		Differ: map[Dialect]Difference{Bound: {Unsaid: true, Why: whyAmbient}},
	}}
	for _, c := range []RuleCase{
		{User: "root", Differ: map[Dialect]Difference{Bound: {Expect: Expect{I: AllCaps}, Why: "all is a list of every capability"}}},
		{User: "alpha", Expect: Expect{I: capSetuid, Dropped: capChown}},
		{User: "beta", Expect: Expect{Dropped: capChown}, Differ: map[Dialect]Difference{
			Bound: {Expect: Expect{I: capSetuid, Dropped: capChown}, Why: whyUnion + "; " + whyBoth},
		}},
		{User: "gamma", Expect: Expect{I: capSetuid | capChown}},
		{User: "delta", Expect: Expect{I: capSetuid}},
	} {
		c.Name, c.Rules = "vector "+c.User+" without ambient", said
		out = append(out, c)
	}
	return out
}

// Passwd and Group are the users and groups of the cases, as passwd(5) and group(5)
// have them. The members are those of libcap's own test_pam_cap.c.
const (
	Passwd = `root:x:0:0:root:/root:/bin/sh
alpha:x:1:1::/:/bin/sh
beta:x:2:2::/:/bin/sh
gamma:x:3:3::/:/bin/sh
delta:x:4:4::/:/bin/sh
kaigai:x:1000:1000::/:/bin/sh
tak:x:1001:1001::/:/bin/sh
ymj:x:1002:1002::/:/bin/sh
one:x:1003:1002::/:/bin/sh
`
	Group = `root:x:0:
one:x:1:
two:x:2:alpha
three:x:3:beta
four:x:4:beta,gamma
five:x:5:gamma,delta
six:x:6:gamma,delta
seven:x:7:delta
kaigai:x:1000:
users:x:1001:
webadm:x:1010:tak
others:x:1002:
`
)
