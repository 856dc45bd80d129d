package worker_test

import (
	"io"
	"slices"
	"testing"
	"time"

	"github.com/distci/distci/lib/ticket"
)

// BenchmarkStep is a no-op step in the middle of a build, with its process,
// its log and its commit.
func BenchmarkStep(b *testing.B) {
	const steps = 20
	s := newSite(b)
	r := s.repo(s.connect())
	s.putJob(r, "noop", slices.Repeat([]string{":"}, steps)...)
	end := s.work("w", r, time.Minute, io.Discard)
	n := ticket.Number(0)
	for i := 0; b.Loop(); i++ {
		if i%steps != 0 {
			continue
		}
		if _, err := r.Trigger(b.Context(), "noop", nil); err != nil {
			b.Fatal(err)
		}
		for n++; ; time.Sleep(20 * time.Millisecond) {
			s, err := r.Build(b.Context(), "noop", n)
			if err != nil {
				b.Fatal(err)
			}
			if s.State.Status == ticket.Complete {
				break
			}
		}
	}
	end()
}
