package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/distci/distci/test/lab"
)

// TestMain makes this program the command as well, for the tests to start.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){name: main})
}

// process is a running frontend.
type process struct {
	*exec.Cmd
	stderr *lab.Buffer
	done   chan struct{}
}

// start starts a frontend of the cluster that is in a folder.
func start(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(name, args...), stderr: &lab.Buffer{}, done: make(chan struct{})}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "DISTCI_") {
			p.Env = append(p.Env, e)
		}
	}
	p.Env = append(p.Env, "XDG_STATE_HOME="+filepath.Join(dir, "state"), "XDG_CONFIG_HOME="+filepath.Join(dir, "config"))
	p.Stderr = p.stderr
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Process.Kill()
		<-p.done
	})
	return p
}

// status waits for the end of the process.
func (p *process) status() int {
	<-p.done
	return p.ProcessState.ExitCode()
}

// until waits for a condition while the process runs; the limit is for a test
// that hangs.
func (p *process) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		select {
		case <-p.done:
			t.Fatalf("ended with %d, waited for: %s\n%s", p.ProcessState.ExitCode(), what, p.stderr)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s\n%s", what, p.stderr)
		}
	}
}

// serve starts a frontend at a free port.
func serve(t *testing.T, dir string, args ...string) (p *process, url string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "port")
	p = start(t, dir, append([]string{"--listen", "127.0.0.1:0", "--port-file", file}, args...)...)
	p.until(t, "the port's file", func() bool {
		b, err := os.ReadFile(file)
		url = fmt.Sprintf("http://127.0.0.1:%s", strings.TrimSpace(string(b)))
		if err == nil && !bytes.HasSuffix(b, []byte("\n")) {
			t.Errorf("the file was there with %q", b)
		}
		return err == nil
	})
	return p, url
}

// follow begins a build of a job and follows its log, which nobody writes.
func follow(t *testing.T, url string) io.ReadCloser {
	t.Helper()
	send := func(method, path, body string) *http.Response {
		t.Helper()
		req, err := http.NewRequest(method, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		if resp.StatusCode >= 300 {
			t.Fatalf("%s %s: status %d", method, path, resp.StatusCode)
		}
		return resp
	}
	send("PUT", "/jobs/j", `{"job_id":"j","tasks":[{"type":"execute-shell","params":{"script":":"}}]}`)
	send("POST", "/jobs/j/builds", "")
	send("POST", "/jobs/j/builds/1/console", "first\n")
	return send("GET", "/jobs/j/builds/1/console?follow=1", "").Body
}

// TestRefusals: what it does not start with, and with which status.
func TestRefusals(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   string
		status int
		want   string
	}{
		{"--listen 0.0.0.0:0", 78, "--insecure"},
		{"--listen :0", 78, "--insecure"},
		{"--listen [::]:0", 78, "--insecure"},
		{"--listen 192.0.2.1:0", 78, "--insecure"},
		{"--listen example.com:0", 78, "--insecure"},
		{"--listen 127.0.0.1.example.com:0", 78, "--insecure"},
		{"--listen " + taken.Addr().String(), 78, "in use"},
		{"--listen unix:" + file, 78, "in use"},
		{"--listen unix:" + file + "/socket", 78, "--listen"},
		{"--listen nonsense", 64, "host:port"},
		{"--no-such-flag", 64, "--help"},
		{"argument", 64, "argument"},
		{"--grace soon", 64, "soon"},
		{"--listen 127.0.0.1:0 --port-file " + file + "/port", 78, "--port-file"},
		{"--listen 127.0.0.1:0 --coord nowhere:/x", 78, "nowhere"},
		{"--listen 127.0.0.1:0 --store nowhere:/x", 78, "nowhere"},
	} {
		p := start(t, t.TempDir(), strings.Fields(c.args)...)
		if got := p.status(); got != c.status || !strings.Contains(p.stderr.String(), c.want) || !strings.HasPrefix(p.stderr.String(), name+": ") {
			t.Errorf("%s: status %d, want %d, %q: %s", c.args, got, c.status, c.want, p.stderr)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("a file in the socket's place has become %q, %v", b, err)
	}
}

// TestInsecure: with the flag every address is served.
func TestInsecure(t *testing.T) {
	file := filepath.Join(t.TempDir(), "port")
	p := start(t, t.TempDir(), "--insecure", "--listen", ":0", "--port-file", file)
	p.until(t, "it listens", func() bool {
		_, err := os.Stat(file)
		return err == nil
	})
}

// TestSIGTERM: a signal ends it with 0, although somebody follows a log, and
// what he has got by then is whole.
func TestSIGTERM(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		// A follower that is not ended would take the whole grace.
		p, url := serve(t, t.TempDir(), "--grace", "1h")
		lines := bufio.NewReader(follow(t, url))
		if got, err := lines.ReadString('\n'); got != "first\n" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		p.Process.Signal(sig)
		if rest, err := io.ReadAll(lines); len(rest) > 0 || err != nil {
			t.Errorf("%v: the log goes on with %q, %v", sig, rest, err)
		}
		if got := p.status(); got != 0 {
			t.Errorf("%v: status %d: %s", sig, got, p.stderr)
		}
		if resp, err := http.Get(url); err == nil {
			resp.Body.Close()
			t.Errorf("%v: it still answers", sig)
		}
	}
}

// TestGrace: a request that does not end is broken off.
func TestGrace(t *testing.T) {
	dir := t.TempDir()
	p, url := serve(t, dir, "--grace", "50ms")
	follow(t, url).Close()
	body, w := io.Pipe()
	defer w.Close()
	req, err := http.NewRequest("POST", url+"/jobs/j/builds/1/artifacts", body)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			err = fmt.Errorf("status %d", resp.StatusCode)
			resp.Body.Close()
		}
		ended <- err
	}()
	if _, err := io.WriteString(w, "half"); err != nil { // the request is under way
		t.Fatal(err)
	}
	p.until(t, "the upload has begun", func() bool {
		found, _ := filepath.Glob(filepath.Join(dir, "state", "distci", "store", ".tmp", "*"))
		return len(found) > 0
	})
	p.Process.Signal(syscall.SIGTERM)
	if got := p.status(); got != 0 || !strings.Contains(p.stderr.String(), "broken off") {
		t.Errorf("status %d: %s", got, p.stderr)
	}
	w.CloseWithError(io.ErrUnexpectedEOF)
	<-ended
}

// TestSocket: a socket is its owner's alone; one that a killed process has left
// is replaced, one that is served is not.
func TestSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "distci-") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	answers := func() bool {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return false
		}
		defer c.Close()
		fmt.Fprint(c, "GET / HTTP/1.0\r\n\r\n")
		line, _ := bufio.NewReader(c).ReadString('\n')
		return strings.Contains(line, "204")
	}
	first := start(t, dir, "--listen", "unix:"+socket)
	first.until(t, "the socket answers", answers)
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if second := start(t, dir, "--listen", "unix:"+socket); second.status() != 78 {
		t.Errorf("a second one: status %d: %s", second.status(), second.stderr)
	}
	if !answers() {
		t.Error("the second one has taken the socket away")
	}
	first.Process.Kill()
	<-first.done
	third := start(t, dir, "--listen", "unix:"+socket)
	third.until(t, "the socket answers again", answers)
	third.Process.Signal(syscall.SIGTERM)
	if got := third.status(); got != 0 {
		t.Errorf("status %d: %s", got, third.stderr)
	}
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the socket is left")
	}
}
