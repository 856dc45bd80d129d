package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/queue/history"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/test/lab"
)

// settle ends the load, waits until all of it is done, and checks what must
// hold. With exclusive, no two workers may have run a step at the same time: a
// worker that cannot act, because it is paused, cannot stop its step either.
func (l *load) settle(exclusive bool) {
	s := l.s
	s.t.Helper()
	l.end()
	var numbers []ticket.Number
	lab.Until(s.t, "the builds are listed", func() bool {
		return s.anyFront(s.t, func(c *client.Client) (err error) {
			ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
			defer cancel()
			numbers, err = c.Builds(ctx, job)
			return err
		})
	})
	l.checkNumbers(numbers)
	for _, n := range numbers {
		state := s.finished(n)
		if state.Result != ticket.Success {
			s.t.Errorf("build %d: %q %s", n, state.Result, state.Error)
			for _, key := range slices.Sorted(maps.Keys(state.Tasks)) {
				t := state.Tasks[key]
				s.t.Logf("  step %s: attempt %d on %s: %q %s", key, t.Attempt, t.Assignee, t.Result, t.Error)
			}
		}
	}
	s.checkTree()
	s.shutdown()
	events := s.history()
	for _, v := range history.Check(events, history.Options{Complete: true, Killed: s.killed}) {
		s.t.Error(v)
	}
	s.checkSteps(events, numbers)
	if b, err := os.ReadFile(s.path("overlaps")); exclusive && err == nil {
		s.t.Errorf("steps that ran twice at the same time: %s", strings.Fields(string(b)))
	}
	l.report(len(numbers))
}

// checkNumbers: without a gap, none given out twice, and every one that was
// acknowledged is there.
func (l *load) checkNumbers(numbers []ticket.Number) {
	l.s.t.Helper()
	for i, n := range numbers {
		if n != ticket.Number(i+1) {
			l.s.t.Errorf("build numbers with a gap: %v", numbers)
			break
		}
	}
	slices.Sort(l.posted)
	for i, n := range l.posted {
		if i > 0 && n == l.posted[i-1] {
			l.s.t.Errorf("build number %d was given out twice", n)
		}
		if !slices.Contains(numbers, n) {
			l.s.t.Errorf("build %d was acknowledged, and is not there", n)
		}
	}
	if len(numbers) == 0 {
		l.s.t.Error("no build was posted")
	}
}

// checkTree: nothing is left in q, run, c, lease and builds.
func (s *site) checkTree() {
	s.t.Helper()
	c := s.open()
	defer c.Close()
	var left []string
	var walk func(path string)
	walk = func(path string) {
		names, err := c.Conn.Children(s.t.Context(), path)
		if err != nil && !errors.Is(err, coord.ErrNoNode) {
			s.t.Fatal(err)
		}
		for _, name := range names {
			child := path + "/" + name
			// /q/<set>/<t or r>/<slice> are folders that stay.
			if parts := strings.Count(child, "/"); strings.HasPrefix(child, "/q/") && parts < 5 {
				walk(child)
			} else {
				left = append(left, child)
			}
		}
	}
	// A build that has just ended may still be cleared away.
	end := time.Now().Add(30 * time.Second)
	for {
		left = nil
		for _, root := range []string{"/q", "/run", "/c", "/lease", "/builds"} {
			walk(root)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			s.t.Errorf("left in the tree: %v", left)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// shutdown ends all processes, and looks whether any is left.
func (s *site) shutdown() {
	s.t.Helper()
	for _, p := range s.procs {
		p.Process.Signal(syscall.SIGINT) // all at once
	}
	for _, p := range s.procs {
		if !p.End(syscall.SIGINT) {
			s.t.Errorf("%v does not end", p.Args)
		}
	}
	if left := lab.Related(s.dir); len(left) != 0 {
		s.t.Errorf("processes that were left: %q", left)
	}
}

// history reads what the processes wrote down.
func (s *site) history() (all []queue.Event) {
	s.t.Helper()
	files, _ := filepath.Glob(s.path("*.history"))
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			s.t.Fatal(err)
		}
		events, err := history.Read(f)
		f.Close()
		if err != nil {
			s.t.Errorf("%s: %v", filepath.Base(name), err)
		}
		all = append(all, events...)
	}
	return all
}

// checkSteps: each step of each build was committed, by one ticket.
func (s *site) checkSteps(events []queue.Event, numbers []ticket.Number) {
	s.t.Helper()
	tickets := map[string]map[string]bool{} // that ended, or may have, by step
	sure := map[string]int{}                // commits that are known to have been done
	for _, e := range events {
		if e.Event != queue.EventCommit || e.Job != job || e.Step == "" || e.Outcome == queue.Lost {
			continue
		}
		key := fmt.Sprintf("%d.%s", e.Build, e.Step)
		if tickets[key] == nil {
			tickets[key] = map[string]bool{}
		}
		tickets[key][e.Ticket] = true
		if e.Outcome == queue.Done {
			sure[key]++
		}
	}
	for _, n := range numbers {
		for _, step := range []string{"0", "1", "2"} {
			key := fmt.Sprintf("%d.%s", n, step)
			// The commit of a worker that was killed right after it may not have been written down.
			if len(tickets[key]) > 1 || sure[key] > 1 || len(tickets[key]) == 0 && len(s.killed) == 0 {
				s.t.Errorf("step %s: committed by %d tickets, %d times for certain", key, len(tickets[key]), sure[key])
			}
		}
	}
}

// report tells what the faults have cost.
func (l *load) report(builds int) {
	s := l.s
	b, _ := os.ReadFile(s.path("ran"))
	runs := map[string]int{}
	for _, step := range strings.Fields(string(b)) {
		runs[step]++
	}
	redone := 0
	for step, n := range runs {
		if n > 1 {
			redone += n - 1
			continue
		}
		delete(runs, step)
	}
	s.t.Logf("%d builds; %d steps were run again %v; the longest time without a post: %v",
		builds, redone, slices.Sorted(maps.Keys(runs)), l.pause().Round(10*time.Millisecond))
	for _, what := range slices.Sorted(maps.Keys(l.failed)) {
		s.t.Logf("%d times: %s", l.failed[what], what)
	}
}
