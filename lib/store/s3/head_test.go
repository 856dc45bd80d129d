package s3

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestHead(t *testing.T) {
	for _, h := range []*head{
		{},
		{tail: []byte("some bytes\n")},
		{tail: bytes.Repeat([]byte("x"), tailMax)},
		{pieces: []piece{{randomName(), 1}}},
		{pieces: []piece{{randomName(), 5 << 40}, {randomName(), 1}}, tail: []byte("the end")},
		{pieces: slices.Repeat([]piece{{randomName(), 12345}}, 1000), tail: []byte(strings.Repeat(" \n", 500))},
	} {
		n := newHead()
		h.name, h.chain, h.previous = n.name, randomName(), fingerprint("x")
		b := h.encode()
		got, err := decode(b)
		if err != nil {
			t.Fatalf("%d pieces, %d bytes: %v", len(h.pieces), len(h.tail), err)
		}
		if got.name != h.name || got.chain != h.chain || got.previous != h.previous || !slices.Equal(got.pieces, h.pieces) || !bytes.Equal(got.tail, h.tail) {
			t.Errorf("%d pieces, %d bytes: came back otherwise", len(h.pieces), len(h.tail))
		}
		// What a listing goes by.
		if len(h.pieces) > 0 && len(b)%step != 0 || len(h.pieces) == 0 && len(b) != prologue+len(h.tail) {
			t.Errorf("%d pieces, %d bytes: a head of %d bytes", len(h.pieces), len(h.tail), len(b))
		}
	}
}

func FuzzHead(f *testing.F) {
	f.Add(newHead().encode())
	h := newHead()
	h.pieces, h.tail = []piece{{randomName(), 7}, {randomName(), 1 << 40}}, []byte("tail")
	f.Add(h.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decode(b)
		if err != nil {
			return
		}
		again, err := decode(h.encode())
		if err != nil || again.size() != h.size() || !slices.Equal(again.pieces, h.pieces) || !bytes.Equal(again.tail, h.tail) {
			t.Errorf("%q was read as %+v, written and read as %+v, %v", b, h, again, err)
		}
	})
}

func TestMergeable(t *testing.T) {
	sizes := func(s ...int64) (pieces []piece) {
		for _, n := range s {
			pieces = append(pieces, piece{size: n})
		}
		return pieces
	}
	for _, tt := range []struct {
		pieces []piece
		want   int
	}{
		{nil, 0},
		{sizes(1), 0},
		{sizes(slices.Repeat([]int64{1}, mergeCount-1)...), 0},
		{sizes(slices.Repeat([]int64{1}, mergeCount)...), mergeCount},
		{sizes(append([]int64{small}, slices.Repeat([]int64{1}, mergeCount)...)...), mergeCount},
		{sizes(small-1, small-1), 0},
		{sizes(small-1, small-1, 2), 3},
		{sizes(1, 2, small), 0},
	} {
		if got := mergeable(tt.pieces); len(got) != tt.want {
			t.Errorf("of %d pieces %d are merged, want %d", len(tt.pieces), len(got), tt.want)
		}
	}
}
