// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/kvmrun/kvmrun/internal/wire"
)

func TestFetcherWritesOnlyWhereTheHostSaid(t *testing.T) {
	dir := t.TempDir()
	want := []Fetch{{Guest: "/g/cover", Host: filepath.Join(dir, "cover.out")}, {Guest: "/g/d", Host: filepath.Join(dir, "d"), Dir: true}}
	good := newFetcher(want)
	assert.NilError(t, good.add(wire.File{Index: 0, Data: []byte("mode: ")}))
	assert.NilError(t, good.add(wire.File{Index: 1, Name: "a", Data: []byte("A"), EOF: true}))
	assert.ErrorContains(t, good.finish(), "cut short")
	assert.NilError(t, good.add(wire.File{Index: 0, Data: []byte("set\n"), EOF: true}))
	assert.NilError(t, good.finish())
	b, err := os.ReadFile(filepath.Join(dir, "cover.out"))
	assert.NilError(t, err)
	assert.Equal(t, string(b), "mode: set\n")

	for _, bad := range []wire.File{
		{Index: 2, EOF: true}, {Index: -1, EOF: true},
		{Index: 1, Name: "../evil", EOF: true}, {Index: 1, Name: "..", EOF: true},
		{Index: 1, Name: "/etc/passwd", EOF: true}, {Index: 1, Data: []byte("x"), EOF: true},
		{Index: 0, Err: "no such file"},
	} {
		f := newFetcher(want)
		assert.Check(t, f.add(bad) != nil, "%+v was accepted", bad)
		f.abandon()
	}
	// Twice the same file, and one cut short, leave nothing behind.
	f := newFetcher(want[1:])
	assert.NilError(t, f.add(wire.File{Index: 0, Name: "b", EOF: true}))
	assert.Check(t, f.add(wire.File{Index: 0, Name: "b", EOF: true}) != nil)
	assert.NilError(t, f.add(wire.File{Index: 0, Name: "c", Data: []byte("half")}))
	f.abandon()
	left, err := filepath.Glob(filepath.Join(dir, "d", ".kvmrun-*"))
	assert.NilError(t, err)
	assert.Assert(t, is.Len(left, 0))
}
