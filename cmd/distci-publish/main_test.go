package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/distci/distci/lib/api"
	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/cluster"
	"github.com/distci/distci/lib/tool"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){name: main})
}

func TestScripts(t *testing.T) {
	srv := httptest.NewServer(server(t))
	t.Cleanup(srv.Close) // after the scripts, which are parallel
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			for _, dir := range []string{"STATE", "CONFIG"} {
				e.Setenv("XDG_"+dir+"_HOME", filepath.Join(e.WorkDir, "."+dir))
			}
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("TMPDIR", os.TempDir())
			e.Setenv("SERVER", srv.URL)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": status},
	})
}

// server is the project's own, with build 1 of the job "hello"; the job
// "full" has no space for artefacts, and "secret" is not for everybody.
func server(t *testing.T) http.Handler {
	dir := t.TempDir()
	cl, err := cluster.Open(t.Context(), cluster.Options{Coord: "local:" + dir + "/coord.db", Store: "dir:" + dir + "/store", Log: tool.NewLog("test", io.Discard)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	real := api.New(cl.Repo, api.Options{})
	c := client.Over(real)
	t.Cleanup(c.Close)
	ctx := context.Background()
	if err := c.PutJob(ctx, "hello", []byte(`{"job_id": "hello", "tasks": [{"type": "execute-shell", "params": {"script": "true"}}]}`)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Trigger(ctx, "hello"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/jobs/full/"):
			http.Error(w, "no space left", http.StatusInsufficientStorage)
		case strings.HasPrefix(r.URL.Path, "/jobs/secret/") && r.Header.Get("Authorization") != "Bearer s3cret":
			http.Error(w, "who are you?", http.StatusUnauthorized)
		default:
			real.ServeHTTP(w, r)
		}
	})
}

// status N command... runs a command and asserts its exit status. Standard
// input is the file "in".
func status(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("sh", append([]string{"-c", `"$@" <in; s=$?; echo "exit status $s" >&2; exit $s`, "sh"}, args[1:]...)...)
	_ = err // it is in the text
	if out := ts.ReadFile("stdout"); strings.Count(out, "\n") > 1 {
		ts.Fatalf("more than one line on standard output:\n%s", out)
	}
	if got := ts.ReadFile("stderr"); !strings.HasSuffix(got, "exit status "+args[0]+"\n") {
		ts.Fatalf("want exit status %s:\n%s", args[0], got)
	}
}
