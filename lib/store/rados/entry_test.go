package rados

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/fault"
)

func TestAddress(t *testing.T) {
	a, err := ParseAddress("ceph://pool?conf=/etc/ceph/c.conf&id=ci&keyring=/k&namespace=n&timeout=5s")
	want := Address{"pool", "/etc/ceph/c.conf", "ci", "/k", "n", 5 * time.Second, 5 * time.Second}
	if err != nil || a != want {
		t.Errorf("%+v, %v; want %+v", a, err, want)
	}
	a, err = ParseAddress("ceph://pool")
	if want := (Address{"pool", "", "admin", "", "distci", 30 * time.Second, 10 * time.Second}); err != nil || a != want {
		t.Errorf("%+v, %v; want %+v", a, err, want)
	}
	for address, says := range map[string]string{
		"ceph:":                        "expected ceph://POOL",
		"ceph://":                      "expected ceph://POOL",
		"ceph://pool/folder":           "expected ceph://POOL",
		"ceph://me:secret@pool":        "expected ceph://POOL",
		"ceph://pool?user=x":           `unknown key "user"; known are conf, id, keyring, namespace, timeout`,
		"ceph://pool?id=a&id=b":        "id needs one value",
		"ceph://pool?conf=":            "conf needs one value",
		"ceph://pool?id=client.distci": `without "client."`,
		"ceph://pool?namespace=a+b":    "namespace",
		"ceph://pool?timeout=5":        "between 1s and 1h",
		"ceph://pool?timeout=2h":       "between 1s and 1h",
		"ceph://pool?%zz=1":            "invalid URL escape",
	} {
		_, err := ParseAddress(address)
		if err == nil || !strings.Contains(err.Error(), says) || fault.Of(err) != fault.Config {
			t.Errorf("%s: %v (%s), want %q", address, err, fault.Of(err), says)
		}
	}
}

func TestEntry(t *testing.T) {
	a, b, c := newID(), newID(), newID()
	if age := time.Since(made(a)); age < 0 || age > time.Minute {
		t.Errorf("an id was made %v ago", age)
	}
	e := &entry{modified: time.Unix(17, 42), segments: []segment{{a, 2*chunkSize + 5, chunkSize}, {b, 7, 7}}, tail: c}
	got, err := decodeEntry(e.encode())
	if err != nil || !got.modified.Equal(e.modified) || !slices.Equal(got.segments, e.segments) || got.tail != c {
		t.Fatalf("%+v, %v; want %+v", got, err, e)
	}
	if want := []string{a + ".000000", a + ".000001", a + ".000002", b + ".000000", c + ".000000"}; !slices.Equal(e.objects(), want) {
		t.Errorf("objects %q, want %q", e.objects(), want)
	}
	if e.closed() != 2*chunkSize+12 {
		t.Errorf("closed %d", e.closed())
	}
	for _, tt := range []struct {
		offset, n int64
		want      piece
	}{
		{0, 1 << 40, piece{a + ".000000", 0, chunkSize}},
		{5, 10, piece{a + ".000000", 5, 10}},
		{chunkSize + 1, chunkSize, piece{a + ".000001", 1, chunkSize - 1}},
		{2 * chunkSize, 100, piece{a + ".000002", 0, 5}},
		{2*chunkSize + 6, 100, piece{b + ".000000", 1, 6}},
		{2*chunkSize + 12, 100, piece{c + ".000000", 0, 100}},
		{2*chunkSize + 20, 100, piece{c + ".000000", 8, 100}},
	} {
		if got := e.piece(tt.offset, tt.n); got != tt.want {
			t.Errorf("piece(%d, %d) is %v, want %v", tt.offset, tt.n, got, tt.want)
		}
	}
	before := e.version(9)
	e.closeTail(9)
	if e.version(0) != before || e.tail != "" || e.segments[2] != (segment{c, 9, 9}) {
		t.Errorf("closed it is %+v, version %s, was %s", e, e.version(0), before)
	}
	empty := &entry{tail: a}
	empty.closeTail(0)
	if got, err := decodeEntry(empty.encode()); err != nil || got.closed() != 0 || len(got.objects()) != 0 {
		t.Errorf("an empty object: %+v, %v", got, err)
	}
}

func TestDamagedEntries(t *testing.T) {
	id := newID()
	for _, raw := range []string{"", "1", "1 5 -", "2 5 " + id, "1 x " + id, "1 5 abc", "1 5 - " + id, "1 5 - " + id + ":1", "1 5 - " + id + ":-1:4",
		"1 5 - " + id + ":1:0", "1 5 - " + id + ":x:4", "1 5 - zz:1:4", "1 5 - " + id + ":9223372036854775807:1"} {
		if e, err := decodeEntry([]byte(raw)); err == nil {
			t.Errorf("%q is read as %+v", raw, e)
		}
	}
}

func FuzzEntry(f *testing.F) {
	f.Add([]byte("1 5 - 0123456789ab0123456789abcdef:5:4194304"))
	f.Add([]byte("1 -7 0123456789ab0123456789abcdef"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := decodeEntry(raw)
		if err != nil {
			return
		}
		again, err := decodeEntry(e.encode())
		if err != nil || !bytes.Equal(again.encode(), e.encode()) {
			t.Fatalf("%q is read as %+v, then %+v, %v", raw, e, again, err)
		}
	})
}

func TestChunkNames(t *testing.T) {
	id := newID()
	for _, n := range []int64{0, 1, 0xabcdef, 0x1000000} {
		if got, m := chunkID(chunkName(id, n)); got != id || m != n {
			t.Errorf("chunk %d is read as %s, %d", n, got, m)
		}
	}
	for _, name := range []string{"", "root", id, id + ".", id + ".1", id + ".00000G", "x" + id + ".000000"} {
		if got, n := chunkID(name); got != "" {
			t.Errorf("%q is read as chunk %d of %s", name, n, got)
		}
	}
}

// TestExpect writes out what Ceph decodes: versions, length, mode, comparison, a
// map in the order of its keys, and an optional value that is there.
func TestExpect(t *testing.T) {
	got := hex.EncodeToString(expect(map[string][]byte{"!state": nil, "a": []byte("xy")}))
	want := "0101" + "24000000" + "0101" + "02000000" + "06000000" + hex.EncodeToString([]byte("!state")) + "00000000" +
		"01000000" + "61" + "02000000" + "7879" + "01" + "00000000"
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
