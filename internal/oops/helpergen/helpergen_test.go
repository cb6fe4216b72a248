package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// TestFunctions: what the kernel's style offers as definitions, and what only
// looks like one.
func TestFunctions(t *testing.T) {
	const src = `// void comment(void) {
#define MACRO(x) do { \
	something(x); \
} while (0)
static const struct ops table = {
	.open = opener,
};
void declared(void);
/* a
void commented(void)
{
*/
static __always_inline int
two_lines(int a, const char *s)
	__acquires(lock)
{
	if (a)
		called("}");
}
noinline __printf(1, 2) void attributed(const char *fmt, ...)
{
}
struct thing *one_line(void) { return NULL; }
SYSCALL_DEFINE2(foo, int, a, int, b)
{
}
COMPAT_SYSCALL_DEFINE1(bar, int, a)
{
	for (;;) {
	}
}
enum { A, B };
`
	var got []string
	for _, f := range functions([]byte(src)) {
		name := f.name
		if f.static {
			name = "static " + name
		}
		got = append(got, name)
	}
	assert.DeepEqual(t, got, []string{"static two_lines", "attributed", "one_line", "sys_foo", "compat_sys_bar"})
}

// TestGenerate: the file decides, a stub in a header does not, and a static
// function that shares its name with another's is left out.
func TestGenerate(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"Makefile":             "VERSION = 6\nPATCHLEVEL = 99\n",
		"lib/string.c":         "int strfoo(void)\n{\n}\nstatic int common(void)\n{\n}\nstatic int only_here(void)\n{\n}\n",
		"lib/string_kunit.c":   "int a_test(void)\n{\n}\n",
		"include/linux/list.h": "static inline void list_stub(void) {}\nstatic inline void list_add_foo(void)\n{\n}\n",
		"fs/foo.c":             "static int common(void)\n{\n}\nvoid list_stub(void)\n{\n}\n",
	} {
		assert.NilError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755))
		assert.NilError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	got, err := generate(dir)
	assert.NilError(t, err)
	head, names := split(got)
	assert.Assert(t, strings.Contains(head, "# kernels: 6.99\n"), head)
	assert.Equal(t, names, "list_add_foo\nonly_here\nstrfoo\n")
	_, err = generate(filepath.Join(dir, "lib"))
	assert.ErrorContains(t, err, "the kernel's version")
}

// split separates the comment from the names.
func split(table []byte) (head, names string) {
	for line := range bytes.Lines(table) {
		if line[0] == '#' {
			head += string(line)
		} else {
			names += string(line)
		}
	}
	return head, names
}

// TestTableIsCurrent: the table in the tree was made by these rules.
func TestTableIsCurrent(t *testing.T) {
	got, err := os.ReadFile("../helpers.txt")
	assert.NilError(t, err)
	head, names := split(got)
	assert.Assert(t, strings.Contains(head, "# rules: "+rulesHash()+"\n"),
		"helpers.txt was made by other rules: run go generate in internal/oops with KVMRUN_KERNEL_SRC set as the test TestRealTableIsCurrent says")
	assert.Assert(t, strings.Count(names, "\n") > 5000, "only %d names", strings.Count(names, "\n"))
}

// TestRealTableIsCurrent makes the table again from the kernel's source. With
// the kernels that the table names it must be the same; with others, or some of
// them, it must not have a name that the table lacks.
func TestRealTableIsCurrent(t *testing.T) {
	const env = "KVMRUN_KERNEL_SRC"
	dirs := strings.Fields(os.Getenv(env))
	if len(dirs) == 0 {
		t.Skipf("no kernel source (set %s to the directories that the table names, separated by blanks; \"kvmrun kernel fetch -source debian:6.12\" prints one)", env)
	}
	want, err := generate(dirs...)
	assert.NilError(t, err)
	got, err := os.ReadFile("../helpers.txt")
	assert.NilError(t, err)
	wantHead, wantNames := split(want)
	gotHead, gotNames := split(got)
	if wantHead == gotHead {
		assert.Assert(t, wantNames == gotNames, "helpers.txt is not what the source gives: run go generate in internal/oops")
		return
	}
	var missing []string
	for name := range strings.Lines(wantNames) {
		if !strings.Contains("\n"+gotNames, "\n"+name) {
			missing = append(missing, strings.TrimSpace(name))
		}
	}
	assert.Assert(t, len(missing) == 0, "helpers.txt lacks %d names of this kernel, e.g. %q: add its source to those in the table's second line and run go generate in internal/oops",
		len(missing), missing[:min(len(missing), 10)])
}
