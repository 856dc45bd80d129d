package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

// LogInfo describes one of a build's logs.
type LogInfo struct {
	Name    string `json:"name"`           // "console", or the step and the attempt
	Step    string `json:"step,omitempty"` // key in the build's record
	Attempt int    `json:"attempt,omitempty"`
	Size    int64  `json:"size"` // bytes so far
	Live    bool   `json:"live"` // more may come

	sealed bool // whoever wrote it has said that this is all
}

// Logs lists a build's logs in the order in which they are shown, and tells
// whether the build is complete; then so are they. Errors: ErrNoBuild.
func (r *Repo) Logs(ctx context.Context, job string, n ticket.Number) (logs []LogInfo, complete bool, err error) {
	// The state first: what it says is complete has its whole log in the store.
	b, err := r.Build(ctx, job, n)
	if err != nil {
		return nil, false, err
	}
	stored, err := r.listLogs(ctx, job, n)
	if err != nil {
		return nil, false, err
	}
	steps := map[string]string{}
	for step := range b.State.Tasks {
		steps[stepKey(step)] = step
	}
	complete = b.State.Status == build.Complete
	logs = []LogInfo{}
	for _, l := range stored {
		i := LogInfo{Name: l.name, Size: l.size, sealed: l.whole()}
		if key, attempt, ok := splitLogName(l.name); ok {
			i.Step, i.Attempt = steps[key], attempt
			t := b.State.Tasks[i.Step]
			i.Live = t != nil && t.Status == ticket.Running && t.Attempt == attempt && !l.whole()
		}
		if l.index > 0 && !l.whole() {
			s, err := r.readSeal(ctx, l.key, l.size)
			if err != nil {
				return nil, false, err
			}
			if s != nil {
				i.Size, i.Live, i.sealed = min(l.size, s.size), false, true
			}
		}
		logs = append(logs, i)
	}
	return logs, complete, nil
}

// attemptName is an attempt in the name of its log: 01 to 99, then a100 to a999,
// then b1000, so that the names are in the order of the attempts. A letter comes
// after all digits.
func attemptName(n int) string {
	digits := fmt.Sprintf("%02d", n)
	if len(digits) == 2 {
		return digits
	}
	return string(rune('a'+len(digits)-3)) + digits
}

// splitLogName splits the name of an attempt's log into the key of its step, as
// the store has it, and the attempt. It knows names from before there were
// letters, too.
func splitLogName(name string) (step string, attempt int, ok bool) {
	step, number, ok := strings.Cut(name, ".")
	digits := number
	if len(number) > 3 && number[0] == byte('a'+len(number)-4) {
		digits = number[1:]
	}
	attempt, err := strconv.Atoi(digits)
	return step, attempt, ok && step != "" && err == nil && attempt > 0
}

// ValidLog tells whether s can be the name of a log.
func ValidLog(s string) bool {
	step, _, ok := splitLogName(s)
	return s == consoleName || ok && len(s) <= 200 && jobID.MatchString(step) && !strings.ContainsAny(s, "+")
}

// logLive tells whether the worker of an attempt may still add to its log.
func (r *Repo) logLive(ctx context.Context, job string, n ticket.Number, name string) (bool, error) {
	rec, err := r.live(ctx, job, n)
	if errors.Is(err, ErrNoBuild) {
		return false, nil
	}
	if err != nil || name == consoleName {
		return err == nil, err
	}
	key, attempt, _ := splitLogName(name)
	for step, t := range rec.State.Tasks {
		if stepKey(step) != key {
			continue
		}
		if t.Status == ticket.Complete || t.ID == "" {
			return false, nil
		}
		now, _, err := r.queue.Get(ctx, t.ID)
		if errors.Is(err, queue.ErrNotFound) {
			return false, nil
		}
		return err == nil && now.Status == ticket.Running && now.Attempt == attempt, err
	}
	return false, nil
}

// StepLogName is the name of the log of an attempt (0: the last) at a step.
// That there is such an attempt only [Repo.LogText] knows. Errors: ErrNoBuild,
// and one of kind Unavailable if there is no such step.
func (r *Repo) StepLogName(ctx context.Context, job string, n ticket.Number, step string, attempt int) (string, error) {
	if attempt == 0 {
		b, err := r.Build(ctx, job, n)
		if err != nil {
			return "", err
		}
		t := b.State.Tasks[step]
		if t == nil {
			return "", ErrNoLog
		}
		attempt = max(1, t.Attempt)
	}
	return strings.TrimPrefix(LogName(step, attempt), DirLogs), nil
}

// Console writes a build's log so far to w: the attempts of its steps, one
// after the other. Errors: ErrNoBuild.
func (r *Repo) Console(ctx context.Context, job string, n ticket.Number, w io.Writer) error {
	t, err := r.ConsoleText(ctx, job, n)
	if err != nil {
		return err
	}
	rd := t.Open(ctx, 0, -1)
	defer rd.Close()
	_, err = io.Copy(w, rd)
	return err
}

// AppendConsole appends to a build's log what a worker without a log of its
// own sends: to the log of the step that it has leased, so that it stands in its
// place. The log of a step that distci-claim runs is that one's alone; what is
// sent beside it comes at the end. Errors: ErrNoBuild.
func (r *Repo) AppendConsole(ctx context.Context, job string, n ticket.Number, p []byte) error {
	b, err := r.Build(ctx, job, n)
	if err != nil {
		return err
	}
	leased, err := r.leased(ctx, b)
	if err != nil {
		return err
	}
	if len(leased) > 0 {
		t := leased[0].Ticket
		key := logKey(job, n, t.Step, t.Attempt)
		end, err := r.appendTo(ctx, key, p)
		if err != nil {
			return err
		}
		// The step may have ended meanwhile. What came too late for its log is not
		// lost.
		s, err := r.readSeal(ctx, key, end)
		if err != nil || s == nil || s.size >= end {
			return err
		}
	}
	_, err = r.appendTo(ctx, buildPrefix(job, n)+DirLogs+consoleName, p)
	return err
}

// appendTo appends p to an object that has several writers, and returns where
// it ends.
func (r *Repo) appendTo(ctx context.Context, key string, p []byte) (int64, error) {
	for {
		info, err := r.store.Stat(ctx, key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return 0, err
		}
		err = r.store.Append(ctx, key, info.Size, p)
		if errors.Is(err, store.ErrConflict) {
			continue // another frontend was faster
		}
		if err != nil {
			return 0, err
		}
		return info.Size + int64(len(p)), r.store.Sync(ctx, key)
	}
}
