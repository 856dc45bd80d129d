package api

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/distci/distci/lib/ticket"
)

const (
	maxWait         = 60 * time.Second
	maxCapabilities = 64
	// waitRound is how long a waiting request relies on being told; then it
	// looks for tickets whose holders are gone, as an idle worker does.
	waitRound = 5 * time.Second
	// offerKept is how long a ticket that one request was told of is kept from
	// the others: its worker is about to take it.
	offerKept = 2 * time.Second
)

// offers are the tickets that this frontend has just told a worker of.
type offers struct {
	mu    sync.Mutex
	until map[string]time.Time
}

// take tells whether the ticket may be offered, and notes that it is.
func (o *offers) take(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	for other, until := range o.until {
		if now.After(until) {
			delete(o.until, other)
		}
	}
	if _, ok := o.until[id]; ok {
		return false
	}
	if o.until == nil {
		o.until = map[string]time.Time{}
	}
	o.until[id] = now.Add(offerKept)
	return true
}

// taken tells whether the ticket is offered to somebody.
func (o *offers) taken(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	until, ok := o.until[id]
	return ok && time.Now().Before(until)
}

// readWait reads how long to wait, and for which capabilities.
func readWait(q url.Values) (wait time.Duration, capabilities []string, err error) {
	if s := q.Get("wait"); s != "" {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || time.Duration(n)*time.Second > maxWait {
			return 0, nil, status(http.StatusBadRequest, "wait: expected a number of seconds, at most 60")
		}
		wait = time.Duration(n) * time.Second
	}
	for _, list := range q["capabilities"] {
		for one := range strings.SplitSeq(list, ",") {
			if one = strings.TrimSpace(one); one != "" {
				capabilities = append(capabilities, one)
			}
		}
	}
	bad := func(s string) bool {
		return len(s) > 256 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
	}
	if len(capabilities) > maxCapabilities || slices.ContainsFunc(capabilities, bad) {
		return 0, nil, status(http.StatusBadRequest, "capabilities: expected at most 64 names of visible ASCII characters, with commas between")
	}
	return wait, capabilities, nil
}

// waitTask answers with a ticket that a worker with the capabilities may take,
// as soon as there is one; 204 if there is none within the time. The ticket is
// not taken by that.
func (c *call) waitTask() error {
	wait, offer, err := readWait(c.r.URL.Query())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), wait)
	defer cancel()
	stop := c.untilDone(cancel)
	defer stop()
	t, err := c.nextTask(ctx, offer)
	if err != nil {
		return err
	}
	if t == nil {
		return c.none()
	}
	return c.taskReply(http.StatusOK, t, "")
}

// nextTask waits for a ticket until ctx is done; nil: there was none. Of those
// who wait for the same only a few are woken by a ticket, see [queue.Waiter],
// and one of these is told of it.
func (c *call) nextTask(ctx context.Context, offer []string) (*ticket.Ticket, error) {
	q := c.repo.Queue()
	w := q.Waiter()
	defer w.Leave(context.WithoutCancel(ctx))
	unseen := map[string]bool{} // of jobs that are none of the caller's
	for {
		if err := c.requeue(); err != nil {
			return nil, err
		}
		round := waitRound
		skip := func(id string) bool {
			if c.offers.taken(id) {
				round = offerKept // it may be left lying
				return true
			}
			return unseen[id]
		}
		// There is one look for those, too, who do not wait, or not any longer.
		for {
			t, err := q.Peek(c.r.Context(), offer, skip)
			if err != nil {
				return nil, err
			}
			if t == nil {
				break
			}
			if !c.sees(t.JobID) {
				unseen[t.ID] = true
			} else if c.offers.take(t.ID) {
				return t, nil
			}
		}
		if ctx.Err() != nil {
			return nil, c.r.Context().Err()
		}
		if _, err := w.Wait(ctx, offer, skip, round); err != nil {
			return nil, err
		}
	}
}
