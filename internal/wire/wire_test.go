// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/internal/wire"
)

// everyKind has each kind of message once, with all its fields set.
var everyKind = []wire.Message{
	{Run: &wire.Run{
		Argv: []string{"a", "", "b c\n"}, Env: []string{"A=\x01", "B=ü"}, Dir: "/d", Stdin: true, Merge: true,
		TTY: &wire.Winsize{Rows: 65535, Cols: 1}, Fetch: []string{"/f"}, Nonce: "n",
	}},
	{Resize: &wire.Winsize{Rows: 1, Cols: 2}},
	{Signal: &wire.Signal{Number: -1}},
	{Freeze: &wire.Freeze{}},
	{Thaw: &wire.Thaw{ID: "i", UnixNS: -1, Seed: []byte{0, 255}}},
	{Thaw: &wire.Thaw{ID: "i"}},
	{Thaw: &wire.Thaw{ID: "i", UnixNS: 1, Seed: bytes.Repeat([]byte{1}, 256)}}, // has no short form
	{Release: &wire.Release{}},
	{Release: &wire.Release{Nonce: "n"}},
	{Release: &wire.Release{Marks: "m"}},
	{Release: &wire.Release{Nonce: "n", Marks: "m", Args: []string{"x"}}},
	{Release: &wire.Release{Nonce: "n", Marks: strings.Repeat("m", 256)}},
	{Kmsg: &wire.Kmsg{Data: []byte("6,1,2,-;text\n")}},
	{Release: &wire.Release{Nonce: "n", Args: []string{"\x00^TestX$/a\nb"}}},
	{Release: &wire.Release{Nonce: strings.Repeat("n", 256), Args: []string{"x"}}}, // these have none
	{Release: &wire.Release{Nonce: "n", Args: []string{""}}},
	{Release: &wire.Release{Nonce: "n", Args: []string{"a", "b"}}},
	{Release: &wire.Release{Nonce: "n", Env: []string{"A=b"}}},
	{Release: &wire.Release{Nonce: "n", Fetch: []string{"/f"}}},
	{Release: &wire.Release{Nonce: "n", Arm: wire.Arm{Nth: 1}}},
	{Release: &wire.Release{Nonce: "n", Arm: wire.Arm{Counters: []wire.Counter{{Name: "c"}}}}},
	{Shutdown: &wire.Shutdown{}},
	{Frozen: &wire.Frozen{Stdout: 1 << 40, Stderr: 2}},
	{Ready: &wire.Ready{Version: 1, Release: "6.12", UptimeNS: 1 << 62, Modules: []string{"m"}, Warnings: []string{"w"}}},
	{Started: &wire.Started{PID: 7}},
	{File: &wire.File{Index: 3, Name: "n", Data: []byte{0, 255, 10}, EOF: true, Err: "e"}},
	{Exited: &wire.Exited{Code: -1, Signal: 9, Core: true, Stdout: 1 << 40, Stderr: 1, Err: "e", NotFound: true, NotExecutable: true}},
	{Done: &wire.Done{Nonce: "n", Warnings: []string{"w"}}},
	{Fault: &wire.Fault{Message: "m"}},
}

func TestRoundTrip(t *testing.T) {
	var b bytes.Buffer
	w := wire.NewWriter(&b)
	for _, m := range everyKind {
		assert.NilError(t, w.Send(m))
	}
	// However the bytes arrive.
	r := wire.NewReader(iotest.OneByteReader(&b))
	for _, want := range everyKind {
		got, err := r.Receive()
		assert.NilError(t, err)
		assert.DeepEqual(t, got, want)
	}
	_, err := r.Receive()
	assert.Assert(t, errors.Is(err, io.EOF))
}

// TestChunkFits holds the promise of Chunk: a full one is a legal message.
func TestChunkFits(t *testing.T) {
	var b bytes.Buffer
	m := wire.Message{File: &wire.File{Index: 1 << 30, Name: strings.Repeat("\x01", 255), Data: make([]byte, wire.Chunk)}}
	assert.NilError(t, wire.NewWriter(&b).Send(m))
	got, err := wire.NewReader(&b).Receive()
	assert.NilError(t, err)
	assert.DeepEqual(t, got, m)
}

func frame(s string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) + s
}

func TestBadFrames(t *testing.T) {
	for _, test := range []struct{ name, in, want string }{
		{"nothing", "", "EOF"},
		{"half a length", "\x00\x00", "unexpected EOF"},
		{"length only", "\x00\x00\x00\x01", "unexpected EOF"},
		{"half a body", "\x00\x00\x00\x05{\"do", "unexpected EOF"},
		{"too long", "\x00\x10\x00\x01", "frame too large"},
		{"as long as can be", "\xff\xff\xff\xff", "frame too large"},
		{"empty", frame(""), "decode message"},
		{"no JSON", frame("hello"), "decode message"},
		{"not an object", frame("[1]"), "decode message"},
		{"no kind", frame("{}"), "0 kinds"},
		{"null", frame("null"), "0 kinds"},
		{"unknown kind", frame(`{"x":{}}`), "0 kinds"},
		{"null kind", frame(`{"done":null}`), "0 kinds"},
		{"two kinds", frame(`{"done":{"nonce":"x"},"fault":{"message":"y"}}`), "2 kinds"},
		{"two values", frame(`{"shutdown":{}}{"shutdown":{}}`), "decode message"},
		{"wrong type", frame(`{"signal":{"number":"x"}}`), "decode message"},
		{"number too large", frame(`{"resize":{"rows":65536}}`), "decode message"},
		{"short form of nothing", frame("\x00"), "decode message"},
		{"short form of another kind", frame("\x00X"), "decode message"},
		{"short form, cut in the seed", frame("\x00T12345678\x03ab"), "decode message"},
		{"short form, cut in the nonce", frame("\x00R\x03ab"), "decode message"},
		{"deep", frame(`{"run":` + strings.Repeat("[", 100000)), "decode message"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := wire.NewReader(strings.NewReader(test.in)).Receive()
			assert.ErrorContains(t, err, test.want)
		})
	}
}

func TestTooLargeToSend(t *testing.T) {
	var b bytes.Buffer
	w := wire.NewWriter(&b)
	err := w.Send(wire.Message{Fault: &wire.Fault{Message: strings.Repeat("x", wire.MaxFrame)}})
	assert.Assert(t, errors.Is(err, wire.ErrTooLarge))
	assert.Assert(t, errors.Is(w.SendStdin(make([]byte, wire.MaxFrame+1)), wire.ErrTooLarge))
	assert.Equal(t, b.Len(), 0)
	assert.NilError(t, w.SendStdin(make([]byte, wire.MaxFrame)))
}

func TestStdin(t *testing.T) {
	var b bytes.Buffer
	w := wire.NewWriter(&b)
	for _, p := range []string{"one", `{"shutdown":{}}`, "", "next program"} {
		assert.NilError(t, w.SendStdin([]byte(p)))
	}
	r := wire.NewReader(&b)
	var got []string
	for {
		p, err := r.ReceiveStdin()
		if errors.Is(err, io.EOF) {
			break
		}
		assert.NilError(t, err)
		got = append(got, string(p))
	}
	assert.DeepEqual(t, got, []string{"one", `{"shutdown":{}}`})
	p, err := r.ReceiveStdin()
	assert.NilError(t, err)
	assert.Equal(t, string(p), "next program")
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestSendErrors(t *testing.T) {
	assert.ErrorIs(t, wire.NewWriter(failing{}).Send(everyKind[0]), io.ErrClosedPipe)
}

// TestConcurrentSend: messages of several goroutines must not mix.
func TestConcurrentSend(t *testing.T) {
	pr, pw := io.Pipe()
	w := wire.NewWriter(pw)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if err := w.Send(wire.Message{Fault: &wire.Fault{Message: strings.Repeat("m", 1000)}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() {
		wg.Wait()
		_ = pw.Close()
	}()
	r := wire.NewReader(pr)
	n := 0
	for ; ; n++ {
		m, err := r.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		assert.NilError(t, err)
		assert.Equal(t, len(m.Fault.Message), 1000)
	}
	assert.Equal(t, n, 400)
}

func TestMarks(t *testing.T) {
	for _, at := range []wire.TestMoment{wire.TestBegins, wire.TestEnds, wire.TestFails} {
		name, got, taint, ok := wire.ParseTestMark("N", wire.TestMark("N", "TestX/sub test", at, 1<<63))
		assert.Assert(t, ok)
		assert.Equal(t, taint, uint64(1<<63))
		assert.Equal(t, got, at)
		assert.Equal(t, name, "TestX/sub test")
	}
	for _, line := range []string{"", "kvmrun: test", wire.EndMark("n"), wire.FatalMark + "x", " " + wire.TestMark("N", "T", wire.TestBegins, 0),
		wire.TestMark("", "T", wire.TestBegins, 0), wire.TestMark("M", "T", wire.TestBegins, 0), "kvmrun: test begin T", "kvmrun: test begin N T", "kvmrun: test begin N 0", "kvmrun: test begin N 0 "} {
		_, _, _, ok := wire.ParseTestMark("N", line)
		assert.Assert(t, !ok, line)
	}
	// Where nothing is to be a mark, nothing is.
	_, _, _, ok := wire.ParseTestMark("", wire.TestMark("", "T", wire.TestBegins, 0))
	assert.Assert(t, !ok)
	ack, ok := wire.ParseAckMark("N", wire.AckMark("N", "x y"))
	assert.Assert(t, ok && ack == "x y")
	for _, line := range []string{wire.AckMark("", "x"), wire.AckMark("M", "x"), wire.AckVoid("N")} {
		_, ok := wire.ParseAckMark("N", line)
		assert.Assert(t, !ok, line)
	}
}

// FuzzReceive: whatever arrives, Receive neither panics nor returns anything
// but exactly one message, which survives being sent again.
func FuzzReceive(f *testing.F) {
	for _, m := range everyKind {
		var b bytes.Buffer
		assert.NilError(f, wire.NewWriter(&b).Send(m))
		f.Add(b.Bytes())
	}
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add([]byte(frame(`{"run":{"argv":null,"tty":{}}}`)))
	f.Add([]byte(frame(`{"thaw":{"seed":""}}`)))
	f.Add([]byte(frame(`{"release":{"arm":{"before":[],"counters":[]}}}`)))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := wire.NewReader(bytes.NewReader(in))
		for {
			m, err := r.Receive()
			if err != nil {
				return
			}
			var b bytes.Buffer
			assert.NilError(t, wire.NewWriter(&b).Send(m))
			again, err := wire.NewReader(&b).Receive()
			assert.NilError(t, err)
			var c bytes.Buffer
			assert.NilError(t, wire.NewWriter(&c).Send(again))
			if diff := cmp.Diff(m, again, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("changed by a round trip:\n%s", diff)
			}
		}
	})
}

func TestExpectMarks(t *testing.T) {
	for _, c := range [][2]string{
		{"TestX", "WARNING in f"}, {"TestX/a \"b\"\n", `KASAN: .* "in" \w+`}, {"", ""},
	} {
		line := wire.ExpectMark("N", c[0], c[1])
		assert.Assert(t, !strings.Contains(line, "\n"))
		test, title, ok := wire.ParseExpectMark("N", line)
		assert.Assert(t, ok)
		assert.DeepEqual(t, [2]string{test, title}, c)
	}
	for _, line := range []string{"", "kvmrun: test expects ", `kvmrun: test expects "T"`, `kvmrun: test expects "T" x`, `kvmrun: test expects T "x"`, `kvmrun: test expects "T" "x"`,
		`kvmrun: test expects N T "x"`, wire.TestMark("N", "T", wire.TestBegins, 0), wire.ExpectMark("M", "T", "x"), wire.ExpectMark("", "T", "x")} {
		_, _, ok := wire.ParseExpectMark("N", line)
		assert.Check(t, !ok, line)
	}
}
