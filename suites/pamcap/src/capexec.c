// SPDX-License-Identifier: Apache-2.0
//
// capexec: for each line of standard input a process that takes credentials and
// calls execve(2). A line has ten fields: real and effective user ID, permitted,
// effective, inheritable, bounding and ambient set and securebits in hexadecimal, 1
// for no_new_privs, and the program: a copy of this one. It prints a line for each:
// the errno of execve, or 0 and what the new program finds: user IDs, the five sets,
// securebits, AT_SECURE, the parent-death signal (which was 10) and whether it can be
// dumped. Static, because it is executed thousands of times.

#define _GNU_SOURCE
#include <errno.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

typedef unsigned long long set;

static void die(const char *what)
{
	fprintf(stderr, "capexec: %s: %s\n", what, strerror(errno));
	_exit(2);
}

static set sets[3]; // effective, permitted, inheritable

static int capset3(set e, set p, set i)
{
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2] = {
		{(__u32)e, (__u32)p, (__u32)i},
		{(__u32)(e >> 32), (__u32)(p >> 32), (__u32)(i >> 32)},
	};

	return (int)syscall(SYS_capset, &h, d);
}

static void capget3(void)
{
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2];

	if (syscall(SYS_capget, &h, d) != 0)
		die("capget");
	sets[0] = d[0].effective | (set)d[1].effective << 32;
	sets[1] = d[0].permitted | (set)d[1].permitted << 32;
	sets[2] = d[0].inheritable | (set)d[1].inheritable << 32;
}

static int tell(void)
{
	set bounding = 0, ambient = 0;
	int signal = -1;

	capget3();
	for (int c = 0, known; (known = prctl(PR_CAPBSET_READ, c)) >= 0; c++) {
		if (known)
			bounding |= 1ULL << c;
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, c, 0, 0) == 1)
			ambient |= 1ULL << c;
	}
	prctl(PR_GET_PDEATHSIG, &signal);
	printf("0 %d %d %llx %llx %llx %llx %llx %x %lu %d %d\n", getuid(), geteuid(), sets[1], sets[0], sets[2], bounding, ambient,
	       (unsigned int)prctl(PR_GET_SECUREBITS), getauxval(AT_SECURE), signal, prctl(PR_GET_DUMPABLE));
	return 0;
}

// take takes credentials, in an order in which each step is allowed.
static void take(int uid, int euid, set p, set e, set i, set b, set a, unsigned int securebits, int nnp)
{
	const set setpcap = 1ULL << CAP_SETPCAP;
	set before;

	capget3();
	before = sets[1]; // root's, all that the bounding set has
	if (capset3(sets[0], sets[1], i) != 0)
		die("set the inheritable set");
	for (int c = 0; c < 64; c++)
		if ((before & ~b) >> c & 1 && prctl(PR_CAPBSET_DROP, c) != 0)
			die("drop from the bounding set");
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) != 0)
		die("set securebits");
	if (syscall(SYS_setresuid, uid, euid, euid) != 0)
		die("setresuid");
	for (int c = 0; c < 64; c++)
		if ((a >> c & 1) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, c, 0, 0) != 0)
			die("raise an ambient capability");
	if (capset3(e | setpcap, p | setpcap, i) != 0 || prctl(PR_SET_SECUREBITS, securebits) != 0)
		die("set the final securebits");
	if (nnp && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		die("set no_new_privs");
	if (capset3(e, p, i) != 0 || prctl(PR_SET_PDEATHSIG, 10) != 0)
		die("set the final sets");
}

int main(int argc, char **argv)
{
	char line[512], path[256];
	int uid, euid, nnp, status;
	unsigned int securebits;
	set p, e, i, b, a;

	(void)argc;
	if (argv[0] == NULL || strcmp(argv[0], "tell") == 0)
		return tell();
	// The parent-death signal is for children; the parent is this process.
	while (fgets(line, sizeof(line), stdin) != NULL) {
		pid_t pid;

		if (sscanf(line, "%d %d %llx %llx %llx %llx %llx %x %d %255s", &uid, &euid, &p, &e, &i, &b, &a, &securebits, &nnp, path) != 10)
			die(line);
		fflush(stdout);
		pid = fork();
		if (pid < 0)
			die("fork");
		if (pid == 0) {
			take(uid, euid, p, e, i, b, a, securebits, nnp);
			execl(path, "tell", (char *)NULL);
			printf("%d\n", errno);
			fflush(stdout);
			_exit(0);
		}
		if (waitpid(pid, &status, 0) != pid || status != 0) {
			fprintf(stderr, "capexec: %s: wait status %#x\n", line, (unsigned int)status);
			return 2;
		}
	}
	return 0;
}
