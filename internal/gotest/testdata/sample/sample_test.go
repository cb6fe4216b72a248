// SPDX-License-Identifier: Apache-2.0

// Package sample holds a test of every kind; gotest's own tests build it.
package sample

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

var die = flag.String("die", "", "how to end early")

func TestParallel(t *testing.T) {
	t.Run("a b", func(t *testing.T) { t.Parallel(); t.Log("first\nsecond"); fmt.Print("no newline") })
	t.Run("skipped", func(t *testing.T) { t.Parallel(); t.Log("looked"); t.Skip("needs CONFIG_X") })
	t.Run("deep", func(t *testing.T) {
		t.Run("er", func(t *testing.T) { fmt.Println("    indented like a log") })
	})
	t.Log("end")
}

func TestFake(t *testing.T) {
	fmt.Println("--- PASS: TestNever (0.00s)")
	fmt.Println("=== RUN   TestNever")
	fmt.Println("PASS")
	fmt.Println("    --- FAIL: TestFake/never (0.00s)")
	fmt.Fprintln(os.Stderr, "to stderr")
}

func TestOdd(t *testing.T) {
	fmt.Println("nul \x00 invalid \xff\xfe cut \xe2\x82 esc \x1b[31m cr\r")
	fmt.Println(strings.Repeat("long ", 300000))
	fmt.Println(strings.Repeat("\u20ac", 70000))
	fmt.Print("\n\n\r\n")
}

func TestFail(t *testing.T) {
	t.Log("before")
	t.Errorf("want %d\nmore of it", 1)
	if *die == "" {
		t.Run("sub", func(t *testing.T) { t.Fatal("sub failed") })
	}
}

func TestParent(t *testing.T) {
	t.Run("sub", func(t *testing.T) { t.Fatal("sub failed") })
}

func TestSilentSkip(t *testing.T) { t.SkipNow() }

func TestZ(t *testing.T) {
	switch *die {
	case "panic":
		panic("boom")
	case "subpanic":
		t.Run("inner", func(t *testing.T) { panic(fmt.Errorf("inner boom")) })
	case "exit":
		os.Exit(3)
	case "hang":
		t.Run("hung", func(t *testing.T) { time.Sleep(time.Hour) })
	case "goroutine":
		go panic("elsewhere")
		time.Sleep(time.Hour)
	}
}

func TestWithDelay(t *testing.T) { time.Sleep(20 * time.Millisecond) }

func BenchmarkPlain(b *testing.B) {
	for i := 0; i < b.N; i++ {
	}
}

func BenchmarkGroup(b *testing.B) {
	b.Log("a log")
	b.Run("one", func(b *testing.B) {})
	b.Run("skip", func(b *testing.B) { b.Skip("why not") })
	b.Run("two", func(b *testing.B) {})
}

func BenchmarkFail(b *testing.B) { b.Fatal("no") }

func FuzzSeed(f *testing.F) {
	f.Add("a")
	f.Fuzz(func(t *testing.T, s string) {})
}

func Example() {
	fmt.Println("a")
	// Output: a
}

func Example_wrong() {
	fmt.Println("a")
	// Output: b
}
