// SPDX-License-Identifier: Apache-2.0

// Package forked is a suite that tells what could be the same in machines that
// go on from one template.
package forked

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kvmrun/kvmrun/suites"
	"github.com/kvmrun/kvmrun/suites/kit"
	"github.com/kvmrun/kvmrun/suites/testmain"
)

func TestMain(m *testing.M) {
	if os.Getenv("KVMRUN_GUEST") != "" {
		fmt.Println("fact begun once")
	}
	testmain.Run(m, suites.Spec{Name: "forked", Modules: []string{"virtio_blk"}, Disks: []suites.Disk{{Name: "scratch", SizeMiB: 16}}}, nil)
}

// TestFacts prints them, one a line.
func TestFacts(t *testing.T) {
	say := func(key string, value any) { fmt.Printf("fact %s %v\n", key, value) }
	say("wall", time.Now().UnixNano())
	seed := make([]byte, 16)
	if _, err := rand.Read(seed); err != nil {
		t.Fatal(err)
	}
	say("random", fmt.Sprintf("%x", seed))
	uuid, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		t.Fatal(err)
	}
	say("uuid", strings.TrimSpace(string(uuid)))
	say("tempdir", t.TempDir())
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	say("hostname", host)
	begin := time.Now()
	time.Sleep(700 * time.Millisecond) // longer than the clocksource watchdog's interval
	say("slept", time.Since(begin).Milliseconds())
	clock, err := os.ReadFile("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	if err != nil {
		t.Fatal(err)
	}
	say("clocksource", strings.TrimSpace(string(clock)))
	network(t, say)
	disk(t, say)
}

func network(t *testing.T, say func(string, any)) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = c.Write([]byte("hello"))
			_ = c.Close()
		}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 5)
	if _, err := c.Read(b); err != nil {
		t.Fatal(err)
	}
	say("network", string(b))
}

// disk tells the disk's first bytes and writes others.
func disk(t *testing.T, say func(string, any)) {
	f, err := os.OpenFile(kit.Disk(t, "scratch"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 512)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	say("disk", fmt.Sprintf("%x", b[:4]))
	if _, err := f.WriteAt([]byte("used"), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}
