package secret

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

func masker(values ...string) *Masker {
	var secrets []Secret
	for i, v := range values {
		secrets = append(secrets, Secret{fmt.Sprint("S", i), []byte(v)})
	}
	m, _ := NewMasker(secrets)
	return m
}

func TestMask(t *testing.T) {
	for _, c := range []struct {
		secrets  []string
		in, want string
	}{
		{nil, "abcd", "abcd"},
		{[]string{"hunter22\n"}, "password hunter22, hunter2, hunter22\n", "password ***, hunter2, ***\n"},
		{[]string{"abcd"}, "abcdabcd abc", "****** abc"},
		{[]string{"abcabc"}, "abcabcabc", "***"}, // both of them
		{[]string{"abcd", "cdef"}, "xabcdefx", "x***x"},
		{[]string{"abcd", "abcdefgh"}, "abcdefgx abcdefgh", "***efgx ***"},
		{[]string{"abcdef", "bcde"}, "abcdef bcde bcdef", "*** *** ***f"},
		{[]string{"  first line  \r\n\n\tsecond\nab\n"}, "first line; second; ab; first", "***; ***; ab; first"},
		{[]string{"-----BEGIN KEY-----\nMIIE\n-----END KEY-----\n"}, "  MIIE\r\n", "  ***\r\n"},
		{[]string{"a\x00\xff\x00b"}, "\xff\x00a\x00\xff\x00b\xff", "\xff\x00***\xff"},
		{[]string{"abc"}, "abc", "abc"},
	} {
		m := masker(c.secrets...)
		if got := m.String(c.in); got != c.want {
			t.Errorf("%q in %q: %q, want %q", c.secrets, c.in, got, c.want)
		}
		for cut := range len(c.in) + 1 {
			var out strings.Builder
			w := m.Writer(&out)
			io.WriteString(w, c.in[:cut])
			io.WriteString(w, c.in[cut:])
			w.Flush()
			if out.String() != c.want {
				t.Errorf("%q in %q|%q: %q, want %q", c.secrets, c.in[:cut], c.in[cut:], &out, c.want)
			}
		}
	}
}

func TestShort(t *testing.T) {
	_, short := NewMasker([]Secret{{"PIN", []byte("123\n")}, {"LONG", []byte("12\n1234")}, {"BLANK", []byte(" \n")}})
	if fmt.Sprint(short) != "[PIN BLANK]" {
		t.Error(short)
	}
}

// TestHoldsBackOnlyBeginnings: a line is seen at once unless it ends as a secret
// begins.
func TestHoldsBackOnlyBeginnings(t *testing.T) {
	var out strings.Builder
	w := masker("secret-1", "other").Writer(&out)
	for _, c := range []struct{ write, seen string }{
		{"a line\n", "a line\n"}, {"secret", "a line\n"}, {"-2", "a line\nsecret-2"}, {" secret-", "a line\nsecret-2 "},
		{"1", "a line\nsecret-2 ***"}, {"o", "a line\nsecret-2 ***"}, {"\n", "a line\nsecret-2 ***o\n"}, {"oth", "a line\nsecret-2 ***o\n"},
	} {
		io.WriteString(w, c.write)
		if out.String() != c.seen {
			t.Errorf("after %q: %q, want %q", c.write, &out, c.seen)
		}
	}
	if w.Flush(); out.String() != "a line\nsecret-2 ***o\noth" {
		t.Errorf("at the end: %q", &out)
	}
}

type broken struct{ after int }

func (b *broken) Write(p []byte) (int, error) {
	if b.after--; b.after < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

func TestWriterKeepsTheError(t *testing.T) {
	w := masker("secret").Writer(&broken{after: 1})
	if n, err := io.WriteString(w, "fine"); n != 4 || err != nil {
		t.Error(n, err)
	}
	for range 2 {
		if _, err := io.WriteString(w, "not"); err != io.ErrShortWrite {
			t.Error(err)
		}
	}
	if err := w.Flush(); err != io.ErrShortWrite {
		t.Error(err)
	}
}

// naive looks for each pattern at each place.
func naive(m *Masker, text []byte) []byte {
	covered := make([]bool, len(text)) // by a secret
	begins := make([]bool, len(text)+1)
	end := 0
	for i := range text {
		longest := 0
		for _, p := range m.patterns {
			if bytes.HasPrefix(text[i:], p) {
				longest = max(longest, len(p))
			}
		}
		if longest == 0 {
			continue
		}
		begins[i] = i >= end
		end = max(end, i+longest)
		for k := i; k < end; k++ {
			covered[k] = true
		}
	}
	var out []byte
	for i, c := range text {
		if begins[i] {
			out = append(out, stars...)
		}
		if !covered[i] {
			out = append(out, c)
		}
	}
	return out
}

// agree holds the writer against the naive search, and what it holds back against
// what it may.
func agree(t *testing.T, secrets []Secret, text []byte, seed uint64) {
	t.Helper()
	m, _ := NewMasker(secrets)
	want := naive(m, text)
	var out bytes.Buffer
	w := m.Writer(&out)
	random := rand.New(rand.NewPCG(seed, 1))
	for rest := text; len(rest) > 0; {
		n := 1 + random.IntN(min(len(rest), 1+random.IntN(64)))
		if k, err := w.Write(rest[:n]); k != n || err != nil {
			t.Fatal(k, err)
		}
		rest = rest[n:]
		held := false
		for _, p := range m.patterns {
			held = held || len(w.held) < len(p) && bytes.HasPrefix(p, w.held)
		}
		if len(w.held) > 0 && !held {
			t.Fatalf("holds back %q, with which no secret of %q begins", w.held, m.patterns)
		}
	}
	if w.Flush(); !bytes.Equal(out.Bytes(), want) {
		t.Fatalf("%q in %q:\n%q, want\n%q", m.patterns, text, &out, want)
	}
	if got := m.String(string(text)); got != string(want) {
		t.Fatalf("%q in %q as a whole:\n%q, want\n%q", m.patterns, text, got, want)
	}
}

// TestRandom has few letters, so that secrets overlap and almost occur.
func TestRandom(t *testing.T) {
	for seed := range uint64(4000) {
		random := rand.New(rand.NewPCG(seed, 0))
		letters := func(n int) []byte {
			b := make([]byte, n)
			for i := range b {
				b[i] = "ab\nc"[random.IntN(2+int(seed%3))]
			}
			return b
		}
		var secrets []Secret
		for range 1 + random.IntN(4) {
			secrets = append(secrets, Secret{"S", letters(1 + random.IntN(24))})
		}
		text := letters(random.IntN(100))
		for range random.IntN(4) {
			s := secrets[random.IntN(len(secrets))].Value
			text = append(append(text, s[:random.IntN(len(s)+1)]...), letters(random.IntN(3))...)
		}
		agree(t, secrets, text, seed)
	}
}

func FuzzMask(f *testing.F) {
	f.Add([]byte("secret\nother"), []byte("sec"), []byte("a secret secsecret"), uint64(1))
	f.Add([]byte("aaaaaaaa"), []byte("aaaaa"), []byte("aaaaaaabaaaaaaaaaaaaaaaaaaa"), uint64(2))
	f.Fuzz(func(t *testing.T, a, b, text []byte, seed uint64) {
		if len(text) > 10_000 || len(a)+len(b) > 1000 {
			return
		}
		agree(t, []Secret{{"A", a}, {"B", b}}, text, seed)
	})
}

// BenchmarkMask writes as a step's pipe is read, 32 KiB at a time.
func BenchmarkMask(b *testing.B) {
	text := []byte(strings.Repeat("compiling lib/workspace/archive.go with -O2 -g, 17 of 4711: token=none, no warnings\n", 400))[:32<<10]
	rsa := "-----BEGIN PRIVATE KEY-----\n"
	random := rand.New(rand.NewPCG(1, 2))
	for range 26 {
		for range 64 {
			rsa += string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[random.IntN(64)])
		}
		rsa += "\n"
	}
	rsa += "-----END PRIVATE KEY-----\n"
	for name, values := range map[string][]string{
		"none":    nil,
		"tokens":  {"ghp_16C7e42F292c6912E7710c838347Ae178B4a", "glpat-XXXXyyyyZZZZ00001111", "AKIAIOSFODNN7EXAMPLE"},
		"short":   {"1234", "hunter22", "token"},
		"rsa-key": {rsa},
	} {
		b.Run(name, func(b *testing.B) {
			w := masker(values...).Writer(io.Discard)
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				w.Write(text)
			}
		})
	}
}
