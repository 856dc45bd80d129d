// Package web makes the pages that people see under /ui: HTML from templates,
// with one style sheet and a little script, all of it in the program.
//
// Everything can be read without script. What script adds is what moves: logs
// as they come, states as they change, times in the reader's zone. A page never
// runs anything but our own script and style (see policy); all that comes from
// jobs, workers and repositories goes through html/template or [render], and
// nothing else writes HTML.
//
// Package api owns the routes, the roles and the errors, and calls in here.
package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
)

// Options is what New needs besides the repository. The zero value is usable.
type Options struct {
	// SignIn tells that people can sign in, at /ui/sign-in, and out again.
	SignIn bool
	// Done is closed when the server is to end: logs are no longer followed.
	Done <-chan struct{}
}

// Pages are the pages of one frontend. They may be asked for by several
// goroutines.
type Pages struct {
	repo *repo.Repo
	Options
	assets    *assets
	templates *template.Template
	index     *index
	searches  chan struct{} // held while a log is searched: that takes a processor
}

// maxSearches bounds how many logs are searched at a time.
const maxSearches = 2

// New returns the pages over r.
func New(r *repo.Repo, o Options) *Pages {
	p := &Pages{repo: r, Options: o, assets: newAssets(), index: newIndex(r), searches: make(chan struct{}, maxSearches)}
	p.templates = template.Must(template.New("").Funcs(p.functions()).ParseFS(templateFiles, "templates/*.html"))
	return p
}

// request is what the path of a request names.
type request struct {
	Job   string
	Build ticket.Number
	Log   string
	Asset string
}

// named is what the path of a request names; package api has checked it.
func named(r *http.Request) request {
	n, _ := strconv.ParseInt(r.PathValue("build"), 10, 64) // 0 where the path names none
	return request{Job: r.PathValue("job"), Build: ticket.Number(n), Log: r.PathValue("log"), Asset: r.PathValue("name")}
}

// policy is the Content-Security-Policy of every page.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// view is what every template gets.
type view struct {
	Title   string
	Section string // of the navigation
	Path    string // of the request, with its query, to come back to
	Refresh int    // seconds until script looks again; 0: it does not
	Events  string // address of events that tell when to look again; "": none
	Log     bool   // the page has logs
	SignIn  bool
	Who     access.Principal
	Data    any
}

// show sends a page.
func (p *Pages) show(w http.ResponseWriter, r *http.Request, name string, v view) error {
	return p.send(w, r, http.StatusOK, name, v)
}

func (p *Pages) send(w http.ResponseWriter, r *http.Request, code int, name string, v view) error {
	v.Path, v.SignIn, v.Who = r.URL.RequestURI(), p.SignIn, access.FromContext(r.Context())
	var b bytes.Buffer
	if err := p.templates.ExecuteTemplate(&b, name, v); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	return reply(w, r, code, "text/html; charset=utf-8", b.Bytes())
}

// reply sends a document that is asked for again and again and is mostly the
// same: with a tag, and compressed if that is worth it.
func reply(w http.ResponseWriter, r *http.Request, code int, typ string, body []byte) error {
	h := w.Header()
	h.Set("Content-Type", typ)
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "private, no-cache")
	}
	h.Add("Vary", "Accept-Encoding, Cookie")
	sum := sha256.Sum256(body)
	tag := `W/"` + hex.EncodeToString(sum[:12]) + `"`
	if code == http.StatusOK {
		h.Set("Etag", tag)
		if matches(r.Header.Get("If-None-Match"), tag) {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	if len(body) > 1<<10 && takesGzip(r) {
		body = compressed(body, gzip.DefaultCompression)
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	if r.Method == http.MethodHead {
		return nil
	}
	_, _ = w.Write(body) // a reader who has gone needs no answer
	return nil
}

// matches tells whether a list of tags has one of them.
func matches(list, tag string) bool {
	for t := range strings.SplitSeq(list, ",") {
		if t = strings.TrimSpace(t); t == tag || t == "*" {
			return true
		}
	}
	return false
}

func takesGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(part, ";")
		if strings.TrimSpace(name) == "gzip" && strings.ReplaceAll(q, " ", "") != "q=0" {
			return true
		}
	}
	return false
}

func compressed(b []byte, level int) []byte {
	var out bytes.Buffer
	z, _ := gzip.NewWriterLevel(&out, level) // the level is one of the package's
	_, _ = z.Write(b)                        // into memory
	_ = z.Close()
	return out.Bytes()
}

// problem is what an error's page tells.
type problem struct {
	Code int
	Name string
	Text string
}

// Fail sends the page of an error. Nobody needs to be known for it.
func (p *Pages) Fail(w http.ResponseWriter, r *http.Request, code int, text string) {
	v := view{Title: http.StatusText(code), Data: problem{code, http.StatusText(code), text}}
	if err := p.send(w, r, code, "problem.html", v); err != nil {
		http.Error(w, text, code)
	}
}

// may tells whether the reader may do what needs the role to a job.
func may(ctx context.Context, need access.Role, job string) bool {
	return access.FromContext(ctx).May(need, job) == nil
}

// stamp is a time as HTML wants it.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
