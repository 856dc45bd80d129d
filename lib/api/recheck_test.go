package api

import (
	"errors"
	"log/slog"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/sim"
)

// TestRevokedWhileFollowing: who follows a log is told nothing more once his
// token is revoked or has expired; a store that does not answer ends nothing.
func TestRevokedWhileFollowing(t *testing.T) {
	for name, end := range map[string]func(st store.Store, id string) error{
		"revoked": func(st store.Store, id string) error { return access.RevokeToken(t.Context(), st, id) },
		"expired": func(store.Store, string) error { time.Sleep(time.Hour); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := sim.New(time.Now).Open()
				tk, token, err := access.NewToken(access.Token{Name: "n", Role: access.Read, Jobs: []string{"j"}, Expires: time.Now().Add(time.Hour)}, time.Now())
				if err == nil {
					err = access.CreateToken(t.Context(), st, tk)
				}
				if err != nil {
					t.Fatal(err)
				}
				s := &server{Options: Options{Access: access.NewTokens(st, slog.New(slog.DiscardHandler))}}
				r := httptest.NewRequest("GET", "/jobs/j/builds/1/console?follow=1", nil)
				r.Header.Set("Authorization", "Bearer "+token)
				w := &recorder{ResponseWriter: httptest.NewRecorder(), patience: time.Minute}
				c := s.newCall(w, r)
				c.job = "j"
				if err := c.authorize(route{method: "GET", role: access.Read}); err != nil {
					t.Fatal(err)
				}
				line := func() error { _, err := w.Write([]byte("a line\n")); return err }
				fails := func(_, _ string, do func() error) error { return store.ErrUnknown }
				works := st.Hook
				for range 5 {
					time.Sleep(access.TokenAge)
					if err := line(); err != nil {
						t.Fatal(err)
					}
					st.Hook = fails
					time.Sleep(access.TokenAge)
					if err := line(); err != nil {
						t.Fatalf("while the store does not answer: %v", err)
					}
					st.Hook = works
				}
				if err := end(st, tk.ID); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * access.TokenAge)
				if err := line(); !errors.Is(err, access.ErrUnauthenticated) {
					t.Errorf("he is still told: %v", err)
				}
			})
		})
	}
}
