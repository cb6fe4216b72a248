// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/kfetch"
	"github.com/kvmrun/kvmrun/internal/ktap"
)

// series is the kernel whose own tests are run, on that kernel.
const series = "debian:6.12"

// selftests builds the kernel's landlock tests from Debian's source, once, into
// the user's cache, and returns their directory.
func selftests(t *testing.T) string {
	t.Helper()
	c, err := userCache()
	assert.NilError(t, err)
	ctx := t.Context()
	src, err := kfetch.New(kfetch.Config{Cache: c}).FetchSource(ctx, series)
	if errors.Is(err, kfetch.ErrNoTools) || errors.Is(err, kfetch.ErrNotFound) {
		t.Skipf("no source of %s here: %v: run the tests on Debian 12 or 13", series, err)
	}
	assert.NilError(t, err)
	dir, _, err := c.Get(ctx, "test-selftests", "landlock-"+src.Package+"-"+src.Version, func(ctx context.Context, tmp string) error {
		// As Documentation/dev-tools/kselftest.rst says, but for the place of
		// the headers: the source is not to be written to.
		hdr := t.TempDir()
		if err := tool(ctx, "make", "-s", "-j", fmt.Sprint(runtime.NumCPU()), "-C", src.Dir, "O="+hdr, "headers"); err != nil {
			return err
		}
		for _, name := range []string{"base_test", "net_test"} {
			if err := tool(ctx, "gcc", "-static", "-Wall", "-O2", "-isystem", filepath.Join(hdr, "usr/include"), "-o", filepath.Join(tmp, name),
				filepath.Join(src.Dir, "tools/testing/selftests/landlock", name+".c"), "-lcap", "-lpthread"); err != nil {
				return err
			}
		}
		return nil
	})
	assert.NilError(t, err)
	return dir
}

func tool(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w; .ci/setup test installs what is missing\n%s", name, err, out)
	}
	return nil
}

// seriesKernel is the kernel of the series.
func seriesKernel(t *testing.T) string {
	t.Helper()
	k := kernel(t)
	_, version, _ := strings.Cut(series, ":")
	if strings.HasPrefix(must(t, kernelRelease), version+".") {
		return k
	}
	c, err := userCache()
	assert.NilError(t, err)
	fetched, err := kfetch.New(kfetch.Config{Cache: c}).Fetch(t.Context(), series)
	assert.NilError(t, err)
	return fetched.Path
}

// TestKernelSelftests: the measure of exec are the kernel's own tests of
// landlock, every one counted and named.
func TestKernelSelftests(t *testing.T) {
	t.Parallel()
	k := seriesKernel(t)
	dir := selftests(t)
	for _, c := range []struct {
		name  string
		count int
		some  []string // among the names
	}{
		{"base_test", 9, []string{"global.inconsistent_attr", "global.abi_version", "global.cred_transfer"}},
		// It calls sh and ip, in a network namespace of its own.
		{"net_test", 136, []string{
			"protocol.no_sandbox_with_ipv4_tcp1.bind_unspec", "protocol.no_sandbox_with_ipv6_mptcp.connect_unspec", "ipv4_tcp.with_fs", "mini.network_access_rights", "port_specific.sandbox_with_ipv6.bind_connect_1023",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tap := filepath.Join(t.TempDir(), "out.tap")
			cmd := command(t, "exec", "-kernel", k, "-tap", tap, "-o", t.TempDir(), "--", filepath.Join(dir, c.name))
			got := finish(t, cmd)
			assert.Equal(t, got.code, 0, "%s%s", got.stdout, got.stderr)
			assert.Check(t, is.Contains(got.stderr, fmt.Sprintf("tests: %[1]d run, %[1]d passed, 0 skipped, 0 failed as expected, 0 failed, 0 missing", c.count)))

			p := ktap.NewParser(ktap.Config{})
			b, err := os.ReadFile(tap)
			assert.NilError(t, err)
			_, err = p.Write(b)
			assert.NilError(t, err)
			doc := p.Finish()
			assert.DeepEqual(t, doc.AllProblems(), []string(nil))
			assert.Equal(t, doc.Planned, c.count)
			names := map[string]bool{}
			for _, test := range doc.Tests {
				assert.Check(t, is.Equal(test.Status(), ktap.StatusPass), test.Name)
				assert.Check(t, strings.Contains(test.Name, "."), "name %q", test.Name)
				names[test.Name] = true
			}
			assert.Equal(t, len(names), c.count, "names that differ")
			for _, n := range c.some {
				assert.Check(t, names[n], "no test %s in %s", n, bytes.TrimSpace(b))
			}
		})
	}
}
