package repo

import (
	"context"

	"github.com/distci/distci/lib/member"
	"github.com/distci/distci/lib/queue"
)

// Members tells who is there and what each runs.
//
// A ticket that is held by a session is shown with the member of that session;
// so two of the same name are told apart. A worker that has not become a member
// is shown by its name all the same, and so are those that speak REST.
func (r *Repo) Members(ctx context.Context) ([]member.Member, error) {
	ms, err := member.List(ctx, r.conn)
	if err != nil {
		return nil, err
	}
	held, err := r.queue.Claims(ctx)
	if err != nil {
		return nil, err
	}
	type who struct {
		session int64
		name    string // of who has no session
	}
	index := map[who]int{}
	for i, m := range ms {
		if m.Session != 0 {
			index[who{session: m.Session}] = i
		}
	}
	for _, h := range held {
		w := who{session: h.Session}
		info := member.Info{Kind: member.Worker, Name: h.Worker}
		if h.Session == 0 {
			w.name, info.Kind = h.Worker, member.REST
		}
		i, there := index[w]
		if !there {
			i = len(ms)
			index[w] = i
			ms = append(ms, member.Member{Info: info})
		}
		ms[i].Runs = append(ms[i].Runs, run(h))
	}
	member.Sort(ms)
	return ms, nil
}

// run is what is shown of a ticket that somebody holds.
func run(h queue.Held) member.Run {
	t := h.Ticket
	r := member.Run{Ticket: t.ID, Type: t.Type, JobID: t.JobID, Build: int64(t.BuildNumber), Step: t.Step, Name: t.Name,
		Attempt: t.Attempt, Since: t.Started}
	if h.Session == 0 {
		until := h.Until.UTC()
		r.Until = &until
	}
	return r
}
