package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
)

// event is one that the server has sent.
type event struct{ name, id, data string }

// source reads a stream of events.
type source struct {
	testing.TB
	resp  *http.Response
	lines *bufio.Reader
	stop  func()
	last  string // the id of the last event that had one
}

// events opens a stream, which goes on after the event with the id last.
func (l *lab) events(path, last string) *source {
	l.Helper()
	ctx, stop := context.WithCancel(l.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", l.url+path, nil)
	if err != nil {
		l.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		l.Fatal(err)
	}
	s := &source{TB: l, resp: resp, lines: bufio.NewReader(resp.Body), stop: func() { stop(); resp.Body.Close() }}
	l.Cleanup(s.stop)
	if resp.StatusCode == 200 && (resp.Header.Get("Content-Type") != "text/event-stream" || !strings.Contains(resp.Header.Get("Cache-Control"), "no-transform") || resp.Header.Get("X-Accel-Buffering") != "no") {
		l.Errorf("%s: headers %v", path, resp.Header)
	}
	return s
}

// next reads an event; one without a name is the end of the stream.
func (s *source) next() (e event) {
	s.Helper()
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			return event{}
		}
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch key {
		case "event":
			e.name = value
		case "id":
			e.id, s.last = value, value
		case "data":
			e.data = value
		case "":
			if e.name != "" {
				return e
			}
		}
	}
}

// until reads up to an event whose data holds the text.
func (s *source) until(name, text string) event {
	s.Helper()
	for {
		e := s.next()
		if e.name == "" {
			s.Fatalf("the stream has ended without %s %s", name, text)
		}
		if e.name == name && strings.Contains(e.data, text) {
			return e
		}
	}
}

// reader follows a build's console over several connections.
type reader struct {
	*lab
	texts     map[string]string // by log
	last, end string
}

// read reads so many events, or to the end; then the connection breaks. Each
// byte comes once, in its place.
func (r *reader) read(n int) {
	r.Helper()
	s := r.events("/jobs/j/builds/1/console", r.last)
	defer s.stop()
	for range n {
		e := s.next()
		if e.name == "end" {
			if r.end = e.data; e.id != "end" {
				r.Errorf("the end's id is %q", e.id)
			}
			return
		}
		var d struct {
			Log, Text string
			Offset    int
		}
		if err := json.Unmarshal([]byte(e.data), &d); err != nil || e.name != "log" || d.Offset != len(r.texts[d.Log]) {
			r.Fatalf("%+v after %q: %v", e, r.texts, err)
		}
		r.texts[d.Log] += d.Text
		if want := fmt.Sprintf("%s:%d", d.Log, len(r.texts[d.Log])); !strings.Contains(d.Text, "\ufffd") && !strings.HasPrefix(e.id, want) {
			r.Errorf("id %q, want %q", e.id, want)
		}
		r.last = e.id
	}
}

// TestConsoleEvents follows a build's console over several connections.
func TestConsoleEvents(t *testing.T) {
	l := newLab(t)
	l.job("j", 2)
	l.control()
	r := &reader{lab: l, texts: map[string]string{}}
	for step := range 2 {
		c := l.native()
		log := l.repo.NewLog(t.Context(), "j", 1, c.Ticket.Step, 1)
		fmt.Fprintf(log, "one of %d\n€ and \xe2\x82", step)
		r.read(1)
		fmt.Fprintf(log, "\xac\nthree") // the rest of a character
		r.read(1)
		if err := l.repo.AppendConsole(t.Context(), "j", 1, fmt.Appendf(nil, "console %d\n", step)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(log, "\nfour\xff\n")
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		l.finish(c)
	}
	l.control()
	r.read(100)
	for step := range 2 {
		log := fmt.Sprintf("%04d.01", step)
		if want := fmt.Sprintf("one of %d\n€ and €\nthree\nfour\ufffd\n", step); r.texts[log] != want {
			t.Errorf("log %s is %q, want %q", log, r.texts[log], want)
		}
	}
	if r.texts["console"] != "console 0\nconsole 1\n" || r.end != `{"status":"complete","result":"success"}` {
		t.Errorf("the console is %q, the end %s", r.texts["console"], r.end)
	}
	if s := l.events("/jobs/j/builds/1/console", r.last); s.resp.StatusCode != 204 {
		t.Errorf("whoever has all gets %d", s.resp.StatusCode)
	}
	if s := l.events("/jobs/j/builds/1/console", "end"); s.resp.StatusCode != 204 {
		t.Errorf("whoever has seen the end gets %d", s.resp.StatusCode)
	}
	for _, bad := range []string{"x", "0000.01:-1", "0000.01:1,x:1", "../state:1", strings.Repeat("0000.01:1,", 900)} {
		if s := l.events("/jobs/j/builds/1/console", bad); s.resp.StatusCode != 400 {
			t.Errorf("Last-Event-ID %.20s: %d", bad, s.resp.StatusCode)
		}
	}

	// One log, from its second line on; and again from there.
	s := l.events("/jobs/j/builds/1/logs/0001.01?lines=2-", "")
	if e := s.until("log", "three"); !strings.HasPrefix(e.data, `{"log":"0001.01","offset":9,"text":"€ and €\n`) {
		t.Errorf("%+v", e)
	}
	s.until("end", `"size":`)
	if s := l.events("/jobs/j/builds/1/logs/0001.01", s.last); s.resp.StatusCode != 204 {
		t.Errorf("whoever has all of a log gets %d", s.resp.StatusCode)
	}
	s = l.events("/jobs/j/builds/1/logs/0001.01", "0001.01:9")
	s.until("log", `"offset":9`)
	if s := l.events("/jobs/j/builds/1/logs/0001.01", "0000.01:9"); s.resp.StatusCode != 400 {
		t.Errorf("the place in another log: %d", s.resp.StatusCode)
	}
}

// TestLateLogs: logs that come into being behind what a client has read, which
// are of later steps than the console, are not taken for ones that he has.
func TestLateLogs(t *testing.T) {
	l := newLab(t)
	l.job("j", 3)
	l.control()
	r := &reader{lab: l, texts: map[string]string{}}
	want := map[string]string{"console": "beside\n"}
	for step := range 3 {
		c := l.native()
		if step == 1 { // 0000.01 is there
			if err := l.repo.AppendConsole(t.Context(), "j", 1, []byte("beside\n")); err != nil {
				t.Fatal(err)
			}
			r.read(2)
			if len(r.texts) != 2 {
				t.Fatalf("read %q", r.texts)
			}
		}
		log := l.repo.NewLog(t.Context(), "j", 1, c.Ticket.Step, 1)
		want[fmt.Sprintf("%04d.01", step)] = fmt.Sprintf("step %d\n", step)
		fmt.Fprintf(log, "step %d\n", step)
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		l.finish(c)
	}
	l.control()
	r.read(1)
	r.read(100)
	if !maps.Equal(r.texts, want) {
		t.Errorf("read %q, want %q", r.texts, want)
	}
	if want := "0002.01:7,0000.01+1,console:7"; r.last != want {
		t.Errorf("the last id is %q, want %q", r.last, want)
	}
}

// TestBuildEvents: a build's changes, over a break of the connection, and those
// of all builds.
func TestBuildEvents(t *testing.T) {
	l := newLab(t)
	all := l.events("/events", "")
	l.job("j", 1)
	all.until("build", `"status":"preparing"`)
	s := l.events("/jobs/j/builds/1/events", "")
	s.until("build", `"status":"preparing"`)
	l.control()
	s.until("step", `"status":"pending"`)
	c := l.native()
	e := s.until("step", `"status":"running"`)
	if !strings.Contains(e.data, `"assignee":"native"`) || !strings.Contains(e.data, `"attempt":1`) {
		t.Errorf("%+v", e)
	}
	s.stop()
	l.finish(c)
	s = l.events("/jobs/j/builds/1/events", s.last)
	s.until("step", `"result":"success"`)
	tag := s.last
	s.stop()
	// Nothing was missed: the next event is one that is new.
	s = l.events("/jobs/j/builds/1/events", tag)
	l.control()
	if e := s.next(); e.name != "build" || !strings.Contains(e.data, `"status":"complete"`) {
		t.Errorf("after nothing was missed: %+v", e)
	}
	if e := s.next(); e.name != "end" || e.data != `{"status":"complete","result":"success"}` || s.next().name != "" {
		t.Errorf("%+v", e)
	}
	all.until("build", `"result":"success"`)
	if s := l.events("/jobs/j/builds/1/events", "end"); s.resp.StatusCode != 204 {
		t.Errorf("whoever has had the end gets %d", s.resp.StatusCode)
	}
	s = l.events("/jobs/j/builds/1/events", "")
	s.until("step", `"result":"success"`)
	s.until("end", "success")
	if s := l.events("/jobs/j/builds/9/events", ""); s.resp.StatusCode != 404 || s.resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("no build: %d %v", s.resp.StatusCode, s.resp.Header)
	}
	close(l.done) // the server ends: so does the stream
	for all.next().name != "" {
	}
}
