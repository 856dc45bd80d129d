package zk

import (
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"
)

// full is where a node of ours is in ZooKeeper. Characters that ZooKeeper
// refuses in names are written as %XX for each byte, and so is % itself.
func (c *conn) full(path string) string {
	if path == "/" {
		return c.addr.Path
	}
	return c.addr.Path + escape(path)
}

// escape does it for a path. ZooKeeper's rule is in its PathUtils: no control
// characters, and no UTF-16 unit of a surrogate, of the private use area, or of
// the specials.
func escape(path string) string {
	plain := func(r rune, width int) bool {
		return r != '%' && r >= 0x20 && !(r >= 0x7f && r <= 0x9f) && r < 0xd800 && !(r == utf8.RuneError && width == 1)
	}
	i := 0
	for i < len(path) {
		r, width := utf8.DecodeRuneInString(path[i:])
		if !plain(r, width) {
			break
		}
		i += width
	}
	if i == len(path) {
		return path
	}
	var b strings.Builder
	b.WriteString(path[:i])
	for i < len(path) {
		r, width := utf8.DecodeRuneInString(path[i:])
		if plain(r, width) {
			b.WriteString(path[i : i+width])
		} else {
			for _, c := range []byte(path[i : i+width]) {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		}
		i += width
	}
	return b.String()
}

// unescape is the way back for a name. One that is not ours stays as it is.
func unescape(name string) string {
	if !strings.Contains(name, "%") {
		return name
	}
	if s, err := url.PathUnescape(name); err == nil {
		return s
	}
	return name
}
