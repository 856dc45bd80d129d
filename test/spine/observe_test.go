package spine

import (
	"bufio"
	"context"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// spans is an OTLP receiver.
type spans struct {
	*httptest.Server
	mu  sync.Mutex
	all []*otlp.Span
}

func newSpans(t *testing.T) *spans {
	r := &spans{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, err := io.ReadAll(req.Body)
		var m collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(b, &m)
		}
		if err != nil {
			t.Errorf("%s: %v", req.URL, err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, rs := range m.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				r.all = append(r.all, ss.Spans...)
			}
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// of lists the spans with a name.
func (r *spans) of(name string) (found []*otlp.Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.all {
		if s.Name == name {
			found = append(found, s)
		}
	}
	return found
}

// TestTraces: a build whose steps are done by several workers, one after the
// other, is one trace, of which its programs know; and a build that it triggers
// names it.
func TestTraces(t *testing.T) {
	l := newLab(t)
	l.frontend()
	r := newSpans(t)
	l.job(`{"job_id":"after","tasks":[{"type":"execute-shell","params":{"script":":"}}]}`)
	l.job(`{"job_id":"traced","downstream_jobs":["after"],"tasks":[
		{"type":"execute-shell","name":"one","params":{"script":"echo \"$TRACEPARENT\" >>` + l.outside("told") + `; echo x >x"}},
		{"type":"execute-shell","name":"two","params":{"script":"echo \"$TRACEPARENT\" >>` + l.outside("told") + `; cat x"}}]}`)
	n := l.trigger("traced")
	// Each ticket by a process of its own; they come and go.
	l.until("both builds are finished", func() bool {
		if p := l.start("distci-claim", "--name", "w", "--state", l.path("w"), "--trace", r.URL); p.status() != 0 {
			t.Fatal(p.stderr())
		}
		s, err := l.Build(t.Context(), "after", 1)
		return err == nil && s.Status == "complete"
	})
	l.until("the root spans are there", func() bool { return len(r.of("build traced")) == 1 && len(r.of("build after")) == 1 })
	l.until("the steps' spans are there", func() bool { return len(r.of("one")) == 1 && len(r.of("two")) == 1 && len(r.of("control")) == 4 })
	root, one, two, after := r.of("build traced")[0], r.of("one")[0], r.of("two")[0], r.of("build after")[0]
	for _, s := range []*otlp.Span{one, two} {
		if string(s.TraceId) != string(root.TraceId) || string(s.ParentSpanId) != string(root.SpanId) {
			t.Errorf("%s is not in the build's span", s.Name)
		}
	}
	if len(after.Links) != 1 || string(after.Links[0].TraceId) != string(root.TraceId) || string(after.Links[0].SpanId) != string(root.SpanId) {
		t.Errorf("the build after links to %v", after.Links)
	}
	told := l.lines("told")
	for i, s := range []*otlp.Span{one, two} {
		want := "00-" + hex.EncodeToString(s.TraceId) + "-" + hex.EncodeToString(s.SpanId) + "-01"
		if len(told) != 2 || told[i] != want {
			t.Errorf("the programs of step %d were told %q, want %s", i, told, want)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	phases := map[string]bool{}
	for _, s := range r.all {
		if string(s.ParentSpanId) == string(two.SpanId) {
			phases[s.Name] = true
		}
	}
	for _, p := range []string{"wait", "prepare", "restore", "sandbox", "tool", "clean", "save", "commit"} {
		if !phases[p] {
			t.Errorf("step two has no phase %s: %v", p, phases)
		}
	}
	if s := l.state("traced", n); s.Result != "success" {
		t.Errorf("result %s", s.Result)
	}
}

// TestDeafCollector: builds end as usual when nobody takes the traces, or
// somebody takes them and never answers.
func TestDeafCollector(t *testing.T) {
	l := newLab(t)
	l.frontend()
	deaf, err := net.Listen("tcp", "127.0.0.1:0") // connections are made, and nothing is said
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	l.shellJob("deaf", ":")
	for _, url := range []string{"http://" + deaf.Addr().String(), "http://127.0.0.1:1"} {
		n := l.trigger("deaf")
		for range 3 {
			if p := l.start("distci-claim", "--name", "w", "--state", l.path("w"), "--trace", url); p.status() != 0 {
				t.Fatal(p.stderr())
			}
		}
		if s := l.state("deaf", n); s.Result != "success" {
			t.Errorf("%s: %s %s", url, s.Status, s.Result)
		}
	}
}

// scrape reads metrics.
func scrape(t *testing.T, c *http.Client, url string) string {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%s: %d, %v: %s", url, resp.StatusCode, err, b)
	}
	return string(b)
}

// TestMetrics: a worker and a frontend tell of a build that they have brought
// to its end, each what it has seen of it.
func TestMetrics(t *testing.T) {
	l := newLab(t)
	front := l.frontend()
	sock := l.path("m.sock")
	w := l.worker("w1", "--metrics", "unix:"+sock)
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", sock)
	}}}
	l.shellJob("job", "echo hello >x", "exit 1")
	l.shellJob("waits", ":")
	l.finished("job", l.trigger("job"))
	l.until("the worker tells of the build", func() bool {
		return strings.Contains(scrape(t, client, "http://w/metrics"), `distci_builds_finished_total{result="failure"} 1`)
	})
	got := scrape(t, client, "http://w/metrics")
	for _, line := range []string{
		`distci_build_info\{.*program="distci-claim"`,
		`distci_step_attempts_total\{outcome="success",type="execute-shell"\} 1`,
		`distci_step_results_total\{result="failure",type="execute-shell"\} 1`,
		`distci_step_phase_duration_seconds_count\{phase="tool",type="execute-shell"\} 2`,
		`distci_step_phase_duration_seconds_count\{phase="commit",type="build-control"\} 2`,
		`distci_coordination_operation_duration_seconds_count\{operation="transaction"\} [1-9]`,
		`distci_store_operation_duration_seconds_count\{operation="put"\} [1-9]`,
		`distci_coordination_connected 1`,
		`distci_observe_dropped_events_total 0`,
		`process_resident_memory_bytes [1-9]`,
	} {
		if !regexp.MustCompile(`(?m)^` + line).MatchString(got) {
			t.Errorf("the worker does not tell %s", line)
		}
	}
	for _, text := range []string{scrape(t, http.DefaultClient, l.url()+"/metrics"), got} {
		if strings.Contains(text, `"job"`) || strings.Contains(text, `waits`) {
			t.Error("a label names a job")
		}
	}
	w.End(os.Interrupt)
	l.until("the socket is gone", func() bool { _, err := net.Dial("unix", sock); return err != nil })
	l.trigger("waits")
	l.until("the frontend sees what waits", func() bool {
		return strings.Contains(scrape(t, http.DefaultClient, l.url()+"/metrics"), `distci_queue_ready_tickets{capabilities="build_control_v1",priority="100"} 1`)
	})
	got = scrape(t, http.DefaultClient, l.url()+"/metrics")
	for _, line := range []string{
		`distci_http_requests_total\{code="201",method="POST",route="/jobs/\{job\}/builds"\} 2`,
		`distci_http_requests_in_flight 1`,
		`distci_queue_oldest_age_seconds\{capabilities="build_control_v1",priority="100"\} [0-9.]+`,
		`distci_tickets_total\{event="post",outcome="done"\} 2`,
		`distci_http_body_bytes_total\{direction="out",kind="other"\} [1-9]`,
	} {
		if !regexp.MustCompile(`(?m)^` + line).MatchString(got) {
			t.Errorf("the frontend does not tell %s", line)
		}
	}
	if t.Failed() {
		t.Log(got, front.stderr())
	}
}

// TestMetricsOfShortLives: workers that live for one ticket add to one file, and
// none of it is left behind by one that is killed.
func TestMetricsOfShortLives(t *testing.T) {
	l := newLab(t)
	l.frontend()
	l.shellJob("job", ":", ":")
	file := l.path("distci.prom")
	n := l.trigger("job")
	for range 4 {
		if p := l.start("distci-claim", "--state", l.path("w"), "--metrics-file", file); p.status() != 0 {
			t.Fatal(p.stderr())
		}
	}
	l.finished("job", n)
	l.until("the file tells of all", func() bool {
		b, _ := os.ReadFile(file)
		return strings.Contains(string(b), `distci_step_attempts_total{outcome="success",type="execute-shell"} 2`) &&
			strings.Contains(string(b), `distci_builds_finished_total{result="success"} 1`)
	})
	w := l.worker("w1", "--metrics", "127.0.0.1:0")
	l.until("the worker listens", func() bool { return strings.Contains(w.stderr(), "serving metrics at ") })
	address := regexp.MustCompile(`serving metrics at (\S+)`).FindStringSubmatch(w.stderr())[1]
	scrape(t, http.DefaultClient, "http://"+address+"/metrics")
	w.kill()
	l.until("the observer has ended with the worker", func() bool {
		_, err := net.DialTimeout("tcp", address, time.Second)
		return err != nil
	})
	for address, want := range map[string]string{"0.0.0.0:0": "others can reach it", address + "x": "--metrics"} {
		p := l.start("distci-claim", "--metrics", address)
		if status := p.status(); status != 78 && status != 64 || !strings.Contains(p.stderr(), want) {
			t.Errorf("%s: status %d, %s", address, status, p.stderr())
		}
	}
}

// TestToolsAreLight: what is started for every step knows nothing of Prometheus
// and OpenTelemetry.
func TestToolsAreLight(t *testing.T) {
	for _, program := range []string{"claim", "exec", "checkout", "publish", "copy", "buildctl", "init"} {
		cmd := exec.Command("go", "list", "-deps", "github.com/distci/distci/cmd/distci-"+program)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		for s := bufio.NewScanner(strings.NewReader(string(out))); s.Scan(); {
			for _, heavy := range []string{"go.opentelemetry.io/", "github.com/prometheus/", "google.golang.org/"} {
				if strings.HasPrefix(s.Text(), heavy) {
					t.Errorf("distci-%s links %s", program, s.Text())
				}
			}
		}
	}
	if _, err := os.Stat(filepath.Join(bin, "distci-observe")); err != nil {
		t.Error(err)
	}
}

// TestScale: the example that starts workers by the queue's depth would start
// as many as tickets wait that they can take, up to the number, and none that
// run already.
func TestScale(t *testing.T) {
	for _, program := range []string{"sh", "jq"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("there is no %s here", program)
		}
	}
	l := newLab(t)
	l.frontend()
	scale := func(want string, env ...string) {
		t.Helper()
		cmd := exec.Command("sh", "../../examples/monitoring/scale.sh", "-n", "3")
		cmd.Env = append(l.env(), env...)
		out, err := cmd.CombinedOutput()
		var started []string
		for _, m := range regexp.MustCompile(`systemctl start --no-block distci-claim@(\d+)\.service\n`).FindAllStringSubmatch(string(out), -1) {
			started = append(started, m[1])
		}
		if got := strings.Join(started, " "); err != nil || got != want || strings.Count(string(out), "\n") != len(started) {
			t.Errorf("%v: would start %q, want %q: %v: %s", env, got, want, err, out)
		}
	}
	scale("") // nothing waits
	l.shellJob("job", ":")
	l.trigger("job")
	l.trigger("job")
	scale("1 2")
	scale("2 3", "RUNNING=1")
	scale("", "RUNNING=1 2 3")
	scale("", "OFFER=execute_shell_v1") // control tickets wait
	for range 5 {
		l.trigger("job")
	}
	scale("1 2 3", "DISTCI_URL="+l.url())
}
