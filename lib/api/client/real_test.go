package client_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/distci/distci/lib/api"
	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/cluster"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/tool"
)

// TestRealServer speaks to the project's own server, over TCP and in this
// process.
func TestRealServer(t *testing.T) {
	dir := t.TempDir()
	cl, err := cluster.Open(t.Context(), cluster.Options{Coord: "local:" + filepath.Join(dir, "coord.db"), Store: "dir:" + filepath.Join(dir, "store"), Log: tool.NewLog("test", io.Discard)})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	h := api.New(cl.Repo, api.Options{})
	t.Run("over", func(t *testing.T) {
		c := client.Over(h)
		defer c.Close()
		realServer(t, c, "over")
	})
	t.Run("tcp", func(t *testing.T) {
		srv := httptest.NewServer(h)
		defer srv.Close()
		c, err := client.New(srv.URL, client.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		realServer(t, c, "tcp")
	})
}

func realServer(t *testing.T, c *client.Client, job string) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	config := `{"job_id": "` + job + `", "tasks": [{"type": "execute-shell", "params": {"script": "true"}}]}`
	must(c.PutJob(ctx, job, []byte(config)))
	if got, err := c.Job(ctx, job); err != nil || !bytes.Contains(got, []byte("execute-shell")) {
		t.Error(string(got), err)
	}
	if err := c.PutJob(ctx, job, []byte("{}")); fault.Of(err) != fault.BadTicket {
		t.Error(err)
	}
	if ids, err := c.Jobs(ctx, "", 0); err != nil || !slices.Contains(ids, job) {
		t.Error(ids, err)
	}
	if _, err := c.Builds(ctx, "nope"); client.Status(err) != http.StatusNotFound || fault.Of(err) != fault.Unavailable {
		t.Error(err)
	}
	if ns, err := c.Builds(ctx, job); err != nil || len(ns) != 0 {
		t.Error(ns, err)
	}
	n, err := c.Trigger(ctx, job)
	must(err)
	if ns, err := c.Builds(ctx, job); err != nil || !slices.Equal(ns, []ticket.Number{n}) {
		t.Error(ns, err)
	}
	if s, err := c.Build(ctx, job, n); err != nil || s.Status != build.Preparing {
		t.Error(s, err)
	}

	data := strings.Repeat("0123456789", 100_000)
	a, err := c.PutArtifact(ctx, job, n, strings.NewReader(data), int64(len(data)))
	must(err)
	if a.Size != int64(len(data)) || len(a.SHA256) != 64 {
		t.Error(a)
	}
	for _, offset := range []int64{0, 999_995, 1_000_000} {
		r, err := c.GetArtifact(ctx, job, n, a.ID, offset)
		must(err)
		b, err := io.ReadAll(r)
		r.Close()
		if string(b) != data[offset:] || err != nil {
			t.Error(offset, len(b), err)
		}
	}
	if _, err := c.GetArtifact(ctx, job, n, ticket.NewID(), 0); fault.Of(err) != fault.Unavailable {
		t.Error(err)
	}
	if list, err := c.Artifacts(ctx, job, n); err != nil || len(list) != 0 { // no step names it
		t.Error(list, err)
	}

	var out bytes.Buffer
	must(c.Console(ctx, job, n, &out))
	follower := make(chan error)
	go func() { follower <- c.Follow(ctx, job, n, 0, io.Discard) }()
	must(c.DeleteBuild(ctx, job, n))
	if err := <-follower; err != nil && fault.Of(err) != fault.Unavailable {
		t.Error(err)
	}
	if err := c.Cancel(ctx, job, n); fault.Of(err) != fault.Unavailable {
		t.Error(err)
	}

	posted, err := c.PostTask(ctx, ticket.New("test-"+job, "test_"+job))
	must(err)
	if ids, err := c.Tasks(ctx); err != nil || !slices.Contains(ids, posted.ID) {
		t.Error(ids, err)
	}
	mine := posted.Clone()
	mine.Status, mine.Assignee = ticket.Running, "me"
	if _, err = c.PutTask(ctx, mine); err != nil {
		t.Fatal(err)
	}
	must(c.Lease(ctx, posted.ID))
	other := posted.Clone()
	other.Status, other.Assignee = ticket.Running, "another"
	if _, err := c.PutTask(ctx, other); client.Status(err) != http.StatusConflict {
		t.Error(err)
	}
	if got, err := c.Task(ctx, posted.ID); err != nil || got.Assignee != "me" {
		t.Error(got, err)
	}
	mine.Status, mine.Result, mine.Assignee = ticket.Complete, ticket.Success, ""
	if _, err := c.PutTask(ctx, mine); err != nil {
		t.Error(err)
	}
	gone, err := c.PostTask(ctx, &ticket.Ticket{})
	must(err)
	must(c.DeleteTask(ctx, gone.ID))
	if _, err := c.Task(ctx, gone.ID); fault.Of(err) != fault.Unavailable {
		t.Error(err)
	}
	must(c.DeleteJob(ctx, job))
}
