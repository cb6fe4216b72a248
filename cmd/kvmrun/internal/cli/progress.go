// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/kvmrun/kvmrun/internal/gotest"
	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/suiterun"
	"github.com/kvmrun/kvmrun/internal/visible"
)

// progress tells what goes on: a bar that moves on a terminal, a line per
// event that matters elsewhere.
type progress struct {
	w   io.Writer
	tty bool

	mu      sync.Mutex
	bar     *progressbar.ProgressBar
	running map[int]string // job to what it does
	ids     map[int]string
	total   int
	done    int
	jobs    int
}

func newProgress(w io.Writer) *progress {
	_, tty := terminal(w)
	return &progress{w: w, tty: tty, running: map[int]string{}, ids: map[int]string{}}
}

// say prints a line above the bar.
func (p *progress) say(s string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line(s)
}

func (p *progress) line(s string) {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
	fmt.Fprintln(p.w, "kvmrun:", visible.Text(s))
	if p.bar != nil {
		_ = p.bar.RenderBlank()
	}
}

func (p *progress) begin(x suiterun.Matrix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.jobs = len(x.Kernels) * len(x.Suites)
	if x.Run == "" && x.Skip == "" {
		for _, s := range x.Suites {
			p.total += len(s.Tests) * len(x.Kernels) * max(1, x.Count)
		}
	}
	if !p.tty {
		return
	}
	total := int64(p.total)
	if total == 0 {
		total = -1
	}
	p.bar = progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(p.w),
		progressbar.OptionShowCount(),
		progressbar.OptionSetWidth(20),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetElapsedTime(true),
		progressbar.OptionSetPredictTime(false),
		progressbar.OptionClearOnFinish(),
	)
}

func (p *progress) onStart(i int, id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ids[i], p.running[i] = id, "boot"
	if !p.tty {
		fmt.Fprintf(p.w, "kvmrun: %s: booting\n", id)
	}
	p.describe()
}

func (p *progress) onEvent(i int, e gotest.Event) {
	top := e.Test != "" && !strings.Contains(e.Test, "/")
	if !top {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.Action {
	case gotest.ActionRun:
		p.running[i] = e.Test
	case gotest.ActionPass, gotest.ActionSkip, gotest.ActionFail:
		p.done++
		if p.bar != nil {
			_ = p.bar.Add(1)
		}
		if e.Action == gotest.ActionFail {
			p.line(fmt.Sprintf("%s: FAIL %s", p.ids[i], e.Test))
		}
	default:
		return
	}
	p.describe()
}

func (p *progress) onDone(i int, j result.Job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.running, i)
	p.line(fmt.Sprintf("%s: %s in %s: %s", j.ID, j.Verdict, seconds(j.Elapsed), j.Reason))
	p.describe()
}

func (p *progress) describe() {
	if p.bar == nil {
		return
	}
	var is []int
	for i := range p.running {
		is = append(is, i)
	}
	sort.Ints(is)
	var parts []string
	for _, i := range is {
		parts = append(parts, short(p.ids[i])+" "+p.running[i])
	}
	d := strings.Join(parts, ", ")
	if len(d) > 60 {
		d = d[:57] + "..."
	}
	p.bar.Describe(d)
}

// short keeps the suite of a job's name: the kernel is in the table.
func short(id string) string { return id[strings.LastIndex(id, "-")+1:] }

func (p *progress) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear()
		p.bar = nil
	}
}
