package api_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/distci/distci/lib/api"
)

// described holds every request and reply of a handler against openapi.yaml: a
// request that succeeds is one that the description lets pass, and a reply has
// a status, a type and, if it is JSON, contents that are described.
func described(t testing.TB, h http.Handler) http.Handler {
	router := description(t)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		look := r.Clone(context.Background())
		if look.Method == http.MethodHead {
			look.Method = http.MethodGet
		}
		if u := *r.URL; len(u.Path) > 1 { // one slash may stand behind
			u.Path = strings.TrimSuffix(u.Path, "/")
			look.URL = &u
		}
		route, params, err := router.FindRoute(look)
		if err != nil || strings.Contains(r.URL.EscapedPath(), "%2f") {
			rec := &taken{ResponseWriter: w}
			h.ServeHTTP(rec, r)
			if err != nil && rec.code < 400 {
				t.Errorf("%s %s: status %d of what is not described: %v", r.Method, r.URL, rec.code, err)
			}
			return
		}
		body := &copied{from: r.Body}
		r.Body = body
		rec := &taken{ResponseWriter: w}
		defer func() { // also when the reply was broken off
			if p := recover(); p != nil {
				panic(p)
			}
			look.Body = io.NopCloser(bytes.NewReader(body.bytes()))
			in := &openapi3filter.RequestValidationInput{Request: look, PathParams: params, Route: route,
				Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, ExcludeRequestBody: !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json")}}
			if err := checkReply(in, rec, r); err != nil {
				t.Errorf("%s %s: %v", r.Method, r.URL, err)
			}
		}()
		h.ServeHTTP(rec, r)
	})
}

func checkReply(in *openapi3filter.RequestValidationInput, rec *taken, r *http.Request) error {
	if rec.code == 0 {
		rec.code = http.StatusOK
	}
	if err := openapi3filter.ValidateRequest(context.Background(), in); err != nil && rec.code < 400 {
		return fmt.Errorf("status %d of a request that the description refuses: %w", rec.code, err)
	}
	reply := in.Route.Operation.Responses.Status(rec.code)
	if reply == nil {
		return fmt.Errorf("status %d is not described: %.200s", rec.code, rec.body.Bytes())
	}
	if rec.code == http.StatusNoContent || rec.code == http.StatusNotModified || rec.code == http.StatusFound || rec.code == http.StatusSeeOther || rec.code == http.StatusPreconditionFailed || r.Method == http.MethodHead {
		return nil
	}
	typ := rec.Header().Get("Content-Type")
	if reply.Value.Content.Get(typ) == nil {
		return fmt.Errorf("status %d: the type %q is not described", rec.code, typ)
	}
	if strings.HasPrefix(typ, "text/event-stream") || !strings.Contains(typ, "json") || strings.Contains(typ, "schema") {
		return nil
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: rec.code, Header: rec.Header(), Options: &openapi3filter.Options{IncludeResponseStatus: true}}
	out.SetBodyBytes(rec.body.Bytes())
	return openapi3filter.ValidateResponse(context.Background(), out)
}

// description is read once by each test; a router may be used by many.
func description(t testing.TB) routers.Router {
	doc, err := openapi3.NewLoader().LoadFromData(api.OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return router
}

// copied remembers the beginning of a body.
type copied struct {
	from io.ReadCloser
	mu   sync.Mutex
	b    bytes.Buffer
}

func (c *copied) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.b.Len() < 1<<20 {
		c.b.Write(p[:n])
	}
	return n, err
}

func (c *copied) Close() error { return c.from.Close() }

func (c *copied) bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.b.Bytes())
}

// taken remembers a reply.
type taken struct {
	http.ResponseWriter
	code int
	body bytes.Buffer
}

func (k *taken) Unwrap() http.ResponseWriter { return k.ResponseWriter }

func (k *taken) WriteHeader(code int) {
	if k.code == 0 && code >= 200 {
		k.code = code
	}
	k.ResponseWriter.WriteHeader(code)
}

func (k *taken) Write(p []byte) (int, error) {
	if k.code == 0 {
		k.code = http.StatusOK
	}
	if k.body.Len() < 4<<20 {
		k.body.Write(p)
	}
	return k.ResponseWriter.Write(p)
}
