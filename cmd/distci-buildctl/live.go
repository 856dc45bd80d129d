package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/term"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/ticket"
)

// The live view is on the terminal's other screen, which it fills anew a few
// times a second: so it needs to remember nothing of what is there, whatever
// size the terminal has by now, and at the end all is as it was.

const (
	frame     = 250 * time.Millisecond
	askEvery  = time.Second
	keepLines = 500 // of the log; no screen is higher
)

const (
	enter = "\x1b[?1049h\x1b[?25l\x1b[?7l" // the other screen, no cursor, lines are cut and not wrapped
	leave = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

// watch shows a build on a terminal until it is finished. What it showed last
// stays, as plain lines.
func watch(ctx context.Context, t *os.File, c *client.Client, job string, n ticket.Number) error {
	log := &tail{most: keepLines}
	following, stop := context.WithCancel(ctx)
	followed := make(chan struct{})
	var lost error // of the log, when it is followed
	go func() {
		defer close(followed)
		lost = c.Follow(following, job, n, keepLines, log)
	}()
	v := view{job: job, n: n, color: os.Getenv("NO_COLOR") == ""}
	io.WriteString(t, enter)
	defer func() {
		stop()
		<-followed
		io.WriteString(t, leave)
		if v.state != nil {
			io.WriteString(t, strings.Join(v.table(0, time.Now()), "\n")+"\n")
			if v.state.Result != ticket.Success {
				io.WriteString(t, "\n"+strings.Join(log.last(20), "\n")+"\n")
			}
		}
	}()
	var asked time.Time
	ticker := time.NewTicker(frame)
	defer ticker.Stop()
	for {
		if time.Since(asked) >= askEvery {
			s, err := c.Build(ctx, job, n)
			if err != nil {
				return err
			}
			v.state, asked = s, time.Now()
			if s.Status == build.Complete {
				<-followed // all of its log is there
				return lost
			}
		}
		width, height, err := term.GetSize(int(t.Fd()))
		if err != nil || width < 1 || height < 1 {
			width, height = 80, 24
		}
		if _, err := io.WriteString(t, v.screen(log, width, height, time.Now())); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-followed: // it is complete, or cannot be followed
			if lost != nil {
				return lost
			}
			asked = time.Time{}
			followedAll(ctx)
		case <-ticker.C:
		}
	}
}

// followedAll waits a moment: a build is finished a little after its log.
func followedAll(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(frame):
	}
}

// view is what is shown of a build.
type view struct {
	job   string
	n     ticket.Number
	state *build.State
	color bool
}

// screen is the whole screen: the table, a line, and as much of the log's end as
// there is room for.
func (v *view) screen(log *tail, width, height int, now time.Time) string {
	lines := v.table(max(1, height/2), now)
	lines = append(lines, strings.Repeat("-", width))
	lines = append(lines, log.last(max(0, height-len(lines)))...)
	lines = lines[:min(len(lines), height)]
	var b strings.Builder
	b.WriteString("\x1b[H")
	for i, l := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(cut(l, width))
		b.WriteString("\x1b[0m\x1b[K")
	}
	b.WriteString("\x1b[J")
	return b.String()
}

// table is a line for the build and one for each step, at most so many; 0: all.
// Where there is no room for all steps, those that have ended go first.
func (v *view) table(most int, now time.Time) []string {
	s := v.state
	state := or(s.Result, s.Status)
	if s.Canceled != "" && s.Result == "" {
		state = "canceling"
	}
	took := "-"
	if s.Created != nil {
		end := now
		if s.Ended != nil {
			end = *s.Ended
		}
		took = span(end.Sub(*s.Created))
	}
	lines := []string{fmt.Sprintf("%s #%d  %s  %s", v.job, v.n, v.paint(state, state), took)}
	keys := s.Keys()
	room := len(keys)
	if most > 0 {
		room = max(0, most-2)
	}
	hidden := 0
	for i, key := range keys {
		t := s.Tasks[key]
		if over := len(keys)-i > room-(len(lines)-1); over && t.Status == ticket.Complete && len(keys) > room {
			hidden++
			continue
		}
		if len(lines)-1 >= room {
			hidden++
			continue
		}
		lines = append(lines, v.step(key, t, now))
	}
	if hidden > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more", hidden))
	}
	return lines
}

// step is the line of a step.
func (v *view) step(key string, t *ticket.Ticket, now time.Time) string {
	state, took, worker := "waiting", "", t.Assignee
	switch {
	case t.Status == ticket.Complete && t.Result == ticket.Canceled && t.ID == "":
		state = "skipped"
	case t.Status == ticket.Complete:
		state = t.Result
	case t.Status == ticket.Running:
		state = ticket.Running
	case t.ID != "":
		state = "ready"
	}
	if t.Started != nil && state != "waiting" && state != "ready" {
		end := now
		if t.Ended != nil {
			end = *t.Ended
		}
		took = span(end.Sub(*t.Started))
	}
	if worker == "" {
		_, _ = t.Get("worker", &worker) // who has done it, where that is told
	}
	if t.Attempt > 1 {
		worker += fmt.Sprintf(" (attempt %d)", t.Attempt)
	}
	return fmt.Sprintf("  %-4s %-24s %s %8s  %s", clean(key), cut(clean(or(t.Name, t.Type)), 24), v.paint(state, fmt.Sprintf("%-9s", state)), took, clean(worker))
}

// paint gives a text the color of a state.
func (v *view) paint(state, text string) string {
	color := map[string]string{ticket.Success: "32", ticket.Failure: "31", ticket.Error: "31", ticket.Running: "33", ticket.Canceled: "35", "canceling": "35"}[state]
	if !v.color || color == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// cut shortens a line to a number of characters, without what our own colors
// take.
func cut(s string, width int) string {
	n, escape := 0, false
	for i, r := range s {
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r != 'm'
		case n == width:
			return s[:i]
		default:
			n++
		}
	}
	return s
}

// sequence is what programs say to terminals: a log must not.
var sequence = regexp.MustCompile("\x1b(\\[[0-?]*[ -/]*[@-~]|\\][^\a\x1b]*(\a|\x1b\\\\)|[@-Z\\\\-_])")

// clean is a text without anything that a terminal would obey.
func clean(s string) string {
	s = sequence.ReplaceAllString(s, "")
	if i := strings.LastIndexByte(strings.TrimRight(s, "\r"), '\r'); i >= 0 {
		s = s[i+1:] // a progress bar, as it was last
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
}

// tail keeps the last lines of what is written to it.
type tail struct {
	most int

	mu    sync.Mutex
	lines []string
	rest  string // the beginning of the next one
}

// maxLine bounds a line that does not end.
const maxLine = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := t.rest + string(p)
	for {
		line, rest, ok := strings.Cut(text, "\n")
		if !ok {
			break
		}
		t.lines = append(t.lines, clean(line))
		text = rest
	}
	if over := len(text) - maxLine; over > 0 {
		text = text[over:]
	}
	t.rest = text
	if over := len(t.lines) - t.most; over > 0 {
		t.lines = append([]string(nil), t.lines[over:]...)
	}
	return len(p), nil
}

// last is the last n lines.
func (t *tail) last(n int) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.lines
	if t.rest != "" {
		all = append(all[:len(all):len(all)], clean(t.rest))
	}
	return all[max(0, len(all)-n):]
}
