package api

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/distci/distci/lib/repo"
)

// headerOffset tells where in the log the reply begins, in bytes, if lines were
// asked for or the log is followed.
const headerOffset = "Log-Offset"

// view is the part of a log that a client wants to see.
type view struct {
	follow   bool  // and what comes
	events   bool  // the same, as server-sent events
	from, to int64 // lines, from 1 on; from 0: not given; to -1: the last
	tail     int64 // so many last lines; -1: not given
	offset   int64 // bytes before it; -1: not given
}

// given tells whether it is less than everything.
func (v *view) given() bool { return v.from > 0 || v.tail >= 0 || v.offset >= 0 }

// view reads the request for a part of a log.
func (c *call) view() (*view, error) {
	q := c.r.URL.Query()
	v := &view{to: -1, tail: -1, offset: -1, follow: c.r.Method == http.MethodGet && q.Get("follow") == "1", events: c.r.Method == http.MethodGet && c.wantsEvents()}
	given := 0
	for _, p := range []struct {
		name, want string
		read       func(s string) bool
	}{
		{"lines", "FROM-TO, FROM- or one number, from 1 on", v.lines},
		{"tail", "a number of lines", func(s string) bool { return number(s, &v.tail) }},
		{"offset", "a number of bytes", func(s string) bool { return number(s, &v.offset) }},
	} {
		if !q.Has(p.name) {
			continue
		}
		if given++; !p.read(q.Get(p.name)) {
			return nil, status(http.StatusBadRequest, p.name+": expected "+p.want)
		}
	}
	if given > 1 {
		return nil, status(http.StatusBadRequest, "lines, tail and offset exclude each other")
	}
	return v, nil
}

func (v *view) lines(s string) bool {
	from, to, ok := strings.Cut(s, "-")
	if !number(from, &v.from) || v.from == 0 {
		return false
	}
	switch {
	case !ok:
		v.to = v.from
	case to != "":
		return number(to, &v.to)
	}
	return true
}

// number reads digits and nothing else.
func number(s string, to *int64) bool {
	n, err := strconv.ParseUint(s, 10, 63)
	*to = int64(n)
	return err == nil
}

// find is where the part is in a log as it is now.
func (v *view) find(ctx context.Context, t *repo.Text) (start, end int64, err error) {
	switch {
	case v.from > 0:
		return t.Lines(ctx, v.from, v.to)
	case v.tail >= 0:
		start, err = t.Tail(ctx, v.tail)
		return start, t.Size, err
	case v.offset >= 0:
		// What the client has may not be in the store as we see it yet.
		return v.offset, max(v.offset, t.Size), nil
	}
	return 0, t.Size, nil
}

// text sends a log as it is now, or the part of it that is wanted, or that of
// the request's Range.
// What is kept may be kept for ever.
func (c *call) text(t *repo.Text, v *view, kept bool) error {
	ctx := c.r.Context()
	start, end, err := v.find(ctx, t)
	if err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	if kept {
		h.Set("Cache-Control", "private, max-age=31536000, immutable")
	}
	tag := t.Tag
	if v.given() {
		end = max(start, min(end, t.Size))
		h.Set(headerOffset, strconv.FormatInt(start, 10))
		tag += "-" + strconv.FormatInt(start, 10) + "-" + strconv.FormatInt(end, 10)
	}
	h.Set("Etag", `"`+tag+`"`)
	f := &object{size: end - start, open: func(offset int64) (io.ReadCloser, error) {
		return t.Open(ctx, start+offset, end-start-offset), nil
	}}
	defer f.Close()
	http.ServeContent(c.w, c.r, "", time.Time{}, f)
	return f.err
}

// isLog tells whether s can be the name of a log.
func isLog(s string) bool { return repo.ValidLog(s) && s == url.PathEscape(s) }
