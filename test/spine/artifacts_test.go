package spine

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distci/distci/lib/ticket"
)

// traffic is what the frontend says that it has carried, by kind.
func (l *lab) traffic() map[string]struct{ In, Out int64 } {
	l.t.Helper()
	resp, err := http.Get(l.url() + "/healthz?verbose")
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	var health struct {
		Traffic map[string]struct{ In, Out int64 }
	}
	if err := json.NewDecoder(resp.Body).Decode(&health); err != nil || len(health.Traffic) == 0 {
		l.t.Fatal(health, err)
	}
	return health.Traffic
}

// TestArtifactsPassTheFrontendBy: what steps publish and copy goes between the
// worker and the store, through the socket of their own build; the frontend
// carries none of it, and the step has no credentials.
func TestArtifactsPassTheFrontendBy(t *testing.T) { inEach(t, testArtifactsPassTheFrontendBy) }

func testArtifactsPassTheFrontendBy(t *testing.T, l *lab) {
	const size = 3_000_000
	frontend := l.frontend()
	l.worker("w")
	l.job(fmt.Sprintf(`{"job_id":"maker","tasks":[
		{"type":"execute-shell","params":{"script":"mkdir out; head -c %d /dev/zero >out/large; printf small >out/small; : >out/empty; printf space >'out/a b'"}},
		{"type":"publish-artifacts","params":{"artifacts":["out/**"]}}]}`, size))
	l.job(fmt.Sprintf(`{"job_id":"taker","tasks":[
		{"type":"copy-artifacts","params":{"job":"maker","artifacts":["*"],"target_directory":"in"}},
		{"type":"execute-shell","params":{"script":"test $(wc -c <in/out/large) = %d; cat in/out/small 'in/out/a b' in/out/empty; test -z \"$DISTCI_TOKEN_FILE$DISTCI_STORE$DISTCI_COORD\""}},
		{"type":"publish-artifacts","params":{"artifacts":["in/**"]}}]}`, size))
	for range 2 {
		for _, job := range []string{"maker", "taker"} {
			if s := l.finished(job, l.trigger(job)); s.Result != ticket.Success {
				t.Fatalf("%+v\n%s", s, l.console(job, 1))
			}
		}
	}
	if log := l.console("taker", 1); !strings.Contains(log, "smallspace") {
		t.Errorf("the log says\n%s", log)
	}
	if got := l.traffic(); got["artifact"].In != 0 || got["artifact"].Out != 0 || got["workspace"].In != 0 || got["workspace"].Out != 0 || got["log"].Out == 0 || got["other"].In == 0 {
		t.Errorf("the frontend has carried %+v", got)
	}

	// People's downloads do pass it, and are counted.
	dir := l.path("here")
	download := exec.Command(filepath.Join(l.bin, "distci-buildctl"), "download", "taker", "2", "--output", dir)
	download.Env = append(l.env(), "DISTCI_URL="+l.url())
	if out, err := download.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "in/out/large")); err != nil || len(b) != size {
		t.Error(len(b), err)
	}
	if got := l.traffic()["artifact"].Out; got < size+int64(len("smallspace")) || got > size+10_000 {
		t.Errorf("%d bytes of artefacts were sent", got)
	}
	resp, err := http.Get(l.url() + "/jobs/taker/builds/2/artifacts?format=zip")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	if z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len())); err != nil || len(z.File) != 4 {
		t.Error(err)
	}
	frontend.Process.Signal(os.Interrupt)
	if status := frontend.status(); status != 0 || !strings.Contains(frontend.stderr(), "served bytes.artifact.in=0 bytes.artifact.out=") {
		t.Errorf("status %d\n%s", status, frontend.stderr())
	}
}
