// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/kvmrun/kvmrun/internal/result"
	"github.com/kvmrun/kvmrun/internal/visible"
)

// jsonFormat names the JSON's format. The number changes when readers would
// misunderstand what is written from then on.
const jsonFormat = "kvmrun-run/1"

type jsonFile struct {
	Format   string `json:"format"`
	ExitCode int    `json:"exit_code"`
	result.Run
}

// JSON writes all of run as JSON. Times are RFC 3339, durations nanoseconds.
func JSON(w io.Writer, run result.Run) error {
	if run.Jobs == nil {
		run.Jobs = []result.Job{} // a list in JSON too
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	if err := enc.Encode(jsonFile{jsonFormat, run.ExitCode(), run}); err != nil {
		return fmt.Errorf("encode run: %w", err)
	}
	if _, err := w.Write(escapeJSON(b.Bytes())); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// escapeJSON escapes what encoding/json leaves as it is although a terminal
// would act on it: DEL, C1 controls, format characters; and U+FFFD, which
// encoding/json escapes only where it stands for invalid UTF-8. Outside of
// strings JSON has none of these.
func escapeJSON(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		switch {
		case visible.Safe(r) && r != utf8.RuneError:
			out = append(out, b[:n]...)
		case r > 0xffff:
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		b = b[n:]
	}
	return out
}

// ReadJSON reads what [JSON] has written.
func ReadJSON(r io.Reader) (result.Run, error) {
	var f jsonFile
	if err := json.NewDecoder(r).Decode(&f); err != nil {
		return result.Run{}, fmt.Errorf("read run: %w", err)
	}
	if f.Format != jsonFormat {
		return result.Run{}, fmt.Errorf("read run: format is %q, not %q", f.Format, jsonFormat)
	}
	return f.Run, nil
}
