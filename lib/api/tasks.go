package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/ticket"
)

// sweepInterval is how often at most tickets are looked for whose holders are
// gone. Whoever asks for tickets pays for it, as an idle distci-claim does.
const sweepInterval = time.Second

func (c *call) requeue() error {
	c.sweep.Lock()
	due := time.Since(c.sweep.last) >= sweepInterval
	if due {
		c.sweep.last = time.Now()
	}
	c.sweep.Unlock()
	if !due {
		return nil
	}
	ids, err := c.repo.Queue().Requeue(c.r.Context())
	if len(ids) > 0 {
		c.Log.Info("made tickets ready again whose workers are gone", "tickets", ids)
	}
	return err
}

func (c *call) listTasks() error {
	if q := c.r.URL.Query(); q.Has("wait") || q.Has("capabilities") {
		return c.waitTask()
	}
	if err := c.requeue(); err != nil {
		return err
	}
	ids, err := c.repo.Queue().List(c.r.Context())
	if err == nil {
		ids, err = c.tickets(ids)
	}
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, map[string]any{"tasks": ids})
}

// parseTask reads the body of a request about a ticket. The original's clients
// call a ticket "preparing" that is yet to be filled: for us it has no status.
func parseTask(b []byte) (*ticket.Ticket, error) {
	var m map[string]json.RawMessage
	if json.Unmarshal(b, &m) == nil && string(m["status"]) == `"preparing"` {
		delete(m, "status")
		var err error
		if b, err = json.Marshal(m); err != nil {
			return nil, err
		}
	}
	return ticket.Parse(b)
}

// readTask reads a ticket from the body. With optional, an empty one is one
// without fields.
func (c *call) readTask(optional bool) (*ticket.Ticket, error) {
	b, err := c.document(maxDocument)
	if err != nil {
		return nil, err
	}
	if optional && len(bytes.TrimSpace(b)) == 0 {
		b = []byte("{}")
	}
	return parseTask(b)
}

// etag names a ticket as it is.
func etag(t *ticket.Ticket) (string, error) {
	b, err := json.Marshal(t)
	return fmt.Sprintf(`"%x"`, sha256.Sum256(b)), err
}

func (c *call) taskReply(code int, t *ticket.Ticket, canceled string) error {
	tag, err := etag(t)
	if err != nil {
		return err
	}
	c.w.Header().Set("Etag", tag)
	return c.json(code, struct {
		ID       string         `json:"id"`
		Data     *ticket.Ticket `json:"data"`
		Canceled string         `json:"canceled,omitempty"`
	}{t.ID, t, canceled})
}

func (c *call) postTask() error {
	t, err := c.readTask(true)
	if err != nil {
		return err
	}
	if t.JobID != "" && t.Step != "" {
		return status(http.StatusBadRequest, `ticket: field "step": the tickets of a build's steps are posted by the build`)
	}
	if err := c.mayPost(t); err != nil {
		return err
	}
	if t.ID == "" {
		t.ID = ticket.NewID()
	} else if _, _, err := c.repo.Queue().Get(c.r.Context(), t.ID); err == nil {
		return status(http.StatusConflict, "there is a ticket with this id")
	} else if !errors.Is(err, queue.ErrNotFound) {
		return err
	}
	if err := c.repo.Queue().Post(c.r.Context(), t); err != nil {
		return err
	}
	return c.taskReply(http.StatusCreated, t, "")
}

func (c *call) getTask() error {
	if err := c.requeue(); err != nil {
		return err
	}
	t, _, err := c.repo.Queue().Get(c.r.Context(), c.task)
	if err == nil && !c.sees(t.JobID) {
		err = queue.ErrNotFound
	}
	if err != nil {
		return err
	}
	return c.taskReply(http.StatusOK, t, "")
}

func (c *call) putTask() error {
	put, err := c.readTask(false)
	if err != nil {
		return err
	}
	if put.ID != "" && put.ID != c.task {
		return status(http.StatusBadRequest, "the ticket's id is another one than the path's")
	}
	if err := c.seesTicket(); err != nil {
		return err
	}
	if put.JobID != "" {
		if err := c.mayPost(put); err != nil {
			return err
		}
	}
	t, err := c.repo.PutTask(c.r.Context(), c.task, put, c.ifMatch())
	if err != nil {
		return err
	}
	return c.taskReply(http.StatusOK, t, "")
}

// ifMatch is the condition of the header If-Match; nil if there is none.
func (c *call) ifMatch() func(*ticket.Ticket) bool {
	want := c.r.Header.Get("If-Match")
	if want == "" || want == "*" {
		return nil
	}
	return func(t *ticket.Ticket) bool {
		tag, err := etag(t)
		for one := range strings.SplitSeq(want, ",") {
			if err == nil && strings.TrimSpace(one) == tag {
				return true
			}
		}
		return false
	}
}

func (c *call) deleteTask() error {
	if err := c.seesTicket(); err != nil {
		return err
	}
	if err := c.repo.DeleteTask(c.r.Context(), c.task); err != nil {
		return err
	}
	return c.none()
}

func (c *call) leaseTask() error {
	put, err := c.readTask(true)
	if err != nil {
		return err
	}
	if err := c.seesTicket(); err != nil {
		return err
	}
	t, canceled, err := c.repo.Lease(c.r.Context(), c.task, put)
	if err != nil {
		return err
	}
	return c.taskReply(http.StatusOK, t, canceled)
}
