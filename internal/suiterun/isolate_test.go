// SPDX-License-Identifier: Apache-2.0

package suiterun

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/plan"
	"github.com/kvmrun/kvmrun/internal/runner"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// TestTimeOfIsolatedTests: one that uses up the suite's time takes none from the
// others, and all together end.
func TestTimeOfIsolatedTests(t *testing.T) {
	start := time.Now()
	x := &isolated{p: runner.Program{Timeout: time.Minute}, until: start.Add(time.Minute)}
	for i, at := range []time.Duration{0, 59 * time.Second, 61 * time.Second, 120 * time.Second, 122 * time.Second, 181 * time.Second} {
		limit, unrun := x.time(start.Add(at))
		assert.Equal(t, unrun, "", "%d", i)
		assert.Equal(t, limit, time.Minute)
	}
	_, unrun := x.time(start.Add(time.Hour))
	assert.Equal(t, unrun, "the suite's time of 1m0s was used up 3 times before")

	x = &isolated{p: runner.Program{Timeout: time.Minute}, until: start.Add(time.Minute), j: SuiteJob{Task: plan.Task{Policy: plan.Policy{NoLimit: true}}}}
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
	x := &isolated{gone: make(chan struct{}, 1), m: New(&runner.Machine{Host: machine.Host{Free: func() int {
		n := free
		asked <- struct{}{}
		return n
	}}})}
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
