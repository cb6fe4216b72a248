// SPDX-License-Identifier: Apache-2.0
//
// pam_capbound.so: sets a user's inheritable capabilities at login and takes
// capabilities from his bounding set.
//
// The configuration, /etc/security/capbound.conf or the file of config=PATH,
// has a rule on each line:
//
//	[i:|b:]CAPABILITIES USER|@GROUP|*...
//
// i: or no prefix makes the capabilities inheritable, b: drops them from the
// bounding set. CAPABILITIES is a list with commas of names as capabilities(7)
// has them, in libcap's spelling (cap_kill), or all, or none. What all the lines
// say that match a user, counts together. With an i: line, none included, the
// inheritable set is replaced as a whole; without one it stays. What is dropped
// leaves the inheritable set in any case: a file's inheritable capability would
// bring it back (capabilities(7), P'(permitted)). # begins a comment anywhere.
//
// As an auth module it reads the configuration in pam_authenticate(3), once, and
// applies in pam_setcred(3) what it read then. As a session module it does both
// in pam_open_session(3). Return codes: PAM_SUCCESS where a rule matched and was
// applied as a whole; PAM_IGNORE where no rule matches or the file does not
// exist; PAM_NO_MODULE_DATA for pam_setcred without pam_authenticate;
// PAM_PERM_DENIED where the process may not do what the rules say, and then
// nothing of it was done; PAM_BUF_ERR without memory; the phase's own error
// (PAM_AUTH_ERR, PAM_CRED_ERR, PAM_SESSION_ERR) for anything else.
//
// Capabilities belong to a thread: the module acts on the one that calls it, and
// is not for processes with several (pam_cap(8) says the same of its own).

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include <security/pam_ext.h>
#include <security/pam_modules.h>

#define DEFAULT_CONFIG "/etc/security/capbound.conf"
#define CACHE_NAME "pam_capbound:" // and the configuration's path
#define MAX_LINE 4095		   // bytes without the newline
#define MAX_CONFIG (1 << 20)	   // bytes
#define SPACE " \t\r\n"
#define NAME "abcdefghijklmnopqrstuvwxyz_"

struct options {
	const char *config;
	bool debug;
};

// rules is what all lines together say about a user.
struct rules {
	bool matched;	      // some line names him
	bool set_inheritable; // of which one has i:
	uint64_t inheritable;
	uint64_t drop;
};

// cache is what pam_authenticate leaves for pam_setcred.
struct cache {
	struct rules rules;
	char user[]; // whose rules these are
};

// phase is what tells one entry point from another.
struct phase {
	int error;
};

static const struct phase auth_phase = {PAM_AUTH_ERR};
static const struct phase cred_phase = {PAM_CRED_ERR};
static const struct phase session_phase = {PAM_SESSION_ERR};

static uint64_t bit(cap_value_t cap)
{
	return UINT64_C(1) << cap;
}

// code is the PAM code of an errno.
static int code(const struct phase *phase, int err)
{
	switch (err) {
	case ENOMEM:
		return PAM_BUF_ERR;
	case EPERM:
		return PAM_PERM_DENIED;
	}
	return phase->error;
}

static void parse_options(pam_handle_t *pamh, int argc, const char **argv, struct options *o)
{
	static const char config[] = "config=";

	*o = (struct options){.config = DEFAULT_CONFIG};
	for (int i = 0; i < argc; i++) {
		if (strcmp(argv[i], "debug") == 0)
			o->debug = true;
		else if (strncmp(argv[i], config, sizeof(config) - 1) == 0)
			o->config = argv[i] + sizeof(config) - 1;
		else
			pam_syslog(pamh, LOG_ERR, "option \"%s\" is not known, and is not used", argv[i]);
	}
}

// parse_capabilities reads a list of capabilities without its prefix. It returns
// NULL, or the name that is none.
static const char *parse_capabilities(char *list, uint64_t *out)
{
	const cap_value_t count = cap_max_bits(); // of the kernel that runs
	char *name;

	*out = 0;
	if (strcmp(list, "none") == 0)
		return NULL;
	if (strcmp(list, "all") == 0) {
		for (cap_value_t cap = 0; cap < count; cap++)
			*out |= bit(cap);
		return NULL;
	}
	while ((name = strsep(&list, ",")) != NULL) {
		cap_value_t cap;

		// libcap knows capabilities by number as well, and reads no further than
		// the name.
		if (strncmp(name, "cap_", 4) != 0 || name[strspn(name, NAME)] != '\0' || cap_from_name(name, &cap) != 0 || cap >= count)
			return name;
		*out |= bit(cap);
	}
	return NULL;
}

// in_group returns 1, 0 or, with errno, -1.
static int in_group(pam_handle_t *pamh, const struct options *o, const char *name, const struct passwd *pw)
{
	struct group group, *found = NULL;
	size_t size = 1024;
	char *buffer = NULL;
	int err, in = 0;

	do {
		char *more = realloc(buffer, size);

		if (more == NULL) {
			free(buffer);
			errno = ENOMEM;
			return -1;
		}
		buffer = more;
		err = getgrnam_r(name, &group, buffer, size, &found);
		size *= 2;
	} while (err == ERANGE && size <= MAX_CONFIG);
	// A lookup that failed is not a group that is not there: its rules may be
	// limits. ENOENT is /etc/group itself.
	if (found == NULL && err != 0 && err != ENOENT && err != ESRCH) {
		free(buffer);
		pam_syslog(pamh, LOG_ERR, "look up group \"%s\": %s", name, strerror(err));
		errno = err == ENOMEM ? ENOMEM : EIO;
		return -1;
	}
	if (found == NULL) {
		if (o->debug)
			pam_syslog(pamh, LOG_DEBUG, "group \"%s\" is not known", name);
	} else {
		in = group.gr_gid == pw->pw_gid;
		for (char **member = group.gr_mem; !in && *member != NULL; member++)
			in = strcmp(*member, pw->pw_name) == 0;
	}
	free(buffer);
	return in;
}

// parse_line adds what a line says about the user. It returns an errno, after
// logging what is wrong.
static int parse_line(pam_handle_t *pamh, const struct options *o, int number, char *line, const struct passwd *pw, struct rules *r)
{
	char *rest, *capabilities, *name;
	const char *unknown;
	bool matches = false, bound = false;
	uint64_t set;

	line[strcspn(line, "#")] = '\0';
	capabilities = strtok_r(line, SPACE, &rest);
	if (capabilities == NULL)
		return 0;
	while (!matches && (name = strtok_r(NULL, SPACE, &rest)) != NULL) {
		if (name[0] == '@') {
			int in = in_group(pamh, o, name + 1, pw);

			if (in < 0)
				return errno;
			matches = in;
		} else {
			matches = strcmp(name, "*") == 0 || strcmp(name, pw->pw_name) == 0;
		}
	}
	if (!matches)
		return 0;
	if (strncmp(capabilities, "b:", 2) == 0)
		bound = true;
	if (bound || strncmp(capabilities, "i:", 2) == 0)
		capabilities += 2;
	if (o->debug)
		pam_syslog(pamh, LOG_DEBUG, "%s:%d matches user \"%s\": %s %s", o->config, number, pw->pw_name, bound ? "drop" : "inherit",
			   capabilities);
	unknown = parse_capabilities(capabilities, &set);
	if (unknown != NULL) {
		pam_syslog(pamh, LOG_ERR, "%s:%d: \"%s\" is no capability of this kernel", o->config, number, unknown);
		return EINVAL;
	}
	r->matched = true;
	if (bound) {
		r->drop |= set;
	} else {
		r->set_inheritable = true;
		r->inheritable |= set;
	}
	return 0;
}

// open_config opens the file if nobody but root can have written it. It returns
// NULL with errno, after logging why.
static FILE *open_config(pam_handle_t *pamh, const char *path)
{
	const char *why = NULL;
	struct stat st;
	FILE *file;
	int fd, err;

	if (path[0] != '/') {
		pam_syslog(pamh, LOG_ERR, "config=%s: want an absolute path", path);
		errno = EINVAL;
		return NULL;
	}
	// Not blocking: it may be a FIFO.
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	if (fd < 0) {
		err = errno;
		pam_syslog(pamh, err == ENOENT ? LOG_NOTICE : LOG_ERR, "open %s: %s%s", path, strerror(err),
			   err == ELOOP ? "; a symbolic link is not followed" : "");
		// What is missing is ignored; permissions are not the process's own
		// privilege to set capabilities.
		errno = err == EPERM ? EACCES : err;
		return NULL;
	}
	if (fstat(fd, &st) != 0)
		why = strerror(errno);
	else if (!S_ISREG(st.st_mode))
		why = "not a regular file";
	else if (st.st_uid != 0)
		why = "its owner is not root";
	else if (st.st_mode & (S_IWGRP | S_IWOTH))
		why = "others than its owner may write it";
	else if (st.st_size > MAX_CONFIG)
		why = "larger than 1 MiB";
	if (why != NULL) {
		close(fd);
		pam_syslog(pamh, LOG_ERR, "%s is not used: %s", path, why);
		errno = EINVAL;
		return NULL;
	}
	file = fdopen(fd, "r");
	if (file == NULL) {
		err = errno;
		close(fd);
		pam_syslog(pamh, LOG_ERR, "read %s: %s", path, strerror(err));
		errno = err;
	}
	return file;
}

// read_config returns 0 or an errno, after logging what is wrong. Where it is not
// 0, rules is all zeroes.
static int read_config(pam_handle_t *pamh, const struct options *o, const struct passwd *pw, struct rules *r)
{
	FILE *file = open_config(pamh, o->config);
	char *line = NULL;
	size_t size = 0;
	ssize_t length;
	int err = 0;

	*r = (struct rules){0};
	if (file == NULL)
		return errno;
	for (int number = 1; err == 0; number++) {
		errno = 0;
		length = getline(&line, &size, file);
		if (length < 0) {
			if ((err = errno) != 0)
				pam_syslog(pamh, LOG_ERR, "read %s: %s", o->config, strerror(err));
			else if (ferror(file))
				err = EIO;
			break;
		}
		if (length > 0 && line[length - 1] == '\n')
			line[--length] = '\0';
		// A part of a line is another rule than the line.
		if (length > MAX_LINE || strlen(line) != (size_t)length) {
			pam_syslog(pamh, LOG_ERR, "%s:%d is not used, nor is the rest: %s", o->config, number,
				   length > MAX_LINE ? "longer than 4095 bytes" : "it has a NUL byte");
			err = EINVAL;
		} else {
			err = parse_line(pamh, o, number, line, pw, r);
		}
	}
	free(line);
	fclose(file);
	if (err != 0)
		*r = (struct rules){0};
	r->inheritable &= ~r->drop;
	return err;
}

// load finds out what the configuration says about the application's user.
// *user belongs to pamh. It returns PAM_SUCCESS, also where no rule matches,
// PAM_IGNORE where there is no configuration, or an error.
static int load(pam_handle_t *pamh, const struct phase *phase, const struct options *o, const char **user, struct rules *r)
{
	struct passwd pw, *found = NULL;
	size_t size = 1024;
	char *buffer = NULL;
	int rc, err;

	rc = pam_get_user(pamh, user, NULL);
	if (rc == PAM_CONV_AGAIN)
		return PAM_INCOMPLETE;
	if (rc != PAM_SUCCESS) {
		pam_syslog(pamh, LOG_ERR, "find out the user's name: %s", pam_strerror(pamh, rc));
		return rc == PAM_BUF_ERR ? rc : phase->error;
	}
	do {
		char *more = realloc(buffer, size);

		if (more == NULL) {
			free(buffer);
			pam_syslog(pamh, LOG_CRIT, "out of memory");
			return PAM_BUF_ERR;
		}
		buffer = more;
		err = getpwnam_r(*user, &pw, buffer, size, &found);
		size *= 2;
	} while (err == ERANGE && size <= MAX_CONFIG);
	if (found == NULL) {
		pam_syslog(pamh, LOG_ERR, "user \"%s\": %s", *user, err != 0 ? strerror(err) : "not known");
		free(buffer);
		return err == ENOMEM ? PAM_BUF_ERR : phase->error;
	}
	err = read_config(pamh, o, &pw, r);
	free(buffer);
	if (err == ENOENT)
		return PAM_IGNORE;
	if (err != 0)
		return code(phase, err);
	if (!o->debug)
		return PAM_SUCCESS;
	if (r->set_inheritable)
		pam_syslog(pamh, LOG_DEBUG, "user \"%s\": inheritable %#llx", *user, (unsigned long long)r->inheritable);
	if (r->drop != 0)
		pam_syslog(pamh, LOG_DEBUG, "user \"%s\": dropped %#llx", *user, (unsigned long long)r->drop);
	if (!r->matched)
		pam_syslog(pamh, LOG_DEBUG, "user \"%s\": no rule matches", *user);
	return PAM_SUCCESS;
}

// set_flags replaces one of caps's sets.
static int set_flags(cap_t caps, cap_flag_t flag, uint64_t set)
{
	cap_value_t values[64];
	int count = 0;

	for (cap_value_t cap = 0; cap < cap_max_bits(); cap++)
		if (set & bit(cap))
			values[count++] = cap;
	if (cap_clear_flag(caps, flag) != 0)
		return -1;
	return count == 0 ? 0 : cap_set_flag(caps, flag, count, values, CAP_SET);
}

static int get_flags(cap_t caps, cap_flag_t flag, uint64_t *set)
{
	*set = 0;
	for (cap_value_t cap = 0; cap < cap_max_bits(); cap++) {
		cap_flag_value_t value;

		if (cap_get_flag(caps, cap, flag, &value) != 0)
			return -1;
		if (value == CAP_SET)
			*set |= bit(cap);
	}
	return 0;
}

// edited returns a copy of caps with other effective and inheritable sets.
static cap_t edited(cap_t caps, uint64_t effective, uint64_t inheritable)
{
	cap_t copy = cap_dup(caps);

	if (copy != NULL && (set_flags(copy, CAP_EFFECTIVE, effective) != 0 || set_flags(copy, CAP_INHERITABLE, inheritable) != 0)) {
		cap_free(copy);
		return NULL;
	}
	return copy;
}

static int drop_bound(uint64_t drop)
{
	for (cap_value_t cap = 0; cap < cap_max_bits(); cap++)
		if ((drop & bit(cap)) && cap_drop_bound(cap) != 0)
			return -1;
	return 0;
}

// apply does what the rules say, or nothing. The bounding set has no way back,
// so all that can fail comes before the first drop: memory, the privilege for
// all of the drops, and the inheritable set, which can be put back.
static int apply(pam_handle_t *pamh, const struct phase *phase, const struct rules *r)
{
	uint64_t permitted, effective, inheritable, wanted, drop = 0;
	cap_t before, raised = NULL, during = NULL, after = NULL;
	const char *what = "read the process's capabilities";
	int err = 0;

	before = cap_get_proc();
	if (before == NULL || get_flags(before, CAP_PERMITTED, &permitted) != 0 || get_flags(before, CAP_EFFECTIVE, &effective) != 0 ||
	    get_flags(before, CAP_INHERITABLE, &inheritable) != 0)
		goto failed;
	for (cap_value_t cap = 0; cap < cap_max_bits(); cap++)
		if ((r->drop & bit(cap)) && cap_get_bound(cap) == 1)
			drop |= bit(cap);
	what = "drop from the bounding set without CAP_SETPCAP";
	if (drop != 0 && !(permitted & bit(CAP_SETPCAP))) {
		errno = EPERM;
		goto failed;
	}

	// CAP_SETPCAP is effective for as long as it takes, where it may be. The
	// kernel asks for it as it is before a capset(2), so that raising it and
	// using it are two calls.
	what = "compute the new capabilities";
	wanted = (r->set_inheritable ? r->inheritable : inheritable) & ~r->drop;
	raised = edited(before, effective | (permitted & bit(CAP_SETPCAP)), inheritable);
	during = edited(before, effective | (permitted & bit(CAP_SETPCAP)), wanted);
	after = edited(before, effective, wanted);
	if (raised == NULL || during == NULL || after == NULL)
		goto failed;

	what = "raise CAP_SETPCAP";
	if (cap_set_proc(raised) != 0)
		goto failed;
	what = "set the inheritable capabilities";
	if (cap_set_proc(during) != 0)
		goto restore;
	what = "drop from the bounding set";
	if (drop_bound(drop) != 0)
		goto restore;
	what = "put the effective capabilities back";
	if (cap_set_proc(after) == 0)
		goto out;
restore:
	err = errno;
	if (cap_set_proc(before) != 0)
		pam_syslog(pamh, LOG_CRIT, "put the process's capabilities back: %s", strerror(errno));
	errno = err;
failed:
	err = errno;
	pam_syslog(pamh, LOG_ERR, "%s: %s", what, strerror(err));
out:
	cap_free(after);
	cap_free(during);
	cap_free(raised);
	cap_free(before);
	return err == 0 ? PAM_SUCCESS : code(phase, err);
}

// cache_name returns the name of this configuration's data in the handle: a
// service may list the module twice, with two configurations. The caller frees it.
static char *cache_name(pam_handle_t *pamh, const struct options *o)
{
	char *name;

	if (asprintf(&name, CACHE_NAME "%s", o->config) >= 0)
		return name;
	pam_syslog(pamh, LOG_CRIT, "out of memory");
	return NULL;
}

static void free_cache(pam_handle_t *pamh, void *data, int status)
{
	(void)pamh;
	(void)status;
	free(data);
}

int pam_sm_authenticate(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
	struct options o;
	struct rules rules;
	struct cache *cache = NULL;
	const char *user;
	char *name;
	int rc, stored;

	(void)flags;
	parse_options(pamh, argc, argv, &o);
	name = cache_name(pamh, &o);
	if (name == NULL)
		return PAM_BUF_ERR;
	rc = load(pamh, &auth_phase, &o, &user, &rules);
	if (rc == PAM_SUCCESS || rc == PAM_IGNORE) {
		if (rc == PAM_IGNORE)
			rules = (struct rules){0};
		cache = malloc(sizeof(*cache) + strlen(user) + 1);
		if (cache == NULL) {
			pam_syslog(pamh, LOG_CRIT, "out of memory");
			rc = PAM_BUF_ERR;
		} else {
			cache->rules = rules;
			strcpy(cache->user, user);
		}
	}
	// NULL where it failed: what an earlier call left must not be used.
	stored = pam_set_data(pamh, name, cache, free_cache);
	free(name);
	if (stored != PAM_SUCCESS) {
		free(cache);
		pam_syslog(pamh, LOG_ERR, "keep the rules: %s", pam_strerror(pamh, stored));
		return stored == PAM_BUF_ERR ? stored : PAM_AUTH_ERR;
	}
	if (rc == PAM_SUCCESS && !rules.matched)
		rc = PAM_IGNORE;
	return rc;
}

int pam_sm_setcred(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
	struct options o;
	const struct cache *cache;
	const void *data = NULL;
	const char *user;
	char *name;
	int rc;

	if (!(flags & (PAM_ESTABLISH_CRED | PAM_REINITIALIZE_CRED)))
		return PAM_IGNORE;
	parse_options(pamh, argc, argv, &o);
	name = cache_name(pamh, &o);
	if (name == NULL)
		return PAM_BUF_ERR;
	rc = pam_get_data(pamh, name, &data);
	free(name);
	cache = data;
	if (rc != PAM_SUCCESS || cache == NULL) {
		pam_syslog(pamh, LOG_ERR, "no rules: pam_authenticate was not called before pam_setcred, or failed");
		return PAM_NO_MODULE_DATA;
	}
	rc = pam_get_user(pamh, &user, NULL);
	if (rc != PAM_SUCCESS || strcmp(user, cache->user) != 0) {
		pam_syslog(pamh, LOG_ERR, "the user is no longer \"%s\", whose rules these are", cache->user);
		return PAM_CRED_ERR;
	}
	if (!cache->rules.matched)
		return PAM_IGNORE;
	return apply(pamh, &cred_phase, &cache->rules);
}

int pam_sm_open_session(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
	struct options o;
	struct rules rules;
	const char *user;
	int rc;

	(void)flags;
	parse_options(pamh, argc, argv, &o);
	rc = load(pamh, &session_phase, &o, &user, &rules);
	if (rc != PAM_SUCCESS)
		return rc;
	if (!rules.matched)
		return PAM_IGNORE;
	return apply(pamh, &session_phase, &rules);
}

// Capabilities that are gone do not come back, and those of the process that
// closes the session are its own.
int pam_sm_close_session(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
	(void)pamh;
	(void)flags;
	(void)argc;
	(void)argv;
	return PAM_SUCCESS;
}
