// SPDX-License-Identifier: Apache-2.0
//
// pamdrive SERVICE USER DIRECTORY STEP... [-- SERVICE USER DIRECTORY STEP...]...:
// an application of PAM with a single thread, for tests. DIRECTORY has the service's
// file; "" is /etc/pam.d. Of several sessions each has a process of its own. Steps,
// in the order given:
//
//	authenticate=FLAGS, setcred=FLAGS, open_session=FLAGS, close_session=FLAGS
//	end=STATUS           pam_end(3)
//	inheritable=SET      replaces the inheritable set, SET is a number
//	ineffective=SET      clears capabilities in the effective set
//	unpermitted=SET      clears them in the permitted set, too
//	user=NAME            sets PAM_USER
//	become=ID            setresuid(2)
//	rename=FROM:TO       rename(2)
//	symlink=TO:PATH      symlink(2)
//	chmod=MODE:PATH      chmod(2)
//	chown=ID:PATH        chown(2)
//	mkfifo=MODE:PATH     mkfifo(3)
//	exec=PATH            execve(2)
//
// It prints a line after each step: its name, what it returned (a PAM code, or an
// errno), and the thread's state: inheritable, permitted, effective, bounding
// and ambient set and securebits, all but the code in hexadecimal. A line "--" is
// between two sessions. It exits with 2 where it cannot do what it was asked.

#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <security/pam_appl.h>

// Tests that make allocations fail have these called around PAM's.
void __attribute__((weak)) faults_begin(void) {}
void __attribute__((weak)) faults_end(void) {}

static void die(const char *what)
{
	fprintf(stderr, "pamdrive: %s: %s\n", what, strerror(errno));
	exit(2);
}

// No module asks anything; one that did would get an error.
static int converse(int count, const struct pam_message **messages, struct pam_response **responses, void *data)
{
	(void)count;
	(void)messages;
	(void)responses;
	(void)data;
	return PAM_CONV_ERR;
}

// print_state reads /proc, so that libcap is not its own witness.
static void print_state(const char *step, int code)
{
	static const char *const keys[] = {"CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"};
	unsigned long long sets[5] = {0};
	int found = 0;
	char line[256];
	FILE *file = fopen("/proc/thread-self/status", "r");

	if (file == NULL)
		die("open /proc/thread-self/status");
	while (fgets(line, sizeof(line), file) != NULL)
		for (int i = 0; i < 5; i++)
			if (strncmp(line, keys[i], 7) == 0)
				found += sscanf(line + 7, "%llx", &sets[i]);
	fclose(file);
	if (found != 5)
		die("read the capabilities in /proc/thread-self/status");
	printf("%s %d %llx %llx %llx %llx %llx %x\n", step, code, sets[0], sets[1], sets[2], sets[3], sets[4],
	       (unsigned int)prctl(PR_GET_SECUREBITS));
	fflush(stdout);
}

// change changes the capabilities of one set.
static void change(cap_t caps, cap_flag_t flag, unsigned long long set, cap_flag_value_t value)
{
	for (cap_value_t cap = 0; cap < cap_max_bits(); cap++)
		if (set >> cap & 1)
			if (cap_set_flag(caps, flag, 1, &cap, value) != 0)
				die("change a capability");
}

static int set_caps(const char *name, unsigned long long set)
{
	cap_t caps = cap_get_proc();
	int err = 0;

	if (caps == NULL)
		die("read the capabilities");
	if (strcmp(name, "inheritable") == 0) {
		cap_clear_flag(caps, CAP_INHERITABLE);
		change(caps, CAP_INHERITABLE, set, CAP_SET);
	} else {
		change(caps, CAP_EFFECTIVE, set, CAP_CLEAR);
		if (strcmp(name, "unpermitted") == 0)
			change(caps, CAP_PERMITTED, set, CAP_CLEAR);
	}
	if (cap_set_proc(caps) != 0)
		err = errno;
	cap_free(caps);
	return err;
}

static int change_file(const char *name, char *value)
{
	char *path = strchr(value, ':');
	int rc;

	if (path == NULL)
		return EINVAL;
	*path++ = '\0';
	if (strcmp(name, "rename") == 0)
		rc = rename(value, path);
	else if (strcmp(name, "symlink") == 0)
		rc = symlink(value, path);
	else if (strcmp(name, "chmod") == 0)
		rc = chmod(path, (mode_t)strtoul(value, NULL, 8));
	else if (strcmp(name, "chown") == 0)
		rc = chown(path, (uid_t)strtoul(value, NULL, 10), (gid_t)-1);
	else
		rc = mkfifo(path, (mode_t)strtoul(value, NULL, 8));
	return rc == 0 ? 0 : errno;
}

// start is pam_start(3) for a session.
static pam_handle_t *start(int argc, char **argv)
{
	static const struct pam_conv conv = {.conv = converse};
	pam_handle_t *pamh = NULL;
	int rc;

	if (argc < 3) {
		fprintf(stderr, "usage: pamdrive SERVICE USER DIRECTORY STEP... [-- ...]\n");
		exit(2);
	}
	rc = argv[2][0] != '\0' ? pam_start_confdir(argv[0], argv[1], &conv, argv[2], &pamh) : pam_start(argv[0], argv[1], &conv, &pamh);
	if (rc != PAM_SUCCESS) {
		fprintf(stderr, "pamdrive: pam_start of service %s: code %d\n", argv[0], rc);
		exit(2);
	}
	return pamh;
}

// session runs the steps of one session.
static int session(pam_handle_t *pamh, int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*call)(pam_handle_t *, int);
	} calls[] = {
		{"authenticate", pam_authenticate},   {"setcred", pam_setcred}, {"open_session", pam_open_session},
		{"close_session", pam_close_session}, {"end", pam_end},
	};
	int rc = 0, ended = 0;

	for (int i = 3; i < argc; i++) {
		char *name = argv[i], *value = strchr(name, '=');
		int known = 0;

		if (value == NULL) {
			fprintf(stderr, "pamdrive: step %s has no value\n", name);
			return 2;
		}
		*value++ = '\0';
		for (size_t n = 0; n < sizeof(calls) / sizeof(*calls); n++) {
			if (strcmp(name, calls[n].name) != 0)
				continue;
			faults_begin();
			rc = calls[n].call(pamh, (int)strtoul(value, NULL, 0));
			faults_end();
			ended |= calls[n].call == pam_end;
			known = 1;
		}
		if (known) {
		} else if (strcmp(name, "inheritable") == 0 || strcmp(name, "ineffective") == 0 || strcmp(name, "unpermitted") == 0) {
			rc = set_caps(name, strtoull(value, NULL, 0));
		} else if (strcmp(name, "user") == 0) {
			rc = pam_set_item(pamh, PAM_USER, value);
		} else if (strcmp(name, "become") == 0) {
			uid_t id = (uid_t)strtoul(value, NULL, 0);

			rc = setresuid(id, id, id) == 0 ? 0 : errno;
		} else if (strcmp(name, "rename") == 0 || strcmp(name, "symlink") == 0 || strcmp(name, "chmod") == 0 || strcmp(name, "chown") == 0 ||
			   strcmp(name, "mkfifo") == 0) {
			rc = change_file(name, value);
		} else if (strcmp(name, "exec") == 0) {
			execl(value, value, (char *)NULL);
			rc = errno;
		} else {
			fprintf(stderr, "pamdrive: step %s is not known\n", name);
			return 2;
		}
		print_state(name, rc);
	}
	if (!ended)
		pam_end(pamh, PAM_SUCCESS);
	return 0;
}

int main(int argc, char **argv)
{
	for (int first = 1;;) {
		int last = first, status;
		pam_handle_t *pamh;
		pid_t pid;

		while (last < argc && strcmp(argv[last], "--") != 0)
			last++;
		// Here, and never ended here: the modules stay loaded, which is what takes
		// the time where the machine is emulated.
		pamh = start(last - first, argv + first);
		if (last == argc && first == 1)
			return session(pamh, argc - 1, argv + 1);
		pid = fork();
		if (pid < 0)
			die("fork");
		if (pid == 0)
			return session(pamh, last - first, argv + first);
		if (waitpid(pid, &status, 0) != pid)
			die("wait for a session");
		if (status != 0) {
			fprintf(stderr, "pamdrive: session of service %s: wait status %#x\n", argv[first], (unsigned int)status);
			return 2;
		}
		if (last == argc)
			return 0;
		puts("--");
		fflush(stdout);
		first = last + 1;
	}
}
