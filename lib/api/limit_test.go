package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distci/distci/lib/access"
)

// ask lets somebody ask once; it returns the seconds to wait, 0 for none.
func ask(l *Limits, p access.Principal, from string) int {
	c := &call{server: &server{Options: Options{Limits: l}}, who: p, from: from}
	var often *busy
	if errors.As(c.limit(), &often) {
		return often.seconds()
	}
	return 0
}

func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimits(2) // 20 at once
		forge := access.Principal{Name: "forge", Via: access.ViaToken, ID: "1"}
		other := access.Principal{Name: "forge", Via: access.ViaToken, ID: "2"}
		nobody := access.Anonymous("")
		run := func(p access.Principal, from func(i int) string) (taken int) {
			for taken < 1000 && ask(l, p, from(taken)) == 0 {
				taken++
			}
			return taken
		}
		for _, c := range []struct {
			name string
			p    access.Principal
			from func(i int) string
			want int
		}{
			{"one token, from many addresses", forge, func(i int) string { return fmt.Sprintf("192.0.2.%d", i) }, 20},
			{"another token, from the same", other, func(int) string { return "192.0.2.1" }, 20},
			{"no token", nobody, func(int) string { return "192.0.2.1" }, 20},
			{"no token, from elsewhere", nobody, func(int) string { return "192.0.2.2" }, 20},
			{"one network of IPv6", nobody, func(i int) string { return fmt.Sprintf("2001:db8::%x", i) }, 20},
			{"many networks of IPv6", nobody, func(i int) string { return fmt.Sprintf("2001:db8:0:%x::1", i+1) }, 1000},
			{"this machine", access.Local(), func(int) string { return "local" }, 1000},
		} {
			if n := run(c.p, c.from); n != c.want {
				t.Errorf("%s: %d requests were taken, want %d", c.name, n, c.want)
			}
		}
		if s := ask(l, forge, "192.0.2.1"); s != 1 {
			t.Errorf("told to wait for %d s", s)
		}
		time.Sleep(5 * time.Second)
		if n := run(forge, func(int) string { return "" }); n != 10 {
			t.Errorf("%d after a pause", n)
		}
	})
}

// TestLimitsAreSmall: however many ask, what is remembered is bounded, and who
// asks all the time is not forgotten.
func TestLimitsAreSmall(t *testing.T) {
	l := NewLimits(0.001) // one, and then none for long
	ask(l, access.Anonymous(""), "192.0.2.1")
	for i := range 5 * limitSlots {
		ask(l, access.Anonymous(""), fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
		if i%(limitSlots/2) == 0 && ask(l, access.Anonymous(""), "192.0.2.1") == 0 {
			t.Fatalf("forgotten after %d others", i)
		}
	}
	if len(l.slots) != limitSlots || l.used.Len() != limitSlots {
		t.Errorf("%d and %d are remembered", len(l.slots), l.used.Len())
	}
}

// TestTooMany: what a client is told.
func TestTooMany(t *testing.T) {
	l := NewLimits(0.1)
	s := &server{Options: Options{Limits: l, Access: access.Everybody(access.Anonymous(access.Read)), Traffic: &Traffic{}, Meter: noMeter{}}}
	h := http.HandlerFunc(s.serve)
	for i, path := range []string{"/healthz", "/healthz", "/nosuch", "/schema/job.json", "/jobs"} {
		w := httptest.NewRecorder()
		h(w, httptest.NewRequest("GET", path, nil))
		if i == 0 {
			if w.Code != 200 {
				t.Errorf("the first: status %d", w.Code)
			}
			continue
		}
		if after, err := strconv.Atoi(w.Header().Get("Retry-After")); w.Code != 429 || err != nil || after < 9 || after > 10 {
			t.Errorf("%s: status %d, Retry-After %q", path, w.Code, w.Header().Get("Retry-After"))
		}
	}
}

func TestAddress(t *testing.T) {
	trust := &Proxies{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}}
	for _, c := range []struct {
		proxies *Proxies
		remote  string
		header  []string
		want    string
	}{
		{nil, "192.0.2.1:1", nil, "192.0.2.1"},
		{nil, "[::ffff:192.0.2.1]:1", nil, "192.0.2.1"},
		{nil, "10.0.0.1:1", []string{"203.0.113.9"}, "10.0.0.1"},
		{nil, "@", []string{"203.0.113.9"}, "local"},
		{trust, "192.0.2.1:1", []string{"203.0.113.9"}, "192.0.2.1"}, // who is not trusted
		{trust, "10.0.0.1:1", nil, "10.0.0.1"},
		{trust, "10.0.0.1:1", []string{"203.0.113.9"}, "203.0.113.9"},
		{trust, "[::1]:1", []string{"2001:db8::1"}, "2001:db8::1"},
		{trust, "10.0.0.1:1", []string{"1.1.1.1, 203.0.113.9"}, "203.0.113.9"}, // the client's own word is not taken
		{trust, "10.0.0.1:1", []string{"1.1.1.1", "203.0.113.9"}, "203.0.113.9"},
		{trust, "10.0.0.1:1", []string{"203.0.113.9, 10.0.0.2, 10.0.0.3"}, "203.0.113.9"},
		{trust, "10.0.0.1:1", []string{"10.0.0.2"}, "10.0.0.2"},
		{trust, "10.0.0.1:1", []string{"203.0.113.9, nonsense"}, "10.0.0.1"},
		{trust, "10.0.0.1:1", []string{"203.0.113.9, 10.0.0.2, \"x\r\ny\""}, "10.0.0.1"},
		{trust, "@", []string{"203.0.113.9"}, "local"},
		{&Proxies{Socket: true}, "@", []string{"203.0.113.9"}, "203.0.113.9"},
		{&Proxies{Socket: true}, "10.0.0.1:1", []string{"203.0.113.9"}, "10.0.0.1"},
	} {
		r := &http.Request{RemoteAddr: c.remote, Header: http.Header{"X-Forwarded-For": c.header}}
		if got := c.proxies.address(r); got != c.want {
			t.Errorf("%s %q: %q, want %q", c.remote, c.header, got, c.want)
		}
	}
}
