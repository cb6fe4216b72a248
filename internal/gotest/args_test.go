// SPDX-License-Identifier: Apache-2.0

package gotest

import (
	"testing"

	"gotest.tools/v3/assert"
)

func TestRemaining(t *testing.T) {
	tests := []string{"TestA", "TestB", "TestAB", "TestC"}
	for _, c := range []struct {
		args       Args
		done, want []string
	}{
		{nil, nil, tests},
		{nil, []string{"TestA", "TestC"}, []string{"TestB", "TestAB"}},
		{Args{"-test.run=^TestA"}, []string{"TestA"}, []string{"TestAB"}},
		{Args{"-test.run=B$/sub"}, nil, []string{"TestB", "TestAB"}},
		{Args{"-test.skip=B"}, nil, []string{"TestA", "TestC"}},
		{Args{"-test.skip=B/sub"}, nil, tests},
		{Args{"-test.skip=^TestC$|B/sub"}, nil, []string{"TestA", "TestB", "TestAB"}},
		{Args{"-test.skip=B/sub|B"}, nil, tests},
		{Args{"-test.count=0"}, nil, nil},
		{Args{"-test.run=C"}, []string{"TestC"}, nil},
		{Args{"-test.run=C", "-test.run=A$"}, nil, []string{"TestA"}}, // the last one counts
		{Args{"-test.run=C", "-test.run="}, nil, tests},
		{Args{"-test.run=("}, nil, tests}, // package testing refuses it
	} {
		assert.DeepEqual(t, c.args.Remaining(tests, c.done), c.want)
	}
}

func TestResumable(t *testing.T) {
	assert.Assert(t, Args{"-test.v=true", "-test.count=1", "-test.run=X", "-test.failfast=false"}.Resumable())
	for _, a := range []string{"-test.count=2", "-test.bench=.", "-test.failfast=true", "-test.coverprofile=/x", "-test.shuffle=on", "-test.cpu=1,2"} {
		assert.Check(t, !Args{a}.Resumable(), a)
	}
}

func TestSplitTests(t *testing.T) {
	for in, want := range map[string][][]string{
		"TestA": {{"TestA"}}, "TestA/sub": {{"TestA", "sub"}}, "Test[/]A/x": {{"Test[/]A", "x"}}, "(a/b)/c": {{"(a/b)", "c"}},
		`a\/b/c`: {{`a\/b`, "c"}}, "": {{""}}, "a/b|c": {{"a", "b"}, {"c"}}, "(a|b)/c": {{"(a|b)", "c"}}, "a||b": {{"a"}, {""}, {"b"}},
		"[(]/b": {{"[(]", "b"}}, "a]/b": {{"a]", "b"}},
	} {
		assert.DeepEqual(t, split(in), want)
	}
}

func TestOnlyTest(t *testing.T) {
	for _, c := range []struct{ run, test, want string }{
		{"", "TestA", "^TestA$"},
		{"Test", "TestA", "^TestA$"},
		{"TestA/x", "TestA", "^TestA$/x"},
		{"TestA/x|TestB", "TestA", "^TestA$/x"},
		{"TestA/x|TestB", "TestB", "^TestB$"},
		{"TestA/x|A/y/z", "TestA", "^TestA$/x|^TestA$/y/z"},
		{"TestA/x|A", "TestA", "^TestA$"},
		{"(", "TestA", "^TestA$"},
	} {
		assert.Equal(t, Args{"-test.v", "-test.run=" + c.run}.Only(c.test), c.want)
	}
}

func TestArgs(t *testing.T) {
	a := Args{"-test.v=test2json", "--test.run=A/x y", "-test.failfast"}
	verbose, mark := a.Verbose()
	assert.Assert(t, verbose && mark == "\x16" && a.FailFast())
	assert.DeepEqual(t, a.Without("test.run"), Args{"-test.v=test2json", "-test.failfast"})
	for test, want := range map[string]bool{"TestA/x_y": true, "TestA/x_y/z": true, "TestA": false, "TestA/z": false, "TestB/x_y": false} {
		assert.Equal(t, a.Selects(test), want, test)
	}
	verbose, mark = Args{"-test.v=false"}.Verbose()
	assert.Assert(t, !verbose && mark == "")
	assert.Equal(t, Args{"-test.bench=.", "-test.bench="}.Isolable(), "", "the last one counts")
	assert.Equal(t, Args{"-test.gocoverdir=/x"}.Isolable(), "test.gocoverdir")
	_, err := TopLevel("a/(")
	assert.ErrorContains(t, err, "missing closing")
}
