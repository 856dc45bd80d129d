package api

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
)

// FuzzPath: whatever path matches a route has parameters that may be parts of
// keys, or is refused with 400.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"/jobs/j/builds/1/logs/0000.01", "/jobs/..%2f/builds/1", "//jobs//", "/tasks/01890000-0000-7000-8000-000000000000/lease", "/jobs/j/tags/%00", "/%zz", "/jobs/j/builds/9999999999999999/steps/a/log/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		u, err := url.ParseRequestURI("/" + strings.TrimPrefix(path, "/"))
		if err != nil {
			return
		}
		parts, err := split(u)
		if err != nil {
			return
		}
		for _, rt := range routes {
			args, ok := rt.match(parts)
			if !ok {
				continue
			}
			c := &call{}
			if err := c.bind(args); err != nil {
				if code, _ := answer(err); code != http.StatusBadRequest && code != http.StatusNotFound {
					t.Errorf("%q: %v", path, err)
				}
				continue
			}
			for _, part := range []string{c.job, c.tag, c.step, c.log, c.artifact, c.task} {
				if strings.ContainsAny(part, "/\x00\n:") || part == "." || part == ".." {
					t.Errorf("%q: parameter %q", path, part)
				}
			}
			if c.build < 0 || c.build > 9999999999999999 {
				t.Errorf("%q: build %d", path, c.build)
			}
		}
	})
}

// FuzzQuery: what is read from a query is within its bounds.
func FuzzQuery(f *testing.F) {
	for _, s := range []string{"wait=30&capabilities=a,b", "limit=10&before=5", "lines=1-2", "tail=-1", "offset=99999999999999999999", "lines=2-&follow=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.RawQuery = query
		c := &call{r: r}
		if v, err := c.view(); err == nil && (v.from < 0 || v.to < -1 || v.tail < -1 || v.offset < -1) {
			t.Errorf("%q: %+v", query, v)
		}
		if n, err := readLimit(r.URL.Query()); err == nil && (n < 0 || n > 10000) {
			t.Errorf("%q: limit %d", query, n)
		}
		wait, caps, err := readWait(r.URL.Query())
		if err == nil && (wait < 0 || wait > maxWait || len(caps) > maxCapabilities || slices.Contains(caps, "")) {
			t.Errorf("%q: %v %q", query, wait, caps)
		}
	})
}

// FuzzRange: a reply to a range is a part of what there is.
func FuzzRange(f *testing.F) {
	for _, s := range []string{"bytes=0-3", "bytes=-2", "bytes=5-", "bytes=0-0,2-3", "bytes=9-1", "x"} {
		f.Add(s)
	}
	const text = "0123456789"
	f.Fuzz(func(t *testing.T, header string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Range", header)
		w := httptest.NewRecorder()
		c := &call{w: w, r: r}
		if err := c.cached("text/plain", []byte(text), 0); err != nil {
			t.Fatal(err)
		}
		single := !strings.HasPrefix(w.Header().Get("Content-Type"), "multipart/")
		if body := w.Body.String(); w.Code < 300 && single && !strings.Contains(text, body) || w.Code == 200 && body != text || w.Code >= 500 {
			t.Errorf("%q: %d %q", header, w.Code, body)
		}
	})
}

// FuzzLastEventID: a position that is read is the same when it is written, and
// names logs only.
func FuzzLastEventID(f *testing.F) {
	for _, s := range []string{"0001.01:4096", "0001.01:4096,console:17", "console:0", "x", "0001.01:-1", "a.1:9223372036854775808"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, id string) {
		p, err := readPosition(id)
		if err != nil || p.log == "" {
			return
		}
		again, err := readPosition(p.String())
		if err != nil || again.String() != p.String() || strings.ContainsAny(p.String(), "\n\r") || p.offset < 0 {
			t.Errorf("%q: %+v, then %+v, %v", id, p, again, err)
		}
		m := p.move("0002.01", 5)
		if back, err := readPosition(m.String()); err != nil || back.log != "0002.01" || back.offset != 5 {
			t.Errorf("%q: moved %+v, %v", id, m, err)
		}
		logs := []repo.LogInfo{{Name: "0000.01", Size: 7}, {Name: p.log, Size: p.offset}}
		for log, at := range p.read(logs) {
			if !isLog(log) || at < 0 {
				t.Errorf("%q: read %q %d", id, log, at)
			}
		}
	})
}

// FuzzBegin: what a body asks for is text, or the body is refused or counts as
// none.
func FuzzBegin(f *testing.F) {
	for _, s := range []string{`{"parameters":{"A":"1"},"ref":"main"}`, `{"ref":7}`, `{"parameters":{"A":null}}`, `{"from":"1"}`, `{"from":2}`, "payload=x", "[]", "{"} {
		f.Add(s, "application/json")
		f.Add(s, "")
	}
	f.Fuzz(func(t *testing.T, body, typ string) {
		s, err := readStart([]byte(body), typ)
		if err != nil {
			if code, _ := answer(err); code != http.StatusBadRequest {
				t.Errorf("%q: %v", body, err)
			}
		} else if !utf8.ValidString(s.Ref) {
			t.Errorf("%q: ref %q", body, s.Ref)
		}
		if from, err := readRetry([]byte(body)); err == nil && from != "" && !isStep(from) {
			t.Errorf("%q: from %q", body, from)
		} else if err != nil && fault.Of(err) == fault.None {
			t.Error(err)
		}
		_, _ = ticket.Parse([]byte(body))
	})
}
