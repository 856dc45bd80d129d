package web

import (
	"html"
	"regexp"
	"strings"
	"testing"
)

func TestRender(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"text", "make: nothing to be done", "make: nothing to be done"},
		{"markup", `<b>&"'`, "&lt;b&gt;&amp;&#34;&#39;"},
		{"colour", "\x1b[31mred\x1b[0m plain", `<span class="f1">red</span> plain`},
		{"bold and bright", "\x1b[1;92mok\x1b[22mok\x1b[39mok", `<span class="b f10">ok</span><span class="f10">ok</span>ok`},
		{"background", "\x1b[41;97m FAIL \x1b[m", `<span class="f15 g1"> FAIL </span>`},
		{"256 colours", "\x1b[38;5;9mx\x1b[38;5;196my\x1b[48;5;240mz", `<span class="f9">x</span><span class="f1">y</span><span class="f1 g8">z</span>`},
		{"16 million colours", "\x1b[38;2;0;160;0mx", `<span class="f2">x</span>`},
		{"markup in colour", "\x1b[32m<i>\x1b[0m", `<span class="f2">&lt;i&gt;</span>`},
		{"no colour that there is", "\x1b[38;5mx\x1b[999mx", "xx"},
		{"an empty code", "\x1b[31;;1mx", `<span class="b">x</span>`},
		{"moves of the cursor", "a\x1b[2K\x1b[1Gb\x1b[Ac", "abc"},
		{"written over", "10%\r50%\r100%\r", "100%"},
		{"written over in colour", "\x1b[32m10%\r\x1b[0mdone", "done"},
		{"a title", "\x1b]0;title\x07text", "text"},
		{"a link", "\x1b]8;;javascript:alert(1)\x07text\x1b]8;;\x07", "text"},
		{"broken off", "text\x1b[3", "text"},
		{"not UTF-8", "a\xff\xfeb", "a\uFFFDb"},
		{"control characters", "a\x00\x07\bb\tc", "ab\tc"},
		{"turned round", "a\u202eb", "a\uFFFDb"},
	} {
		var r renderer
		if got := r.render([]byte(c.in)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestRenderGoesOn: a colour is the next line's, too, and a sequence is not.
func TestRenderGoesOn(t *testing.T) {
	var r renderer
	for _, c := range []struct{ in, want string }{
		{"\x1b[33mone\n", `<span class="f3">one</span>`},
		{"two\n", `<span class="f3">two</span>`},
		{"\x1b]0;never ends\n", ""},
		{"\x1b[0mthree", "three"},
	} {
		if got := r.render([]byte(c.in)); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
}

func TestRenderLongLine(t *testing.T) {
	var r renderer
	got := r.render([]byte(strings.Repeat("x", maxLine+7)))
	if !strings.HasSuffix(got, `<span class="cut">… 7 bytes more</span>`) || len(got) > maxLine+100 {
		t.Errorf("%d bytes, the last %q", len(got), got[len(got)-60:])
	}
}

var (
	ours  = regexp.MustCompile(`^<span class="[a-z0-9 ]+">$|^</span>$`)
	marks = regexp.MustCompile(`<[^>]*>?`)
)

// FuzzRender: there is nothing but our spans, in pairs, and text.
func FuzzRender(f *testing.F) {
	for _, s := range []string{"", "text", "\x1b[31mred\x1b[0m", "<script>", "\x1b]8;;x\x07y", "\xc2\x9b31m", "\x1b[38;2;1;2;3mx\r<", "a\u202eb\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var r renderer
		out := r.render(line)
		depth := 0
		for _, m := range marks.FindAllString(out, -1) {
			if !ours.MatchString(m) {
				t.Fatalf("%q: %q in %q", line, m, out)
			}
			if m == "</span>" {
				depth--
			} else {
				depth++
			}
			if depth < 0 || depth > 1 {
				t.Fatalf("%q: spans that are not pairs: %q", line, out)
			}
		}
		text := marks.ReplaceAllString(out, "")
		if depth != 0 || strings.ContainsAny(text, "<>\"'\x00\x1b\r\n") || strings.ContainsAny(html.UnescapeString(text), "\x00\x1b\r") {
			t.Fatalf("%q: %q", line, out)
		}
	})
}
