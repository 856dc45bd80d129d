package api

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/distci/distci/lib/repo"
)

// TestPosition moves through logs: what is complete is told in few words, and
// the rest to the byte.
func TestPosition(t *testing.T) {
	var p position
	for _, step := range []struct {
		log    string
		offset int64 // -1: it is complete
		want   string
	}{
		{"0000.01", 5, "0000.01:5"},
		{"0000.01", 7, "0000.01:7"},
		{"0000.01", -1, "0000.01:7"},
		{"0001.01", 3, "0001.01:3,0000.01"},
		{"console", 4, "console:4,0000.01,0001.01:3"}, // more of it may come
		{"0001.01", 9, "0001.01:9,0000.01,console:4"},
		{"0001.01", -1, "0001.01:9,0000.01,console:4"},
		{"0001.02", 1, "0001.02:1,0000.01+1,console:4"},
		{"0002.01", 2, "0002.01:2,0000.01+1,0001.02:1,console:4"},
		{"0001.02", -1, "0002.01:2,0000.01+1,0001.02,console:4"},
		{"0009.01", -1, "0002.01:2,0000.01+1,0001.02,console:4"}, // of which nothing was read
		{"0002.01", -1, "0002.01:2,0000.01+1,0001.02,console:4"},
		{"deploy.01", 8, "deploy.01:8,0000.01+2,0001.02,console:4"},
		{"deploy.01", -1, "deploy.01:8,0000.01+2,0001.02,console:4"},
		{"console", 6, "console:6,0000.01+2,0001.02,deploy.01"},
	} {
		if step.offset < 0 {
			p = p.end(step.log)
		} else {
			p = p.move(step.log, step.offset)
		}
		if got := p.String(); got != step.want {
			t.Fatalf("after %s %d: %q, want %q", step.log, step.offset, got, step.want)
		}
		if back, err := readPosition(p.String()); err != nil || back.String() != p.String() {
			t.Fatalf("%q is read as %q, %v", p, back, err)
		}
	}
	logs := []repo.LogInfo{{Name: "0000.01", Size: 7}, {Name: "0000.02", Size: 1}, {Name: "0001.01", Size: 9}, {Name: "0001.02", Size: 1},
		{Name: "0002.01", Size: 2}, {Name: "0003.01", Size: 1}, {Name: "console", Size: 11}, {Name: "deploy.01", Size: 8}}
	p, err := readPosition(p.String())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int64{"0000.01": 7, "0001.01": 9, "0001.02": 1, "0002.01": 2, "console": 6, "deploy.01": 8}
	if got := p.read(logs); !maps.Equal(got, want) || p.has(logs) {
		t.Errorf("read %v, want %v", got, want)
	}
	if p = p.move("console", 11); p.has(logs) || !p.has([]repo.LogInfo{logs[0], logs[2], logs[4], logs[6]}) {
		t.Errorf("%v has what was not read, or has not what was", p)
	}
}

// TestLongPosition: an id is never longer than one that is taken back.
func TestLongPosition(t *testing.T) {
	var p position
	for step := range 3000 {
		log := fmt.Sprintf("%04d.%02d", step, step%2+1) // no two are neighbours
		p = p.move(log, 5).end(log)
	}
	s := p.String()
	if len(s) > maxPosition || !strings.HasPrefix(s, "2999.02:5,0000.01,") {
		t.Errorf("%d bytes: %.40q", len(s), s)
	}
	if back, err := readPosition(s); err != nil || back.String() != s {
		t.Errorf("read as %.40q, %v", back, err)
	}
	for _, bad := range []string{"", ",", "x", "0001.01", "0001.01:5,", "0001.01:5,0000.01:", "0001.01:5,0000.01:1+2", "0001.01:5,0000.01+x",
		"0001.01:5,0000.01+-1", "0001.01:5,0000.01+10001", "0001.01:5,0000.01+9999,0000.02+9999", "0001.01:5,deploy.01+1", "0001.01:5,0000+1"} {
		if p, err := readPosition(bad); err == nil && p.log != "" {
			t.Errorf("%q is read as %q", bad, p)
		}
	}
}
