package worker

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/distci/distci/lib/fault"
)

// TestControlTool: control tickets get the light program that was installed
// with distci-buildctl, wherever that puts it, and else distci-buildctl itself.
func TestControlTool(t *testing.T) {
	for place, want := range map[string]string{
		"bin/distci-control":            "bin/distci-control",         // as go build makes them
		"bin/libexec/distci-control":    "bin/libexec/distci-control", // as make does
		"libexec/distci/distci-control": "libexec/distci/distci-control",
		"elsewhere/distci-control":      "bin/distci-buildctl",
	} {
		dir := t.TempDir()
		for _, name := range []string{place, "bin/distci-buildctl"} {
			file := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte("#!/bin/sh\n"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		tools := &Tools{Path: []string{filepath.Join(dir, "none"), filepath.Join(dir, "bin")}}
		args, err := tools.Command(controlType)
		if err != nil || args[0] != filepath.Join(dir, want) {
			t.Errorf("%s: %q, %v", place, args, err)
		}
		if offer := tools.Offer(); len(offer) != 1 || offer[0] != "build_control_v1" {
			t.Errorf("%s: offers %q", place, offer)
		}
	}
	if _, err := (&Tools{}).Command(controlType); fault.Of(err) != fault.MissingTool {
		t.Errorf("without tools: %v", err)
	}
}
