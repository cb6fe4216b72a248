// SPDX-License-Identifier: Apache-2.0

package capbound

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// mutant is the module with a fault, which a case must find.
type mutant struct {
	name     string
	old, new string // in the source, once
	// history is where the fault comes from: Q with a number is one of the first
	// pam_cap with a bounding set (libcap's list, December 2007), a hash is libcap's.
	history string
	// kill is the case that finds it, "" where a sweep of failing calls does,
	// "equivalent" or "survives", with the reason in history.
	kill string
}

var mutants = []mutant{
	{"config= compared as a whole", `strncmp(argv[i], config, sizeof(config) - 1) == 0`, `strcmp(argv[i], config) == 0`, "Q1", "rule capabilities of a user"},
	{"an unknown option is fatal", `option \"%s\" is not known, and is not used", argv[i]);`, `option \"%s\" is not known, and is not used", argv[i]), o->config = "";`, "Q7", "Q7 an unknown option"},
	{"an option's prefix is enough", `strcmp(argv[i], "debug") == 0`, `strncmp(argv[i], "debug", 5) == 0`, "options of pam_cap, libcap 2.29", "Q7 an unknown option"},
	{"no rule is success", "	if (rc == PAM_SUCCESS && !rules.matched)\n		rc = PAM_IGNORE;\n", "", "Q6", "rule another user"},
	{"no rule is success for setcred", "	if (!cache->rules.matched)\n		return PAM_IGNORE;\n", "", "Q6", "rule another user"},
	{"no rule is success for a session", "	if (!rules.matched)\n		return PAM_IGNORE;\n	return apply(pamh, &session_phase", "	return apply(pamh, &session_phase", "Q6", "Q6 no rule, session"},
	{"reinitialize is ignored", `(PAM_ESTABLISH_CRED | PAM_REINITIALIZE_CRED)`, `PAM_ESTABLISH_CRED`, "Q7", "Q7 reinitialize"},
	{"delete applies", `if (!(flags & (PAM_ESTABLISH_CRED | PAM_REINITIALIZE_CRED)))`, `if (0)`, "pam_sm_setcred(3)", "delete"},
	{"flags compared as a whole", `!(flags & (PAM_ESTABLISH_CRED | PAM_REINITIALIZE_CRED))`, `flags != PAM_ESTABLISH_CRED && flags != PAM_REINITIALIZE_CRED`, "PAM_SILENT, pam_sm_setcred(3)", "silent"},
	{"the cache is freed after its use", "	if (!cache->rules.matched)\n", "	if (cache->rules.matched) {\n		rc = apply(pamh, &cred_phase, &cache->rules);\n		free((void *)cache);\n		return rc;\n	}\n	if (!cache->rules.matched)\n", "Q2, Q3", "Q3 setcred twice"},
	{"the privilege is not asked for first", `if (drop != 0 && !(permitted & bit(CAP_SETPCAP)))`, `if (0)`, "Q8", "Q8 without CAP_SETPCAP"},
	{"CAP_SETPCAP is not raised", `	raised = edited(before, effective | (permitted & bit(CAP_SETPCAP)), inheritable);`, `	raised = edited(before, effective, inheritable);`, "capset(2); libcap's cap_iab_set_proc raises it", "CAP_SETPCAP for what is not permitted"},
	{"CAP_SETPCAP stays raised", `	after = edited(before, effective, wanted);`, `	after = edited(before, effective | bit(CAP_SETPCAP), wanted);`, "cap_iab_set_proc(3)", "CAP_SETPCAP permitted, not effective"},
	{"dropped, and still inheritable", `	r->inheritable &= ~r->drop;`, ``, "Q9; apply takes it away as well", "equivalent"},
	{"dropped, and inheritable as before", `(r->set_inheritable ? r->inheritable : inheritable) & ~r->drop`, `(r->set_inheritable ? r->inheritable : inheritable)`, "Q9", "rule dropped, and inheritable before"},
	{"the first line counts alone", `	for (int number = 1; err == 0; number++) {`, `	for (int number = 1; err == 0 && !r->matched; number++) {`, "pam_cap before this feature", "rule rules on several lines"},
	{"the last line counts alone", `		r->inheritable |= set;`, `		r->inheritable = set;`, "compounding", "rule rules on several lines"},
	{"the last drop counts alone", `		r->drop |= set;`, `		r->drop = set;`, "compounding", "rule rules on several lines"},
	{"a drop clears the inheritable set", `	if (bound) {
		r->drop |= set;`, `	if (bound) {
		r->set_inheritable = true;
		r->drop |= set;`, "one managed bit for both, Q10", "rule dropped, with other inheritable ones"},
	{"none is no rule", `		r->set_inheritable = true;
		r->inheritable |= set;`, `		r->set_inheritable |= set != 0;
		r->inheritable |= set;`, "none is a rule of its own", "rule none clears"},
	{"a group without its @", `		if (name[0] == '@') {`, `		if (name[0] == '@' || name[0] == '+') {`, "CVE-2025-1390, 1ad42b6", "a name that begins otherwise"},
	{"a user's name is a group's", `		if (name[0] == '@') {
			int in = in_group(pamh, o, name + 1, pw);`, `		if (strcmp(name, "*") != 0 && strcmp(name, pw->pw_name) != 0) {
			int in = in_group(pamh, o, name[0] == '@' ? name + 1 : name, pw);`, "CVE-2025-1390, 1ad42b6", "rule a group's name is no user"},
	{"a user's name by its beginning", `strcmp(name, pw->pw_name) == 0;
		}`, `strncmp(name, pw->pw_name, strlen(name)) == 0;
		}`, "name comparison", "rule a user's name is not a prefix"},
	{"not by primary group", `		in = group.gr_gid == pw->pw_gid;`, `		in = 0;`, "getgrouplist(3) in libcap", "rule group by primary group"},
	{"not by membership", `			in = strcmp(*member, pw->pw_name) == 0;`, `			in = 0;`, "Q4, Q5", "rule group by membership"},
	{"the last member decides", `		for (char **member = group.gr_mem; !in && *member != NULL; member++)`, `		for (char **member = group.gr_mem; *member != NULL; member++)`, "Q4, Q5", "primary group with other members"},
	{"a group that cannot be looked up is none", `	if (found == NULL && err != 0 && err != ENOENT && err != ESRCH) {`, `	if (0) {`, "limits are lost without memory", ""},
	{"a small buffer for groups", `	} while (err == ERANGE && size <= MAX_CONFIG);
	// A lookup`, `	} while (0);
	// A lookup`, "getgrnam_r(3), ERANGE", "a large group"},
	{"a comment at a line's start alone", `	line[strcspn(line, "#")] = '\0';`, `	if (line[0] == '#')
		return 0;`, "libcap's dialect", "rule a comment behind a rule"},
	{"long lines are cut", `		if (length > MAX_LINE || `, `		if (length > MAX_LINE)
			line[length = MAX_LINE] = '\0';
		if (`, "Q11", "Q11 a long line"},
	{"a NUL byte ends a line", ` || strlen(line) != (size_t)length) {`, `) {`, "Q11", "a NUL byte"},
	{"an error keeps what was read", `	if (err != 0)
		*r = (struct rules){0};
	r->inheritable`, `	if (err == EINVAL)
		err = 0;
	r->inheritable`, "all or nothing", "rule unknown capability behind a good rule"},
	{"an unknown capability for others", `	if (!matches)
		return 0;
	if (strncmp(capabilities, "b:", 2) == 0)`, `	{
		char *copy = strdupa(capabilities);

		if (parse_capabilities(copy, &set) != NULL && !matches)
			return EINVAL;
	}
	if (!matches)
		return 0;
	if (strncmp(capabilities, "b:", 2) == 0)`, "an error only where it matters", "rule unknown capability for others"},
	{"capabilities by number", `strncmp(name, "cap_", 4) != 0 || name[strspn(name, NAME)] != '\0' || `, ``, "cap_from_name(3)", "a number"},
	{"a name read in part", ` || name[strspn(name, NAME)] != '\0'`, ``, "cap_from_name(3)", "a text of libcap's"},
	{"all is what is permitted", `			*out |= bit(cap);
		return NULL;`, `			*out |= bit(cap) & 0xff;
		return NULL;`, "Q12", "Q12 drop all"},
	{"a symbolic link is followed", ` | O_NOFOLLOW`, ``, "Q13", "Q13 a symbolic link"},
	{"a FIFO is waited for", `!S_ISREG(st.st_mode)`, `S_ISDIR(st.st_mode)`, "Q13", "Q13 a FIFO"},
	{"others may write", `(S_IWGRP | S_IWOTH)`, `S_IWGRP`, "Q13, 6baf268", "Q13 others may write"},
	{"the group may write", `(S_IWGRP | S_IWOTH)`, `S_IWOTH`, "Q13, 6baf268", "Q13 the group may write"},
	{"any owner", `st.st_uid != 0`, `0`, "Q13", "Q13 another owner"},
	{"a huge file", `st.st_size > MAX_CONFIG`, `0`, "memory by a file's size", "a huge file"},
	{"a missing file is an error", `	if (err == ENOENT)
		return PAM_IGNORE;`, ``, "the seed's return codes", "no configuration"},
	{"a missing file is success", `	if (err == ENOENT)
		return PAM_IGNORE;`, `	if (err == ENOENT)
		return PAM_SUCCESS;`, "no rule matches then, which is ignored too", "equivalent"},
	{"read again by setcred", `	return apply(pamh, &cred_phase, &cache->rules);`, `	struct rules again;

	rc = load(pamh, &cred_phase, &o, &user, &again);
	return rc != PAM_SUCCESS ? rc : apply(pamh, &cred_phase, &again);`, "the configuration is read once", "changed before setcred"},
	{"another user's rules", `	if (rc != PAM_SUCCESS || strcmp(user, cache->user) != 0) {`, `	if (rc != PAM_SUCCESS) {`, "PAM_USER may change, pam_get_user(3)", "another user before setcred"},
	{"a failure keeps the rules", `	stored = pam_set_data(pamh, name, cache, free_cache);`, `	stored = cache != NULL ? pam_set_data(pamh, name, cache, free_cache) : PAM_SUCCESS;`, "stale data", "a failure forgets the rules"},
	{"the cache leaks", `	free(data);
}`, `	(void)data;
}`, "pam_set_data(3), cleanup", "rule capabilities of a user"},
	{"one error for all phases", `session_phase = {PAM_SESSION_ERR}`, `session_phase = {PAM_AUTH_ERR}`, "the seed's return codes", "a session's unreadable rule"},
	{"refused as the phase's error", `	case EPERM:
		return PAM_PERM_DENIED;
`, ``, "the seed's return codes", "Q8 without CAP_SETPCAP"},
	{"the inheritable set is not put back", `	if (cap_set_proc(before) != 0)
		pam_syslog(pamh, LOG_CRIT, "put`, `	if (0)
		pam_syslog(pamh, LOG_CRIT, "put`, "Q8", ""},
	{"a failed drop is success", `	if (drop_bound(drop) != 0)
		goto restore;`, `	drop_bound(drop);`, "Q8", ""},
	{"the descriptor leaks on failure", `		err = errno;
		close(fd);
		pam_syslog(pamh, LOG_ERR, "read %s`, `		err = errno;
		pam_syslog(pamh, LOG_ERR, "read %s`, "error paths; nothing counts descriptors", "survives"},
	{"a buffer leaks on failure", `	if (found == NULL && err != 0 && err != ENOENT && err != ESRCH) {
		free(buffer);`, `	if (found == NULL && err != 0 && err != ENOENT && err != ESRCH) {`, "error paths", ""},
	{"no memory is not noticed", `		if (more == NULL) {
			free(buffer);
			errno = ENOMEM;
			return -1;
		}
		buffer = more;
		err = getgrnam_r`, `		buffer = more;
		err = getgrnam_r`, "malloc(3)", ""},
}

// TestModuleMutants: each fault is found by the case that is named.
func TestModuleMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the module for each mutant: run the tests without -short, as make test does")
	}
	good := build(t, Module, sanitize...)
	all := kernelCaps(t, good)
	cases := map[string]moduleCase{}
	for _, c := range allCases() {
		assert.Check(t, cases[c.name].name == "", "two cases %q", c.name)
		cases[c.name] = c
	}
	killed, survived := 0, 0
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			assert.Equal(t, strings.Count(Module, m.old), 1, "the mutant's place in the source:\n%s", m.old)
			source := strings.Replace(Module, m.old, m.new, 1)
			flags := append(append([]string{}, sanitize...), "-Wno-error", "-w")
			switch m.kill {
			case "equivalent", "survives":
				survived++
				t.Log(m.kill + ": " + m.history)
				return
			case "":
				b := good.with(t, source, flags...)
				b.wrap(t, flags...)
				if wrong := sweep(t, b, faulty, unix.ENOMEM, false).wrong; wrong == "" {
					t.Error("no failing call finds it")
				} else {
					t.Log(strings.SplitN(wrong, "\n", 2)[0])
				}
			default:
				c, ok := cases[m.kill]
				assert.Assert(t, ok, "no case %q", m.kill)
				b := good.with(t, source, flags...)
				wrong := c.on(all).fails(t, b)
				if wrong == "" {
					t.Errorf("case %q does not find it", m.kill)
				} else {
					t.Log(strings.SplitN(wrong, "\n", 2)[0])
				}
			}
			killed++
		})
	}
	t.Logf("%d mutants: %d killed, %d equivalent or survivors", len(mutants), killed, survived)
}
