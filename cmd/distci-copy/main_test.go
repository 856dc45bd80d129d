package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){name: main})
}

func TestScripts(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(server))
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

// server has builds 1 (successful), 2 (failed) and 3 (running) of the job
// "hello". Of "liar" it sends other bytes than it lists; "secret" is not for
// everybody; "red" was never successful.
func server(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	job := parts[1]
	if job == "secret" {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	if job == "broken" {
		http.Error(w, "defect", http.StatusInternalServerError)
		return
	}
	if job != "hello" && job != "liar" && job != "red" {
		http.Error(w, "no such job", http.StatusNotFound)
		return
	}
	results := map[string]string{"1": "success", "2": "failure", "3": ""}
	files := map[string][]byte{"id-0": []byte("#!/bin/sh\necho hello\n"), "id-1": []byte("text"), "id-2": []byte("other")}
	paths := map[string]string{"id-0": "bin/hello", "id-1": "doc/hello.txt", "id-2": "doc/more/other.txt"}
	switch {
	case len(parts) == 3:
		io.WriteString(w, `{"builds": [1, 2, 3], "last_build_number": 3}`)
	case parts[3] > "3":
		http.Error(w, "no such build", http.StatusNotFound)
	case parts[4] == "state":
		state := map[string]string{"status": "complete", "result": results[parts[3]]}
		if state["result"] == "" {
			state["status"] = "running"
		} else if job == "red" {
			state["result"] = "failure"
		}
		json.NewEncoder(w).Encode(map[string]any{"job_id": job, "build_number": parts[3], "state": state})
	case len(parts) == 5:
		list := map[string]any{}
		for id, b := range files {
			sum := sha256.Sum256(b)
			list[id] = map[string]any{"path": strings.Split(paths[id], "/"), "size": len(b), "sha256": hex.EncodeToString(sum[:])}
		}
		json.NewEncoder(w).Encode(map[string]any{"artifacts": list})
	default:
		b := files[path.Base(r.URL.Path)]
		if job == "liar" {
			b = bytes.ToUpper(b)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}
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
