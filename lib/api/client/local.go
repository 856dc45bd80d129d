package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
)

// local is an [http.RoundTripper] that calls a handler. Bodies are streamed
// both ways, so that a log can be followed and an upload is not kept in
// memory.
type local struct {
	handler http.Handler
	running sync.WaitGroup
}

// RoundTrip calls the handler, and returns when it has begun to answer.
func (l *local) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	r := req.Clone(ctx) // a handler may change what it gets
	r.RequestURI = req.URL.RequestURI()
	r.RemoteAddr = "@" // as of a unix socket
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	r.Host = req.URL.Host
	if r.Body == nil {
		r.Body = http.NoBody
	}
	pr, pw := io.Pipe()
	w := &localWriter{header: http.Header{}, pipe: pw, begun: make(chan struct{})}
	l.running.Go(func() {
		err := serve(l.handler, w, r)
		if err == nil { // a handler that was told to stop may have left out what was to come
			err = ctx.Err()
		}
		w.end(err)
		r.Body.Close()
	})
	select {
	case <-w.begun:
	case <-ctx.Done():
		pr.CloseWithError(ctx.Err())
		cancel()
		return nil, req.Context().Err()
	}
	if w.failed != nil {
		cancel()
		return nil, w.failed
	}
	// A handler that does not look at its context still must not keep a reader.
	stop := context.AfterFunc(ctx, func() { pr.CloseWithError(ctx.Err()) })
	return &http.Response{
		Status:        fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)),
		StatusCode:    w.status,
		Proto:         r.Proto,
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        w.sent,
		ContentLength: w.length,
		Request:       req,
		Body: &localBody{pr, func() {
			stop()
			cancel()
		}},
	}, nil
}

// serve calls the handler. A panic is an error, as a broken connection would
// be.
func serve(h http.Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			err = io.ErrUnexpectedEOF
		default:
			err = fmt.Errorf("the handler panicked: %v", p)
		}
	}()
	h.ServeHTTP(w, r)
	return nil
}

// localBody is the body of a reply. Closing it ends the handler.
type localBody struct {
	*io.PipeReader
	cancel func()
}

func (b *localBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

// localWriter is the handler's side. As with net/http it is used by one
// goroutine at a time.
type localWriter struct {
	header http.Header
	pipe   *io.PipeWriter
	begun  chan struct{} // closed when what follows is set
	status int
	sent   http.Header
	length int64 // declared; -1: not
	failed error // the handler failed before it answered

	written int64
}

var (
	_ http.Flusher = (*localWriter)(nil)

	errTooLong = errors.New("the handler wrote more than the declared Content-Length")
)

func (w *localWriter) Header() http.Header { return w.header }

func (w *localWriter) WriteHeader(status int) {
	if w.status != 0 || status < 200 { // 1xx are for those who wait, and nobody does
		return
	}
	w.status, w.sent, w.length = status, w.header.Clone(), -1
	if n, err := strconv.ParseInt(w.sent.Get("Content-Length"), 10, 64); err == nil && n >= 0 {
		w.length = n
	}
	close(w.begun)
}

func (w *localWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	switch {
	case w.status == http.StatusNoContent || w.status == http.StatusNotModified:
		return 0, http.ErrBodyNotAllowed
	case w.length >= 0 && w.written+int64(len(p)) > w.length:
		return 0, errTooLong
	}
	n, err := w.pipe.Write(p)
	w.written += int64(n)
	return n, err
}

// Flush has nothing to do but to send the header: no byte waits.
func (w *localWriter) Flush() { w.WriteHeader(http.StatusOK) }

// end tells the reader that the handler has returned.
func (w *localWriter) end(err error) {
	if err != nil && w.status == 0 {
		w.failed = err
		close(w.begun)
		return
	}
	w.WriteHeader(http.StatusOK)
	if err == nil && w.length > w.written && w.status != http.StatusNoContent {
		err = io.ErrUnexpectedEOF
	}
	w.pipe.CloseWithError(err)
}
