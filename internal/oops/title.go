package oops

import (
	"crypto/sha256"
	hexenc "encoding/hex"
	"strings"
)

const maxTitle = 200

// What differs from run to run is replaced, in this order.
var volatile = []struct {
	re *lazyRE
	to string
}{
	{compile(`\+0x0/0x0 \((?:[^()]|\([^()]*\))*\)`), ""}, // the position of a decoded symbol
	{compile(`([A-Za-z_][\w.$]*)\+0x[0-9a-f]+(?:/0x[0-9a-f]*)?`), "$1"},
	{compile(`\bsyz-executor[\w.]*(?:[:/]\d+)*`), "syz-executor"},
	{compile(`\bsyzkaller\d+(?:[:/]\d+)*`), "syzkaller"},
	{compile(`\bsyz\.\d+\.\d+(?:[:/]\d+)*`), "syz"},
	{compile(`\b0x[0-9a-f]+\b`), "ADDR"},
	{compile(`(^|[^\w])[0-9a-f]{8,16}\b`), "${1}ADDR"},
	{compile(`(^|[^\w])(?:\d{1,3}\.){3}\d{1,3}\b`), "${1}IP"},
	{compile(`\bCPU#\d+`), "CPU"},
	{compile(`(\.[chS]):\d+(?::\d+)?`), "$1:LINE"},
	{compile(`(^|[^\w])\d+\b`), "${1}NUM"},
	{compile(`([A-Za-z])\d{6,}\b`), "${1}NUM"},
	{compile(`\s+`), " "},
}

// stable strips a title of what differs from run to run.
func stable(title string) string {
	title = strings.ToValidUTF8(title, "?")
	if len(title) > 2*maxTitle {
		title = strings.ToValidUTF8(title[:2*maxTitle], "")
	}
	for _, v := range volatile {
		title = v.re.ReplaceAllString(title, v.to)
	}
	title = strings.TrimSpace(title)
	if len(title) > maxTitle {
		title = strings.TrimSpace(strings.ToValidUTF8(title[:maxTitle], ""))
	}
	return title
}

// expand fills a template: {1} is groups[1], {F} the function.
func expand(tmpl string, groups []string, fn string) string {
	out := strings.ReplaceAll(tmpl, "{F}", fn)
	for i := 1; i < len(groups) && i < 10; i++ {
		out = strings.ReplaceAll(out, "{"+string(rune('0'+i))+"}", groups[i])
	}
	return out
}

// fingerprint identifies a bug: kind and title, which hold nothing that differs
// from run to run.
func fingerprint(kind Kind, title string) string {
	sum := sha256.Sum256([]byte(string(kind) + "\x00" + title))
	return hexenc.EncodeToString(sum[:8])
}
