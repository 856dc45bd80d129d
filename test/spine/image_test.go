package spine

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/test/rootfs"
)

// layout makes an OCI layout of one layer, the tree, with a configuration.
func (l *lab) layout(tree string, config map[string]any) string {
	l.t.Helper()
	dir := l.path("layout")
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		l.t.Fatal(err)
	}
	type object = map[string]any
	put := func(content []byte, typ string) object {
		digest := fmt.Sprintf("%x", sha256.Sum256(content))
		if err := os.WriteFile(filepath.Join(blobs, digest), content, 0o644); err != nil {
			l.t.Fatal(err)
		}
		return object{"mediaType": "application/vnd.oci.image." + typ, "digest": "sha256:" + digest, "size": len(content)}
	}
	document := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			l.t.Fatal(err)
		}
		return b
	}
	tar, err := exec.Command("tar", "-C", tree, "-cf", "-", ".").Output()
	if err != nil {
		l.t.Fatal(err)
	}
	layer := put(tar, "layer.v1.tar")
	conf := put(document(object{"os": "linux", "architecture": runtime.GOARCH, "config": config,
		"rootfs": object{"type": "layers", "diff_ids": []any{layer["digest"]}}}), "config.v1+json")
	manifest := put(document(object{"schemaVersion": 2, "config": conf, "layers": []any{layer}}), "manifest.v1+json")
	for name, v := range map[string]any{"index.json": object{"schemaVersion": 2, "manifests": []any{manifest}}, "oci-layout": object{"imageLayoutVersion": "1.0.0"}} {
		if err := os.WriteFile(filepath.Join(dir, name), document(v), 0o644); err != nil {
			l.t.Fatal(err)
		}
	}
	return dir
}

// TestImageVariables: a step has the variables of its image, below those of the
// worker and its own. The image's user and folder do not count.
func TestImageVariables(t *testing.T) {
	rootfs.Need(t)
	l := newLab(t)
	l.containers()
	k, err := makeKit()
	if err != nil {
		t.Fatal(err)
	}
	tree := l.path("tree")
	script := "cp -a " + k.root + " " + tree + ` && cd ` + tree + ` && mkdir -p opt/bin && printf '#!/bin/sh\necho "WHO=$WHO LAST=$LAST HOME=$HOME in $(pwd) as $(id -u)"\n' >opt/bin/tell && chmod 755 opt/bin/tell`
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	layout := l.layout(tree, map[string]any{"Env": []string{"PATH=/opt/bin:/bin", "WHO=image", "HOME=/root", "LAST=a=b"}, "User": "0", "WorkingDir": "/opt", "Cmd": []string{"false"}})
	images := l.path("images")
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(filepath.Join(l.bin, "distci-lxc"), args...)
		cmd.Env = append(l.env(), "DISTCI_IMAGES="+images)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("distci-lxc %q: %v: %s", args, err, out)
		}
		return string(out)
	}
	run("image", "import", "tools", layout)
	for want, args := range map[string][]string{
		"WHO=image LAST=a=b HOME=/root in / as 1000\n": {"--image", "tools", "--", "tell"},
		"WHO=me LAST=a=b HOME=/root in / as 1000\n":    {"--image", "tools", "--env", "WHO=you", "--env", "WHO=me", "--", "tell"},
	} {
		if got := run(args...); got != want {
			t.Errorf("by hand: %q, want %q", got, want)
		}
	}
	l.sandbox = []string{"DISTCI_SANDBOX=lxc", "DISTCI_IMAGES=" + images}
	l.frontend()
	l.worker("w")
	l.job(`{"job_id": "j", "tasks": [
		{"type": "execute-shell", "params": {"script": "tell"}},
		{"type": "execute-shell", "env": {"WHO": "job"}, "params": {"script": "tell"}}]}`)
	n := l.trigger("j")
	s, console := l.finished("j", n), l.console("j", n)
	for _, want := range []string{"WHO=image LAST=a=b HOME=/tmp in /workspace as 1000\n", "WHO=job LAST=a=b HOME=/tmp in /workspace as 1000\n"} {
		if s.Result != ticket.Success || !strings.Contains(console, want) {
			t.Errorf("%s, not %q:\n%s", s.Result, want, console)
		}
	}
}
