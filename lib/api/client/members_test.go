package client

import (
	"net/http"
	"strings"
	"testing"

	"github.com/distci/distci/lib/fault"
)

// TestMembersAndQueue: the replies become what they say, and an error that is a
// problem is told by its detail.
func TestMembersAndQueue(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.Path {
		case "GET /members":
			w.Write([]byte(`{"members":[{"id":"x","kind":"worker","name":"w","pid":7,"runs":[{"ticket":"t","build_number":3,"attempt":2}]},{"kind":"rest","name":"r","new":1}]}`))
		case "GET /queue":
			w.Write([]byte(`{"queue":[{"capabilities":["a","b"],"priority":5,"ready":1,"running":2,"oldest_age":1.5}]}`))
		}
	})
	transports(t, h, func(t *testing.T, c *Client) {
		ms, err := c.Members(t.Context())
		if err != nil || len(ms) != 2 || ms[0].ID != "x" || ms[0].PID != 7 || len(ms[0].Runs) != 1 || ms[0].Runs[0].Build != 3 || ms[0].Runs[0].Attempt != 2 || ms[1].Kind != "rest" {
			t.Errorf("%+v, %v", ms, err)
		}
		ls, err := c.Queue(t.Context())
		if err != nil || len(ls) != 1 || strings.Join(ls[0].Capabilities, " ") != "a b" || ls[0].Priority != 5 || ls[0].Ready != 1 || ls[0].Running != 2 || ls[0].OldestAge != 1.5 {
			t.Errorf("%+v, %v", ls, err)
		}
	})
	h = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusNotFound)
		w.Write([]byte(`{"title":"Not Found","status":404,"detail":"there is no such path"}`))
	}
	transports(t, h, func(t *testing.T, c *Client) {
		if _, err := c.Members(t.Context()); fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), "GET /members: there is no such path") {
			t.Error(err)
		}
		if _, err := c.Queue(t.Context()); fault.Of(err) != fault.Unavailable {
			t.Error(err)
		}
	})
}
