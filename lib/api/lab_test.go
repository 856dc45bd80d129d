package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/api"
	"github.com/distci/distci/lib/cluster"
	"github.com/distci/distci/lib/control"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/web"
	"github.com/distci/distci/lib/workspace"
	testlab "github.com/distci/distci/test/lab"
)

// lab is a cluster in a folder, with a frontend.
type lab struct {
	testing.TB
	repo *repo.Repo
	url  string
	dir  string
	log  *testlab.Buffer
	done chan struct{} // closed: the frontend is to end
}

func newLab(t testing.TB) *lab {
	t.Helper()
	dir := t.TempDir()
	log := &testlab.Buffer{}
	cl, err := cluster.Open(t.Context(), cluster.Options{Coord: "local:" + filepath.Join(dir, "coord.db"), Store: "dir:" + filepath.Join(dir, "store"), Session: time.Minute, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	cache, err := workspace.OpenCache(filepath.Join(dir, "cache"), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{TB: t, repo: cl.Repo, dir: dir, log: log, done: make(chan struct{})}
	srv := httptest.NewServer(described(t, api.New(cl.Repo, api.Options{
		Pages:  web.New(cl.Repo, web.Options{}),
		Layers: workspace.NewLayers(cl.Store, cache, workspace.Limits{}), MaxUpload: 1 << 20, Temp: dir, Done: l.done,
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})))
	t.Cleanup(srv.Close)
	l.url = srv.URL
	return l
}

// reply is what came back.
type reply struct {
	*http.Response
	body string
}

// try sends a request; header is a list of names and values.
func (l *lab) try(method, path, body string, header ...string) (*reply, error) {
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, l.url+path, in)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return &reply{resp, string(b)}, err
}

// do is try for a test that cannot go on without it.
func (l *lab) do(method, path, body string, header ...string) *reply {
	l.Helper()
	r, err := l.try(method, path, body, header...)
	if err != nil {
		l.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

// want asserts a status.
func (l *lab) want(code int, method, path, body string, header ...string) *reply {
	l.Helper()
	r := l.do(method, path, body, header...)
	if r.StatusCode != code {
		l.Fatalf("%s %s %.200s: status %d, want %d: %s", method, path, body, r.StatusCode, code, r.body)
	}
	return r
}

// task is a reply about a ticket.
type task struct {
	ID       string
	Data     *ticket.Ticket
	Canceled string
}

func (r *reply) task(t testing.TB) task {
	t.Helper()
	var k task
	if err := json.Unmarshal([]byte(r.body), &k); err != nil || k.Data == nil {
		t.Fatalf("%s: %v", r.body, err)
	}
	return k
}

// job sets a job of n steps and begins a build of it.
func (l *lab) job(id string, n int) {
	l.Helper()
	step := `{"type":"execute-shell","params":{"script":":"}}`
	l.want(200, "PUT", "/jobs/"+id, fmt.Sprintf(`{"job_id":%q,"tasks":[%s]}`, id, strings.TrimSuffix(strings.Repeat(step+",", n), ",")))
	l.want(201, "POST", "/jobs/"+id+"/builds", "")
}

// control does the control tickets that are ready, as distci-claim does.
func (l *lab) control() {
	l.Helper()
	for {
		c, err := l.repo.Queue().Claim(l.Context(), []string{"build_control_v1"}, "control", nil)
		if err != nil {
			l.Fatal(err)
		}
		if c == nil {
			return
		}
		t := c.Ticket.Clone()
		ctl, err := l.repo.Prepare(l.Context(), t)
		if err != nil {
			l.Fatal(err)
		}
		if ctl == nil {
			err = l.repo.Drop(l.Context(), c)
		} else {
			t.Finish(control.Act(l.Context(), t, time.Now()))
			_, err = l.repo.CommitControl(l.Context(), c, ctl, t, nil)
		}
		if err != nil && !errors.Is(err, repo.ErrChanged) {
			l.Fatal(err)
		}
	}
}

// native claims a step as distci-claim does.
func (l *lab) native() *queue.Claim {
	l.Helper()
	c, err := l.repo.Queue().Claim(l.Context(), []string{"execute_shell_v1"}, "native", nil)
	if err != nil || c == nil {
		l.Fatalf("no step to claim: %v", err)
	}
	return c
}

// finish ends the step of a claim.
func (l *lab) finish(c *queue.Claim) {
	l.Helper()
	out := c.Ticket.Clone()
	out.Finish(nil)
	if _, err := l.repo.Commit(l.Context(), c, out, nil); err != nil {
		l.Fatal(err)
	}
}

// pending finds the one ticket that is pending.
func (l *lab) pending() *ticket.Ticket {
	l.Helper()
	var ids struct{ Tasks []string }
	if err := json.Unmarshal([]byte(l.want(200, "GET", "/tasks", "").body), &ids); err != nil {
		l.Fatal(err)
	}
	for _, id := range ids.Tasks {
		if t := l.want(200, "GET", "/tasks/"+id, "").task(l).Data; t.Status == ticket.Pending && t.Assignee == "" {
			return t
		}
	}
	l.Fatalf("none of %v is pending", ids.Tasks)
	return nil
}

// encode is a ticket as a body.
func encode(t *ticket.Ticket) string {
	b, err := json.Marshal(t)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// claim takes a ticket as the original's workers do.
func (l *lab) claim(t *ticket.Ticket, worker string) *ticket.Ticket {
	l.Helper()
	t = t.Clone()
	t.Assignee, t.Status = worker, ticket.Running
	return l.want(200, "PUT", "/tasks/"+t.ID, encode(t)).task(l).Data
}

// complete sends a result as the original's workers do.
func (l *lab) complete(code int, t *ticket.Ticket, result string) *reply {
	l.Helper()
	t = t.Clone()
	t.Assignee, t.Status, t.Result = "", ticket.Complete, result
	return l.want(code, "PUT", "/tasks/"+t.ID, encode(t))
}

// state reads a build's state.
func (l *lab) state(job string, n int) map[string]any {
	l.Helper()
	var reply struct{ State map[string]any }
	if err := json.Unmarshal([]byte(l.want(200, "GET", fmt.Sprintf("/jobs/%s/builds/%d/state", job, n), "").body), &reply); err != nil {
		l.Fatal(err)
	}
	return reply.State
}
