package spine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/status/statustest"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/test/rootfs"
)

// published is where people reach the frontends, as they are told.
const published = "https://ci.example.org"

// upstream is a repository whose main branch has moved on since the commit that
// is pushed, and which has a pull request that no branch leads to.
type upstream struct {
	dir, pushed, pull string
}

func newUpstream(t *testing.T) upstream {
	t.Helper()
	u := upstream{dir: filepath.Join(t.TempDir(), "hello.git")}
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", u.dir}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@e", "GIT_COMMITTER_NAME=c", "GIT_COMMITTER_EMAIL=c@e")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	commit := func(content string) string {
		t.Helper()
		if err := os.WriteFile(filepath.Join(u.dir, "hello.txt"), []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		git("add", "hello.txt")
		git("commit", "-q", "-m", content)
		return git("rev-parse", "HEAD")
	}
	if err := os.Mkdir(u.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	git("init", "-q", "-b", "main")
	u.pushed = commit("what was pushed")
	git("checkout", "-q", "--detach")
	u.pull = commit("what was proposed")
	git("update-ref", "refs/pull/7/head", u.pull)
	git("update-ref", "refs/merge-requests/7/head", u.pull)
	git("checkout", "-q", "main")
	commit("what came later")
	return u
}

// hookLab is a cluster with a job for what a forge sends.
type hookLab struct {
	*lab
	forge    string
	api      *statustest.Forge
	upstream upstream
	url      string // of the hook
	secret   string // the file with its secret
	vault    vault
}

func newHookLab(t *testing.T, forge, script string) *hookLab {
	l := &hookLab{lab: newLab(t), forge: forge, api: statustest.New(t, forge), upstream: newUpstream(t), vault: newVault(t)}
	l.vault.grant("hello", "FORGE_TOKEN")
	if err := os.WriteFile(filepath.Join(l.vault.dir, "hello", "FORGE_TOKEN"), []byte(statustest.Token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	port := l.path("port")
	l.start("distci-frontend", "--listen", "127.0.0.1:0", "--port-file", port, "--url", published)
	l.until("the frontend listens", func() bool {
		b, err := os.ReadFile(port)
		if err != nil {
			return false
		}
		base := "http://127.0.0.1:" + strings.TrimSpace(string(b))
		l.url = base + "/hooks/" + forge + "/hello"
		l.Client, err = client.New(base, client.Options{})
		return err == nil
	})
	b, err := os.ReadFile("../../examples/webhooks/hello.json")
	if err != nil {
		t.Fatal(err)
	}
	var j map[string]any
	if err := json.Unmarshal(bytes.Replace(b, []byte("REPOSITORY"), []byte(l.upstream.dir), 1), &j); err != nil {
		t.Fatal(err)
	}
	j["status"] = map[string]any{"forge": forge, "url": l.api.URL, "secret": "FORGE_TOKEN"}
	if script != "" {
		j["tasks"].([]any)[1].(map[string]any)["params"] = map[string]any{"script": script}
	}
	config, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	l.job(string(config))
	l.secret = l.path("secret")
	out, err := l.command("distci-buildctl", "hook", "create", "hello", "--forge", forge).Output()
	if err == nil {
		err = os.WriteFile(l.secret, out, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *hookLab) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(l.bin, program), args...)
	cmd.Env = l.env()
	return cmd
}

func (l *hookLab) claim(name string) { l.worker(name, "--secrets", l.vault.dir) }

// deliver sends a delivery by the script of the example.
func (l *hookLab) deliver(ref, commit, message string) string {
	l.t.Helper()
	out, err := exec.Command("../../examples/webhooks/deliver.sh", l.forge, l.url, l.secret, "octo/hello", ref, commit, message).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// told waits until the forge was told so many things, and returns them.
func (l *hookLab) told(n int) (said []string, all []statustest.Status) {
	l.t.Helper()
	for {
		told, news := l.api.Told()
		if len(told) >= n {
			for _, s := range told {
				said = append(said, s.State)
			}
			return said, told
		}
		select {
		case <-news:
		case <-l.t.Context().Done():
			l.t.Fatalf("told %v", told)
		}
	}
}

// quiet waits until no ticket is left.
func (l *hookLab) quiet() {
	l.t.Helper()
	l.until("no ticket is left", func() bool {
		ids, err := l.Tasks(l.t.Context())
		return err == nil && len(ids) == 0
	})
}

// TestWebhooks: from the signed delivery over HTTP to the build of the right
// commit of a real repository, and back to the forge, for each forge.
func TestWebhooks(t *testing.T) {
	for forge, words := range map[string][3]string{
		"github": {"pending", "success", "failure"}, "gitlab": {"running", "success", "failed"}, "gitea": {"pending", "success", "failure"},
	} {
		t.Run(forge, func(t *testing.T) {
			l := newHookLab(t, forge, `echo "$CI_EVENT/$CI_REPOSITORY/$CI_BRANCH: $CI_MESSAGE"; git rev-parse HEAD; cat hello.txt; test "$CI_EVENT" = push`)
			l.claim("w")
			if out := l.deliver("refs/heads/main", l.upstream.pushed, `$(touch pwned) ; exit 1 <b>`); !strings.Contains(out, `"build_number":1,"url":"`+published+`/ui/jobs/hello/builds/1"`) {
				t.Fatal(out)
			}
			if s := l.finished("hello", 1); s.Result != ticket.Success {
				t.Fatalf("%+v\n%s", s, l.console("hello", 1))
			}
			log := l.console("hello", 1)
			for _, want := range []string{"push/octo/hello/main: $(touch pwned) ; exit 1 <b>\n", l.upstream.pushed + "\nwhat was pushed\n"} {
				if !strings.Contains(log, want) {
					t.Errorf("the log does not say %q:\n%s", want, log)
				}
			}
			said, all := l.told(2)
			if len(said) != 2 || said[0] != words[0] || said[1] != words[1] {
				t.Errorf("told %v", said)
			}
			for _, s := range all {
				if s.Repository != "octo/hello" || s.Commit != l.upstream.pushed || s.Context != "distci/hello" || s.Target != published+"/ui/jobs/hello/builds/1" {
					t.Errorf("%+v", s)
				}
			}
			// A pull request, whose head no branch leads to; its build fails.
			if out := l.deliver("refs/pull/7/head", l.upstream.pull, "try"); !strings.Contains(out, `"build_number":2`) {
				t.Fatal(out)
			}
			if s := l.finished("hello", 2); s.Result != ticket.Failure || !strings.Contains(l.console("hello", 2), l.upstream.pull+"\nwhat was proposed\n") {
				t.Errorf("%+v\n%s", s, l.console("hello", 2))
			}
			if said, all = l.told(4); len(said) != 4 || said[2] != words[0] || said[3] != words[2] || all[3].Commit != l.upstream.pull {
				t.Errorf("told %+v", all)
			}
			// A build of a person's tells nothing, nor does what is not wanted.
			l.finished("hello", l.trigger("hello"))
			if out := l.deliver("refs/heads/wip", l.upstream.pushed, "try"); !strings.Contains(out, "does not match the job's triggers.branches") {
				t.Error(out)
			}
			l.quiet()
			if said, _ := l.told(0); len(said) != 4 {
				t.Errorf("told %v", said)
			}
		})
	}
}

// TestStatusOrder: a forge that is slow to take the beginning is not told the
// end before, by no worker; and no build waits for it.
func TestStatusOrder(t *testing.T) {
	l := newHookLab(t, "github", "true")
	hold := make(chan struct{})
	l.api.Answer(statustest.Answer{Hold: hold})
	l.claim("one")
	l.claim("two")
	l.deliver("refs/heads/main", l.upstream.pushed, "try")
	l.until("the forge is being told", func() bool { return l.api.Held() == 1 })
	if s := l.finished("hello", 1); s.Result != ticket.Success {
		t.Fatalf("%+v", s)
	}
	// Another build comes and goes, and so do its statuses.
	other := l.upstream.pull
	l.deliver("refs/heads/main", other, "try")
	l.finished("hello", 2)
	_, all := l.told(2)
	for _, s := range all {
		if s.Commit != other {
			t.Errorf("told %+v while the beginning is still being told", s)
		}
	}
	close(hold)
	l.quiet()
	var said []string
	_, all = l.told(4)
	for _, s := range all {
		if s.Commit == l.upstream.pushed {
			said = append(said, s.State)
		}
	}
	if strings.Join(said, " ") != "pending success" {
		t.Errorf("told %v", said)
	}
}

// TestStatusTrouble: what a forge refuses, or is too broken for, costs the build
// nothing, and the token is nowhere.
func TestStatusTrouble(t *testing.T) {
	l := newHookLab(t, "gitea", "")
	l.job(fmt.Sprintf(`{"job_id": "hello", "status": {"forge": "gitea", "url": %q, "secret": "FORGE_TOKEN"},
		"tasks": [{"type": "execute-shell", "params": {"script": %s}}]}`, l.api.URL, quote("until [ -e "+l.outside("go")+" ]; do sleep 0.05; done")))
	l.api.Answer(statustest.Answer{Code: 500}, statustest.Answer{Code: 429, Header: http.Header{"Retry-After": {"1"}}})
	w := l.worker("w", "--secrets", l.vault.dir, "--jobs", "2")
	l.deliver("refs/heads/main", l.upstream.pushed, "try")
	l.told(1)
	l.api.Answer(statustest.Answer{Code: 401, Body: `{"message": "` + statustest.Token + `"}`})
	if err := os.WriteFile(l.outside("go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s := l.finished("hello", 1); s.Result != ticket.Success {
		t.Fatalf("%+v", s)
	}
	l.quiet()
	if said, _ := l.told(0); len(said) != 1 || said[0] != "pending" || l.api.Asked() != 4 {
		t.Errorf("told %v, asked %d times", said, l.api.Asked())
	}
	said := w.stderr()
	for _, want := range []string{"out of order (500)", "too many requests (429)", "refuses the token", "octo/hello", "***"} {
		if !strings.Contains(said, want) {
			t.Errorf("the worker did not say %q:\n%s", want, said)
		}
	}
	if strings.Contains(said, statustest.Token) {
		t.Errorf("the worker said\n%s", said)
	}
	state, err := json.Marshal(l.state("hello", 1))
	if err != nil || bytes.Contains(state, []byte(statustest.Token)) || strings.Contains(l.console("hello", 1), statustest.Token) {
		t.Errorf("the token is in the record or the log: %s, %v", state, err)
	}
}

// TestForgedStatus: a ticket that somebody posts does not make a worker send a
// job's secret to an address of his.
func TestForgedStatus(t *testing.T) {
	l := newHookLab(t, "github", "true")
	thief := statustest.New(t, "github")
	l.claim("w")
	l.deliver("refs/heads/main", l.upstream.pushed, "try")
	l.finished("hello", 1)
	l.told(2)
	forged := fmt.Sprintf(`{"type": "commit-status", "capabilities": ["commit_status_v1"], "status": "pending", "job_id": "hello", "build_number": "1",
		"secrets": ["FORGE_TOKEN"], "params": {"forge": "github", "url": %q, "repository": "o/r", "commit": %q, "context": "c", "state": "success",
		"description": "", "target": "", "secret": "FORGE_TOKEN"}}`, thief.URL, l.upstream.pushed)
	resp, err := http.Post(strings.Split(l.url, "/hooks/")[0]+"/tasks", "application/json", strings.NewReader(forged))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatal(resp.Status)
	}
	l.quiet()
	if said, _ := thief.Told(); len(said) > 0 || thief.Asked() > 0 {
		t.Error("the thief was told")
	}
	if said, _ := l.told(0); len(said) != 2 {
		t.Errorf("told %v", said)
	}
}

// TestStatusFromContainer: where steps are in containers, so is what tells the
// forge; it has the network, and the token of its job.
func TestStatusFromContainer(t *testing.T) {
	rootfs.Need(t)
	l := newHookLab(t, "gitlab", "")
	l.job(fmt.Sprintf(`{"job_id": "hello", "status": {"forge": "gitlab", "url": %q, "secret": "FORGE_TOKEN"},
		"tasks": [{"type": "execute-shell", "params": {"script": "test ! -e /run/distci/secrets"}}]}`, l.api.URL))
	l.containerWorkers()("w", "--secrets", l.vault.dir)
	l.deliver("refs/tags/v1", l.upstream.pushed, "no tags are wanted")
	l.deliver("refs/heads/main", l.upstream.pushed, "try")
	if s := l.finished("hello", 1); s.Result != ticket.Success {
		t.Fatalf("%+v\n%s", s, l.console("hello", 1))
	}
	l.quiet()
	if said, _ := l.told(1); said[len(said)-1] != "success" {
		t.Errorf("told %v", said)
	}
}
