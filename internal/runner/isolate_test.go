// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

func TestSpoolKeepsTheOrder(t *testing.T) {
	for _, size := range []int{0, 10, spoolMemory - 1, spoolMemory, 3*spoolMemory + 5} {
		s := &spool{dir: t.TempDir()}
		var want, got bytes.Buffer
		for want.Len() < size {
			part := bytes.Repeat([]byte{byte('a' + want.Len()%26)}, min(100_001, size-want.Len()))
			want.Write(part)
			n, err := s.Write(part)
			assert.NilError(t, err)
			assert.Equal(t, n, len(part))
		}
		s.live(&got)
		want.WriteString("later")
		_, err := s.Write([]byte("later"))
		assert.NilError(t, err)
		s.close()
		assert.Assert(t, bytes.Equal(got.Bytes(), want.Bytes()), "%d bytes", size)
	}
}

func TestSpoolIsBounded(t *testing.T) {
	s := &spool{dir: t.TempDir()}
	defer s.close()
	s.n = spoolLimit - 10
	_, err := s.Write(make([]byte, 10))
	assert.NilError(t, err)
	s.n += 10
	_, err = s.Write([]byte("x"))
	assert.ErrorContains(t, err, "before it was its turn")
}

func TestOutputWithoutFinal(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "",
		"PASS\n":                          "",
		"a\nPASS\nb\nFAIL\n":              "a\nPASS\nb\n",
		"--- FAIL: TestB (0.00s)\nFAIL\n": "--- FAIL: TestB (0.00s)\n",
		"no endPASS\n":                    "no end",
		"cut PAS":                         "cut PAS",
		"PASS\nPASS\n":                    "PASS\n",
		"PPASS\nexit status 3\n":          "PPASS\nexit status 3\n",
	} {
		for size := 1; size < 30; size++ {
			var b bytes.Buffer
			f := &withoutFinal{w: &b, finals: []string{"PASS\n", "FAIL\n"}}
			for i := 0; i < len(text); i += size {
				_, err := f.Write([]byte(text[i:min(len(text), i+size)]))
				assert.NilError(t, err)
			}
			f.end()
			assert.Equal(t, b.String(), want, "in pieces of %d", size)
		}
	}
}

func TestNotIsolable(t *testing.T) {
	assert.NilError(t, NotIsolable([]string{"-test.v=true", "-test.count=3", "-test.run=X", "-test.failfast=true", "-test.cpu=1,2", "-test.bench="}))
	for _, a := range []string{"-test.bench=.", "-test.coverprofile=/x", "-test.gocoverdir=/x", "-test.shuffle=on"} {
		err := NotIsolable([]string{a})
		name, _, _ := strings.Cut(a, "=")
		assert.Check(t, is.ErrorContains(err, strings.Replace(name, "test.", "", 1)))
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
		assert.Equal(t, onlyTest([]string{"-test.v", "-test.run=" + c.run}, c.test), c.want)
	}
}

// TestAwaitMemory: a fork waits for memory as long as others hold it, the only
// one never.
func TestAwaitMemory(t *testing.T) {
	asked, free := make(chan struct{}, 10), hostReserve
	x := &isolated{gone: make(chan struct{}, 1), m: &Machine{free: func() int {
		n := free
		asked <- struct{}{}
		return n
	}}}
	assert.Assert(t, x.awaitMemory(t.Context()), "the first one")
	assert.Equal(t, len(asked), 0)

	may := make(chan bool)
	wait := func(ctx context.Context) { may <- x.awaitMemory(ctx) }
	x.alive.Store(2)
	go wait(t.Context())
	<-asked // and was not content
	x.freed()
	<-asked
	select {
	case <-may:
		t.Fatal("there is no memory for a second one")
	default:
	}
	x.freed()
	assert.Assert(t, <-may, "nobody holds any")

	// Each is thought to grow as large as the largest so far.
	x.alive.Store(3)
	x.needed.Store(50)
	free = hostReserve + 4*50 - 1
	go wait(t.Context())
	<-asked
	free++
	x.gone <- struct{}{}
	assert.Assert(t, <-may)
	<-asked

	free = 0
	ctx, cancel := context.WithCancel(t.Context())
	go wait(ctx)
	<-asked
	cancel()
	assert.Assert(t, !<-may, "given up")
}
