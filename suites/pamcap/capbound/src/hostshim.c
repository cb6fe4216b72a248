// SPDX-License-Identifier: Apache-2.0
//
// hostshim.c is linked to pamdrive where the module is tested on the host: users and
// groups from files of the test's, log lines on standard error, and calls that fail.
//
//	CAPBOUND_PASSWD, CAPBOUND_GROUP  passwd(5) and group(5) files
//	CAPBOUND_FAULT=N                 the N-th call that can fail does so
//	CAPBOUND_ERRNO=NUMBER            with this errno; ENOMEM by default
//
// Built with MALLOC, every allocation of the process can fail while it is in a
// function of PAM's. Built into the module, with WRAP and the linker's --wrap, the
// module's own calls can: those then come from fault() of the program.

#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>

int fault(const char *name);

#ifdef WRAP

#include <sys/capability.h>

#include <security/pam_modules.h>

// FAILING defines a wrapper for a function that reports an error as value.
#define FAILING(type, name, value, params, args)                              \
	type __real_##name params;                                            \
	type __wrap_##name params;                                            \
	type __wrap_##name params { return fault(#name) ? value : __real_##name args; }

FAILING(void *, malloc, NULL, (size_t n), (n))
FAILING(void *, realloc, NULL, (void *p, size_t n), (p, n))
FAILING(ssize_t, getline, -1, (char **l, size_t *n, FILE *f), (l, n, f))
FAILING(FILE *, fdopen, NULL, (int fd, const char *mode), (fd, mode))
FAILING(int, fstat, -1, (int fd, struct stat *st), (fd, st))
FAILING(cap_t, cap_get_proc, NULL, (void), ())
FAILING(cap_t, cap_dup, NULL, (cap_t c), (c))
FAILING(int, cap_set_proc, -1, (cap_t c), (c))
FAILING(int, cap_get_flag, -1, (cap_t c, cap_value_t v, cap_flag_t f, cap_flag_value_t *o), (c, v, f, o))
FAILING(int, cap_clear_flag, -1, (cap_t c, cap_flag_t f), (c, f))
FAILING(int, cap_set_flag, -1, (cap_t c, cap_flag_t f, int n, const cap_value_t *v, cap_flag_value_t o), (c, f, n, v, o))
FAILING(int, cap_drop_bound, -1, (cap_value_t c), (c))
FAILING(int, pam_set_data, PAM_BUF_ERR, (pam_handle_t * h, const char *n, void *d, void (*f)(pam_handle_t *, void *, int)), (h, n, d, f))
FAILING(int, getpwnam_r, errno, (const char *n, struct passwd *p, char *b, size_t s, struct passwd **r), (n, p, b, s, r))
FAILING(int, getgrnam_r, errno, (const char *n, struct group *g, char *b, size_t s, struct group **r), (n, g, b, s, r))

int __wrap_asprintf(char **out, const char *format, ...);
int __wrap_asprintf(char **out, const char *format, ...)
{
	va_list args;
	int n;

	if (fault("asprintf")) {
		*out = NULL; // undefined (asprintf(3))
		return -1;
	}
	va_start(args, format);
	n = vasprintf(out, format, args);
	va_end(args);
	return n;
}

#else

void faults_begin(void);
void faults_end(void);

static int active;
static long calls;

void faults_begin(void)
{
	active = 1;
}

void faults_end(void)
{
	active = 0;
}

// fault says whether this call is to fail, and sets errno.
int fault(const char *name)
{
	const char *nth = getenv("CAPBOUND_FAULT"), *err = getenv("CAPBOUND_ERRNO");

	if (!active || nth == NULL || ++calls != atol(nth))
		return 0;
	active = 0;
	fprintf(stderr, "fault: %s\n", name);
	active = 1;
	errno = err != NULL ? atoi(err) : ENOMEM;
	return 1;
}

#ifdef MALLOC
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);

void *malloc(size_t n)
{
	return fault("malloc") ? NULL : __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
	return fault("calloc") ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
	return fault("realloc") ? NULL : __libc_realloc(p, n);
}
#endif

// Here these are from libc, whose own users are not the tests'.
int getpwnam_r(const char *name, struct passwd *pw, char *buffer, size_t size, struct passwd **result)
{
	FILE *file = fopen(getenv("CAPBOUND_PASSWD"), "re");
	int err;

	*result = NULL;
	if (file == NULL)
		return errno;
	while ((err = fgetpwent_r(file, pw, buffer, size, result)) == 0 && strcmp(pw->pw_name, name) != 0)
		;
	fclose(file);
	if (err != 0)
		*result = NULL;
	return err == ENOENT ? 0 : err;
}

int getgrnam_r(const char *name, struct group *group, char *buffer, size_t size, struct group **result)
{
	FILE *file = fopen(getenv("CAPBOUND_GROUP"), "re");
	int err;

	*result = NULL;
	if (file == NULL)
		return errno;
	while ((err = fgetgrent_r(file, group, buffer, size, result)) == 0 && strcmp(group->gr_name, name) != 0)
		;
	fclose(file);
	if (err != 0)
		*result = NULL;
	return err == ENOENT ? 0 : err;
}

static void log_line(int priority, const char *format, va_list args)
{
	int was = active, err = errno;
	char line[8192];

	active = 0;
	errno = err;
	vsnprintf(line, sizeof(line), format, args);
	fprintf(stderr, "log %d%s: %s\n", LOG_PRI(priority), (priority & LOG_FACMASK) == LOG_AUTHPRIV ? "" : " not authpriv", line);
	active = was;
	errno = err;
}

void syslog(int priority, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	log_line(priority, format, args);
	va_end(args);
}

void __syslog_chk(int priority, int flag, const char *format, ...);
void __syslog_chk(int priority, int flag, const char *format, ...)
{
	va_list args;

	(void)flag;
	va_start(args, format);
	log_line(priority, format, args);
	va_end(args);
}

#endif
