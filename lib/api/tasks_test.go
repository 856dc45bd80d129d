package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/ticket"
)

// TestFillThenClaim: a ticket that was posted empty becomes claimable with the
// PUT that fills it, and stays after its end until it is deleted.
func TestFillThenClaim(t *testing.T) {
	l := newLab(t)
	for _, begin := range []string{"", "{}", `{"status":"preparing","timestamp":12}`} {
		id := l.want(201, "POST", "/tasks", begin).task(t).ID
		if c, err := l.repo.Queue().Claim(t.Context(), []string{"x"}, "w", nil); c != nil || err != nil {
			t.Fatalf("claimed an empty ticket: %v, %v", c, err)
		}
		l.want(200, "PUT", "/tasks/"+id, `{"status":"pending","type":"foo","capabilities":["x"],"params":{"a":1.50},"own":{"n":10000000000000000000001}}`)
		got := l.claim(l.pending(), "me")
		if got.ID != id || got.Attempt != 1 || got.Assignee != "me" || string(got.Params) != `{"a":1.50}` || string(got.Extra["own"]) != `{"n":10000000000000000000001}` {
			t.Errorf("%s", encode(got))
		}
		l.want(409, "PUT", "/tasks/"+id, `{"status":"running","assignee":"other"}`)
		got.Extra["found"] = json.RawMessage(`[1]`)
		got.Status = ticket.Running
		l.want(200, "PUT", "/tasks/"+id, encode(got)) // progress
		l.complete(200, got, ticket.Success)
		l.complete(200, got, ticket.Success) // again, as its answer may have been lost
		got = l.want(200, "GET", "/tasks/"+id, "").task(t).Data
		if got.Status != ticket.Complete || got.Result != ticket.Success || got.Assignee != "" || got.Ended == nil || string(got.Extra["found"]) != "[1]" {
			t.Errorf("%s", encode(got))
		}
		l.want(204, "DELETE", "/tasks/"+id, "")
		l.want(404, "GET", "/tasks/"+id, "")
	}
}

// TestOriginalTicket: the exact bytes of one exchange of the original's worker.
func TestOriginalTicket(t *testing.T) {
	l := newLab(t)
	id := l.want(201, "POST", "/tasks", `{"status":"pending","job_id":"j","build_number":"7","capabilities":["execute_shell_v1"],"params":{"script":"make"}}`).task(t).ID
	got := l.want(200, "GET", "/tasks/"+id, "").body
	want := fmt.Sprintf(`{"id":%q,"data":{"build_number":"7","capabilities":["execute_shell_v1"],"id":%q,"job_id":"j","params":{"script":"make"},"status":"pending"}}`, id, id)
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// TestBuildOverREST takes a whole build through as a worker in another language
// does, but for the middle step, which is distci-claim's.
func TestBuildOverREST(t *testing.T) {
	l := newLab(t)
	l.job("j", 3)
	l.control()
	base := "/jobs/j/builds/1"

	// The first step: it has an empty workspace, a console and an artefact.
	first := l.claim(l.pending(), "rest")
	if first.Step != "0" || first.BuildNumber != 1 || first.Attempt != 1 {
		t.Fatalf("%s", encode(first))
	}
	if got := untar(t, l.want(200, "GET", base+"/workspace", "").body); len(got) != 0 {
		t.Errorf("the first step begins with %v", got)
	}
	l.want(204, "POST", base+"/console", "from rest\n")
	l.want(204, "PUT", base+"/workspace", tarball(t, map[string]string{"a": "1", "b": "2"}))
	var artifact struct {
		ID string `json:"artifact_id"`
	}
	if err := json.Unmarshal([]byte(l.want(201, "POST", base+"/artifacts", "bytes").body), &artifact); err != nil {
		t.Fatal(err)
	}
	first.Artifacts = map[string][]string{artifact.ID: {"out", "x"}}
	first.Extra["note"] = json.RawMessage(`"kept"`)
	first.JobID, first.Step, first.Params, first.Workspace = "other", "9", nil, nil // not its to say
	done := l.complete(200, first, ticket.Success).task(t).Data
	if done.JobID != "j" || done.Step != "0" || len(done.Workspace) != 1 {
		t.Errorf("%s", encode(done))
	}
	l.want(404, "GET", "/tasks/"+first.ID, "")
	l.complete(404, first, ticket.Success)

	// The second: by distci-claim, which finds the workspace.
	c := l.native()
	if c.Ticket.Step != "1" || len(c.Ticket.Workspace) != 1 || c.Ticket.Workspace[0] != done.Workspace[0] {
		t.Fatalf("%s", encode(c.Ticket))
	}
	// Its ticket is not one for workers that speak REST, nor is its log.
	l.want(409, "PUT", "/tasks/"+c.Ticket.ID, encode(c.Ticket))
	l.want(409, "POST", "/tasks/"+c.Ticket.ID+"/lease", "")
	l.want(409, "DELETE", "/tasks/"+c.Ticket.ID, "")
	log := l.repo.NewLog(t.Context(), "j", 1, "1", 1)
	fmt.Fprintln(log, "from native")
	l.want(204, "POST", base+"/console", "from a tool\n")
	fmt.Fprintln(log, "from native again")
	if err := log.Close(); err != nil {
		t.Errorf("the worker's log was disturbed: %v", err)
	}
	end := c.Ticket.Clone()
	end.Finish(nil)
	if _, err := l.repo.Commit(t.Context(), c, end, nil); err != nil {
		t.Fatal(err)
	}

	// The third again over REST; it fails, and so does the build.
	third := l.claim(l.pending(), "rest")
	if got := untar(t, l.want(200, "GET", base+"/workspace", "").body); got["a"] != "1" || got["b"] != "2" {
		t.Errorf("workspace %v", got)
	}
	l.want(204, "PUT", base+"/workspace", tarball(t, map[string]string{"c": "3"}))
	third.Error = "the test has failed"
	l.complete(200, third, ticket.Failure)
	l.control()
	s := l.state("j", 1)
	if s["status"] != "complete" || s["result"] != "failure" {
		t.Errorf("%v", s)
	}
	task := s["tasks"].(map[string]any)["0"].(map[string]any)
	if task["status"] != "complete" || task["note"] != "kept" || task["artifacts"] == nil || task["build_number"] != "1" {
		t.Errorf("task 0: %v", task)
	}
	if got := fmt.Sprint(s["artifacts"]); got != "map["+artifact.ID+":[out x]]" {
		t.Errorf("artifacts %s", got)
	}
	if got := untar(t, l.want(200, "GET", base+"/workspace", "").body); len(got) != 1 || got["c"] != "3" {
		t.Errorf("the workspace at the end: %v", got)
	}
	if got := l.want(200, "GET", base+"/console", "").body; got != "from rest\nfrom native\nfrom native again\nfrom a tool\n" {
		t.Errorf("console %q", got)
	}
	if got := l.want(200, "GET", base+"/steps/1/log", "").body; got != "from native\nfrom native again\n" {
		t.Errorf("log of step 1: %q", got)
	}
	l.want(404, "GET", base+"/steps/7/log", "")
	if got := l.want(200, "GET", base+"/artifacts", "").body; !strings.Contains(got, `{"`+artifact.ID+`":{"path":["out","x"],"size":5,"sha256":"`) {
		t.Errorf("%s", got)
	}
	l.want(204, "DELETE", base+"/workspace", "")
	l.want(404, "GET", base+"/workspace", "")
}

// expire waits until a lease of one second has run out and the ticket is
// pending again.
func (l *lab) expire(id string) *ticket.Ticket {
	l.Helper()
	for {
		l.want(200, "GET", "/tasks", "")
		if t := l.want(200, "GET", "/tasks/"+id, "").task(l).Data; t.Status == ticket.Pending {
			return t
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestLease: a worker that is silent loses its ticket, and what it says later
// changes nothing, whoever has the ticket then.
func TestLease(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	l.control()
	tk := l.pending()
	tk.Extra["lease"] = json.RawMessage("0.2") // a second is the least
	late := l.claim(tk, "late")
	again := l.expire(tk.ID)
	if p, ok := queue.PreviousOf(again); !ok || p.Worker != "late" || again.Attempt != 1 || again.Started != nil {
		t.Errorf("%s", encode(again))
	}
	refused := func(when string) {
		t.Helper()
		l.complete(409, late, ticket.Success)
		progress := late.Clone()
		l.want(409, "PUT", "/tasks/"+tk.ID, encode(progress))
		l.want(409, "POST", "/tasks/"+tk.ID+"/lease", `{"assignee":"late","attempt":1}`)
		l.want(409, "PUT", "/tasks/"+tk.ID, `{"status":"complete","result":"success","assignee":"late"}`)
	}
	refused("while it is pending")
	l.want(409, "POST", "/tasks/"+tk.ID+"/lease", "")
	next := l.claim(again, "next")
	if next.Attempt != 2 {
		t.Errorf("%s", encode(next))
	}
	refused("while another one has it")
	// A worker that does not say which attempt is its own is not believed, now
	// that there were two.
	l.want(409, "PUT", "/tasks/"+tk.ID, `{"status":"complete","result":"success"}`)
	for range 3 {
		if got := l.want(200, "POST", "/tasks/"+tk.ID+"/lease", "").task(t); got.Canceled != "" || got.Data.Assignee != "next" {
			t.Errorf("%+v", got)
		}
	}
	l.complete(200, next, ticket.Success)
	l.control()
	if s := l.state("j", 1); s["result"] != "success" {
		t.Errorf("%v", s)
	}
	l.complete(404, late, ticket.Failure)
	if s := l.state("j", 1); s["result"] != "success" {
		t.Errorf("%v", s)
	}
}

// TestExpiredBeforeAnyoneLooks: a result that comes after the lease is late,
// also if nobody has taken the ticket away yet.
func TestExpiredBeforeAnyoneLooks(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	l.control()
	tk := l.pending()
	tk.Extra["lease"] = json.RawMessage("1")
	late := l.claim(tk, "late")
	_, ref, err := l.repo.Queue().Get(t.Context(), tk.ID)
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.repo.Queue().Leased(t.Context(), ref, late)
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(c.Left())
	l.complete(409, late, ticket.Success)
	if got := l.expire(tk.ID); got.Attempt != 1 {
		t.Errorf("%s", encode(got))
	}
}

// TestAttemptsEnd: a ticket that its workers do not bring to an end has one.
func TestAttemptsEnd(t *testing.T) {
	l := newLab(t)
	id := l.want(201, "POST", "/tasks", `{"status":"pending","capabilities":["x"],"retry":2}`).task(t).ID
	for range 2 {
		got := l.claim(l.pending(), "w")
		got.Status, got.Assignee = ticket.Pending, "" // given back
		if back := l.want(200, "PUT", "/tasks/"+id, encode(got)).task(t).Data; back.Status != ticket.Pending {
			t.Errorf("%s", encode(back))
		}
	}
	tk := l.pending()
	tk.Status, tk.Assignee = ticket.Running, "w"
	l.want(409, "PUT", "/tasks/"+id, encode(tk))
	if got := l.want(200, "GET", "/tasks/"+id, "").task(t).Data; got.Status != ticket.Complete || got.Result != ticket.Error {
		t.Errorf("%s", encode(got))
	}
}

func TestPutTaskRefusals(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	l.control()
	tk := l.pending()
	put := func(code int, body string) *reply {
		t.Helper()
		return l.want(code, "PUT", "/tasks/"+tk.ID, body)
	}
	put(400, `{"status":"running"}`)
	put(400, `{"status":"pending","assignee":"w"}`)
	put(400, `{"status":"running","assignee":"w","lease":"long"}`)
	put(409, `{"status":"complete","result":"success"}`)
	put(409, `{"status":"running","assignee":"w","attempt":5}`)
	put(200, `{"status":"pending","capabilities":["mine"],"params":{}}`)
	if got := l.pending(); encode(got) != encode(tk) {
		t.Errorf("the build's ticket was changed to %s", encode(got))
	}
	// If-Match
	tag := l.want(200, "GET", "/tasks/"+tk.ID, "").Header.Get("Etag")
	l.want(409, "PUT", "/tasks/"+tk.ID, `{"status":"running","assignee":"w"}`, "If-Match", `"no"`)
	mine := l.want(200, "PUT", "/tasks/"+tk.ID, `{"status":"running","assignee":"w"}`, "If-Match", tag).task(t).Data
	l.want(409, "PUT", "/tasks/"+tk.ID, encode(mine), "If-Match", tag)
	// The claim again, as its answer may have been lost.
	put(200, `{"status":"running","assignee":"w"}`)
	for _, artifacts := range []string{`{"../x":["a"]}`, `{"` + nobody + `":["a"]}`, `{"` + nobody + `":[]}`, `{"` + nobody + `":["..","etc"]}`, `{"` + nobody + `":["a/b"]}`} {
		put(400, `{"status":"complete","result":"success","artifacts":`+artifacts+`}`)
	}
	// Without a result it is an error, so that the build ends.
	put(200, `{"status":"complete"}`)
	l.control()
	if s := l.state("j", 1); s["status"] != "complete" || s["result"] != "error" {
		t.Errorf("%v", s)
	}
}

// TestCanceled: a worker that speaks REST learns of a cancellation where it
// shows that it is alive, and does not get a canceled build's tickets.
func TestCanceled(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	l.control()
	tk := l.pending()
	tk.Extra["lease"] = json.RawMessage("1")
	held := l.claim(tk, "w")
	if r := l.want(202, "POST", "/jobs/j/builds/1/cancel", ""); !strings.Contains(r.body, `"build_number":1`) {
		t.Error(r.body)
	}
	if got := l.want(200, "POST", "/tasks/"+held.ID+"/lease", "").task(t); got.Canceled == "" {
		t.Errorf("%+v", got)
	}
	again := l.expire(held.ID)
	again.Status, again.Assignee = ticket.Running, "x"
	if r := l.want(409, "PUT", "/tasks/"+held.ID, encode(again)); !strings.Contains(r.body, "canceled") {
		t.Error(r.body)
	}
	l.control()
	if s := l.state("j", 1); s["status"] != "complete" || s["result"] != "canceled" {
		t.Errorf("%v", s)
	}
}

// TestDeletedTickets: the ticket of a step may go, the build goes on to an end.
func TestDeletedTickets(t *testing.T) {
	l := newLab(t)
	l.job("j", 2)
	l.control()
	l.want(204, "DELETE", "/tasks/"+l.pending().ID, "")
	l.control()
	if s := l.state("j", 1); s["status"] != "complete" || s["result"] != "canceled" {
		t.Errorf("a pending one: %v", s)
	}
	l.want(201, "POST", "/jobs/j/builds", "")
	l.control()
	held := l.claim(l.pending(), "w")
	l.want(204, "DELETE", "/tasks/"+held.ID, "")
	l.complete(404, held, ticket.Success)
	l.control()
	if s := l.state("j", 2); s["status"] != "complete" || s["result"] != "canceled" {
		t.Errorf("a leased one: %v", s)
	}
	l.want(201, "POST", "/jobs/j/builds", "")
	l.want(204, "DELETE", "/tasks/"+l.pending().ID, "") // the control ticket
	l.control()
	if s := l.state("j", 3); s["status"] != "complete" || s["result"] != "error" {
		t.Errorf("the one that begins the build: %v", s)
	}
}

// TestControlOverREST: a build controller that speaks REST runs a build by
// itself, as the original's did.
func TestControlOverREST(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	ctl := l.claim(l.pending(), "controller")
	l.want(200, "PUT", "/jobs/j/builds/1/state", `{"status":"running","controller":"u","tasks":{},"artifacts":{}}`)
	l.want(204, "PUT", "/jobs/j/builds/1/workspace", tarball(t, nil))
	sub := l.want(201, "POST", "/tasks", `{"status":"pending","job_id":"j","build_number":"1","capabilities":["execute_shell_v1"],"params":{"script":":"}}`).task(t)
	worker := l.claim(l.pending(), "worker")
	l.want(204, "PUT", "/jobs/j/builds/1/workspace", tarball(t, map[string]string{"x": "y"}))
	l.complete(200, worker, ticket.Success)
	if got := l.want(200, "GET", "/tasks/"+sub.ID, "").task(t).Data; got.Status != ticket.Complete {
		t.Errorf("%s", encode(got))
	}
	if got := untar(t, l.want(200, "GET", "/jobs/j/builds/1/workspace", "").body); got["x"] != "y" {
		t.Errorf("%v", got)
	}
	l.want(204, "DELETE", "/jobs/j/builds/1/workspace", "")
	l.want(200, "PUT", "/jobs/j/builds/1/state", `{"status":"complete","result":"success","tasks":{"0":{"id":"`+sub.ID+`","status":"complete","result":"success"}}}`)
	l.want(204, "DELETE", "/tasks/"+sub.ID, "")
	l.want(204, "DELETE", "/tasks/"+ctl.ID, "")
	if got := l.want(200, "GET", "/tasks", "").body; got != `{"tasks":[]}` {
		t.Error(got)
	}
	if s := l.state("j", 1); s["status"] != "complete" || s["result"] != "success" {
		t.Errorf("%v", s)
	}
}

// TestRaces: of many workers that want the same ticket one gets it, and only
// its result counts.
func TestRaces(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	l.control()
	tk := l.pending()
	const n = 12
	var mu sync.Mutex
	got := map[int][]*ticket.Ticket{}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			mine := tk.Clone()
			mine.Status, mine.Assignee = ticket.Running, fmt.Sprint("w", i)
			r, err := l.try("PUT", "/tasks/"+tk.ID, encode(mine))
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			got[r.StatusCode] = append(got[r.StatusCode], mine)
		})
	}
	wg.Go(func() { // distci-claim is in it, too
		c, err := l.repo.Queue().Claim(context.Background(), []string{"execute_shell_v1"}, "native", nil)
		if err == nil && c != nil {
			err = c.Release(context.Background(), errors.New("not mine"), true)
		}
		if err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	if len(got[http.StatusOK]) > 1 || len(got[http.StatusOK])+len(got[http.StatusConflict]) != n {
		t.Fatalf("%d got it, %d did not", len(got[200]), len(got[409]))
	}
	if len(got[http.StatusOK]) == 0 { // distci-claim had it for a moment
		l.claim(l.pending(), "w0")
	}
	// The holder extends its lease and completes at once.
	held := l.want(200, "GET", "/tasks/"+tk.ID, "").task(t).Data
	codes := make(chan int, n)
	for i := range n {
		wg.Go(func() {
			body, method, path := encode(held), "POST", "/tasks/"+tk.ID+"/lease"
			if i%3 == 0 {
				end := held.Clone()
				end.Status, end.Result, end.Assignee = ticket.Complete, ticket.Success, ""
				body, method, path = encode(end), "PUT", "/tasks/"+tk.ID
			}
			r, err := l.try(method, path, body)
			if err != nil {
				t.Error(err)
				return
			}
			if method == "PUT" {
				codes <- r.StatusCode
			}
		})
	}
	wg.Wait()
	close(codes)
	ok := 0
	for code := range codes {
		switch code {
		case 200:
			ok++
		case 404, 409:
		default:
			t.Errorf("status %d", code)
		}
	}
	if ok != 1 {
		t.Errorf("%d results were taken", ok)
	}
	l.control()
	if s := l.state("j", 1); s["result"] != "success" {
		t.Errorf("%v", s)
	}
}
