// SPDX-License-Identifier: Apache-2.0

package suiterun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/kvmrun/kvmrun/internal/machine"
	"github.com/kvmrun/kvmrun/internal/runner"
)

// SuiteTemplate boots a machine for a suite and freezes it before the suite's
// program is started, for SuiteJob.From. A boot in which the kernel complained is
// an error: its complaint would be missing in every job. The kernel log goes to
// template.log in dir.
func (m Runner) SuiteTemplate(ctx context.Context, k *machine.Kernel, s Suite, dir string) (*runner.Template, error) {
	t, boot, err := m.MakeTemplate(ctx, runner.Program{
		Kernel: k, Spec: s.Spec, Init: s.Binary, Files: k.Extras(), Dir: dir, Log: "template.log",
	})
	if err != nil {
		return nil, err
	}
	if len(boot.Splats)+len(boot.KernelTests.Failed) > 0 || boot.Panicked || boot.Scanner != "" {
		return nil, errors.Join(errors.New("the kernel complained at boot"), t.Close())
	}
	return t, nil
}

// forksEach is how many runs a template is used for: a failure that is decided
// at boot, by an address or the order of things, must not be decided once for all
// runs.
const forksEach = 8

// Repeater lends templates for running one suite on one kernel again and again.
// What a fork shares with its siblings is the boot alone: its random numbers are
// its own, and its program starts anew. It is safe for concurrent use.
type Repeater struct {
	m Runner
	k *machine.Kernel
	s Suite

	mu   sync.Mutex
	runs int
	off  bool // templates do not work here
	lent *lentTemplate
}

// lentTemplate is closed with its last user.
type lentTemplate struct {
	t     *runner.Template
	left  int // how many more may have it
	users int
}

// NewRepeater makes a Repeater. It is the caller's to close.
func (m Runner) NewRepeater(k *machine.Kernel, s Suite) *Repeater {
	return &Repeater{m: m, k: k, s: s}
}

// Begin returns what the next run is to go on from, nil for booting: the first
// run always boots, and so does every one where machines cannot be forked. The
// run calls done when it has ended. The template's log goes below dir.
func (r *Repeater) Begin(ctx context.Context, dir string) (from *runner.Template, done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.runs++
	if r.runs <= 1 || r.off {
		return nil, func() {}
	}
	if r.lent == nil || r.lent.left == 0 {
		r.drop()
		at, err := os.MkdirTemp(dir, "template-")
		var t *runner.Template
		if err == nil {
			t, err = r.m.SuiteTemplate(ctx, r.k, r.s, at)
		}
		if err != nil {
			if r.off = ctx.Err() == nil; r.off {
				r.m.Remark(fmt.Sprintf("booting a VM for each repeat on %s: %v", filepath.Base(r.k.Path), err))
			}
			return nil, func() {}
		}
		r.lent = &lentTemplate{t: t, left: forksEach, users: 1} // itself one
	}
	l := r.lent
	l.left--
	l.users++
	return l.t, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		l.release()
	}
}

func (l *lentTemplate) release() {
	if l.users--; l.users == 0 {
		_ = l.t.Close() // only memory
	}
}

func (r *Repeater) drop() {
	if r.lent != nil {
		r.lent.release()
		r.lent = nil
	}
}

// Close frees the template once its last run has ended.
func (r *Repeater) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop()
	r.off = true
}
