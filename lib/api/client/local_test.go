package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/distci/distci/lib/fault"
)

// TestUpload: a large body is streamed both ways, over every transport.
func TestUpload(t *testing.T) {
	const size = 20 << 20
	data := func() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), size) }
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Length", "20971520")
			io.Copy(w, data())
			return
		}
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		json.NewEncoder(w).Encode(Artifact{ID: "a", Size: n, SHA256: hex.EncodeToString(sum.Sum(nil))})
	})
	want := sha256.New()
	io.Copy(want, data())
	hash := hex.EncodeToString(want.Sum(nil))
	transports(t, h, func(t *testing.T, c *Client) {
		a, err := c.PutArtifact(t.Context(), "j", 1, data(), size)
		if err != nil || a.Size != size || a.SHA256 != hash {
			t.Error(a, err)
		}
		r, err := c.GetArtifact(t.Context(), "j", 1, "a", 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		sum := sha256.New()
		if n, err := io.Copy(sum, r); n != size || err != nil || hex.EncodeToString(sum.Sum(nil)) != hash {
			t.Error(n, err)
		}
	})
}

// TestUploadIsRefused: a refusal that comes before the body was read is heard,
// and the reader is the caller's again.
func TestUploadIsRefused(t *testing.T) {
	transports(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "at most one byte", http.StatusRequestEntityTooLarge)
	}), func(t *testing.T, c *Client) {
		body := strings.NewReader(strings.Repeat("x", 8<<20))
		_, err := c.PutArtifact(t.Context(), "j", 1, body, body.Size())
		if fault.Of(err) != fault.BadTicket || !strings.Contains(err.Error(), "at most one byte") {
			t.Error(err)
		}
		body.Reset("") // the race detector sees who reads it still
	})
}

func TestUploadOfAnotherSize(t *testing.T) {
	transports(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		json.NewEncoder(w).Encode(Artifact{ID: "a", Size: n, SHA256: "00"})
	}), func(t *testing.T, c *Client) {
		if _, err := c.PutArtifact(t.Context(), "j", 1, strings.NewReader("abc"), 5); fault.Of(err) != fault.Temporary {
			t.Error(err)
		}
	})
}

// TestHandlerIsStopped: a handler that returns because the request was canceled
// has not answered, whatever it has written.
func TestHandlerIsStopped(t *testing.T) {
	for _, said := range []string{"", "{", "{}"} {
		for range 2000 { // it is a race
			ctx, cancel := context.WithCancel(t.Context())
			c := Over(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if said != "" {
					io.WriteString(w, said)
				}
				cancel()
			}))
			if _, err := c.Job(ctx, "j"); fault.Of(err) != fault.Interrupted {
				t.Fatalf("after %q: %v", said, err)
			}
			c.Close()
		}
	}
}

// TestHandlers: what a handler does wrong is what a server's fault would be.
func TestHandlers(t *testing.T) {
	for name, tt := range map[string]struct {
		h    http.HandlerFunc
		want string
	}{
		"panics": {func(http.ResponseWriter, *http.Request) { panic("oh") }, "the handler panicked: oh"},
		"too short": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			io.WriteString(w, "{}")
		}, "unexpected EOF"},
		"stops":   {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{"); panic("oh") }, "the handler panicked: oh"},
		"nothing": {func(http.ResponseWriter, *http.Request) {}, "did not answer as a DistCI server does"},
		"too long": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1")
			if _, err := io.WriteString(w, "{}"); err == nil {
				panic("took it")
			}
		}, "unexpected EOF"},
		"a body where none is allowed": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNoContent)
			if _, err := io.WriteString(w, "{}"); err == nil {
				panic("took it")
			}
		}, "did not answer as a DistCI server does"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := Over(tt.h)
				if _, err := c.Job(t.Context(), "j"); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Error(err)
				}
				c.Close()
			})
		})
	}
}

// TestDeafHandler: one that neither reads nor looks at its context keeps
// nobody waiting but Close.
func TestDeafHandler(t *testing.T) {
	release := make(chan struct{})
	c := Over(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Job(ctx, "j"); fault.Of(err) != fault.Interrupted {
		t.Error(err)
	}
	close(release)
	c.Close()
}
