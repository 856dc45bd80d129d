package history

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/queue"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// parseEvents reads a history written for people, one event a line:
//
//	from-to event worker[#token[/attempt]] [outcome] [@ticket]
//
// with times in seconds and "done" as the default.
func parseEvents(t *testing.T, text string) []queue.Event {
	t.Helper()
	var all []queue.Event
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		var from, to int
		if _, err := fmt.Sscanf(words[0], "%d-%d", &from, &to); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		e := queue.Event{Begin: start.Add(time.Duration(from) * time.Second), End: start.Add(time.Duration(to) * time.Second),
			Event: words[1], Outcome: queue.Done, Ticket: "a"}
		for _, w := range words[2:] {
			switch {
			case w == queue.Lost || w == queue.Unknown:
				e.Outcome = w
			case w[0] == '@':
				e.Ticket = w[1:]
			default:
				name, token, _ := strings.Cut(w, "#")
				e.Worker = name
				fmt.Sscanf(token, "%d/%d", &e.Token, &e.Attempt)
				if !strings.HasPrefix(name, "rest") {
					e.Session = 1
				}
			}
		}
		all = append(all, e)
	}
	return all
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name, events string
		o            Options
		want         []Rule
	}{
		{"one life", `
			0-1 post
			2-3 claim w#5/1
			4-5 commit w#5`, Options{Complete: true}, nil},
		{"given back, requeued, committed", `
			0-1 post
			2-3 claim w#5/1
			4-5 release w#5
			6-7 claim v#8/2
			9-9 requeue
			10-11 claim w#9/3
			12-13 commit w#9
			14-15 commit v#8 lost`, Options{Complete: true}, nil},
		{"claimed while the post goes on", `
			0-9 post
			2-3 claim w#5
			4-5 commit w#5`, Options{Complete: true}, nil},
		{"posted again, late", `
			0-1 post unknown
			2-3 claim w#5
			4-9 post`, Options{}, nil},
		{"an unknown commit that happened", `
			0-1 post
			2-3 claim w#5
			4-5 commit w#5 unknown`, Options{Complete: true}, nil},
		{"an unknown commit that did not happen", `
			0-1 post
			2-3 claim w#5
			4-5 commit w#5 unknown
			6-7 requeue
			8-9 claim v#6
			10-11 commit v#6`, Options{Complete: true}, nil},
		{"an unknown commit, repeated", `
			0-1 post
			2-3 claim w#5
			4-5 commit w#5 unknown
			6-7 commit w#5`, Options{Complete: true}, nil},
		{"an unknown claim and a rival's", `
			0-1 post
			2-3 claim w unknown
			2-3 claim v#6
			4-5 commit v#6`, Options{Complete: true}, nil},
		{"a requeue that overlaps the end", `
			0-1 post
			2-3 claim w#5
			4-6 requeue
			5-7 release w#5
			8-9 claim w#6
			9-9 commit w#6`, Options{Complete: true}, nil},
		{"a lease that another frontend commits", `
			0-1 post
			2-3 claim rest#5
			4-5 commit rest`, Options{Complete: true}, nil},
		{"a killed worker may have committed", `
			0-1 post
			2-3 claim w#5`, Options{Complete: true, Killed: []string{"w"}}, nil},
		{"not at its end", `
			0-1 post
			2-3 claim w#5`, Options{}, nil},
		{"a post that failed", `0-1 post unknown`, Options{Complete: true}, nil},

		{"committed twice", `
			0-1 post
			2-3 claim w#5
			4-5 commit w#5
			4-5 commit w#5`, Options{}, []Rule{CommittedOnce}},
		{"a stale commit", `
			0-1 post
			2-3 claim w#5
			6-7 claim v#6
			8-9 commit w#5`, Options{}, []Rule{NewestHolder}},
		{"a stale commit, as tokens alone prove", `
			0-1 post
			2-3 claim w#5
			6-9 claim v#6
			6-9 commit w#5`, Options{}, []Rule{NewestHolder}},
		{"a stale release", `
			0-1 post
			2-3 claim w#5
			6-7 claim v#6
			8-9 release w#5`, Options{}, []Rule{NewestHolder}},
		{"released, then committed", `
			0-1 post
			2-3 claim w#5
			6-7 release w#5
			8-9 commit w#5`, Options{}, []Rule{EndsOnce}},
		{"a commit without a claim", `
			0-1 post
			4-5 commit w#5`, Options{}, []Rule{OwnClaim}},
		{"a commit with another's claim", `
			0-1 post
			2-3 claim v#5
			4-5 commit w#5`, Options{}, []Rule{OwnClaim}},
		{"a commit before its claim", `
			0-1 post
			2-3 commit w#5
			4-5 claim w#5`, Options{}, []Rule{OwnClaim, EndIsEnd}},
		{"tokens that fall", `
			0-1 post
			2-3 claim w#6
			4-5 claim v#5`, Options{}, []Rule{TokensGrow}},
		{"a token twice", `
			0-1 post
			2-3 claim w#6
			4-5 claim w#6`, Options{}, []Rule{TokenOfOne}},
		{"a token of two tickets", `
			0-1 post
			2-3 claim w#6
			2-3 claim v#6 @b`, Options{}, []Rule{TokenOfOne}},
		{"a claim without a token", `2-3 claim w`, Options{}, []Rule{TokenOfOne}},
		{"an attempt twice", `
			2-3 claim w#5/1
			4-5 claim v#6/1`, Options{}, []Rule{AttemptsGrow}},
		{"claimed before it was posted", `
			2-3 claim w#5
			4-5 post`, Options{}, []Rule{PostedFirst}},
		{"requeued under its holder", `
			0-1 post
			2-3 claim w#5
			4-5 requeue
			6-7 commit w#5`, Options{}, []Rule{HeldIsHeld}},
		{"claimed after its commit", `
			0-1 post
			2-3 claim w#5
			4-5 commit w#5
			6-7 claim v#6`, Options{}, []Rule{NewestHolder, EndIsEnd}},
		{"requeued after its commit", `
			0-1 post
			2-3 claim w#5
			4-5 commit w#5
			6-7 requeue`, Options{}, []Rule{EndIsEnd}},
		{"left behind", `
			0-1 post
			2-3 claim w#5
			4-5 commit w#5 lost`, Options{Complete: true}, []Rule{AllCommitted}},
		{"never taken", `0-1 post`, Options{Complete: true, Killed: []string{"w"}}, []Rule{AllCommitted}},
		{"out of nothing", `
			2-3 claim w#5
			4-5 commit w#5`, Options{Complete: true}, []Rule{PostedFirst}},
	} {
		t.Run(c.name, func(t *testing.T) {
			events := parseEvents(t, c.events)
			for range 2 {
				var got []Rule
				for _, v := range Check(events, c.o) {
					got = append(got, v.Rule)
				}
				slices.Sort(got)
				if want := slices.Sorted(slices.Values(c.want)); !slices.Equal(got, want) {
					t.Errorf("found %q, want %q", got, want)
				}
				slices.Reverse(events) // the order of collection is nothing
			}
		})
	}
}

func TestViolation(t *testing.T) {
	vs := Check(parseEvents(t, "2-3 claim v#5\n4-5 commit w#5"), Options{})
	const want = `history: ticket a: broken: a change belongs to a claim that its worker made before:
	03:04:07.000000 03:04:08.000000 claim by v token 5: done
	03:04:09.000000 03:04:10.000000 commit by w token 5: done`
	if len(vs) != 1 || vs[0].Error() != want || fault.Of(vs[0]) != fault.Internal {
		t.Errorf("got %v", vs)
	}
}

func TestRead(t *testing.T) {
	want := parseEvents(t, "0-1 post\n2-3 claim w#5\n4-5 commit w#5")
	var text strings.Builder
	for _, e := range want {
		if err := json.NewEncoder(&text).Encode(e); err != nil {
			t.Fatal(err)
		}
	}
	whole := text.String()
	lines := strings.SplitAfter(whole, "\n")
	for n := range len(lines[2]) {
		// Torn anywhere in its last line: without that line, or with it if
		// only its end of line is missing.
		got, err := Read(strings.NewReader(lines[0] + lines[1] + lines[2][:n]))
		if full := 2 + n/(len(lines[2])-1); err != nil || len(got) != full || !slices.Equal(got, want[:full]) {
			t.Fatalf("torn after %d bytes: %v, %v", n, got, err)
		}
	}
	for name, c := range map[string]struct{ text, err string }{
		"torn in the middle": {lines[0] + lines[1][:20] + "\n" + lines[2], "history: line 2: "},
		"not JSON":           {whole + "panic\n", "history: line 4: "},
		"no event":           {whole + `{"event":"x"}` + "\n", `history: line 4: event "x"`},
		"no outcome":         {`{"event":"post"}`, `history: line 1: outcome ""`},
		"no ticket":          {`{"event":"post","outcome":"done"}`, `history: line 1: an event without a ticket`},
		"no time":            {`{"event":"post","outcome":"done","ticket":"a"}`, `history: line 1: an event from`},
	} {
		if _, err := Read(strings.NewReader(c.text)); err == nil || !strings.HasPrefix(err.Error(), c.err) || fault.Of(err) != fault.BadTicket {
			t.Errorf("%s: %v, want %q", name, err, c.err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"begin":"2026-01-02T03:04:05Z","end":"2026-01-02T03:04:06Z","event":"claim","outcome":"done","ticket":"a","token":3}` + "\n"))
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, b []byte) {
		events, err := Read(strings.NewReader(string(b)))
		if err != nil && fault.Of(err) != fault.BadTicket {
			t.Errorf("an error of kind %q: %v", fault.Of(err), err)
		}
		for _, v := range Check(events, Options{Complete: true}) {
			_ = v.Error()
		}
	})
}
