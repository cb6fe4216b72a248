// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/plan"
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

// TestSpoolIsBounded: of what is too much, the end and all results are kept.
func TestSpoolIsBounded(t *testing.T) {
	for _, piece := range []int{1000, 70_001} {
		s := &spool{dir: t.TempDir()}
		s.n = spoolLimit - 10
		_, err := s.Write([]byte("beginning\n"))
		assert.NilError(t, err)
		s.n = spoolLimit
		var text bytes.Buffer
		for i := range 3000 {
			fmt.Fprintf(&text, "%d\x16--- PASS: TestA/%d (0.00s)\n%s\n", i, i, strings.Repeat("x", 500))
		}
		for part := range slices.Chunk(text.Bytes(), piece) {
			n, err := s.Write(part)
			assert.NilError(t, err)
			assert.Equal(t, n, len(part))
			assert.Assert(t, len(s.tail) <= 2*spoolTail+piece && len(s.ours) <= spoolOwn)
		}
		s.n = 0 // there is no such file
		var got bytes.Buffer
		lost := (&unit{stdout: s, stderr: &spool{}}).lostOutput()
		s.live(&got)
		s.close()
		for i := range 3000 {
			assert.Equal(t, strings.Count(got.String(), fmt.Sprintf("\x16--- PASS: TestA/%d (", i)), 1)
		}
		assert.Assert(t, bytes.HasPrefix(got.Bytes(), []byte("beginning\n\n[kvmrun: ")), "%.100s", got.String())
		assert.Assert(t, bytes.HasSuffix(text.Bytes(), got.Bytes()[got.Len()-spoolTail:]))
		assert.Assert(t, lost > 1_000_000 && lost < int64(text.Len()), "%d", lost)
	}
}

// TestTimeOfIsolatedTests: one that uses up the suite's time takes none from the
// others, and all together end.
func TestTimeOfIsolatedTests(t *testing.T) {
	start := time.Now()
	x := &isolated{p: Program{Timeout: time.Minute}, until: start.Add(time.Minute)}
	for i, at := range []time.Duration{0, 59 * time.Second, 61 * time.Second, 120 * time.Second, 122 * time.Second, 181 * time.Second} {
		limit, unrun := x.time(start.Add(at))
		assert.Equal(t, unrun, "", "%d", i)
		assert.Equal(t, limit, time.Minute)
	}
	_, unrun := x.time(start.Add(time.Hour))
	assert.Equal(t, unrun, "the suite's time of 1m0s was used up 3 times before")

	x = &isolated{p: Program{Timeout: time.Minute}, until: start.Add(time.Minute), j: SuiteJob{Task: plan.Task{Policy: plan.Policy{NoLimit: true}}}}
	limit, unrun := x.time(start.Add(50 * time.Second))
	assert.Equal(t, unrun, "")
	assert.Equal(t, limit, 10*time.Second)
	_, unrun = x.time(start.Add(time.Minute))
	assert.Equal(t, unrun, "the time of 1m0s was used up before")

	limit, unrun = new(isolated).time(start)
	assert.Assert(t, limit == 0 && unrun == "")
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
			final := f.end()
			assert.Equal(t, b.String(), want, "in pieces of %d", size)
			pass, fail := strings.LastIndex(text, "PASS\n"), strings.LastIndex(text, "FAIL\n")
			said := ""
			switch {
			case pass > fail:
				said = "PASS"
			case fail > pass:
				said = "FAIL"
			}
			assert.Equal(t, final, said, "%q in pieces of %d", text, size)
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

// TestAwaitMemory: a fork waits for memory as long as others hold it, the only
// one never.
func TestAwaitMemory(t *testing.T) {
	asked, free := make(chan struct{}, 10), machine.Reserve
	x := &isolated{gone: make(chan struct{}, 1), m: &Machine{Host: machine.Host{Free: func() int {
		n := free
		asked <- struct{}{}
		return n
	}}}}
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
	free = machine.Reserve + 4*50 - 1
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
