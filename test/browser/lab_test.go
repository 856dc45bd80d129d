package browser

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distci/distci/lib/build"
	testlab "github.com/distci/distci/test/lab"
)

// lab is a cluster of real programs, in a folder.
type lab struct {
	*testing.T
	dir   string
	url   string
	spawn *testlab.Spawner
}

// newLab starts a frontend and, unless there are to be none, a worker.
func newLab(t *testing.T, workers int, frontend ...string) *lab {
	t.Helper()
	l := &lab{T: t, dir: testlab.Dir(t), spawn: testlab.NewSpawner(t)}
	l.frontend(frontend...)
	for i := range workers {
		l.start("distci-claim", "--loop", "--name", fmt.Sprintf("builder-%d", i+1), "--jobs", "2", "--state", filepath.Join(l.dir, fmt.Sprint("worker-", i)))
	}
	return l
}

func (l *lab) env() []string {
	return testlab.Env(bin, l.dir, "DISTCI_SANDBOX=plain", "DISTCI_COORD=local:"+filepath.Join(l.dir, "coord.db"), "DISTCI_STORE=dir:"+filepath.Join(l.dir, "store"))
}

func (l *lab) start(program string, args ...string) *testlab.Proc {
	l.Helper()
	cmd := exec.Command(filepath.Join(bin, program), args...)
	cmd.Env = l.env()
	return testlab.Start(l.T, l.spawn, l.dir, program, cmd)
}

// frontend starts a frontend with more options, and makes the lab speak to it.
func (l *lab) frontend(args ...string) {
	l.Helper()
	file := filepath.Join(l.dir, "port")
	os.Remove(file)
	p := l.start("distci-frontend", append([]string{"--listen", "127.0.0.1:0", "--port-file", file}, args...)...)
	testlab.Until(l, "the frontend listens", func() bool {
		select {
		case <-p.Done:
			l.Fatalf("the frontend has ended: %s", p.Said())
		default:
		}
		b, err := os.ReadFile(file)
		l.url = "http://127.0.0.1:" + strings.TrimSpace(string(b))
		return err == nil
	})
}

// ask sends a request and returns the body of the answer.
func (l *lab) ask(method, path, body string, header ...string) []byte {
	l.Helper()
	code, b := l.try(method, path, body, header...)
	if code >= 300 {
		l.Fatalf("%s %s: status %d: %s", method, path, code, b)
	}
	return b
}

func (l *lab) try(method, path, body string, header ...string) (int, []byte) {
	l.Helper()
	req, err := http.NewRequest(method, l.url+path, strings.NewReader(body))
	if err != nil {
		l.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		l.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		l.Fatal(err)
	}
	return resp.StatusCode, b
}

// task is a step of a job.
type task map[string]any

func shell(name, script string) task {
	return task{"name": name, "type": "execute-shell", "params": map[string]any{"script": script}}
}

// job sets a job, past every frontend that asks who one is.
func (l *lab) job(id string, config map[string]any, tasks ...task) {
	l.Helper()
	c := map[string]any{"job_id": id, "tasks": tasks}
	for k, v := range config {
		c[k] = v
	}
	b, err := json.Marshal(c)
	if err != nil {
		l.Fatal(err)
	}
	l.ask("PUT", "/jobs/"+id, string(b))
}

// trigger begins a build.
func (l *lab) trigger(job, body string) int {
	l.Helper()
	var reply struct {
		Number int `json:"build_number"`
	}
	if err := json.Unmarshal(l.ask("POST", "/jobs/"+job+"/builds", body), &reply); err != nil {
		l.Fatal(err)
	}
	return reply.Number
}

func (l *lab) state(job string, n int) *build.State {
	l.Helper()
	var reply struct{ State build.State }
	if err := json.NewDecoder(bytes.NewReader(l.ask("GET", fmt.Sprintf("/jobs/%s/builds/%d", job, n), ""))).Decode(&reply); err != nil {
		l.Fatal(err)
	}
	return &reply.State
}

// finish waits for the end of a build.
func (l *lab) finish(job string, n int) *build.State {
	l.Helper()
	var s *build.State
	testlab.Until(l, fmt.Sprintf("%s #%d is complete", job, n), func() bool {
		s = l.state(job, n)
		return s.Status == build.Complete
	})
	return s
}

// gate is a file that a script waits for.
func (l *lab) gate(name string) (wait string, open func()) {
	path := filepath.Join(l.dir, name)
	return "until [ -e " + path + " ]; do sleep 0.05; done", func() {
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			l.Fatal(err)
		}
	}
}
