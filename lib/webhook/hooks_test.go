package webhook

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/store/dir"
)

func TestHooks(t *testing.T) {
	st, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	h, ctx, now := NewHooks(st), t.Context(), time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	long := strings.Repeat("a", 256)
	secrets := func(job string, f Forge, at time.Time) []string {
		t.Helper()
		s, err := h.Secrets(ctx, job, f, at)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	made := map[string]bool{}
	for _, job := range []string{"b", "a", long} {
		for _, f := range []Forge{GitLab, GitHub} {
			if s := secrets(job, f, now); s != nil {
				t.Errorf("before: %v", s)
			}
			hook, err := h.Create(ctx, job, f, now)
			if err != nil || len(hook.Secret) != 64 || made[hook.Secret] {
				t.Fatal(hook, err)
			}
			made[hook.Secret] = true
			if s := secrets(job, f, now); !slices.Equal(s, []string{hook.Secret}) {
				t.Errorf("secrets %v of %+v", s, hook)
			}
			if _, err := h.Create(ctx, job, f, now); !errors.Is(err, ErrHookExists) {
				t.Errorf("once more: %v", err)
			}
		}
	}
	old := secrets("a", GitHub, now)[0]
	hook, err := h.Rotate(ctx, "a", GitHub, time.Hour, now)
	if err != nil || hook.Secret == old {
		t.Fatal(hook, err)
	}
	if s := secrets("a", GitHub, now.Add(59*time.Minute)); !slices.Equal(s, []string{hook.Secret, old}) {
		t.Errorf("after the rotation: %v", s)
	}
	if s := secrets("a", GitHub, now.Add(time.Hour)); !slices.Equal(s, []string{hook.Secret}) {
		t.Errorf("an hour after it: %v", s)
	}
	if hook, err = h.Rotate(ctx, "a", GitHub, 0, now); err != nil || len(secrets("a", GitHub, now)) != 1 {
		t.Errorf("without an hour: %v", err)
	}
	all, err := h.List(ctx, "")
	var got []string
	for _, hook := range all {
		got = append(got, hook.JobID[:1]+" "+string(hook.Forge))
		if hook.Secret != "" || hook.Previous != "" {
			t.Errorf("listed with its secret: %+v", hook)
		}
	}
	if err != nil || strings.Join(got, ", ") != "a github, a gitlab, a github, a gitlab, b github, b gitlab" {
		t.Errorf("%v, %v", got, err)
	}
	if some, err := h.List(ctx, "b"); err != nil || len(some) != 2 {
		t.Errorf("%v, %v", some, err)
	}
	if err := h.Remove(ctx, "b", GitHub); err != nil || secrets("b", GitHub, now) != nil {
		t.Error(err)
	}
	if err := h.Remove(ctx, "b", GitHub); !errors.Is(err, ErrNoHook) {
		t.Error(err)
	}
	if _, err := h.Rotate(ctx, "b", GitHub, 0, now); !errors.Is(err, ErrNoHook) {
		t.Error(err)
	}
}
