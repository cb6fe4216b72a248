// SPDX-License-Identifier: Apache-2.0

package kbuild_test

import (
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/kbuild"
)

// TestCode tells kernels apart by their code: a comment changes the artifact but
// not the kernel.
func TestCode(t *testing.T) {
	src := fakeTree(t)
	// The version that every build has of its own is in the kernel.
	write(t, filepath.Join(src, "Makefile"), fakeMakefile+"\n$(O)/version.o: FORCE\n\t@echo 'const char version[] = \"Linux '$$KBUILD_BUILD_VERSION'\";' | gcc -c -x c -o $@ -\nFORCE:\n")
	write(t, filepath.Join(src, "version.c"), "")
	c := config(t, src)
	code := func() (*kbuild.Artifact, string) {
		a, err := kbuild.Build(t.Context(), c)
		assert.NilError(t, err)
		id, err := a.Code()
		assert.NilError(t, err)
		return a, id
	}
	first, one := code()
	write(t, filepath.Join(src, "a.c"), "int a(void)\n{\n\treturn 1; /* the same */\n}\n")
	second, same := code()
	assert.Assert(t, first.Dir != second.Dir)
	assert.Assert(t, first.Manifest.BuildID != second.Manifest.BuildID)
	assert.Equal(t, one, same)
	write(t, filepath.Join(src, "a.c"), "int a(void)\n{\n\treturn 3;\n}\n")
	_, other := code()
	assert.Assert(t, one != other)
}
