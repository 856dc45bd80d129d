package web

import (
	"bufio"
	"context"
	"fmt"
	"html"
	"html/template"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
)

const (
	// window bounds how many lines one reply has.
	window = 1000
	// lead is how many lines are read before those that are asked for, so that a
	// colour that was set there goes on.
	lead = 50
	// tailLines is how much of its log a build's page shows by itself.
	tailLines = 200
)

// logPage is what the page of one log shows.
type logPage struct {
	Job      string
	Build    ticket.Number
	Name     string // of the log
	Step     string // its key; "" if it is of none
	Attempt  int
	Size     int64
	Live     bool
	Total    int64 // lines
	From, To int64
	Lines    template.HTML
	Find     string
	Found    *found
	Previous int64 // first line of the page before; 0: there is none
	Next     int64
}

// Log sends a log: a page of it for reading without script; with ?part the lines
// that script asks for, and with ?follow those that come.
func (p *Pages) Log(w http.ResponseWriter, r *http.Request) error {
	q := named(r)
	ctx, query := r.Context(), r.URL.Query()
	if query.Has("follow") {
		return p.follow(w, r, q)
	}
	if query.Has("find") && query.Has("part") {
		return p.find(w, r, q)
	}
	t, err := p.repo.LogText(ctx, q.Job, q.Build, q.Log)
	if err != nil {
		return err
	}
	total, err := t.Count(ctx)
	if err != nil {
		return err
	}
	from, to, err := lineRange(query.Get("lines"), total)
	if err != nil {
		return err
	}
	step, attempt := logOf(q.Log)
	lines, err := p.lines(ctx, t, step, from, to)
	if err != nil {
		return err
	}
	if query.Has("part") {
		h := w.Header()
		h.Set("Log-Lines", strconv.FormatInt(total, 10))
		if t.Sealed {
			// The script that asks has the same age as what makes the answer.
			h.Set("Cache-Control", "private, max-age=3600")
		}
		return reply(w, r, http.StatusOK, "text/html; charset=utf-8", []byte(lines))
	}
	data := logPage{Job: q.Job, Build: q.Build, Name: q.Log, Step: step, Attempt: attempt, Size: t.Size, Live: !t.Sealed,
		Total: total, From: from, To: min(to, total), Lines: lines, Find: query.Get("find")}
	if data.Find != "" {
		if data.Found, err = p.search(ctx, t, data.Find); err != nil {
			return err
		}
	}
	if from > 1 {
		data.Previous = max(1, from-window)
	}
	if to < total {
		data.Next = to + 1
	}
	return p.show(w, r, "log.html", view{Title: fmt.Sprintf("Log %s · %s #%d", q.Log, q.Job, q.Build), Section: "jobs", Data: data})
}

// lineRange reads FROM-TO; without it, the first lines.
func lineRange(s string, total int64) (from, to int64, err error) {
	if s == "" {
		return 1, window, nil
	}
	a, b, ok := strings.Cut(s, "-")
	from, err = strconv.ParseInt(a, 10, 64)
	to = from + window - 1
	if err == nil && ok && b != "" {
		to, err = strconv.ParseInt(b, 10, 64)
	}
	if err != nil || from < 1 || to < from {
		return 0, 0, fault.Errorf(fault.Usage, "lines: expected FROM-TO, from 1 on")
	}
	return from, min(to, from+window-1), nil
}

// logOf tells of what step a log is, by its name, and of which attempt.
func logOf(name string) (step string, attempt int) {
	step, number, ok := strings.Cut(name, ".")
	if !ok {
		return "", 0
	}
	attempt, _ = strconv.Atoi(number)
	if n, err := strconv.Atoi(step); err == nil { // the store has them with zeros
		step = strconv.Itoa(n)
	}
	return step, attempt
}

// anchor is what the links to a log's lines begin with.
func anchor(step string) string {
	if step == "" {
		return "console"
	}
	return step
}

// lines renders lines of a log as elements of a list.
func (p *Pages) lines(ctx context.Context, t *repo.Text, step string, from, to int64) (template.HTML, error) {
	first := max(1, from-lead)
	start, end, err := t.Lines(ctx, first, to)
	if err != nil {
		return "", err
	}
	rd := t.Open(ctx, start, end-start)
	defer rd.Close()
	var b strings.Builder
	var rend renderer
	lines := newLineReader(rd)
	for n := first; ; n++ {
		line, cut, err := lines.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", err
		}
		text := rend.render(line)
		if n >= from {
			writeLine(&b, anchor(step), n, text, cut)
		}
	}
	return template.HTML(b.String()), nil // every part of it is escaped
}

// writeLine writes the element of a line whose text is rendered.
func writeLine(b *strings.Builder, anchor string, n int64, text string, cut int64) {
	id := html.EscapeString(anchor) + ":" + strconv.FormatInt(n, 10)
	b.WriteString(`<li id="` + id + `"><a href="#` + id + `" tabindex="-1">` + strconv.FormatInt(n, 10) + `</a><span class="t">` + text)
	if cut > 0 {
		b.WriteString(`<span class="cut">… ` + strconv.FormatInt(cut, 10) + ` bytes more</span>`)
	}
	b.WriteString("</span></li>\n")
}

// lineReader reads lines of any length in little memory.
type lineReader struct {
	r    *bufio.Reader
	line []byte
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 64<<10)}
}

// next returns a line, which is good until the next call, and how many bytes
// of it were left out; io.EOF behind the last one.
func (l *lineReader) next() (line []byte, cut int64, err error) {
	l.line = l.line[:0]
	for {
		piece, err := l.r.ReadSlice('\n')
		room := max(0, maxLine-len(l.line))
		l.line = append(l.line, piece[:min(room, len(piece))]...)
		cut += int64(max(0, len(piece)-room))
		switch {
		case err == nil:
			if cut > 0 {
				cut-- // the newline
			}
			return l.line, cut, nil
		case err == bufio.ErrBufferFull:
		case err == io.EOF && (len(l.line) > 0 || cut > 0):
			return l.line, cut, nil
		default:
			return nil, 0, err
		}
	}
}

// found is where a log has a text.
type found struct {
	Lines []int64 `json:"lines"` // numbers, in order
	More  bool    `json:"more"`  // there are more than these
}

const (
	maxFound  = 1000
	maxFind   = 200 // bytes of what is looked for
	searchFor = 20 * time.Second
)

// search finds the lines that have a text, whatever its case.
func (p *Pages) search(ctx context.Context, t *repo.Text, what string) (*found, error) {
	if len(what) > maxFind {
		return nil, fault.Errorf(fault.Usage, "find: expected at most %d bytes", maxFind)
	}
	ctx, cancel := context.WithTimeout(ctx, searchFor)
	defer cancel()
	select {
	case p.searches <- struct{}{}:
		defer func() { <-p.searches }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	f := &found{Lines: []int64{}}
	what = strings.ToLower(what)
	rd := t.Open(ctx, 0, -1)
	defer rd.Close()
	lines, buf := newLineReader(rd), make([]byte, maxLine)
	for n := int64(1); ; n++ {
		line, _, err := lines.next()
		if err == io.EOF {
			return f, nil
		}
		if err != nil {
			return nil, err
		}
		if !strings.Contains(strings.ToLower(plain(line, buf)), what) {
			continue
		}
		if len(f.Lines) == maxFound {
			f.More = true
			return f, nil
		}
		f.Lines = append(f.Lines, n)
	}
}
