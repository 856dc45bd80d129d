package main

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/distci/distci/lib/fault"
)

func answer(t *testing.T, in string) (out map[string]json.RawMessage, status int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status = run(t.Context(), nil, strings.NewReader(in), &stdout, &stderr)
	if stdout.Len() > 0 {
		if err := json.Unmarshal(stdout.Bytes(), &out); err != nil {
			t.Fatal(err)
		}
	}
	return out, status
}

func TestFilter(t *testing.T) {
	out, status := answer(t, `{"type":"build-control","job_id":"j","build_number":"4","odd":1.50,"params":{"action":"start"},
		"build":{"status":"preparing"},"job":{"job_id":"j","tasks":[{"type":"execute-shell","params":{"script":":"}}]}}`)
	if status != 0 || string(out["odd"]) != "1.50" || !bytes.Contains(out["post"], []byte(`"execute-shell"`)) {
		t.Errorf("status %d, %s", status, out)
	}
	if _, status := answer(t, "make me a sandwich"); status != fault.BadTicket.Status() {
		t.Errorf("no ticket: status %d", status)
	}
}

// TestLight: what makes distci-buildctl slow to start is not in here.
func TestLight(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for heavy := range strings.FieldsSeq("net/http lib/store/s3 lib/store/rados lib/coord/zk lib/coord/local lib/cluster github.com/minio modernc.org/sqlite") {
		if strings.Contains(string(out), heavy) {
			t.Errorf("it links %s", heavy)
		}
	}
}
