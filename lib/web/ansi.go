package web

import (
	"bytes"
	"html"
	"strconv"
	"strings"
	"unicode"

	"github.com/robert-nix/ansihtml"
)

// maxLine bounds what is shown of a line, in bytes of the log.
const maxLine = 16 << 10

// renderer makes HTML of the lines of a log, one by one: colours go on from line
// to line, nothing else does. What it returns is text and spans with the classes
// below, in pairs, whatever is in the log.
//
// A log is not a terminal: a line of it stays that line, so that its number
// means something. What a program has written over in the line, with a carriage
// return, is not shown; moves of the cursor have no effect.
type renderer struct {
	pen pen
	out bytes.Buffer
	buf [4096]byte
}

// pen is how text looks.
type pen struct {
	bold, dim, italic, underline, strike, inverse, hidden bool
	fg, bg                                                uint8 // 0: as the page; else one of the 16 colours, plus 1
}

func (p pen) class() string {
	var b strings.Builder
	for _, f := range []struct {
		on   bool
		name string
	}{{p.bold, "b"}, {p.dim, "d"}, {p.italic, "i"}, {p.underline, "u"}, {p.strike, "s"}, {p.inverse, "v"}, {p.hidden, "h"}} {
		if f.on {
			b.WriteString(" " + f.name)
		}
	}
	if p.fg > 0 {
		b.WriteString(" f" + strconv.Itoa(int(p.fg-1)))
	}
	if p.bg > 0 {
		b.WriteString(" g" + strconv.Itoa(int(p.bg-1)))
	}
	return strings.TrimPrefix(b.String(), " ")
}

// render returns a line, which is given without its newline, as HTML.
func (r *renderer) render(line []byte) string {
	line = bytes.TrimRight(line, "\r\n")
	more := 0
	if len(line) > maxLine {
		line, more = line[:maxLine], len(line)-maxLine
	}
	r.out.Reset()
	// A parser for each line: a sequence that is broken off ends with its line.
	p := ansihtml.NewParser(bytes.NewReader(line), text{r})
	_ = p.ParseBuffer(r.buf[:], r.escape) // neither side of it fails
	if more > 0 {
		r.out.WriteString(`<span class="cut">… ` + strconv.Itoa(more) + ` bytes more</span>`)
	}
	return r.out.String()
}

// text takes what is not an escape sequence.
type text struct{ r *renderer }

func (t text) Write(b []byte) (int, error) {
	n := len(b)
	if i := bytes.LastIndexByte(b, '\r'); i >= 0 {
		t.r.out.Reset()
		b = b[i+1:]
	}
	if s := clean(b); s != "" {
		if class := t.r.pen.class(); class != "" {
			t.r.out.WriteString(`<span class="` + class + `">` + html.EscapeString(s) + `</span>`)
		} else {
			t.r.out.WriteString(html.EscapeString(s))
		}
	}
	return n, nil
}

// clean leaves out what does not show. Marks that turn the direction of text
// are shown as what they are: a line must not be read as another one.
func clean(b []byte) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\t':
			return c
		case unicode.IsControl(c):
			return -1
		case unicode.Is(unicode.Bidi_Control, c):
			return '\uFFFD'
		}
		return c
	}, strings.ToValidUTF8(string(b), "\uFFFD"))
}

// escape takes an escape sequence; only those that set colours count.
func (r *renderer) escape(final byte, _, params []byte) error {
	if final != '[' || len(params) == 0 || params[len(params)-1] != 'm' {
		return nil
	}
	var codes []int
	for _, s := range strings.FieldsFunc(strings.ReplaceAll(string(params[:len(params)-1]), ";;", ";0;"), func(c rune) bool { return c == ';' || c == ':' }) {
		n, err := strconv.Atoi(s)
		if err != nil || n > 255 {
			return nil
		}
		codes = append(codes, n)
	}
	if len(codes) == 0 {
		codes = []int{0}
	}
	for len(codes) > 0 {
		codes = codes[r.pen.set(codes):]
	}
	return nil
}

// set takes the first of the codes, and tells how many it has used.
func (p *pen) set(codes []int) int {
	switch c := codes[0]; {
	case c == 0:
		*p = pen{}
	case c == 1:
		p.bold = true
	case c == 2:
		p.dim = true
	case c == 3:
		p.italic = true
	case c == 4:
		p.underline = true
	case c == 7:
		p.inverse = true
	case c == 8:
		p.hidden = true
	case c == 9:
		p.strike = true
	case c == 22:
		p.bold, p.dim = false, false
	case c == 23:
		p.italic = false
	case c == 24:
		p.underline = false
	case c == 27:
		p.inverse = false
	case c == 28:
		p.hidden = false
	case c == 29:
		p.strike = false
	case c >= 30 && c <= 37:
		p.fg = uint8(c - 30 + 1)
	case c == 39:
		p.fg = 0
	case c >= 40 && c <= 47:
		p.bg = uint8(c - 40 + 1)
	case c == 49:
		p.bg = 0
	case c >= 90 && c <= 97:
		p.fg = uint8(c - 90 + 9)
	case c >= 100 && c <= 107:
		p.bg = uint8(c - 100 + 9)
	case c == 38, c == 48:
		colour, used := extended(codes[1:])
		if c == 38 {
			p.fg = colour
		} else {
			p.bg = colour
		}
		return 1 + used
	}
	return 1
}

// extended reads a colour of the 256 or of the 16 million, and takes the
// nearest of the 16: those the page has in a shade for light and one for dark.
func extended(codes []int) (colour uint8, used int) {
	switch {
	case len(codes) >= 2 && codes[0] == 5:
		n := codes[1]
		switch {
		case n < 16:
			return uint8(n + 1), 2
		case n < 232:
			n -= 16
			level := func(i int) int {
				if i == 0 {
					return 0
				}
				return 55 + 40*i
			}
			return nearest(level(n/36), level(n/6%6), level(n%6)), 2
		}
		grey := 8 + 10*(n-232)
		return nearest(grey, grey, grey), 2
	case len(codes) >= 4 && codes[0] == 2:
		return nearest(codes[1], codes[2], codes[3]), 4
	}
	return 0, len(codes)
}

// nearest is the one of the 16 colours that is most like it.
func nearest(red, green, blue int) uint8 {
	best, found := 1<<30, 0
	for i, c := range [16][3]int{
		{0, 0, 0}, {170, 0, 0}, {0, 170, 0}, {170, 120, 0}, {0, 0, 200}, {170, 0, 170}, {0, 170, 170}, {190, 190, 190},
		{110, 110, 110}, {255, 85, 85}, {85, 255, 85}, {255, 255, 85}, {95, 135, 255}, {255, 85, 255}, {85, 255, 255}, {255, 255, 255},
	} {
		d := 0
		for k, v := range [3]int{red, green, blue} {
			d += (v - c[k]) * (v - c[k])
		}
		if d < best {
			best, found = d, i
		}
	}
	return uint8(found + 1)
}

// plain is a line without its escape sequences, for the search.
func plain(line []byte, buf []byte) string {
	if bytes.IndexByte(line, 0x1b) < 0 && bytes.IndexByte(line, 0xc2) < 0 {
		return string(line)
	}
	var b bytes.Buffer
	_ = ansihtml.NewParser(bytes.NewReader(line), &b).ParseBuffer(buf, nil)
	return b.String()
}
