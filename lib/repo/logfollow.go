package repo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"github.com/distci/distci/lib/ticket"
)

// FollowLog writes a log from offset on to w as it grows, until it is complete
// or ctx is done.
func (r *Repo) FollowLog(ctx context.Context, job string, n ticket.Number, name string, offset int64, w io.Writer) error {
	_, err := r.followLog(ctx, job, n, name, offset, w)
	return err
}

func (r *Repo) followLog(ctx context.Context, job string, n ticket.Number, name string, offset int64, w io.Writer) (int64, error) {
	key := buildPrefix(job, n) + DirLogs + name
	t := r.tails.open(ctx, key, func(ctx context.Context, t *tail) {
		r.follow(ctx, t, key, func(ctx context.Context) (bool, error) { return r.logLive(ctx, job, n, name) })
	})
	defer r.tails.release(key, t)
	return r.copyTail(ctx, w, key, t, offset)
}

// Follow writes a build's log to w as it comes, until the build is finished.
// What steps print at the same time comes one after the other. Errors:
// ErrNoBuild.
func (r *Repo) Follow(ctx context.Context, job string, n ticket.Number, w io.Writer) error {
	return r.FollowFrom(ctx, job, n, nil, func(_ string, _ int64, p []byte) error {
		_, err := w.Write(p)
		return err
	})
}

// FollowFrom is Follow for whoever wants to know which log a piece is of and
// where in it: f gets them. A piece of no bytes says that its log is complete;
// it comes once. What read says is left out, the bytes of each log that he has.
func (r *Repo) FollowFrom(ctx context.Context, job string, n ticket.Number, read map[string]int64, f func(log string, offset int64, p []byte) error) error {
	if read = maps.Clone(read); read == nil {
		read = map[string]int64{}
	}
	feed := r.feeds.open(job, n)
	defer r.feeds.release(job, n, feed)
	ended := map[string]bool{}
	var s *shot
	for {
		var err error
		if s, err = feed.next(ctx, r, s); err != nil {
			return err
		}
		for _, l := range s.logs {
			w := &logWriter{l.Name, read[l.Name], f}
			if l.Live {
				// Those behind it wait, so that lines do not mix.
				if read[l.Name], err = r.followLog(ctx, job, n, l.Name, w.at, w); err != nil {
					return err
				}
				break
			}
			if rest := l.Size - w.at; rest > 0 {
				k, err := r.copyRange(ctx, w, buildPrefix(job, n)+DirLogs+l.Name, w.at, rest)
				read[l.Name] += k
				if err != nil {
					return err
				}
			}
			if l.sealed && !ended[l.Name] && read[l.Name] >= l.Size {
				ended[l.Name] = true
				if err := f(l.Name, read[l.Name], nil); err != nil {
					return err
				}
			}
		}
		if s.complete {
			return nil
		}
	}
}

// logWriter tells where in its log a piece is that is written.
type logWriter struct {
	log string
	at  int64
	f   func(log string, offset int64, p []byte) error
}

func (w *logWriter) Write(p []byte) (int, error) {
	if err := w.f(w.log, w.at, p); err != nil {
		return 0, err
	}
	w.at += int64(len(p))
	return len(p), nil
}

// WaitLogs is [Repo.Logs], but if the list's tag is seen it waits for another
// one until ctx is done. All who wait for a build look at it together.
func (r *Repo) WaitLogs(ctx context.Context, job string, n ticket.Number, seen string) (logs []LogInfo, complete bool, tag string, err error) {
	f := r.feeds.open(job, n)
	defer r.feeds.release(job, n, f)
	begun := time.Now()
	var s *shot
	for {
		next, err := f.next(ctx, r, s)
		switch {
		case err != nil && ctx.Err() != nil && s != nil:
		case err != nil:
			return nil, false, "", err
		default:
			s = next
		}
		if tag := s.tag(); err != nil || tag != seen && s.begun.After(begun) {
			return s.logs, s.complete, tag, nil
		}
	}
}

// tag is another one when there is something else to be read. A log that is
// live is read as it grows.
func (s *shot) tag() string {
	h := sha256.New()
	fmt.Fprintln(h, s.complete)
	for _, l := range s.logs {
		size := l.Size
		if l.Live {
			size = 0
		}
		fmt.Fprintln(h, l.Name, l.Live, size)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// feeds are the builds that somebody in this process follows.
type feeds struct {
	mu      sync.Mutex
	byBuild map[string]*feed
}

// feed looks at a build for all who follow it.
type feed struct {
	job    string
	number ticket.Number
	users  int           // feeds.mu
	turn   chan struct{} // held while somebody looks
	last   *shot         // by whoever has the turn; nil: nobody has looked
}

// shot is how a build was at some moment.
type shot struct {
	begun    time.Time // to look
	logs     []LogInfo
	complete bool
}

// next returns another shot than the one before, which was the caller's last.
// It may be old: then the one after it tells what has happened since.
func (f *feed) next(ctx context.Context, r *Repo, before *shot) (*shot, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case f.turn <- struct{}{}:
	}
	defer func() { <-f.turn }()
	if f.last != before {
		return f.last, nil
	}
	if f.last != nil {
		timer := time.NewTimer(time.Until(f.last.begun.Add(logPoll)))
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
		}
	}
	s := &shot{begun: time.Now()}
	var err error
	if s.logs, s.complete, err = r.Logs(ctx, f.job, f.number); err != nil {
		return nil, err
	}
	f.last = s
	return s, nil
}

func (fs *feeds) open(job string, n ticket.Number) *feed {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	id := buildPath(job, n)
	f := fs.byBuild[id]
	if f == nil {
		f = &feed{job: job, number: n, turn: make(chan struct{}, 1)}
		if fs.byBuild == nil {
			fs.byBuild = map[string]*feed{}
		}
		fs.byBuild[id] = f
	}
	f.users++
	return f
}

func (fs *feeds) release(job string, n ticket.Number, f *feed) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.users--; f.users == 0 {
		delete(fs.byBuild, buildPath(job, n))
	}
}
