// SPDX-License-Identifier: Apache-2.0

// Package workflows tests what .github/workflows says, as far as that goes without
// GitHub: the names of its artifacts, and, with KVMRUN_TEST_WORKFLOWS, its steps.
//
// It must not know more of the build than what the workflows name.
package workflows

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"gotest.tools/v3/assert"
)

// workflow has the keys that are in use; load refuses others, because the tests
// would not know what they change.
type workflow struct {
	Name                         string
	On, Permissions, Concurrency any
	Jobs                         map[string]job
}

type job struct {
	If        string
	Needs     string
	RunsOn    string `yaml:"runs-on"`
	Container container
	Timeout   int `yaml:"timeout-minutes"`
	Strategy  struct {
		FailFast bool `yaml:"fail-fast"`
		Matrix   map[string][]string
	}
	Steps []step
}

type container struct{ Image, Options string }

// UnmarshalYAML reads the short form, an image alone, too.
func (c *container) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		return n.Decode(&c.Image)
	}
	type long container
	return n.Decode((*long)(c))
}

type step struct {
	Name, If, Uses, Run string
	With, Env           map[string]string
}

func load(t *testing.T) map[string]workflow {
	t.Helper()
	files, err := filepath.Glob("../../.github/workflows/*.yml")
	assert.NilError(t, err)
	assert.Assert(t, len(files) >= 3, "%q", files)
	all := make(map[string]workflow)
	for _, f := range files {
		text, err := os.ReadFile(f)
		assert.NilError(t, err)
		var w workflow
		d := yaml.NewDecoder(bytes.NewReader(text))
		d.KnownFields(true)
		assert.NilError(t, d.Decode(&w), f)
		assert.Assert(t, len(w.Jobs) > 0, f)
		all[filepath.Base(f)] = w
	}
	return all
}

// combinations are the values of ${{ ... }} for every job that a matrix makes.
func combinations(matrix map[string][]string) []map[string]string {
	all := []map[string]string{{}}
	var keys []string
	for k := range matrix {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		var next []map[string]string
		for _, have := range all {
			for _, v := range matrix[k] {
				one := map[string]string{"matrix." + k: v}
				for a, b := range have {
					one[a] = b
				}
				next = append(next, one)
			}
		}
		all = next
	}
	for i := range all {
		all[i]["strategy.job-index"] = fmt.Sprint(i)
	}
	return all
}

var expression = regexp.MustCompile(`\$\{\{\s*([^}]*?)\s*\}\}`)

func expand(t *testing.T, s string, values map[string]string) string {
	t.Helper()
	return expression.ReplaceAllStringFunc(s, func(e string) string {
		name := expression.FindStringSubmatch(e)[1]
		v, ok := values[name]
		assert.Assert(t, ok, "%s is not known here", e)
		return v
	})
}

// TestArtifacts: two jobs of a run that give their artifacts the same name fail,
// and so does a name with one of the characters that upload-artifact forbids
// (its README, "Breaking Changes" of v4). A second kernel in the matrix is what
// would collide.
func TestArtifacts(t *testing.T) {
	found := 0
	for file, w := range load(t) {
		seen := make(map[string]string)
		for name, j := range w.Jobs {
			if m := j.Strategy.Matrix; m["kernel"] != nil {
				m["kernel"] = append(m["kernel"], "debian:6.1", "ubuntu:6.8")
			}
			for _, values := range combinations(j.Strategy.Matrix) {
				for _, s := range j.Steps {
					if !strings.HasPrefix(s.Uses, "actions/upload-artifact@") {
						continue
					}
					found++
					artifact := expand(t, s.With["name"], values)
					assert.Check(t, artifact != "" && !strings.ContainsAny(artifact, "\":<>|*?\r\n\\/"), "%s: %s: %q", file, name, artifact)
					assert.Check(t, seen[artifact] == "", "%s: %q is the name of an artifact of %s and of %v", file, artifact, seen[artifact], values)
					seen[artifact] = fmt.Sprint(values)
				}
			}
		}
	}
	assert.Assert(t, found > 10, "%d artifacts", found)
}

// TestForeignCheckout: the checkout of a job in a container is another user's, in
// which go build fails to find out the revision, unless it is told not to. The
// workflows build with make only.
func TestForeignCheckout(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	assert.NilError(t, err)
	for line := range strings.Lines(string(makefile)) {
		if strings.Contains(line, "$(GO) build") {
			assert.Check(t, strings.Contains(line, "-buildvcs=false"), line)
		}
	}
	for file, w := range load(t) {
		for name, j := range w.Jobs {
			for _, s := range j.Steps {
				assert.Check(t, !strings.Contains(s.Run, "go build"), "%s: %s: %s", file, name, s.Run)
			}
		}
	}
}

// TestVirtualMachines: without the option the container has no /dev/kvm.
func TestVirtualMachines(t *testing.T) {
	for file, w := range load(t) {
		for name, j := range w.Jobs {
			if j.Container.Image != "" {
				assert.Check(t, strings.Contains(j.Container.Options, "--privileged"), "%s: %s", file, name)
			}
		}
	}
}
