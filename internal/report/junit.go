// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/kvmrun/kvmrun/internal/result"
)

// The elements of JUnit's XML, as far as CI systems read them. There is no
// standard; this is the common part of what Jenkins, GitLab and Azure accept.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Time     string       `xml:"time,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name       string          `xml:"name,attr"`
		ID         string          `xml:"id,attr"`
		Tests      int             `xml:"tests,attr"`
		Failures   int             `xml:"failures,attr"`
		Errors     int             `xml:"errors,attr"`
		Skipped    int             `xml:"skipped,attr"`
		Time       string          `xml:"time,attr"`
		Timestamp  string          `xml:"timestamp,attr,omitempty"`
		Properties []junitProperty `xml:"properties>property"`
		Cases      []junitCase     `xml:"testcase"`
	}
	junitProperty struct {
		Name  string `xml:"name,attr"`
		Value string `xml:"value,attr"`
	}
	junitCase struct {
		Class   string       `xml:"classname,attr"`
		Name    string       `xml:"name,attr"`
		Time    string       `xml:"time,attr"`
		Skipped *junitDetail `xml:"skipped,omitempty"`
		Failure *junitDetail `xml:"failure,omitempty"`
		Error   *junitDetail `xml:"error,omitempty"`
		Output  string       `xml:"system-out,omitempty"`
	}
	junitDetail struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr,omitempty"`
		Text    string `xml:",chardata"`
	}
)

// JUnit writes run as JUnit XML, a testsuite for each job. A job that did not
// pass has one more testcase, "(verdict)", which says so: it is an error for
// infrastructure faults and a failure otherwise. A test that did not run is an
// error.
func JUnit(w io.Writer, run result.Run) error {
	all := junitSuites{Name: "kvmrun " + line(run.ID), Time: junitTime(run.Elapsed)}
	names := labels(run.Jobs)
	for i := range run.Jobs {
		s := junitJob(run, &run.Jobs[i], names[i])
		all.Tests += s.Tests
		all.Failures += s.Failures
		all.Errors += s.Errors
		all.Skipped += s.Skipped
		all.Suites = append(all.Suites, s)
	}
	if len(run.Jobs) == 0 {
		all.Tests, all.Errors = 1, 1
		all.Suites = []junitSuite{{
			Name: "(run)", Tests: 1, Errors: 1, Time: junitTime(0),
			Cases: []junitCase{{Class: "(run)", Name: "(verdict)", Time: junitTime(0), Error: &junitDetail{Message: "nothing was run"}}},
		}}
	}
	b, err := xml.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("encode JUnit: %w", err)
	}
	if _, err := io.WriteString(w, xml.Header+string(b)+"\n"); err != nil {
		return fmt.Errorf("write JUnit: %w", err)
	}
	return nil
}

func junitJob(run result.Run, j *result.Job, kernel string) junitSuite {
	class := line(j.Suite) + " on " + kernel
	s := junitSuite{Name: class, ID: line(j.ID), Time: junitTime(j.Elapsed)}
	if !j.Started.IsZero() {
		s.Timestamp = j.Started.UTC().Format("2006-01-02T15:04:05")
	}
	for _, p := range []junitProperty{
		{"verdict", j.Verdict.String()}, {"reason", j.Reason}, {"kernel", j.Kernel}, {"release", j.Release},
		{"accel", j.Accel}, {"logs", j.Dir}, {"again", j.Repro},
	} {
		if p.Value = line(p.Value); p.Value != "" {
			s.Properties = append(s.Properties, p)
		}
	}
	for i := range j.Cases {
		s.add(junitTest(&j.Cases[i], class))
	}
	if bad(run, j) {
		detail := &junitDetail{Message: line(j.Reason), Type: j.Verdict.String(), Text: splatText(j.Splats)}
		c := junitCase{Class: class, Name: "(verdict)", Time: junitTime(0)}
		if j.Verdict == result.VerdictInfra || j.Verdict == result.VerdictInvalid {
			c.Error = detail
		} else {
			c.Failure = detail
		}
		s.add(c)
	}
	return s
}

func (s *junitSuite) add(c junitCase) {
	s.Cases = append(s.Cases, c)
	s.Tests++
	switch {
	case c.Error != nil:
		s.Errors++
	case c.Failure != nil:
		s.Failures++
	case c.Skipped != nil:
		s.Skipped++
	}
}

func junitTest(c *result.Case, class string) junitCase {
	t := junitCase{Class: class, Name: caseName(c), Time: junitTime(c.Elapsed)}
	switch {
	case c.Status == result.StatusNotRun:
		t.Error = &junitDetail{Message: reason(c), Type: c.Status.String()}
	case failed(c):
		text := block(c.Output) + splatText(c.Splats)
		t.Failure = &junitDetail{Message: reason(c), Type: c.Status.String(), Text: text}
	case c.Status == result.StatusSkip:
		t.Skipped = &junitDetail{Message: reason(c)}
	}
	if t.Failure == nil && t.Error == nil {
		t.Output = block(c.Output)
	}
	return t
}

func splatText(splats []result.Splat) string {
	var b strings.Builder
	for i := range splats {
		b.WriteString(splatTitle(&splats[i]) + "\n" + block(splats[i].Raw))
	}
	return b.String()
}

func junitTime(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }
