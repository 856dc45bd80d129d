package repo

import (
	"strings"
	"testing"

	"github.com/distci/distci/lib/ticket"
)

// TestManifestOfALostAttempt: what an attempt has published that was lost
// before its commit is not the build's.
func TestManifestOfALostAttempt(t *testing.T) {
	r, _ := open(t)
	ctx := t.Context()
	if err := r.PutJob(ctx, "j", []byte(`{"job_id":"j"}`)); err != nil {
		t.Fatal(err)
	}
	b, err := r.Trigger(ctx, "j", nil)
	if err != nil {
		t.Fatal(err)
	}
	id, a, err := r.PutArtifact(ctx, "j", b.Number, "", strings.NewReader("bytes"))
	if err != nil || a.Size != 5 {
		t.Fatal(a, err)
	}
	lost := &ticket.Ticket{JobID: "j", BuildNumber: b.Number, Step: "0", Artifacts: map[string][]string{id: {"file"}}}
	if err := r.keepArtifacts(ctx, lost); err != nil {
		t.Fatal(err)
	}
	if m, err := r.manifest(ctx, "j", b.Number, "0", lost); err != nil || len(m) != 1 || m[id].SHA256 != a.SHA256 {
		t.Errorf("of the attempt itself: %v, %v", m, err)
	}
	next := &ticket.Ticket{JobID: "j", BuildNumber: b.Number, Step: "0"}
	if err := next.Set(countField, 1); err != nil { // a tool may say anything
		t.Fatal(err)
	}
	if err := r.keepArtifacts(ctx, next); err != nil {
		t.Fatal(err)
	}
	if m, err := r.manifest(ctx, "j", b.Number, "0", next); err != nil || len(m) != 0 {
		t.Errorf("of the next attempt, which published nothing: %v, %v", m, err)
	}
}
